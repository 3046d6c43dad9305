"""Every knob: bounds, parsing, and one clear error for what is wrong."""

from __future__ import annotations

import dataclasses
import math

import pytest

from diffuspec import DiffuSpecError, Settings
from diffuspec.errors import SettingsError

KNOBS = Settings.knobs()
NUMBERS = [name for name, knob in KNOBS.items() if not knob.choices]
CHOICES = [name for name, knob in KNOBS.items() if knob.choices]


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_explains_itself_and_its_default_is_allowed(name):
    knob = KNOBS[name]
    assert knob.name == name and knob.label and len(knob.meaning) > 10 and knob.group
    assert knob.parse(knob.default) == knob.default == getattr(Settings(), name)
    if not knob.choices:
        assert knob.low <= knob.default <= knob.high and knob.step > 0


def test_every_field_is_a_knob():
    assert list(KNOBS) == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("name", NUMBERS)
def test_bounds_are_inclusive_and_nothing_lies_beyond(name):
    knob = KNOBS[name]
    for value in (knob.low, knob.high):
        assert knob.parse(value) == value and isinstance(knob.parse(value), knob.kind)
    for value in (knob.low - knob.step, knob.high + knob.step, -1e30, 1e300):
        with pytest.raises(SettingsError, match="must lie between"):
            knob.parse(value)


@pytest.mark.parametrize("value", [
    math.nan, math.inf, -math.inf, "nan", "inf", "-inf", True, False, None, "", "three", "1,5", [3], {}, "1e400",
    object(), b"\xff", 10**400,
])  # fmt: skip
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize("name", [name for name in NUMBERS if KNOBS[name].kind is int])
def test_a_whole_number_is_one(name):
    knob = KNOBS[name]
    assert knob.parse(f"{knob.default}") == knob.parse(float(knob.default)) == knob.default
    with pytest.raises(SettingsError, match="whole number"):
        knob.parse(knob.low + 0.5)


@pytest.mark.parametrize("value", ["", "ADL ", None, 3, True, [], {}, ["adl"]])
@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_its_words(name, value):
    with pytest.raises(SettingsError, match="choose one of"):
        Settings(**{name: value})


def test_text_from_a_command_line_is_parsed():
    settings = Settings.from_mapping({"tau": "0.75", "beam": "4", "search": "argmax"})
    assert (settings.tau, settings.beam, settings.search) == (0.75, 4, "argmax")


@pytest.mark.parametrize(("spelling", "name"), [("M_max", "m_max"), ("K_MIN", "k_min"), ("Tau", "tau")])
def test_names_are_case_insensitive(spelling, name):
    assert getattr(Settings.from_mapping({spelling: 1}), name) == 1


@pytest.mark.parametrize("name", ["kmax", "gamma", "", "__class__", "k min"])
def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(name):
    with pytest.raises(SettingsError, match="There is no setting.*k_min"):
        Settings.from_mapping({name: 1})


def test_contradictions_are_refused():
    with pytest.raises(SettingsError, match="k_min = 9 is larger than k_max = 8"):
        Settings(k_min=9, k_max=8)
    with pytest.raises(SettingsError, match="k_min"):
        Settings(k_max=8, k_min=2).replace(k_min=9)
    with pytest.raises(SettingsError, match="beam"):
        Settings(beam=0)
    assert Settings(k_min=8, k_max=8).k_min == 8


def test_the_papers_rule_and_a_tree_exclude_each_other_when_sampling():
    Settings(search="tree", rule="paper")
    with pytest.raises(SettingsError, match="not a tree"):
        Settings(search="tree", rule="paper", temperature=0.5)


def test_an_error_is_both_ours_and_a_value_error():
    with pytest.raises(DiffuSpecError):
        Settings(beam=0)
    with pytest.raises(ValueError):
        Settings(beam=0)


def test_settings_cannot_be_changed_and_a_copy_is_checked():
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.beam = 5
    assert settings.replace(beam=5).beam == 5 and settings.beam == 3


def test_the_papers_values():
    paper = Settings.paper()
    expected = dict(k_min=20, k_max=30, delta=10, rho=0.5, m_max=15, tau=0.8, beam=3, lam=0.5, passes=1, length="adl")
    assert {name: getattr(paper, name) for name in expected} == expected
    assert Settings.paper(beam=7).beam == 7


def test_to_dict_and_back():
    settings = Settings.paper(temperature=0.7, seed=5)
    assert Settings.from_mapping(settings.to_dict()) == settings
