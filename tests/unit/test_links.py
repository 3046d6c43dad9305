"""Links restore what they were made from, and hostile ones are refused with a sentence."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuspec import Settings
from diffuspec.errors import PromptError
from diffuspec.ui.shell.links import LONGEST_PROMPT, Link, address, read


def parsed(query: str) -> Link:
    return read(dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True)))


@pytest.mark.parametrize("settings", [Settings(), Settings.paper(), Settings(search="argmax", temperature=0.7, seed=3)])
@pytest.mark.parametrize("prompt", ["Why?", "a & b = c + d # 100 %", "Grüße 🍎\n<script>alert(1)</script> ${x}", ""])
def test_a_link_restores_prompt_and_settings(prompt, settings):
    link = parsed(address(prompt, settings))
    assert link.prompt == prompt and link.problem is None
    assert Settings.from_mapping(link.settings) == settings


def test_only_what_differs_is_in_the_address():
    assert address("x", Settings()) == "?prompt=x"
    assert address("x", Settings(k_max=12)) == "?prompt=x&k_max=12"


def test_a_trace_and_its_step():
    assert parsed("?trace=code&step=5&phase=search") == Link(None, {}, "code", 5, "search")
    assert not parsed("?__theme=dark&utm_source=x")


@pytest.mark.parametrize(
    "query, says",
    [
        ("beam=0", "between 1 and 32"),
        ("beam=three", "not a whole number"),
        ("lam=nan", "not a number"),
        ("k_min=9&k_max=2", "larger than k_max"),
        ("search=<script>", "choose one of"),
        ("step=-1", "not a whole number"),
        ("step=٣", "not a whole number"),
        ("step=1e99", "not a whole number"),
        ("phase=x", "not one of"),
        ("prompt=" + "x" * (LONGEST_PROMPT + 1), "too long"),
        ("max_new_tokens=99999999999999999999", "out of bounds"),
    ],
)
def test_hostile_addresses_say_what_is_wrong(query, says):
    link = parsed(query)
    assert link and says in str(link.problem)
    assert link.prompt is None and not link.settings and link.trace is None


def test_a_prompt_too_long_for_an_address_is_said():
    with pytest.raises(PromptError, match="too long"):
        address("x" * (LONGEST_PROMPT + 1), Settings())


@given(
    st.dictionaries(st.sampled_from([*Settings.knobs(), "prompt", "trace", "step", "phase", "x"]), st.text(max_size=20))
)
def test_any_query_is_read(query):
    link = read(query)
    assert link.problem is None or str(link.problem)
    Settings.from_mapping(link.settings)
