"""Files are written as a whole or not at all; devices and pipes are written as they are."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from diffuspec import codec


def test_a_new_file_and_a_replaced_one_leave_nothing_else(tmp_path):
    path = tmp_path / "out"
    codec.write(path, b"one")
    codec.write(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(tmp_path) == ["out"]


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    codec.write(link, b"new")
    assert link.is_symlink() and path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    codec.write(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_pipe_gets_the_bytes_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    codec.write(pipe, b"through")
    reader.join(10)
    assert heard == [b"through"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_never_replaced():
    before = os.stat("/dev/null").st_ino
    codec.write("/dev/null", b"gone")
    assert os.stat("/dev/null").st_ino == before and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left"):
        codec.write("/dev/full", b"too much")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


FULL = """
import resource, sys
from diffuspec import codec
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    codec.write(sys.argv[1], b"x" * 5000)
except OSError as error:
    print(error.strerror)
"""


def test_where_the_bytes_do_not_fit_the_old_file_stays(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True)
    assert done.stdout.strip() == "File too large", done.stderr
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]


def test_two_writers_never_mix(tmp_path):
    path = tmp_path / "out"
    whole = [bytes([letter]) * 100_000 for letter in b"abcd"]
    writers = [threading.Thread(target=lambda b=b: [codec.write(path, b) for _ in range(5)]) for b in whole]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert path.read_bytes() in whole and os.listdir(tmp_path) == ["out"]


@dataclass(frozen=True)
class Sample:
    ids: Annotated[np.ndarray, np.int32, 2]
    maybe: Annotated[np.ndarray, np.float32, 1] | None = None
    name: str = "none"


def test_arrays_are_rebuilt_as_their_fields_declare():
    made = codec.decode(Sample, {"ids": [[1, 2], [3, 4]], "maybe": [0.5, None], "younger": 1}, "sample")
    assert made.ids.dtype == np.int32 and made.ids.tolist() == [[1, 2], [3, 4]] and made.name == "none"
    assert made.maybe.dtype == np.float32 and np.isnan(made.maybe[1])
    assert codec.decode(Sample, {"ids": [], "maybe": None}, "sample").ids.shape == (0, 0)
    for wrong in ([1, 2], [[1], [2, 3]], [[0.5]], [[2**40]], [["1"]], [[None]], [[True]], {"a": 1}, "x"):
        with pytest.raises(ValueError, match="sample.ids"):
            codec.decode(Sample, {"ids": wrong}, "sample")
    with pytest.raises(ValueError, match="sample.ids is missing"):
        codec.decode(Sample, {}, "sample")


def test_lines_are_those_that_are_not_blank():
    assert list(codec.lines(b"\n a\n\n \nb\r\nc")) == [b" a", b"b\r", b"c"]
