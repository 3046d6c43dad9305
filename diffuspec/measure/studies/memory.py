"""A long answer: does memory stay flat beyond the caches, and does a step slow down faster than plain AR?

Plain AR and DiffuSpec decode side by side, some tokens each in turn, past every stop token.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import TYPE_CHECKING

from diffuspec.measure.studies.study import Column, Study
from diffuspec.method.search import BeamLevels

if TYPE_CHECKING:
    from diffuspec.engine import Run
    from diffuspec.measure.baselines import AutoregressiveRun

PROMPT = "Tell me the story of a lighthouse keeper, as long as you can, day by day."
_COLUMNS = (
    Column("method", "method"),
    Column("tokens", "tokens so far", digits=0),
    Column("context", "cached", digits=0),
    Column("ms_per_pass", "a pass", "ms, median"),
    Column("ms_per_token", "a token", "ms"),
    Column("cache_mb", "its cache", "MB", 1),
    Column("trace_mb", "its trace", "MB", 1),
    Column("rss_mb", "process", "MB", 1),
    Column("other_mb", "process beyond caches and trace", "MB", 1),
)


def memory(tokens: int = 2000, every: int = 100) -> Study:
    """The study over `tokens` new tokens (fewer where the context is smaller), a row each `every`."""

    def probe(pair, settings, should_stop):
        import psutil

        from diffuspec.engine import DiffuSpec
        from diffuspec.measure.baselines import AutoregressiveRun

        endless = dataclasses.replace(pair, stop_ids=frozenset())
        ids = pair.encode(PROMPT)
        longest = min(tokens, pair.info.context - len(ids)) // every * every
        # A fixed length, so that steps differ by their context only.
        settings = settings.replace(max_new_tokens=longest, temperature=0, length="fixed")
        ar = AutoregressiveRun(endless, settings, ids)
        run = DiffuSpec(endless, settings).stream(ids=ids)
        runs = {"ar": _Decoder(ar), "diffuspec": _Decoder(run)}
        total, rows, process = 2 * (longest // every), [], psutil.Process()
        for reached in range(every, longest + 1, every):
            for name, decoder in runs.items():
                yield len(rows), total, f"{name} to {reached} tokens", list(rows)
                if not decoder.go_on(reached, should_stop):
                    return
                cache, trace = _cache_bytes(decoder.run.cache), decoder.trace_bytes
                rss = process.memory_info().rss
                known = sum(_cache_bytes(d.run.cache) + d.trace_bytes for d in runs.values())
                rows.append(
                    {
                        "method": name,
                        "tokens": decoder.made,
                        "context": decoder.made + len(ids) - 1,
                        "ms_per_pass": statistics.median(decoder.ms),
                        "ms_per_token": sum(decoder.ms) / decoder.fresh,
                        "cache_mb": cache / 2**20,
                        "trace_mb": trace / 2**20,
                        "rss_mb": rss / 2**20,
                        "other_mb": (rss - known) / 2**20,
                    }
                )
        yield total, total, "", rows

    return Study(
        "memory",
        "A long answer",
        "",
        f"Do memory and step time stay in bounds over {tokens:,} new tokens?",
        _COLUMNS,
        _remark,
        probe=probe,
    )


class _Decoder:
    """One of the two runs: how far it is, and how long its passes took since it was last asked."""

    def __init__(self, run: AutoregressiveRun | Run):
        self.run = run
        self.made = self.fresh = self.trace_bytes = 0
        self.ms: list[float] = []

    def go_on(self, reached: int, should_stop) -> bool:
        self.ms, before = [], self.made
        while self.made < reached:
            if should_stop():
                return False
            started = time.perf_counter()
            given = next(self.run)
            self.ms.append((time.perf_counter() - started) * 1e3)
            self.made += 1 if isinstance(given, int) else len(given.emitted)
            self.trace_bytes += 0 if isinstance(given, int) else _array_bytes(given)
        self.fresh = self.made - before
        return True


def _cache_bytes(cache) -> int:
    """Memory behind a target's cache, whether filled yet or not."""
    if cache is None:
        return 0
    if not hasattr(cache, "nbytes"):  # transformers' own
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    return cache.nbytes


def _array_bytes(value) -> int:
    if dataclasses.is_dataclass(value):
        return sum(_array_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple | BeamLevels):
        return sum(map(_array_bytes, value))
    return getattr(value, "nbytes", 0)


def _remark(rows):
    ends = {}
    for name in ("ar", "diffuspec"):
        mine = [row for row in rows if row["method"] == name]
        if len(mine) > 2:
            ends[name] = mine[1], mine[-1]  # the first row pays for setting up
    if len(ends) < 2:
        return ""
    (ar_start, ar_end), (start, end) = ends["ar"], ends["diffuspec"]
    slower = end["ms_per_pass"] / start["ms_per_pass"], ar_end["ms_per_pass"] / ar_start["ms_per_pass"]
    extra = end["ms_per_pass"] - start["ms_per_pass"], ar_end["ms_per_pass"] - ar_start["ms_per_pass"]
    return (
        f"From {start['tokens']} to {end['tokens']} tokens the process grew by "
        f"{end['rss_mb'] - start['rss_mb']:.1f} MB, beyond both caches and the trace by "
        f"{end['other_mb'] - start['other_mb']:.1f} MB. A step went from {start['ms_per_pass']:.1f} to "
        f"{end['ms_per_pass']:.1f} ms ({slower[0]:.2f} times, {extra[0]:+.1f} ms), a plain pass from "
        f"{ar_start['ms_per_pass']:.1f} to {ar_end['ms_per_pass']:.1f} ms ({slower[1]:.2f} times, {extra[1]:+.1f} ms)."
    )
