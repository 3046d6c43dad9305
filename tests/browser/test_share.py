"""What is taken along: pictures for slides, tables for papers, pages within others, paper."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from playwright.sync_api import expect

from diffuspec.trace.gallery import gallery
from tests.browser.conftest import serious

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def lecture(serve):
    return serve(gallery().trace("1-maths"))


def drawn(page, name: str) -> ElementTree.Element:
    with page.expect_download() as waiting:
        page.locator(f"#player [data-table={name}] + .ds-save [data-save=svg]").click()
    return ElementTree.fromstring(waiting.value.path().read_text(encoding="utf-8"))


def test_a_picture_has_its_title_legend_and_caption_and_is_white_on_request(visit, lecture):
    page = visit(lecture, "?trace=1-maths&step=7&phase=verify&__theme=dark")
    page.wait_for_selector("#adl .plot-container")
    trace = gallery().trace("1-maths")
    dark = drawn(page, "lattice")
    texts = [node.text for node in dark.iter(f"{SVG}text")]
    assert texts[0] == f"Token lattice, step 7 of {len(trace.steps)}"
    assert any("not looked at" in text or "✗ rejected" in text for text in texts if text)
    said = " ".join(text for text in texts if text)
    assert "3 accepted, at +4 it wants “·time”" in said
    assert trace.pair.target in said and "recorded 2026" in said and trace.prompt[:20] in said
    assert dark.find(f"{SVG}rect").get("fill") == "#18202a"
    for name in ("lattice", "adl"):
        more = page.locator(f"#player [data-table={name}] + .ds-save .ds-more")
        more.locator("summary").click()
        more.locator("input").check()
        white = drawn(page, name)
        assert white.find(f"{SVG}rect").get("fill") == "#ffffff"
        assert white.find(f"{SVG}text").get("fill") == "#17202b"
        more.locator("summary").click()
        if name == "lattice":
            # The refused cell has its dashes: #b54800 ends in a zero that once passed for transparent.
            dashed = [node.get("stroke") for node in white.iter(f"{SVG}rect") if node.get("stroke-dasharray")]
            assert "rgb(181, 72, 0)" in dashed
    # Reading the light colours left the page as it was.
    assert page.locator(".ds-light").count() == 0
    expect(page.locator("#player .ds-card").first).to_have_css("background-color", "rgb(24, 32, 42)")


def test_tables_for_papers_have_plain_numbers_and_nothing_that_latex_would_run(visit, lecture):
    page = visit(lecture)
    table = {"head": ["token", "score", "share"], "rows": [["·a_b\\input", "−0.94", "50 %"], ["|x|", "<0.001", "–"]]}
    assert page.evaluate("t => DiffuSpecDraw.markdown(t)", table) == (
        "| token | score | share |\n| --- | ---: | ---: |\n"
        "| ·a\\_b\\\\input | -0.94 | 50 % |\n| \\|x\\| | \\<0.001 | – |\n"
    )
    written = page.evaluate("t => DiffuSpecDraw.latex(t, 'A & B')", table)
    assert r"\caption{A \& B}" in written and r"\begin{tabular}{lrr}" in written
    assert r"\textvisiblespace{}a\_b\textbackslash{}input & $-$0.94 & 50 \% \\" in written
    assert r"|x| & $<$0.001 & -- \\" in written


def test_a_picture_is_embedded_alone_where_its_address_brings_it_back(visit, lecture):
    page = visit(lecture, "?trace=1-maths&step=7&phase=search")
    expect(page.locator("#step-label")).to_contain_text("Step 7 of")
    expect(page.locator("#phase-search")).to_have_attribute("aria-checked", "true")
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (t) => (window.copied = t)}})"
    )
    page.locator("#player [data-table=lattice] + .ds-save summary").click()
    page.locator("#player [data-table=lattice] + .ds-save [data-copy=embed]").click()
    page.wait_for_function("window.copied")
    code = page.evaluate("window.copied")
    address = page.evaluate(
        "t => { const box = document.createElement('template'); box.innerHTML = t;"
        " return box.content.querySelector('iframe').getAttribute('src'); }",
        code,
    )
    assert address == f"{lecture.url}?trace=1-maths&step=7&phase=search&embed=lattice"
    inner = visit(lecture, address.removeprefix(lecture.url), viewport={"width": 900, "height": 620})
    expect(inner.locator("#lattice .path").first).to_be_visible()
    expect(inner.locator("#step-label")).to_contain_text("Step 7 of")
    for part in ("#masthead", "#intro", "#controls", "#text", "#inspector", "#adl", "#merits", "#page-race-button"):
        expect(inner.locator(part)).to_be_hidden()
    inner.click("#step-next")
    expect(inner.locator("#step-label")).to_contain_text("Step 8 of")
    link = inner.locator("[data-embed-link]")
    expect(link).to_be_visible()
    expect(link).to_have_attribute("href", re.compile(r"trace=1-maths&step=8&phase=search#playground$"))
    assert not serious(inner)


@pytest.mark.parametrize("picture", ["player", "text", "adl", "acceptance", "stages", "bars"])
def test_each_picture_fits_its_frame(visit, lecture, picture):
    page = visit(lecture, f"?trace=1-maths&embed={picture}", viewport={"width": 800, "height": 400})
    shown = page.locator({"player": "#merits", "text": "#text"}.get(picture, f"#{picture}"))
    expect(shown).to_be_visible()
    expect(page.locator("#masthead")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if picture in ("adl", "acceptance", "stages"):
        expect(page.locator(f"#{picture} .plot-container")).to_be_visible()


def pages_of(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def test_a_run_is_printed_a_page_a_step_or_as_its_summary(visit, lecture):
    trace = gallery().trace("6-retrieval")
    page = visit(lecture, "?trace=6-retrieval&__theme=dark")
    expect(page.locator("#step-label")).to_contain_text(f"of {len(trace.steps)}")
    page.wait_for_selector("#adl .plot-container")
    page.evaluate("window.print = () => (window.printed = true)")
    page.keyboard.press("s")
    page.click("[data-do=print-steps]")
    page.wait_for_function("window.printed")
    expect(page.locator(".ds-sheet")).to_have_count(len(trace.steps))
    first = page.locator(".ds-sheet").first
    assert "masked position" in first.evaluate("node => node.textContent")
    assert first.locator(".ds-out").count() == len(trace.steps[0].emitted)
    assert pages_of(page.pdf(prefer_css_page_size=True)) == len(trace.steps)
    assert page.locator(".ds-sheet").count() == 0  # Chromium says when it has printed
    page.evaluate("window.printed = false")
    page.keyboard.press("s")
    page.click("[data-do=print-run]")
    page.wait_for_function("window.printed")
    assert not page.evaluate("document.body.classList.contains('dark')")
    assert 1 <= pages_of(page.pdf(prefer_css_page_size=True)) <= 5
    assert page.evaluate("document.body.classList.contains('dark')")
