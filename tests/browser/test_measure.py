"""The Measure page in a real browser, on a scripted study (fake.py)."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from diffuspec.measure.studies import StudyResult
from tests.browser.conftest import serious
from tests.fakes.scripted import fake_result

COUNT = "#results [data-count]"
# window.counts: the numbers of answers that the page shows from now on.
COUNTS = f"""() => {{
  const node = document.querySelector("{COUNT}");
  window.counts = [];
  const look = () => node.textContent && window.counts.push(parseInt(node.textContent));
  new MutationObserver(look).observe(node, {{childList: true, characterData: true, subtree: true}});
}}"""


def at_measure(visit, site, query="#measure", **options):
    page = visit(site, query, **options)
    page.wait_for_selector("#results h2")
    return page


def upload(page, button, path):
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(path)


def test_a_study_fills_its_table_is_cancelled_and_goes_on(visit, site, tmp_path):
    page = at_measure(visit, site)
    page.get_by_label(re.compile("Tables 2 and 4")).check()
    expect(page.locator("#results h2")).to_contain_text("CPS and ADL")
    page.fill("#measure-limit input", "4")
    site.hold = 2
    page.click("#measure-run")
    expect(page.locator("#results [data-badge]")).to_have_text("being measured")
    expect(page.locator("#results [data-summary] tbody tr").first).to_be_visible()
    page.click("#measure-stop")
    expect(page.locator("#measure-run")).to_be_enabled()
    expect(page.locator("#results [data-said]")).to_contain_text("Cancelled")
    done = int(page.inner_text(COUNT).split()[0])
    assert 0 < done < 20
    site.hold = None
    # Badge, button and count already stand as they do at the end: what was counted on the way is kept.
    page.evaluate(COUNTS)
    page.click("#measure-run")
    expect(page.locator(COUNT)).to_have_text("20 of 20 answers", timeout=40_000)
    expect(page.locator("#results [data-badge]")).to_have_text("measured here")
    expect(page.locator("#measure-run")).to_be_enabled()
    counts = page.evaluate("window.counts")
    assert len(counts) > 1 and counts == sorted(counts) and counts[0] >= done, counts
    expect(page.locator("#results .ds-theirs").first).to_be_visible()
    expect(page.locator("#study-chart .plot-container")).to_be_visible()
    with page.expect_download() as download:
        page.click("#measure-save")
    assert StudyResult.load(download.value.path()).complete
    page.get_by_label(re.compile("Table 5")).check()
    expect(page.locator("#results h2")).to_contain_text("Fixed draft lengths")
    page.get_by_label(re.compile("Tables 2 and 4")).check()
    expect(page.locator("#results [data-badge]")).to_have_text("measured here")


def test_results_and_questions_from_files(visit, site, tmp_path):
    page = at_measure(visit, site)
    result = fake_result("sweep")
    result.save(tmp_path / "sweep.json")
    upload(page, "#measure-file", tmp_path / "sweep.json")
    expect(page.locator("#results h2")).to_contain_text("Figure 7")
    expect(page.locator("#results [data-note]")).to_contain_text("From the file you opened")
    expect(page.locator("#measure-study input:checked")).to_have_value("sweep")
    (tmp_path / "bad.json").write_text('{"format": "diffuspec-results", "study": "<script>"}')
    upload(page, "#measure-file", tmp_path / "bad.json")
    expect(page.locator("#notice .ds-message")).to_contain_text("The results on the page are kept")
    (tmp_path / "mine.jsonl").write_text('{"question_id": 1, "category": "qa", "turns": ["Why is the sky blue?"]}\n')
    upload(page, "#measure-questions", tmp_path / "mine.jsonl")
    expect(page.locator("#measure-limit")).to_contain_text("1 in mine.jsonl")
    (tmp_path / "none.jsonl").write_text("not questions")
    upload(page, "#measure-questions", tmp_path / "none.jsonl")
    expect(page.locator("#notice .ds-message")).to_contain_text("is not a question")
    expect(page.locator("#measure-limit")).to_contain_text("1 in mine.jsonl")
    page.click("#measure-own")
    expect(page.locator("#measure-limit")).to_contain_text("of our own")


def test_a_study_gives_way_to_the_playground(visit, slow_site):
    page, other = at_measure(visit, slow_site), visit(slow_site)
    page.fill("#measure-limit input", "40")
    page.click("#measure-run")
    expect(page.locator("#results [data-badge]")).to_have_text("being measured")
    other.fill("#prompt textarea", "May I come in between?")
    other.click("#run")
    expect(other.locator("[data-badge]").first).to_have_text("measured here")
    assert page.inner_text("#results [data-badge]") == "being measured"
    other.click("#stop")
    page.click("#measure-stop")
    expect(page.locator("#measure-run")).to_be_enabled()


def test_all_columns_of_table_1_are_to_be_seen_at_820_px(visit, site):
    page = at_measure(visit, site, viewport={"width": 820, "height": 1180})
    expect(page.locator("#results [data-summary] thead")).to_contain_text("identical to AR")
    table, room = page.locator(".ds-results-table").first.evaluate("t => [t.scrollWidth, t.parentElement.clientWidth]")
    assert table <= room


@pytest.mark.parametrize("theme, width", [("light", 1440), ("dark", 820)])
def test_axe_and_no_sideways_scroll(visit, site, theme, width, tmp_path):
    page = at_measure(visit, site, f"?__theme={theme}#measure", viewport={"width": width, "height": 900})
    fake_result("methods", questions=6).save(tmp_path / "methods.json")
    upload(page, "#measure-file", tmp_path / "methods.json")
    page.wait_for_selector("#study-chart .plot-container")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not serious(page)
