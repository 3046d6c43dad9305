"""What a study is, and the columns and sentences that several share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffuspec.measure.methods import Variant
from diffuspec.measure.results import YARDSTICK, Measured
from diffuspec.settings import Settings
from diffuspec.trace.steps import STAGES

if TYPE_CHECKING:
    from diffuspec.models.pair import Pair

Row = dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Column:
    """A key of a study's rows as a person meets it; paper: the value is the paper's, not measured here; bound: of the
    interval of another column, None where too few questions were asked; shown beside that column."""

    key: str
    label: str
    unit: str = ""
    digits: int = 2
    paper: bool = False
    bound: bool = False


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper, measured here.

    source: the paper's table or figure, empty where it has none; about: one sentence on what it asks.

    variants(settings, longest) of a comparison: longest is the largest k the pair's drafter fills;
    probe(pair, settings, should_stop) of a study without questions: yields (done, total, now, rows).
    rows(results, variants) and remark(rows) are pure.
    """

    name: str
    title: str
    source: str
    about: str
    columns: tuple[Column, ...]
    remark: Callable[[Sequence[Row]], str]
    variants: Callable[[Settings, int], tuple[Variant, ...]] | None = None
    rows: Callable[[Sequence[Measured], Sequence[Variant]], list[Row]] | None = None
    probe: Callable[[Pair, Settings, Callable[[], bool]], Iterator[tuple[int, int, str, list[Row]]]] | None = None


# The columns that most studies share.
ACCEPTED = Column("accepted_per_step", "accepted/step")
TOKENS = Column("tokens_per_step", "tokens/step")
SPEED = Column("tokens_per_second", "tokens/s", digits=1)
SPEEDUP = Column("speedup", "speed-up")
IDENTICAL = Column("identical", "identical to AR")
PAPER_ACCEPTED = Column("paper_accepted_per_step", "accepted/step, paper", paper=True)
PAPER_SPEEDUP = Column("paper_speedup", "speed-up, paper", paper=True)


def bounds(*columns: Column) -> tuple[Column, ...]:
    """The columns that hold the intervals of `columns`."""
    return tuple(
        Column(f"{column.key}_{end}", f"{column.label}, {words}", bound=True)
        for column in columns
        for end, words in (("low", "from"), ("high", "to"))
    )


BOUNDS = bounds(SPEEDUP, ACCEPTED)
STAGE_MS = tuple(Column(f"{stage}_ms", stage, "ms a step") for stage in STAGES)
VARIANT, CATEGORY, QUESTIONS = (
    Column("variant", "variant"),
    Column("category", "task"),
    Column("questions", "questions"),
)


def plain_ar(settings: Settings) -> Variant:
    return Variant(YARDSTICK, "ar", settings)


def interval(row: Row, column: Column, form: str = "") -> str:
    """Of a column that has an interval in this row, " (1.60 to 1.83)", else nothing; form: of a number."""
    low, high = row.get(f"{column.key}_low"), row.get(f"{column.key}_high")
    form = form or f".{column.digits}f"
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"


def select(row: Row, columns: Sequence[Column], **more) -> Row:
    """The columns of a summary row, others from `more`."""
    known = {"variant": row["method"], **row, **more}
    return {column.key: known[column.key] for column in columns}


def step_ms(row: Row) -> float:
    return sum(row[f"{stage}_ms"] for stage in STAGES)


def against_paper(row: Row) -> str:
    """Why a speed-up is not the paper's: tokens a step, and what a step costs in AR passes."""
    ours = row["tokens_per_step"], row["tokens_per_step"] / row["speedup"]
    theirs = row["paper_accepted_per_step"] + 1, (row["paper_accepted_per_step"] + 1) / row["paper_speedup"]
    tokens, cost = theirs[0] / ours[0], theirs[1] / ours[1]
    weight = "tokens a step" if tokens > 1 / cost else "the cost of a step"
    return (
        f"A step gives {ours[0]:.2f} tokens here and costs as much as {ours[1]:.2f} tokens of plain decoding; in the "
        f"paper it is {theirs[0]:.2f} and {theirs[1]:.2f}. The paper's tokens a step are {tokens:.2f} times ours, its "
        f"cost of a step {cost:.2f} times ours: "
        + (f"the difference in speed-up lies mostly in {weight}." if tokens > cost else "its speed-up is no larger.")
    )
