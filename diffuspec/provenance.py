"""Where a measurement comes from: which models, which machine, which versions, which code."""

from __future__ import annotations

import datetime
import functools
import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import diffuspec
from diffuspec.cores import usable_cores

PACKAGE = Path(__file__).parent
DTYPES = ("int8", "float32", "bfloat16")  # that a pair can compute in


@dataclass(frozen=True)
class PairInfo:
    """Which models made a trace. context: tokens the target can hold; max_draft: largest k; ngram: edition of the
    embedded pair's fitted n-gram (traces that do not say have the first), 0 for none, -1 for one of the user's own;
    drafter_edition: of a block drafter's weights, "" where a trace does not say; calibration: digest of what mended its
    probabilities, "" for nothing."""

    name: str
    target: str
    drafter: str
    drafter_kind: str
    dtype: str
    device: str
    context: int
    max_draft: int
    ngram: int = 1
    drafter_edition: str = ""
    calibration: str = ""


@dataclass(frozen=True)
class Provenance:
    """Where and when something was measured. versions: of python, torch, transformers and, under "diffuspec", of this
    program (files older than its 0.2 do not say)."""

    recorded_at: str
    machine: str
    threads: int
    versions: dict[str, str]


@functools.cache
def machine() -> str:
    """Processor, with the GPU before it where there is one, and the number of cores."""
    import torch  # late: a trace is looked at without it

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    if torch.cuda.is_available():
        name = f"{torch.cuda.get_device_name()}, {name}"
    return f"{name}, {usable_cores()} cores"


@functools.cache
def versions() -> dict[str, str]:
    """Of this program and of what decides how fast it is."""
    import torch
    import transformers

    return {
        "diffuspec": diffuspec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def provenance() -> Provenance:
    """Of what is measured now."""
    import torch

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Provenance(recorded_at=now, machine=machine(), threads=torch.get_num_threads(), versions=versions())


@functools.cache
def fingerprint(*parts: str) -> str:
    """Of Python files, and of folders of them, named from the package's folder: the code that decides how fast and how
    well a run does. What Python and numba keep beside them is none of it."""
    files: list[Path] = []
    for part in parts:
        path = PACKAGE / part
        found = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        files += found
    return _digest((str(file.relative_to(PACKAGE)), file) for file in files)


@functools.cache
def weights_fingerprint(*paths: Path) -> str:
    """Of files, and of all that folders hold: the weights that a measurement was made with."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return _digest((file.name, file) for file in files if file.is_file())


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
