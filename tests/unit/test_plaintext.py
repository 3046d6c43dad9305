"""Text of strangers: nothing in it acts, and what is harmless stays as it is."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuspec.plaintext import brief, cell, csv_text, on_terminal, visible


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain words", "plain words"),
        ("été 日本語 ⚙ 👩‍🚀 نمی‌دانم", "été 日本語 ⚙ 👩‍🚀 نمی‌دانم"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("bell\x07 back\x08 delete\x7f", "bell\\x07 back\\x08 delete\\x7f"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),
        ("over\u202etxt.exe", "over\\u202etxt.exe"),
        ("\u2028\u2029\ufeff", "\\u2028\\u2029\\ufeff"),
        ("half \ud83d", "half \\ud83d"),
        ("line\nbreak\r\ttab", "line\\nbreak\\r\\ttab"),
    ],
)
def test_what_acts_is_shown_as_an_escape(text, shown):
    assert visible(text) == shown


def test_an_answer_keeps_its_lines_on_a_terminal():
    assert on_terminal("one\n\ttwo\r\nthree\rfour\x1b]0;title\x07") == "one\n\ttwo\nthree\\rfour\\x1b]0;title\\x07"


def test_a_message_quotes_one_short_line():
    assert brief("a\nb.") == "a\\nb"
    assert brief("x" * 1000) == "x" * 200 + " …"
    assert len(brief("\x1b" * 10_000)) <= 202


@pytest.mark.parametrize(
    "value, written",
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd", "'+cmd"),
        ("-2+3", "'-2+3"),
        (" =1", "' =1"),
        ("＝1", "'＝1"),
        ("\t=1", "\\t=1"),
        ("-0.94", "-0.94"),
        ("+1", "+1"),
        ("-1e-7", "-1e-7"),
        ("-", "'-"),
        ("text", "text"),
        ("\x1b[2J", "\\x1b[2J"),
        (-0.94, -0.94),
        (7, 7),
        (None, ""),
        (True, True),
    ],
)
def test_a_cell_is_no_formula_and_a_number_stays_one(value, written):
    assert cell(value) == written


@given(st.lists(st.lists(st.one_of(st.text(), st.floats(allow_nan=False), st.none()), min_size=2, max_size=2)))
def test_a_table_has_its_rows_and_nothing_that_runs(rows):
    read = list(csv.reader(io.StringIO(csv_text(("a", "b"), rows), newline="")))
    assert len(read) == len(rows) + 1
    for line, row in zip(read[1:], rows, strict=True):
        for got, value in zip(line, row, strict=True):
            if isinstance(value, float):
                assert float(got) == value
            else:
                assert not got.lstrip().startswith(("=", "@")) and not any(ord(c) < 32 or c == "\x7f" for c in got)
