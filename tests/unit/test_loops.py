"""An answer that goes round in circles is said to be easier to draft; ordinary text is not."""

from __future__ import annotations

import pytest

from diffuspec.trace.gallery import gallery
from diffuspec.ui.player.text import looping, repeated_share


def test_the_share_is_that_of_the_tokens_in_repeated_runs():
    once = list(range(10))
    assert repeated_share(once) == 0
    assert repeated_share(once + once) == 0.5
    assert repeated_share(once * 4) == 0.75
    # Five tokens alone are no run of six, and what is in two overlapping runs counts once.
    assert repeated_share(once + once[:5]) == 0
    assert repeated_share(once + once[:7]) == pytest.approx(7 / 17)
    assert repeated_share([]) == 0 and repeated_share([1]) == 0


def test_only_a_loop_of_some_length_is_spoken_of():
    once = list(range(20))
    assert looping(once + once) == "Half of this text repeats: such text is easier to draft."
    assert looping(list(range(4)) * 20) == "Nearly all of this text repeats: such text is easier to draft."
    assert looping(once * 3).startswith("67% of this text repeats")
    assert looping(list(range(40)) + list(range(8))) == ""
    assert looping(once[:6] * 3) == "", "too short to tell"


def test_what_the_gallery_says():
    said = {entry.name for entry in gallery() if looping(gallery().trace(entry.name).token_ids)}
    assert "repetition" in said and not said & {"5-question", "code", "1-maths"}
