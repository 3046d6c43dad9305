"""Makes a diagnosis within its minutes, step by step."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffuspec.errors import DiffuSpecError, ResultsError
from diffuspec.measure import bench
from diffuspec.measure.baselines import PromptLookup
from diffuspec.measure.diagnose.diagnosis import AS_SET, Budget, Cost, Diagnosis, Position
from diffuspec.measure.diagnose.levers import Lever, replayable, to_pull, weigh
from diffuspec.measure.diagnose.losses import losses, rows_of
from diffuspec.measure.diagnose.machine import MOST_ROWS, Costs, measure_machine, roofline
from diffuspec.measure.diagnose.reliability import (
    DRAFTER,
    FEWEST_EVENTS,
    NODES,
    SCORE,
    cells,
    compared,
    fitted,
    judged,
    of_drafter,
    of_search,
)
from diffuspec.measure.diagnose.replay import replay_all
from diffuspec.measure.diagnose.splits import Answer, splits
from diffuspec.measure.diagnose.tape import Tape, record
from diffuspec.measure.methods import METHODS, Emission, Variant, never
from diffuspec.measure.questions import Question, QuestionFile
from diffuspec.measure.results import AGAIN, YARDSTICK, Measured, speedup
from diffuspec.measure.statistics import FEWEST, SEED, ratio
from diffuspec.measure.studies.result import QuestionsUsed
from diffuspec.models.cost import measure as measure_costs
from diffuspec.provenance import provenance
from diffuspec.settings import Settings

if TYPE_CHECKING:
    from diffuspec.models.pair import Pair

FRONTIER = ("diffuspec", "plain", "tree+copy", "throughput", "prompt-lookup")
NODES_TRIED = (1, 2, 4, 8, 16, 32, 64)
LATTICE_ROWS = 15
# Shares of the time left when the models are loaded, by the end of which a part is over.
MEASURED, MEASURED_AT_MOST, TAPED, WEIGHED, PULLED = 0.38, 0.75, 0.62, 0.74, 0.93
SHOWN_LEVERS = 12


@dataclass(frozen=True)
class At:
    """How far a diagnosis is: fraction, 0 to 1, what it does now, and at its end the result."""

    fraction: float
    said: str
    result: Diagnosis | None = None


class Deadline:
    """began, seconds: of `time.monotonic`."""

    def __init__(self, seconds: float, began: float | None = None, should_stop: Callable[[], bool] = never):
        self.began = time.monotonic() if began is None else began
        self.here = time.monotonic()
        self.left = max(self.began + seconds - self.here, 1.0)
        self.should_stop = should_stop

    def fraction(self) -> float:
        return min((time.monotonic() - self.here) / self.left, 1.0)

    def after(self, share: float) -> Callable[[], bool]:
        """Whether that share of the time is over, or a stop was asked for."""
        return lambda: self.should_stop() or self.fraction() > share


def stream_diagnosis(
    pair: Pair,
    settings: Settings,
    questions: QuestionFile,
    *,
    minutes: float,
    began: float | None = None,
    should_stop: Callable[[], bool] = never,
) -> Iterator[At]:
    """Measure and reckon; the last `At` has the result, unless should_stop() turned true.

    began: when the minutes began, of `time.monotonic`. Raises `ResultsError` where no question was answered in time.
    """
    settings = settings.replace(temperature=0.0)
    clock = Deadline(60 * minutes, began, should_stop)
    heard = _Heard()
    yield At(0.0, "Measuring memory and arithmetic")
    machine = measure_machine(pair.target)
    asked = in_turns(questions)
    variants = [Variant(YARDSTICK, "ar", settings), Variant(AGAIN, "ar", settings), Variant(AS_SET, "as-set", settings)]
    variants += [Variant(name, name, settings) for name in FRONTIER if _possible(pair, settings, name)]

    def enough() -> bool:
        late = clock.fraction() > (MEASURED if len(heard.finished) >= FEWEST else MEASURED_AT_MOST)
        return clock.should_stop() or late

    results: tuple[Measured, ...] = ()
    for at in bench.measure(pair, asked.questions, variants, should_stop=enough, heard=heard):
        results = at.results
        heard.finished = {r.question for r in results}
        yield At(clock.fraction(), f"Measuring: {at.now}" if at.now else "Measured")
    if should_stop():
        return
    results = tuple(r for r in results if r.tokens)
    if not results:
        raise ResultsError(
            f"Not one question was answered in {minutes:g} minutes: give more, or ask for shorter answers."
        )
    base = [part for part in heard.parts if part.variant == AS_SET and part.question.id in heard.finished]
    plain = [part for part in heard.parts if part.variant == YARDSTICK and part.question.id in heard.finished]
    notes = []

    yield At(clock.fraction(), "Measuring what passes cost")
    costs, alone_ms = _costs(pair, settings, base, plain)
    roof = roofline(machine, pair.target, _pass_ms(plain), alone_ms)
    told = losses([part.steps for part in base], settings, costs)

    tapes: list[Tape] = []
    for part in plain:
        yield At(clock.fraction(), f"Taping the drafts of question {part.question.id}")
        tape = _taped(pair, settings, part, clock.after(TAPED if tapes else PULLED))
        if tape is None:
            break
        tapes.append(tape)
    if should_stop():
        return
    found = _Replays(pair, settings, tapes, costs, heard.prompts_ms(), results)
    if not replayable(settings):
        notes.append(
            "These settings cannot be replayed, so no lever was tried: their length or proxy needs the drafter."
        )
    elif len(tapes) < len(plain):
        notes.append(f"Drafts of {len(tapes)} of {len(plain)} answers were taped before the time was up.")
    yield At(clock.fraction(), "Trying other settings on the tapes")
    levers = found.levers(clock.after(WEIGHED))
    pulled: tuple[Measured, ...] = ()
    chosen = to_pull(levers)
    if chosen:
        again = [*variants[:1], variants[2], *(Variant(lever.name, "as-set", lever.settings) for lever in chosen)]
        known = tuple(q for q in asked.questions if q.id in heard.finished)
        for at in bench.measure(pair, known, again, should_stop=clock.after(PULLED)):
            pulled = at.results
            yield At(clock.fraction(), f"Pulling levers: {at.now}" if at.now else "Pulled")
        if should_stop():
            return
        pulled = tuple(r for r in pulled if r.tokens)
        if not pulled:
            notes.append("The time was up before a lever was pulled: give more minutes.")
    levers = _with_measured(levers, pulled)

    yield At(clock.fraction(), "Adding up")
    reliability, by_cell, mended, gain = found.reliability()
    result = Diagnosis(
        pair=pair.info,
        settings=settings,
        provenance=provenance(),
        questions=QuestionsUsed(questions.name, questions.sha256, len({r.question for r in results})),
        seed=SEED,
        minutes=float(minutes),
        took_s=time.monotonic() - clock.began,
        machine=machine,
        plain=roof,
        costs=_cost_rows(pair, costs),
        host_ms=costs.host_ms,
        draft_nodes=statistics.fmean(rows_of(step) - 1 for part in base for step in part.steps),
        results=results,
        pulled=pulled,
        losses=told,
        levers=tuple(levers),
        reliability=reliability,
        cells=by_cell,
        budgets=found.budgets(),
        positions=found.positions(),
        splits=_splits(pair, base, tapes, roof.pass_ms),
        notes=tuple(notes),
        calibration=mended,
        recalibrated=gain,
    )
    yield At(1.0, "Done", result)


def in_turns(questions: QuestionFile) -> QuestionFile:
    """The same questions, families taking turns, so that the first few are of every one."""
    families: dict[str, list[Question]] = {}
    for question in questions.questions:
        families.setdefault(question.category, []).append(question)
    mixed = [q for row in itertools.zip_longest(*families.values()) for q in row if q is not None]
    return dataclasses.replace(questions, questions=tuple(mixed))


@dataclass(frozen=True)
class _Part:
    """One answer of one variant."""

    question: Question
    turn: int
    variant: str
    ids: tuple[int, ...]
    emissions: tuple[Emission, ...]

    @property
    def steps(self):
        return [emission.step for emission in self.emissions]

    @property
    def answer(self) -> list[int]:
        return [token for emission in self.emissions for token in emission.tokens]


class _Heard:
    """What `bench.measure` tells of each answer."""

    def __init__(self):
        self.parts: list[_Part] = []
        self.finished: set[str] = set()

    def __call__(self, question, turn, variant, ids, emissions) -> None:
        if variant in (YARDSTICK, AS_SET):
            self.parts.append(_Part(question, turn, variant, tuple(ids), tuple(emissions)))

    def prompts_ms(self) -> dict[str, float]:
        """question -> what reading its prompts took, as the settings' runs tell."""
        found: dict[str, float] = {}
        for part in self.parts:
            if part.variant == AS_SET and part.emissions:
                first = part.emissions[0]
                spent = max(first.ms - first.step.timing.total_ms, 0.0)
                found[part.question.id] = found.get(part.question.id, 0.0) + spent
        return found


def _possible(pair: Pair, settings: Settings, name: str) -> bool:
    """Whether the pair can run a method, which is not the settings' own."""
    try:
        decoding = METHODS[name].start(pair, settings, pair.encode("Hello"), never)
    except DiffuSpecError:
        return False
    return decoding.run.settings != settings or decoding.run.pair is not pair


def _pass_ms(plain: Sequence[_Part]) -> float:
    """Of a plain pass in the run: all but an answer's first, which holds the prompt."""
    passes = [emission.ms for part in plain for emission in part.emissions[1:]]
    return statistics.fmean(passes or [emission.ms for part in plain for emission in part.emissions])


def _costs(pair: Pair, settings: Settings, base: Sequence[_Part], plain: Sequence[_Part]) -> tuple[Costs, float]:
    """Of passes over as much text as the answers had; and a plain pass alone.

    What a pass takes was measured in the run itself: of one row by plain decoding, of as many as the settings' passes
    have on average by these. Bursts give the shape between and beyond.
    """
    steps = [step for part in base for step in part.steps]
    context = round(statistics.fmean(len(part.ids) + step.start for part in base for step in part.steps))
    alone = measure_costs(pair.target, pair.drafter, max(context, 2))
    alone = dataclasses.replace(alone, draft=tuple((k, settings.passes * ms) for k, ms in alone.draft))
    curve = alone.verify_ms(MOST_ROWS)
    rows = [rows_of(step) for step in steps]
    levels = [(1.0, _pass_ms(plain) / float(curve[0]))]
    if statistics.fmean(rows) > 1:
        told = sum(step.timing.verify_ms for step in steps) / sum(float(curve[n - 1]) for n in rows)
        levels.append((statistics.fmean(rows), told))
    drafted = [step for step in steps if step.draft_length]
    level = 1.0
    if drafted:
        level = sum(s.timing.draft_ms for s in drafted) / sum(alone.draft_ms(s.draft_length) for s in drafted)
    host = statistics.fmean(s.timing.search_ms + s.timing.commit_ms + s.timing.record_ms for s in steps)
    return Costs(alone, pair.step_cost, tuple(levels), level, host), float(curve[0])


def _cost_rows(pair: Pair, costs: Costs) -> tuple[Cost, ...]:
    verify = [Cost("verify", n, costs.verify_ms(n)) for n, _ in costs.steps.verify]
    return (*(Cost("draft", k, costs.draft_ms(k)) for k, _ in costs.steps.draft), *verify)


def _taped(pair: Pair, settings: Settings, part: _Part, should_stop: Callable[[], bool]) -> Tape | None:
    most = min(2 * max(settings.k_max, settings.k), pair.drafter.max_block)
    # Every length up to the longest that is set; of longer ones every other: a lever may ask for them.
    usual = min(max(settings.k_max, settings.k), most)
    lengths = [*range(1, usual + 1), *range(usual + 1, most + 1, 2), most] if most else []
    return record(
        pair,
        part.ids,
        part.answer,
        sorted(set(lengths)),
        width=max(settings.m_max, LATTICE_ROWS),
        passes=settings.passes,
        should_stop=should_stop,
        question=part.question.id,
        category=part.question.category,
        turn=part.turn,
    )


class _Replays:
    """What is reckoned from the tapes."""

    def __init__(self, pair, settings: Settings, tapes, costs: Costs, prompts_ms, results):
        self.pair, self.settings, self.tapes, self.costs = pair, settings, tapes, costs
        self.prompts_ms, self.results = prompts_ms, results
        self.usable = bool(tapes) and replayable(settings)
        self.base = replay_all(pair, settings, tapes, costs) if self.usable else None

    def levers(self, stop: Callable[[], bool]) -> list[Lever]:
        if not self.usable:
            return []
        return weigh(self.pair, self.settings, self.tapes, self.costs, self.prompts_ms, self.base, stop)

    def _tree(self):
        """The settings with a tree, which is the settings' own where they have one."""
        if self.settings.search == "tree":
            return self.settings
        return self.settings.replace(search="tree", rule="point-mass")

    def reliability(self):
        found, k, mended, gain = [], max(self.settings.k_max, self.settings.k), None, None
        drafter = of_drafter(self.tapes, min(k, self.pair.drafter.max_block)) if self.pair.drafter.max_block else None
        if drafter is not None and len(drafter):
            found.append(judged(DRAFTER, drafter))
        if self.usable and self.pair.drafter.max_block:
            path = self.settings.replace(search="cps", length="fixed", k=min(k, self.pair.drafter.max_block))
            found.append(judged(SCORE, of_search(replay_all(self.pair, path, self.tapes, self.costs))))
        if self.usable and self.pair.target.trees:
            nodes, mended, gain = self._mended()
            found.append(nodes)
        by_cell = cells(drafter) if drafter is not None and len(drafter) else ()
        return tuple(one for one in found if one), by_cell, mended, gain

    def _mended(self):
        """Tree nodes before and after a calibration, which is fitted on every other question; its gain on the rest."""
        tree, questions = self._tree(), list(dict.fromkeys(tape.question for tape in self.tapes))
        held = [tape for tape in self.tapes if questions.index(tape.question) % 2]
        before = replay_all(self.pair, tree, held, self.costs)
        mended = fitted([t for t in self.tapes if t not in held], self.pair, tree, self.costs)
        if mended is None or len(of_search(before)) < FEWEST_EVENTS:
            return None, None, None
        after = replay_all(dataclasses.replace(self.pair, calibration=mended), tree, held, self.costs)
        shown = compared(NODES, of_search(before), of_search(after), mended, mended.kept)
        speed = [made.tokens / made.seconds(self.prompts_ms) for made in (after, before)]
        return shown, mended, ratio(*speed)

    def budgets(self) -> tuple[Budget, ...]:
        """Tokens a step against the nodes of a tree whose length is as set."""
        if not self.usable or not self.pair.target.trees:
            return ()
        rows = []
        for nodes in NODES_TRIED:
            settings = self._tree().replace(nodes=nodes)
            if settings.length == "throughput" and self.pair.drafter.max_block:  # it would take fewer
                settings = settings.replace(length="fixed", k=min(settings.k_max, self.pair.drafter.max_block))
            made = replay_all(self.pair, settings, self.tapes, self.costs)
            speed = made.tokens / made.seconds(self.prompts_ms)
            rows.append(Budget(nodes, made.tokens_per_step, ratio(speed, self._plain_speed(made.questions))))
        return tuple(rows)

    def _plain_speed(self, questions: Sequence[str]) -> np.ndarray:
        speeds = {r.question: r.tokens / r.seconds for r in self.results if r.variant == YARDSTICK}
        return np.array([speeds[q] for q in questions])

    def positions(self) -> tuple[Position, ...]:
        """How far drafts stand, at every place of the answers."""
        longest = min(max(self.settings.k_max, self.settings.k), self.pair.drafter.max_block or 8)
        counts: dict[str, np.ndarray] = {}

        def count(name: str, drafted: Sequence[int], answer: Sequence[int]) -> None:
            table = counts.setdefault(name, np.zeros((longest, 2), int))
            for i, token in enumerate(drafted[: min(longest, len(answer))]):
                table[i, 0] += 1
                if token != answer[i]:
                    return
                table[i, 1] += 1

        copies = PromptLookup()
        for tape in self.tapes:
            text = np.array([*tape.prompt_ids, *tape.answer], np.int32)
            for place in range(len(tape.answer)):
                rest = tape.answer[place:]
                if tape.drafts:
                    count("diffusion, likeliest", tape.draft(place, longest)[0][:, 0].tolist(), rest)
                found = copies.find(text[: len(tape.prompt_ids) + place])[:longest]
                if len(found):
                    count("copies", found.tolist(), rest)
        if self.usable and self.pair.drafter.max_block:
            path = self.settings.replace(search="cps", length="fixed", k=longest)
            table = counts.setdefault("diffusion, CPS", np.zeros((longest, 2), int))
            for tape, steps in replay_all(self.pair, path, self.tapes, self.costs).all:
                for step in steps:
                    known = min(step.nodes, len(tape.answer) - step.place, longest)
                    table[: min(step.accepted + 1, known), 0] += 1
                    table[: min(step.accepted, known), 1] += 1
        return tuple(
            Position(name, i + 1, int(reached), int(accepted))
            for name, table in counts.items()
            for i, (reached, accepted) in enumerate(table.tolist())
            if reached
        )


def _with_measured(levers: Sequence[Lever], pulled: Sequence[Measured]) -> list[Lever]:
    names = {r.variant for r in pulled}
    done = [dataclasses.replace(x, measured=speedup(pulled, x.name, AS_SET)) if x.name in names else x for x in levers]
    shown = [x for x in done if x.measured is not None]
    return sorted(
        [*shown, *[x for x in done if x.measured is None][: max(SHOWN_LEVERS - len(shown), 0)]],
        key=lambda lever: -lever.predicted.value,
    )


def _splits(pair: Pair, base: Sequence[_Part], tapes: Sequence[Tape], plain_ms: float):
    entropy = {(tape.question, tape.turn): tape.entropy for tape in tapes}
    answers = []
    for part in base:
        question, text = part.question, pair.tokenizer.decode(part.answer, skip_special_tokens=True)
        text = f"{question.turns[part.turn]}\n{text}"
        known = entropy.get((question.id, part.turn))
        answers.append(Answer(question.id, question.category, part.turn, text, part.ids, part.steps, known, plain_ms))
    return splits(answers)
