"""Where what ships with the program lies: the drafter, the n-gram, questions, recorded traces and results."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
