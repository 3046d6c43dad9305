"""The line under the title, and the list of pairs behind it, on loads that tests hold back."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from playwright.sync_api import expect

from diffuspec.errors import WeightsError
from diffuspec.ui.shell.loader import Loader
from tests.browser.conftest import serious
from tests.fakes.scripted import FakePair, fake_trace

GATED = "The model b could not be loaded: it is gated. Accept its licence on its page."


class FakeLoader(Loader):
    """A known pair whose models are made up; `go`: set where it may be loaded."""

    def __init__(self, asked, error=None):
        super().__init__(asked)
        self.error, self.go = error, threading.Event()
        self.go.set()

    def arithmetic(self, dtype):
        return dtype

    def fetch(self, dtype, progress):
        progress(0.25, "Fetching it: 1.0 of 4.0 GB")
        self.go.wait(60)
        progress(0.5, "Fetching it: 2.0 of 4.0 GB")
        if self.error:
            raise self.error

    def __call__(self, dtype, progress):
        pair, facts = FakePair(dtype=dtype), self.facts()
        pair.info = dataclasses.replace(
            pair.info, name=self.pair_name, target=facts.target, drafter=facts.drafter, device="cpu"
        )
        return pair


@pytest.fixture
def pairs():
    made = {name: FakeLoader({"name": name}) for name in ("embedded", "coder", "dflash-qwen3-4b")}
    made["dflash-llama3.1-8b"] = FakeLoader({"name": "dflash-llama3.1-8b"}, WeightsError(GATED))
    return made


@pytest.fixture
def opened(serve, visit, pairs):
    site = serve(fake_trace(max_new_tokens=32), pairs=pairs, own=True)
    page = visit(site)
    expect(page.locator("[data-main]")).to_have_text("SmolLM2-135M-Instruct, 8-bit, CPU")
    page.click("[data-open]")
    page.wait_for_selector(".ds-models-row")
    return site, page


def row(page, key):
    return page.locator(f'.ds-models-row[data-key="{key}"]')


def test_a_pair_is_loaded_with_progress_and_is_then_the_one_that_runs(opened, pairs):
    site, page = opened
    pairs["coder"].go.clear()
    row(page, "coder").get_by_role("button", name="Load coder").click()
    expect(row(page, "coder").locator("progress")).to_have_attribute("value", "0.25")
    expect(row(page, "coder")).to_contain_text("1.0 of 4.0 GB")
    expect(page.locator("[data-main]")).to_contain_text("SmolLM2")
    pairs["coder"].go.set()
    expect(row(page, "coder")).to_have_attribute("aria-current", "true")
    expect(page.locator("[data-main]")).to_have_text("Qwen2.5-Coder-1.5B-Instruct, 8-bit, CPU")
    expect(page.locator("[data-drafts]")).to_have_text("drafts: copies of the text")
    expect(page.locator("[data-whole]")).to_contain_text("in 8-bit arithmetic (int8) on the CPU")
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.click("#run")
    expect(page.locator("#stop")).to_be_enabled()
    expect(page.locator("#run")).to_be_enabled()
    assert site.runs[-1].pair.info.name == "coder"


def test_a_load_that_fails_is_one_sentence_and_the_pair_before_stays(opened):
    _, page = opened
    row(page, "dflash-llama3.1-8b").get_by_role("button", name="Load").click()
    expect(row(page, "dflash-llama3.1-8b")).to_contain_text(GATED)
    expect(row(page, "dflash-llama3.1-8b").get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator("#notice .ds-message span")).to_contain_text("The pair in use before stays.")
    expect(page.locator("[data-main]")).to_contain_text("SmolLM2")
    expect(row(page, "embedded")).to_contain_text("in use")


def test_loading_is_cancelled_and_what_is_unloaded_is_gone(opened, pairs):
    site, page = opened
    pairs["dflash-qwen3-4b"].go.clear()
    row(page, "dflash-qwen3-4b").get_by_role("button", name="Load").click()
    row(page, "dflash-qwen3-4b").get_by_role("button", name="Do not load").click()
    expect(row(page, "dflash-qwen3-4b").get_by_role("button", name="Load")).to_be_visible()
    pairs["dflash-qwen3-4b"].go.set()
    row(page, "embedded").get_by_role("button", name="Unload").click()
    expect(page.locator("[data-main]")).to_have_text("SmolLM2-135M-Instruct, not loaded")
    until = time.monotonic() + 20  # a load that was given up ends by itself
    while site.host.shelf.copies() and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert site.host.shelf.copies() == []
    page.keyboard.press("Escape")
    page.click('#pages [role=tab]:has-text("Traces")')
    page.locator("#gallery button", has_text="Open").first.click()
    expect(page.locator("#step-label b")).to_contain_text("Step")
    assert site.host.shelf.copies() == [], "a recorded trace needs no models"


def test_models_of_ones_own_are_named_in_the_page_and_programs_are_not(opened):
    site, page = opened
    page.click(".ds-models-own > summary")
    page.fill('[name="target"]', "some/target")
    page.fill('[name="drafter"]', "os:Popen")
    page.locator("[data-form]").get_by_role("button", name="Load").click()
    expect(page.locator("#notice .ds-message span")).to_contain_text("a program, which a page does not start")
    assert not any("some/target" in key for key in site.host.shelf.pairs)


def test_a_shared_server_lets_nobody_unload_or_name_checkpoints(serve, visit, pairs):
    site = serve(fake_trace(max_new_tokens=32), pairs={"embedded": pairs["embedded"], "coder": pairs["coder"]})
    page = visit(site)
    page.click("[data-open]")
    expect(row(page, "embedded")).to_contain_text("in use")
    expect(page.locator(".ds-models-own")).to_be_hidden()
    expect(page.get_by_role("button", name="Unload")).to_have_count(0)
    expect(page.locator(".ds-models-row")).to_have_count(2)
