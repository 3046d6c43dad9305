"""Checkpoints from the Hugging Face Hub, fetched before they are loaded, so that how far it is can be told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import DryRunError, GatedRepoError, RepositoryNotFoundError
from tqdm.std import tqdm

from diffuspec.errors import WeightsError
from diffuspec.models.target import told

Progress = Callable[[float | None, str], None]

NEEDED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
OLDER = ("*.bin",)  # of checkpoints without safetensors
TWICE = ("original/*", "consolidated*", "onnx/*")  # the same weights in other forms
SPARE = 2 * 10**8  # bytes to be left on the disk


def download(source: str | Path, progress: Progress) -> None:
    """Fetch what a Hub id's checkpoint is loaded from into the Hub's cache; a folder, or what is there, costs nothing.

    Whatever `progress` raises ends the download; what was fetched is kept, and the next call goes on from there.
    Raises `WeightsError` where the model is gated or missing, where the disk is too small, and where the connection
    broke. A Hub out of reach is not told here: what lies in the cache may do.
    """
    if Path(source).exists():
        return
    what = f"The model {source}"
    try:
        files = snapshot_download(source, allow_patterns=[*NEEDED, *OLDER], ignore_patterns=list(TWICE), dry_run=True)
    except (OSError, ValueError) as error:
        why = error.__cause__ if isinstance(error, DryRunError) else error
        if isinstance(why, GatedRepoError | RepositoryNotFoundError):
            with told(what):
                raise why from None
        return  # no id, or no network: the loader finds words for it
    safe = any(file.filename.endswith(".safetensors") for file in files)
    files = [file for file in files if file.will_download and not (safe and file.filename.endswith(".bin"))]
    total = sum(file.file_size or 0 for file in files)
    if not files:
        return
    free = shutil.disk_usage(_existing(Path(constants.HF_HUB_CACHE))).free
    if total + SPARE > free:
        raise WeightsError(
            f"{what} takes {total / 1e9:.1f} GB on the disk, where {free / 1e9:.1f} GB are free: free some space, or "
            "name another folder in HF_HOME."
        )
    progress(0.0, f"Fetching {source}, {total / 1e9:.1f} GB")
    with told(what):
        snapshot_download(
            source,
            allow_patterns=[file.filename for file in files],
            tqdm_class=_bars(lambda done: progress(done / max(total, 1), _how_far(source, done, total))),
        )


def _how_far(source: str | Path, done: int, total: int) -> str:
    return f"Fetching {source}: {done / 1e9:.1f} of {total / 1e9:.1f} GB"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _bars(heard: Callable[[int], None]) -> type[tqdm]:
    """A class of progress bars that draw nothing and tell the bytes that came; the Hub makes several of them."""

    class Bar(tqdm):
        def __init__(self, *args, **options):
            self.counts_bytes = options.get("unit") == "B"
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n=1):
            if self.counts_bytes and n:
                self.n += n
                heard(int(self.n))

    return Bar
