"""The models of this process, shared by all visitors, and the runs they make on them.

Models are loaded in the background (`shelf.py`). Everything that computes with them runs on
one thread, in turn (`queue.py`); a visitor's `Job` is followed from another thread, which is told
its place in the line, and can be stopped at any time.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffuspec.errors import PairError, PromptError, SettingsError
from diffuspec.measure.questions import QuestionFile
from diffuspec.measure.race import Lane, pass_costs, run_lane
from diffuspec.measure.studies import StudyResult, stream_study
from diffuspec.provenance import DTYPES, PairInfo
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.whatif import verify_path
from diffuspec.ui.player.merits import MEASURED, Source
from diffuspec.ui.shell.loader import Loader, own_pair
from diffuspec.ui.shell.queue import Client, Turns
from diffuspec.ui.shell.shelf import Copy, Shelf

if TYPE_CHECKING:
    from diffuspec.measure.diagnose.run import At

POLL_S = 0.33  # between two looks at what is waited for
# And at what computes: a browser on the same two cores takes some 45 ms of them to draw one.
LOOK_S = 0.5

T = TypeVar("T")


def _start(pair: Any, settings: Settings, prompt: str | tuple[int, ...]) -> Any:
    from diffuspec import DiffuSpec

    suited = pair.fit(settings)
    engine = DiffuSpec(pair, suited)
    run = engine.stream(ids=prompt) if isinstance(prompt, tuple) else engine.stream(prompt)
    run.note = " ".join(filter(None, [changed(settings, suited), engine.note]))
    return run


def changed(asked: Settings, suited: Settings) -> str:
    """What stands for settings that a pair cannot have, as a sentence; "" where nothing does."""
    before = asked.to_dict()
    other = [f"{name} = {value}" for name, value in suited.to_dict().items() if value != before[name]]
    return f"To suit this pair’s drafter: {', '.join(other)}." if other else ""


def _compare(pair: Any, trace: Trace, on_token: Callable[[int], bool]) -> Any:
    from diffuspec.measure.baselines import compare_with_ar

    return compare_with_ar(pair, trace, on_token=on_token)


def _lane(
    pair: Any, settings: Settings, prompt: str, method: str, heard: Callable[[int], None], stop: Callable[[], bool]
) -> Lane:
    from diffuspec.measure.methods import METHODS

    return run_lane(method, METHODS[method].start(pair, pair.fit(settings), pair.encode(prompt), stop), heard, stop)


def _study(
    name: str, pair: Any, settings: Settings, questions: QuestionFile, state: Path, stop: Callable[[], bool]
) -> Iterator[StudyResult]:
    return stream_study(name, pair, pair.fit(settings), questions, state=state, should_stop=stop)


def _diagnose(
    pair: Any, settings: Settings, questions: QuestionFile, minutes: float, stop: Callable[[], bool]
) -> Iterator[At]:
    from diffuspec.measure.diagnose.run import stream_diagnosis

    return stream_diagnosis(pair, pair.fit(settings), questions, minutes=minutes, should_stop=stop)


def _costs(pair: Any, prompt: str) -> tuple[tuple[float, float], ...]:
    return pass_costs(pair, pair.encode(prompt))


@dataclass(frozen=True)
class Status:
    """How far a pair is. fraction: 0 to 1, None where unknown; error: why it failed."""

    text: str
    fraction: float | None = None
    ready: bool = False
    error: BaseException | None = None


@dataclass
class Work:
    """What one visitor asked the models for; may be stopped from anywhere, at any time. pair: which models, by the
    shelf's key; "" for those that the visitor chose."""

    pair: str = field(default="", kw_only=True)
    stopped: threading.Event = field(default_factory=threading.Event, kw_only=True)
    client: Client | None = field(default=None, kw_only=True)
    cut: str = field(default="", kw_only=True)  # why the server ended it, in words; else empty

    def stop(self) -> None:
        """No further step; a step under way is finished first."""
        self.stopped.set()


@dataclass
class Job(Work):
    """One run, from the click to the end of the comparison with plain AR. prompt: a user turn, or token ids; note:
    what stands for settings that the pair cannot have."""

    prompt: str | tuple[int, ...]
    settings: Settings
    dtype: str = DTYPES[0]
    compare: bool = True
    run: Any = None
    compared: int | None = None
    note: str = ""

    def stop(self) -> None:
        super().stop()
        if self.run is not None:
            self.run.stop()

    def heard(self, count: int) -> bool:
        """Plain AR has made so many tokens. True: it may stop."""
        self.compared = count
        return self.stopped.is_set()

    def progress(self) -> Progress:
        if self.run is None:
            return Progress(Status("Starting"))
        return Progress(trace=self.run.trace, source=Source(MEASURED, comparing=self.compared))


@dataclass(frozen=True)
class Limits:
    """What one turn on a server that others share may take. tokens: of an answer; seconds: of one use of the models."""

    tokens: int = 512
    seconds: float = 180.0


@dataclass(frozen=True)
class Progress:
    """One look at a job: waiting for the models or for its turn (status), or the trace so far and its source."""

    status: Status | None = None
    trace: Trace | None = None
    source: Source = Source(MEASURED)
    final: bool = False


class Host:
    """load(dtype, progress) gives a pair (the embedded one by itself), start(pair, settings, prompt) a run,
    compare(pair, trace, on_token) plain AR's `Baseline`, verify(pair, trace, index, ranks) a `Step` with
    another path, lane(pair, settings, prompt, method, heard, stop) a lane of a race, costs(pair, prompt) what passes
    of the target take, study(name, pair, settings, questions, state, stop) a stream of a study's results,
    diagnose(pair, settings, questions, minutes, stop) one of a diagnosis;
    pair_name: of the pair that `load` gives; pairs: key -> load of all that are offered, instead of `load`, the one
    to begin with first; own: whether a page may name other checkpoints; limits: of a turn, where others share this
    server."""

    def __init__(
        self,
        load=None,
        start=_start,
        compare=_compare,
        verify=verify_path,
        lane=_lane,
        costs=_costs,
        study=_study,
        diagnose=_diagnose,
        pair_name="embedded",
        limits: Limits | None = None,
        pairs=None,
        own: bool = False,
    ):
        self.limits = limits
        self._start, self._compare = start, compare
        self.verify, self.lane, self.costs, self.study, self.pair_name = verify, lane, costs, study, pair_name
        self.shelf = Shelf(pairs or {pair_name: load or Loader()})
        self.offered = tuple(self.shelf.pairs)
        self.first, self.own = self.offered[0], own
        self._chosen: dict[str, str] = {}
        self._wanted: dict[str, Copy] = {}
        self.diagnose = diagnose
        self._models = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._turns = Turns()

    def warm_up(self, dtype: str = DTYPES[0]) -> Future:
        """Begin to load the first pair; once failed, the next call tries again."""
        return self.shelf.ask(self.first, dtype).ready

    def chosen(self, session: str = "") -> str:
        """The pair that a visitor's work uses: the one chosen on that page, or this server's usual one."""
        return self._chosen.get(session, self.first)

    def want(self, session: str, key: str) -> Copy:
        """Load a pair; once it is there `settle` makes it the visitor's. Raises `PairError`."""
        self._wanted[session] = self.shelf.ask(key, DTYPES[0])
        return self._wanted[session]

    def settle(self, session: str) -> tuple[str | None, BaseException | None]:
        """(pair, error) of what the visitor wanted: now the chosen one, or why not; both None while it is loaded, and
        where nothing was wanted. Alone on a server, the choice holds for every page that is opened next."""
        copy = self._wanted.get(session)
        if copy is None or not (copy.given_up or copy.ready.done()):
            return None, None
        del self._wanted[session]
        if copy.given_up:
            return None, None
        if error := copy.ready.exception():
            return None, error
        self._chosen[session] = copy.key
        if self.limits is None:
            self.first = copy.key
        return copy.key, None

    def name_own(self, told: dict) -> str:
        """The key of two checkpoints that a page names. Raises `PairError`, also where others share this server."""
        if not self.own:
            raise PairError("Others share this server: only the pairs that it offers can be loaded.")
        load = own_pair(told)
        self.shelf.add(load.key, load)
        return load.key

    def unload(self, session: str, key: str) -> None:
        """Free a pair, or give its loading up. Raises `PairError` where others may be using it."""
        if not self.own:
            raise PairError("Others share this server: pairs stay loaded while memory allows.")
        self._wanted.pop(session, None)
        self.shelf.unload(key)

    def busy(self, session: str) -> Status | None:
        """How far a load is that this visitor waits for, else any other; None where none is under way."""
        mine = self._wanted.get(session)
        copies = [copy for copy in (*self.shelf.copies(), mine) if copy and not copy.ready.done() and not copy.given_up]
        return Status(*copies[-1].tell()) if copies else None

    def leave(self, session: str) -> None:
        """The visitor's page is closed."""
        self._chosen.pop(session, None)
        self._wanted.pop(session, None)

    def status(self, dtype: str = DTYPES[0], key: str | None = None) -> Status:
        copy = self.shelf.found(key or self.first, dtype)
        if copy is None:
            return Status("The models are not loaded yet")
        if not copy.ready.done():
            return Status(*copy.tell())
        error = copy.ready.exception()
        return Status(copy.tell()[0], error=error) if error else Status("The models are ready", 1.0, ready=True)

    def maker(self, info: PairInfo) -> str | None:
        """The key of the pair that made a trace, None where these models cannot go on with it."""
        for copy in self.shelf.copies():
            made = getattr(copy.pair, "info", None)
            if made and (made.name, made.target, made.drafter) == (info.name, info.target, info.drafter):
                return copy.key
        for key, load in self.shelf.pairs.items():
            asked = getattr(load, "asked", {})
            own = asked.get("target"), asked.get("drafter")
            if key == info.name != "custom" or info.name == "custom" and own == (info.target, info.drafter):
                return key
        return None

    def spell(self, pair_name: str, tokens: Iterable[int]) -> dict[int, str]:
        """The bytes of tokens, as `Trace.pieces` has them; of none while no models of that pair are loaded."""
        for copy in self.shelf.copies():
            if copy.pair is not None and pair_name in (copy.key, getattr(copy.pair.info, "name", None)):
                return {token: copy.pair.piece(token).decode("latin-1") for token in tokens}
        return {}

    def pair(self, work: Work, dtype: str, waiting: Callable[[Status], T]) -> Generator[T, None, Any]:
        """The pair of models once it is loaded, None where the work was stopped before.

        Yields what `waiting` makes of the loader's status, a few times a second.
        """
        work.pair = work.pair or self.chosen(work.client.session if work.client else "")
        copy = self.shelf.ask(work.pair, dtype, work)
        while not copy.ready.done():
            if work.stopped.is_set():
                return None
            yield waiting(Status(*copy.tell()))
            wait([copy.ready], POLL_S)
        return None if work.stopped.is_set() else copy.ready.result()

    def in_turn(
        self, work: Work, act: Callable[[], Any], waiting: Callable[[Status], T], acting: Callable[[], T]
    ) -> Generator[T, None, Any]:
        """What `act` gives, run on the models' thread when its turn comes; None where the work was stopped before.

        Yields every `POLL_S` what `waiting` makes of the place in the line, then every `LOOK_S` `acting()`.
        Raises what `act` raises, and `BusyError` where too many wait already.
        """
        turn = self._turns.join(work.client)
        try:
            while not (turn.wait(0) or work.stopped.is_set()):
                yield waiting(Status(_in_line(turn.ahead or 1)))
                turn.wait(POLL_S)
            if work.stopped.is_set():
                return None
            acted, began = self._models.submit(act), time.monotonic()
            while not acted.done():
                yield acting()
                wait([acted], LOOK_S)
                if self.limits and not work.cut and time.monotonic() - began > self.limits.seconds:
                    work.cut = (
                        f"Others share this server, so a turn ends after {self.limits.seconds:g} seconds; "
                        "this one was stopped."
                    )
                    work.stop()
            return acted.result()
        finally:
            turn.leave()

    def within(self, settings: Settings) -> Settings:
        """The settings, if this server allows them. Raises `SettingsError`."""
        if self.limits and settings.max_new_tokens > self.limits.tokens:
            raise SettingsError(
                f"max_new_tokens = {settings.max_new_tokens}: others share this server, so an answer has at most "
                f"{self.limits.tokens} tokens."
            )
        return settings

    def later(self, act: Callable[[], Any]) -> None:
        """Run `act` on the models' thread after what it does now; nobody waits for it."""
        self._models.submit(act)

    def follow(self, job: Job) -> Iterator[Progress]:
        """Run a job, with a look at it every `LOOK_S`; the last look is `final`.

        Closing the iterator stops the run. A job that is stopped before its turn has no final look.
        Raises what loading, the engine or the comparison raise.
        """

        def waiting(status: Status) -> Progress:
            return Progress(status)

        try:
            pair = yield from self.pair(job, job.dtype, waiting)
            if pair is None:
                return
            check_length(pair, job.prompt)
            trace = yield from self.in_turn(job, lambda: self._answer(job, pair), waiting, job.progress)
            if trace is not None:
                yield Progress(trace=trace, final=True)
        finally:
            job.stop()

    def _answer(self, job: Job, pair: Any) -> Trace:
        """The whole of a job, on the models' thread."""
        job.run = self._start(pair, job.settings, job.prompt)
        job.note = getattr(job.run, "note", "")
        if job.stopped.is_set():
            job.run.stop()
        for _ in job.run:
            pass
        trace = job.run.trace
        if job.compare and not job.stopped.is_set():
            baseline = self._compare(pair, trace, job.heard)
            # A comparison that was cut short says nothing.
            if not job.stopped.is_set():
                trace = trace.with_baseline(baseline)
        return trace


def shared_with_others(address: str) -> bool:
    """Whether a server that listens on this address can be reached from other machines."""
    if address == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return True


# Longer prompts are refused before any model or tokenizer sees them.
MOST_CHARACTERS = 200_000
# From here on a prompt is counted before its turn comes, on its visitor's own thread.
LONG_PROMPT = 4_000


def check_prompt(prompt: str) -> str:
    """What need not wait for a model to be refused. Raises `PromptError`."""
    if not (prompt or "").strip():
        raise PromptError("The prompt is empty: type a question or pick an example.")
    if len(prompt) > MOST_CHARACTERS:
        raise PromptError(
            f"The prompt has {len(prompt)} characters; at most {MOST_CHARACTERS} are read. Shorten the prompt."
        )
    return prompt


def check_length(pair: Any, prompt: str | tuple[int, ...]) -> None:
    """Refuse what does not fit the pair's context before it takes a turn. Raises `PromptError`."""
    if isinstance(prompt, str) and len(prompt) > LONG_PROMPT:
        pair.room(pair.encode(prompt))


def _in_line(ahead: int) -> str:
    others = "1 run before yours" if ahead == 1 else f"{ahead} runs before yours"
    return f"Place {ahead} in the queue: {others}"
