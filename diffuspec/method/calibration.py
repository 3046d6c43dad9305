"""Probabilities mended by what was seen to happen: a temperature for each column, and a rising map for tree nodes.

    q'_i(v) ~ q_i(v)^(1 / T_i)                    (Guo et al., arXiv 1706.04599), the mass of all tokens that are not
                                                  candidates raised likewise, as one
    P'(node) = g(P(node))                         g isotonic (Zadrozny and Elkan 2002)

The first sharpens or flattens a draft before it is searched. The second leaves the order of nodes as it is, and tells a
tree's budget how many tokens they are worth. Both are fitted on a pair's own answers by `diffuspec diagnose`. Neither
changes a token of the answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import orjson

from diffuspec import codec
from diffuspec.errors import DiffuSpecError, SettingsError

FORMAT, VERSION, MAX_BYTES = "diffuspec-calibration", 1, 1 << 20
COLDEST, HOTTEST = 0.05, 20.0
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Calibration:
    """temperatures: float64 [columns], the last holds for all behind it; x, y: float64, of g, straight lines between,
    from 0 to 1, x rising and y never falling. target, drafter: of the pair it was fitted on."""

    temperatures: Annotated[np.ndarray, np.float64, 1]
    x: Annotated[np.ndarray, np.float64, 1]
    y: Annotated[np.ndarray, np.float64, 1]
    target: str = ""
    drafter: str = ""

    def tempered(self, logq: np.ndarray) -> np.ndarray:
        """log q' float32 of log q [k, W]."""
        k = len(logq)
        if not k:
            return logq
        at = self.temperatures[np.minimum(np.arange(k), len(self.temperatures) - 1)][:, None]
        log = np.asarray(logq, np.float64)
        rest = np.log(np.maximum(1.0 - np.exp(log).sum(1, keepdims=True), _SMALLEST)) / at
        log = log / at
        top = np.maximum(log.max(1, keepdims=True), rest)
        norm = top + np.log(np.exp(log - top).sum(1, keepdims=True) + np.exp(rest - top))
        return np.minimum(log - norm, 0.0).astype(np.float32)

    def kept(self, p: np.ndarray | float) -> np.ndarray | np.floating:
        """g(p)."""
        return np.interp(p, self.x, self.y)

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"".join(part.tobytes() for part in (self.temperatures, self.x, self.y))).hexdigest()[:12]

    def to_json(self) -> bytes:
        return codec.encode({"format": FORMAT, "version": VERSION, **vars(self)})

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Raises `SettingsError` on anything that is not one."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES)
        except OSError as error:
            raise SettingsError(f"Cannot read {path}: {error.strerror or error}.") from error
        try:
            document = orjson.loads(data)
            if document["format"] != FORMAT or document["version"] != VERSION:
                raise ValueError
            found = codec.decode(cls, document, "calibration")
            temperatures, x, y = found.temperatures, found.x, found.y
            holds = (
                len(temperatures)
                and bool(((COLDEST <= temperatures) & (temperatures <= HOTTEST)).all())
                and len(x) == len(y) >= 2
                and x[0] == 0
                and x[-1] == 1
                and bool((np.diff(x) > 0).all() and (np.diff(y) >= 0).all() and y[0] >= 0 and y[-1] <= 1)
            )
            if not holds:
                raise ValueError
        except (ValueError, KeyError, TypeError, DiffuSpecError) as error:
            raise SettingsError(
                f"{path} is not a calibration: `diffuspec diagnose --fit-calibration` makes one."
            ) from error
        return found
