"""Measures methods side by side by Spec-Bench's protocol (Xia et al., arXiv 2401.07851).

Batch 1, prefill included, several turns a question; methods take turns question by question, so
that a drift of the machine hits all alike. A method's speed-up is the mean over questions of its
tokens per second, divided by the mean of plain AR's in the same run. Every answer is compared
with AR's. Later turns follow AR's answers, so that all methods see the same prompts.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from diffuspec.baselines import AutoregressiveRun
from diffuspec.engine import DiffuSpec
from diffuspec.errors import DiffuSpecError, SettingsError
from diffuspec.models.pair import Pair
from diffuspec.models.target import stock_model
from diffuspec.settings import Settings
from diffuspec.trace import Trace

FAMILIES = {
    **dict.fromkeys(
        ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"), "mt"
    ),
    "math_reasoning": "math",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """category: the Spec-Bench task family (its eight MT-Bench categories are one: mt)."""

    id: str
    category: str
    turns: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """One method on one question, all turns added up; trace-only fields are 0 where there is no trace."""

    method: str
    question: str
    category: str
    tokens: int
    seconds: float
    steps: int
    accepted: int
    draft_ms: float
    search_ms: float
    verify_ms: float
    record_ms: float
    identical: bool


def read_questions(path: Path) -> list[Question]:
    """Spec-Bench's format: {"question_id", "category", "turns": [...]} a line."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [
            Question(str(r["question_id"]), FAMILIES.get(r["category"], r["category"]), tuple(map(str, r["turns"])))
            for r in rows
        ]
    except OSError as error:
        raise DiffuSpecError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DiffuSpecError(
            f'{path} is not a question file: each line must hold "question_id", "category" and "turns" ({error!r}).'
        ) from error


def _speculative(**changes) -> Callable:
    def decode(pair: Pair, settings: Settings, ids: Sequence[int]) -> tuple[Sequence[int], float, Trace | None]:
        trace = DiffuSpec(pair, settings.replace(**changes)).run(ids=ids)
        return trace.token_ids, trace.wall_s, trace

    return decode


def _ar(pair: Pair, settings: Settings, ids: Sequence[int]):
    started = time.perf_counter()
    answer = list(AutoregressiveRun(pair, settings, ids))
    return answer, time.perf_counter() - started, None


@functools.lru_cache(1)
def _stock(source, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    model = stock_model(source, dtype).to(device)
    model(torch.zeros(1, 9, dtype=torch.long, device=device))
    return model


@torch.inference_mode()
def _hf_generate(pair: Pair, settings: Settings, ids: Sequence[int]):
    """What transformers does by itself: its own `generate` on its own layers."""
    target = pair.target
    model = _stock(target.source, target.model.dtype, target.device)
    started = time.perf_counter()
    prompt = torch.tensor([list(ids)], device=target.device)
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=settings.max_new_tokens,
        eos_token_id=sorted(pair.stop_ids), pad_token_id=min(pair.stop_ids),
    )  # fmt: skip
    return out[0, len(ids) :].tolist(), time.perf_counter() - started, None


# name -> how it decodes; the ablation's names are those of the paper's Table 2
METHODS: dict[str, Callable] = {
    "ar": _ar,
    "hf-generate": _hf_generate,
    "plain": _speculative(search="argmax", length="fixed"),
    "cps": _speculative(search="cps", length="fixed"),
    "adl": _speculative(search="argmax", length="adl"),
    "diffuspec": _speculative(search="cps", length="adl"),
}


def parse_methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise SettingsError(f"Unknown method {', '.join(unknown) or text!r}. Methods: {', '.join(METHODS)}.")
    return ["ar", *(name for name in dict.fromkeys(names) if name != "ar")]


def measure(
    pair: Pair,
    settings: Settings,
    questions: Iterable[Question],
    methods: Sequence[str],
    on_question: Callable[[Question, list[Measured]], None] = lambda question, rows: None,
) -> list[Measured]:
    """Every method on every question, greedily; "ar" must come first."""
    settings = settings.replace(temperature=0)
    results = []
    for question in questions:
        sums = {
            name: Measured(name, question.id, question.category, 0, 0.0, 0, 0, 0, 0, 0, 0, True) for name in methods
        }
        messages: list[dict[str, str]] = []
        for turn in question.turns:
            messages.append({"role": "user", "content": turn})
            ids = pair.encode(messages)
            if len(ids) + settings.max_new_tokens > pair.info.context:
                break
            expected = None
            for name in methods:
                answer, seconds, trace = METHODS[name](pair, settings, ids)
                expected = answer if expected is None else expected
                sums[name] = _add(sums[name], answer, seconds, trace, list(answer) == list(expected))
            text = pair.tokenizer.decode(expected, skip_special_tokens=True)
            messages.append({"role": "assistant", "content": text})
        results.extend(sums.values())
        on_question(question, list(sums.values()))
    return results


def _add(total: Measured, answer, seconds: float, trace: Trace | None, identical: bool) -> Measured:
    stages = trace.stage_ms() if trace else {}
    return dataclasses.replace(
        total,
        tokens=total.tokens + len(answer),
        seconds=total.seconds + seconds,
        steps=total.steps + (len(trace.steps) if trace else len(answer)),
        accepted=total.accepted + (sum(step.accepted for step in trace.steps) if trace else 0),
        draft_ms=total.draft_ms + stages.get("draft", 0),
        search_ms=total.search_ms + stages.get("search", 0),
        verify_ms=total.verify_ms + stages.get("verify", 0),
        record_ms=total.record_ms + stages.get("record", 0),
        identical=total.identical and identical,
    )


def summarise(results: Sequence[Measured]) -> list[dict]:
    """A row a method and family, and one a method with category "mean".

    accepted_per_step and tokens_per_step are means over all steps; the mean row's are means over
    families. speedup: ratio of the means over questions of tokens per second. *_ms: per step.
    """
    answered = [r for r in results if r.tokens]
    rows = []
    for method in dict.fromkeys(r.method for r in answered):
        mine = [r for r in answered if r.method == method]
        families = [
            _row(
                method, family, [r for r in mine if r.category == family], [r for r in answered if r.category == family]
            )
            for family in dict.fromkeys(r.category for r in mine)
        ]
        mean = _row(method, "mean", mine, answered)
        for name in ("accepted_per_step", "tokens_per_step"):
            mean[name] = sum(row[name] for row in families) / len(families)
        rows += [*families, mean]
    return rows


def _row(method: str, category: str, mine: list[Measured], all_methods: list[Measured]) -> dict:
    def mean_speed(results):
        return sum(r.tokens / r.seconds for r in results) / len(results)

    steps = sum(r.steps for r in mine)
    row = {
        "method": method,
        "category": category,
        "questions": len(mine),
        "accepted_per_step": sum(r.accepted for r in mine) / steps,
        "tokens_per_step": sum(r.tokens for r in mine) / steps,
        "tokens_per_second": mean_speed(mine),
        "speedup": mean_speed(mine) / mean_speed([r for r in all_methods if r.method == "ar"]),
        "identical": sum(r.identical for r in mine) / len(mine),
    }
    for stage in ("draft", "search", "verify", "record"):
        row[f"{stage}_ms"] = sum(getattr(r, f"{stage}_ms") for r in mine) / steps
    return row
