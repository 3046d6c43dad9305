"""The one way to what comes along: fitted n-grams, the drafter, recorded traces and results.

In a clone the folder `assets` stands beside the package; a wheel holds it inside.
"""

from __future__ import annotations

import functools
from pathlib import Path

from diffuspec.errors import WeightsError
from diffuspec.method.proxy import NGram

PACKAGE = Path(__file__).resolve().parent
BESIDE, INSIDE = PACKAGE.parent / "assets", PACKAGE / "assets"
# What another package keeps beside an installed one under that name is not taken for ours.
ASSETS = BESIDE if (BESIDE / "ngram").is_dir() or not INSIDE.is_dir() else INSIDE
# The one edition of each pair's fitted n-gram that is shipped.
NGRAM_EDITIONS = {"embedded": 3, "coder": 1}


def asset(name: str) -> Path:
    """A file or folder that comes along, by its path from `assets/`; raises `WeightsError` where it is missing."""
    path = ASSETS / name
    if not path.exists():
        raise WeightsError(f"The file assets/{name} is missing. {how_to_restore()}")
    return path


def how_to_restore() -> str:
    """What to do where a file that comes along is missing or damaged, as a sentence."""
    if ASSETS == INSIDE:
        return "Restore it with `pip install --force-reinstall --no-deps` of the DiffuSpec you installed."
    return "Restore it with `git checkout -- assets`."


@functools.cache
def ngram(pair: str) -> NGram:
    """The fitted n-gram of a pair; raises `WeightsError` where its file is missing or damaged."""
    edition = NGRAM_EDITIONS[pair]
    return NGram.load(asset(f"ngram/{edition}.npz" if pair == "embedded" else f"ngram/{pair}-{edition}.npz"))


def drafter() -> Path:
    """Folder of the embedded pair's drafter; raises `WeightsError` where it is missing."""
    return asset("drafter")


def traces() -> Path:
    """Folder of the recorded traces of the gallery, there or not."""
    return ASSETS / "traces"


def results() -> Path:
    """Folder of the recorded studies, there or not."""
    return ASSETS / "results"


def race() -> Path:
    """File of the recorded race, there or not."""
    return ASSETS / "race.json"


def questions() -> Path:
    """File of the questions that are asked where no others are given."""
    return ASSETS / "questions.jsonl"
