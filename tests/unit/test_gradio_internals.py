"""What Gradio does not promise, as the app relies on it; and that one file alone does."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from diffuspec.ui import gradio_internals as internals

UI = Path(internals.__file__).parent
PRIVATE = re.compile(
    r"\b(?:event|told|asked|state|demo|block|fn)\._[a-z]|\._queue\b|state_holder|pending_messages|demo\.fns"
)


def test_private_attributes_stand_in_one_file():
    users = [p.relative_to(UI).as_posix() for p in UI.rglob("*.py") if PRIVATE.search(p.read_text(encoding="utf-8"))]
    assert users == ["gradio_internals.py"]


def test_what_the_app_relies_on_is_there():
    def act(x: int) -> int:
        """Add.

        Args:
            x: {words}.

        Returns:
            a number.
        """
        return x

    with gr.Blocks() as demo:
        quiet = gr.Button()
        node = gr.HTML()
        quiet.click(lambda: None, show_progress="hidden", api_visibility="private")
        internals.publish(demo, act, "act", lambda text: text.replace("{words}", "from 1 to 3"))
    internals.pace_queue(demo)
    internals.progress_on(demo, node)
    assert demo._queue.sleep_when_free == internals.LOOK_FOR_WORK_S
    hidden = next(fn for fn in demo.fns.values() if fn.show_progress == "hidden")
    assert hidden.show_progress_on == [node]
    assert list(internals.endpoint_names(demo)) == ["act"]
    function = next(fn for fn in demo.fns.values() if fn.api_name == "act")
    assert function.inputs[0].api_info()["additional_description"].startswith("from 1 to 3")
    assert internals.sent(gr.EventData(None, {"open": 2})) == {"open": 2}
    assert internals.unread(demo, "nobody") == 0
    assert internals.last_used(demo, "nobody") is None
    internals.forget(demo, "nobody")
    assert internals.served_folder() == get_upload_folder()
