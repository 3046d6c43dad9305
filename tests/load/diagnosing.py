"""What a diagnosis promises, measured: `python tests/load/diagnosing.py --questions FILE.jsonl`, on an idle machine.

Plain decoding against itself, twenty times: how often the interval holds 1. Then one diagnosis: whether it ended within
its minutes, which share of the gap to an oracle drafter has a name, how many predictions lie within what was
measured, and the calibration of tree nodes on held-out answers.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffuspec import load_pair  # noqa: E402
from diffuspec.measure.bench import measure  # noqa: E402
from diffuspec.measure.diagnose.run import in_turns, stream_diagnosis  # noqa: E402
from diffuspec.measure.diagnose.verdict import sentences  # noqa: E402
from diffuspec.measure.methods import Variant  # noqa: E402
from diffuspec.measure.questions import BUNDLED, read_questions  # noqa: E402
from diffuspec.measure.results import AGAIN, YARDSTICK, speedup  # noqa: E402
from diffuspec.settings import PRESETS, Settings  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path, default=BUNDLED)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--asked", type=int, default=12, help="questions of one repetition")
    arguments = parser.parse_args()
    pair, questions = load_pair(), in_turns(read_questions(arguments.questions))
    settings = Settings(**PRESETS["fastest"].changes)

    variants = [Variant(name, "ar", settings.replace(max_new_tokens=48)) for name in (YARDSTICK, AGAIN)]
    held = 0
    for i in range(arguments.repetitions):
        some = questions.questions[i * arguments.asked :][: arguments.asked] or questions.questions[: arguments.asked]
        *_, last = measure(pair, some, variants)
        found = speedup(last.results, AGAIN)
        held += found.holds(1.0)
        print(f"A/A {i + 1}: {found}", flush=True)
    print(f"the interval holds 1 in {held} of {arguments.repetitions}")

    began = time.monotonic()
    *_, last = stream_diagnosis(pair, settings, questions, minutes=arguments.minutes, began=began)
    took, found = time.monotonic() - began, last.result
    print(*sentences(found), sep="\n")
    pulled = [lever for lever in found.levers if lever.held is not None]
    print(f"took {took / 60:.2f} of {arguments.minutes:g} minutes; {found.losses.explained:.1%} of the gap has a name")
    print(f"predictions within what was measured: {sum(lever.held for lever in pulled)} of {len(pulled)}")
    for lever in pulled:
        print(f"  {lever.name}: {lever.predicted} by replay, {lever.measured} measured")
    for one in found.reliability:
        print(f"{one.kind}: ECE {one.ece:.4f}, by chance {one.by_chance:.4f}, recalibrated {one.ece_after:.4f}")


if __name__ == "__main__":
    main()
