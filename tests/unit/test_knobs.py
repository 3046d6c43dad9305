"""Which knobs of the page are live under which choices, and what its presets are."""

from __future__ import annotations

import pytest

from diffuspec.measure.methods import METHODS
from diffuspec.settings import PRESETS, Settings
from diffuspec.ui.shell.knobs import preset_knobs, to_settings, without_effect


def why(**changes):
    return without_effect(Settings().to_dict() | changes)


def live(**changes):
    return {name for name, said in why(**changes).items() if not said}


def test_a_tree_has_its_own_knobs():
    tree = {"nodes", "copy", "followers"}
    assert not live() & tree and "beam" in live()
    assert live(search="tree") >= tree and "beam" not in live(search="tree")
    assert why()["nodes"] == "only with path search tree"


@pytest.mark.parametrize("proxy", ["context", "none"])
def test_followers_need_a_fitted_ngram(proxy):
    assert "followers" not in live(search="tree", proxy=proxy)
    assert "followers" in live(search="tree", proxy="ngram")


def test_a_choice_is_made_in_one_list():
    assert {"length", "search"} <= live(length="fixed", search="argmax")
    assert "k" in live(length="fixed") and not {"k_min", "k_max", "delta"} & live(length="fixed")
    assert why(length="fixed")["k_min"] == "not with length policy fixed"
    assert not {"beam", "tau", "m_max", "lam", "proxy"} & live(search="argmax")
    assert why()["confidence"] == "only with length policy confidence, failfast or predicted"


def test_what_only_sampling_asks_for_is_greyed_at_temperature_0():
    sampling = {"top_k", "top_p", "rule", "seed"}
    assert {name: why()[name] for name in sampling} == dict.fromkeys(sampling, "only at a temperature above 0")
    assert sampling <= live(temperature=0.7)


def test_every_knob_is_live_somewhere():
    anywhere = live() | live(search="tree", temperature=1.0) | live(length="fixed") | live(length="confidence")
    assert anywhere == set(Settings.knobs())


def test_a_preset_sets_how_drafts_are_made_and_leaves_the_answer():
    names = set(preset_knobs())
    assert not names & {"temperature", "seed", "max_new_tokens", "top_p"}
    assert all(set(entry.changes) <= names for entry in PRESETS.values())
    made = {name: Settings(**entry.changes) for name, entry in PRESETS.items()}
    assert len(set(made.values())) == len(made) and made["default"] == Settings()


def test_fastest_is_what_race_and_measure_run(monkeypatch):
    """The engine gets the same settings from the preset as from the method `throughput`, whatever the page has."""
    got = []

    class Engine:
        def __init__(self, pair, settings):
            got.append(settings)

        def stream(self, ids):
            return self

    monkeypatch.setattr("diffuspec.engine.DiffuSpec", Engine)
    METHODS["throughput"].start(None, Settings(), ())
    assert got == [to_settings(Settings().to_dict() | dict(PRESETS["fastest"].changes))]
