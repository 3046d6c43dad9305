"""The pictures in assets/screenshots, taken anew: `python -m scripts.screenshots`.

It needs Chromium, and loads the embedded pair. The recorded traces and results are shown,
so that the pictures change only where the app does.
"""

from __future__ import annotations

import os
import sys

from diffuspec import assets

WIDTH, HEIGHT = 1440, 1000
PAGES = ("lab", "race", "measure", "learn", "traces")


def main() -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from playwright.sync_api import sync_playwright

    from diffuspec.ui.page import build, launch_options
    from diffuspec.ui.shell.files import recorded
    from diffuspec.ui.shell.host import Host
    from tests.browser.conftest import chromium

    host = Host()
    demo = build(host, *recorded(assets.traces()))
    host.warm_up().result()
    demo.launch(quiet=True, prevent_thread_lock=True, inbrowser=False, **launch_options())
    folder = assets.ASSETS / "screenshots"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])

        def opened(theme: str, query: str = "", height: int = HEIGHT):
            page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme=theme)
            page.emulate_media(reduced_motion="reduce")
            page.goto(f"{demo.local_url}?__theme={theme}{query}")
            page.wait_for_selector("#step-label b")
            page.wait_for_timeout(3000)
            return page

        for theme, height in (("light", 1240), ("dark", HEIGHT)):
            opened(theme, height=height).screenshot(path=folder / f"playground-{theme}.png")
        opened("light", "&present=1").screenshot(path=folder / "presenter.png")
        page = opened("light")
        for name in PAGES:
            page.click(f"#page-{name}-button")
            page.wait_for_timeout(2500)
            page.screenshot(path=folder / f"{name}.png")
        browser.close()
    sys.stdout.flush()
    os._exit(0)  # the server's threads would wait


if __name__ == "__main__":
    main()
