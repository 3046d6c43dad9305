"""The command line: `python -m diffuspec app | run | replay | record | bench | study | diagnose | train`.

Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 an error the message
explains, 2 wrong usage, 130 interrupted (what was made until then is printed and saved).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import diffuspec
from diffuspec import codec
from diffuspec.cli import app
from diffuspec.cli.interrupt import interruptible
from diffuspec.cli.options import (
    INTERRUPTED,
    Parser,
    Progress,
    add_pair,
    add_settings,
    check_outputs,
    chosen_settings,
    open_pair,
    read_prompt,
    say,
)
from diffuspec.cli.train import add_stages
from diffuspec.errors import DiffuSpecError, ServerError, TraceError
from diffuspec.plaintext import on_terminal, visible
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.ui.player.text import token_label
from diffuspec.ui.player.why import of_trace, words


def main(argv: Sequence[str] | None = None) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a narrow console cannot show must not end a run
    try:
        arguments = _parser().parse_args(argv)
        status = arguments.command(arguments) or 0
        sys.stdout.flush()
        return status
    except DiffuSpecError as error:
        say(f"diffuspec: {error}")
        return 1
    except KeyboardInterrupt:
        say("diffuspec: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _leave_stdout()
        return 1
    except OSError as error:
        _leave_stdout()
        where = error.filename or "the output"
        say(f"diffuspec: Cannot write or read {where}: {error.strerror or error}.")
        return 1


def _leave_stdout() -> None:
    """What is still to be written has nowhere to go: Python would try again at its end, and complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="diffuspec", description="Speculative decoding with a diffusion drafter.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"diffuspec {diffuspec.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    playground = commands.add_parser("app", help="open the playground in a browser", allow_abbrev=False)
    app.add_options(playground)

    run = commands.add_parser("run", help="answer one prompt and measure it against plain decoding", allow_abbrev=False)
    run.add_argument("prompt", metavar="PROMPT", help="the user's turn; - reads it from standard input")
    run.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    run.add_argument("--trace", metavar="FILE", type=Path, help="save the trace: .jsonl, or .jsonl.gz to compress")
    run.add_argument("--no-compare", action="store_true", help="do not run plain AR decoding beside it")
    run.add_argument("--quiet", action="store_true", help="neither progress nor figures: the answer alone")
    add_pair(run)
    add_settings(run, preset="fastest")
    run.set_defaults(command=_run)

    replay = commands.add_parser("replay", help="show a saved trace, step by step", allow_abbrev=False)
    replay.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="a trace, a response of vLLM, SGLang, llama.cpp or LM Studio that tells of its speculation, or a folder "
        "of specspecs",
    )
    replay.add_argument(
        "--tokenizer", metavar="ID", help="folder or Hub id of one that spells tokens of which the file tells only ids"
    )
    replay.add_argument("--run", metavar="N", type=int, default=1, help="of several runs in it, from 1 (default: 1)")
    replay.add_argument("--html", metavar="OUT", type=Path, help="write a page that replays it offline, instead")
    replay.set_defaults(command=_replay)

    record = commands.add_parser("record", help="record the gallery of the playground anew", allow_abbrev=False)
    record.add_argument("names", metavar="NAME", nargs="*", help="which of assets/traces/gallery.yaml (default: all)")
    record.add_argument("--into", metavar="FOLDER", type=Path, help="write there instead of into the gallery's folder")
    add_pair(record)
    record.set_defaults(command=_record, quiet=False)

    from diffuspec.cli import diagnose, measure

    measure.add_commands(commands)
    measure.add_check(commands)
    diagnose.add_commands(commands)

    train = commands.add_parser("train", help="make the files in assets/", allow_abbrev=False)
    add_stages(train, Progress)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    settings = chosen_settings(arguments)
    prompt = read_prompt(arguments.prompt)
    check_outputs([arguments.trace], what="the trace to ")
    pair = open_pair(arguments)
    settings = chosen_settings(arguments, pair.settings)
    from diffuspec.engine import DiffuSpec
    from diffuspec.measure.baselines import compare_with_ar

    progress = Progress(arguments.quiet)
    if not pair.drafter.max_block:
        more = ", and what its n-gram adds" if pair.proxy else ""
        progress(None, f"This pair has no diffusion drafter: its drafts are copies of the text so far{more}.")
    engine = DiffuSpec(pair, settings)
    if engine.note:
        progress(None, engine.note)
    run = engine.stream(prompt)
    with interruptible() as interrupted:
        made, failure = 0, None
        run.should_stop = interrupted
        try:
            for step in run:
                made += len(step.emitted)
                progress(made / settings.max_new_tokens, f"step {step.index + 1}: {made} tokens")
                if interrupted():
                    run.stop()
        except ServerError as error:
            if not made:
                raise
            failure = error  # what was made until then is saved and shown
        trace = run.trace
        if not (arguments.no_compare or interrupted() or failure):

            def heard(count: int) -> bool:
                progress(count / trace.new_tokens, f"plain AR: {count} tokens")
                return interrupted()

            try:
                baseline = compare_with_ar(pair, trace, on_token=heard)
                trace = trace if interrupted() else trace.with_baseline(baseline)
            except ServerError as error:
                failure = error
        progress.close()
        if arguments.trace:
            trace.save(arguments.trace)  # before a word is printed: a closed pipe must not cost the run
        if arguments.json:
            # Escapes where the console's encoding is narrow: JSON loses nothing by them.
            wide = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
            print(json.dumps(trace.report(), ensure_ascii=not wide))
        else:
            print(on_terminal(trace.text))
            if not arguments.quiet:
                say(_merits(trace))
        if failure:
            say(f"diffuspec: {failure}")
            return 1
        return INTERRUPTED if interrupted() else 0


def _merits(trace: Trace) -> str:
    stages, origin = trace.stage_ms(), trace.origin
    total, steps = sum(stages.values()) or 1.0, trace.totals.steps
    rate = f", {trace.tokens_per_second:.1f} tokens/s" if trace.wall_s or not origin else ""
    lines = [
        "",
        f"{trace.new_tokens} tokens in {'an untold number of' if steps is None else steps} steps, ended by: "
        f"{visible(trace.stop_reason)}",
        f"tokens/step {trace.tokens_per_step:.2f}, accepted/step {trace.accepted_per_step:.2f}{rate}",
    ]
    if not origin or origin.times == "stages":
        lines.append("time: " + ", ".join(f"{name} {ms / total:.1%}" for name, ms in stages.items()))
    if origin:
        lines.append(visible(origin.sentence))
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
        if account := of_trace(trace):
            lines.append(words(account, advice=trace.settings.length != "throughput"))
    return "\n".join(lines)


def _replay(arguments: argparse.Namespace) -> None:
    if arguments.html:
        check_outputs([arguments.html], [arguments.file])
    trace = Trace.open(arguments.file, arguments.run - 1)
    if arguments.tokenizer:
        from transformers import AutoTokenizer

        from diffuspec.hf.spelling import spelled
        from diffuspec.models.target import told

        with told(f"The tokenizer {arguments.tokenizer}"):
            tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
        trace = spelled(trace, tokenizer)
    if arguments.html:
        from diffuspec.ui.player.export import replay_page

        codec.write(arguments.html, replay_page(trace).encode())
        return

    def show(tokens: Sequence[int]) -> str:
        raw = (trace.piece(token) or token_label(trace, token).encode() for token in tokens)
        return b"".join(raw).decode("utf-8", "replace")

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
