"""The tables of the documents that are made from the code: `python -m scripts.generated_tables` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffuspec.measure.methods import METHODS
from diffuspec.measure.studies.catalogue import STUDIES
from diffuspec.settings import Settings

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def methods() -> str:
    return table(
        ("method", "on the page", "what it is", "lossless"),
        ((f"`{m.name}`", m.label, m.about, "yes" if m.lossless else "no promise") for m in METHODS.values()),
    )


def studies() -> str:
    return table(
        ("study", "in the paper", "title", "what it asks"),
        ((f"`{s.name}`", s.source, s.title, s.about) for s in STUDIES.values()),
    )


def knobs() -> str:
    return table(
        ("knob", "default", "what it does"),
        ((f"`{name}`", f"`{knob.default}`", knob.meaning) for name, knob in Settings.knobs().items()),
    )


TABLES = {"methods": methods, "studies": studies, "knobs": knobs}


def filled(text: str) -> str:
    """The document with each marked table as the code has it today; raises `KeyError` for a table nobody makes."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


def main() -> None:
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
