"""Traces: the gallery, files in and out, links, and the page that replays offline."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from diffuspec import Settings, Trace
from diffuspec.errors import TraceError
from diffuspec.trace.gallery import gallery
from diffuspec.ui.player import export
from diffuspec.ui.player.payload import payload
from diffuspec.ui.shell.links import address
from tests.browser.conftest import HOSTILE, HOSTILE_SCRIPT, serious
from tests.fakes.scripted import fake_trace
from tests.unit.test_foreign import PLAIN, sglang, vllm, write
from tests.unit.test_foreign import saved as saved_response


def traces(visit, site, query="", **options):
    page = visit(site, f"{query}#traces", **options)
    page.wait_for_selector(".ds-trace-card")
    return page


def front(page, name="playground"):
    expect(page.locator(f"#page-{name}-button")).to_have_attribute("aria-selected", "true")


def saved(page, name):
    with page.expect_download() as waiting:
        page.click(f"#export-{name}")
    return waiting.value


def test_every_recorded_trace_has_a_card_with_its_origin(visit, site):
    page = traces(visit, site)
    assert page.locator(".ds-trace-card").count() == len(gallery())
    for entry in gallery():
        trace = gallery().trace(entry.name)
        assert gallery().path(entry.name).stat().st_size <= 160 * 1024
        card = page.locator(".ds-trace-card", has_text=entry.look)
        expect(card.locator(".ds-badge")).to_contain_text(f"recorded {trace.provenance.recorded_at[:10]}")
        expect(card).to_contain_text(f"{trace.tokens_per_step:.2f}")


def test_a_card_opens_its_trace(visit, site):
    page = traces(visit, site)
    page.get_by_role("button", name="Open Code on the Playground").click()
    front(page)
    expect(page.locator("#text")).to_contain_text("def ")
    expect(page.locator("#prompt textarea")).to_have_value(gallery().named("code").prompt)
    expect(page.locator("#knob-max_new_tokens input[type=number]")).to_have_value("128")


def test_exports_hold_the_present_trace(visit, site, tmp_path):
    page = traces(visit, site)
    page.get_by_role("button", name="Open Summary on the Playground").click()
    front(page)
    page.click("#page-traces-button")
    trace = gallery().trace("4-summarise")
    for name in ("jsonl-gz", "jsonl"):
        file = saved(page, name)
        file.save_as(tmp_path / file.suggested_filename)
        assert Trace.load(tmp_path / file.suggested_filename).dumps() == trace.dumps()
    rows = list(csv.DictReader(io.StringIO(open(saved(page, "tokens").path(), newline="").read())))
    assert "".join(json.loads(row["text"]) for row in rows if row["token"] != "2") == trace.text
    steps = list(csv.DictReader(io.StringIO(open(saved(page, "steps").path(), newline="").read())))
    assert [int(row["accepted"]) for row in steps] == [step.accepted for step in trace.steps]
    assert saved(page, "page").suggested_filename.startswith("diffuspec-summarise-in-two")


def test_a_file_is_imported_and_a_bad_one_refused(visit, site, tmp_path):
    trace = fake_trace("imported?", max_new_tokens=24)
    trace.save(tmp_path / "good.jsonl.gz")
    (tmp_path / "bad.jsonl").write_text('{"format": "diffuspec-trace", "version": 1}\n{}')
    page = traces(visit, site)

    def choose(name):
        with page.expect_file_chooser() as chooser:
            page.click("#import")
        chooser.value.set_files(tmp_path / name)

    choose("bad.jsonl")
    expect(page.locator("#notice")).to_contain_text("damaged")
    page.wait_for_timeout(300)
    front(page, "traces")
    choose("good.jsonl.gz")
    front(page)
    expect(page.locator("#step-label")).to_contain_text(f"of {len(trace.steps)}")


def test_what_another_engine_told_is_shown_and_the_rest_named(visit, site, tmp_path):
    page = traces(visit, site)

    def choose(*files):
        page.click("#page-traces-button")
        with page.expect_file_chooser() as chooser:
            page.click("#import")
        chooser.value.set_files([str(file) for file in files])
        front(page)

    choose(saved_response(tmp_path, vllm()))
    expect(page.locator("[data-badge]")).to_have_text("from vLLM")
    expect(page.locator("[data-why-speed]")).to_contain_text("Not told: which tokens were drafted")
    expect(page.locator("#step-label")).to_contain_text("Step 2 of 4")
    expect(page.locator("#inspector")).to_contain_text("vLLM does not tell which token that was")
    expect(page.locator("#text")).to_contain_text("a b c d")
    expect(page.locator("[data-stages-caption]")).to_have_text("vLLM does not tell times of steps.")
    expect(page.locator("[data-toggle=oracle]")).to_be_hidden()
    expect(page.locator(".ds-intro")).to_be_hidden()
    for phase in ("mask", "lattice", "search", "commit"):
        page.click(f"#phase-{phase}")
    choose(*sorted(write(tmp_path / "run", ("a", 10**15, [5, 6], PLAIN)).glob("*.parquet")))
    expect(page.locator("[data-badge]")).to_have_text("from specspecs")
    expect(page.locator("#text")).to_contain_text("⟨10⟩")
    choose(saved_response(tmp_path, sglang()))
    expect(page.locator("#lattice")).to_contain_text("SGLang tells only sums")
    expect(page.locator("[data-mat=tokens]")).to_have_text("2.50")
    assert serious(page) == []
    page.click("#page-lab-button")
    expect(page.locator("#notice")).to_contain_text("SGLang told only sums of this run")


def test_a_link_restores_prompt_and_settings(visit, site):
    settings = Settings(k_max=12, tau=0.6, search="argmax")
    page = visit(site, address("What is 2 & 2?", settings))
    expect(page.locator("#prompt textarea")).to_have_value("What is 2 & 2?")
    expect(page.locator("#knob-k_max input[type=number]")).to_have_value("12")
    expect(page.locator("#knob-search input")).to_have_value("argmax")
    page.click("#page-traces-button")
    page.click("#copy-link")
    expect(page.locator("#link textarea")).to_have_value(
        site.url + address("What is 2 & 2?", settings).replace("?", "?", 1)
    )


def test_a_link_opens_a_trace_at_a_step(visit, site):
    page = visit(site, "?trace=names&step=7&phase=search")
    expect(page.locator("#step-label")).to_contain_text("Step 7 of")
    expect(page.locator("#phase-search")).to_have_attribute("aria-checked", "true")


@pytest.mark.parametrize(
    "query",
    [
        "?beam=0",
        "?trace=../../etc/passwd",
        "?k_min=9&k_max=<img src=x onerror=window.hacked=1>",
        "?step=9e9&trace=code",
    ],
)
def test_hostile_addresses_are_explained(visit, site, query):
    page = visit(site, query)
    expect(page.locator("#notice")).to_contain_text("The address cannot be followed")
    assert page.evaluate("window.hacked") is None
    expect(page.locator("#lattice [data-col]").first).to_be_visible()


def replay(browser, path):
    """The exported page opened from its file with every request but the file itself refused."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page = context.new_page()
    asked, broken = [], []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda line: broken.append(line.text) if line.type == "error" else None)

    def refuse(route):
        if route.request.url == path.as_uri():
            return route.continue_()
        asked.append(route.request.url)
        return route.abort()

    page.route("**/*", refuse)
    page.goto(path.as_uri())
    return context, page, asked, broken


def test_the_exported_page_replays_from_a_file_without_any_request(browser, tmp_path):
    trace = fake_trace("Replay <b>me</b> ${x}", script=HOSTILE_SCRIPT, extra=HOSTILE, max_new_tokens=48)
    path = tmp_path / "replay.html"
    path.write_text(export.replay_page(trace), encoding="utf-8")
    context, page, asked, broken = replay(browser, path)
    page.wait_for_selector("#lattice [data-col]")
    page.wait_for_selector("#adl .plot-container")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.click("#theme")
    page.click("#step-last")
    page.keyboard.press("ArrowLeft")
    for phase in ("mask", "lattice", "search", "verify", "commit"):
        page.click(f"#phase-{phase}")
    expect(page.locator("h1")).to_have_text("Replay <b>me</b> ${x}")
    assert page.evaluate("window.hacked") is None
    assert not asked and not broken, (asked, broken)
    context.close()


def test_whatever_loads_is_drawn_without_an_error(browser, tmp_path):
    """The Python side of this is in tests/property/test_hostile_trace.py; here the player draws mutated traces."""
    source = fake_trace(max_new_tokens=20)
    lines = [json.loads(line) for line in source.dumps().splitlines()]
    chance, drawn = random.Random(5), []
    values = [0, 1, 2, 7, -1, 50_000, 1e-300, 0.5, [], [[]], None, True, "</script>", "\u2028", {}]
    while len(drawn) < 40:
        copy = json.loads(json.dumps(lines))
        place = chance.choice(copy)
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], dict | list) and chance.random() < 0.8:
                place = place[key]
                continue
            place[key] = chance.choice(values)
            break
        try:
            trace = Trace.loads(b"\n".join(json.dumps(line).encode() for line in copy))
        except TraceError:
            continue
        drawn.append(payload(trace, f"mutant {len(drawn)}"))
    path = tmp_path / "replay.html"
    path.write_text(export.replay_page(source), encoding="utf-8")
    context, page, _, broken = replay(browser, path)
    page.wait_for_selector("#lattice [data-col]")
    page.evaluate(
        """async (drawn) => {
          const root = document.querySelector(".ds-player");
          const player = DiffuSpecPlayer.mount(root, {plotly: () => Promise.resolve(Plotly)});
          for (const json of drawn) {
            player.update(json);
            for (let i = 0; i < player.data.steps.length; i++) {
              player.go(i);
              for (const phase of ["mask", "lattice", "search", "verify", "commit"]) player.setPhase(phase);
            }
            await new Promise((done) => setTimeout(done, 10));
          }
        }""",
        drawn,
    )
    page.wait_for_timeout(300)
    assert not broken, broken
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, site, theme):
    page = traces(visit, site, f"?__theme={theme}")
    found = Axe().run(page, context="#traces", options={"resultTypes": ["violations"]})
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in serious]


def test_nothing_overflows_at_820_pixels(visit, site):
    page = traces(visit, site, viewport={"width": 820, "height": 1180})
    assert page.evaluate("document.documentElement.scrollWidth") <= 820
    places = [page.locator(name).bounding_box()["y"] for name in ("#gallery", "#trace-tools")]
    assert places == sorted(places), "the recorded traces come first"


def test_my_runs_are_listed_opened_and_compared(visit, site):
    page = visit(site)
    for question, preset in (("First question?", "Default"), ("Second question?", "Plain diffusion draft")):
        page.get_by_role("radio", name=preset, exact=True).check()
        page.fill("#prompt textarea", question)
        page.click("#run")
        expect(page.locator("#run")).to_be_disabled()
        expect(page.locator("#run")).to_be_enabled(timeout=40_000)
    page.click("#page-traces-button")
    mine = page.locator("#my-runs .ds-trace-card")
    expect(mine).to_have_count(2)
    expect(mine.nth(0)).to_contain_text("Second question?")
    expect(mine.nth(0)).to_contain_text("Plain diffusion draft")
    expect(mine.nth(1)).to_contain_text("First question?")
    mine.nth(1).get_by_role("button", name="Compare").click()
    compared = page.locator(".ds-comparison")
    expect(compared).to_contain_text("The prompts differ")
    first, second = (run.trace for run in site.runs[-2:])
    expect(compared.locator("tr", has_text="tokens/step")).to_contain_text(f"{first.tokens_per_step:.2f}")
    expect(compared.locator("tr", has_text="tokens/step")).to_contain_text(f"{second.tokens_per_step:.2f}")
    expect(compared.locator("tr", has_text="search")).to_contain_text("argmax")
    assert not serious(page)
    mine.nth(1).get_by_role("button", name="Open").click()
    front(page)
    expect(page.locator("#prompt textarea")).to_have_value("First question?")
    expect(page.get_by_role("radio", name="Default", exact=True)).to_be_checked()
