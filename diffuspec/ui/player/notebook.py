"""A trace in a notebook: it displays itself as the player, and is a table for pandas."""

from __future__ import annotations

import json

import pandas

from diffuspec.errors import TraceError
from diffuspec.trace.model import Trace
from diffuspec.ui.player.export import STEP_COLUMNS, TOKEN_COLUMNS, replay_page, step_rows, token_rows

PHASES = ("mask", "lattice", "search", "verify", "commit")
HEIGHT = 860  # px of the frame


class Shown:
    """A trace opened at a step, which a notebook displays."""

    def __init__(self, trace: Trace, at: tuple[int, str] | None = None):
        self.trace, self.at = trace, at

    def __repr__(self) -> str:
        return repr(self.trace)

    def _repr_html_(self) -> str:
        return frame(self.trace, self.at)


def shown(trace: Trace, step: int, phase: str) -> Shown:
    """Raises `TraceError` for a step or phase that there is not."""
    if not 1 <= step <= len(trace.steps):
        raise TraceError(f"This trace has {len(trace.steps)} steps, numbered from 1: there is no step {step}.")
    if phase not in PHASES:
        raise TraceError(f"There is no phase {phase!r}. Phases: {', '.join(PHASES)}.")
    return Shown(trace, (step - 1, phase))


def frame(trace: Trace, at: tuple[int, str] | None = None) -> str:
    """The player in a frame of its own, which reaches neither the notebook nor the network."""
    page = replay_page(trace, at=at, light=True).replace("&", "&amp;").replace("'", "&#x27;")
    return (
        f"<iframe srcdoc='{page}' sandbox='allow-scripts allow-downloads' title='DiffuSpec player' "
        f"style='width: 100%; height: {HEIGHT}px; border: 0'></iframe>"
    )


def dataframe(trace: Trace, tokens: bool) -> pandas.DataFrame:
    columns, rows = (TOKEN_COLUMNS, token_rows(trace)) if tokens else (STEP_COLUMNS, step_rows(trace))
    table = pandas.DataFrame(rows, columns=columns).replace("", None)
    table["text"] = [json.loads(text) for text in table["text"]]  # quoted for spreadsheets
    return table.infer_objects()
