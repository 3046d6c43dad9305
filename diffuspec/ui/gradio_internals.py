"""Everything of Gradio that it does not promise to keep, in one place: a new version of it is tried against
`tests/unit/test_gradio_internals.py` first. No other file of the app reads or sets such attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import gradio as gr
from gradio.utils import get_function_description, get_upload_folder

LOOK_FOR_WORK_S = 0.02  # between two looks of the queue for work


def pace_queue(demo: gr.Blocks) -> None:
    """Gradio's queue, which by itself looks for work a thousand times a second: that took a tenth of a core from an
    idle page, and a tenth of the engine's speed while it decoded."""
    demo.queue()
    demo._queue.sleep_when_free = LOOK_FOR_WORK_S
    demo._queue.progress_update_sleep_when_free = 2 * LOOK_FOR_WORK_S


def progress_on(demo: gr.Blocks, node: gr.components.Component) -> None:
    """Let events that show no progress tell it to one component alone: by itself the page hands the status of each
    look at a run to all components that an event fills, on the cores that the run needs."""
    for event in demo.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [node]


def publish(demo: gr.Blocks, endpoint: Callable, name: str, words: Callable[[str], str] = str) -> None:
    """`gr.api`, with the descriptions of parameters and result that the docstring gives, each through `words`."""
    description, parameters, returned = get_function_description(endpoint)
    # Left to itself, an MCP server puts a comma after each line of what is returned.
    described = f"{words(description)} Returns: {' '.join(returned)}"
    gr.api(endpoint, api_name=name, api_description=described, concurrency_limit=None)
    function = next(made for made in demo.fns.values() if made.api_name == name)
    for component, text in zip(function.inputs, filter(None, parameters.values()), strict=True):
        component.api_info()["additional_description"] = words(text)
    function.outputs[0].api_info()["description"] = " ".join(returned)


def sent(event: gr.EventData) -> Any:
    """What a component's script handed to `trigger`; untrusted."""
    return event._data


async def state_of(request: gr.Request, demo: gr.Blocks, state: gr.State) -> Any:
    """The visitor's value of `state`, for a component's server function: of the visitor that gets the request alone."""
    return demo.state_holder[(await request.json())["session_hash"]][state._id]


def last_used(demo: gr.Blocks, session: str) -> datetime | None:
    """When the session last did anything; None where it is forgotten already."""
    return demo.state_holder.time_last_used.get(session)


def forget(demo: gr.Blocks, session: str) -> None:
    """Drop a session with every value drawn on its page."""
    holder = demo.state_holder
    with holder.lock:
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)


def unread(demo: gr.Blocks, session: str) -> int:
    """Messages of the queue that the session's page or client has not fetched."""
    waiting = demo._queue.pending_messages_per_session.get(session)
    return 0 if waiting is None else waiting.qsize()


def served_folder() -> str:
    """Where Gradio hands out files from as they are, without a copy of its own."""
    return get_upload_folder()


def endpoint_names(demo: gr.Blocks) -> Iterable[str]:
    """The endpoints that the API page and an MCP server show."""
    return [fn.api_name for fn in demo.fns.values() if fn.api_visibility == "public" and fn.api_name]
