"""Methods raced on one prompt: who had which token when.

The methods run one after another, never side by side, so that none slows another; a `Race` is what
each did and when. It is immutable, complete, and all that a replay needs. Saved as one JSON object.
Needs no model to be looked at; `run_lane` and `pass_costs` make one.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from diffuspec import codec
from diffuspec.errors import DiffuSpecError, TraceError
from diffuspec.plaintext import brief
from diffuspec.provenance import PairInfo, Provenance
from diffuspec.settings import Settings

if TYPE_CHECKING:
    from diffuspec.measure.methods import Decoding, Emission
    from diffuspec.models.pair import Pair

FORMAT, VERSION = "diffuspec-race", 1
MAX_BYTES = 8 * 2**20
MAX_LANES, MAX_TOKENS = 24, 4096
YARDSTICK = "ar"
OWN, ACCEPTED, CORRECTION, BONUS = "own", "accepted", "correction", "bonus"
# Tokens in a target pass at which its cost is measured: around the lengths that drafts have.
PASS_SIZES, PASS_REPEATS = (1, 2, 4, 6, 8, 12, 16, 24, 32), 3


@dataclass(frozen=True)
class Lane:
    """One method's answer.

    token_ids, origins, times_ms: of each token its id, where it came from ("own": the target alone,
    "accepted", "correction" or "bonus") and when it was there, milliseconds since the start of
    decoding, prefill included. passes: target passes; refused: those that ended in a correction;
    drafted: tokens sent to the target to be judged; draft_ms, verify_ms: of the whole answer.
    """

    method: str
    token_ids: tuple[int, ...]
    origins: tuple[str, ...]
    times_ms: tuple[float, ...]
    passes: int
    refused: int
    drafted: int
    draft_ms: float
    verify_ms: float

    @property
    def accepted(self) -> int:
        return self.origins.count(ACCEPTED)

    @property
    def wall_ms(self) -> float:
        return self.times_ms[-1] if self.times_ms else 0.0

    @property
    def pass_ms(self) -> float:
        """Milliseconds from one token to the next after the first: a pass, where a pass makes one token."""
        waits = len(self.times_ms) - 1
        return (self.times_ms[-1] - self.times_ms[0]) / waits if waits > 0 else self.wall_ms

    @property
    def tokens_per_second(self) -> float:
        """Prefill included, as Spec-Bench counts it."""
        return len(self.token_ids) / self.wall_ms * 1e3 if self.wall_ms else 0.0

    @property
    def tokens_per_step(self) -> float:
        return len(self.token_ids) / self.passes if self.passes else 0.0

    @property
    def accepted_per_step(self) -> float:
        return self.accepted / self.passes if self.passes else 0.0


@dataclass(frozen=True)
class Race:
    """Lanes in the order they ran; the first is plain AR, the yardstick.

    pieces: token id -> its bytes, one character a byte (Latin-1); costs: (n, milliseconds) of a target
    pass over n tokens after this prompt, on the machine that ran the race, rising in n.
    """

    prompt: str
    settings: Settings
    pair: PairInfo
    provenance: Provenance
    stop_ids: tuple[int, ...]
    special: tuple[int, ...]
    pieces: dict[int, str]
    lanes: tuple[Lane, ...]
    costs: tuple[tuple[float, ...], ...]

    def __deepcopy__(self, memo) -> Race:
        return self

    def piece(self, token: int) -> bytes:
        return self.pieces.get(token, "").encode("latin-1")

    @property
    def yardstick(self) -> Lane | None:
        return next((lane for lane in self.lanes if lane.method == YARDSTICK), None)

    def speedup(self, lane: Lane) -> float | None:
        """Tokens per second over plain AR's; None where AR was not run."""
        ar = self.yardstick
        return lane.tokens_per_second / ar.tokens_per_second if ar and ar.wall_ms else None

    def difference(self, lane: Lane) -> int | None:
        """The first place (0-based) where a lane's answer is not AR's; None where they agree."""
        ours, theirs = lane.token_ids, self.yardstick.token_ids
        if ours == theirs:
            return None
        pairs = enumerate(zip(ours, theirs, strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))

    def save(self, path: str | Path) -> None:
        data = orjson.dumps(
            {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, option=orjson.OPT_NON_STR_KEYS
        )
        try:
            codec.write(path, data)
        except OSError as error:
            raise TraceError(f"Cannot write the race to {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Race:
        """Read a race; raises `TraceError` on anything that is not one."""
        try:
            with open(path, "rb") as file:
                return cls.loads(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise TraceError(f"Cannot read {path}: {error.strerror or error}.") from error

    @classmethod
    def loads(cls, data: bytes) -> Race:
        """Parse a race from untrusted bytes."""
        if len(data) > MAX_BYTES:
            raise TraceError(f"This race is larger than {MAX_BYTES >> 20} MB.")
        try:
            body = orjson.loads(data)
        except ValueError:
            body = None
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise TraceError("This is not a recorded race.")
        if body.get("version") != VERSION:
            raise TraceError(f"This race has version {brief(body.get('version'))}; this program reads {VERSION}.")
        try:
            race = codec.decode(cls, body, "race")
            _check(race)
            return race
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, DiffuSpecError) as error:
            raise TraceError(f"This race is damaged: {brief(error)}.") from error


def _check(race: Race) -> None:
    """What the pictures rely on."""
    if not race.lanes or len(race.lanes) > MAX_LANES or race.yardstick is None:
        raise ValueError(f"it must have 1 to {MAX_LANES} lanes, plain AR among them")
    if len({lane.method for lane in race.lanes}) < len(race.lanes):
        raise ValueError("two lanes have one name")
    for lane in race.lanes:
        n = len(lane.token_ids)
        ok = (
            len(lane.origins) == len(lane.times_ms) == n <= MAX_TOKENS
            and set(lane.origins) <= {OWN, ACCEPTED, CORRECTION, BONUS}
            and all(0 <= a <= b for a, b in pairwise((0.0, *lane.times_ms)))
            and min(lane.passes, lane.refused, lane.drafted, lane.draft_ms, lane.verify_ms) >= 0
        )
        if not ok:
            raise ValueError(f"the lane {lane.method!r} contradicts itself")
    if not all(len(point) == 2 and point[0] >= 1 and point[1] > 0 for point in race.costs) or not _rising(race.costs):
        raise ValueError("the costs of a pass are not (tokens, milliseconds), rising")
    for piece in race.pieces.values():
        piece.encode("latin-1")


def _rising(points: Sequence[Sequence[float]]) -> bool:
    return all(a[0] < b[0] for a, b in pairwise(points))


def make_lane(method: str, emissions: Iterable[Emission]) -> Lane:
    """What a decoding emitted, as a lane."""
    lane = dict(token_ids=[], origins=[], times_ms=[], passes=0, refused=0, drafted=0, draft_ms=0.0, verify_ms=0.0)
    clock = 0.0
    for emission in emissions:
        clock += emission.ms
        step, n = emission.step, len(emission.tokens)
        own = step.verification.kind if step else OWN
        lane["token_ids"] += emission.tokens
        lane["origins"] += [ACCEPTED if i < emission.accepted else own for i in range(n)]
        lane["times_ms"] += [clock] * n
        lane["passes"] += 1
        if step:
            lane["refused"] += own == CORRECTION
            lane["drafted"] += len(step.path)
            lane["draft_ms"] += step.timing.draft_ms
            lane["verify_ms"] += step.timing.verify_ms
    return Lane(method, **{name: tuple(v) if isinstance(v, list) else v for name, v in lane.items()})


def run_lane(method: str, decoding: Decoding, heard: Callable[[int], None], stop: Callable[[], bool]) -> Lane:
    """Decode to the end, or until stop(). heard(tokens so far) is told after every pass."""
    emissions, made = [], 0
    for emission in decoding:
        emissions.append(emission)
        made += len(emission.tokens)
        heard(made)
        if stop():
            break
    return make_lane(method, emissions)


def pass_costs(pair: Pair, ids: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """(n, milliseconds) of a target pass over n tokens after the prompt: the median of three, made to rise in n."""
    if pair.target.remote:
        return tuple((float(n), ms) for n, ms in pair.step_cost.verify)
    points, least, room = [], 0.0, pair.room(ids)
    target, cache = pair.target, pair.target.new_cache()
    target.prefill(cache, ids[:-1])
    for n in (size for size in PASS_SIZES if size <= room):
        spent = []
        for _ in range(PASS_REPEATS):
            started = time.perf_counter()
            target.forward(cache, [ids[-1]] * n)
            spent.append((time.perf_counter() - started) * 1e3)
            target.rollback(cache, n)
        least = max(least, statistics.median(spent))
        points.append((float(n), least))
    return tuple(points)


def finish(pair: Pair, prompt: str, settings: Settings, lanes: Sequence[Lane], costs, provenance: Provenance) -> Race:
    """The race that these lanes make."""
    ids = sorted({i for lane in lanes for i in lane.token_ids})
    return Race(
        prompt=prompt,
        settings=settings,
        pair=pair.info,
        provenance=provenance,
        stop_ids=tuple(sorted(pair.stop_ids)),
        special=tuple(sorted(pair.special_ids.intersection(ids))),
        pieces={i: pair.piece(i).decode("latin-1") for i in ids},
        lanes=tuple(lanes),
        costs=costs,
    )
