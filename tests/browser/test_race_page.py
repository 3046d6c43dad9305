"""The Race page in a real browser, on scripted models (fake.py)."""

from __future__ import annotations

import dataclasses
import re

import pytest
from playwright.sync_api import expect

from diffuspec.measure.race import Race
from diffuspec.ui.player.why import of_lane, words
from tests.browser.conftest import HOSTILE, HOSTILE_SCRIPT, serious
from tests.fakes.scripted import FakePair, fake_race, fake_trace

CLOCK = "#race [data-clock]"


def clock(page) -> float:
    return float(re.match(r"([\d.]+) s", page.inner_text(CLOCK)).group(1))


def at_race(visit, site, query="#race", **options):
    page = visit(site, query, **options)
    page.wait_for_selector("#race .ds-lane")
    return page


def open_race(page, race: Race, tmp_path):
    race.save(tmp_path / "race.json")
    with page.expect_file_chooser() as chooser:
        page.click("#race-file")
    chooser.value.set_files(tmp_path / "race.json")
    expect(page.locator("#race [data-prompt]")).to_contain_text(race.prompt[:20])


def test_a_recorded_race_is_there_at_first_and_replays(visit, site):
    page = at_race(visit, site)
    expect(page.locator("#race [data-badge]")).to_contain_text("recorded")
    expect(page.locator("#race .ds-race-table tbody tr").first).to_be_visible()
    expect(page.locator("#map .plot-container")).to_be_visible()
    assert page.locator("#race .ds-lane[data-state=done]").count() >= 1
    page.click("#race [data-restart]")
    page.click("#race [data-play]")
    early = clock(page)
    page.click("#race [data-lasts='10']")
    page.click("#race [data-play]")
    page.wait_for_function(f"parseFloat(document.querySelector('{CLOCK}').textContent) > {early} + 0.1")
    page.click("#race [data-play]")
    assert page.inner_text("#race [data-play]") == "▶ Play"
    page.focus("#race [data-scrub]")
    page.keyboard.press("End")
    assert page.locator("#race .ds-lane:not([data-state=done])").count() == 0
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    before = page.locator("#race .ds-lane[data-lane=ar] .ds-unit:not([hidden])").count()
    assert before < page.locator("#race .ds-lane[data-lane=ar] .ds-unit").count()


def test_a_race_is_run_lane_by_lane_then_replayed_in_its_own_time(visit, site, tmp_path):
    page = at_race(visit, site, reduced_motion="reduce")
    page.fill("#race-prompt textarea", "Who is fastest?")
    for label in ("Throughput", "Drafter, token by token"):
        page.get_by_label(label, exact=True).uncheck()
    page.get_by_label("generate", exact=True).check()
    page.click("#race-run")
    expect(page.locator("#race [data-said]")).to_contain_text("one after another")
    running = page.locator("#race .ds-lane[data-state=running]")
    expect(running).to_have_count(1)
    expect(page.locator("#race [data-lane=hf-generate]")).to_contain_text("not at home")
    expect(page.locator("#race [data-badge]")).to_have_text("measured here", timeout=40_000)
    expect(page.locator("#race-run")).to_be_enabled()
    lanes = page.locator("#race .ds-lane").evaluate_all("nodes => nodes.map(n => n.dataset.lane)")
    assert lanes[0] == "ar" and "diffuspec" in lanes and "hf-generate" not in lanes and "throughput" not in lanes
    with page.expect_download() as download:
        page.click("#race-save")
    race = Race.load(download.value.path())
    assert race.prompt == "Who is fastest?" and [one.method for one in race.lanes] == lanes
    reasons = [words(account, advice=False) for one in race.lanes if (account := of_lane(race, one))]
    assert reasons
    shown = page.locator("#race [data-whys] li").all_inner_texts()
    assert sorted(text.split(" ", 1)[1][-40:] for text in shown) == sorted(text[-40:] for text in reasons)
    page.focus("#race [data-scrub]")
    page.keyboard.press("End")
    assert clock(page) == pytest.approx(max(one.wall_ms for one in race.lanes) / 1e3, abs=0.02)
    halfway = sorted(one.wall_ms for one in race.lanes)[0] / 2
    page.locator("#race [data-scrub]").evaluate(
        "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }",
        round(1000 * halfway / max(one.wall_ms for one in race.lanes)),
    )
    for one in race.lanes:
        shown = int(re.match(r"\d+", page.inner_text(f"#race [data-lane={one.method}] .ds-lane-figures span")).group())
        assert abs(shown - sum(t <= halfway for t in one.times_ms)) <= 6, one.method


def test_a_race_stops_and_a_waiting_one_is_told_its_place(visit, slow_site):
    first, second = at_race(visit, slow_site), at_race(visit, slow_site)
    first.click("#race-run")
    expect(first.locator("#race .ds-lane[data-state=running]")).to_have_count(1)
    second.click("#race-run")
    expect(second.locator("#race [data-said]")).to_contain_text("Place 1 in the queue")
    second.click("#race-stop")
    expect(second.locator("#race-run")).to_be_enabled()
    first.click("#race-stop")
    expect(first.locator("#race-run")).to_be_enabled()
    expect(first.locator("#race [data-badge]")).to_contain_text("recorded")


def test_the_map_follows_its_knobs(visit, site):
    page = at_race(visit, site)
    page.wait_for_selector("#map .plot-container")
    page.fill("#map-k input[type=number]", "12")
    page.keyboard.press("Tab")
    expect(page.locator("#map [data-caption]")).to_contain_text("k = 12")
    said = page.inner_text("#map [data-caption]")
    page.get_by_label("free, as on a large GPU").check()
    expect(page.locator("#map [data-caption]")).not_to_have_text(said)
    page.click("#map .ds-table summary")
    expect(page.locator("#map tbody")).to_contain_text("the paper")


def test_a_slow_lane_does_not_make_the_others_a_blink(visit, site, tmp_path):
    race = fake_race("Who is slow?", FakePair("One line\n    and one set in, said twice. " * 4), max_new_tokens=64)
    slow = race.lanes[-1]
    late = dataclasses.replace(slow, times_ms=tuple(40 * ms for ms in slow.times_ms))
    race = dataclasses.replace(race, lanes=(*race.lanes[:-1], late))
    page = at_race(visit, site)
    open_race(page, race, tmp_path)
    expect(page.locator("#race [data-lasts='20']")).to_have_attribute("aria-checked", "true")
    page.focus("#race [data-scrub]")
    page.keyboard.press("End")
    times = sorted(lane.wall_ms for lane in race.lanes)
    assert clock(page) == pytest.approx(5 * times[(len(times) - 1) // 2] / 1e3, abs=0.02)
    done = page.locator("#race .ds-lane[data-state=done]")
    assert done.count() == len(race.lanes) - 1
    expect(page.locator("#race [data-said]")).to_contain_text(f"takes {late.wall_ms / 1e3:.2f} s")
    # Code keeps its lines.
    text = page.locator("#race [data-lane=ar] .ds-lane-text")
    assert "\n    and one set in" in text.evaluate("node => node.innerText")
    page.click("#race [data-abouts] summary")
    expect(page.locator("#race [data-abouts] dt")).to_have_count(len(race.lanes))


def test_hostile_tokens_and_files_change_nothing(visit, site, tmp_path):
    page = at_race(visit, site)
    pair = FakePair(HOSTILE_SCRIPT, HOSTILE)
    open_race(page, fake_race("".join(HOSTILE), pair, max_new_tokens=96), tmp_path)
    page.click("#race [data-whole]")
    page.focus("#race [data-scrub]")
    page.keyboard.press("End")
    assert "${window.hacked=2}" in page.inner_text("#race [data-lane=ar] .ds-lane-text")
    (tmp_path / "foreign.json").write_text('{"format": "diffuspec-race", "version": 1, "lanes": "<img>"}')
    with page.expect_file_chooser() as chooser:
        page.click("#race-file")
    chooser.value.set_files(tmp_path / "foreign.json")
    expect(page.locator("#notice .ds-message")).to_contain_text("The race on the page is kept")
    assert page.evaluate("window.hacked") is None and page.locator("#race img, #race script").count() == 0


@pytest.mark.parametrize("theme, width", [("light", 1440), ("dark", 820)])
def test_axe_and_no_sideways_scroll(visit, site, theme, width):
    page = at_race(visit, site, f"?__theme={theme}#race", viewport={"width": width, "height": 900})
    page.wait_for_selector("#map .plot-container")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not serious(page)


def test_the_pages_settings_reach_the_race(visit, serve):
    own = serve(fake_trace(max_new_tokens=32), pause=0.001)
    page = visit(own)
    page.click("#settings > button")
    page.click("#knob-length input")
    page.click('ul[role=listbox] li[aria-label="fixed"]')
    page.fill("#knob-k input[type=number]", "3")
    page.evaluate("DiffuSpecPages.go('race')")
    page.wait_for_selector("#race .ds-lane")
    page.fill("#race-tokens input[type=number]", "32")
    page.keyboard.press("Tab")
    page.click("#race-run")
    expect(page.locator("#race [data-badge]")).to_have_text("measured here", timeout=40_000)
    with page.expect_download() as download:
        page.click("#race-save")
    race = Race.load(download.value.path())
    assert (race.settings.length, race.settings.k) == ("fixed", 3)
    assert race.settings.max_new_tokens == 32 and all(len(one.token_ids) == 32 for one in race.lanes)
