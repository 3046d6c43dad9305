"""Traces of other engines in every view: what is known is shown, what is not is named, nothing is made up."""

from __future__ import annotations

import csv
import io
import json

import pytest

from diffuspec import Trace
from diffuspec.cli.main import main
from diffuspec.errors import TraceError
from diffuspec.hf.spelling import spelled
from diffuspec.ui.lab.events import read
from diffuspec.ui.player.export import replay_page, steps_csv, tokens_csv
from diffuspec.ui.player.payload import payload
from tests.unit.test_foreign import PLAIN, STREAM, llama, saved, sglang, vllm, write


@pytest.fixture
def opened(tmp_path):
    return {
        "vLLM": Trace.open(saved(tmp_path, vllm())),
        "SGLang": Trace.open(saved(tmp_path, sglang())),
        "llama.cpp": Trace.open(saved(tmp_path, llama(*STREAM))),
        "specspecs": Trace.open(write(tmp_path / "run", ("a", 10**15, [5, 6], PLAIN))),
    }


@pytest.mark.parametrize("engine", ["vLLM", "SGLang", "llama.cpp", "specspecs"])
def test_a_payload_tells_what_is_not_known(opened, engine):
    trace = opened[engine]
    body = json.loads(payload(trace, "x"))
    merits, origin = body["merits"], body["origin"]
    assert merits["provenance"]["badge"] == f"from {engine}" and merits["why"] == trace.origin.sentence
    assert merits["speedup"] is None and merits["stage_ms"] is None and merits["verdict"]["state"] == "none"
    assert merits["steps"] == trace.totals.steps and merits["tokens_per_step"] == round(trace.tokens_per_step, 6)
    assert origin["knows"] == trace.origin.knows and not origin["target"] and not origin["candidates"]
    assert all(step["ms"] is None for step in body["steps"]) == (not trace.origin.times)
    for step in body["steps"]:
        detail = step["detail"]
        assert all(q is None for column in detail["logq"] for q in column)
        assert all(p is None for p in detail["pathLogp"]) and not any(detail["topIds"])
        assert "not told" in step["length"]["words"]
    stages = {bar["name"] for bar in body["figures"]["stages"]["data"]}
    assert stages == ({"whole step"} if trace.origin.times else set())
    assert "L_gen" not in {part["name"] for part in body["figures"]["adl"]["data"]}


def test_unknown_tokens_are_drawn_as_such_and_the_text_stands_by_itself(opened):
    body = json.loads(payload(opened["vLLM"], "x"))
    assert {unit["t"] for unit in body["units"]} == {"▯"} and body["origin"]["text"] == "a b c d"
    assert body["labels"]["-1"] == "▯" and body["merits"]["loops"] == ""
    body = json.loads(payload(opened["llama.cpp"], "x"))
    assert "".join(unit["t"] for unit in body["units"]) == "one two three two four" and body["origin"]["text"] == ""


def test_sums_alone_still_give_acceptance_by_position(opened):
    body = json.loads(payload(opened["SGLang"], "x"))
    assert body["origin"]["reached"] == [9, 6, 3]
    (bars,) = body["figures"]["acceptance"]["data"]
    assert bars["y"] == [0.75, 0.5, 0.25]


@pytest.mark.parametrize("engine", ["vLLM", "SGLang", "llama.cpp", "specspecs"])
def test_tables_leave_empty_what_was_not_told(opened, engine):
    trace = opened[engine]
    steps = list(csv.DictReader(io.StringIO(steps_csv(trace))))
    assert [int(row["accepted"]) for row in steps] == [step.accepted for step in trace.steps]
    assert not any(
        row[name] for row in steps for name in ("oracle", "L_gen", "next_k", "miss", "draft_ms", "verify_ms")
    )
    rows = list(csv.DictReader(io.StringIO(tokens_csv(trace))))
    assert len(rows) == len(trace.token_ids)
    assert not any(row[name] for row in rows for name in ("target_p", "drafter_q", "drafter_rank"))
    assert all(row["token"] != "-1" for row in rows)
    assert f"by {trace.origin.engine}" in replay_page(trace)


def test_the_lab_says_that_there_is_no_lattice(opened):
    for engine in ("vLLM", "SGLang"):
        with pytest.raises(TraceError, match=engine):
            read(opened[engine], {})


def test_replay_reads_them(tmp_path, capsys):
    path = saved(tmp_path, [vllm(), {**sglang(), "id": "other"}])
    assert main(["replay", str(path)]) == 0
    said = capsys.readouterr().out
    assert "accepted 2/3" in said and "vLLM tells how many tokens" in said and "time:" not in said
    assert main(["replay", str(path), "--run", "2"]) == 0
    assert "30 tokens in 12 steps" in (said := capsys.readouterr().out) and "SGLang tells sums" in said
    assert main(["replay", str(path), "--run", "3"]) == 1
    assert "there is no number 3" in capsys.readouterr().err
    assert main(["replay", str(path), "--html", str(tmp_path / "page.html")]) == 0
    assert "vLLM" in (tmp_path / "page.html").read_text()


def test_a_tokenizer_spells_what_has_ids_alone(tmp_path, capsys, tiny):
    tokenizer = tiny.tokenizer()
    ids = tokenizer("one two").input_ids
    folder = write(tmp_path / "run", ("a", 10**15, tokenizer("x").input_ids, [(ids[:4], 3, ids[3])]))
    trace = Trace.open(folder)
    assert trace.text == "" and spelled(trace, tokenizer).text == "one "
    assert spelled(trace, tokenizer).piece(ids[0]) == b"o"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert main(["replay", str(folder), "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    assert "'one ' -> 'one '" in capsys.readouterr().out
    far = Trace.open(write(tmp_path / "far", ("a", 10**15, [70_000], [([5], 0, 3)])))
    with pytest.raises(TraceError, match="token 70000"):
        spelled(far, tokenizer)
