"""Strangers' text made safe to show: on a terminal, in a message, in a cell of a table.

A trace is a file that travels, and so are results and questions. What they say of themselves may hold control codes
that a terminal obeys, marks that turn the direction of a line, or what a spreadsheet takes for a formula.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Formatting characters that words are written with: joiners of Indic and Persian scripts and of emoji, the marks that
# place punctuation beside Hebrew and Arabic, and the soft hyphen.
_IN_WORDS = "\u200c\u200d\u200e\u200f\u061c\u00ad"
_FORMULA = re.compile(r"[\s]*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def visible(text: str, keep: str = "") -> str:
    """`text` with its control codes, line breaks but those in `keep`, direction marks and lone surrogates as escapes
    such as \\x1b: what is left only writes characters."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if _acts(c) and c not in keep else c for c in text)


def on_terminal(text: str) -> str:
    """An answer as it may be printed: `visible`, its line breaks and tabs kept."""
    return visible(text.replace("\r\n", "\n"), keep="\n\t")


def brief(text: object, limit: int = 200) -> str:
    """What a message quotes of a file: on one line, without a full stop at its end, and not at any length."""
    text = visible(str(text)[: 4 * limit]).rstrip(".")
    return text if len(text) <= limit else text[:limit] + " …"


def cell(value: Any) -> Any:
    """A cell of a CSV file. Text that a spreadsheet would run as a formula gets an apostrophe before it, as
    spreadsheets themselves write it; numbers stay numbers, and None is an empty cell."""
    if not isinstance(value, str):
        return "" if value is None else value
    value = visible(value)
    return f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV (RFC 4180), every cell made safe by `cell`."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([cell(name) for name in head])
    writer.writerows([cell(value) for value in row] for row in rows)
    return out.getvalue()


def _acts(c: str) -> bool:
    kind = unicodedata.category(c)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and c not in _IN_WORDS)


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")
