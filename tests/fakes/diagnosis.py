"""A diagnosis with round numbers, for pages and pictures."""

import time

from diffuspec.measure.diagnose.diagnosis import AS_SET, Budget, Cost, Diagnosis, Position
from diffuspec.measure.diagnose.levers import Lever
from diffuspec.measure.diagnose.losses import Loss, Losses
from diffuspec.measure.diagnose.machine import Machine, Roofline
from diffuspec.measure.diagnose.reliability import Bin, Cell, Reliability
from diffuspec.measure.diagnose.run import At
from diffuspec.measure.diagnose.splits import Split
from diffuspec.measure.questions import bundled_questions
from diffuspec.measure.results import AGAIN, Measured
from diffuspec.measure.statistics import Estimate
from diffuspec.measure.studies.result import QuestionsUsed
from diffuspec.settings import Settings
from tests.fakes.scripted import PROVENANCE, FakePair

TOKENS, PLAIN_MS = 64, 4.0


def measured(variant: str, question, place: int, faster: float, tokens_a_step: float) -> Measured:
    """Twice as fast on one question as on another, by a fixed wobble."""
    steps = round(TOKENS / tokens_a_step)
    seconds = TOKENS * PLAIN_MS / 1e3 / (faster * (1 + 0.1 * (place % 3 - 1) * (faster != 1.0)))
    return Measured(
        variant, question.id, question.category, TOKENS, seconds, steps, TOKENS - steps, 0, 0, 0, 0, 0, (), (), ()
    )  # fmt: skip


def fake_diagnosis(faster: float = 1.6, questions: int = 12, lever: float = 1.1, **changes) -> Diagnosis:
    """faster: of the settings over plain AR; lever: measured gain of nodes = 24."""
    asked = bundled_questions().questions[:questions]
    settings = Settings(search="tree")
    rates = {"ar": (1.0, 1.0), AGAIN: (1.0, 1.0), AS_SET: (faster, 2.5), "plain": (0.8 * faster, 1.8)}
    results = [measured(v, q, i, *rate) for i, q in enumerate(asked) for v, rate in rates.items()]
    near = Estimate(lever, lever - 0.05, lever + 0.05, questions)
    bins = (Bin(0.1, 0.15, 400), Bin(0.5, 0.4, 200), Bin(0.9, 0.95, 100))
    steps_ms = PLAIN_MS / faster
    made = dict(
        pair=FakePair().info, settings=settings, provenance=PROVENANCE,
        questions=QuestionsUsed("questions.jsonl", "0" * 64, questions), seed=0, minutes=3.0, took_s=150.0,
        machine=Machine(30.0, 120.0), plain=Roofline(90_000_000, 134_000_000, 3.0, PLAIN_MS, 3.8),
        costs=tuple(Cost("draft", k, 0.3 + k / 20) for k in (1, 4, 8))
        + tuple(Cost("verify", n, 3.6 + n * 0.4) for n in (1, 2, 4, 8, 16)),
        host_ms=0.4, draft_nodes=10.0, results=tuple(results), pulled=(),
        losses=Losses(steps_ms, 0.6, 16, (
            Loss("unknown", (steps_ms - 0.6) * 0.5, 40), Loss("refused rows", (steps_ms - 0.6) * 0.3, 0),
            Loss("drafting", (steps_ms - 0.6) * 0.15, 0), Loss("unexplained", (steps_ms - 0.6) * 0.05, 0),
        )),
        levers=(Lever("nodes = 24", settings.replace(nodes=24), near, near),
                Lever("tau = 0.6", settings.replace(tau=0.6), Estimate(1.0, 0.98, 1.02, questions))),
        reliability=(Reliability("tree nodes", 700, 0.05, 0.02, 0.12, 0.8, bins, 0.01, 0.11, bins, (1.0, 1.2)),),
        cells=tuple(Cell(d, r, 90, 0.5 / r, 0.45 / r) for d in (1, 2) for r in (1, 2, 3)),
        budgets=tuple(Budget(n, 1 + n / 8, Estimate(1 + n / 20, 1.0, 2.0, questions)) for n in (1, 4, 16)),
        positions=tuple(Position("diffusion, CPS", i, 100 - 10 * i, 60 - 8 * i) for i in (1, 2, 3, 4)),
        splits=(Split("all", "all", 12, 300, 768, 2.56, Estimate(faster, faster - 0.1, faster + 0.1, 12)),
                Split("text", "code", 2, 50, 150, 3.0, Estimate(1.9, None, None, 2))),
        notes=("A note <b>on</b> what was not done.",),
    )  # fmt: skip
    return Diagnosis(**{**made, **changes})


def fake_diagnose(pair, settings, questions, minutes, stop, *, pause: float = 0.1):
    for i in range(10):
        if stop():
            return
        yield At(i / 10, f"Measuring: question {i + 1}, as set")
        time.sleep(pause)
    yield At(1.0, "Done", fake_diagnosis(settings=settings, minutes=minutes))
