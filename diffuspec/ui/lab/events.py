"""The Step lab: searching again at once, and what needs the models in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffuspec.errors import DiffuSpecError, SettingsError, TraceError
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.whatif import context, drafter_edition
from diffuspec.ui.gradio_internals import sent
from diffuspec.ui.lab import view as lab
from diffuspec.ui.player.merits import MEASURED, Source
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.host import DTYPES, Host, Job, Status, Work
from diffuspec.ui.shell.notice import ended, loading, message
from diffuspec.ui.shell.shared import show
from diffuspec.ui.shell.visitors import client_of

MOST = 3  # branches kept beside the recorded answer; the oldest goes first
BRANCH_TOKENS = 64


@dataclass(frozen=True)
class Branch:
    """A run that left the recorded answer. since: the step of `origin` it left at; forced: the tokens put there,
    as text; trace: what came then."""

    label: str
    forced: str
    origin: Trace
    since: int
    trace: Trace

    def __deepcopy__(self, memo) -> Branch:
        return self


class Lab:
    """Handlers of the Step lab; `work` holds what each visitor waits for, by session."""

    def __init__(self, host: Host):
        self.host = host
        self.work: dict[str, Work] = {}

    def search(self, trace: Trace | None, asked: Any) -> str:
        """Search a step again. -> JSON of slots for the lab, or of what is wrong"""
        try:
            step, settings = read(trace, asked)
            return lab.dumps(again=lab.again(trace, step, settings, self.host.spell))
        except DiffuSpecError as error:
            return lab.dumps(refused=str(error))
        except Exception as error:
            return lab.dumps(refused=explain(error))

    def refused(self, told: gr.EventData):
        """Say why a step was not searched again. -> notice"""
        return message(str(sent(told).get("refused"))[:500])

    def ask(self, trace: Trace | None, branches: list[Branch], request: gr.Request, asked: gr.EventData):
        """Verify a path, draft again or branch, with the models. -> lab, branches, notice"""
        keep, free = gr.skip(), {"busy": None}
        session = request.session_hash
        self.leave(request)
        begun: list[Work] = []  # what this event put into `work`: another's is not ended with it
        try:
            data = sent(asked)
            step, settings = read(trace, data)
            pair = self.host.maker(trace.pair)
            if pair is None:
                raise TraceError(
                    f"This trace was made by the pair {trace.pair.name!r} ({trace.pair.target} and "
                    f"{trace.pair.drafter}), which cannot be loaded here."
                )
            act = {"verify": self._verify, "redraft": self._redraft, "branch": self._branch}[data["act"]]
            yield lab.dumps(busy="waiting"), keep, keep
            yield from act(trace, step, settings, data, branches, self._beginner(request, begun, pair))
        except (KeyError, TypeError, ValueError) as error:
            yield lab.dumps(**free), keep, ended(explain(TraceError(f"The page sent something unexpected: {error!r}.")))
        except Exception as error:
            yield lab.dumps(**free), keep, ended(explain(error))
        finally:
            for work in begun:
                work.stop()
                if self.work.get(session) is work:
                    del self.work[session]

    def _beginner(self, request: gr.Request, begun: list[Work], pair: str) -> Callable[[Work], Work]:
        def begin(work: Work) -> Work:
            work.client, work.pair = client_of(request), pair
            self.work[request.session_hash] = work
            begun.append(work)
            return work

        return begin

    def leave(self, request: gr.Request) -> None:
        """Stop what this visitor waits for."""
        work = self.work.pop(request.session_hash, None)
        if work is not None:
            work.stop()

    def open(self, branches: list[Branch], asked: gr.EventData):
        """Show a branch on the Playground. -> player, trace, notice"""
        number = sent(asked).get("open")
        if not isinstance(number, int) or not 0 <= number < len(branches):
            return gr.skip(), gr.skip(), gr.skip()
        return show(branches[number].trace, Source(MEASURED))

    def _dtype(self, trace: Trace) -> str:
        return trace.pair.dtype if trace.pair.dtype in DTYPES else DTYPES[0]

    def _verify(self, trace, step, settings, data, branches, begin) -> Iterator[tuple]:
        keep, ranks = gr.skip(), path_of(trace, step, data["ranks"])
        work = begin(Work())

        def waiting(status: Status):
            return lab.dumps(busy=status.text), keep, loading(status.text, status.fraction)

        pair = yield from self.host.pair(work, self._dtype(trace), waiting)
        reading = (lab.dumps(busy="the target reads the path"), keep, loading(None))
        made = None
        if pair is not None:
            made = yield from self.host.in_turn(
                work, lambda: self.host.verify(pair, trace, step, ranks), waiting, lambda: reading
            )
        said = {} if made is None else {"verified": {**lab.verified(trace, made), "index": step, "title": "your path"}}
        yield lab.dumps(busy=None, **said), keep, ended()

    def _redraft(self, trace, step, settings, data, branches, begin) -> Iterator[tuple]:
        k = int(data["k"])
        one = settings.replace(length="fixed", k=k, max_new_tokens=k + 1)
        work = Job(context(trace, step), one, self._dtype(trace), compare=False)
        said = {}
        for look in self.host.follow(begin(work)):
            if look.trace is not None and look.trace.steps:
                work.stop()
                made = look.trace.steps[0]
                if drafter_edition(look.trace) != drafter_edition(trace):
                    raise SettingsError(
                        "This trace was made by another edition of the drafter than the one loaded here, so its steps "
                        "cannot be drafted again. Run its prompt again, then draft again in that trace."
                    )
                said = {
                    "verified": {
                        **lab.verified(look.trace, made),
                        "index": step,
                        "title": f"drafted again, k = {k}",
                        "redrafted": True,
                    }
                }
            yield lab.dumps(busy=look.status.text if look.status else "drafting"), gr.skip(), gr.skip()
        yield lab.dumps(busy=None, **said), gr.skip(), ended()

    def _branch(self, trace, step, settings, data, branches, begin) -> Iterator[tuple]:
        ranks = path_of(trace, step, data["ranks"])
        ids = trace.steps[step].lattice.ids
        forced = tuple(int(ids[column, rank]) for column, rank in enumerate(ranks))
        work = Job(
            context(trace, step) + forced, settings.replace(max_new_tokens=BRANCH_TOKENS), self._dtype(trace), False
        )
        label = str(data.get("label", ""))[:80]
        text = b"".join(trace.piece(token) for token in forced).decode("utf-8", "replace")
        made = None
        for look in self.host.follow(begin(work)):
            made = look.trace or made
            if made is None:
                yield lab.dumps(busy=look.status.text if look.status else "starting"), gr.skip(), gr.skip()
                continue
            columns = [*branches, Branch(label, text, trace, step, made)][-MOST:]
            busy = None if look.final else f"{made.new_tokens} tokens"
            yield lab.dumps(busy=busy, branches=side_by_side(columns)), gr.skip(), gr.skip()
        if made is not None:
            branches = [*branches, Branch(label, text, trace, step, made)][-MOST:]
        yield lab.dumps(busy=None, branches=side_by_side(branches)), branches, ended()


def read(trace: Trace | None, data: Any) -> tuple[int, Settings]:
    """Step and settings out of what the page sent. Raises `TraceError` and `SettingsError`."""
    if trace is None or not trace.steps:
        raise TraceError(
            "There is no trace yet: run a prompt first, on the Playground."
            if trace is None or trace.origin is None
            else f"{trace.origin.engine} told only sums of this run: there is no step to look at."
        )
    if trace.origin:
        raise TraceError(
            f"This trace comes from {trace.origin.engine}, which tells no lattice: there is nothing to search again. "
            "Run its prompt on the Playground, or open a trace that was made there."
        )
    step, changes = (data or {}).get("step"), (data or {}).get("settings")
    if not isinstance(step, int) or isinstance(step, bool):
        step = 0
    settings = lab.opening_settings(trace)
    if isinstance(changes, dict):
        settings = settings.replace(**{name: changes[name] for name in lab.KNOBS if name in changes})
    return min(max(step, 0), len(trace.steps) - 1), settings


def path_of(trace: Trace, step: int, ranks: Any) -> list[int]:
    """Rows of the lattice, one a column, as the page sent them. Raises `TraceError`."""
    lattice = trace.steps[step].lattice
    good = isinstance(ranks, list) and 0 < len(ranks) <= lattice.k
    if not good or not all(isinstance(rank, int) and 0 <= rank < lattice.width for rank in ranks):
        raise TraceError("This path does not lie in the step's lattice.")
    return ranks


def side_by_side(branches: list[Branch]) -> list[dict]:
    """The recorded answer from the newest branch's step on, then each branch; at: the step each begins with."""
    if not branches:
        return []
    newest = branches[-1]
    recorded = lab.branch(newest.origin, f"recorded, from step {newest.since + 1}", newest.since)
    made = [{**lab.branch(one.trace, one.label, forced=one.forced), "at": one.since} for one in branches]
    return [{**recorded, "at": newest.since}, *made]
