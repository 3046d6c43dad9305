"""Traces of other engines: what each of them told, and no more.

`open_trace` finds out what a file or folder is. Files travel, and are hostile until they have been read: sizes are
bounded before anything is parsed, and numbers before anything is made of them.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from diffuspec import codec
from diffuspec.errors import TraceError
from diffuspec.plaintext import brief
from diffuspec.trace import model
from diffuspec.trace.foreign import servers, specspecs

MAX_JSON_BYTES = 64 * 2**20
MAX_LISTS = 500_000
KINDS = (
    "a trace of this program (.jsonl, .jsonl.gz), a folder of specspecs (.parquet), or responses of vLLM, SGLang, "
    "llama.cpp or LM Studio that tell of their speculation (.json, .jsonl)"
)


def open_trace(path: str | Path | list[str | Path], which: int = 0) -> model.Trace:
    """As `Trace.open`; path: also a list of files that belong together. Raises `TraceError`."""
    paths = [Path(one) for one in path] if isinstance(path, list) else [Path(path)]
    try:
        trace = _open(paths, which)
        model.check(trace)
        return trace
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"This trace is damaged: {brief(error)}.") from error


def _open(paths: list[Path], which: int) -> model.Trace:
    if specspecs.is_specspecs(paths):
        return specspecs.open_specspecs(paths, which)
    if len(paths) != 1:
        raise TraceError("Only the .parquet files of specspecs are opened together: open one file.")
    (path,) = paths
    if path.is_dir():
        raise TraceError(f"The folder {path} holds no traces of specspecs (drafts-*.parquet, sequences-*.parquet).")
    data = model.unpacked(model.read_file(path))
    if _is_own(data):
        return model.Trace.loads(data)
    found = servers.read_runs(_bodies(data))
    if not found:
        raise TraceError(f"This file holds no trace that can be read. Known are {KINDS}.")
    if not 0 <= which < len(found):
        raise TraceError(f"There are {len(found)} answers in it, numbered from 1: there is no number {which + 1}.")
    return found[which]()


def _is_own(data: bytes) -> bool:
    """Whether the first line names our format, or is so broken that our reader should say so."""
    first = next(codec.lines(data[: 2**20]), b"")
    return model.FORMAT.encode() in first[:200]


def _bodies(data: bytes) -> list[dict]:
    """The JSON objects of a document, of JSON Lines, or of a stream of events."""
    if len(data) > MAX_JSON_BYTES or data.count(b"[") + data.count(b"{") > MAX_LISTS:
        raise TraceError(f"This file is too large for a server’s response: {MAX_JSON_BYTES >> 20} MB at most.")
    try:
        whole = orjson.loads(data)
        return [body for body in (whole if isinstance(whole, list) else [whole]) if isinstance(body, dict)]
    except orjson.JSONDecodeError:
        pass
    bodies = []
    for line in codec.lines(data):
        line = line.strip().removeprefix(b"data:").strip()
        try:
            body = orjson.loads(line)
        except orjson.JSONDecodeError:
            if line in (b"[DONE]",) or line.startswith((b":", b"event:", b"id:", b"retry:")):
                continue
            raise TraceError(f"This file holds no trace that can be read. Known are {KINDS}.") from None
        if isinstance(body, dict):
            bodies.append(body)
    return bodies
