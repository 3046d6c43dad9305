"""The command line: `python -m diffuspec run | replay | record | bench | study | train`.

Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 an error the message
explains, 2 wrong usage, 130 interrupted (what was made until then is printed and saved).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from diffuspec.cli.interrupt import interruptible
from diffuspec.cli.train import add_stages
from diffuspec.errors import DiffuSpecError, PromptError, SettingsError, TraceError
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except DiffuSpecError as error:
        print(f"diffuspec: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("diffuspec: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffuspec", description="Speculative decoding with a diffusion drafter.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="answer one prompt and measure it against plain decoding", allow_abbrev=False)
    run.add_argument("prompt", metavar="PROMPT", help="the user's turn; - reads it from standard input")
    run.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    run.add_argument("--trace", metavar="FILE", type=Path, help="save the trace: .jsonl, or .jsonl.gz to compress")
    run.add_argument("--no-compare", action="store_true", help="do not run plain AR decoding beside it")
    add_pair(run)
    add_settings(run)
    run.set_defaults(command=_run)

    replay = commands.add_parser("replay", help="show a saved trace, step by step", allow_abbrev=False)
    replay.add_argument("file", metavar="FILE", type=Path)
    replay.set_defaults(command=_replay)

    record = commands.add_parser("record", help="record the gallery of the playground anew", allow_abbrev=False)
    record.add_argument("names", metavar="NAME", nargs="*", help="which of assets/traces/gallery.yaml (default: all)")
    record.add_argument("--into", metavar="FOLDER", type=Path, help="write there instead of into the gallery's folder")
    add_pair(record)
    record.set_defaults(command=_record)

    from diffuspec.cli.measure import add_commands

    add_commands(commands)

    train = commands.add_parser("train", help="make the files in assets/", allow_abbrev=False)
    add_stages(train, _Progress)
    return parser


def add_pair(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument("--pair", metavar="NAME", help="a known pair, such as embedded (the default) or coder")
    group.add_argument("--target", metavar="MODEL", help="folder or Hub id of any causal LM, with --drafter; or a "
                       "Llama's or Qwen's FILE.gguf, without: drafts are then copies of the text")  # fmt: skip
    group.add_argument("--drafter", metavar="MODEL", help="folder or Hub id of a diffusion LM with the same token ids")
    group.add_argument("--mask-token", metavar="ID", help="the drafter's mask, an id or its text, if it is not known")
    group.add_argument(
        "--attention", choices=("full", "block-causal", "causal-prefix"), default="full", help="the drafter's attention"
    )
    group.add_argument("--shifted", action="store_true", help="the drafter reads position p from output row p - 1")
    group.add_argument("--dtype", choices=("int8", "float32", "bfloat16"),
                       help="float32 keeps the output identical to plain decoding and is the default on a CPU; "
                            "bfloat16 is faster and may differ where logits tie")  # fmt: skip
    group.add_argument("--device", metavar="D", help="cpu or cuda (default: the best here)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], dest="assignments",
                        help="any setting by name, repeatable; the named flags below do the same")  # fmt: skip
    group = parser.add_argument_group("settings")
    for name, knob in Settings.knobs().items():
        symbol = f"{knob.symbol}: " if knob.symbol else ""
        bounds = "" if knob.choices else f", {knob.low:g} to {knob.high:g}"
        group.add_argument(
            "--" + name.replace("_", "-"), metavar="|".join(knob.choices) or name.upper(), dest=f"knob_{name}",
            help=f"{symbol}{knob.meaning} (default {knob.default}{bounds})".replace("%", "%%"),
        )  # fmt: skip


def chosen_settings(arguments: argparse.Namespace, usual: Settings | None = None) -> Settings:
    """usual: what is not said; by default `Settings()`."""
    changes = {}
    for assignment in arguments.assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"--set {assignment}: write it as NAME=VALUE, for example --set k=8.")
        changes[name.strip()] = value.strip()
    for name in Settings.knobs():
        value = getattr(arguments, f"knob_{name}")
        if value is not None:
            changes[name] = value
    return (usual or Settings()).replace(**changes)


def open_pair(arguments: argparse.Namespace):
    show = _Progress()
    show(0.0, "Starting")
    from transformers.utils import logging

    from diffuspec.models.drafter import Convention
    from diffuspec.models.pair import load_pair

    logging.disable_progress_bar()
    convention = None
    if arguments.mask_token is not None:
        mask = arguments.mask_token
        convention = Convention(int(mask) if mask.isdigit() else mask, arguments.attention, arguments.shifted)
    try:
        return load_pair(
            arguments.pair, target=arguments.target, drafter=arguments.drafter, convention=convention,
            dtype=arguments.dtype, device=arguments.device, progress=show,
        )  # fmt: skip
    finally:
        show.close()


class _Progress:
    """One line on a terminal that rewrites itself; plain lines where stderr is not a terminal."""

    def __init__(self):
        self._shown = False

    def __call__(self, fraction: float | None, message: str) -> None:
        percent = "" if fraction is None else f"{fraction:4.0%} "
        if sys.stderr.isatty():
            print(f"\r\x1b[K{percent}{message}", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def _run(arguments: argparse.Namespace) -> int:
    settings = chosen_settings(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not prompt.strip():
        raise PromptError("The prompt is empty: type a question.")
    if arguments.trace and not arguments.trace.parent.is_dir():
        raise TraceError(f"Cannot write the trace to {arguments.trace}: there is no such folder.")
    pair = open_pair(arguments)
    settings = chosen_settings(arguments, pair.settings)
    from diffuspec.engine import DiffuSpec
    from diffuspec.measure.baselines import compare_with_ar

    if not pair.drafter.max_block:
        print("This pair has no diffusion drafter: its drafts are copies of the text so far.", file=sys.stderr)
    run = DiffuSpec(pair, settings).stream(prompt)
    progress = _Progress()
    with interruptible() as interrupted:
        made = 0
        for step in run:
            made += len(step.emitted)
            progress(made / settings.max_new_tokens, f"step {step.index + 1}: {made} tokens")
            if interrupted():
                run.stop()
        trace = run.trace
        if not (arguments.no_compare or interrupted()):

            def heard(count: int) -> bool:
                progress(count / trace.new_tokens, f"plain AR: {count} tokens")
                return interrupted()

            baseline = compare_with_ar(pair, trace, on_token=heard)
            trace = trace if interrupted() else trace.with_baseline(baseline)
        progress.close()
        if arguments.json:
            print(json.dumps(trace.report(), ensure_ascii=False))
        else:
            print(trace.text)
            print(_merits(trace), file=sys.stderr)
        if arguments.trace:
            trace.save(arguments.trace)
        return INTERRUPTED if interrupted() else 0


def _merits(trace: Trace) -> str:
    stages = trace.stage_ms()
    total = sum(stages.values()) or 1.0
    lines = [
        "",
        f"{trace.new_tokens} tokens in {len(trace.steps)} steps, ended by: {trace.stop_reason}",
        f"tokens/step {trace.tokens_per_step:.2f}, accepted/step {trace.accepted_per_step:.2f}, "
        f"{trace.tokens_per_second:.1f} tokens/s",
        "time: " + ", ".join(f"{name} {ms / total:.1%}" for name, ms in stages.items()),
    ]
    if trace.baseline:
        ar = f"plain AR {trace.baseline.tokens_per_second:.1f} tokens/s, speed-up {trace.speedup:.2f}"
        difference = trace.baseline.difference
        if trace.identical_to_ar is None:
            verdict = "sampled: same distribution, not the same text"
        elif difference is None:
            verdict = "identical to plain AR"
        else:
            gap = f", logit gap {difference.gap:.3g}" if difference.gap is not None else ""
            verdict = f"differs from plain AR first at token {difference.position + 1}{gap}"
        lines.append(f"{ar}; {verdict}")
    return "\n".join(lines)


def _replay(arguments: argparse.Namespace) -> None:
    trace = Trace.load(arguments.file)
    show = lambda tokens: b"".join(trace.piece(t) for t in tokens).decode("utf-8", "replace")  # noqa: E731
    for step in trace.steps:
        last = step.verification.kind or "end"
        print(
            f"{step.index + 1:4}  k={step.draft_length:<3} accepted {step.accepted}/{len(step.path)}  {last:10} "
            f"{show(step.path)!r} -> {show(step.emitted)!r}"
        )
    print(_merits(trace))


def _record(arguments: argparse.Namespace) -> None:
    from diffuspec.trace.gallery import gallery

    recorded = gallery()
    entries = [recorded.named(name) for name in arguments.names] or list(recorded)
    folder = arguments.into or recorded.folder
    if not folder.is_dir():
        raise TraceError(f"Cannot write traces to {folder}: there is no such folder.")
    pair = open_pair(arguments)
    from diffuspec.engine import DiffuSpec
    from diffuspec.measure.baselines import compare_with_ar

    DiffuSpec(pair, Settings(max_new_tokens=16)).run("Warm up.")
    for entry in entries:
        trace = DiffuSpec(pair, entry.all_settings).run(entry.prompt)
        trace = trace.with_baseline(compare_with_ar(pair, trace))
        path = folder / recorded.path(entry.name).name
        trace.save(path)
        print(f"{path}, {path.stat().st_size / 1024:.0f} KB", _merits(trace), sep="", end="\n\n", flush=True)
