"""Traces as files: opened, saved, and the recorded ones that come along."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import gradio as gr

from diffuspec.errors import DiffuSpecError, TraceError, WeightsError
from diffuspec.trace.gallery import Gallery
from diffuspec.trace.model import Trace
from diffuspec.ui import gradio_internals
from diffuspec.ui.player.export import file_stem, replay_page, steps_csv, tokens_csv
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.notice import message
from diffuspec.ui.shell.shared import Shared, show

# Files for visitors to fetch: gone after so long, and the oldest before that where they would take more room.
HANDED_S, HANDED_BYTES, FETCHED_S = 3600.0, 256 * 2**20, 60.0
_handing = threading.Lock()


def handed_out(name: str) -> Path:
    """Where to write a file that a visitor then fetches: a folder of its own, which lasts `HANDED_S` seconds.

    It lies where Gradio serves files from, so that there is one copy. What earlier visitors, and earlier processes,
    left there is deleted by age, and beyond `HANDED_BYTES` the oldest first, but nothing of the last `FETCHED_S`.
    """
    root = Path(gradio_internals.served_folder()) / "diffuspec"
    folder = root / uuid.uuid4().hex
    with _handing:
        _sweep(root)
        folder.mkdir(parents=True)
    return folder / name


def _sweep(root: Path) -> None:
    now, total = time.time(), 0
    folders = []
    for folder in root.iterdir() if root.is_dir() else ():
        try:
            folders.append((folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir()), folder))
        except OSError:  # another process was quicker
            continue
    for made, size, folder in sorted(folders, key=lambda item: -item[0]):
        total += size
        age = now - made
        if age > HANDED_S or (total > HANDED_BYTES and age > FETCHED_S):
            shutil.rmtree(folder, ignore_errors=True)


def without_folder(error: BaseException, *paths: str) -> str:
    """The words of an error on a visitor's files, without the place where this server keeps them."""
    words = str(error)
    for path in paths:
        words = words.replace(str(Path(path)), Path(path).name).replace(path, Path(path).name)
    return words


# Endings of files that hold traces, ours and other engines'.
ENDINGS = [".jsonl", ".gz", ".json", ".txt", ".parquet"]


def open_trace(shared: Shared, path: str | list[str] | None) -> list[Any]:
    """Show a trace from a file, or from files that belong together, with its prompt and settings.
    -> `Shared.shown`, `Shared.setup`"""
    nothing = [gr.skip()] * (len(shared.shown) + len(shared.setup))
    paths = [path] if isinstance(path, str) else path
    if not paths:
        return nothing
    try:
        trace = Trace.open(paths if len(paths) > 1 else paths[0])
        return [*show(trace), *shared.set_up_as(trace)]
    except DiffuSpecError as error:
        nothing[2] = message(f"{without_folder(error, *paths)} The trace on the page is kept.")
    except Exception as error:
        explain(error)
        nothing[2] = message("This file cannot be shown as a trace. The trace on the page is kept.")
    return nothing


def save_trace(trace: Trace | None):
    """Write the present trace to a file for download. -> download, notice"""
    try:
        return write(trace), message(None)
    except DiffuSpecError as error:
        return gr.skip(), message(str(error))


def write(trace: Trace | None) -> str:
    """The trace in a new temporary folder; gives the file's path."""
    if trace is None:
        raise TraceError("There is no trace yet: run a prompt first.")
    path = handed_out("diffuspec-trace.jsonl.gz")
    trace.save(path)
    return str(path)


# Export formats: name -> (what the button says, ending of the file).
FORMATS = {
    "jsonl-gz": ("JSON Lines, compressed (.jsonl.gz)", ".jsonl.gz"),
    "jsonl": ("JSON Lines (.jsonl)", ".jsonl"),
    "steps": ("Table of steps (.csv)", "-steps.csv"),
    "tokens": ("Table of tokens (.csv)", "-tokens.csv"),
    "page": ("A page that replays it offline (.html)", ".html"),
}


def export(trace: Trace | None, name: str) -> str:
    """The trace in a format of `FORMATS`, in a new temporary folder; gives the file's path."""
    if trace is None:
        raise TraceError("There is no trace yet: run a prompt first.")
    path = handed_out(file_stem(trace) + FORMATS[name][1])
    if name.startswith("jsonl"):
        trace.save(path)
    else:
        made = {"steps": steps_csv, "tokens": tokens_csv, "page": replay_page}[name](trace)
        path.write_text(made, encoding="utf-8", newline="")
    return str(path)


def recorded(folder: Path) -> tuple[Trace | None, str | None]:
    """The first recorded trace of a folder, in the order of its gallery, that can be read, and what is wrong where
    none can."""
    said = None
    listed = [folder / f"{entry.name}.jsonl.gz" for entry in Gallery(folder)]
    found = sorted(folder.glob("*.jsonl.gz"))
    for path in [*(path for path in listed if path in found), *(path for path in found if path not in listed)]:
        try:
            return Trace.load(path), None
        except DiffuSpecError as error:
            said = f"The recorded trace {path.name} cannot be shown. {error}"
    return None, said or str(
        WeightsError("No recorded trace in assets/traces. Restore it with `git checkout -- assets`, or run a prompt.")
    )
