"""The command line as a user meets it: a real process, real models, real exit codes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffuspec import Settings, Trace
from diffuspec.cli.main import _parser
from diffuspec.cli.options import chosen_settings
from diffuspec.settings import PRESETS

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "diffuspec"]


def diffuspec(*arguments, **options):
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """One `run --json --trace` of the embedded pair, and where its trace lies."""
    trace = tmp_path_factory.mktemp("cli") / "run.jsonl.gz"
    done = diffuspec(
        "run",
        "Name three primary colours.",
        "--json",
        "--trace",
        trace,
        "--max-new-tokens",
        20,
        "--k-max",
        5,
        "--set",
        "M_max=7",
        "--preset",
        "default",
    )
    assert done.returncode == 0, done.stderr
    return done, trace


def test_json_is_one_object_and_nothing_else(answered):
    report = json.loads(answered[0].stdout)
    assert list(report) == [
        "text",
        "token_ids",
        "new_tokens",
        "steps",
        "accepted_per_step",
        "tokens_per_step",
        "wall_s",
        "ar_wall_s",
        "speedup",
        "identical_to_ar",
    ]
    assert report["identical_to_ar"] is True
    assert report["new_tokens"] == len(report["token_ids"]) <= 20
    assert report["speedup"] == pytest.approx(report["ar_wall_s"] / report["wall_s"])


def test_trace_is_saved_with_the_settings_asked_for(answered):
    done, file = answered
    trace = Trace.load(file)
    assert list(trace.token_ids) == json.loads(done.stdout)["token_ids"]
    assert (trace.settings.k_max, trace.settings.m_max, trace.settings.max_new_tokens) == (5, 7, 20)
    assert trace.prompt == "Name three primary colours."
    assert max(step.draft_length for step in trace.steps) == 5


def test_replay_shows_every_step(answered):
    done = diffuspec("replay", answered[1])
    assert done.returncode == 0
    steps = [line for line in done.stdout.splitlines() if " accepted " in line and "k=" in line]
    assert len(steps) == len(Trace.load(answered[1]).steps)
    assert "identical to plain AR" in done.stdout


def test_help_explains_each_knob():
    shown = " ".join(diffuspec("run", "--help", env={**os.environ, "COLUMNS": "400"}).stdout.split())
    for name, knob in Settings.knobs().items():
        assert f"--{name.replace('_', '-')}" in shown
        assert knob.meaning in shown


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["run", "  "], "The prompt is empty"),
        (["run", "x", "--k-min", 9, "--k-max", 3], "k_min = 9 is larger than k_max = 3"),
        (["run", "x", "--beam", 0], "between 1 and 32"),
        (["run", "x", "--set", "beem=3"], "no setting 'beem'"),
        (["run", "x", "--set", "beam"], "NAME=VALUE"),
        (["run", "x", "--tau", "lots"], "is not a number"),
        (["run", "x", "--pair", "nonesuch"], "Unknown pair 'nonesuch'"),
        (["run", "x", "--device", "quantum"], "Unknown device 'quantum'"),
        (["run", "x", "--device", "meta"], "computed on the device 'meta'"),
        (["run", os.fsencode("caf\xe9").replace(b"\xc3\xa9", b"\xe9").decode("utf-8", "surrogateescape")], "not UTF-8"),
        (["bench", "--questions", "README.md", "--json", "README.md"], "not a question"),
        (["bench", "--json", "assets/questions.jsonl"], "read or written already"),
        (["bench", "--json", "same", "--csv", "same"], "read or written already"),
        (["replay", "assets/traces/padding.jsonl.gz", "--html", "assets/traces/padding.jsonl.gz"], "read or written"),
        (["run", "x", "--target", "somewhere"], "both a target and a drafter"),
        (["run", "x", "--k", 64, "--length", "fixed"], "exceeds the 32 positions"),
        (["run", "word " * 9000], "Shorten the prompt"),
        (["run", "x", "--trace", "/nonexistent/t.jsonl", "--max-new-tokens", 1], "Cannot write the trace"),
        (["replay", "README.md"], "holds no trace that can be read"),
        (["replay", "nowhere.jsonl"], "Cannot read"),
        (["bench", "--questions", "README.md"], "not a question"),
        (["bench", "--questions", "README.md", "--methods", "magic"], "Unknown method"),
        (["bench", "--json", "/nonexistent/out.json"], "there is no such folder"),
        (["study", "sweep", "--values", "beam"], "NAME=V1,V2"),
        (["study", "sweep", "--values", "beem=1"], "no setting 'beem' to sweep"),
        (["study", "ablation", "--values", "beam=1"], "belongs to the study sweep"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments, says):
    done = diffuspec(*arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_wrong_usage_exits_with_2():
    assert diffuspec("run").returncode == 2
    assert diffuspec("dance").returncode == 2
    assert diffuspec("study", "dance").returncode == 2
    assert diffuspec("bench", "--stride", 0).returncode == 2
    for arguments in (("study", "dance"), ("train", "cache", "x", "--layers", "1", "--threads", 0)):
        done = diffuspec(*arguments)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 2, done.stderr


def test_missing_asset_says_how_to_get_it_back(tmp_path):
    for name in ("diffuspec", "assets"):
        (tmp_path / name).mkdir()
    subprocess.run(["cp", "-r", ROOT / "diffuspec", tmp_path], check=True)
    done = subprocess.run([*COMMAND, "run", "x"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "git checkout -- assets" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt_keeps_what_was_made(tmp_path):
    file = tmp_path / "stopped.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "run", "Tell a very long story.", "--max-new-tokens", "2000", "--json", "--trace", str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("step ") and int(line.split()[1].rstrip(":")) >= 5:  # not every step is shown
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    trace = Trace.load(file)
    assert trace.stop_reason == "stopped"
    assert 5 <= len(trace.steps) < 2000
    assert json.loads(out)["token_ids"] == list(trace.token_ids)


QUESTIONS = (
    {"question_id": 1, "category": "writing", "turns": ["Write a haiku.", "Another, shorter."]},
    {"question_id": 2, "category": "qa", "turns": ["What is the capital of France?"]},
    {"question_id": 3, "category": "math_reasoning", "turns": ["What is 12 + 7?"]},
)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    file = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return file


def test_bench_writes_rows_in_spec_bench_terms(tmp_path, questions):
    """All outside decoders on the real pair too; theirs need not be our answers, ours must."""
    out, table_out = tmp_path / "out.json", tmp_path / "out.csv"
    methods = ("ar", "hf-generate", "hf-prompt-lookup", "llama-cpp", "plain", "diffuspec")
    done = diffuspec(
        "bench",
        "--questions",
        questions,
        "--methods",
        ",".join(methods),
        "--limit",
        2,
        "--max-new-tokens",
        8,
        "--set",
        "k=3",
        "--json",
        out,
        "--csv",
        table_out,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    rows = document["rows"]
    assert document["complete"] is True and document["settings"]["k"] == 3
    fields = (
        "method category questions accepted_per_step tokens_per_step tokens_per_second speedup identical "
        "draft_ms search_ms verify_ms"
    )
    assert set(rows[0]) >= set(fields.split())
    table = {(row["method"], row["category"]): row for row in rows}
    assert set(table) == {(method, category) for method in methods for category in ("mt", "qa", "mean")}
    assert all(row["identical"] == 1 for row in rows if row["method"] in ("ar", "plain", "diffuspec"))
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert table["ar", "mean"]["speedup"] == 1 and table["ar", "mean"]["tokens_per_step"] == 1
    assert table["llama-cpp", "mean"]["tokens_per_step"] == 1
    assert table["plain", "mean"]["draft_ms"] > 0
    assert table["diffuspec", "mean"]["tokens_per_step"] > table["diffuspec", "mean"]["accepted_per_step"] >= 0
    assert len(table_out.read_text().splitlines()) == len(rows) + 1
    assert done.stdout.startswith("method") and "2 of 2" in done.stdout


def test_bench_killed_at_any_moment_goes_on(tmp_path, questions):
    out = tmp_path / "out.json"
    state = tmp_path / "out.json.state.jsonl"
    arguments = [
        "bench",
        "--questions",
        str(questions),
        "--methods",
        "ar,plain",
        "--max-new-tokens",
        "6",
        "--json",
        str(out),
    ]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (state.exists() and state.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = state.read_bytes()
    finished = before[: before.rfind(b"\n") + 1]
    done = diffuspec(*arguments)
    assert done.returncode == 0, done.stderr
    assert state.read_bytes().startswith(finished) and state.read_bytes().count(b"\n") == 4
    assert all(row["questions"] == 3 for row in json.loads(out.read_text())["rows"] if row["category"] == "mean")
    changed = diffuspec(*arguments, "--beam", 5)
    assert changed.returncode == 1 and "beam was 3, now it is 5" in changed.stderr and "--restart" in changed.stderr
    assert state.read_bytes().count(b"\n") == 4


def test_study_prints_its_table_with_the_papers_values(tmp_path, questions):
    done = diffuspec(
        "study",
        "sweep",
        "--values",
        "beam=1",
        "--questions",
        questions,
        "--limit",
        1,
        "--max-new-tokens",
        4,
        "--csv",
        tmp_path / "out.csv",
    )
    assert done.returncode == 0, done.stderr
    assert "speed-up, paper" in done.stdout and "B: speed-up from" in done.stdout
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_train_ngram_and_pack_make_what_ships(tmp_path):
    turns = tmp_path / "turns.jsonl"
    turns.write_text("\n".join(json.dumps({"r": [10, 11, 12, 11, 12, 2]}) for _ in range(3)))
    assert diffuspec("train", "ngram", "--answers", turns, "--out", tmp_path / "n.npz").returncode == 0
    assert (tmp_path / "n.npz").stat().st_size < 2**20
    done = diffuspec("train", "ngram", "--answers", "README.md", "--out", tmp_path / "m.npz")
    assert done.returncode == 1 and "not a file of turns" in done.stderr
    done = diffuspec("train", "pack", tmp_path / "nowhere", "--out", tmp_path / "p")
    assert done.returncode == 1 and "Cannot pack" in done.stderr


@pytest.fixture(scope="module")
def tiny_arguments(tiny_folder):
    return (
        "--target",
        tiny_folder,
        "--drafter",
        tiny_folder,
        "--mask-token",
        "<mask>",
        "--shifted",
        "--set",
        "proxy=context",
        "--preset",
        "default",
        "--max-new-tokens",
        12,
    )


def test_a_narrow_console_loses_nothing(tiny_arguments, tmp_path):
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii"}
    file = tmp_path / "run.jsonl"
    done = diffuspec("run", "Hello ⚙", *tiny_arguments, "--trace", file, "--json", env=narrow)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == Trace.load(file).text
    assert diffuspec("run", "Hello ⚙", *tiny_arguments, env=narrow).returncode == 0
    assert diffuspec("replay", file, env=narrow).returncode == 0


@pytest.mark.parametrize("close", ["stdout", "stderr"])
def test_a_closed_pipe_loses_nothing(tiny_arguments, tmp_path, close):
    file = tmp_path / "run.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "run", "Hello", *map(str, tiny_arguments), "--trace", str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    getattr(process, close).close()
    said = (process.stderr if close == "stdout" else process.stdout).read()
    assert process.wait(120) == (1 if close == "stdout" else 0)
    assert b"Traceback" not in said and b"Exception ignored" not in said
    assert Trace.load(file).new_tokens > 0


def test_a_full_output_is_one_sentence(tiny_arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "replay", "assets/traces/padding.jsonl.gz"],
            cwd=ROOT,
            text=True,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert done.stderr == "diffuspec: Cannot write or read the output: No space left on device.\n"


def test_what_is_no_text_on_standard_input_is_one_sentence():
    done = subprocess.run([*COMMAND, "run", "-"], cwd=ROOT, input=b"caf\xe9", capture_output=True)
    assert done.returncode == 1 and done.stderr.startswith(b"diffuspec: Standard input is not UTF-8")
    assert done.stderr.count(b"\n") == 1


def test_the_line_break_of_a_piped_prompt_is_no_part_of_it(tiny_arguments, tmp_path):
    file = tmp_path / "run.jsonl"
    done = subprocess.run(
        [*COMMAND, "run", "-", *map(str, tiny_arguments), "--trace", str(file)],
        cwd=ROOT,
        input="Hello\n",
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0 and Trace.load(file).prompt == "Hello"


def test_quiet_prints_the_answer_alone(tiny_arguments):
    done = diffuspec("run", "Hello", *tiny_arguments, "--quiet", "--no-compare")
    assert done.returncode == 0 and done.stderr == "" and done.stdout


def test_replay_writes_a_page_and_obeys_no_control_codes(tmp_path):
    trace = Trace.load(ROOT / "assets/traces/padding.jsonl.gz")
    dataclasses.replace(trace, stop_reason="\x1b[2Jgone").save(tmp_path / "evil.jsonl")
    done = diffuspec("replay", tmp_path / "evil.jsonl")
    assert "\x1b" not in done.stdout and "\\x1b[2Jgone" in done.stdout
    assert diffuspec("replay", tmp_path / "evil.jsonl", "--html", tmp_path / "page.html").returncode == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_pair_without_a_name_lists_the_pairs():
    done = diffuspec("run", "--pair")
    assert done.returncode == 0 and "dream-qwen2.5-32b" in done.stdout and done.stdout.startswith("embedded")


def test_presets_are_the_methods_of_those_names():
    arguments = _parser().parse_args(["run", "x"])
    assert chosen_settings(arguments) == Settings(**PRESETS["fastest"].changes)
    assert chosen_settings(_parser().parse_args(["run", "x", "--preset", "paper"])) == Settings.paper()
    assert chosen_settings(_parser().parse_args(["run", "x", "--preset", "plain", "--k", "3"])).k == 3
    assert chosen_settings(_parser().parse_args(["bench"])) == Settings()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pair", "nope"], "Unknown pair 'nope'. Known pairs: embedded, coder"),
        (["--target", "some/model"], "both a target and a drafter"),
        (["--pair", "coder", "--target", "x", "--drafter", "y"], "either the name of a pair"),
        (["--target", "x.gguf", "--shifted"], "no drafter to be read"),
        (["--host", "0.0.0.0", "--offer", "nope"], "Unknown pair 'nope'"),
    ],
)
def test_the_app_refuses_what_is_no_pair_before_it_serves(words, said):
    done = diffuspec("app", "--no-browser", *words)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
