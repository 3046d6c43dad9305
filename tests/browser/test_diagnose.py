"""The Diagnose page: a diagnosis made, kept when cancelled, saved, opened and compared."""

import pytest
from playwright.sync_api import expect

from diffuspec import assets
from diffuspec.measure.diagnose.diagnosis import Diagnosis
from diffuspec.measure.diagnose.verdict import sentences
from tests.browser.conftest import serious
from tests.fakes.diagnosis import fake_diagnosis


def at_diagnose(visit, site, query="#diagnose", **options):
    page = visit(site, query, **options)
    expect(page.locator("#diagnose-run")).to_be_visible()
    return page


def upload(page, button, path):
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(path)


def test_a_diagnosis_from_the_press_to_the_file(visit, site, tmp_path):
    page = at_diagnose(visit, site)
    there = Diagnosis.load(assets.ASSETS / "results" / "diagnosis.json")
    expect(page.locator("#diagnose-said")).to_contain_text(f"recorded earlier, on {there.provenance.recorded_at[:10]}")
    expect(page.locator("#diagnosis")).to_contain_text(sentences(there)[0])
    page.fill("#diagnose-minutes input", "0")
    page.click("#diagnose-run")
    expect(page.locator("#notice .ds-message")).to_contain_text("enter a number from 0.5 to 30")
    page.fill("#diagnose-minutes input", "2")
    page.click("#diagnose-run")
    expect(page.locator("#diagnose-said progress")).to_be_visible()
    expect(page.locator("#diagnose-said")).to_contain_text("Measuring: question")
    expect(page.locator(".ds-worth-first")).to_contain_text("times as fast as plain decoding")
    expect(page.locator("#diagnose-said")).to_contain_text("measured here, on this machine")
    expect(page.locator("#diagnosis")).to_contain_text("A note <b>on</b> what was not done.")
    with page.expect_download() as download:
        page.click("#diagnose-save")
    assert Diagnosis.load(download.value.path()).minutes == 2
    with page.expect_download() as download:
        page.click("#diagnose-report")
    assert download.value.path().read_text().startswith("<!doctype html>")
    page.click("#diagnose-run")
    expect(page.locator("#diagnose-said progress")).to_be_visible()
    page.click("#diagnose-stop")
    expect(page.locator("#diagnose-said")).to_contain_text("Cancelled")
    expect(page.locator(".ds-worth-first")).to_be_visible()


def test_one_from_a_file_and_another_beside_it(visit, site, tmp_path):
    page = at_diagnose(visit, site)
    fake_diagnosis(faster=0.7, levers=()).save(tmp_path / "laptop.json")
    fake_diagnosis(faster=1.4).save(tmp_path / "server.json")
    (tmp_path / "bad.json").write_text('{"format": "diffuspec-diagnosis", "version": 1}')
    upload(page, "#diagnose-file", tmp_path / "laptop.json")
    expect(page.locator(".ds-worth-first")).to_contain_text("Do not use it here")
    expect(page.locator("#diagnose-said")).to_contain_text("from the file you opened")
    upload(page, "#diagnose-file", tmp_path / "bad.json")
    expect(page.locator("#notice .ds-message")).to_contain_text("What is on the page is kept")
    upload(page, "#diagnose-other", tmp_path / "server.json")
    expect(page.locator("#diagnose-comparison")).to_contain_text("on the page against server")


@pytest.mark.parametrize("theme, width", [("light", 1366), ("dark", 820)])
def test_axe_and_no_sideways_scroll(visit, site, theme, width, tmp_path):
    page = at_diagnose(visit, site, f"?__theme={theme}#diagnose", viewport={"width": width, "height": 900})
    fake_diagnosis().save(tmp_path / "a.json")
    upload(page, "#diagnose-file", tmp_path / "a.json")
    expect(page.locator(".ds-worth-first")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not serious(page)
