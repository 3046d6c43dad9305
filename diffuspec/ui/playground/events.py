"""A run: checked, queued, streamed, stopped."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from diffuspec.errors import DiffuSpecError, SettingsError
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.ui.player.payload import Stream, payload
from diffuspec.ui.shell import links
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.host import DTYPES, Job, check_prompt
from diffuspec.ui.shell.knobs import to_settings
from diffuspec.ui.shell.mine import added, entry, listed
from diffuspec.ui.shell.notice import ended, loading, message
from diffuspec.ui.shell.shared import Shared, show
from diffuspec.ui.shell.visitors import client_of


class Runs:
    """From Run to the end of the comparison with plain AR; `jobs` holds each visitor's run by session."""

    def __init__(self, shared: Shared):
        self.shared, self.host, self.recent = shared, shared.host, shared.runs
        self.knob_names = list(shared.controls)
        self.jobs: dict[str, Job] = {}
        self._by_ticket: dict[str, Job] = {}

    def enter(self, request: gr.Request, mine: Any, prompt: str, dtype: str, compare: bool, *values: Any):
        """Check the input and take a place in the queue. -> notice, run, stop, ticket, mine"""
        try:
            settings = to_settings(zip(self.knob_names, values, strict=True))
            job = make_job(prompt, self.host.within(settings), dtype, compare)
            job.client = client_of(request)
        except DiffuSpecError as error:
            return message(str(error)), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        self.leave(request)
        ticket = uuid.uuid4().hex
        self.jobs[request.session_hash] = self._by_ticket[ticket] = job
        kept = added(mine, entry(ticket, prompt))
        return message(None), gr.Button(interactive=False), gr.Button(interactive=True), ticket, kept

    def follow(self, ticket: str, request: gr.Request) -> Iterator[tuple]:
        """Stream the visitor's job. -> player, trace, notice, run, stop"""
        job = self.jobs.get(request.session_hash)
        idle = gr.Button(interactive=True), gr.Button(interactive=False)
        keep = gr.skip()
        if job is None or not ticket:
            yield keep, keep, keep, *idle
            return
        last, said, stream = None, ended(), Stream(ticket)
        try:
            for look in self.host.follow(job):
                if look.status is not None:
                    yield keep, keep, loading(look.status.text, look.status.fraction), keep, keep
                    continue
                last = look.trace
                drawn = payload(last, ticket, look.source) if look.final else stream.payload(last, look.source)
                yield drawn, last if look.final else keep, loading(None), keep, keep
            said = ended(job.cut) if job.cut else ended(job.note or None, "note")
        except Exception as error:  # whatever the engine raises must not take the page down
            said = ended(explain(error))
            if last is not None:
                yield payload(last, ticket), last, said, *idle
                return
        finally:
            self._keep(ticket, last)
            self._by_ticket.pop(ticket, None)
            if self.jobs.get(request.session_hash) is job:
                del self.jobs[request.session_hash]
        yield keep, keep, said, *idle

    def _keep(self, ticket: str, trace: Trace | None) -> None:
        if trace is not None and trace.steps:
            if trace.stop_reason == "running":
                trace = replace(trace, stop_reason="stopped")
            with contextlib.suppress(OSError):  # a full disk: the run goes on, only a reload will not bring it back
                self.recent.keep(ticket, trace)

    def restore(self, mine: Any, request: gr.Request):
        """The page was loaded again: bring the last run back, as far as it came.

        -> `Shared.shown`, `Shared.setup`
        """
        runs, nothing = listed(mine), [gr.skip()] * (len(self.shared.shown) + len(self.shared.setup))
        if not runs or links.read(request.query_params):
            return nothing
        key = runs[0]["key"]
        job = self._by_ticket.get(key)
        if job is not None:
            job.stop()
            self._keep(key, None if job.run is None else job.run.trace)
        trace = self.recent.get(key)
        if trace is None:
            return nothing
        cut = trace.stop_reason == "stopped" and trace.baseline is None
        words = "Your last run is back." + (" It was stopped before its end." if cut else "")
        player, trace, _ = show(trace)
        return [player, trace, message(words, "note"), *self.shared.set_up_as(trace)]

    def stop(self, request: gr.Request) -> None:
        job = self.jobs.get(request.session_hash)
        if job is not None:
            job.stop()

    def leave(self, request: gr.Request) -> None:
        """A closed tab frees its run."""
        job = self.jobs.pop(request.session_hash, None)
        if job is not None:
            job.stop()


def make_job(prompt: str, settings: Settings, dtype: str, compare: bool) -> Job:
    """Raises `PromptError` and `SettingsError` on what need not wait for a model to be refused."""
    check_prompt(prompt)
    if dtype not in DTYPES:
        raise SettingsError(f"dtype = {dtype!r}: choose one of {', '.join(DTYPES)}.")
    return Job(prompt, settings, dtype, compare)
