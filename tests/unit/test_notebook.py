"""A trace in a notebook: a small page of its own, and tables."""

from __future__ import annotations

import dataclasses
import html
import json
import re

import pytest

from diffuspec import Trace
from diffuspec.errors import TraceError
from diffuspec.trace.gallery import gallery


def page_of(shown) -> str:
    return html.unescape(re.search(r"srcdoc='([^']*)'", shown._repr_html_())[1])


def body_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="trace">(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="module")
def trace():
    return gallery().trace("code")


def test_a_trace_displays_itself_in_less_than_a_megabyte_and_without_an_address(trace):
    made = trace._repr_html_()
    assert len(made.encode()) < 10**6 and "sandbox='allow-scripts" in made
    page = page_of(trace)
    assert "Plotly.js" not in page and "plotly.js v" not in page
    assert not re.search(r"(src|href)=.?https?:", page)
    body = body_of(page)
    assert len(body["steps"]) == len(trace.steps) and all("detail" in step for step in body["steps"])
    assert repr(trace).startswith(f"<Trace: {trace.new_tokens} tokens in {len(trace.steps)} steps")


def test_a_long_run_keeps_the_lattices_next_to_the_step_shown(trace):
    steps = trace.steps * 12
    starts, position = [], 0
    for index, step in enumerate(steps):
        starts.append(dataclasses.replace(step, index=index, start=position))
        position += len(step.emitted)
    long = dataclasses.replace(trace, steps=tuple(starts))
    shown = long.show(step=150, phase="lattice")
    assert len(shown._repr_html_().encode()) < 10**6
    body = body_of(page_of(shown))
    kept = [i for i, step in enumerate(body["steps"]) if "detail" in step]
    assert 149 in kept and 100 < len(kept) < len(steps) and kept == list(range(kept[0], kept[-1] + 1))
    assert body["at"] == {"step": 149, "phase": "lattice"}


def test_a_step_or_phase_that_there_is_not_is_refused(trace):
    for step, phase, says in (
        (0, "verify", "no step 0"),
        (10**6, "verify", "numbered from 1"),
        (1, "x", "no phase 'x'"),
    ):
        with pytest.raises(TraceError, match=says):
            trace.show(step=step, phase=phase)


def test_tables_have_the_traces_figures(trace):
    steps = trace.to_dataframe()
    assert steps["accepted"].tolist() == [step.accepted for step in trace.steps]
    assert steps["verify_ms"].sum() == pytest.approx(trace.stage_ms()["verify"], abs=0.1)
    tokens = trace.to_dataframe(tokens=True)
    assert tokens["token"].tolist() == list(trace.token_ids)
    assert "".join(tokens["text"][tokens["token"] != 2]) == trace.text
    assert 0 < tokens["target_p"].mean() <= 1
    empty = Trace.loads(dataclasses.replace(trace, steps=(), text="").dumps())
    assert len(empty.to_dataframe()) == len(empty.to_dataframe(tokens=True)) == 0


def test_no_text_of_a_trace_can_leave_its_frame(trace):
    hostile = dataclasses.replace(trace, prompt="'><script>alert(1)</script>", text="' onload='x")
    made = hostile._repr_html_()
    assert re.fullmatch(r"<iframe srcdoc='[^']*' [^>]*></iframe>", made, re.S)
    assert "<script>alert(1)" not in page_of(hostile)
