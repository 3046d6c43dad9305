"""What happens on click."""

from __future__ import annotations

import logging
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import orjson

from diffuspec.errors import DiffuSpecError, PromptError, SettingsError, TraceError, WeightsError
from diffuspec.settings import Settings
from diffuspec.trace import Trace
from diffuspec.ui.components.notice import loading, message
from diffuspec.ui.host import DTYPES, Host, Job
from diffuspec.ui.knobs import to_settings
from diffuspec.ui.views.merits import RECORDED, Source
from diffuspec.ui.views.payload import payload

log = logging.getLogger("diffuspec")

# Steps sent in full with each look at a run; more than pass between two looks, so that a look the
# browser drops is made good by the next.
RECENT = 16
UNEXPECTED = "Something went wrong on the server; its log has the details. What was made so far stays here."


def explain(error: BaseException) -> str:
    """Words for the person at the keyboard; the rest goes to the log."""
    if isinstance(error, DiffuSpecError):
        return str(error)
    log.error("unexpected error in the playground", exc_info=error)
    return UNEXPECTED


class Events:
    """The handlers of one page; `jobs` holds each visitor's run by session."""

    def __init__(self, host: Host, knob_names: list[str]):
        self.host, self.knob_names = host, knob_names
        self.jobs: dict[str, Job] = {}

    def enter(self, request: gr.Request, prompt: str, adl: bool, cps: bool, dtype: str, compare: bool, *values: Any):
        """Check the input and take a place in the queue. -> notice, run, stop, ticket"""
        try:
            settings = to_settings(adl, cps, dict(zip(self.knob_names, values, strict=True)))
            job = make_job(prompt, settings, dtype, compare)
        except DiffuSpecError as error:
            return message(str(error)), gr.skip(), gr.skip(), gr.skip()
        self.leave(request)
        self.jobs[request.session_hash] = job
        return message(None), gr.Button(interactive=False), gr.Button(interactive=True), uuid.uuid4().hex

    def follow(self, ticket: str, request: gr.Request) -> Iterator[tuple]:
        """Stream the visitor's job. -> player, trace, notice, run, stop"""
        job = self.jobs.get(request.session_hash)
        idle = gr.Button(interactive=True), gr.Button(interactive=False)
        keep = gr.skip()
        if job is None or not ticket:
            yield keep, keep, keep, *idle
            return
        last, said = None, keep
        try:
            for look in self.host.follow(job):
                if look.status is not None:
                    yield keep, keep, loading(look.status.text, look.status.fraction), keep, keep
                    continue
                last = look.trace
                recent = 0 if look.final else max(len(last.steps) - RECENT, 0)
                drawn = payload(last, ticket, look.source, detail_from=recent)
                yield drawn, last if look.final else keep, loading(None), keep, keep
        except Exception as error:  # whatever the engine raises must not take the page down
            said = message(explain(error))
            if last is not None:
                yield payload(last, ticket), last, said, *idle
                return
        finally:
            if self.jobs.get(request.session_hash) is job:
                del self.jobs[request.session_hash]
        yield keep, keep, said, *idle

    def stop(self, request: gr.Request) -> None:
        job = self.jobs.get(request.session_hash)
        if job is not None:
            job.stop()

    def leave(self, request: gr.Request) -> None:
        """A closed tab frees its run."""
        job = self.jobs.pop(request.session_hash, None)
        if job is not None:
            job.stop()

    def tick(self):
        """How far the models are. -> notice, timer"""
        status = self.host.status()
        if status.error is not None:
            text = f"The models could not be loaded. {explain(status.error)} Press Run to try again."
            return loading(text, tone="error"), gr.Timer(active=False)
        if status.ready:
            return loading(None), gr.Timer(active=False)
        return loading(status.text, status.fraction), gr.skip()

    def open(self, path: str | None):
        """Show a trace from a file. -> player, trace, notice"""
        if not path:
            return gr.skip(), gr.skip(), gr.skip()
        try:
            trace = Trace.load(path)
            drawn = payload(trace, uuid.uuid4().hex, Source(RECORDED))
        except DiffuSpecError as error:
            return gr.skip(), gr.skip(), message(f"{error} The trace on the page is kept.")
        except Exception as error:
            explain(error)
            return gr.skip(), gr.skip(), message("This file cannot be shown as a trace. The trace on the page is kept.")
        return drawn, trace, message(None)

    def save(self, trace: Trace | None):
        """Write the present trace to a file for download. -> download, notice"""
        try:
            return write(trace), message(None)
        except DiffuSpecError as error:
            return gr.skip(), message(str(error))

    def api_run(self, prompt: str, settings: str = "{}", dtype: str = "float32", compare: bool = True) -> dict:
        """Answer a prompt and compare with plain AR.

        settings: a JSON object of knobs by name, e.g. {"k_max": 12, "lam": 0.4}. Returns text, token_ids,
        new_tokens, steps, accepted_per_step, tokens_per_step, wall_s, ar_wall_s, speedup, identical_to_ar.
        """
        return self._whole(prompt, settings, dtype, compare).report()

    def api_trace(self, prompt: str, settings: str = "{}", dtype: str = "float32", compare: bool = True) -> gr.FileData:
        """Answer a prompt and return the whole trace, a gzip file of JSON Lines; arguments as `run`."""
        return gr.FileData(path=write(self._whole(prompt, settings, dtype, compare)))

    def _whole(self, prompt: str, settings: str | dict, dtype: str, compare: bool) -> Trace:
        try:
            job = make_job(prompt, Settings.from_mapping(_mapping(settings)), dtype, compare)
            for look in self.host.follow(job):
                trace = look.trace
            return trace
        except DiffuSpecError as error:
            raise gr.Error(str(error)) from error
        except Exception as error:
            raise gr.Error(explain(error)) from None


def make_job(prompt: str, settings: Settings, dtype: str, compare: bool) -> Job:
    """Raises `PromptError` and `SettingsError` on what need not wait for a model to be refused."""
    if not (prompt or "").strip():
        raise PromptError("The prompt is empty: type a question or pick an example.")
    if dtype not in DTYPES:
        raise SettingsError(f"dtype = {dtype!r}: choose one of {', '.join(DTYPES)}.")
    return Job(prompt, settings, dtype, compare)


def _mapping(settings: str | dict) -> dict:
    try:
        values = settings if isinstance(settings, dict) else orjson.loads(settings or "{}")
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"The settings are not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise SettingsError('The settings must be a JSON object, such as {"k_max": 12}.')
    return values


def write(trace: Trace | None) -> str:
    """The trace in a new temporary folder; gives the file's path."""
    if trace is None:
        raise TraceError("There is no trace yet: run a prompt first.")
    path = Path(tempfile.mkdtemp(prefix="diffuspec-")) / "diffuspec-trace.jsonl.gz"
    trace.save(path)
    return str(path)


def recorded(folder: Path) -> tuple[Trace | None, str | None]:
    """The first recorded trace of a folder that can be read, and what is wrong where none can."""
    said = None
    for path in sorted(folder.glob("*.jsonl.gz")):
        try:
            return Trace.load(path), None
        except DiffuSpecError as error:
            said = f"The recorded trace {path.name} cannot be shown. {error}"
    return None, said or str(
        WeightsError("No recorded trace in assets/traces. Restore it with `git checkout -- assets`, or run a prompt.")
    )
