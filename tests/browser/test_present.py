"""The presenter view: one step on one screen, nothing told before the target has spoken, and its way out by keys."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from diffuspec.trace.gallery import gallery
from diffuspec.ui.player.payload import payload
from tests.browser.conftest import serious
from tests.fakes.scripted import fake_trace

SIZES = ((1280, 720), (1366, 768), (1920, 1080))
LETTERS = 24  # px: read from the last row


@pytest.fixture(scope="module")
def lecture(serve):
    return serve(gallery().trace("1-maths"))


def present(visit, site, query="?present=1", **options):
    page = visit(site, query, **options)
    page.wait_for_selector(".ds-present .ds-fit [data-col]")
    return page


MISFITS = """letters => {
  const find = (part) => document.querySelector(`.ds-present ${part}`);
  const box = find("[data-lattice]");
  const found = [];
  const look = (where) => {
    const wide = box.scrollWidth > box.clientWidth;
    if (wide || box.scrollHeight > box.clientHeight) found.push(`${where}: the lattice scrolls`);
    for (const token of box.querySelectorAll(".ds-token")) {
      if (parseFloat(getComputedStyle(token).fontSize) < letters - 0.1) found.push(`${where}: a small token`);
    }
    for (const name of ["[data-lattice]", "#text", "[data-story]", ".ds-stepbar"]) {
      const at = find(name).getBoundingClientRect();
      const inside = at.height && at.bottom <= innerHeight + 1 && at.right <= innerWidth + 1;
      if (!inside) found.push(`${where}: ${name} leaves the screen`);
    }
  };
  for (const phase of ["search", "commit"]) {
    find("#step-first").click();
    find(`#phase-${phase}`).click();
    for (let step = 1; step <= Number(find("#step-scrub").max); step++) {
      look(`step ${step}, ${phase}`);
      find("#step-next").click();
    }
  }
  return found;
}"""


@pytest.mark.parametrize("name", ["1-maths", "padding"])
def test_every_step_fits_the_screen_in_letters_for_the_last_row(visit, serve, name):
    page = present(visit, serve(gallery().trace(name)), viewport={"width": 1280, "height": 720})
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(400)
        assert page.evaluate("getComputedStyle(document.querySelector('#text')).fontSize") >= f"{LETTERS}px"
        assert page.evaluate(MISFITS, LETTERS) == []


def test_the_targets_row_is_above_the_fold_in_the_normal_view(visit, lecture):
    page = visit(lecture, viewport={"width": 1366, "height": 768})
    page.click(".ds-intro [data-do=fold]")
    page.wait_for_timeout(800)
    bottoms = page.evaluate(
        """() => {
            const found = [];
            for (let step = 0; step < Number(document.querySelector("#step-scrub").max); step++) {
                const row = document.querySelector("#lattice .ds-row-target");
                if (row) found.push(row.getBoundingClientRect().bottom + scrollY);
                document.querySelector("#step-next").click();
            }
            return found;
        }"""
    )
    assert len(bottoms) > 30 and max(bottoms) <= 768, max(bottoms)


TOLD = """([texts, index]) => texts.map((text) => {
  const root = document.querySelector(".ds-player").cloneNode(true);
  for (const part of root.querySelectorAll("[data-keys], .ds-phases")) part.replaceChildren();
  root.querySelectorAll(".ds-save").forEach((part) => part.remove());
  document.body.append(root);
  const player = DiffuSpecPlayer.mount(root, { plotly: () => new Promise(() => {}) });
  player.update(text);
  player.go(index);
  const told = {};
  for (const phase of ["mask", "lattice", "search", "verify", "commit"]) {
    player.setPhase(phase);
    for (const details of root.querySelectorAll("[data-table=lattice], [data-table=bars]")) {
      details.open = true;
      player.drawTable(details);
    }
    const seen = (node) => getComputedStyle(node).visibility !== "hidden";
    const parts = ["#lattice", "#inspector", "#step-label", "#bars", "[data-adl-caption]"];
    told[phase] = [
      [...root.querySelectorAll("#text > *")].filter(seen).map((node) => node.textContent).join(""),
      ...parts.map((part) => root.querySelector(part).innerHTML),
    ].join("\\n");
  }
  player.destroy();
  root.remove();
  return told;
})"""  # fmt: skip


def test_until_verify_the_page_is_the_same_whatever_the_target_says(visit, lecture):
    """Two traces that differ in one step's verdict alone are drawn alike until the phase `verify`."""
    one = json.loads(payload(gallery().trace("1-maths"), "one", figures=False))
    index = next(
        i
        for i, step in enumerate(one["steps"])
        if 1 < step["seen"] < len(step["path"]) and step["kind"] == "correction"
    )
    other = json.loads(json.dumps(one))
    step, detail = other["steps"][index], other["steps"][index]["detail"]
    # The target refuses the first token and wants one of rank 13 in its place.
    wanted = detail["ids"][0][12]
    step.update(accepted=0, seen=0, token=wanted, emitted=[wanted], oracle=0)
    step["length"].update(accepted=0, next_k=7, decided="k_max", words="next k = 7")
    detail.update(draws=[wanted])
    for rows in ("topIds", "topLogp", "cellLogp"):
        detail[rows] = detail[rows][::-1]
    detail["pathLogp"] = detail["pathLogp"][::-1]
    detail["pathRank"] = [rank + 1 for rank in detail["pathRank"]]
    for unit in other["units"]:
        if unit["s"][-1] >= index:
            unit.update(t="other", o=["correction"] * len(unit["o"]))
    before, after = visit(lecture).evaluate(TOLD, [[json.dumps(one), json.dumps(other)], index])
    for phase in ("mask", "lattice", "search"):
        assert before[phase] == after[phase], phase
    for phase in ("verify", "commit"):
        assert before[phase] != after[phase], phase


def test_a_class_predicts_then_it_is_revealed_and_counted(visit, lecture):
    trace = gallery().trace("1-maths")
    page = present(visit, lecture, "?trace=1-maths&step=7&phase=lattice&present=1")
    step = trace.steps[6]
    answer = "document.querySelector('#text').innerText"
    assert page.evaluate(answer).rstrip().endswith("then divide that")
    ask = page.locator("[data-predict]")
    expect(ask).to_contain_text(f"How many of these {step.draft_length} will the target accept?")
    expect(ask.locator("[data-guess]")).to_have_count(step.draft_length + 1)
    ask.locator(f"[data-guess='{step.verification.accepted}']").click()
    expect(ask.locator("[aria-pressed=true]")).to_have_text(str(step.verification.accepted))
    ask.locator("[data-reveal]").click()
    expect(page.locator("#phase-verify")).to_have_attribute("aria-checked", "true")
    expect(ask).to_contain_text(f"Guessed {step.verification.accepted}: right. 1 of 1 guess right")
    assert page.evaluate(answer).rstrip().endswith("by the total time")
    # On to the next step as a clicker goes: commit, then its masks, then its search.
    for _ in range(4):
        page.keyboard.press("PageDown")
    expect(page.locator("#phase-search")).to_have_attribute("aria-checked", "true")
    expect(page.locator("#step-label")).to_contain_text("Step 8 of")
    wrong = 0 if trace.steps[7].verification.accepted else 1
    ask.locator(f"[data-guess='{wrong}']").click()
    page.keyboard.press("4")
    expect(ask).to_contain_text(f"Guessed {wrong}; the target accepted {trace.steps[7].verification.accepted}.")
    expect(ask).to_contain_text("1 of 2 guesses right")
    # The same question stands in the inspector of the normal view.
    page.keyboard.press("Escape")
    expect(page.locator("#inspector")).to_contain_text("1 of 2 guesses right")


def test_the_view_opens_and_closes_by_key_and_covers_all_else(visit, lecture):
    page = visit(lecture)
    page.keyboard.press("p")
    expect(page.locator(".ds-present")).to_be_visible()
    assert page.evaluate("document.querySelector('#prompt').closest('[inert]') !== null")
    page.wait_for_function("new URLSearchParams(location.search).get('present') === '1'")
    size = "parseFloat(getComputedStyle(document.querySelector('#text')).fontSize)"
    before = page.evaluate(size)
    page.keyboard.press("+")
    assert page.evaluate(size) > before
    page.keyboard.press("-")
    assert page.evaluate(size) == before
    dark = page.evaluate("document.body.classList.contains('dark')")
    page.keyboard.press("t")
    assert page.evaluate("document.body.classList.contains('dark')") != dark
    page.keyboard.press("?")
    expect(page.locator("[data-dialog=keys]")).to_be_visible()
    expect(page.locator("[data-keys]")).to_contain_text("next phase")
    page.keyboard.press("Escape")
    expect(page.locator("[data-dialog=keys]")).to_be_hidden()
    expect(page.locator(".ds-present")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".ds-present")).to_have_count(0)
    assert page.evaluate("document.querySelectorAll('[inert]').length") == 0
    page.wait_for_function("!new URLSearchParams(location.search).has('present')")
    expect(page.locator("#adl .plot-container")).to_be_visible()


def test_the_address_follows_and_brings_back_step_and_phase(visit, lecture):
    page = visit(lecture)
    assert "step=" not in page.url
    page.click("#step-first")
    page.click("#step-next")
    page.click("#phase-search")
    page.wait_for_url(re.compile(r"trace=1-maths&step=2&phase=search"))
    page.keyboard.press("s")
    link = page.input_value("[data-share-link]")
    assert link.endswith("?trace=1-maths&step=2&phase=search#playground")
    drawn = page.locator("[data-qr] svg")
    expect(drawn).to_have_attribute("aria-label", f"QR code of {link}")
    assert link.replace("&", "&#38;").removesuffix("#playground") in page.input_value("[data-share-frame]")
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("#lattice [data-col]")
    expect(page.locator("#step-label")).to_contain_text("Step 2 of")
    expect(page.locator("#phase-search")).to_have_attribute("aria-checked", "true")


def test_an_own_run_takes_the_recorded_trace_out_of_the_address(visit, serve):
    page = visit(serve(gallery().trace("1-maths"), pause=0.005), "?trace=1-maths&step=2&phase=search")
    expect(page.locator("#step-label")).to_contain_text("Step 2 of")
    page.click("#run")
    expect(page.locator("[data-badge]")).to_have_text("measured here")
    expect(page.locator("#run")).to_be_enabled(timeout=40_000)
    page.wait_for_function("!location.search.includes('trace')")
    page.keyboard.press("s")
    assert "prompt=" in page.input_value("[data-share-link]")
    expect(page.locator("[data-share-embed]")).to_be_hidden()


@pytest.mark.parametrize("theme, size", [("light", SIZES[0]), ("dark", SIZES[2])])
def test_axe_in_the_presenter_view(visit, theme, size, lecture):
    page = present(
        visit, lecture, f"?present=1&__theme={theme}", viewport={"width": size[0], "height": size[1]},
        reduced_motion="reduce",
    )  # fmt: skip
    for phase in ("mask", "search", "commit"):
        page.click(f"#phase-{phase}")
        assert not serious(page), phase
    page.keyboard.press("?")
    assert not serious(page)
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.wait_for_selector("[data-qr] svg")
    assert not serious(page)


def test_the_view_needs_no_server(browser, tmp_path):
    from diffuspec.ui.player.export import replay_page

    file = tmp_path / "run.html"
    file.write_text(replay_page(fake_trace(max_new_tokens=48)), encoding="utf-8")
    page = browser.new_context(offline=True).new_page()
    broken = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(f"{file.as_uri()}#step=3&phase=lattice&present=1")
    page.wait_for_selector(".ds-present .ds-fit [data-col]")
    expect(page.locator("#step-label")).to_contain_text("Step 3 of")
    expect(page.locator("#phase-lattice")).to_have_attribute("aria-checked", "true")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("#.*step=4"))
    page.keyboard.press("s")
    expect(page.locator("[data-qr]")).to_be_hidden()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator(".ds-present")).to_have_count(0)
    page.context.close()
    assert not broken
