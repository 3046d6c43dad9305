"""A pair without models: a script stands for the target, noise around it for the drafter.

Lattices, search, verification and lengths come from the real `diffuspec.method`, so its traces hold
together like real ones; a run takes as long as it is told to.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time

import numpy as np

from diffuspec.errors import MethodError, PromptError
from diffuspec.measure.methods import Emission
from diffuspec.measure.questions import Question, bundled_questions
from diffuspec.measure.race import Lane, Race, finish, run_lane
from diffuspec.measure.results import Measured
from diffuspec.measure.studies import STUDIES, StudyResult
from diffuspec.measure.studies.result import QuestionsUsed
from diffuspec.method.acceptance import verify
from diffuspec.method.lattice import generated_length, prune
from diffuspec.method.length import StepCost, make_policy
from diffuspec.method.proxy import ContextNGram
from diffuspec.method.search import argmax_path, beam_search
from diffuspec.provenance import PairInfo, Provenance
from diffuspec.settings import Settings
from diffuspec.trace.model import Baseline, Difference, Trace
from diffuspec.trace.steps import Step, Timing, Verification

SCRIPT = (
    "To find the car's acceleration, we need to know the initial speed and the time it took to reach that speed.\n\n"
    "Let's denote the initial speed as x. The final speed is 60 mph, and the time is 8 seconds. Acceleration is the "
    "change in speed divided by the time: a = (60 - 0) / 8 = 7.5 mph per second. A café in Zürich calls this “naïve”, "
    "日本 says 加速度 🚗.\n"
)
PROMPT = "If a car accelerates from 0 to 60 mph in 8 seconds?"
SLOW_S = 60.0  # what nothing waits for where a test does what it should
WIDTH = 15
PROVENANCE = Provenance("2026-11-23T12:00:00+00:00", "test machine, 2 cores", 2, {"torch": "none"})


class FakePair:
    """Words of the script and of `extra` as the vocabulary; bytes where a character is not ASCII."""

    def __init__(self, script: str = SCRIPT, extra: tuple[str, ...] = (), dtype: str = "float32"):
        self.pieces: list[bytes] = [b"<|im_end|>", b"<|im_start|>"]
        self.stop_ids, self.special_ids = frozenset({0}), frozenset({0, 1})
        self.script = self.encode(script)
        for word in (*extra, *" of speed rate time velocity a an its for in on x is it then so and out".split(" ")):
            self.encode(" " + word)
        self.encode(PROMPT)
        self.info = PairInfo("fake", "scripted target", "noisy drafter", "none", dtype, "cpu", 2048, 32)

    def room(self, ids) -> int:
        if len(ids) >= self.info.context:
            raise PromptError(f"The prompt has {len(ids)} tokens; the target can hold 2048. Shorten the prompt.")
        return self.info.context - len(ids)

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def encode(self, text: str) -> list[int]:
        pieces = []
        for word in re.findall(r" ?[A-Za-z']+| ?[0-9]+|\s+|.", text, re.S):
            raw = word.encode()
            pieces += [raw] if len(raw) == len(word) else [raw[i : i + 1] for i in range(len(raw))]
        for piece in pieces:
            if piece not in self.pieces:
                self.pieces.append(piece)
        return [self.pieces.index(piece) for piece in pieces]


class FakeRun:
    """Has the engine's face: iterate for steps, `trace` at any time, `stop()` from anywhere."""

    def __init__(self, pair: FakePair, settings: Settings, prompt, *, pause: float = 0.0, skill: float = 0.72):
        """prompt: text, or token ids that a run left off at."""
        self.prompt_ids = prompt if isinstance(prompt, tuple) else (1, *pair.encode(prompt), 0)
        if len(self.prompt_ids) >= pair.info.context:
            raise PromptError(f"The prompt has {len(self.prompt_ids)} tokens; the target can hold 2048. Shorten it.")
        self.pair, self.settings, self.prompt, self.pause, self.skill = pair, settings, prompt, pause, skill
        self.random = np.random.default_rng(settings.seed + 7)
        self.policy = make_policy(settings, StepCost(draft=((1, 12.0), (16, 14.0)), verify=((1, 40.0), (9, 48.0))))
        self.proxy = ContextNGram(len(pair.pieces), [*self.prompt_ids, *pair.script[:40]])
        self.prefix = list(self.prompt_ids)
        self.made, self.steps, self.stop_reason = 0, [], "running"
        self.said = len(self.prompt_ids) - 1 - self.prompt_ids.index(0)  # tokens of the answer it starts with

    def stop(self):
        if self.stop_reason == "running":
            self.stop_reason = "stopped"

    def __iter__(self):
        return self

    def truth(self, place: int) -> int:
        return self.pair.script[(self.said + place) % len(self.pair.script)]

    def __next__(self) -> Step:
        if self.stop_reason != "running":
            raise StopIteration
        time.sleep(self.pause)
        settings = self.settings
        k = min(self.policy.k, settings.max_new_tokens - self.made - 1)
        lattice = self.draft(k)
        if settings.search == "argmax":
            path = argmax_path(lattice, self.pair.stop_ids)
        else:
            path = beam_search(
                lattice, self.proxy, self.prefix, beam=settings.beam, lam=settings.lam, stop_ids=self.pair.stop_ids
            )
        n = len(path)
        verdict = verify(path.ids, lambda i: self.truth(self.made + i), self.pair.stop_ids)
        emitted = tuple(path.ids[: verdict.accepted].tolist()) + ((verdict.token,) if verdict.token is not None else ())
        check = self.verification(lattice, path, verdict, n)
        raw = lattice.ids[:, 0] if k else path.ids
        decision = self.policy.update(generated_length(raw, self.pair.stop_ids), verdict.accepted)
        timing = Timing(*(self.random.uniform(0.9, 1.1, 5) * (12, 0.4, 48, 0.1, 0.6)).tolist())
        step = Step(len(self.steps), self.made, self.prefix[-1], lattice, path, check, decision, emitted, timing)
        self.steps.append(step)
        self.made += len(emitted)
        self.prefix += emitted
        self.proxy.extend(emitted)
        if self.made >= settings.max_new_tokens:
            self.stop_reason = "max tokens"
        return step

    def draft(self, k: int):
        vocab = len(self.pair.pieces)
        width = min(max(WIDTH, self.settings.m_max), vocab)
        ids, logq = np.zeros((k, width), np.int32), np.zeros((k, width), np.float32)
        for column in range(k):
            right = self.truth(self.made + column)
            others = self.random.permutation([i for i in range(2, vocab) if i != right])[: width - 1]
            row = np.sort(self.random.dirichlet(np.full(width, 0.25)))[::-1]
            hit = self.random.random() < self.skill ** (1 + 0.25 * column)
            missing = self.random.random() < 0.15
            place = 0 if hit else int(self.random.integers(1, min(6, width)))
            tokens = others.tolist()
            tokens.insert(place, right)
            ids[column] = (
                [t for t in tokens if not (missing and not hit and t == right)][:width]
                if not missing
                else (tokens[:width] if hit else [*others.tolist(), 0][:width])
            )
            logq[column] = np.log(row * 0.98 + 1e-4)
        return prune(ids, logq, tau=self.settings.tau, m_max=self.settings.m_max, stop_ids=self.pair.stop_ids)

    def verification(self, lattice, path, verdict, n) -> Verification:
        vocab = len(self.pair.pieces)
        p = self.random.dirichlet(np.full(vocab, 0.02), n + 1)
        for i in range(n + 1):
            p[i] = 0.25 * p[i]
            p[i, self.truth(self.made + i)] += 0.75
        logp = np.log(p + 1e-9).astype(np.float32)
        top = np.argsort(-logp, axis=1, kind="stable")[:, :8].astype(np.int32)
        path_logp = logp[np.arange(n), path.ids]
        return Verification(
            accepted=verdict.accepted,
            token=verdict.token,
            kind=verdict.kind,
            draws=verdict.draws,
            path_logp=path_logp,
            path_rank=(logp[:n] > path_logp[:, None]).sum(1).astype(np.int32),
            top_ids=top,
            top_logp=np.take_along_axis(logp, top, 1),
            cell_logp=np.take_along_axis(logp[:n], lattice.ids[:n].astype(np.int64), 1),
        )

    @property
    def trace(self) -> Trace:
        steps = tuple(self.steps)
        raw = b"".join(self.pair.pieces[t] for s in steps for t in s.emitted)
        return Trace(
            prompt=self.prompt if isinstance(self.prompt, str) else None,
            prompt_ids=self.prompt_ids,
            settings=self.settings,
            pair=self.pair.info,
            provenance=PROVENANCE,
            stop_ids=(0,),
            pieces={i: piece.decode("latin-1") for i, piece in enumerate(self.pair.pieces)},
            special=(0, 1),
            steps=steps,
            text=raw.decode("utf-8", "replace"),
            stop_reason=self.stop_reason,
            prefill_ms=40.0,
            wall_s=0.04 + sum(s.timing.total_ms for s in steps) / 1e3,
        )


def fake_verify(pair: FakePair, trace: Trace, index: int, ranks: list[int]) -> Step:
    """The script's word on another path."""
    step = trace.steps[index]
    ids = step.lattice.ids[np.arange(len(ranks)), ranks]
    path = dataclasses.replace(argmax_path(step.lattice, ()), ids=ids, ranks=np.array(ranks, np.int32))
    run = FakeRun(pair, trace.settings, trace.prompt_ids + trace.token_ids[: step.start])
    verdict = verify(ids, run.truth, pair.stop_ids)
    return dataclasses.replace(step, search=path, verification=run.verification(step.lattice, path, verdict, len(ids)))


def fake_compare(
    pair: FakePair, trace: Trace, on_token, *, pause: float = 0.0, gate: threading.Event | None = None
) -> Baseline:
    """gate: not passed in the middle of the answer before it is set."""
    made = []
    for token in trace.token_ids:
        time.sleep(pause)
        if gate is not None and len(made) == len(trace.token_ids) // 2:
            gate.wait(SLOW_S)
        made.append(token)
        if on_token(len(made)):
            break
    difference = Difference(16, made[16], made[3], 0.004) if pair.info.dtype == "bfloat16" and len(made) > 16 else None
    times = tuple(40.0 + 42.0 * (i + 1) for i in range(len(made)))
    return Baseline(tuple(made), times[-1] / 1e3, 40.0, times, len(made), difference)


def fake_trace(
    prompt: str = PROMPT,
    *,
    script: str = SCRIPT,
    extra: tuple[str, ...] = (),
    skill: float = 0.72,
    compare: bool = True,
    **settings,
) -> Trace:
    pair = FakePair(script, extra)
    run = FakeRun(pair, Settings(**settings), prompt, skill=skill)
    for _ in run:
        pass
    trace = run.trace
    return trace.with_baseline(fake_compare(pair, trace, lambda count: False)) if compare else trace


SKILLS = {"plain": 0.6, "diffuspec": 0.8, "prompt-lookup": 0.3, "ar-drafter": 0.85}


def fake_lane(pair: FakePair, settings: Settings, prompt: str, method: str, heard, stop, *, pause: float = 0.0) -> Lane:
    """A lane of a race: "ar" makes a token each 42 ms, the others are runs of their skill; "hf-generate" is missing."""
    if method == "hf-generate":
        raise MethodError("transformers is not at home.")
    if method == "ar":
        return run_lane(method, _plain(pair, settings, pause), heard, stop)
    run = FakeRun(pair, settings, prompt, pause=pause, skill=SKILLS.get(method, 0.7))
    emissions = (
        Emission(step.emitted, step.accepted, step.timing.total_ms + 40 * (not step.index), step) for step in run
    )
    return run_lane(method, emissions, heard, stop)


def _plain(pair: FakePair, settings: Settings, pause: float):
    for place in range(settings.max_new_tokens):
        time.sleep(pause / 4)
        yield Emission((pair.script[place % len(pair.script)],), 0, 42.0 + 40 * (not place))


def fake_costs(pair: FakePair, prompt: str) -> tuple[tuple[float, float], ...]:
    return ((1.0, 42.0), (8.0, 50.0), (32.0, 95.0))


def fake_race(prompt: str = "What is the acceleration?", pair: FakePair | None = None, **settings) -> Race:
    pair, settings = pair or FakePair(), Settings(**{"max_new_tokens": 64, **settings})
    lanes = [fake_lane(pair, settings, prompt, method, lambda made: None, lambda: False) for method in ("ar", *SKILLS)]
    return finish(pair, prompt, settings, lanes, fake_costs(pair, prompt), PROVENANCE)


def fake_measured(variant: str, question: Question, place: int, k: int = 6) -> Measured:
    """One variant on one question: the later the variant, the more it accepts."""
    accepted = 0 if variant == "ar" else 20 + 3 * place
    steps = 64 - accepted
    return Measured(
        variant,
        question.id,
        question.category,
        tokens=64,
        seconds=0.05 * steps + 0.01 * place,
        steps=steps,
        accepted=accepted,
        draft_ms=8.0 * steps,
        search_ms=1.0 * steps,
        verify_ms=40.0 * steps,
        commit_ms=0.5 * steps,
        record_ms=0.5 * steps,
        positions=((40, 40, 30), (40, 30, 12), (30, 12, 4)),
        lengths=((k, steps, steps * 5, accepted),),
        differences=(),
    )


def fake_result(
    name: str, questions: int = 3, asked: int | None = None, tokens: int = 64, now: str = ""
) -> StudyResult:
    """A study over `asked` questions of which `questions` are answered."""
    study, settings = STUDIES[name], Settings(max_new_tokens=tokens)
    rows, done, total = PROBED.get(name, []), 1, 1
    if study.variants:
        variants = study.variants(settings, 32)
        some = bundled_questions().questions[::3]
        results = [fake_measured(v.name, q, i, v.settings.k) for q in some[:questions] for i, v in enumerate(variants)]
        rows = study.rows(results, variants) if questions else []
        done, total = questions * len(variants), (asked or questions) * len(variants)
    used = QuestionsUsed("questions.jsonl", "0" * 64, asked or questions)
    return StudyResult(
        name,
        tuple(rows),
        study.remark(rows) if rows else "",
        done,
        total,
        now,
        settings,
        FakePair().info,
        PROVENANCE,
        used,
        (),
    )


PROBED = {
    "costs": [
        {"part": part, "tokens": n, "ms": ms + n, "least_ms": ms, "plain_passes": (ms + n) / 40}
        for part, ms in (("draft", 7.0), ("verify", 39.0))
        for n in (1, 5, 9, 17)
    ],
    "memory": [
        {
            "method": method,
            "tokens": n,
            "context": n + 30,
            "ms_per_pass": 40.0,
            "ms_per_token": 30.0,
            "cache_mb": 9.0,
            "trace_mb": 1.0,
            "rss_mb": 900.0,
            "other_mb": 800.0,
        }
        for n in (100, 200)
        for method in ("ar", "diffuspec")
    ],
}


def fake_study(name, pair, settings, questions, state, stop, *, pause: float = 0.0, hold=lambda: None):
    """Yields after every question; `state` remembers how many were answered. hold(): answered questions after
    which it waits to be stopped, None for never."""
    asked = len(questions.questions)
    done = int(state.read_text()) if state.exists() else 0
    while done < asked:
        yield fake_result(name, done, asked, settings.max_new_tokens, f"question {done + 1}")
        time.sleep(pause)
        while done == hold() and not stop():
            time.sleep(0.02)
        if stop():
            return
        done += 1
        state.write_text(str(done))
    yield fake_result(name, asked, asked, settings.max_new_tokens)
