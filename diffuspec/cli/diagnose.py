"""`python -m diffuspec diagnose`: is it worth it here? And `compare`, of two such answers."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from diffuspec import codec
from diffuspec.cli.interrupt import interruptible
from diffuspec.cli.options import (
    INTERRUPTED,
    Progress,
    add_pair,
    add_settings,
    check_outputs,
    chosen_settings,
    open_pair,
)
from diffuspec.errors import ResultsError
from diffuspec.measure.questions import BUNDLED, read_questions

LEAST_MINUTES, MOST_MINUTES = 0.2, 24 * 60
SHOWN_EVERY = 0.05  # of the time, where nobody watches


def add_commands(commands) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="is it worth it here: what this machine and pair reach, where the losses are, what would change it",
        allow_abbrev=False,
        description="Measures this machine, this pair and these settings against plain decoding for some minutes, and "
        "says in a few sentences with numbers whether speculation pays here, where the time goes and which settings "
        "would gain.",
    )
    diagnose.add_argument(
        "--questions",
        metavar="FILE.jsonl",
        type=Path,
        default=BUNDLED,
        help="what you ask it, in Spec-Bench's format (default: a few of our own)",
    )
    diagnose.add_argument(
        "--minutes", type=_minutes, default=5.0, metavar="M", help="the whole may take, models included (default: 5)"
    )
    diagnose.add_argument("--json", metavar="OUT", type=Path, help="write all that was measured to this file")
    diagnose.add_argument("--html", metavar="OUT", type=Path, help="write a report with pictures, one page by itself")
    diagnose.add_argument(
        "--fit-calibration",
        metavar="OUT",
        type=Path,
        help="write what mends the drafter's and the tree's probabilities, for --calibration",
    )
    diagnose.add_argument("--quiet", action="store_true", help="no progress: the verdict alone")
    add_pair(diagnose)
    add_settings(diagnose, preset="fastest")
    diagnose.set_defaults(command=_diagnose)

    compare = commands.add_parser(
        "compare",
        help="two diagnoses side by side: of two machines, versions, drafters or settings",
        allow_abbrev=False,
    )
    compare.add_argument("first", metavar="A.json", type=Path)
    compare.add_argument("second", metavar="B.json", type=Path)
    compare.set_defaults(command=_compare)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes from {LEAST_MINUTES} to {MOST_MINUTES}")
    return minutes


def _diagnose(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    chosen_settings(arguments)  # a bad one is told at once
    questions = read_questions(arguments.questions)
    check_outputs([arguments.json, arguments.html, arguments.fit_calibration], [arguments.questions])
    pair = open_pair(arguments)
    settings = chosen_settings(arguments, pair.settings)
    from diffuspec.measure.diagnose.run import stream_diagnosis
    from diffuspec.measure.diagnose.verdict import sentences

    progress, result, shown = Progress(arguments.quiet), None, -1.0
    with interruptible() as interrupted:
        try:
            for at in stream_diagnosis(
                pair, settings, questions, minutes=arguments.minutes, began=began, should_stop=interrupted
            ):
                if sys.stderr.isatty() or at.fraction >= shown + SHOWN_EVERY:  # a log needs no line an answer
                    progress(at.fraction, at.said)
                    shown = at.fraction
                result = at.result
        finally:
            progress.close()
    if result is None:
        return INTERRUPTED
    if arguments.json:
        result.save(arguments.json)
    if arguments.html:
        from diffuspec.ui.diagnose.report import page

        _write(arguments.html, page(result).encode(), "report")
    print("\n".join([*sentences(result), *result.notes]))
    if arguments.fit_calibration:
        _write(arguments.fit_calibration, result.calibration and result.calibration.to_json(), "calibration")
    return 0


def _write(path: Path, data: bytes | None, what: str) -> None:
    if data is None:
        raise ResultsError("There were too few answers to fit a calibration on: give more minutes.")
    try:
        codec.write(path, data)
    except OSError as error:
        raise ResultsError(f"Cannot write the {what} to {path}: {error.strerror or error}.") from error


def _compare(arguments: argparse.Namespace) -> None:
    from diffuspec.measure.diagnose.diagnosis import Diagnosis
    from diffuspec.measure.diagnose.verdict import compare

    first, second = Diagnosis.load(arguments.first), Diagnosis.load(arguments.second)
    names = arguments.first.stem, arguments.second.stem
    if names[0] == names[1]:
        names = str(arguments.first), str(arguments.second)
    print(compare(first, second, names))
