"""What another setting would gain: tried on the tapes, and the most promising ones measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffuspec.errors import DiffuSpecError
from diffuspec.measure.diagnose.machine import Costs
from diffuspec.measure.diagnose.replay import REPLAYED, Replayed, replay_all
from diffuspec.measure.diagnose.tape import Tape
from diffuspec.measure.statistics import Estimate, ratio
from diffuspec.method.proxy import LEARNED, possible_proxy
from diffuspec.settings import PRESETS, Settings

if TYPE_CHECKING:
    from diffuspec.models.pair import Pair

TRIED = 5  # that are measured
MAY_GAIN = 1.005
WORTH = 1.01  # a gain below a hundredth is not worth a sentence


@dataclass(frozen=True)
class Lever:
    """A change of settings, and the settings then. predicted: speed over that of the settings as they are, by replay;
    measured: in a run, None where it was not pulled."""

    name: str
    settings: Settings
    predicted: Estimate
    measured: Estimate | None = None

    @property
    def recommended(self) -> bool:
        return self.predicted.value >= WORTH and (self.predicted.low is None or self.predicted.low > 1)

    @property
    def held(self) -> bool | None:
        """Whether the prediction lies within the interval measured; None where there is none."""
        if self.measured is None or self.measured.low is None:
            return None
        return self.measured.low <= self.predicted.value <= self.measured.high


def candidates(settings: Settings, longest: int, fitted: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, changes). longest: k that the drafter fills, 0 without one; fitted: whether there is an n-gram."""
    fastest = PRESETS["fastest"].changes
    yield "method throughput", fastest
    if settings.search != "tree":
        yield "search = tree", dict(search="tree")
    if settings.search not in ("cps", "tree"):
        yield "search = cps", dict(search="cps")
    if settings.length != "throughput":
        yield "length = throughput", dict(length="throughput", k_min=1)
    if longest:
        name = "k" if settings.length == "fixed" else "k_max"
        now = getattr(settings, name)
        for value in (now // 2, now * 3 // 4, now * 3 // 2, 2 * now):
            if 1 <= value <= longest and value != now:
                yield f"{name} = {value}", {name: value, "k_min": min(settings.k_min, value)}
        if settings.k_min > 1 and settings.length != "fixed":
            yield "k_min = 1", dict(k_min=1)
        for value in (0.6, 0.95):
            yield f"tau = {value}", dict(tau=value)
    for value in (0.3, 0.5, 0.7, 0.9):
        yield f"lam = {value}", dict(lam=value)
    for value in ("context", "none", *(("ngram+context",) if fitted else ())):
        yield f"proxy = {value}", dict(proxy=value)
    if settings.search == "tree":
        for value in (settings.nodes // 2, settings.nodes * 2):
            yield f"nodes = {value}", dict(nodes=max(1, min(value, 128)))
        for value in (0, 1, 2, 4):
            yield f"copy = {value}", dict(copy=value)
        for value in (0, 2, 4, 8) if fitted else ():
            yield f"followers = {value}", dict(followers=value)
    elif settings.search == "cps":
        for value in (1, 8):
            yield f"beam = {value}", dict(beam=value)


def replayable(settings: Settings) -> bool:
    return settings.length in REPLAYED and settings.proxy not in LEARNED and not settings.temperature


def weigh(
    pair: Pair,
    settings: Settings,
    tapes: Sequence[Tape],
    costs: Costs,
    prompts_ms: dict[str, float],
    base: Replayed,
    stop,
) -> list[Lever]:
    """Every change that makes a difference, the most promising first; prompts_ms: of reading a question's prompts."""
    found, seen = [], {settings.replace(proxy=possible_proxy(settings.proxy, pair.proxy))}
    now = base.tokens / base.seconds(prompts_ms)
    for name, changes in candidates(settings, pair.drafter.max_block, pair.proxy is not None):
        if stop():
            break
        try:
            other = settings.replace(**changes)
            other = other.replace(proxy=possible_proxy(other.proxy, pair.proxy))
            if other in seen or not replayable(other):
                continue
            seen.add(other)
            tried = replay_all(pair, other, tapes, costs)
        except DiffuSpecError:  # a change that does not go with the rest
            continue
        found.append(Lever(name, other, ratio(tried.tokens / tried.seconds(prompts_ms), now)))
    return sorted(found, key=lambda lever: -lever.predicted.value)


def to_pull(levers: Sequence[Lever]) -> list[Lever]:
    """The recommended ones first, then others that may gain, then those of the largest difference; one a knob."""
    ranked = sorted(
        levers,
        key=lambda x: (not x.recommended, x.predicted.value < MAY_GAIN, -abs(x.predicted.value - 1)),
    )
    chosen: dict[str, Lever] = {}
    for lever in ranked:
        chosen.setdefault(lever.name.split(" = ")[0], lever)
    return list(chosen.values())[:TRIED]
