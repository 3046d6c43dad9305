"""The strip above the player and the tour: what they say is true of the run in front, and they go by keyboard."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from diffuspec.trace.gallery import gallery
from diffuspec.ui.player.text import token_label

INTRO = ".ds-intro"


@pytest.fixture(scope="module")
def recorded(serve):
    return serve(gallery().trace("5-question"), pause=0.01)


def shown_step(page):
    return int(re.search(r"step (\d+) of", page.inner_text(f"{INTRO} .ds-pace:nth-child(2) .ds-pace-name"))[1]) - 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_one_screen_answers_what_checks_why_faster_why_the_same(visit, recorded, theme):
    page = visit(recorded, f"?__theme={theme}", viewport={"width": 1366, "height": 768}, reduced_motion="reduce")
    trace = gallery().trace("5-question")
    step = trace.steps[shown_step(page)]
    assert step.accepted > 1
    words = [node.inner_text() for node in page.locator(f"{INTRO} [data-words]").all()]
    assert "diffusion language model fills masked places" in words[0]
    assert f"guessed {step.draft_length} tokens at once" in words[0]
    plain_ms = (trace.baseline.wall_s * 1e3 - trace.baseline.prefill_ms) / len(trace.baseline.token_ids)
    assert f"checking these {len(step.path)} took {step.timing.verify_ms:.1f} ms" in words[1]
    assert f"plain decoding takes {plain_ms:.1f} ms a token" in words[1]
    assert "writes its own" in words[2]
    bottom = page.locator(INTRO).bounding_box()
    assert bottom["y"] + bottom["height"] <= 768 / 2, "the page below it is seen too"
    plain, here = page.locator(f"{INTRO} .ds-pace").all()
    emitted = [token_label(trace, token) for token in step.emitted]
    assert plain.locator(".ds-token").all_inner_texts() == emitted
    assert f"{len(emitted)} passes" in plain.inner_text() and "1 draft, 1 check" in here.inner_text()
    assert here.locator(".ds-tile.accepted").count() == step.accepted
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator(f"{INTRO} [data-honest]")).to_contain_text("SmolLM2-135M-Instruct is small")
    expect(page.get_by_role("link", name="Paper")).to_have_attribute("href", "https://arxiv.org/abs/2510.02358")


def test_still_where_less_motion_is_asked_for(visit, recorded):
    still = visit(recorded, reduced_motion="reduce")
    assert still.locator(f"{INTRO} .ds-to-come").count() == 0
    assert still.locator(f"{INTRO} [data-stage]").get_attribute("data-stage") == "check"
    moving = visit(recorded)
    moving.wait_for_function(
        f"document.querySelector('{INTRO} [data-stage=check]') && !document.querySelector('.ds-to-come')"
    )


def test_it_folds_away_and_stays_folded(visit, recorded):
    page = visit(recorded)
    page.click(f"{INTRO} [data-do=fold]")
    expect(page.locator(f"{INTRO} .ds-intro-body")).to_be_hidden()
    expect(page.locator(f"{INTRO} [data-do=fold]")).to_have_attribute("aria-expanded", "false")
    page.reload()
    page.wait_for_selector("#lattice [data-col]")
    expect(page.locator(f"{INTRO} .ds-intro-body")).to_be_hidden()
    expect(page.locator(f"{INTRO} [data-honest]")).to_be_visible()
    page.click(f"{INTRO} [data-do=fold]")
    expect(page.locator(f"{INTRO} .ds-intro-body")).to_be_visible()


def test_show_me_walks_one_step(visit, recorded):
    page = visit(recorded)
    step = shown_step(page)
    page.click("#step-last")
    page.click(f"{INTRO} [data-do=show]")
    for phase in ("mask", "lattice", "search", "verify", "commit"):
        expect(page.locator(f"#phase-{phase}")).to_have_attribute("aria-checked", "true")
    expect(page.locator("#step-label")).to_contain_text(f"Step {step + 1} of")
    # A key pressed meanwhile takes over.
    page.click(f"{INTRO} [data-do=show]")
    expect(page.locator("#phase-lattice")).to_have_attribute("aria-checked", "true")
    page.wait_for_timeout(100)
    page.keyboard.press("5")
    page.wait_for_timeout(2500)
    expect(page.locator("#phase-commit")).to_have_attribute("aria-checked", "true")


def test_the_tour_goes_by_keyboard(visit, recorded):
    page = visit(recorded)
    stops = page.evaluate("DiffuSpecTour.stops")
    opener = page.locator(f"{INTRO} [data-do=tour]")
    opener.focus()
    page.keyboard.press("Enter")
    card = page.get_by_role("dialog")
    titles, phases = [], []
    for place in range(stops):
        expect(card.locator("[data-count]")).to_have_text(f"{place + 1} of {stops}")
        expect(card).to_be_focused()
        box, view = card.bounding_box(), page.viewport_size
        assert box["y"] >= 0 and box["y"] + box["height"] <= view["height"] and box["x"] + box["width"] <= view["width"]
        titles.append(card.locator("h2").inner_text())
        phases.append(page.locator(".ds-phases [aria-checked=true]").inner_text())
        if place < stops - 1:
            page.keyboard.press("ArrowRight")
    assert len(set(titles)) == stops
    assert [phase for phase in dict.fromkeys(phases[3:])] == ["mask", "lattice", "search", "verify", "commit"]
    page.keyboard.press("ArrowLeft")
    expect(card.locator("[data-count]")).to_have_text(f"{stops - 1} of {stops}")
    page.keyboard.press("Escape")
    expect(card).to_have_count(0)
    expect(opener).to_be_focused()
    opener.click()
    for _ in range(stops):
        card.locator("[data-next]").click()
    expect(card).to_have_count(0)


def test_a_run_opens_at_a_step_that_tells_something(visit, recorded):
    page = visit(recorded, reduced_motion="reduce")
    page.fill("#prompt textarea", "What is the acceleration?")
    page.click("#run")
    expect(page.locator("[data-badge]")).to_have_text("measured here")
    expect(page.locator("#run")).to_be_enabled(timeout=40_000)
    expect(page.locator("[data-merit=verdict]:not([data-state=pending])")).to_be_visible()
    trace, before, now = recorded.runs[-1].trace, None, page.inner_text("#step-label")
    while now != before:  # on a busy machine the last look is drawn after the figures
        page.wait_for_timeout(600)
        before, now = now, page.inner_text("#step-label")
    at = int(re.search(r"Step (\d+)", now)[1]) - 1
    step = trace.steps[at]
    assert 0 < step.accepted < len(step.path), "some of its draft was accepted and some was not"
    cut = [step for step in trace.steps if 1 < step.accepted < len(step.path)]
    assert step.accepted > 1 or not cut
    assert shown_step(page) == at or step.accepted == 1, "the strip tells of the step in front"
    assert page.locator("#lattice [data-col]").count() > len(step.path)
    assert page.locator(f"{INTRO} .ds-pace:first-child .ds-token").all_inner_texts()[0] in [
        token_label(trace, trace.steps[i].emitted[0]) for i in range(len(trace.steps))
    ]


SHIFTS = """() => new Promise((done) => {
  const seen = [];
  const watch = new PerformanceObserver((list) => seen.push(...list.getEntries()));
  watch.observe({ type: "layout-shift", buffered: true });
  const name = ({ node }) => node?.id || node?.className || String(node?.nodeName);
  setTimeout(() => done(seen.map((one) => [one.value, ...one.sources.map(name)])), 300);
})"""


@pytest.mark.parametrize("folded", [False, True])
def test_nothing_moves_while_the_page_comes(visit, recorded, folded):
    page = visit(recorded, viewport={"width": 1366, "height": 768})
    page.evaluate("folded => DiffuSpecTour.remember(folded)", folded)
    page.reload()
    page.wait_for_selector("#adl .plot-container")
    page.wait_for_timeout(1000)
    moved = page.evaluate(SHIFTS)
    assert sum(one[0] for one in moved) < 0.1, moved


def test_a_loop_is_told(visit, serve):
    looping = serve(gallery().trace("repetition"))
    page = visit(looping)
    expect(page.locator("[data-loops]")).to_contain_text("of this text repeats: such text is easier to draft")


def test_axe_finds_nothing_serious_in_the_tour(visit, recorded):
    from tests.browser.conftest import serious

    page = visit(recorded, reduced_motion="reduce")
    page.click(f"{INTRO} [data-do=tour]")
    page.keyboard.press("ArrowRight")
    assert not serious(page)
