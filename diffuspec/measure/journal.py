"""A measurement's memory: an append-only file, one JSON line a finished question.

The first line is the *key*: everything that must be equal for two halves of a measurement to belong
together. A process killed in the middle of a line leaves a torn tail, which the next one cuts off.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffuspec import codec
from diffuspec.errors import ResultsError
from diffuspec.measure.results import Measured

PACKAGE = Path(__file__).parents[1]


class Journal:
    """What a measurement has finished, kept on disk.

    results: question id -> one `Measured` a variant, of the questions measured so far; skipped: question id -> why
    it, or a later turn of it, could not be asked.

    Raises `ResultsError` where the file was begun under another key, or is in use.
    """

    def __init__(self, path: Path, key: dict[str, Any]):
        self.path = path
        self.results: dict[str, tuple[Measured, ...]] = {}
        self.skipped: dict[str, str] = {}
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ResultsError(f"Another process is measuring into {path}: wait for it or write elsewhere.") from None
        except OSError as error:
            raise ResultsError(f"Cannot write to {path}: {error.strerror or error}.") from error
        try:
            self._open(json.loads(json.dumps(key)))
        except OSError as error:
            self._lock.release()
            raise ResultsError(f"Cannot write to {path}: {error.strerror or error}.") from error
        except ResultsError:
            self._lock.release()
            raise

    def _open(self, key: dict[str, Any]) -> None:
        whole = self.path.read_bytes() if self.path.exists() else b""
        lines = whole[: whole.rfind(b"\n") + 1].splitlines()
        if lines:
            try:
                found, *entries = [json.loads(line) for line in lines]
                self._check(found["key"], key)
                for entry in entries:
                    rows = codec.decode(tuple[Measured, ...], entry["rows"], "rows")
                    self.results[str(entry["question"])] = rows
                    if "skipped" in entry:
                        self.skipped[str(entry["question"])] = str(entry["skipped"])
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, ResultsError):
                    raise
                raise ResultsError(
                    f"{self.path} is damaged ({error!r}): delete it, or begin anew with --restart."
                ) from error
        self._file = self.path.open("r+b" if whole else "wb")
        self._file.truncate(sum(len(line) + 1 for line in lines))
        self._file.seek(0, os.SEEK_END)
        if not lines:
            self._write({"key": key})

    def _check(self, found: dict[str, Any], key: dict[str, Any]) -> None:
        for name, wanted in key.items():
            if found.get(name) != wanted:
                what = _how_different(name, found.get(name), wanted)
                raise ResultsError(
                    f"{self.path} holds results of another measurement: {what}. "
                    "Measure as before, name another output, or begin anew with --restart."
                )

    def append(self, question: str, rows: Sequence[Measured], skipped: str | None = None) -> None:
        """On disk before this returns."""
        self.results[question] = tuple(rows)
        entry = {"question": question, "rows": [dataclasses.asdict(row) for row in rows]}
        if skipped:
            self.skipped[question] = entry["skipped"] = skipped
        self._write(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _how_different(name: str, found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        inner = next(k for k in [*wanted, *found] if found.get(k) != wanted.get(k))
        return _how_different(f"{name}.{inner}", found.get(inner), wanted.get(inner))
    return f"{name} was {found}, now it is {wanted}"
