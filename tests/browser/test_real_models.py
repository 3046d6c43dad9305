"""The page on the real embedded pair, as a visitor meets it: a real server, a real browser."""

import json
import math
import os
import re
import shutil
import time

import pytest
from playwright.sync_api import expect, sync_playwright

from diffuspec import DiffuSpec, Settings
from diffuspec.engine import Run
from diffuspec.measure.baselines import compare_with_ar

HOSTILE = "Repeat: <img src=x onerror=window.pwned=1> ${window.pwned=2} {{window.pwned=3}} </script>"


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    assert found, "Chromium is missing: install it (Debian: apt-get install chromium) or name it in CHROMIUM."
    return found


@pytest.fixture(scope="module")
def site(embedded_pair):
    """(url of a playground on the embedded pair, the recorded trace on its first paint)."""
    from diffuspec.ui.page import build, launch_options
    from diffuspec.ui.shell.host import Host

    trace = DiffuSpec(embedded_pair, Settings(max_new_tokens=24)).run("List three animals that live in the sea.")
    trace = trace.with_baseline(compare_with_ar(embedded_pair, trace))
    demo = build(Host(load=lambda dtype, progress: embedded_pair), trace)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield url, trace
    demo.close()


@pytest.fixture(scope="module")
def chrome():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visitor(chrome, site):
    """A fresh page with the recorded trace drawn; fails on script errors and on any request to elsewhere."""
    context = chrome.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    astray, errors = [], []
    page.on("request", lambda r: astray.append(r.url) if not is_local(r.url) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site[0])
    expect(page.locator("#step-label")).to_contain_text("Step")
    yield page
    context.close()
    assert not astray
    assert not errors


def is_local(url: str) -> bool:
    return url.startswith(("data:", "blob:", "about:")) or bool(
        re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]", url)
    )


def label(page) -> str:
    return page.locator("#step-label").inner_text()


def set_max_tokens(page, count: int) -> None:
    box = page.locator("#knob-max_new_tokens input[type=number]")
    if box.is_hidden():
        page.locator("#settings[data-ready] > button").click()
    box.fill(str(count))
    box.press("Tab")


def run(page, prompt: str, tokens: int) -> None:
    set_max_tokens(page, tokens)
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#run").click()


def finished(page) -> None:
    expect(page.locator("[data-badge]")).to_have_text("measured here", timeout=120_000)
    expect(page.locator("#merits [data-merit=verdict]")).to_contain_text("identical", timeout=120_000)
    expect(page.locator("#run")).to_be_enabled(timeout=120_000)


def test_first_paint_shows_the_recorded_run(visitor, site):
    trace = site[1]
    assert f"of {len(trace.steps)}" in label(visitor)
    expect(visitor.locator("#merits")).to_contain_text(f"{trace.tokens_per_step:.2f}")
    expect(visitor.locator("#merits")).to_contain_text(f"{trace.accepted_per_step:.2f}")
    shown = visitor.locator("#text").inner_text()
    assert trace.text.split()[0] in shown and trace.text.split()[-1] in shown


def test_a_run_answers_as_plain_decoding_and_says_so(visitor, embedded_pair):
    prompt = "What colour is the sky on a clear day?"
    run(visitor, prompt, 16)
    finished(visitor)
    expected = DiffuSpec(embedded_pair, Settings(max_new_tokens=16)).run(prompt)
    assert f"of {len(expected.steps)}" in label(visitor)
    for word in expected.text.split()[:3]:
        expect(visitor.locator("#text")).to_contain_text(word)
    expect(visitor.locator("#merits")).to_contain_text(f"{expected.tokens_per_step:.2f}")
    expect(visitor.locator("#merits [data-merit=speedup]")).to_contain_text("measured here")


def test_a_rejected_cell_tells_why_with_the_recorded_numbers(visitor, site):
    trace = site[1]
    index, step = next(
        (i, s)
        for i, s in enumerate(trace.steps)
        if s.accepted < len(s.path) and s.lattice.rank_of(s.accepted, s.emitted[-1]) is None
    )
    visitor.locator("#step-scrub").fill(str(index + 1))
    column, rank = step.accepted, int(step.search.ranks[step.accepted])
    cell = visitor.locator(f'#lattice [data-col="{column}"][data-rank="{rank}"]').first
    cell.click()
    inspector = visitor.locator("#inspector")
    expect(inspector).to_contain_text("Why rejected?")
    expect(inspector).to_contain_text("a drafter miss")
    p_own = float(math.exp(step.verification.top_logp[column][0]))
    expect(inspector).to_contain_text(f"p = {p_own:.2f}")


def test_scrubbing_links_lattice_inspector_and_timeline(visitor, site):
    steps = site[1].steps
    visitor.locator("#step-first").click()
    assert label(visitor).startswith("Step 1 of")
    first = visitor.locator("#lattice").inner_text()
    visitor.locator("#step-next").click()
    assert label(visitor).startswith("Step 2 of")
    assert visitor.locator("#lattice").inner_text() != first
    expect(visitor.locator("#adl")).to_contain_text(f"Step 2: L_gen {steps[1].length.generated}")
    visitor.locator("#step-last").click()
    assert label(visitor).startswith(f"Step {len(steps)} of")
    visitor.locator("#step-prev").click()
    assert label(visitor).startswith(f"Step {len(steps) - 1} of")


def test_the_keyboard_steps_and_leaves_typing_alone(visitor):
    visitor.locator("#step-first").click()
    visitor.keyboard.press("ArrowRight")
    assert label(visitor).startswith("Step 2 of")
    visitor.keyboard.press("Home")
    assert label(visitor).startswith("Step 1 of")
    visitor.locator("#prompt textarea").click()
    visitor.keyboard.press("ArrowRight")
    assert label(visitor).startswith("Step 1 of")


def test_stop_keeps_what_was_made(visitor, monkeypatch):
    step = Run.step

    def slowly(self):  # else a fast machine answers before a busy browser has pressed Stop
        time.sleep(0.05)
        return step(self)

    monkeypatch.setattr(Run, "step", slowly)
    run(visitor, "Tell a very long story about a lighthouse keeper.", 400)
    expect(visitor.locator("[data-run]")).to_contain_text("of 400 …", timeout=60_000)
    expect(visitor.locator("#step-label")).to_contain_text(re.compile(r"of ([4-9]|\d\d)\b"), timeout=60_000)
    visitor.locator("#stop").click()
    expect(visitor.locator("#run")).to_be_enabled(timeout=20_000)
    expect(visitor.locator("#text")).not_to_be_empty()
    total = int(re.search(r"of (\d+)", label(visitor)).group(1))
    assert 4 <= total < 300
    expect(visitor.locator("[data-run]")).to_contain_text("ended by you")


def test_hostile_prompt_and_tokens_stay_text(visitor):
    run(visitor, HOSTILE, 24)
    finished(visitor)
    visitor.locator('[data-toggle="prompt"]').click()
    expect(visitor.locator("#text")).to_contain_text("onerror")
    for step in ("#step-first", "#step-next", "#step-last"):
        visitor.locator(step).click()
    assert visitor.evaluate("window.pwned") is None
    assert visitor.locator("#player img").count() == 0


@pytest.mark.parametrize("prompt, says", [("   ", "prompt is empty"), ("word " * 9000, "Shorten the prompt")])
def test_bad_prompts_are_explained_and_cost_nothing(visitor, site, prompt, says):
    visitor.locator("#prompt textarea").fill(prompt)
    visitor.locator("#run").click()
    expect(visitor.locator("#notice")).to_contain_text(says, timeout=30_000)
    expect(visitor.locator("#run")).to_be_enabled()
    assert f"of {len(site[1].steps)}" in label(visitor)


def test_a_foreign_file_is_refused_and_the_trace_kept(visitor, site, tmp_path):
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text(json.dumps({"hello": "world"}))
    visitor.locator("#trace-file input[type=file]").set_input_files(foreign) if visitor.locator(
        "#trace-file input[type=file]"
    ).count() else visitor.set_input_files("input[type=file]", foreign)
    expect(visitor.locator("#notice")).to_contain_text("holds no trace that can be read")
    assert f"of {len(site[1].steps)}" in label(visitor)


def test_streaming_costs_the_engine_less_than_five_percent(embedded_int8):
    """Heard by a visitor in another process, who draws nothing: what a browser draws on the same cores is its own."""
    from tests.load import streaming

    tokens = 256
    with streaming.served(embedded_int8) as url, streaming.listener(url, tokens) as streamed:
        for _ in range(3):  # other work on the machine in one of them costs more than what is looked for
            rates = streaming.measure({"alone": streaming.alone(embedded_int8, tokens), "streamed": streamed}, 5)
            if rates["streamed"] >= 0.95 * rates["alone"]:
                return
    raise AssertionError(rates)
