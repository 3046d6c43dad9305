"""A race as data: what lanes hold, saving, and files that are not races."""

import dataclasses

import orjson
import pytest

from diffuspec.errors import TraceError
from diffuspec.measure.race import ACCEPTED, CORRECTION, OWN, Race
from diffuspec.ui.race import breakeven
from diffuspec.ui.race.view import HEAD, race_payload, table
from tests.fakes.scripted import fake_race


@pytest.fixture(scope="module")
def race():
    return fake_race()


def lane(race, method):
    return next(one for one in race.lanes if one.method == method)


def test_lanes_add_up(race):
    for one in race.lanes:
        assert len(one.token_ids) == 64 and one.tokens_per_step == 64 / one.passes
        own = len(one.token_ids) - one.accepted
        assert own == one.passes, one.method
        assert one.origins.count(CORRECTION) == one.refused
    ar, ours = race.yardstick, lane(race, "diffuspec")
    assert set(ar.origins) == {OWN} and ar.wall_ms == pytest.approx(64 * 42 + 40) and ar.pass_ms == pytest.approx(42)
    assert race.speedup(ar) == 1 and race.speedup(ours) == pytest.approx(ar.wall_ms / ours.wall_ms)
    assert race.difference(ours) is None


def test_a_difference_is_placed(race):
    ours = lane(race, "plain")
    other = dataclasses.replace(ours, token_ids=(*ours.token_ids[:9], ours.token_ids[9] + 1, *ours.token_ids[10:]))
    short = dataclasses.replace(ours, token_ids=ours.token_ids[:20])
    assert race.difference(other) == 9 and race.difference(short) == 20


def test_a_saved_race_is_the_same_race(race, tmp_path):
    race.save(tmp_path / "race.json")
    assert Race.load(tmp_path / "race.json") == race


def test_a_lane_cut_in_the_middle_of_a_stream_is_what_it_was_till_then():
    from diffuspec.settings import Settings
    from tests.fakes.scripted import FakePair, fake_lane

    told = []
    cut = fake_lane(FakePair(), Settings(max_new_tokens=64), "x", "diffuspec", told.append, lambda: len(told) == 3)
    assert cut.passes == 3 and told[-1] == len(cut.token_ids) < 64


def damaged(race, change):
    body = orjson.loads(orjson.dumps(dataclasses.asdict(race), option=orjson.OPT_NON_STR_KEYS))
    body |= {"format": "diffuspec-race", "version": 1}
    change(body)
    return orjson.dumps(body)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda b: b.update(format="other"), "not a recorded race"),
        (lambda b: b.update(version=7), "version 7"),
        (lambda b: b["lanes"][1].update(origins=["accepted"]), "contradicts itself"),
        (lambda b: b["lanes"][1]["times_ms"].reverse(), "contradicts itself"),
        (lambda b: b["lanes"][1].update(passes="many"), "not of type int"),
        (lambda b: b["lanes"][1].update(draft_ms=-1.0), "contradicts itself"),
        (lambda b: b.update(lanes=b["lanes"][1:]), "plain AR among them"),
        (lambda b: b.update(lanes=b["lanes"] * 2), "one name"),
        (lambda b: b.update(costs=[[8, 1.0], [1, 2.0]]), "costs"),
        (lambda b: b.update(pieces={"1": "日"}), "damaged"),
        (lambda b: b.pop("settings"), "damaged"),
    ],
)
def test_what_is_not_a_race_is_refused_with_words(race, change, says):
    with pytest.raises(TraceError, match=says):
        Race.loads(damaged(race, change))


@pytest.mark.parametrize("data", [b"", b"[]", b"\x1f\x8b", b"{" * 10_000, b" " * (9 * 2**20)])
def test_noise_is_refused(data):
    with pytest.raises(TraceError):
        Race.loads(data)


def test_the_payload_times_every_unit_and_keeps_characters_whole(race):
    body = orjson.loads(race_payload(race, "t", labels={"ar": ("Plain AR", "the yardstick")}))
    assert body["lanes"][0]["label"] == "Plain AR" and not body["live"]
    for sent, one in zip(body["lanes"], race.lanes, strict=True):
        times = [unit[1] for unit in sent["units"]]
        assert times == sorted(times) and times[-1] == pytest.approx(one.wall_ms, abs=0.1)
        assert sent["units"][-1][2] == len(one.token_ids)
        assert {unit[3] for unit in sent["units"]} <= set(one.origins)
    assert sorted(sent["place"] for sent in body["lanes"]) == [1, 2, 3, 4, 5]
    longer = orjson.loads(race_payload(fake_race(max_new_tokens=128), "t"))
    assert any("é" in unit[0] for unit in longer["lanes"][0]["units"])


def test_the_table_is_fastest_first_and_has_every_column(race):
    rows = table(race)
    assert all(len(row) == len(HEAD) for row in rows)
    speeds = [row[1] for row in rows]
    assert speeds == sorted(speeds, reverse=True)
    assert next(row for row in rows if row[0] == "ar")[4] is None


def test_points_of_the_map_are_the_lanes_that_draft(race):
    labels = {"diffuspec": ("DiffuSpec", "")}
    points = {p.name: p for p in breakeven.points(race, labels)}
    assert set(points) == {"plain", "DiffuSpec", "prompt-lookup", "ar-drafter", "the paper"}
    ours = lane(race, "diffuspec")
    assert points["DiffuSpec"].draft_cost == pytest.approx(ours.draft_ms / ours.passes / 42)
    assert points["DiffuSpec"].acceptance == pytest.approx(ours.accepted / (ours.accepted + ours.refused))
    assert points["the paper"].measured == 3.08


def test_the_map_follows_k_and_the_cost_of_a_pass(race):
    free = breakeven.chart(race, {}, 6, breakeven.FLAT)
    paid = breakeven.chart(race, {}, 6, breakeven.MEASURED)
    z = [picture["figure"]["data"][0]["z"] for picture in (free, paid)]
    assert all(f >= p for above, below in zip(*z, strict=True) for f, p in zip(above, below, strict=True))
    assert breakeven.break_even(0.0, 6, breakeven.FREE) == 0
    assert breakeven.break_even(7.5, 6, breakeven.FREE) is None
    at = breakeven.break_even(0.5, 6, breakeven.curve(race, breakeven.MEASURED))
    assert 0 < at < 1
    assert len(free["table"]["rows"][0]) == len(free["table"]["head"])
    assert ACCEPTED in free["colours"]
