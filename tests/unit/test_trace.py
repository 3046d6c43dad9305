"""A trace survives being saved, and whatever else is in a file becomes a `TraceError`."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffuspec import Settings, Trace
from diffuspec.errors import TraceError
from diffuspec.method.search import BeamLevels
from diffuspec.trace import model as trace_module
from diffuspec.trace.model import Baseline


def lines_of(trace) -> list[dict]:
    return [json.loads(line) for line in trace.dumps().splitlines()]


def joined(lines) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


def assert_same(a, b, where="trace"):
    """Equal in value, type, dtype and shape, NaN for NaN, down to the last field."""
    a, b = (tuple(x) if isinstance(x, BeamLevels) else x for x in (a, b))
    assert type(a) is type(b), where
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.fixture(params=["compared", "bare", "argmax", "tree", "sampled", "by ratio", "empty", "one token"])
def any_trace(request, tiny_pairs, tiny_trace):
    from diffuspec import DiffuSpec

    if request.param == "compared":
        return tiny_trace
    if request.param == "bare":
        return dataclasses.replace(tiny_trace, baseline=None)
    changes = {
        "argmax": dict(search="argmax", length="fixed"),
        "tree": dict(search="tree"),
        "sampled": dict(temperature=0.8),
        "by ratio": dict(temperature=0.8, rule="sampled-path"),
    }
    budget = 1 if request.param == "one token" else 12
    engine = DiffuSpec(tiny_pairs["peeking"], Settings(proxy="none", **changes.get(request.param, {})))
    run = engine.stream(ids=[62, 102], max_new_tokens=budget)
    if request.param == "empty":
        run.stop()
    for _ in run:
        pass
    return run.trace


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_saving_and_loading_loses_nothing(any_trace, tmp_path, name):
    any_trace.save(tmp_path / name)
    loaded = Trace.load(tmp_path / name)
    assert_same(any_trace, loaded)
    assert loaded.dumps() == any_trace.dumps()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_gz_name_compresses_and_saving_twice_gives_the_same_bytes(tiny_trace, tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz", "c.jsonl"):
        tiny_trace.save(tmp_path / name)
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed[:2] == b"\x1f\x8b" and packed == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "c.jsonl").read_bytes() == tiny_trace.dumps()


def test_the_trace_holds_a_nan_to_lose(tiny_trace):
    assert np.isnan(tiny_trace.steps[0].search.proxy_logp).any()
    assert any(step.search.levels for step in tiny_trace.steps)


@pytest.mark.parametrize("where", ["nowhere/run.jsonl", "."])
def test_a_place_that_cannot_be_written_or_read_is_a_trace_error(tiny_trace, tmp_path, where):
    with pytest.raises(TraceError, match="Cannot write"):
        tiny_trace.save(tmp_path / where)
    with pytest.raises(TraceError, match="Cannot read"):
        Trace.load(tmp_path / where)


def test_a_failed_save_keeps_the_old_file(tiny_trace, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    tiny_trace.save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TraceError, match="No space left"):
        tiny_trace.save(path)
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


def test_both_measures_of_acceptance_count_what_was_kept(tiny_trace):
    steps = tiny_trace.steps
    accepted = [sum(t in step.path for t in step.emitted[: step.verification.accepted]) for step in steps]
    assert tiny_trace.accepted_per_step == sum(accepted) / len(steps)
    assert tiny_trace.tokens_per_step == len(tiny_trace.token_ids) / len(steps)
    own = sum(step.verification.token is not None for step in steps)
    difference = tiny_trace.tokens_per_step - tiny_trace.accepted_per_step
    assert math.isclose(difference, own / len(steps))
    assert tiny_trace.new_tokens == len(tiny_trace.token_ids) == sum(len(step.emitted) for step in steps)


def test_speed_up_is_a_ratio_of_tokens_per_second(tiny_trace):
    baseline = Baseline((1, 2, 3, 4), wall_s=2.0, prefill_ms=1.0, times_ms=(1, 2, 3, 4), compared=4, difference=None)
    trace = dataclasses.replace(tiny_trace, wall_s=0.5, baseline=baseline)
    assert baseline.tokens_per_second == 2.0
    assert trace.tokens_per_second == tiny_trace.new_tokens / 0.5
    assert trace.speedup == trace.new_tokens / 0.5 / 2.0
    assert trace.identical_to_ar is True
    assert dataclasses.replace(trace, baseline=None).speedup is None
    assert dataclasses.replace(trace, baseline=None).identical_to_ar is None
    assert dataclasses.replace(trace, settings=Settings(temperature=0.5)).identical_to_ar is None


def test_the_oracle_knows_the_answer_only_as_far_as_it_goes(tiny_trace):
    for step in tiny_trace.steps:
        oracle = tiny_trace.oracle(step.index)
        assert step.accepted <= oracle <= min(step.draft_length, tiny_trace.new_tokens - step.start)


def test_pieces_are_the_bytes_of_the_text(tiny_trace):
    made = b"".join(tiny_trace.piece(t) for t in tiny_trace.token_ids if t not in tiny_trace.special)
    assert made.decode("utf-8", "replace") == tiny_trace.text
    assert tiny_trace.piece(10**9) == b""


# ---- What is not a trace ---------------------------------------------------------------------


@pytest.mark.parametrize("data", [
    b"", b"\n\n", b"\x00" * 100, bytes(range(256)) * 4, b"hello", b"{}", b"[]", b"null", b"3", b'"x"', b"[[[[",
    b'{"format": "other"}', b'{"format": ["diffuspec-trace"]}', b"PK\x03\x04zip", b"\xef\xbb\xbf{}", b"\x1f\x8b",
    b"\x1f\x8b" + b"\x00" * 40, gzip.compress(b""), gzip.compress(b"hello"), gzip.compress(b"{}")[:-6],
    b"[" * 200_000, b'{"a":' * 100_000, b"1e999", b"NaN",
], ids=lambda data: repr(data[:24]))  # fmt: skip
def test_foreign_bytes_are_a_trace_error(data):
    with pytest.raises(TraceError) as caught:
        Trace.loads(data)
    assert "trace" in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, [1], {"a": 1}])
def test_another_version_is_named(tiny_trace, version):
    head, *rest = lines_of(tiny_trace)
    with pytest.raises(TraceError, match="version"):
        Trace.loads(joined([{**head, "version": version}, *rest]))


def test_a_cut_file_is_a_trace_error_wherever_it_is_cut(tiny_trace):
    plain, packed = tiny_trace.dumps(), gzip.compress(tiny_trace.dumps())
    for data in (plain, packed):
        for cut in np.linspace(0, len(data) - 2, 40).astype(int).tolist():
            with pytest.raises(TraceError):
                Trace.loads(data[:cut])


def test_a_gzip_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(trace_module, "MAX_BYTES", 2**20)
    with pytest.raises(TraceError, match="larger than 1 MB"):
        Trace.loads(gzip.compress(b" " * (64 * 2**20)))
    with pytest.raises(TraceError, match="larger than 1 MB"):
        Trace.loads(b" " * (2**20 + 1))


def test_too_many_steps_are_refused(tiny_trace, monkeypatch):
    monkeypatch.setattr(trace_module, "MAX_STEPS", len(tiny_trace.steps) - 1)
    with pytest.raises(TraceError, match="steps"):
        Trace.loads(tiny_trace.dumps())


def paths_into(value, at=()):
    """Every place in a parsed JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_into(value[key], (*at, key))


def changed(value, at, new):
    """A copy with the place `at` replaced (`DROP`: taken out)."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and new is DROP:
        del copy[at[0]]
    else:
        copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


DROP = object()
STEP = ("step",)


@pytest.mark.parametrize(("place", "new"), [
    ((*STEP, "lattice", "ids"), [[1, 2], [3]]),
    ((*STEP, "lattice", "ids"), "text"),
    ((*STEP, "lattice", "ids"), {"a": 1}),
    ((*STEP, "lattice", "ids", 0, 0), 2**31),
    ((*STEP, "lattice", "ids", 0, 0), 2**63),
    ((*STEP, "lattice", "ids", 0, 0), 10**30),
    ((*STEP, "lattice", "ids", 0, 0), 0.5),
    ((*STEP, "lattice", "ids", 0, 0), None),
    ((*STEP, "lattice", "ids", 0, 0), "7"),
    ((*STEP, "lattice", "logq"), [1.0, 2.0]),
    ((*STEP, "lattice", "logq"), []),
    ((*STEP, "lattice", "kept", 0), [True]),
    ((*STEP, "lattice", "kept", 0, 0), "yes"),
    ((*STEP, "search", "ranks", 0), 9999),
    ((*STEP, "search", "ranks", 0), -1),
    ((*STEP, "search", "ids"), list(range(90))),
    ((*STEP, "search", "chosen"), 9999),
    ((*STEP, "search", "chosen"), -1),
    ((*STEP, "search", "levels", 0, "survivors"), -3),
    ((*STEP, "search", "levels", 0, "survivors"), 10**6),
    ((*STEP, "search", "levels", 0, "rank", 0), 9999),
    ((*STEP, "search", "levels", 0, "rank", 0), 40_000),
    ((*STEP, "search", "levels", 0, "parent", 0), 5),
    ((*STEP, "search", "levels", 0, "parent", 0), -1),
    ((*STEP, "search", "levels", 0, "ended"), []),
    ((*STEP, "search", "levels"), [[]]),
    ((*STEP, "search", "levels", 0), DROP),
    ((*STEP, "search", "levels", -1), DROP),
    ((*STEP, "search", "score", 0), "1.5"),
    ((*STEP, "verification", "accepted"), -1),
    ((*STEP, "verification", "accepted"), 999),
    ((*STEP, "verification", "accepted"), True),
    ((*STEP, "verification", "token"), "x"),
    ((*STEP, "verification", "kind"), 3),
    ((*STEP, "verification", "top_ids"), [[1]]),
    ((*STEP, "verification", "draws"), "abc"),
    ((*STEP, "verification", "path_rank", 0), 10**30),
    ((*STEP, "timing", "draft_ms"), "fast"),
    ((*STEP, "timing", "draft_ms"), None),
    ((*STEP, "timing", "draft_ms"), 10**400),
    ((*STEP, "length", "next_k"), 2.5),
    ((*STEP, "length"), None),
    ((*STEP, "start"), 3),
    ((*STEP, "emitted"), 3),
    ((*STEP, "emitted"), ["a"]),
    ((*STEP, "emitted", 0), None),
    (STEP, DROP), (STEP, None), (STEP, []), (STEP, "step"), ((), []), ((), None), ((), 3), ((), "x"),
    *[((*STEP, name), DROP) for name in ("lattice", "search", "verification", "length", "timing", "emitted")],
], ids=str)  # fmt: skip
def test_a_damaged_step_is_a_trace_error(tiny_trace, place, new):
    lines = lines_of(tiny_trace)
    lines[1] = changed(lines[1], place, new)
    with pytest.raises(TraceError, match="damaged"):
        Trace.loads(joined(lines))


@pytest.mark.parametrize(("line", "place", "new"), [
    *[(0, (name,), DROP) for name in ("prompt", "settings", "pair", "provenance")],
    (0, ("settings",), None), (0, ("settings",), []), (0, ("settings", "beam"), 0), (0, ("settings", "k_min"), 50),
    (0, ("settings", "unknown"), 1), (0, ("settings", "tau"), None), (0, ("prompt",), 3),
    (0, ("pair", "context"), "many"), (0, ("provenance", "versions"), [1]), (0, ("provenance", "threads"), True),
    (-1, ("end",), DROP), (-1, ("end",), None), (-1, ("end",), []), (-1, (), []), (-1, (), 3), (-1, (), "end"),
    *[(-1, ("end", name), DROP) for name in ("text", "wall_s", "pieces", "stop_ids", "prompt_ids", "baseline")],
    (-1, ("end", "pieces"), {"x": "y"}), (-1, ("end", "pieces"), {"1": "☃"}), (-1, ("end", "pieces"), {"1": 2}),
    (-1, ("end", "wall_s"), "1"), (-1, ("end", "wall_s"), None), (-1, ("end", "baseline"), 3),
    (-1, ("end", "baseline", "token_ids"), None), (-1, ("end", "prompt_ids"), {"a": 1}), (-1, ("end", "text"), None),
], ids=str)  # fmt: skip
def test_a_damaged_first_or_last_line_is_a_trace_error(tiny_trace, line, place, new):
    lines = lines_of(tiny_trace)
    if place == ("settings", "unknown"):
        lines[0]["settings"]["unknown"] = new
    else:
        lines[line] = changed(lines[line], place, new)
    with pytest.raises(TraceError):
        Trace.loads(joined(lines))


def test_deep_nesting_is_a_trace_error(tiny_trace):
    head, step, *rest = tiny_trace.dumps().split(b"\n")
    for depth in (100, 1000, 100_000):
        nest = b"[" * depth + b"]" * depth
        for bad in (
            nest,
            step.replace(b'"emitted":[', b'"emitted":' + nest + b',"x":[', 1),
            step.replace(b'"lattice":{', b'"lattice":{"ids":' + nest + b',"x":{},"y":{', 1),
        ):
            with pytest.raises(TraceError):
                Trace.loads(b"\n".join([head, bad, *rest]))


def test_steps_out_of_order_are_a_trace_error(tiny_trace):
    lines = lines_of(tiny_trace)
    assert len(lines) > 4
    for wrong in ([lines[0], *lines[2:]], [lines[0], lines[1], *lines[1:]], [lines[0], *lines[1:-1][::-1], lines[-1]]):
        with pytest.raises(TraceError):
            Trace.loads(joined(wrong))


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.just(DROP),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-2, 400), max_size=4),
    st.just([[]]),
    st.just([[1], [2, 3]]),
)


def look_at_everything(trace):
    """What a page does with a trace; none of it may fail on a trace that was loaded."""
    trace.dumps()
    assert isinstance(trace.accepted_per_step, float) and isinstance(trace.tokens_per_step, float)
    trace.stage_ms(), trace.tokens_per_second, trace.identical_to_ar  # noqa: B018
    for step in trace.steps:
        trace.oracle(step.index), step.path, step.accepted, step.timing.total_ms  # noqa: B018
        index = step.search.chosen
        for level in step.search.levels[: len(step.search)][::-1]:
            index = int(level.parent[index])


@given(data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_is_a_trace_or_a_trace_error(tiny_trace, data):
    lines = lines_of(tiny_trace)
    for _ in range(data.draw(st.integers(1, 2))):
        line = data.draw(st.integers(0, len(lines) - 1))
        place = data.draw(st.sampled_from(list(paths_into(lines[line]))))
        new = data.draw(junk)
        if new is DROP and not place:
            new = None
        try:
            lines[line] = changed(lines[line], place, new)
        except (TypeError, KeyError, IndexError):
            continue
    try:
        trace = Trace.loads(joined(lines))
    except TraceError as error:
        assert str(error)
    else:
        look_at_everything(trace)


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bytes_are_a_trace_or_a_trace_error(tiny_trace, data):
    raw = bytearray(tiny_trace.dumps())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        look_at_everything(Trace.loads(bytes(raw)))
    except TraceError as error:
        assert str(error)


@pytest.mark.parametrize("about", ["many lists", "many lines", "blank lines", "a long line", "lists in the first line"])
def test_what_unpacks_to_more_than_a_trace_holds_is_refused_before_it_is_parsed(tiny_trace, monkeypatch, about):
    """A small file may unpack to millions of lists, which take a hundred times its size to hold."""
    head, *rest = tiny_trace.dumps().split(b"\n")
    lists = b"[" + b"[]," * 4_000_000 + b"[]]"
    data = {
        "many lists": [head, b'{"step":' + lists + b"}", *rest],
        "many lines": [head, b"[]\n" * 4_000_000, *rest],
        "blank lines": [head, b"\n" * 40_000_000, *rest],
        "a long line": [head, b'{"step":"' + b"x" * (17 * 2**20) + b'"}', *rest],
        "lists in the first line": [head[:-1] + b',"more":' + lists + b"}", *rest],
    }[about]
    packed = gzip.compress(b"\n".join(data), 1)
    parsed = []
    loads = trace_module.orjson.loads
    monkeypatch.setattr(trace_module.orjson, "loads", lambda line: (parsed.append(len(line)), loads(line))[1])
    with pytest.raises(TraceError, match="more than"):
        Trace.loads(packed)
    assert not parsed


@pytest.mark.parametrize("change", [
    dict(token_ids=[]), dict(times_ms=[]), dict(wall_s=-1.0), dict(prefill_ms=-1.0), dict(compared=10**6),
    dict(difference={"position": -1, "expected": 1, "got": 2, "gap": 0.5}),
], ids=str)  # fmt: skip
def test_what_is_said_of_plain_ar_must_fit_together(tiny_trace, change):
    lines = lines_of(tiny_trace)
    lines[-1]["end"]["baseline"].update(change)
    with pytest.raises(TraceError, match="plain AR contradicts itself"):
        Trace.loads(joined(lines))


def test_a_baseline_that_made_nothing_gives_no_speed_up(tiny_trace):
    empty = Baseline((), wall_s=0.0, prefill_ms=0.0, times_ms=(), compared=0, difference=None)
    trace = Trace.loads(dataclasses.replace(tiny_trace, baseline=empty).dumps())
    assert trace.speedup is None and trace.report()["speedup"] is None and empty.tokens_per_second == 0.0


def test_a_message_repeats_no_control_codes_of_a_strangers_file(tiny_trace):
    evil = "\x1b[2J\x9b\u202e\u2028"
    head, *rest = lines_of(tiny_trace)
    files = [
        [{**head, "version": evil}, *rest],
        [{**head, "settings": {evil: 1}}, *rest],
        [{**head, "settings": {"search": evil}}, *rest],
        [*[head, *rest][:-1], {"end": {**rest[-1]["end"], "pieces": {evil: "x"}}}],
        [{**head, "provenance": {**head["provenance"], "versions": {evil: 1}}}, *rest],
    ]
    for lines in files:
        with pytest.raises(TraceError) as caught:
            Trace.loads(joined(lines))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 400
