"""A real server on a free port and a real Chromium; every request that leaves localhost fails its test."""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from urllib.parse import urlparse

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from diffuspec.ui.page import build, launch_options
from diffuspec.ui.shell.host import Host
from tests.fakes.diagnosis import fake_diagnose
from tests.fakes.scripted import (
    FakePair,
    FakeRun,
    fake_compare,
    fake_costs,
    fake_lane,
    fake_study,
    fake_trace,
    fake_verify,
)

SLOW_MS = 60_000  # what a machine with other work on it may take for a page; nothing waits that long when idle
expect.set_options(timeout=30_000)

HOSTILE = (
    " <img src=x onerror=window.hacked=1>",
    " ${window.hacked=2}",
    " {{window.hacked=3}}",
    " <script>window.hacked=4</script>",
    " </script><svg onload=window.hacked=5>",
)
HOSTILE_SCRIPT = " so".join(HOSTILE) + " the end."


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if not found:
        pytest.fail("The browser tests need Chromium: install it, or name its program in the variable CHROMIUM.")
    return found


@pytest.fixture(scope="module")
def browser():
    """One Chromium a module: Playwright's own loop must end before another module starts one."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield instance
        instance.close()


def serious(page) -> list:
    """What axe finds in the page in front, serious or worse."""
    page.mouse.move(0, 0)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (v["id"], v["impact"], [n["html"][:160] for n in v["nodes"][:4]])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


class Site:
    """A page served from this process on fake models."""

    def __init__(self, trace, *, pause=0.05, script=None, extra=(), load=None, pairs=None, own=False):
        made = {} if script is None else {"script": script}

        def fake_load(dtype, progress):
            return FakePair(extra=extra, dtype=dtype, **made)

        self.runs = []
        self.hold = None  # answered questions after which a study waits to be stopped
        self.compared = threading.Event()  # cleared: comparing with plain AR waits in the middle
        self.compared.set()

        def start(pair, settings, prompt):
            self.runs.append(FakeRun(pair, settings, prompt, pause=pause))
            return self.runs[-1]

        study = partial(fake_study, pause=4 * pause, hold=lambda: self.hold)
        self.host = Host(
            load or fake_load,
            start,
            partial(fake_compare, pause=0.012, gate=self.compared),
            fake_verify,
            partial(fake_lane, pause=pause),
            fake_costs,
            study,
            fake_diagnose,
            pair_name="fake",
            pairs=pairs,
            own=own,
        )
        self.demo = build(self.host, trace)
        self.host.warm_up()
        self.demo.launch(quiet=True, prevent_thread_lock=True, inbrowser=False, **launch_options())
        self.url = self.demo.local_url


@pytest.fixture(scope="module")
def serve():
    """serve(trace, ...) -> Site, closed with its module: the loops of a server that nobody visits look around a
    hundred times a second, and thirty of them kept every later test from half of its processor."""
    made = []

    def start(*args, **options) -> Site:
        made.append(Site(*args, **options))
        return made[-1]

    yield start
    for site in made:
        site.demo.close(verbose=False)


@pytest.fixture(scope="module")
def site(serve):
    return serve(fake_trace(k_min=4, k_max=14, max_new_tokens=128))


@pytest.fixture(scope="module")
def slow_site(serve):
    """A step takes a fifth of a second: long enough to press Stop."""
    return serve(fake_trace(max_new_tokens=64), pause=0.2)


@pytest.fixture(scope="module")
def window(browser):
    """One browser context for the visits of a module: a page whose scripts are cached loads three times as fast."""
    context = browser.new_context()
    context.set_default_timeout(SLOW_MS)
    yield context
    context.close()


@pytest.fixture
def visit(browser, window):
    """visit(site, viewport=..., reduced_motion=...) -> page with the player drawn; fails on foreign requests and
    script errors. Each page is a visitor of its own; what one test leaves in the browser's storage is cleared."""
    pages, contexts, foreign, broken = [], [], [], []

    def look(request):
        address = urlparse(request.url)
        if address.scheme not in ("data", "blob") and address.hostname not in ("127.0.0.1", "localhost"):
            foreign.append(request.url)

    def open_page(site, query="", viewport=None, reduced_motion="no-preference"):
        # A second page in one window would put the first behind it, where a browser draws no frames.
        if pages:
            contexts.append(browser.new_context())
            contexts[-1].set_default_timeout(SLOW_MS)
        page = (contexts[-1] if contexts else window).new_page()
        pages.append(page)
        page.set_viewport_size(viewport or {"width": 1440, "height": 900})
        page.emulate_media(reduced_motion=reduced_motion)
        page.on("request", look)
        page.on("websocket", lambda socket: foreign.append(socket.url) if "127.0.0.1" not in socket.url else None)
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(site.url + query)
        page.wait_for_selector("#lattice [data-col], #lattice .ds-empty", state="attached")
        # The page is alive once Gradio has mounted its events.
        page.wait_for_function("document.querySelector('#run') && document.querySelector('#step-label b')")
        return page

    yield open_page
    for page in pages:
        if not page.is_closed():
            page.evaluate("localStorage.clear()")
            page.close()
    for context in contexts:
        context.close()
    assert not foreign, f"requests left localhost: {foreign}"
    assert not broken, f"errors in the page: {broken}"
