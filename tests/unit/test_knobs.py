"""Which knobs of the page are live under which choices."""

from __future__ import annotations

import pytest

from diffuspec.settings import Settings
from diffuspec.ui.shell.knobs import applies


def live(adl=True, cps=True, **changes):
    values = Settings().to_dict() | changes
    return {name for name, on in applies(adl, cps, values).items() if on}


def test_a_tree_has_its_own_knobs():
    tree = {"nodes", "copy", "followers"}
    assert not live() & tree and "beam" in live()
    assert live(search="tree") >= tree and "beam" not in live(search="tree")
    assert not live(cps=False, search="tree") & tree


@pytest.mark.parametrize("proxy", ["context", "none"])
def test_followers_need_a_fitted_ngram(proxy):
    assert "followers" not in live(search="tree", proxy=proxy)
    assert "followers" in live(search="tree", proxy="ngram")


def test_every_knob_is_live_somewhere():
    anywhere = live() | live(search="tree", temperature=1.0) | live(adl=False) | live(length="confidence")
    assert anywhere == set(Settings.knobs())
