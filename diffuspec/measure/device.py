"""One look at a device: whether its passes keep their promise, and what they cost; `diffuspec check-device`.

Everything is measured in this one call, on a GPU where the pair lies on one and on a CPU otherwise, and the file says
which. Nothing in it is compared with figures of other machines.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import torch

from diffuspec.measure.questions import bundled_questions
from diffuspec.measure.studies import stream_study
from diffuspec.measure.studies.methods import comparison
from diffuspec.models.pair import Pair
from diffuspec.models.target import Target
from diffuspec.provenance import provenance
from diffuspec.trace.steps import STAGES

FORMAT, VERSION = "diffuspec-device", 1
METHODS = ("ar", "ar-again", "hf-generate", "plain", "diffuspec", "throughput")
DRAFT, PROMPT = 12, 24  # rows of the pass whose bits are looked at, behind so many tokens
HOST = ("search", "commit", "record")  # stages of a step in which no model computes
TESTS = Path(__file__).parents[2] / "tests" / "gpu"

Say = Callable[[str], None]


def check_device(pair: Pair, minutes: float, say: Say = lambda text: None, should_stop=lambda: False) -> dict[str, Any]:
    """Tests, bits, passes and methods of a pair; the methods get so many minutes, and what does not fit is left out."""
    gpu = pair.target.device.type == "cuda"
    found = {
        "format": FORMAT,
        "version": VERSION,
        "gpu": gpu,
        "device": torch.cuda.get_device_name(pair.target.device) if gpu else "no CUDA device: measured on the CPU",
        "pair": dataclasses.asdict(pair.info),
        "passes_of_one_shape": pair.target.static,
        "provenance": dataclasses.asdict(provenance()),
        "tests": _tests(say) if gpu else None,
    }
    say("Whether a row keeps its bits whatever shares its pass")
    found["rows"] = same_bits(pair.target)
    say("What passes cost")
    cost = pair.step_cost
    by_rows = dict(cost.verify)
    found["passes"] = {
        "verify_ms": by_rows,
        "draft_ms": dict(cost.draft),
        "rows_16_over_1": by_rows[16] / by_rows[1] if {1, 16} <= set(by_rows) else None,
    }
    return {**found, **_methods(pair, time.monotonic() + 60 * minutes, say, should_stop)}


@torch.inference_mode()
def same_bits(target: Target) -> dict[str, Any]:
    """Of tokens read one by one and in one pass: whether the logits are the same to the last bit, the largest
    difference, and in how many rows another token is likeliest."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, target.vocab_size, (PROMPT + DRAFT,), generator=random).tolist()
    cache = target.new_cache()
    target.prefill(cache, ids[:PROMPT])
    alone = torch.cat([target.forward(cache, [token]) for token in ids[PROMPT:]])
    cache = target.new_cache()
    target.prefill(cache, ids[:PROMPT])
    together = target.forward(cache, ids[PROMPT:])
    return {
        "same_bits": bool(torch.equal(alone, together)),
        "largest_difference": float((alone - together).abs().max()),
        "other_tokens": int((alone.argmax(1) != together.argmax(1)).sum()),
        "rows": DRAFT,
    }


def _methods(pair: Pair, until: float, say: Say, should_stop: Callable[[], bool]) -> dict[str, Any]:
    def over() -> bool:
        return time.monotonic() > until or should_stop()

    result, names = None, [name for name in METHODS if name != "hf-generate" or pair.target.source is not None]
    study = comparison(names)
    for result in stream_study(study, pair, pair.settings, bundled_questions(), should_stop=over):
        say(f"Methods: {result.now} ({result.done} of {result.total} answers)")
    if result is None or not result.rows:
        return {"methods": [], "host_share": {}, "complete": False}
    means = [dict(row) for row in result.rows if row["category"] == "mean"]
    return {
        "methods": means,
        "host_share": {row["method"]: share for row in means if (share := _host_share(row)) is not None},
        "remark": result.remark,
        "complete": result.complete,
    }


def _host_share(row: dict[str, Any]) -> float | None:
    """Of a step's time, how much no model computes; None of a method without stages."""
    total = sum(row[f"{stage}_ms"] for stage in STAGES)
    return sum(row[f"{stage}_ms"] for stage in HOST) / total if total else None


def _tests(say: Say) -> dict[str, Any] | None:
    """tests/gpu, where they lie beside the package; None where it was installed without them."""
    if not TESTS.is_dir():
        return None
    say("The tests of the GPU's passes")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(TESTS)], capture_output=True, text=True, cwd=TESTS.parents[1]
    )
    lines = done.stdout.strip().splitlines()
    return {"passed": done.returncode == 0, "said": lines[-1] if lines else ""}


def save(found: dict[str, Any], path: Path) -> None:
    """Write what was found; raises `OSError`."""
    path.write_bytes(
        orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    )


def words(found: dict[str, Any]) -> str:
    """What was found, in a few lines."""
    rows, passes = found["rows"], found["passes"]
    told = [
        f"{found['pair']['target']}, {found['pair']['dtype']}: {found['device']}",
        "rows keep their bits whatever shares the pass"
        if rows["same_bits"]
        else f"rows change with their pass, by {rows['largest_difference']:.3g} at most",
    ]
    if found["tests"]:
        told.append(f"tests: {found['tests']['said']}")
    if passes["rows_16_over_1"]:
        told.append(f"a pass of 16 rows takes {passes['rows_16_over_1']:.2f} times one of 1")
    for row in found["methods"]:
        told.append(
            f"{row['method']}: {row['tokens_per_second']:.1f} tokens/s, speed-up {row['speedup']:.2f}, "
            f"{row['identical']:.0%} of {row['questions']} answers identical"
        )
    if not found["complete"]:
        told.append("not all questions were asked in the time given")
    return "\n".join(told)
