"""An uploaded trace is hostile until parsed: what loads can be drawn and exported, everything else is a `TraceError`.

The mutations start from a recorded trace of the real pair.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffuspec import Trace
from diffuspec.errors import TraceError
from diffuspec.trace import model as trace_module
from diffuspec.trace.gallery import gallery
from diffuspec.ui.player import export
from diffuspec.ui.player.misses import misses
from diffuspec.ui.player.payload import payload

DROP, TWICE = object(), object()


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    """A short recorded trace, line by line."""
    name = min((entry.name for entry in gallery()), key=lambda name: gallery().path(name).stat().st_size)
    return [json.loads(line) for line in gallery().trace(name).dumps().splitlines()]


def joined(lines) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


def finite(value) -> bool:
    """No NaN or infinity is left anywhere: JavaScript's JSON.parse would choke on it, or draw nonsense."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return all(map(finite, value)) if isinstance(value, list) else True


def look_at_everything(trace: Trace) -> None:
    drawn = json.loads(payload(trace, "hostile", at=(0, "verify")))
    assert finite(drawn)
    merits = drawn["merits"]
    for name in ("tokens_per_step", "accepted_per_step", "tokens_per_second", "wall_s"):
        assert isinstance(merits[name], int | float), name
    assert all(isinstance(value, int | float) for value in merits["stage_ms"].values())
    for step in drawn["steps"]:
        assert all(isinstance(value, int | float) for value in step["ms"])
        assert all(isinstance(value, int | float) for row in step["detail"]["logq"] for value in row)
        assert all(isinstance(value, int | float) for value in step["detail"]["pathLogp"])
    assert sum(map(len, misses(trace).values())) <= len(trace.steps)
    for table, columns, rows in (
        (export.steps_csv(trace), export.STEP_COLUMNS, len(trace.steps)),
        (export.tokens_csv(trace), export.TOKEN_COLUMNS, trace.new_tokens),
    ):
        read = list(csv.reader(io.StringIO(table)))
        assert len(read) == rows + 1 and all(len(row) == len(columns) for row in read)
        assert not any(cell.startswith(("=", "+", "@")) for row in read for cell in row), "a spreadsheet's formula"
    assert export.file_stem(trace).replace("-", "").isalnum()


def places(value, at=(), depth=0):
    """Some places in a parsed JSON value: all keys, and the first and last entry of each list."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list) and value:
        for key in {0, len(value) - 1}:
            yield from places(value[key], (*at, key))


def changed(value, at, new):
    """A copy with the place `at` replaced, taken out, or doubled."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) > 1:
        copy[at[0]] = changed(value[at[0]], at[1:], new)
    elif new is DROP:
        del copy[at[0]]
    elif new is TWICE:
        if isinstance(copy, list):
            copy.insert(at[0], copy[at[0]])
    else:
        copy[at[0]] = new
    return copy


NASTY = st.one_of(
    st.sampled_from([
        DROP, TWICE, None, True, -1, 0, 1, 2, 7, 2**15, 2**31, 2**63, 10**30, 1e308, -1e308, 1e-308, float("nan"),
        float("inf"), -float("inf"), "", "NaN", "</script><script>alert(1)</script>", "${alert(1)}", "{{x}}", "\ud800",
        "\u2028", "=1+1", "x" * 5000, [], {}, [[]], [[[]]], [None], {"a": 1}, [[1], [2, 3]], [1e400],
    ]),
    st.integers(-3, 50_000), st.floats(), st.text(max_size=4),
)  # fmt: skip


@given(data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_mutated_trace_is_refused_or_can_be_drawn(lines, data):
    lines = list(lines)
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        place = data.draw(st.sampled_from(list(places(lines[number]))))
        try:
            lines[number] = changed(lines[number], place, data.draw(NASTY))
        except (TypeError, KeyError, IndexError):
            continue
    try:
        raw = b"\n".join(json.dumps(line).encode() for line in lines if line not in (DROP, TWICE))
        trace = Trace.loads(raw)
    except TraceError as error:
        said = str(error)
        assert said.startswith("This ") and said.endswith(".") and len(said) < 400
        assert "Traceback" not in said and "object at 0x" not in said
    else:
        look_at_everything(trace)


def test_an_untouched_one_can_be_drawn(lines):
    trace = Trace.loads(joined(lines))
    look_at_everything(trace)
    page = export.replay_page(trace)
    assert page.count("</script>") == page.count("<script")


def test_a_token_cannot_end_the_script_of_the_page(lines):
    attack = "</script><script>alert(1)</script><!--"
    lines = [json.loads(json.dumps(line)) for line in lines]
    lines[0]["prompt"] = attack
    lines[0]["pair"]["target"] = lines[0]["provenance"]["machine"] = attack
    lines[-1]["end"]["pieces"] = dict.fromkeys(lines[-1]["end"]["pieces"], attack)
    page = export.replay_page(Trace.loads(joined(lines)))
    assert attack not in page and "<script>alert" not in page
    assert page.count("</script>") == page.count("<script")


@pytest.mark.parametrize("depth", [50, 5_000, 500_000])
def test_deep_nesting_is_refused(lines, depth):
    nest = b"[" * depth + b"]" * depth
    raw = [json.dumps(line).encode() for line in lines]
    raw[1] = raw[1].replace(b'"emitted": [', b'"emitted": ' + nest + b', "x": [', 1)
    with pytest.raises(TraceError):
        Trace.loads(b"\n".join(raw))


def test_a_gzip_bomb_is_refused_before_it_unpacks(monkeypatch):
    monkeypatch.setattr(trace_module, "MAX_BYTES", 2**20)
    bomb = gzip.compress(b" " * 2**26, 9)
    assert len(bomb) < 2**17
    for raw in (bomb, gzip.compress(bomb), bomb * 4):
        with pytest.raises(TraceError):
            Trace.loads(raw)


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"\x1f\x8b", b"PK\x03\x04", b"null", b"[]", b"{}\n{}", b"\xff\xfe{\x00", b'{"format":[]}']
)
def test_what_is_no_trace_is_refused_with_a_sentence(raw):
    with pytest.raises(TraceError, match="^This .*\\.$"):
        Trace.loads(raw)


def test_repeated_keys_are_refused_or_drawn(lines):
    raw = joined(lines)
    for key in (b'"steps"', b'"start"', b'"ids"', b'"wall_s"'):
        doubled = raw.replace(key + b":", key + b": [], " + key + b":")
        try:
            look_at_everything(Trace.loads(doubled))
        except TraceError as error:
            assert str(error)
