"""What a run loses to being watched: `python -m tests.load.streaming [--rounds 8] [--tokens 256] [--page]`.

The same run of the embedded pair, in turn: by the engine alone; followed by a visitor in another process, who hears
all that a page hears and draws nothing; with --page, in Chromium on this machine, which draws it on the same cores.
Prints the median tokens a second of each, and their ratios to the engine alone, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Tell me a long story about a lighthouse keeper and the sea."


@contextmanager
def served(pair) -> Iterator[str]:
    """The address of a playground on these models, in this process."""
    from diffuspec.ui.page import build, launch_options
    from diffuspec.ui.shell.host import Host

    host = Host(load=lambda dtype, progress: pair)
    host.warm_up().result()
    demo = build(host)
    demo.launch(quiet=True, prevent_thread_lock=True, inbrowser=False, **launch_options())
    try:
        yield demo.local_url
    finally:
        demo.close(verbose=False)


@contextmanager
def listener(url: str, tokens: int) -> Iterator[Callable[[], float]]:
    """A visitor in another process; each call is one run, and gives its tokens a second."""
    command = [sys.executable, "-m", "tests.load.streaming", "--listen", url, "--tokens", str(tokens)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:

        def run() -> float:
            child.stdin.write("run\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        yield run
        child.stdin.close()


def listen(url: str, tokens: int) -> None:
    from tests.load.visitors import Visitor

    visitor = Visitor(url, 0)
    visitor.load()
    for _ in sys.stdin:
        visitor.run(PROMPT, tokens)
        print(visitor.payload["merits"]["tokens_per_second"], flush=True)
    visitor.leave()


@contextmanager
def page(url: str, tokens: int) -> Iterator[Callable[[], float]]:
    """The same in Chromium."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.goto(url)
        opened.locator("#prompt textarea").fill(PROMPT)
        opened.locator("#compare input").uncheck()
        number = opened.get_by_label("number input for Max tokens")
        number.fill(str(tokens))
        number.press("Enter")

        def run() -> float:
            opened.locator("#run").click()
            expect(opened.locator("#run")).to_be_disabled()
            expect(opened.locator("#run")).to_be_enabled(timeout=60_000)
            opened.wait_for_timeout(1500)  # until all is drawn
            return float(opened.locator("[data-merit=rate] .ds-figure").inner_text())

        yield run
        browser.close()


def measure(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median tokens a second of each way, taken in turn; a first round only warms up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            rate = run()
            if number:
                taken[name].append(rate)
    return {name: statistics.median(rates) for name, rates in taken.items()}


def alone(pair, tokens: int) -> Callable[[], float]:
    from diffuspec import DiffuSpec, Settings

    return lambda: DiffuSpec(pair, Settings(max_new_tokens=tokens)).run(PROMPT).tokens_per_second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--page", action="store_true", help="in Chromium too")
    args = parser.parse_args()
    if args.listen:
        listen(args.listen, args.tokens)
        return 0
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from diffuspec import load_pair

    pair = load_pair("embedded")
    with served(pair) as url, listener(url, args.tokens) as streamed:
        ways = {"alone": alone(pair, args.tokens), "streamed": streamed}
        if args.page:
            with page(url, args.tokens) as drawn:
                rates = measure({**ways, "page": drawn}, args.rounds)
        else:
            rates = measure(ways, args.rounds)
    told = {"tokens": args.tokens, "tokens_per_second": rates}
    told["ratio"] = {name: round(rate / rates["alone"], 3) for name, rate in rates.items()}
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
