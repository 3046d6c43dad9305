"""Learn: lessons, predictions, the glossary, and the way to the Playground."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from diffuspec import Settings
from diffuspec.trace.gallery import gallery
from diffuspec.ui.learn.glossary import glossary
from diffuspec.ui.learn.lessons import lesson, lessons
from diffuspec.ui.learn.lessons.puzzles import solve


def learn(visit, site, name="", **options):
    page = visit(site, f"#learn/{name}" if name else "#learn", **options)
    page.wait_for_selector("#learn-quiz form")
    if name:
        expect(page.locator("#learn-text h1")).to_contain_text(lesson(name).title.replace("'", "’").split("’")[0])
    return page


def predict(page, entry, value):
    """Enter a prediction and reveal."""
    expect(page.locator(".ds-reveal")).to_be_disabled()
    if entry.choices:
        page.locator(f".ds-choice input[value='{value}']").check()
    else:
        page.locator(".ds-number-field input").fill(f"{value:g}")
    page.click(".ds-reveal")
    page.wait_for_selector(".ds-verdict")


def test_equations_are_rendered_without_a_network(visit, site):
    page = learn(visit, site)
    expect(page.locator("#learn-text .katex-display").first).to_be_visible()
    assert page.locator("#learn-text .katex-error").count() == 0
    assert "$$" not in page.inner_text("#learn-text")
    assert page.locator("[data-lesson]").count() == len(lessons()) + 1


def test_each_lesson_has_a_picture_between_its_paragraphs(visit, site):
    page = learn(visit, site)
    for entry in lessons():
        page.locator(f"[data-lesson={entry.name}]").click()
        expect(page.locator("#learn-text h1")).to_contain_text(entry.title.replace("'", "’").split("’")[0])
        figure = page.locator("#learn-picture figure")
        expect(figure).to_have_count(1)
        expect(figure.locator("li").nth(1)).to_be_visible()
        box, text = figure.bounding_box(), page.locator("#learn-text").bounding_box()
        assert box["x"] + box["width"] <= text["x"] + text["width"] + 1
        assert page.locator("#learn-text .learn-prose").last.bounding_box()["y"] > box["y"]
    assert page.locator("#learn-picture .path").count() >= 5, "a tree"


def test_the_glossary_is_searched(visit, site):
    page = visit(site, "#learn/glossary")
    field = page.get_by_role("searchbox", name="Find a term")
    field.fill("eq. 7")
    terms = page.locator("#learn-text .learn-prose p:visible")
    expect(page.locator("#learn-picture [role=status]")).to_have_text(re.compile(r"^\d+ terms$"))
    said = terms.all_inner_texts()
    assert 2 <= len(said) < 10 and all("eq. 7" in text.lower() for text in said)
    field.fill("no such thing")
    expect(page.locator("#learn-picture [role=status]")).to_contain_text("No term has this")
    field.fill("")
    expect(terms).to_have_count(len(glossary()))
    page.locator("[data-lesson=one-step]").click()
    expect(page.locator("#learn-picture figure")).to_be_visible()


def test_predict_then_reveal_is_computed_and_told(visit, site):
    page = learn(visit, site, "one-step")
    entry, outcome = lesson("one-step"), solve(gallery(), "one_step")
    assert "correction" not in page.inner_text("#learn-quiz .ds-told")
    predict(page, entry, outcome.answer)
    expect(page.locator(".ds-verdict")).to_have_class(re.compile("right"))
    expect(page.locator(".ds-words")).to_contain_text(f"“{outcome.facts['own']}”")
    page.click(".ds-again")
    predict(page, entry, outcome.answer + 1 if outcome.answer < int(outcome.facts["most"]) else 0)
    expect(page.locator(".ds-verdict")).to_contain_text("✗")
    expect(page.locator("[data-lesson=one-step] .ds-done")).to_be_visible()


def test_sliders_compute_anew(visit, site):
    page = learn(visit, site, "break-even")
    predict(page, lesson("break-even"), 2)
    expect(page.locator("#learn-quiz .plot-container")).to_be_visible()
    before = page.locator("#learn-quiz .ds-plot .scatterlayer path").first.get_attribute("d")
    page.locator(".ds-inputs input[name=alpha]").fill("0.9")
    page.wait_for_function(
        "before => document.querySelector('#learn-quiz .ds-plot .scatterlayer path').getAttribute('d') !== before",
        arg=before,
    )
    expect(page.locator(".ds-inputs output").first).to_have_text("0.9")


def test_a_lesson_opens_its_step_on_the_playground(visit, site):
    page = learn(visit, site, "path-search")
    outcome = solve(gallery(), "path_search")
    page.click(".ds-open")
    expect(page.locator("#page-playground-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#step-label")).to_contain_text(f"Step {outcome.step + 1} of")
    expect(page.locator("#phase-verify")).to_have_attribute("aria-checked", "true")
    expect(page.locator("#prompt textarea")).to_have_value(gallery().trace(outcome.trace).prompt)


def test_a_lesson_sets_the_knobs(visit, site):
    page = learn(visit, site, "adl-at-the-papers-settings")
    page.click(".ds-open")
    expect(page.locator("#page-playground-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#knob-k_min input[type=number]")).to_have_value(str(Settings.paper().k_min))
    expect(page.locator("#notice")).to_contain_text("Press Run")


def test_the_address_names_the_lesson_and_the_list_goes_by_keyboard(visit, site):
    page = learn(visit, site, "who-missed")
    expect(page.locator("[data-lesson=who-missed]")).to_have_attribute("aria-current", "page")
    page.locator("[data-lesson=lossless]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#learn-text h1")).to_contain_text(lesson("lossless").title)
    assert page.evaluate("location.hash") == "#learn/lossless"
    page.go_back()
    expect(page.locator("#learn-text h1")).to_contain_text(lesson("who-missed").title)


def test_terms_open_from_text_knobs_and_cards_by_keyboard(visit, site):
    page = learn(visit, site)
    page.locator("#learn-text a[href='#term-drafter']").focus()
    page.keyboard.press("Enter")
    card = page.locator("#term-card")
    expect(card).to_be_visible()
    expect(card.locator("h2")).to_have_text(glossary()["drafter"].name)
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    expect(page.locator("#learn-text a[href='#term-drafter']")).to_be_focused()
    page.click("#page-playground-button")
    page.click("#settings > button")
    for name in ("tau", "beam", "k_max"):
        page.locator(f"#knob-{name} .ds-ask").click()
        entry = next(term for term in glossary().values() if term.knob == name)
        expect(card.locator("h2")).to_have_text(entry.name)
        page.keyboard.press("Escape")
    page.locator("#knob-tau .ds-ask").click()
    card.get_by_role("link", name=re.compile("^Lesson")).click()
    expect(page.locator("#page-learn-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#learn-text h1")).to_contain_text("lattice")


def test_help_stands_beside_the_settings_not_over_them(visit, site):
    page = visit(site)
    page.locator("#settings[data-ready] > button").click()
    page.locator("#knob-length .ds-ask").click()
    card = page.locator("#term-card")
    expect(card.locator("dt")).to_have_text(list(Settings.knobs()["length"].choices))
    column, box = page.locator("#controls").bounding_box(), card.bounding_box()
    assert box["x"] >= column["x"] + column["width"]
    assert box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"]


def test_the_glossary_is_a_page_of_its_own(visit, site):
    page = visit(site, "#learn/glossary")
    expect(page.locator("#learn-text h1")).to_have_text("Glossary")
    assert page.locator("#learn-text strong").count() == len(glossary())
    page.locator("#learn-text a[href^='#term-']").first.click()
    expect(page.locator("#term-card")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, site, theme):
    page = visit(site, f"?__theme={theme}#learn/adl-at-the-papers-settings")
    page.wait_for_selector("#learn-quiz form")
    predict(page, lesson("adl-at-the-papers-settings"), "20")
    page.locator("#learn-text a[href^='#term-']").first.click() if page.locator("#learn-text a").count() else None
    found = Axe().run(page, context="#learn", options={"resultTypes": ["violations"]})
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in serious]


def test_nothing_overflows_at_820_pixels(visit, site):
    page = learn(visit, site, "break-even", viewport={"width": 820, "height": 1180})
    predict(page, lesson("break-even"), 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 820
