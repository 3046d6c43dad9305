"""The QR code of a link, as the page draws it."""

from __future__ import annotations

import pytest

from diffuspec.ui.player.qr import LONGEST, qr_code

FINDER = ("1111111", "1000001", "1011101", "1011101", "1011101", "1000001", "1111111")


def test_a_link_becomes_a_square_with_its_finders_and_a_quiet_zone():
    rows = qr_code("https://example.org/?trace=1-maths&step=7&phase=verify#playground")["rows"]
    side = len(rows)
    assert {len(row) for row in rows} == {side} and set("".join(rows)) == {"0", "1"}
    assert all(set(row) == {"0"} for row in (*rows[:4], *rows[-4:]))
    for top, left in ((4, 4), (4, side - 11), (side - 11, 4)):
        assert tuple(row[left : left + 7] for row in rows[top : top + 7]) == FINDER
    # Versions of a QR code have 17 + 4n squares a side, besides the quiet zone of four.
    assert (side - 8 - 17) % 4 == 0


@pytest.mark.parametrize(
    "address", [None, 7, "", "javascript:alert(1)", "https://example.org/?prompt=" + "a" * LONGEST]
)
def test_anything_else_is_refused_in_a_sentence(address):
    assert set(qr_code(address)) == {"refused"}
