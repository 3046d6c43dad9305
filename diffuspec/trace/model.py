"""What happened in a run, complete and immutable.

Every picture of the playground is drawn from a `Trace`; nothing is computed twice and no model
is called to look at it. A trace is saved as JSON Lines (gzip where the name ends in .gz): a
header, one line a step, and a last line with the totals. Arrays keep their exact float32 values.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import math
import types
import typing
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from diffuspec.errors import DiffuSpecError, TraceError
from diffuspec.method.lattice import TokenLattice
from diffuspec.method.length import LengthDecision
from diffuspec.method.search import BeamLevel, SearchResult, oracle_accepted
from diffuspec.method.tree import FOLLOWER, PrefixTree
from diffuspec.settings import Settings

FORMAT = "diffuspec-trace"
VERSION = 1
MAX_BYTES = 256 * 2**20
MAX_STEPS = 20_000
LARGEST = 2**53  # the integers that JSON and JavaScript keep exact


@dataclass(frozen=True)
class TreeVerification:
    """One target pass over a tree of n nodes.

    accepted: bool [n], the nodes the verifier walked; logp: float32 [n], the target's log p of each
    node's token after its parent; own: int32 [n + 1], the target's likeliest token after the anchor
    (entry 0) and after node i (entry i + 1).
    """

    accepted: np.ndarray
    logp: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Verification:
    """One target pass over a path of n tokens.

    accepted: drafted tokens accepted; token, kind: the target's own next token and whether it is a
    "correction" or a "bonus" (None after a stop token); draws: the target's choice at each position
    it looked at. Log-probabilities are the target's at the run's temperature (at 1 where greedy):
    path_logp float32 [n], path_rank int32 [n] (0 = likeliest) of the drafted tokens;
    top_ids int32, top_logp float32 [n + 1, 8] its likeliest tokens, row i after i drafted tokens;
    cell_logp float32 [n, W] of every lattice candidate after the path up to it (NaN behind the last column,
    where a path of a tree goes on by copying). Where a tree was
    verified the path is `SearchResult.nodes`, and `tree` tells of the other nodes. With top-k or top-p
    they are of the filtered distribution, -1e4 standing for probability 0. uniforms, ratios: where
    drafted tokens were accepted by ratio, the two numbers compared at each one looked at.
    """

    accepted: int
    token: int | None
    kind: str | None
    draws: tuple[int, ...]
    path_logp: np.ndarray
    path_rank: np.ndarray
    top_ids: np.ndarray
    top_logp: np.ndarray
    cell_logp: np.ndarray
    tree: TreeVerification | None = None
    uniforms: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class Timing:
    """Milliseconds a step spent in each stage; `record_ms` is what writing it down cost."""

    draft_ms: float
    search_ms: float
    verify_ms: float
    commit_ms: float
    record_ms: float

    @property
    def total_ms(self) -> float:
        return self.draft_ms + self.search_ms + self.verify_ms + self.commit_ms + self.record_ms


@dataclass(frozen=True)
class Step:
    """One speculative step: draft, search, verify, commit, next length.

    start: tokens of the answer before this step; anchor: the newest token, the last of the prefix;
    emitted: the tokens this step added (after the cut at the budget and at a stop token).
    """

    index: int
    start: int
    anchor: int
    lattice: TokenLattice
    search: SearchResult
    verification: Verification
    length: LengthDecision
    emitted: tuple[int, ...]
    timing: Timing

    @property
    def draft_length(self) -> int:
        """k of this step: the masked positions the drafter filled."""
        return self.lattice.k

    @property
    def path(self) -> tuple[int, ...]:
        return tuple(self.search.ids.tolist())

    @property
    def accepted(self) -> int:
        """Drafted tokens accepted and kept: Eq. 2 of the paper counts these only."""
        return min(self.verification.accepted, len(self.emitted))


@dataclass(frozen=True)
class Difference:
    """The first token in which an answer differs from plain AR's.

    position: 0-based, in the answer; expected, got: token ids (None past an end);
    gap: AR's logit of `expected` minus its logit of `got`, None where either is missing.
    """

    position: int
    expected: int | None
    got: int | None
    gap: float | None


@dataclass(frozen=True)
class Baseline:
    """Plain AR decoding by the same target, dtype, kernels and cache, in the same run.

    times_ms: when each token came, milliseconds since the start, prefill included; difference: None
    where the answers agree; compared: tokens of both that were compared (a stopped run may be
    shorter); prefill_ms: the part of wall_s before the first pass.
    """

    token_ids: tuple[int, ...]
    wall_s: float
    prefill_ms: float
    times_ms: tuple[float, ...]
    compared: int
    difference: Difference | None

    @property
    def tokens_per_second(self) -> float:
        return len(self.token_ids) / self.wall_s if self.wall_s > 0 else math.nan


@dataclass(frozen=True)
class Provenance:
    """Where and when a trace was measured."""

    recorded_at: str
    machine: str
    threads: int
    versions: dict[str, str]


@dataclass(frozen=True)
class PairInfo:
    """Which models made a trace. context: tokens the target can hold; max_draft: largest k; ngram: edition of the
    embedded pair's fitted n-gram (traces that do not say have the first), 0 for none."""

    name: str
    target: str
    drafter: str
    drafter_kind: str
    dtype: str
    device: str
    context: int
    max_draft: int
    ngram: int = 1


@dataclass(frozen=True)
class Trace:
    """A whole run.

    prompt: what the user typed (None where the run was given ids); prompt_ids: the ids the target
    saw, template included; pieces: token id -> its bytes, one character a byte (Latin-1);
    special: ids of special tokens; stop_ids: ids that end an answer; stop_reason: "stop token",
    "max tokens", "context", "stopped" or "running"; wall_s: seconds of decoding, prefill included.
    """

    prompt: str | None
    prompt_ids: tuple[int, ...]
    settings: Settings
    pair: PairInfo
    provenance: Provenance
    stop_ids: tuple[int, ...]
    pieces: dict[int, str]
    special: tuple[int, ...]
    steps: tuple[Step, ...]
    text: str
    stop_reason: str
    prefill_ms: float
    wall_s: float
    baseline: Baseline | None = None

    def __deepcopy__(self, memo) -> Trace:
        return self

    @functools.cached_property
    def token_ids(self) -> tuple[int, ...]:
        """The answer, stop token included where one ended it."""
        return tuple(token for step in self.steps for token in step.emitted)

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def accepted_per_step(self) -> float:
        """MAT as the paper counts it (Eq. 2): accepted drafted tokens a step."""
        return sum(step.accepted for step in self.steps) / len(self.steps) if self.steps else 0.0

    @property
    def tokens_per_step(self) -> float:
        """MAT as Spec-Bench, vLLM and DFlash count it: correction or bonus included."""
        return self.new_tokens / len(self.steps) if self.steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def speedup(self) -> float | None:
        """Tokens per second over plain AR's, both with prefill; None where AR was not run."""
        if self.baseline is None or not self.wall_s:
            return None
        return self.tokens_per_second / self.baseline.tokens_per_second

    @property
    def identical_to_ar(self) -> bool | None:
        """None where AR was not run or the run sampled (then only the distribution is the same)."""
        if self.baseline is None or self.settings.temperature > 0:
            return None
        return self.baseline.difference is None

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds over the whole run by stage: draft, search, verify, commit, record."""
        return {
            name: sum(getattr(step.timing, f"{name}_ms") for step in self.steps)
            for name in ("draft", "search", "verify", "commit", "record")
        }

    def oracle(self, index: int) -> int:
        """Tokens the best path in step `index`'s pruned lattice would have had accepted.

        Known only as far as the answer goes on after the step; what came next is the target's own choice.
        """
        step = self.steps[index]
        return oracle_accepted(step.lattice, self.token_ids[step.start : step.start + step.lattice.k])

    def report(self) -> dict[str, Any]:
        """The figures of the run by name; plain AR's are None where it was not run."""
        return {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "new_tokens": self.new_tokens,
            "steps": len(self.steps),
            "accepted_per_step": self.accepted_per_step,
            "tokens_per_step": self.tokens_per_step,
            "wall_s": self.wall_s,
            "ar_wall_s": self.baseline.wall_s if self.baseline else None,
            "speedup": self.speedup,
            "identical_to_ar": self.identical_to_ar,
        }

    def with_baseline(self, baseline: Baseline) -> Trace:
        return dataclasses.replace(self, baseline=baseline)

    def piece(self, token: int) -> bytes:
        return self.pieces.get(token, "").encode("latin-1")

    def dumps(self) -> bytes:
        """The trace as JSON Lines."""
        body = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "steps"}
        head = {"format": FORMAT, "version": VERSION}
        for name in ("prompt", "settings", "pair", "provenance"):
            head[name] = body.pop(name)
        lines = [_json(head), *({"step": step} for step in self.steps), {"end": body}]
        return b"".join(line if isinstance(line, bytes) else _json(line) for line in lines)

    def save(self, path: str | Path) -> None:
        """Write the trace; gzip where the name ends in .gz. Replaces the file in one move."""
        path = Path(path)
        data = self.dumps()
        if path.suffix == ".gz":
            data = gzip.compress(data, 6, mtime=0)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as error:
            raise TraceError(f"Cannot write the trace to {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace; raises `TraceError` on anything that is not one."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise TraceError(f"Cannot read {path}: {error.strerror or error}.") from error
        return cls.loads(data)

    @classmethod
    def loads(cls, data: bytes) -> Trace:
        """Parse a trace from untrusted bytes, plain or gzip."""
        lines = [line for line in _plain(data).split(b"\n") if line.strip()]
        try:
            head = orjson.loads(lines[0])
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError
        except (ValueError, IndexError):
            raise TraceError("This is not a DiffuSpec trace: its first line names no such format.") from None
        if head.get("version") != VERSION:
            raise TraceError(f"This trace has version {_brief(head.get('version'))}; this program reads {VERSION}.")
        if len(lines) > MAX_STEPS + 2:
            raise TraceError(f"This trace has more than {MAX_STEPS} steps.")
        try:
            rest = [orjson.loads(line) for line in lines[1:]]
            if not rest or "end" not in rest[-1]:
                raise ValueError("its last line, the totals, is missing")
            body = {**head, **rest[-1]["end"], "steps": [entry["step"] for entry in rest[:-1]]}
            trace = _decode(cls, {f.name: body[f.name] for f in dataclasses.fields(cls)}, "trace")
            _check(trace)
            return trace
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, DiffuSpecError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else error
            raise TraceError(f"This trace is damaged: {_brief(detail)}.") from error


def _brief(detail: object) -> str:
    """What is said of a stranger's file may quote it, but not at any length."""
    text = str(detail).rstrip(".")
    return text if len(text) <= 200 else text[:200] + " …"


def _plain(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"This trace is damaged: its gzip stream does not unpack ({error}).") from error
    if len(data) > MAX_BYTES:
        raise TraceError(f"This trace is larger than {MAX_BYTES >> 20} MB unpacked.")
    return data


def _json(value: Any) -> bytes:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, option=options, default=tuple)  # of a sequence that is no tuple


# Array fields of the recorded classes: dtype and number of dimensions.
_ARRAYS = {
    (TokenLattice, "ids"): (np.int32, 2), (TokenLattice, "logq"): (np.float32, 2),
    (TokenLattice, "kept"): (np.bool_, 2),
    (BeamLevel, "parent"): (np.int16, 1), (BeamLevel, "rank"): (np.int16, 1),
    (BeamLevel, "score"): (np.float32, 1), (BeamLevel, "ended"): (np.bool_, 1),
    (SearchResult, "ids"): (np.int32, 1), (SearchResult, "ranks"): (np.int32, 1),
    (SearchResult, "score"): (np.float32, 1), (SearchResult, "proxy_logp"): (np.float32, 2),
    (Verification, "path_logp"): (np.float32, 1), (Verification, "path_rank"): (np.int32, 1),
    (Verification, "top_ids"): (np.int32, 2), (Verification, "top_logp"): (np.float32, 2),
    (Verification, "cell_logp"): (np.float32, 2),
    (SearchResult, "nodes"): (np.int16, 1), (SearchResult, "proposal"): (np.float32, 2),
    (PrefixTree, "ids"): (np.int32, 1), (PrefixTree, "parent"): (np.int16, 1), (PrefixTree, "depth"): (np.int16, 1),
    (PrefixTree, "rank"): (np.int16, 1), (PrefixTree, "score"): (np.float32, 1),
    (TreeVerification, "accepted"): (np.bool_, 1), (TreeVerification, "logp"): (np.float32, 1),
    (TreeVerification, "own"): (np.int32, 1),
}  # fmt: skip


def _array(value: Any, dtype: type, ndim: int, where: str) -> np.ndarray:
    try:
        raw = np.array(value if value else np.zeros((0,) * ndim))
        if raw.dtype == object:
            raw = np.array(value, dtype=np.float64)  # null stands for NaN
        if raw.size and (raw.dtype.kind not in "biuf" or (raw.dtype.kind == "b") != (dtype is np.bool_)):
            raise ValueError
        with np.errstate(invalid="ignore", over="ignore"):
            array = raw.astype(dtype)
        if raw.size and np.issubdtype(dtype, np.integer) and not (raw == array).all():
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{where} holds something other than numbers") from None
    if array.ndim != ndim:
        raise ValueError(f"{where} has {array.ndim} dimensions instead of {ndim}")
    return array


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Rebuild a recorded value of the annotated type `kind` from parsed JSON, checking types as it goes.

    A field that an older program did not write takes its default, where it has one.
    """
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in kind.__args__ if option is not type(None))
    if kind is Settings:
        return Settings.from_mapping(value)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")
        made = {}
        for f in dataclasses.fields(kind):
            here = f"{where}.{f.name}"
            if f.name not in value:
                if f.default is dataclasses.MISSING:
                    raise ValueError(f"{here} is missing")
                made[f.name] = f.default  # a field younger than the trace
            elif value[f.name] is None and f.default is None:
                made[f.name] = None
            elif (kind, f.name) in _ARRAYS:
                made[f.name] = _array(value[f.name], *_ARRAYS[kind, f.name], here)
            else:
                made[f.name] = _decode(_hints(kind)[f.name], value[f.name], here)
        return kind(**made)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        return tuple(_decode(args[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")
        return {
            (int(key) if args[0] is int else key): _decode(args[1], entry, f"{where}[{key}]")
            for key, entry in value.items()
        }
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"{where} is not of type {kind.__name__}")
    if kind in (int, float) and not abs(value) <= LARGEST:
        raise ValueError(f"{where} is not a sensible number")
    return value


def _tree_holds(step: Step) -> bool:
    """Whether a step's tree agrees with its lattice, its path and its verification."""
    tree, nodes, check = step.search.tree, step.search.nodes, step.verification.tree
    if tree is None or nodes is None or check is None:
        return tree is nodes is check is None
    n, path = len(tree), nodes.tolist()
    if not len(tree.parent) == len(tree.depth) == len(tree.rank) == len(tree.score) == n:
        return False
    if not len(check.accepted) == len(check.logp) == len(check.own) - 1 == n:
        return False
    depth, lattice = {-1: -1}, step.lattice
    for node, (parent, column) in enumerate(zip(tree.parent.tolist(), tree.depth.tolist(), strict=True)):
        if depth.get(parent) != column - 1:
            return False
        depth[node] = column
    if (tree.rank < FOLLOWER).any():
        return False
    drafted = tree.rank >= 0
    columns, cells = tree.depth[drafted], tree.rank[drafted]
    return (
        bool(((0 <= cells) & (cells < lattice.width) & (columns < lattice.k)).all())
        and bool((lattice.ids[columns, cells] == tree.ids[drafted]).all())
        and bool((tree.ids >= 0).all())
        and len(path) == len(step.search)
        and all(0 <= node < n for node in path)
        and tree.parent[path].tolist() == [-1, *path][: len(path)]
        and tree.ids[path].tolist() == step.search.ids.tolist()
        and tree.rank[path].tolist() == step.search.ranks.tolist()
    )


def _numbers_hold(step: Step) -> bool:
    """Whether probabilities are probabilities and times are times."""
    check = step.verification
    logs = (step.lattice.logq, check.path_logp, check.top_logp, check.cell_logp[: step.lattice.k], step.search.score)
    unscored = np.isnan(step.search.proxy_logp)
    logs += (step.search.proxy_logp[~unscored], *(level.score for level in step.search.levels))
    times = dataclasses.astuple(step.timing)
    return all(((-1e6 <= log) & (log <= 1e-3)).all() for log in logs) and all(0 <= ms <= 1e9 for ms in times)


def _check(trace: Trace) -> None:
    """Shapes, indices and numbers that the pictures rely on."""
    if not (0 <= trace.prefill_ms <= 1e9 and 0 <= trace.wall_s <= 1e6):
        raise ValueError("its times are not times")
    position = 0
    for place, step in enumerate(trace.steps):
        lattice, search, check = step.lattice, step.search, step.verification
        n, k, width = len(search), lattice.k, lattice.width
        lowest = 0 if search.tree is None else FOLLOWER
        ok = (
            lattice.logq.shape == lattice.kept.shape == (k, width)
            and (n <= k or search.tree is not None)
            and search.ranks.shape == search.score.shape == check.path_logp.shape == check.path_rank.shape == (n,)
            and len(search.proxy_logp) == len(check.cell_logp) == n
            and check.top_ids.shape == check.top_logp.shape
            and len(check.top_ids) == n + 1
            and 0 <= check.accepted <= n
            and len(check.uniforms) == len(check.ratios) <= n
            and (search.proposal is None or search.proposal.shape == ((n, width) if n else (0, 0)))
            and step.index == place
            and step.start == position
            and len(check.draws) == check.accepted + (check.token is not None)
            and check.kind in ((None,) if check.token is None else ("correction", "bonus"))
            and 0 < len(step.emitted) <= len(check.draws)
            and (not n or (lowest <= search.ranks.min() and search.ranks.max() < width))
            and (not n or search.proxy_logp.shape == check.cell_logp.shape == (n, width))
            and (not search.levels or n <= len(search.levels) <= k)
            and (not search.levels or 0 <= search.chosen < len(search.levels[n - 1].rank))
        )
        below = 1
        for level in search.levels:
            size = len(level.rank)
            ok = ok and size == len(level.parent) == len(level.score) == len(level.ended)
            ok = ok and size and 0 <= level.survivors <= size and 0 <= level.parent.min()
            ok = ok and level.parent.max() < below and 0 <= level.rank.min() and level.rank.max() < width
            below = size
        ok = ok and _tree_holds(step) and _numbers_hold(step)
        if not ok:
            raise ValueError(f"step {step.index} contradicts itself")
        position += len(step.emitted)
    for piece in trace.pieces.values():
        piece.encode("latin-1")
