"""The commands that measure: `python -m diffuspec bench | study | race`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffuspec import codec
from diffuspec.cli.interrupt import interruptible
from diffuspec.cli.options import (
    INTERRUPTED,
    Progress,
    Stderr,
    add_pair,
    add_settings,
    check_outputs,
    chosen_settings,
    open_pair,
    positive,
)
from diffuspec.errors import SettingsError
from diffuspec.measure.methods import METHODS, never, parse_methods
from diffuspec.measure.questions import BUNDLED, read_questions
from diffuspec.measure.studies import STUDIES, Study, StudyResult
from diffuspec.measure.studies.methods import comparison
from diffuspec.measure.studies.sweep import sweep


def add_commands(commands) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure methods by Spec-Bench's protocol",
        allow_abbrev=False,
        description="Measures methods side by side by Spec-Bench's protocol, question by question in turn. "
        "Methods: " + "; ".join(f"{m.name}: {m.about}" for m in METHODS.values()) + ".",
    )
    bench.add_argument(
        "--methods",
        default="ar,ar-again,plain,diffuspec",
        help=f"comma-separated: {', '.join(METHODS)} (default: %(default)s)",
    )
    _add_measuring(bench)
    bench.set_defaults(command=lambda arguments: _measure(comparison(parse_methods(arguments.methods)), arguments))

    study = commands.add_parser(
        "study",
        help="a table or figure of the paper on this machine, the paper's values beside it",
        allow_abbrev=False,
        description="; ".join(f"{s.name}: {s.title} ({s.source or 'not in the paper'})" for s in STUDIES.values()),
    )
    study.add_argument("study", choices=list(STUDIES), metavar="STUDY", help=", ".join(STUDIES))
    study.add_argument(
        "--values",
        action="append",
        metavar="NAME=V1,V2,...",
        default=[],
        help="for sweep: a setting and its values, repeatable, search and length as set (default: "
        "the paper's four, for its own method)",
    )
    _add_measuring(study)
    study.set_defaults(command=lambda arguments: _measure(_study(arguments), arguments))

    race = commands.add_parser(
        "race", help="race methods on one prompt and save it for the playground", allow_abbrev=False
    )
    race.add_argument("prompt", metavar="PROMPT")
    race.add_argument(
        "--methods",
        default="ar,plain,diffuspec,throughput,prompt-lookup,ar-drafter",
        help=f"comma-separated: {', '.join(METHODS)} (default: %(default)s)",
    )
    race.add_argument("--out", metavar="FILE.json", type=Path, required=True)
    add_pair(race)
    add_settings(race)
    race.set_defaults(command=_race, quiet=False)


def add_check(commands) -> None:
    check = commands.add_parser(
        "check-device",
        help="what this GPU, or this CPU, makes of a pair: tests, bits, costs and speeds in one file",
        allow_abbrev=False,
    )
    check.add_argument("--json", metavar="OUT", type=Path, default=Path("diffuspec-device.json"))
    check.add_argument("--minutes", type=float, default=5.0, metavar="M", help="for the methods (default: %(default)g)")
    add_pair(check)
    check.set_defaults(command=_check, quiet=False)


def _check(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.minutes < 24 * 60:
        raise SettingsError("--minutes: give a number above 0.")
    check_outputs([arguments.json])
    pair = open_pair(arguments)
    from diffuspec.measure.device import check_device, save, words

    show = Progress()
    with interruptible() as interrupted:
        found = check_device(pair, arguments.minutes, lambda text: show(None, text), interrupted)
        show.close()
        save(found, arguments.json)
        print(words(found))
        return INTERRUPTED if interrupted() else 0


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--questions",
        metavar="FILE.jsonl",
        type=Path,
        default=BUNDLED,
        help="in Spec-Bench's format (default: a few of our own)",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N questions")
    parser.add_argument("--stride", type=positive, metavar="N", default=1, help="only every Nth question")
    parser.add_argument(
        "--json",
        metavar="OUT",
        type=Path,
        help="write rows, settings and remark to this file; the same command goes on where an "
        "interrupted one stopped, by OUT.state.jsonl",
    )
    parser.add_argument("--csv", metavar="OUT", type=Path, help="write the rows to this file")
    parser.add_argument("--restart", action="store_true", help="measure anew what was measured before")
    add_pair(parser)
    add_settings(parser)
    parser.set_defaults(quiet=False)


def _study(arguments: argparse.Namespace) -> Study:
    if not arguments.values:
        return STUDIES[arguments.study]
    if arguments.study != "sweep":
        raise SettingsError("--values belongs to the study sweep.")
    grid = {}
    for assignment in arguments.values:
        name, equals, values = assignment.partition("=")
        if not equals or not values:
            raise SettingsError(f"--values {assignment}: write it as NAME=V1,V2, for example --values beam=1,3,5.")
        grid[name.strip().lower()] = [value.strip() for value in values.split(",")]
    return sweep(grid, "as-set")


def _measure(study: Study, arguments: argparse.Namespace) -> int:
    settings = chosen_settings(arguments)
    questions = read_questions(arguments.questions).chosen(arguments.stride, arguments.limit)
    outputs = [out for out in (arguments.json, arguments.csv) if out]
    kept = next((out for out in outputs if codec.is_file_or_new(out)), None)  # a device or a pipe keeps nothing
    state = kept.with_name(kept.name + ".state.jsonl") if kept else None
    check_outputs([*outputs, state], [arguments.questions])
    if state and arguments.restart:
        state.unlink(missing_ok=True)
    pair = open_pair(arguments)
    settings = chosen_settings(arguments, pair.settings)

    from tqdm import tqdm

    from diffuspec.measure.studies import stream_study
    from diffuspec.measure.tables import report

    result: StudyResult | None = None
    with interruptible() as interrupted:
        with tqdm(unit="answer", file=Stderr(), mininterval=0.2 if sys.stderr.isatty() else 10) as bar:
            for result in stream_study(study, pair, settings, questions, state=state, should_stop=interrupted):
                bar.total = result.total
                bar.set_postfix_str(result.now, refresh=False)
                bar.update(result.done - bar.n)
        if result is None:
            return INTERRUPTED
        for out in outputs:
            result.save(out)
        if result.rows:
            print(report(result))
        return INTERRUPTED if interrupted() else 0


def _race(arguments: argparse.Namespace) -> None:
    check_outputs([arguments.out])
    chosen_settings(arguments)  # a bad one is told at once
    names = parse_methods(arguments.methods)
    pair = open_pair(arguments)
    settings = chosen_settings(arguments, pair.settings).replace(temperature=0)
    from diffuspec.measure.race import finish, pass_costs, run_lane
    from diffuspec.provenance import provenance

    ids = pair.encode(arguments.prompt)
    lanes = []
    for name in names:
        lane = run_lane(name, METHODS[name].start(pair, settings, ids, never), lambda made: None, never)
        print(f"{METHODS[name].label}: {len(lane.token_ids)} tokens, {lane.tokens_per_second:.1f} tokens/s")
        lanes.append(lane)
    finish(pair, arguments.prompt, settings, lanes, pass_costs(pair, ids), provenance()).save(arguments.out)
