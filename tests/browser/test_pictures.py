"""The pictures of the player: their downloads, the five phases told, losing beams, the tree; and the Step lab."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import expect

from diffuspec import DiffuSpec, Settings
from diffuspec.method.tree import COPIED, FOLLOWER
from diffuspec.trace.model import Trace
from diffuspec.training.ngram import fit
from diffuspec.ui.lab.view import KNOBS
from diffuspec.ui.shell.knobs import without_effect
from tests.browser.conftest import serious
from tests.fakes.scripted import fake_trace

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def recorded() -> Trace:
    """What the shared site opens with."""
    return fake_trace(k_min=4, k_max=14, max_new_tokens=128)


def step_of(page) -> int:
    return int(re.match(r"Step (\d+) of", page.inner_text("#step-label")).group(1)) - 1


def saved(page, name: str, kind: str) -> bytes:
    with page.expect_download() as waiting:
        page.locator(f"#player [data-table={name}] + .ds-save [data-save={kind}]").click()
    file = waiting.value
    assert file.suggested_filename.startswith(f"diffuspec-{name}") and file.suggested_filename.endswith(f".{kind}")
    with open(file.path(), "rb") as content:
        return content.read()


def test_pictures_are_saved_as_png_svg_and_csv(visit, site, recorded):
    page = visit(site)
    page.wait_for_selector("#adl .plot-container")
    step = recorded.steps[step_of(page)]
    for name in ("lattice", "adl", "bars"):
        png = saved(page, name, "png")
        assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") > 100
        picture = ElementTree.fromstring(saved(page, name, "svg"))
        assert picture.tag == f"{SVG}svg" and float(picture.get("width")) > 50
    words = "".join(ElementTree.fromstring(saved(page, "lattice", "svg")).itertext())
    likeliest = recorded.piece(int(step.lattice.ids[0, 0])).decode().strip()
    assert likeliest in words
    rows = list(csv.DictReader(io.StringIO(saved(page, "lattice", "csv").decode("utf-8-sig"))))
    assert len(rows) == step.lattice.ids.size
    assert [row["path"] for row in rows].count("yes") == len(step.path)
    # Numbers are numbers to whoever reads the file: no typographic minus, no "<0.001".
    assert [float(row["q"]) for row in rows] == pytest.approx(np.exp(step.lattice.logq).ravel().tolist(), abs=1e-3)
    scores = [float(row["λ·log q + (1−λ)·log proxy"]) for row in rows if row["λ·log q + (1−λ)·log proxy"]]
    assert scores and min(scores) < 0
    lengths = list(csv.DictReader(io.StringIO(saved(page, "adl", "csv").decode("utf-8-sig"))))
    assert [int(row["k"]) for row in lengths] == [one.draft_length for one in recorded.steps]


def test_the_story_has_each_phases_numbers_and_is_told_by_play(visit, site, recorded):
    page = visit(site)
    step = recorded.steps[step_of(page)]
    story = page.locator("[data-story]")
    says = {
        "mask": f"{step.draft_length} masked position",
        "lattice": "Each column ranks",
        "search": f"keep {int(step.lattice.kept.sum())} of {step.lattice.ids.size} cells",
        "verify": f"{step.verification.accepted} accepted",
        "commit": f"The next draft has k = {step.length.next_k}",
    }
    for phase, words in says.items():
        page.click(f"#phase-{phase}")
        expect(story).to_contain_text(words)
    page.click("#step-speed")
    page.click("#step-speed")
    page.click("#step-play")
    seen = []
    for phase in says:
        page.wait_for_selector(f"#phase-{phase}[aria-checked=true]")
        seen.append(phase)
    page.click("#step-play")
    assert seen == list(says)


def test_losing_beams_are_listed_with_where_and_by_how_much(visit, site, recorded):
    page = visit(site)
    page.click("[data-toggle=beams]")
    step = recorded.steps[step_of(page)]
    rows = page.locator("[data-beam]")
    lost = sum(len(level.rank) - level.survivors for level in step.search.levels)
    lost += step.search.levels[-1].survivors - 1
    assert rows.count() == lost > 0
    expect(rows.first).to_contain_text(re.compile(r"behind"))
    column, rank = map(int, rows.last.get_attribute("data-beam").split(","))
    rows.last.click()
    cell = page.locator(f"#lattice [data-col='{column}'][data-rank='{rank}']")
    if cell.count():
        expect(cell).to_have_attribute("aria-selected", "true")
    expect(page.locator("#inspector")).to_contain_text("beam")


def at_lab(visit, site, query="#lab", **options):
    page = visit(site, query, **options)
    page.wait_for_selector("#lab-lattice [data-col]")
    return page


def slide(page, name: str, value) -> None:
    page.locator(f"#lab-{name}").evaluate(
        "(node, value) => { node.value = value; node.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def test_the_lab_searches_again_at_once_and_goes_back(visit, site):
    page = at_lab(visit, site)
    # Gradio's reset takes the arrow away that tells a list from a field.
    assert page.locator("#lab-search").evaluate("node => getComputedStyle(node).appearance") == "auto"
    expect(page.locator("[data-verdict]")).to_contain_text("as recorded")
    slide(page, "tau", 0.3)
    expect(page.locator("#lab-tau").locator("xpath=..")).to_contain_text("0.8 → 0.3")
    page.wait_for_function("JSON.parse(document.querySelector('.ds-lab').dataset.settings).tau === 0.3")
    kept = [int(n) for n in re.findall(r"(\d+) cells kept, (\d+) as recorded", page.inner_text("[data-verdict]"))[0]]
    assert kept[0] < kept[1]
    page.click("[data-reset]")
    page.wait_for_function("JSON.parse(document.querySelector('.ds-lab').dataset.settings).tau === 0.8")
    page.click("[data-go=next]")
    expect(page.locator("#lab [data-label]")).to_contain_text(re.compile(r"Step \d+ of"))


def test_of_many_moves_of_a_slider_the_last_is_drawn(visit, site):
    page = at_lab(visit, site)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "component_server" in request.url else None)
    moves = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.45]
    page.locator("#lab-tau").evaluate(
        """(node, moves) => {
          for (const tau of moves) { node.value = tau; node.dispatchEvent(new Event("input")); }
        }""",
        moves,
    )
    page.wait_for_function("JSON.parse(document.querySelector('.ds-lab').dataset.settings).tau === 0.45")
    page.wait_for_timeout(300)
    assert page.evaluate("JSON.parse(document.querySelector('.ds-lab').dataset.settings).tau") == 0.45
    assert 1 <= len(asked) < len(moves), asked


def test_a_search_that_is_refused_or_unanswered_says_so(visit, site):
    page = at_lab(visit, site)
    page.evaluate("document.querySelector('#lab-tau').max = 7")
    slide(page, "tau", 7)
    expect(page.locator("#notice")).to_contain_text("tau")
    page.route("**/component_server**", lambda route: route.abort())
    slide(page, "tau", 0.3)
    expect(page.locator("#notice")).to_contain_text("did not answer the search")
    page.unroute("**/component_server**")
    page.click("[data-reset]")
    slide(page, "tau", 0.3)
    page.wait_for_function("JSON.parse(document.querySelector('.ds-lab').dataset.settings).tau === 0.3")


@pytest.mark.parametrize("search", ["cps", "argmax", "tree"])
def test_the_lab_greys_the_knobs_that_the_settings_panel_greys(visit, site, search):
    page = at_lab(visit, site)
    page.select_option("#lab-search", search)
    page.wait_for_function(f"JSON.parse(document.querySelector('.ds-lab').dataset.settings).search === '{search}'")
    settings = json.loads(page.locator(".ds-lab").get_attribute("data-settings"))
    greyed = {name for name in KNOBS if without_effect(settings)[name]}
    assert {name for name in KNOBS if page.locator(f"#lab-{name}").is_disabled()} == greyed != set()


def test_the_lab_asks_the_models_and_shows_branches_side_by_side(visit, serve):
    site = serve(fake_trace(max_new_tokens=48), pause=0.001)
    page = at_lab(visit, site)
    page.locator("#lab-lattice [data-col='0'][data-rank='1']").click()
    page.click("[data-ask=verify]")
    expect(page.locator("#lab-compare")).to_contain_text("your path")
    # What was chosen stays chosen: the next button still speaks of it.
    expect(page.locator("#lab-lattice [data-col='0'][data-rank='1']")).to_have_attribute("aria-selected", "true")
    page.click("[data-back]")
    page.locator("#lab-lattice [data-col='0'][data-rank='1']").click()
    page.click("[data-ask=branch]")
    expect(page.locator(".ds-lab-branch")).to_have_count(2)
    recorded, branch = page.locator(".ds-lab-branch").all()
    expect(branch.locator(".ds-forced")).to_have_count(1)
    expect(branch.locator(".ds-apart")).to_have_count(1)
    assert recorded.locator(".ds-apart, .ds-forced").count() == 0
    assert page.locator("#lab [data-knobs] .ds-ask").count() > 3
    expect(page.locator("#lab [data-busy]")).to_have_text("")
    page.click("[data-open='0']")
    expect(page.locator("#page-playground-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#player [data-badge]")).to_have_text("measured here")


def test_a_sampled_trace_is_not_verified_and_the_reason_is_said(visit, serve):
    trace = fake_trace(max_new_tokens=32, temperature=0.7, rule="paper")
    page = at_lab(visit, serve(trace))
    expect(page.locator("[data-ask=verify]")).to_be_disabled()
    expect(page.locator("[data-sampled]")).to_contain_text("This run was sampled (T = 0.7)")
    page.select_option("#lab-search", "argmax")
    expect(page.locator("#lab-compare")).to_contain_text("not judged")


@pytest.mark.parametrize("theme, width", [("light", 820), ("dark", 1440)])
def test_axe_and_no_sideways_scroll_in_the_lab(visit, site, theme, width):
    page = at_lab(visit, site, f"?__theme={theme}#lab", viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not serious(page)


@pytest.fixture(scope="module")
def grown(tiny_pairs) -> Trace:
    """A run of the tree search, which also copies from its text."""
    settings = Settings(proxy="context", search="tree", nodes=12, copy=1, k_min=2, k_max=6, max_new_tokens=60)
    return DiffuSpec(tiny_pairs["peeking"], settings).run("A tiny run, a tiny run, a tiny run")


@pytest.fixture(scope="module")
def grown_site(serve, grown):
    return serve(grown)


def copying(trace: Trace) -> int:
    """Index of a step whose path begins in the lattice and was copied from there on."""
    return next(step.index for step in trace.steps if len(step.path) > 1 and list(step.search.ranks[:2] < 0) == [0, 1])


def to_step(page, index: int, bar: str = "#step-scrub") -> None:
    page.locator(bar).evaluate(
        "(n, value) => { n.value = value; n.dispatchEvent(new Event('input', {bubbles: true})); }", index + 1
    )


def test_the_tree_is_drawn_with_its_edges_copies_and_what_was_accepted(visit, grown_site, grown):
    page = visit(grown_site)
    index = copying(grown)
    step = grown.steps[index]
    tree, check = step.search.tree, step.verification.tree
    to_step(page, index)
    page.click("#phase-verify")
    expect(page.locator("[data-toggle=path]")).to_have_text("tree")
    page.click("[data-toggle=rows]")
    cells = {(int(depth), int(rank)) for depth, rank in zip(tree.depth, tree.rank, strict=True)}
    assert (tree.rank == COPIED).any()
    lattice = {cell for cell in cells if cell[1] >= 0}
    for col, rank in lattice:
        expect(page.locator(f"#lattice .node[data-col='{col}'][data-rank='{rank}']")).to_have_count(1)
    copied = page.locator("#lattice .node[data-rank='-1']")
    assert copied.count() == len(cells) - len(lattice)
    expect(copied.first).to_contain_text("copy")
    # An edge is drawn where both of its ends are, and taken where the target went along it.
    edges = [i for i, parent in enumerate(tree.parent) if parent >= 0]
    assert page.locator("#lattice .ds-link.tree").count() == len(edges)
    taken = sum(bool(check.accepted[i]) for i in edges)
    assert page.locator("#lattice .ds-link.tree.taken").count() == taken
    assert page.locator("#lattice .path.accepted").count() == step.verification.accepted
    page.click("#phase-search")
    assert page.locator("#lattice .ds-link.tree.taken").count() == 0
    # The copied cell explains itself, and picture, table and file say the same.
    copied.first.click()
    expect(page.locator("#inspector")).to_contain_text("none: copied from the text")
    page.click("[data-table=lattice] summary")
    page.wait_for_selector("[data-table=lattice] tbody tr")
    assert page.locator("[data-table=lattice] tbody tr").count() == step.lattice.ids.size
    picture = "".join(ElementTree.fromstring(saved(page, "lattice", "svg")).itertext())
    assert "copy" in picture
    rows = list(csv.DictReader(io.StringIO(saved(page, "lattice", "csv").decode("utf-8-sig"))))
    assert [row["path"] for row in rows].count("yes") == int((step.search.ranks >= 0).sum())


def test_a_copied_token_is_no_cell_to_verify_in_the_lab(visit, grown_site, grown):
    page = visit(grown_site)
    to_step(page, copying(grown))
    page.click("#page-lab-button")
    copied = page.locator("#lab-lattice [data-rank='-1']")
    copied.first.click()
    expect(page.locator("#lab [data-chosen]")).to_contain_text("copied from the text")
    for act in ("verify", "branch"):
        expect(page.locator(f"[data-ask={act}]")).to_be_disabled()
    expect(page.locator("[data-ask=redraft]")).to_be_enabled()
    column = int(copied.first.get_attribute("data-col"))
    page.locator(f"#lab-lattice [data-col='{column}'][data-rank='0']").click()
    for act in ("verify", "branch"):
        expect(page.locator(f"[data-ask={act}]")).to_be_enabled()


def test_sampled_steps_draw_each_ratio_with_its_u(visit, serve, tiny_pairs):
    settings = Settings(
        proxy="context", temperature=0.7, rule="sampled-search", k_min=2, k_max=6, max_new_tokens=60, seed=1
    )
    trace = DiffuSpec(tiny_pairs["block"], settings).run("A tiny run, a tiny run, a tiny run")
    step = max(trace.steps, key=lambda step: len(step.verification.ratios))
    check = step.verification
    assert len(check.ratios) > 1
    page = visit(serve(trace))
    to_step(page, step.index)
    expect(page.locator("[data-bars-hint]")).to_contain_text("the line is its u")
    drawn = page.locator("#player [data-picture=bars] li").evaluate_all(
        "nodes => nodes.map(n => [n.className, n.querySelector('b').style.height, n.querySelector('s')?.style.bottom])"
    )
    assert len(drawn) == len(step.path)
    for column, (fate, height, line) in enumerate(drawn):
        if column >= len(check.ratios):
            assert fate == "unseen" and line is None
            continue
        ratio, u = check.ratios[column], check.uniforms[column]
        assert float(height.rstrip("%")) == pytest.approx(100 * ratio, abs=0.1)
        assert float(line.rstrip("%")) == pytest.approx(100 * u, abs=0.1)
        assert fate == ("accepted" if column < check.accepted else "rejected")
        assert (fate == "accepted") == (u < ratio)


def test_the_lab_searches_while_a_run_goes_on(visit, slow_site):
    page = visit(slow_site)
    page.click("#run")
    expect(page.locator("[data-run]")).to_contain_text(re.compile(r"\d+ tokens? of 128 …"))
    page.click("#page-lab-button")
    page.wait_for_selector("#lab-lattice [data-col]")
    slide(page, "tau", 0.3)
    page.wait_for_function("JSON.parse(document.querySelector('.ds-lab').dataset.settings).tau === 0.3")
    assert slow_site.runs[-1].stop_reason == "running"
    page.click("#page-playground-button")
    page.click("#stop")
    expect(page.locator("#run")).to_be_enabled()


def test_a_follower_says_that_the_ngram_added_it(visit, serve, tiny_pairs):
    pair = tiny_pairs["peeking"]
    text = [9, 40, 41, 42, 43, 44, 45, 46] * 4
    pair = dataclasses.replace(pair, proxy=fit([text], pair.target.vocab_size, (5, 6)))
    settings = Settings(length="fixed", k=2, search="tree", nodes=12, copy=0, followers=3, max_new_tokens=24)
    trace = DiffuSpec(pair, settings).run(ids=text)
    step = next(step for step in trace.steps if (step.search.tree.rank == FOLLOWER).any())
    page = visit(serve(trace))
    to_step(page, step.index)
    page.click("#phase-search")
    cells = page.locator(f"#lattice .node[data-rank='{FOLLOWER}']")
    nodes = step.search.tree.rank == FOLLOWER
    assert cells.count() == len(set(step.search.tree.depth[nodes].tolist()))
    expect(cells.first).to_contain_text("3-gram")
    cells.first.click()
    expect(page.locator("#inspector")).to_contain_text("none: added by the 3-gram")
    assert "added by the 3-gram" in page.locator("#page-playground").inner_text()
