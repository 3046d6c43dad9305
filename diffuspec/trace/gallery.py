"""The recorded traces that come along: what each is, and what to look at.

`assets/traces/gallery.yaml` lists them in the order of the gallery; `python -m diffuspec record` makes them anew.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diffuspec.assets import ASSETS
from diffuspec.errors import TraceError
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace

TRACES = ASSETS / "traces"
MANIFEST = "gallery.yaml"


@dataclass(frozen=True)
class Recorded:
    """One recorded trace. name: its file without `.jsonl.gz`; look: a sentence on what to look at;
    group: "tasks" or "failures"; settings: knobs that differ from the defaults."""

    name: str
    title: str
    group: str
    prompt: str
    look: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def all_settings(self) -> Settings:
        return Settings.from_mapping(self.settings)


class Gallery(Sequence[Recorded]):
    """The recorded traces of a folder; each is read when it is first asked for, and then kept."""

    def __init__(self, folder: Path = TRACES):
        self.folder = folder
        manifest = folder / MANIFEST
        entries = yaml.safe_load(manifest.read_text(encoding="utf-8")) if manifest.is_file() else []
        self._entries = tuple(Recorded(**entry) for entry in entries)
        self._by_name = {entry.name: entry for entry in self._entries}
        self._read = functools.cache(Trace.load)

    def __getitem__(self, index):
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def named(self, name: str) -> Recorded:
        """Raises `TraceError` for a name that is not in the manifest."""
        if name not in self._by_name:
            raise TraceError(f"There is no recorded trace {name!r}. Recorded: {', '.join(self._by_name)}.")
        return self._by_name[name]

    def path(self, name: str) -> Path:
        return self.folder / f"{self.named(name).name}.jsonl.gz"

    def trace(self, name: str) -> Trace:
        """Raises `TraceError` where the file is missing or damaged."""
        return self._read(self.path(name))

    def name_of(self, trace: Trace) -> str | None:
        """Name of a trace that is one of these, read from whichever copy of its file."""
        for entry in self:
            if entry.prompt != trace.prompt:
                continue
            try:
                mine = self.trace(entry.name)
            except TraceError:
                continue
            if mine.provenance == trace.provenance and mine.token_ids == trace.token_ids:
                return entry.name
        return None


@functools.cache
def gallery() -> Gallery:
    """The one of this checkout, shared by all visitors."""
    return Gallery()
