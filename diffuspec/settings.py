"""Every knob of the method, once.

A knob's symbol, bounds, default and one-line meaning stand here and nowhere else: sliders,
command-line flags, and the header of a trace are derived from `Settings.knobs()`.
Symbols are those of DiffuSpec (arXiv 2510.02358).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffuspec.errors import SettingsError


@dataclass(frozen=True)
class Knob:
    """One setting as a user meets it. `low` and `high` are inclusive; choices replace them."""

    name: str
    symbol: str
    label: str
    meaning: str
    group: str
    default: Any
    kind: type
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()

    def parse(self, value: Any) -> Any:
        """Turn text or a number into a valid value, or raise `SettingsError`."""
        if self.choices:
            if value in self.choices:
                return value
            raise SettingsError(f"{self.name} = {value!r}: choose one of {', '.join(self.choices)}.")
        try:
            number = float(value)
            if isinstance(value, bool) or not math.isfinite(number):
                raise ValueError
            if self.kind is int:
                if number != int(number):
                    raise ValueError
                number = int(number)
        except (TypeError, ValueError, OverflowError):
            noun = "a whole number" if self.kind is int else "a number"
            raise SettingsError(f"{self.name} = {value!r} is not {noun}.") from None
        assert self.low is not None and self.high is not None, f"{self.name} has no bounds"
        if not self.low <= number <= self.high:
            raise SettingsError(
                f"{self.name} = {number:g} is out of bounds: {self.label.lower()} must lie "
                f"between {self.low:g} and {self.high:g}."
            )
        return number


def _knob(default, symbol, label, meaning, group, *, low=None, high=None, step=None, choices=()):
    return dataclasses.field(
        default=default,
        metadata=dict(
            symbol=symbol,
            label=label,
            meaning=meaning,
            group=group,
            low=low,
            high=high,
            step=step,
            choices=tuple(choices),
        ),
    )


@dataclass(frozen=True)
class Settings:
    """The knobs of one run; immutable, checked on construction.

    The defaults suit the embedded pair on two CPU cores. `Settings.paper()` holds the paper's
    values, made for a 32-billion-parameter target. Raises `SettingsError` on a bad value.
    """

    length: str = _knob(
        "adl",
        "",
        "Length policy",
        "adl: adaptive draft length (Eqs. 9-11); fixed: always k; throughput: the length that promises the most tokens "
        "per second; confidence: as far as the drafter is sure; failfast: k_min more, as long as it is sure of every "
        "column; predicted: as far as a trained head of the drafter (DSpark) expects tokens to be accepted",
        "length",
        choices=("adl", "fixed", "throughput", "confidence", "failfast", "predicted"),
    )
    k: int = _knob(
        6,
        "k",
        "Draft length",
        "masked positions filled by one drafter pass, when the length is fixed",
        "length",
        low=1,
        high=100,
        step=1,
    )
    k_min: int = _knob(
        3, "k_min", "Shortest draft", "lower bound of the adaptive length", "length", low=1, high=100, step=1
    )
    k_max: int = _knob(
        8,
        "k_max",
        "Longest draft",
        "upper bound of the adaptive length, and the length of the first draft",
        "length",
        low=1,
        high=100,
        step=1,
    )
    delta: int = _knob(
        4,
        "δ",
        "Growth",
        "added to the next length when acceptance keeps up with generation (Eq. 11)",
        "length",
        low=0,
        high=50,
        step=1,
    )
    rho: float = _knob(
        0.5,
        "ρ",
        "Smoothing",
        "weight of the newest step in both moving averages (Eq. 10)",
        "length",
        low=0.05,
        high=1.0,
        step=0.05,
    )
    confidence: float = _knob(
        0.1,
        "",
        "Least confidence",
        "confidence: the draft ends where the product of the largest q of each column falls below this; failfast: it "
        "grows until the largest q of a column does; predicted: it ends where the expected acceptance does",
        "length",
        low=0.001,
        high=1.0,
        step=0.001,
    )
    search: str = _knob(
        "cps",
        "",
        "Path search",
        "cps: causal-consistency path search (Eq. 8); argmax: each column's likeliest token; "
        "exact: the path that maximises Eq. 8; tree: several paths at once, verified as one prefix tree",
        "search",
        choices=("cps", "argmax", "exact", "tree"),
    )
    nodes: int = _knob(
        10,
        "n",
        "Tree nodes",
        "drafted tokens the target reads at once when paths are verified as a tree",
        "search",
        low=1,
        high=128,
        step=1,
    )
    copy: int = _knob(
        1,
        "c",
        "Copy after",
        "the tree also holds what followed the same words earlier in the text, if at least "
        "this many tokens match; 0 copies nothing",
        "search",
        low=0,
        high=8,
        step=1,
    )
    followers: int = _knob(
        0,
        "F",
        "N-gram followers",
        "the tree also holds up to F tokens that the fitted 3-gram saw most often after a node, "
        "where the lattice is unsure or has no column; 0 adds none",
        "search",
        low=0,
        high=16,
        step=1,
    )
    beam: int = _knob(3, "B", "Beam width", "partial paths kept at each position", "search", low=1, high=32, step=1)
    tau: float = _knob(
        0.8,
        "τ",
        "Mass kept",
        "a column keeps its likeliest tokens until their probability reaches this (Eq. 7)",
        "search",
        low=0.05,
        high=1.0,
        step=0.05,
    )
    m_max: int = _knob(
        15,
        "M_max",
        "Max candidates",
        "a column keeps at most this many tokens (Eq. 7)",
        "search",
        low=1,
        high=64,
        step=1,
    )
    lam: float = _knob(
        0.5,
        "λ",
        "Drafter weight",
        "weight of the drafter's log q against the log of the causal proxy's probability (Eq. 8)",
        "search",
        low=0.0,
        high=1.0,
        step=0.05,
    )
    proxy: str = _knob(
        "ngram+context",
        "",
        "Causal proxy",
        "what judges left-to-right fluency: a fitted 3-gram, a 3-gram of the text so far, both, or nothing; or what "
        "the drafter itself has learned: the Markov head of DSpark, the selector of DFlash 2",
        "search",
        choices=("ngram", "ngram+context", "context", "none", "markov", "selector"),
    )
    context_weight: float = _knob(
        0.5,
        "μ",
        "In-context weight",
        "share of the 3-gram of the text so far in the mixture ngram+context",
        "search",
        low=0.0,
        high=1.0,
        step=0.05,
    )
    passes: int = _knob(
        1,
        "S",
        "Drafter passes",
        "refinement passes of the drafter; each fills the most confident masks (Eq. 5)",
        "draft",
        low=1,
        high=16,
        step=1,
    )
    temperature: float = _knob(
        0.0,
        "T",
        "Temperature",
        "of the target; 0 is greedy, above 0 it samples",
        "verify",
        low=0.0,
        high=2.0,
        step=0.05,
    )
    top_k: int = _knob(
        0, "", "Top k", "sample from the k likeliest tokens only; 0: from all", "verify", low=0, high=1000, step=1
    )
    top_p: float = _knob(
        1.0,
        "",
        "Top p",
        "sample from the smallest set of likeliest tokens whose probability reaches this",
        "verify",
        low=0.05,
        high=1.0,
        step=0.05,
    )
    rule: str = _knob(
        "point-mass",
        "",
        "Acceptance rule",
        "when sampling. point-mass: sample from the target, and go on as long as it samples the drafted token; "
        "sampled-path: sample the path from the drafter, accept by ratio; sampled-search: sample it from drafter and "
        "proxy together, accept by ratio; paper: accept a searched path by ratio, which is biased",
        "verify",
        choices=("point-mass", "sampled-path", "sampled-search", "paper"),
    )
    seed: int = _knob(
        0,
        "",
        "Seed",
        "of the random numbers, used at a temperature above 0",
        "verify",
        low=0,
        high=2**31 - 1,
        step=1,
    )
    max_new_tokens: int = _knob(
        128, "", "Max tokens", "the answer has at most this many tokens", "verify", low=1, high=4096, step=1
    )

    def __post_init__(self):
        for name, knob in self.knobs().items():
            object.__setattr__(self, name, knob.parse(getattr(self, name)))
        if self.k_min > self.k_max:
            raise SettingsError(
                f"k_min = {self.k_min} is larger than k_max = {self.k_max}: lower k_min or raise k_max."
            )
        if self.temperature > 0 and self.search == "tree" and self.rule != "point-mass":
            raise SettingsError(
                f"rule = {self.rule} verifies one path, not a tree: choose search = cps, or rule = point-mass."
            )

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """Name -> `Knob`, in the order of declaration."""
        return dict(_KNOBS)

    @classmethod
    def paper(cls, **changes) -> Settings:
        """The paper's settings (section 4.1): k 20..30, δ 10, ρ 0.5, M_max 15, τ 0.8, B 3, λ 0.5, S 1."""
        return cls(**{**PRESETS["paper"].changes, **changes})

    @classmethod
    def without_drafter(cls, proxy: str, **changes) -> Settings:
        """For a pair whose drafts are copies of the text so far, and what the fitted n-gram adds: the tree of the most
        tokens per second."""
        return cls(**{**dict(length="throughput", search="tree", nodes=24, followers=4, proxy=proxy), **changes})

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """Build from untrusted names and values; unknown names raise `SettingsError`."""
        return cls().replace(**values)

    def replace(self, **changes) -> Settings:
        """A copy with some knobs changed; names are case-insensitive (`M_max` is `m_max`)."""
        lowered = {str(name).lower(): value for name, value in changes.items()}
        unknown = sorted(set(lowered) - set(_KNOBS))
        if unknown:
            raise SettingsError(f"There is no setting {unknown[0]!r}. Settings: {', '.join(_KNOBS)}.")
        return dataclasses.replace(self, **lowered)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_KNOBS = {
    field.name: Knob(
        name=field.name,
        default=field.default,
        kind={"int": int, "float": float, "str": str}[str(field.type)],
        **field.metadata,
    )
    for field in dataclasses.fields(Settings)
}


@dataclass(frozen=True)
class Preset:
    """Settings that go together. title: on the page; about: what they are for; changes: from the defaults."""

    title: str
    about: str
    changes: Mapping[str, Any]


PRESETS: dict[str, Preset] = {
    "default": Preset("Default", "the paper's method, sized for the embedded pair", {}),
    "paper": Preset(
        "Paper",
        "the paper's values, made for a target of 32 billion parameters",
        dict(
            length="adl",
            k=30,
            k_min=20,
            k_max=30,
            delta=10,
            rho=0.5,
            search="cps",
            m_max=15,
            tau=0.8,
            beam=3,
            lam=0.5,
            passes=1,
            proxy="ngram",
        ),
    ),
    "fastest": Preset(
        "Fastest here",
        "the method `throughput` of Race and Measure: a tree with copies, drafted only where it pays",
        dict(search="tree", copy=1, followers=4, length="throughput", nodes=24, k_min=1, lam=0.7),
    ),
    "plain": Preset(
        "Plain diffusion draft",
        "the likeliest token of every column, always k of them, without a search",
        dict(search="argmax", length="fixed"),
    ),
}
