"""A race: its methods checked, queued one by one, measured, and replayed in the page."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from diffuspec.errors import DiffuSpecError, SettingsError, TraceError
from diffuspec.measure.race import YARDSTICK, Lane, Race, finish
from diffuspec.settings import Settings
from diffuspec.ui.draw.chart import drawn
from diffuspec.ui.player.merits import MEASURED, RECORDED
from diffuspec.ui.race import breakeven
from diffuspec.ui.race.view import DONE, LEFT_OUT, RUNNING, LaneState, live_payload, race_payload
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.files import handed_out, without_folder
from diffuspec.ui.shell.host import DTYPES, Host, Status, Work, check_length, check_prompt
from diffuspec.ui.shell.knobs import to_settings
from diffuspec.ui.shell.notice import ended, message
from diffuspec.ui.shell.visitors import client_of

MOST_TOKENS = 256
Labels = dict[str, tuple[str, str]]


@dataclass
class RaceWork(Work):
    """One visitor's race. states: method -> how far its lane is; said: what happens now."""

    prompt: str
    settings: Settings
    methods: tuple[str, ...]
    dtype: str = DTYPES[0]
    states: dict[str, LaneState] = field(default_factory=dict)
    said: str = ""

    def heard(self, method: str, made: int) -> None:
        """A lane has so many tokens."""
        self.states[method] = replace(self.states[method], state=RUNNING, made=made)


class Races:
    """The handlers of the Race page. labels: method -> (label, one line about it)."""

    def __init__(self, host: Host, labels: Labels, knob_names: list[str]):
        self.host, self.labels, self.knob_names = host, labels, knob_names
        self.works: dict[str, RaceWork] = {}

    def enter(self, request: gr.Request, prompt: str, methods: list[str], tokens: float, *values: Any):
        """Check the input. -> notice, race, stop, ticket"""
        try:
            settings = to_settings(zip(self.knob_names, values, strict=True))
            work = self.make_work(prompt, methods, settings.replace(max_new_tokens=int(tokens), temperature=0))
        except DiffuSpecError as error:
            return message(str(error)), gr.skip(), gr.skip(), gr.skip()
        self.leave(request)
        work.client = client_of(request)
        self.works[request.session_hash] = work
        return message(None), gr.Button(interactive=False), gr.Button(interactive=True), uuid.uuid4().hex

    def make_work(self, prompt: str, methods: list[str], settings: Settings) -> RaceWork:
        check_prompt(prompt)
        unknown = [name for name in methods if name not in self.labels]
        others = [name for name in self.labels if name in methods and name != YARDSTICK]
        if unknown or not others:
            raise SettingsError("Pick at least one method to race against plain AR.")
        return RaceWork(prompt, settings, (YARDSTICK, *others))

    def follow(self, ticket: str, shown: Race | None, verify: str, request: gr.Request) -> Iterator[tuple]:
        """Run the visitor's race. -> race, state, map, k, notice, race button, stop"""
        work = self.works.get(request.session_hash)
        idle, keep = (gr.Button(interactive=True), gr.Button(interactive=False)), gr.skip()
        if work is None or not ticket:
            yield keep, keep, keep, keep, keep, *idle
            return
        try:
            race = None
            for race in self.run(work):
                if race is None:
                    yield self._live(ticket, work), keep, keep, keep, keep, keep, keep
            if race is None:
                yield *(self.show(shown, verify) if shown else (keep,) * 4), ended(work.cut or None), *idle
                return
            yield *self.show(race, verify, MEASURED), ended(), *idle
        except Exception as error:  # whatever a method raises must not take the page down
            yield *(self.show(shown, verify) if shown else (keep,) * 4), ended(explain(error)), *idle
        finally:
            work.stop()
            if self.works.get(request.session_hash) is work:
                del self.works[request.session_hash]

    def run(self, work: RaceWork) -> Iterator[Race | None]:
        """None a few times a second while the race goes on, then the `Race`, if one was finished."""
        work.states = {name: LaneState(name, self.labels[name][0]) for name in work.methods}

        def waiting(status: Status) -> None:
            work.said = status.text

        def running() -> None:
            work.said = now

        pair = yield from self.host.pair(work, work.dtype, waiting)
        if pair is None:
            return
        check_length(pair, work.prompt)
        lanes = []
        for name in work.methods:
            now = f"Measuring {self.labels[name][0]}: the methods run one after another, never side by side."
            try:
                lane = yield from self.host.in_turn(
                    work, lambda name=name: self._lane(pair, work, name), waiting, running
                )
            except DiffuSpecError as error:
                if name == YARDSTICK:
                    raise
                work.states[name] = replace(work.states[name], state=LEFT_OUT, said=str(error))
                continue
            if lane is None or work.stopped.is_set():
                return
            lanes.append(lane)
            work.states[name] = replace(
                work.states[name], state=DONE, made=len(lane.token_ids), seconds=lane.wall_ms / 1e3
            )
        now = "Measuring what a target pass over 1 to 32 tokens costs here."
        race = yield from self.host.in_turn(work, lambda: self._finish(pair, work, lanes), waiting, running)
        if race is not None and not work.stopped.is_set():
            yield race

    def _lane(self, pair: Any, work: RaceWork, method: str) -> Lane:
        work.heard(method, 0)
        return self.host.lane(
            pair, work.settings, work.prompt, method, partial(work.heard, method), work.stopped.is_set
        )

    def _finish(self, pair: Any, work: RaceWork, lanes: list[Lane]) -> Race:
        from diffuspec.provenance import provenance

        return finish(pair, work.prompt, work.settings, lanes, self.host.costs(pair, work.prompt), provenance())

    def _live(self, ticket: str, work: RaceWork) -> str:
        return live_payload(ticket, work.prompt, work.settings.max_new_tokens, list(work.states.values()), work.said)

    def stop(self, request: gr.Request) -> None:
        work = self.works.get(request.session_hash)
        if work is not None:
            work.stop()

    def leave(self, request: gr.Request) -> None:
        """A closed tab frees its race."""
        work = self.works.pop(request.session_hash, None)
        if work is not None:
            work.stop()

    def draw_map(self, race: Race | None, k: float, verify: str) -> str:
        """-> map"""
        if race is None:  # none is recorded, and none was run yet
            return gr.skip()
        return drawn(breakeven.chart(race, self.labels, int(k), verify))

    def open(self, path: str | None, verify: str):
        """Show a race from a file. -> race, state, map, k, notice"""
        keep = gr.skip()
        if not path:
            return keep, keep, keep, keep, keep
        try:
            race = Race.load(path)
            return *self.show(race, verify), message(None)
        except DiffuSpecError as error:
            return keep, keep, keep, keep, message(f"{without_folder(error, path)} The race on the page is kept.")

    def show(self, race: Race, verify: str, kind: str = RECORDED) -> tuple:
        """-> race, state, map, k"""
        k = breakeven.usual_k(race)
        return race_payload(race, uuid.uuid4().hex, kind, self.labels), race, self.draw_map(race, k, verify), k


def save(race: Race | None):
    """Write the race on the page to a file. -> download, notice"""
    if race is None:
        return gr.skip(), message("There is no race yet: run one first.")
    path = handed_out("diffuspec-race.json")
    race.save(path)
    return str(path), message(None)


def recorded(path: Path) -> Race | None:
    """The race that comes along, if it can be read."""
    try:
        return Race.load(path)
    except TraceError:
        return None
