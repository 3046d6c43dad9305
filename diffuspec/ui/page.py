"""The app: one page with a navigation; each entry of PAGES builds its own tab."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import orjson

from diffuspec.trace.model import Trace
from diffuspec.ui import gradio_internals
from diffuspec.ui.api import Api, in_words
from diffuspec.ui.diagnose import page as diagnose
from diffuspec.ui.lab import page as lab
from diffuspec.ui.lab.component import SCRIPT as LAB_JS
from diffuspec.ui.learn import page as learn
from diffuspec.ui.learn.terms import entries
from diffuspec.ui.measure import page as measure
from diffuspec.ui.models.component import STYLE, chooser
from diffuspec.ui.models.events import Chooser
from diffuspec.ui.models.view import chooser_payload
from diffuspec.ui.player.component import SCRIPTS, STYLES
from diffuspec.ui.playground import page as playground
from diffuspec.ui.playground.component import TOUR_JS
from diffuspec.ui.race import page as race
from diffuspec.ui.shell.host import Host
from diffuspec.ui.shell.mine import STORAGE_KEY, RecentRuns
from diffuspec.ui.shell.notice import message, notice
from diffuspec.ui.shell.sessions import KEPT_S, Sessions
from diffuspec.ui.shell.shared import QUIET, Shared
from diffuspec.ui.traces import page as traces

HERE = Path(__file__).parent
TERMS_JS = HERE / "learn" / "terms.js"
FILES_S = 6 * 3600  # how long uploaded and saved files are kept
PAGES: tuple[ModuleType, ...] = (
    playground,
    lab,
    race,
    measure,
    diagnose,
    learn,
    traces,
)
FONT = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "DejaVu Sans", "sans-serif"]
MONO = ["ui-monospace", "Cascadia Code", "DejaVu Sans Mono", "Menlo", "Consolas", "monospace"]


def head() -> str:
    """The scripts that all components share, once."""
    scripts = [path.read_text(encoding="utf-8") for path in (HERE / "pages.js", TOUR_JS, *SCRIPTS, LAB_JS, TERMS_JS)]
    terms = orjson.dumps({"entries": entries()}).decode().replace("<", "\\u003c")
    return "".join(f"<script>{script}</script>" for script in (f"window.DiffuSpecTerms = {terms};", *scripts))


def page_styles() -> list[Path]:
    """Each page's own style sheet, from its folder."""
    return [sheet for page in PAGES for sheet in sorted((HERE / page.NAME).glob("*.css"))]


def launch_options() -> dict[str, Any]:
    """Look and limits, for `Blocks.launch`."""
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO, radius_size="md")
    return {
        "theme": theme.set(
            button_primary_background_fill="#0072b2",
            button_primary_background_fill_dark="#0072b2",
            button_primary_background_fill_hover="#00639c",
            button_primary_background_fill_hover_dark="#00639c",
            button_primary_text_color="#ffffff",
            slider_color="#0072b2",
            slider_color_dark="#56b4e9",
            body_background_fill="#f4f6f8",
            body_background_fill_dark="#10161d",
        ),
        "css_paths": [STYLES[0], HERE / "page.css", *STYLES[1:], STYLE, *page_styles()],
        "head": head(),
        "footer_links": ["api"],
        "max_file_size": "64mb",
        "run_history": False,
        "ssr_mode": False,
        # The endpoints as tools of an MCP server, where `pip install "gradio[mcp]"` was done.
        "mcp_server": importlib.util.find_spec("mcp") is not None,
        "show_error": True,
    }


def build(host: Host, first: Trace | None = None, problem: str | None = None, *, kept_s: float = KEPT_S) -> gr.Blocks:
    """The app. first: the recorded trace shown before anything runs; problem: said where there is none;
    kept_s: seconds that a closed tab can come back to its trace."""
    with gr.Blocks(
        title="DiffuSpec Playground", fill_width=True, analytics_enabled=False, delete_cache=(FILES_S, FILES_S)
    ) as demo:
        with gr.Row(elem_id="masthead"):
            models = Chooser(host)
            title = chooser(chooser_payload(host, ""), elem_id="title")
            said = notice(elem_id="notice", value=message(problem) if problem else None)
        shared = Shared(
            demo,
            host,
            first,
            trace=gr.State(first),
            notice=said,
            mine=gr.BrowserState([], storage_key=STORAGE_KEY, secret=STORAGE_KEY),
            runs=RecentRuns(),
        )
        # Before the pages: a private handler called `search` would take the endpoint's name.
        api = Api(host, demo)
        for endpoint in (api.run, api.trace, api.search):
            gradio_internals.publish(demo, endpoint, endpoint.__name__, in_words)
        with gr.Tabs(elem_id="pages", selected=PAGES[0].NAME):
            for page in PAGES:
                with gr.Tab(page.TITLE, id=page.NAME, elem_id=f"page-{page.NAME}"):
                    page.build(shared)
        demo.unload(Sessions(demo, kept_s).leave)
        timer = gr.Timer(0.6)
        timer.tick(models.tick, None, [title, said, timer], **QUIET)
        title.select(models.act, None, [title, said, timer], **QUIET)
        # A run may have loaded models in another arithmetic.
        said.change(lambda: gr.Timer(active=True), None, timer, **QUIET)
        demo.unload(models.leave)
    gradio_internals.pace_queue(demo)
    gradio_internals.progress_on(demo, said)
    return demo
