"""The playground in a real browser, on scripted models (fake.py)."""

from __future__ import annotations

import io
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from diffuspec.errors import WeightsError
from diffuspec.settings import PRESETS, Settings
from diffuspec.trace.model import Trace
from diffuspec.ui.player.payload import RECENT, payload
from tests.browser.conftest import HOSTILE, HOSTILE_SCRIPT
from tests.fakes.scripted import FakePair, fake_trace

IDS = (
    "prompt run stop text merits step-first step-prev step-next step-last step-play lattice inspector adl acceptance "
    "knob-k knob-k_min knob-k_max knob-beam knob-tau knob-m_max knob-lam knob-delta knob-rho knob-max_new_tokens "
    "knob-length knob-search preset dtype compare notice trace-file trace-download"
).split()
DONE = "[data-merit=verdict]:not([data-state=pending])"
STATE = "[data-run]"
WHY = "#merits [data-why-speed]"


def top(page, selector: str) -> float:
    """Pixels from the top of the page, however it is scrolled."""
    return page.evaluate("s => document.querySelector(s).getBoundingClientRect().top + scrollY", selector)


def step_number(page) -> int:
    return int(re.match(r"Step (\d+) of", page.inner_text("#step-label")).group(1))


def steps_shown(page) -> int:
    return int(re.search(r"of (\d+)", page.inner_text("#step-label")).group(1))


def run(page, prompt="What is the acceleration?"):
    page.fill("#prompt textarea", prompt)
    page.click("#run")
    expect(page.locator("[data-badge]")).to_have_text("measured here")


def finish(page):
    expect(page.locator("#run")).to_be_enabled(timeout=40_000)
    expect(page.locator(DONE)).to_be_visible()


def test_first_paint_shows_the_recorded_trace(visit, site):
    page = visit(site)
    for elem_id in IDS:
        assert page.locator(f"[id='{elem_id}']").count() == 1, elem_id
    assert page.inner_text("#text").startswith("To find the car's acceleration")
    expect(page.locator("[data-badge]")).to_contain_text("recorded 2026-11-23")
    expect(page.locator("[data-merit=verdict]")).to_contain_text("identical")
    expect(page.locator("#adl .plot-container")).to_be_visible()
    expect(page.locator("#acceptance .plot-container")).to_be_visible()


def test_characters_split_over_tokens_are_whole(visit, site):
    page = visit(site)
    unit = page.locator("#text .ds-unit", has_text="é").first
    assert unit.inner_text() == "é"
    assert "one character out of 2 tokens" in unit.get_attribute("title")
    assert "\ufffd" not in page.inner_text("#text")


def test_run_streams_and_is_compared_with_ar(visit, site):
    page = visit(site)
    site.compared.clear()
    run(page)
    expect(page.locator(STATE)).to_contain_text(re.compile(r"\d+ tokens? of 128 …"))
    early = len(page.inner_text("#text"))
    expect(page.locator("[data-merit=verdict]")).to_contain_text("measuring plain AR")
    assert len(page.inner_text("#text")) > early
    assert page.inner_text(WHY) == ""
    stands = top(page, "#text")
    site.compared.set()
    finish(page)
    expect(page.locator("[data-merit=verdict]")).to_contain_text("128 of 128 tokens")
    made = page.inner_text("[data-mat=tokens]")
    expect(page.locator(WHY)).to_contain_text(re.compile(rf"(Faster|Slower|About as fast): a step made {made} tokens"))
    assert top(page, "#text") == stands
    expect(page.locator("[data-merit=speedup]")).to_contain_text("×")
    expect(page.locator("[data-merit=speedup]")).to_contain_text("measured here")
    made = site.runs[-1].trace
    assert steps_shown(page) == len(made.steps)
    # Every step can be looked at, whatever the browser dropped while streaming.
    for index in range(0, len(made.steps) - 1, 7):
        page.evaluate(
            "i => { const s = document.querySelector('#step-scrub'); s.value = i + 1;"
            " s.dispatchEvent(new Event('input', {bubbles: true})); }",
            index,
        )
        assert page.locator("#lattice [data-col]").count() > 0
        assert page.locator("#lattice .ds-cell.path").count() == len(made.steps[index].path)


def test_bfloat16_shows_the_first_difference_and_its_gap(visit, site):
    page = visit(site)
    unfold(page)
    page.click("#dtype label:has-text('bfloat16')")
    run(page)
    finish(page)
    expect(page.locator("[data-merit=verdict]")).to_have_attribute("data-state", "differs")
    expect(page.locator("[data-merit=verdict]")).to_contain_text("at token 17")
    expect(page.locator("[data-merit=verdict]")).to_contain_text("logit gap 0.004")


def test_steps_by_button_scrubber_token_and_keyboard(visit, site):
    page = visit(site)
    last = steps_shown(page)
    page.click("#step-first")
    assert step_number(page) == 1 and page.locator("#step-prev").is_disabled()
    page.click("#step-next")
    assert step_number(page) == 2
    page.click("#step-last")
    assert step_number(page) == last and page.locator("#step-next").is_disabled()
    page.locator("#text [data-step='4']").first.click()
    assert step_number(page) == 5
    page.locator("#step-label").click()
    page.keyboard.press("ArrowRight")
    assert step_number(page) == 6
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    assert step_number(page) == 1
    page.keyboard.press("End")
    assert step_number(page) == last
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    expect(page.locator("#step-play")).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("document.querySelector('#step-label').textContent.startsWith('Step 3 ')")
    page.keyboard.press("Space")
    expect(page.locator("#step-play")).to_have_attribute("aria-pressed", "false")
    page.click("#step-first")
    page.focus("#prompt textarea")
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert step_number(page) == 1


def test_a_step_is_told_by_keyboard_alone(visit, site):
    page = visit(site)
    # From the play button on: Tab reaches the phases, arrows choose one; Tab reaches the lattice, arrows its cells.
    page.focus("#step-play")
    page.keyboard.press("Home")
    assert step_number(page) == 1
    for _ in range(12):
        if page.evaluate("document.activeElement.id").startswith("phase-"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("1")
    expect(page.locator("#phase-mask")).to_have_attribute("aria-checked", "true")
    for phase in ("lattice", "search", "verify"):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#phase-{phase}")).to_have_attribute("aria-checked", "true")
        assert page.inner_text("[data-story]")
    for _ in range(20):
        if page.evaluate("Boolean(document.activeElement.closest('#lattice [data-col]'))"):
            break
        page.keyboard.press("Tab")
    before = page.inner_text("#inspector h2")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#inspector h2") != before
    assert step_number(page) == 1
    assert page.locator("#inspector .ds-why").inner_text()


@pytest.mark.parametrize("width", [820, 1024, 1440])
def test_figures_of_merit_stay_in_their_cards(visit, site, width):
    page = visit(site, viewport={"width": width, "height": 768})
    over = page.locator("#merits .ds-card").evaluate_all(
        "cards => cards.filter(card => card.scrollWidth > card.clientWidth).map(card => card.dataset.merit)"
    )
    assert not over


def test_a_run_that_is_over_at_the_first_look_shows_a_step_that_was_sent(visit, site):
    """While plain AR is measured, only the last steps are there in full."""
    trace = fake_trace(k_min=2, k_max=4, max_new_tokens=128)
    first = len(trace.steps) - RECENT
    assert first > 8
    step, cells = visit(site).evaluate(
        """text => {
            const root = document.querySelector(".ds-player").cloneNode(true);
            document.body.append(root);
            DiffuSpecPlayer.mount(root, { plotly: () => Promise.resolve({}) }).update(text);
            const label = root.querySelector("#step-label").textContent.match(/\\d+/)[0];
            return [Number(label), root.querySelectorAll("[data-lattice] .ds-cell").length];
        }""",
        payload(trace, "one", detail_from=first, figures=False),
    )
    assert step > first and cells > 0


def test_phases_tell_the_step_in_order(visit, site):
    page = visit(site)
    counts = {}
    for phase in ("mask", "lattice", "search", "verify", "commit"):
        page.click(f"#phase-{phase}")
        counts[phase] = {
            mark: page.locator(f"#lattice {mark}").count()
            for mark in (".masked", ".path", ".accepted, #lattice .rejected", ".ds-target", ".ds-out")
        }
    assert counts["mask"][".masked"] > 0 and counts["mask"][".path"] == 0
    assert counts["lattice"][".masked"] == 0 and counts["lattice"][".path"] == 0
    assert counts["search"][".path"] > 0 and counts["search"][".ds-target"] == 0
    assert counts["verify"][".ds-target"] > 0 and counts["verify"][".ds-out"] == 0
    assert counts["commit"][".ds-out"] > 0


@pytest.fixture(scope="module")
def misses():
    """(trace, step index of a search miss, of a drafter miss, of a pruning miss) among scripted runs."""
    trace = fake_trace(k_min=4, k_max=14, max_new_tokens=128)
    found = {}
    for step in trace.steps:
        at = step.verification.accepted
        if at >= len(step.path):
            continue
        rank = step.lattice.rank_of(at, step.verification.draws[at])
        if rank is None:
            found.setdefault("drafter", step.index)
        elif not step.lattice.kept[at, rank]:
            found.setdefault("pruned", step.index)
        elif step.search.proxy_logp[at, rank] == step.search.proxy_logp[at, rank]:
            found.setdefault("search", step.index)
    return trace, found


def test_why_a_cell_was_rejected(visit, site, misses):
    trace, found = misses
    page = visit(site)
    assert set(found) == {"search", "drafter", "pruned"}
    expected = {"search": "a search miss, not a drafter miss", "drafter": "a drafter miss", "pruned": "but was pruned"}
    for kind, index in found.items():
        step = trace.steps[index]
        at = step.verification.accepted
        page.locator(f"#text [data-step='{index}']").first.click()
        assert step_number(page) == index + 1
        page.locator(f"#lattice [data-col='{at}'].rejected").click()
        said = page.inner_text("#inspector .ds-why")
        right = trace.piece(step.verification.draws[at]).decode("utf-8", "replace").replace(" ", "·").replace("\n", "↵")
        assert said.startswith("Why rejected? The target’s own choice here is"), said
        assert expected[kind] in said, said
        if "\ufffd" not in right:
            assert f"“{right}”" in said
        assert re.search(r"\(p [=<] \d", said)
        if kind == "search":
            rank = step.lattice.rank_of(at, step.verification.draws[at])
            lam = trace.settings.lam
            scores = [
                lam * float(step.lattice.logq[at, r]) + (1 - lam) * float(step.search.proxy_logp[at, r])
                for r in (step.search.ranks[at], rank)
            ]
            assert f"at rank {rank + 1} (q" in said
            assert f"{abs(scores[0] - scores[1]):.1f}" in said


def test_cells_are_reached_by_keyboard(visit, site):
    page = visit(site)
    page.locator("#lattice [data-col='0'][data-rank='0']").click()
    before, number = page.inner_text("#inspector h2"), step_number(page)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#lattice [data-col='0'][data-rank='1']")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lattice [data-col='1'][data-rank='1']")).to_have_attribute("aria-selected", "true")
    assert page.inner_text("#inspector h2") != before
    assert step_number(page) == number
    assert page.locator("#lattice [data-col][tabindex='0']").count() == 1


def test_overlays_and_ghosts(visit, site):
    page = visit(site)
    assert page.locator("#text .ghost").count() == 0
    page.click("[data-toggle=ghosts]")
    assert page.locator("#text .ghost").count() > 5
    page.click("[data-toggle=prompt]")
    expect(page.locator("#text .prompt").first).to_be_visible()
    for name, mark in (("argmax", ".argmax"), ("oracle", ".oracle"), ("beams", ".ds-link.beam.lost")):
        assert page.locator(f"#lattice {mark}").count() == 0
        page.click(f"[data-toggle={name}]")
        assert page.locator(f"#lattice {mark}").count() > 0, name
    rows = page.locator("#lattice [role=rowheader]").count()
    page.click("[data-toggle=rows]")
    assert page.locator("#lattice [role=rowheader]").count() == rows + 7


def test_each_picture_has_its_table(visit, site):
    page = visit(site)
    for name in ("lattice", "adl", "acceptance"):
        page.click(f"[data-table={name}] summary")
        page.wait_for_selector(f"[data-table={name}] tbody tr")
        assert page.locator(f"[data-table={name}] tbody tr").count() > 3
    assert page.locator("[data-table=adl] tbody tr").count() == steps_shown(page)


def test_click_in_the_timeline_goes_to_the_step(visit, site):
    page = visit(site)
    page.wait_for_selector("#adl .nsewdrag")
    page.locator("#adl").scroll_into_view_if_needed()
    box = page.locator("#adl .nsewdrag").bounding_box()
    target = 10
    x = box["x"] + box["width"] * (target - 0.4) / (steps_shown(page) + 0.2)
    page.mouse.move(x, box["y"] + box["height"] * 0.9)
    page.mouse.click(x, box["y"] + box["height"] * 0.9)
    page.wait_for_function(f"document.querySelector('#step-label').textContent.startsWith('Step {target} ')")


def test_stop_keeps_what_was_made(visit, slow_site):
    page = visit(slow_site)
    run(page)
    expect(page.locator(STATE)).to_contain_text(re.compile(r"\d+ tokens? of 128 …"))
    page.wait_for_timeout(800)
    page.click("#stop")
    expect(page.locator("#run")).to_be_enabled()
    made = slow_site.runs[-1].trace
    assert made.stop_reason == "stopped" and 1 <= len(made.steps) < 20
    expect(page.locator(STATE)).to_contain_text("ended by you")
    assert steps_shown(page) == len(made.steps)
    assert len(page.inner_text("#text")) > 10
    expect(page.locator("[data-merit=verdict]")).to_contain_text("stopped: not compared")


def test_a_reload_brings_the_run_back(visit, site):
    page = visit(site)
    run(page, "What is kept?")
    finish(page)
    text, verdict, steps = page.inner_text("#text"), page.inner_text("[data-merit=verdict]"), steps_shown(page)
    page.reload()
    expect(page.locator("#notice")).to_contain_text("Your last run is back.")
    expect(page.locator("[data-merit=verdict]")).to_have_text(re.compile("identical"))
    assert page.inner_text("#text") == text
    assert page.inner_text("[data-merit=verdict]") == verdict and steps_shown(page) == steps


def test_a_reload_in_the_middle_of_a_run_keeps_what_it_made_and_frees_the_models(visit, slow_site):
    page = visit(slow_site)
    run(page)
    expect(page.locator(STATE)).to_contain_text(re.compile(r"[1-9]\d* tokens? of 128 …"))
    page.wait_for_timeout(800)
    interrupted = slow_site.runs[-1]
    page.reload()
    expect(page.locator("#notice")).to_contain_text("Your last run is back. It was stopped before its end.")
    assert interrupted.trace.stop_reason == "stopped" and len(interrupted.trace.steps) < 20
    assert 1 <= steps_shown(page) <= len(interrupted.trace.steps)
    run(page, "and again")
    page.click("#stop")
    expect(page.locator("#run")).to_be_enabled()


def test_a_new_tab_begins_with_the_recorded_trace(visit, site):
    page = visit(site)
    recorded = page.inner_text("#text")
    run(page, "Something else?")
    finish(page)
    other = page.context.new_page()
    other.goto(site.url)
    other.wait_for_selector("#step-label b", state="attached")
    other.wait_for_timeout(500)
    assert other.inner_text("#text") == recorded
    other.close()


def test_a_closed_tab_frees_its_run(visit, slow_site):
    page = visit(slow_site)
    run(page)
    left = slow_site.runs[-1]
    page.close()
    other = visit(slow_site)
    run(other, "second visitor")
    assert left.stop_reason == "stopped"
    assert slow_site.runs[-1] is not left
    other.click("#stop")
    expect(other.locator("#run")).to_be_enabled()


def test_two_visitors_are_served_in_turn_and_see_their_own(visit, slow_site):
    first, second = visit(slow_site), visit(slow_site)
    run(first, "first visitor asks")
    second.fill("#prompt textarea", "second visitor asks")
    second.click("#run")
    expect(second.locator("#notice")).to_contain_text("queue", ignore_case=True)
    first.click("#stop")
    expect(first.locator("#run")).to_be_enabled()
    expect(second.locator("[data-badge]")).to_have_text("measured here")
    second.click("#stop")
    expect(second.locator("#run")).to_be_enabled()
    first.click("[data-toggle=prompt]")
    second.click("[data-toggle=prompt]")
    assert "first visitor" in first.inner_text("#text") and "second visitor" not in first.inner_text("#text")
    assert "second visitor" in second.inner_text("#text")


def test_bad_input_is_said_and_loses_nothing(visit, site, tmp_path):
    page = visit(site)
    text = page.inner_text("#text")
    page.fill("#prompt textarea", "   ")
    page.click("#run")
    expect(page.locator("#notice .ds-message")).to_contain_text("The prompt is empty")
    page.fill("#prompt textarea", "word " * 3000)
    page.click("#run")
    expect(page.locator("#notice .ds-message")).to_contain_text("the target can hold 2048")
    expect(page.locator("#run")).to_be_enabled()
    files = {
        "foreign.jsonl": b'{"hello": 1}\n',
        "noise.jsonl.gz": b"\x1f\x8bnot gzip at all",
        "empty.jsonl": b"\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        page.click("#notice button:visible")
        with page.expect_file_chooser() as chooser:
            page.click("#trace-file")
        chooser.value.set_files(tmp_path / name)
        expect(page.locator("#notice .ds-message")).to_contain_text("The trace on the page is kept")
        assert "Traceback" not in page.inner_text("body")
    assert page.inner_text("#text") == text


def test_save_and_open_a_trace(visit, site, tmp_path):
    page = visit(site)
    page.click("[data-toggle=prompt]")
    page.wait_for_timeout(800)
    with page.expect_download() as download:
        page.click("#trace-download")
    path = tmp_path / "saved.jsonl.gz"
    download.value.save_as(path)
    assert Trace.load(path).text.startswith("To find the car")
    other = fake_trace("Another prompt?", script="Quite another answer stands here. " * 9, max_new_tokens=40, k_max=17)
    other.save(tmp_path / "other.jsonl.gz")
    with page.expect_file_chooser() as chooser:
        page.click("#trace-file")
    chooser.value.set_files(tmp_path / "other.jsonl.gz")
    expect(page.locator("#text")).to_contain_text("Quite another answer")
    assert steps_shown(page) == len(other.steps)
    # It brings its prompt and settings; how long the next answer may be stays as it was.
    expect(page.locator("#prompt textarea")).to_have_value("Another prompt?")
    expect(page.locator("#knob-k_max input[type=number]")).to_have_value("17")
    expect(page.locator("#knob-max_new_tokens input[type=number]")).to_have_value("128")


def choose(page, knob, word):
    """Take a word of a knob's list."""
    page.click(f"#knob-{knob} input")
    page.click(f'ul[role=listbox] li[aria-label="{word}"]')
    expect(page.locator(f"#knob-{knob} input")).to_have_value(word)


def unfold(page):
    page.click("#settings > button")
    expect(page.locator("#knob-tau")).to_be_visible()


def test_knobs_depend_on_each_other(visit, site):
    page = visit(site)
    unfold(page)
    number = "#knob-{} input[type=number]"
    expect(page.locator(number.format("k"))).to_be_disabled()
    expect(page.locator("#knob-k .info-text")).to_have_text("only with length policy fixed")
    choose(page, "length", "fixed")
    expect(page.locator(number.format("k"))).to_be_enabled()
    expect(page.locator(number.format("k_min"))).to_be_disabled()
    choose(page, "search", "argmax")
    expect(page.locator(number.format("beam"))).to_be_disabled()
    choose(page, "length", "adl")
    expect(page.locator(number.format("k_min"))).to_be_enabled()
    page.fill(number.format("k_min"), "12")
    page.keyboard.press("Tab")
    expect(page.locator(number.format("k_max"))).to_have_value("12")
    page.fill(number.format("k_max"), "5")
    page.keyboard.press("Tab")
    expect(page.locator(number.format("k_min"))).to_have_value("5")
    assert page.locator(number.format("k_max")).get_attribute("max") == "32"
    expect(page.locator(number.format("top_p"))).to_be_disabled()
    expect(page.locator("#knob-top_p .info-text")).to_have_text("only at a temperature above 0")
    page.fill(number.format("temperature"), "0.7")
    page.keyboard.press("Tab")
    expect(page.locator(number.format("top_p"))).to_be_enabled()


def test_settings_begin_closed_behind_presets(visit, site):
    """A preset reaches the run with its knobs never seen; a knob moved by hand is no preset any more."""
    page = visit(site)
    expect(page.locator("#settings[data-ready]")).to_be_attached()
    expect(page.locator("#knob-tau")).to_be_hidden()
    chosen = page.locator("#preset input:checked")
    expect(chosen).to_have_value("default")
    page.get_by_role("radio", name=PRESETS["fastest"].title).check()
    run(page)
    finish(page)
    assert site.runs[-1].settings == Settings(**PRESETS["fastest"].changes)
    unfold(page)
    page.fill("#knob-max_new_tokens input[type=number]", "40")
    page.keyboard.press("Tab")
    expect(chosen).to_have_value("fastest")
    page.fill("#knob-nodes input[type=number]", "12")
    page.keyboard.press("Tab")
    expect(chosen).to_have_count(0)
    page.get_by_role("radio", name=PRESETS["paper"].title, exact=True).check()
    for name, value in {"k_max": "30", "k_min": "20", "max_new_tokens": "40"}.items():
        expect(page.locator(f"#knob-{name} input[type=number]")).to_have_value(value)


def test_hostile_prompt_and_tokens_change_nothing(visit, serve):
    hostile = fake_trace("".join(HOSTILE), script=HOSTILE_SCRIPT, extra=HOSTILE, max_new_tokens=80)
    site = serve(hostile, script=HOSTILE_SCRIPT, extra=HOSTILE)
    page = visit(site)
    assert "<img src=x onerror=window.hacked=1>" in page.inner_text("#text")
    page.click("[data-toggle=prompt]")
    page.click("[data-toggle=ghosts]")
    run(page, "".join(HOSTILE))
    finish(page)
    for _ in range(5):
        page.click("#step-prev")
    page.click("[data-table=lattice] summary")
    # Rejected drafts stand between the tokens of the answer: without them it reads as it was written.
    page.click("[data-toggle=ghosts]")
    assert "${window.hacked=2}" in page.inner_text("#text") and "{{window.hacked=3}}" in page.inner_text("#text")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#player img, #player script, #player svg[onload]").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_violation(visit, site, theme):
    page = visit(site, f"?__theme={theme}", reduced_motion="reduce")
    page.wait_for_selector("#adl .plot-container")
    for name in ("argmax", "oracle", "beams", "ghosts"):
        page.click(f"[data-toggle={name}]")
    page.mouse.move(0, 0)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [
        (v["id"], v["impact"], [n["html"][:160] for n in v["nodes"][:4]])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not bad, bad


def test_dark_theme_reaches_the_figures(visit, site):
    colours = {}
    for theme in ("light", "dark"):
        page = visit(site, f"?__theme={theme}")
        page.wait_for_selector("#adl .plot-container text")
        colours[theme] = (
            page.evaluate("getComputedStyle(document.querySelector('#lattice')).backgroundColor"),
            page.evaluate("getComputedStyle(document.querySelector('#adl .xtick text')).fill"),
        )
    assert colours["light"][0] == "rgb(255, 255, 255)" and colours["dark"][0] == "rgb(24, 32, 42)"
    assert colours["light"][1] != colours["dark"][1]


def test_navigation_and_controls_stay_in_sight_when_the_page_is_scrolled(visit, site):
    page = visit(site)
    page.evaluate("scrollTo(0, 600)")
    tops = {name: page.locator(name).bounding_box()["y"] for name in ("#masthead", "#page-race-button", "#run")}
    assert -2 <= min(tops.values()) and max(tops.values()) < 450, tops


@pytest.fixture(scope="module")
def eight(serve):
    """A page whose trace has drafts of 8 tokens."""
    return serve(fake_trace(length="fixed", k=8, max_new_tokens=96, skill=0.7))


@pytest.mark.parametrize("width", [820, 1440])
def test_eight_columns_are_seen_whole_and_a_legend_stands_beside_its_plot(visit, eight, width):
    page = visit(eight, viewport={"width": width, "height": 900})
    page.wait_for_selector("#adl .plot-container")
    box = page.locator("#lattice [data-lattice]").first.bounding_box()
    ends = [cell.bounding_box() for cell in page.locator("#lattice [data-col='7']").all()]
    assert ends and all(one["x"] + one["width"] <= box["x"] + box["width"] for one in ends)
    for picture in ("#adl", "#stages"):
        page.wait_for_selector(f"{picture} .legend")
        below = page.locator(picture).evaluate(
            """node => {
              const drawn = node.querySelector(".plot-container").parentNode;
              const plot = drawn.getBoundingClientRect().top + drawn._fullLayout._size.t;
              return node.querySelector(".legend").getBoundingClientRect().bottom - plot;
            }"""
        )
        assert below <= 1, picture


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_letters_of_the_tokens_in_front_are_seen_on_their_highlight(visit, site, theme):
    page = visit(site, f"?__theme={theme}")
    now = page.locator("#text .ds-unit.now").first
    picture = Image.open(io.BytesIO(now.screenshot())).convert("L")
    low, high = picture.getextrema()
    ground = picture.histogram().index(max(picture.histogram()))
    assert max(high - ground, ground - low) > 120, (low, ground, high)


@pytest.fixture(scope="module")
def wide(serve):
    """A page whose trace has drafts of 32 tokens."""
    return serve(fake_trace(length="fixed", k=32, max_new_tokens=128, skill=0.9))


@pytest.mark.parametrize("width", [820, 1440])
def test_no_horizontal_scroll_even_with_32_columns(visit, wide, width):
    page = visit(wide, viewport={"width": width, "height": 900})
    page.wait_for_selector("#adl .plot-container")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("(n => n.scrollWidth > n.clientWidth)(document.querySelector('[data-lattice]'))")


def test_a_long_trace_scrubs_without_lag(visit, serve):
    long = fake_trace(length="fixed", k=30, max_new_tokens=1100, skill=0.4)
    assert len(long.steps) >= 300
    page = visit(serve(long))
    page.wait_for_selector("#adl .plot-container")
    page.click("#step-first")
    spent = page.evaluate(
        """async () => {
            const next = document.querySelector('#step-next'), spent = [];
            for (let i = 0; i < 40; i++) {
                const from = performance.now();
                next.click();
                document.body.offsetHeight;
                spent.push(performance.now() - from);
                await new Promise(requestAnimationFrame);
            }
            return spent.sort((a, b) => a - b);
        }"""
    )
    assert spent[len(spent) // 2] < 100, spent


def test_models_that_do_not_load_are_explained(visit, serve):
    def load(dtype, progress):
        raise WeightsError("The weights are out of reach: check the network.")

    page = visit(serve(fake_trace(max_new_tokens=32), load=load))
    expect(page.locator("#notice .ds-loading")).to_contain_text("The weights are out of reach")
    text = page.inner_text("#text")
    page.click("#run")
    expect(page.locator("#notice .ds-message")).to_contain_text("The weights are out of reach")
    expect(page.locator("#run")).to_be_enabled()
    assert page.inner_text("#text") == text


def test_loading_is_shown_while_the_page_is_already_there(visit, serve):
    import threading

    done = threading.Event()

    def load(dtype, progress):
        progress(0.4, "Converting the weights")
        done.wait(20)
        return FakePair(dtype=dtype)

    page = visit(serve(fake_trace(max_new_tokens=32), load=load), viewport={"width": 1024, "height": 768})
    expect(page.locator("#notice .ds-loading")).to_contain_text("Converting the weights")
    last, said = page.locator("#page-traces-button").bounding_box(), page.locator("#notice").bounding_box()
    assert last["x"] + last["width"] <= said["x"], "the notice stands beside the navigation"
    assert page.locator("#notice progress").evaluate("n => n.value") == pytest.approx(0.4)
    done.set()
    expect(page.locator("#notice .ds-loading")).to_be_hidden()
