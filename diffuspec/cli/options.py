"""What several commands share: options of models and settings, files in and out, and progress."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffuspec.errors import DiffuSpecError, PromptError, SettingsError
from diffuspec.method.calibration import Calibration
from diffuspec.models.presets import CODER, EMBEDDED, SERVER_KINDS
from diffuspec.models.presets import PRESETS as PAIRS
from diffuspec.settings import PRESETS, Settings

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Answers wrong usage in two lines: what is wrong, and where help is."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\nHelp: {self.prog} --help\n")


class _Pair(argparse.Action):
    """--pair NAME; without a name it lists the pairs and ends."""

    def __call__(self, parser, namespace, value, option_string=None):
        if value is None:
            print(f"{EMBEDDED:28} comes along: SmolLM2-135M-Instruct and a block drafter (the default)")
            print(f"{CODER:28} a code model that drafts copies of the text so far")
            for name, pair in PAIRS.items():
                print(f"{name:28} {pair.target} and {pair.drafter}: {pair.needs}")
            parser.exit(0)
        namespace.pair = value


def say(text: str, end: str = "\n") -> None:
    """To standard error. Nobody there to read it, or a full disk behind it, is no reason to end a run."""
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        pass


class Stderr:
    """Standard error as a file for progress bars, by `say`."""

    def write(self, text: str) -> int:
        say(text, end="")
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def read_prompt(argument: str) -> str:
    """The prompt, or standard input where it is "-". The line break that ends a piped text is not part of it.

    Raises `PromptError`.
    """
    if argument == "-":
        try:
            argument = sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise PromptError(f"Standard input is not UTF-8 text (byte {error.start + 1}): convert it first.") from None
    if any("\ud800" <= c <= "\udfff" for c in argument):
        raise PromptError("The prompt is not UTF-8 text: convert it first.")
    if not argument.strip():
        raise PromptError("The prompt is empty: type a question.")
    return argument


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None] = (), what: str = "") -> None:
    """Refuse, before any work, to write where nothing can be written, over an input, or two things into one file.

    Raises `DiffuSpecError`.
    """
    known = [path for path in inputs if path]
    for out in filter(None, outputs):
        if not out.parent.is_dir():
            raise DiffuSpecError(f"Cannot write {what}{out}: there is no such folder.")
        if out.is_dir():
            raise DiffuSpecError(f"Cannot write {what}{out}: it is a folder.")
        for other in known:
            device = out.exists() and not out.is_file()
            if not device and os.path.realpath(out) == os.path.realpath(other):
                raise DiffuSpecError(f"Cannot write {what}{out}: it is read or written already. Name another file.")
        known.append(out)


def positive(text: str) -> int:
    """A whole number from 1, as the command line takes it."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def add_pair(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "--pair",
        metavar="NAME",
        nargs="?",
        action=_Pair,
        help="a known pair (default: embedded); without a name, lists them",
    )
    group.add_argument(
        "--target",
        metavar="MODEL",
        help="folder or Hub id of any causal LM, with --drafter; or a "
        "Llama's or Qwen's FILE.gguf, without: drafts are then copies of the text",
    )
    group.add_argument(
        "--target-url",
        metavar="URL",
        help="http://HOST:PORT of a server that is the target; --target then names the model whose tokenizer it has, "
        "where the server does not say so itself; a key comes from the environment variable DIFFUSPEC_API_KEY",
    )
    group.add_argument("--server", choices=SERVER_KINDS, help="what kind of server it is (default: it is asked)")
    group.add_argument(
        "--drafter",
        metavar="MODEL",
        help="folder or Hub id of a diffusion LM with the same token ids, or of a DFlash or DSpark "
        "drafter made for the target, or module:Class, one of your own",
    )
    group.add_argument("--mask-token", metavar="ID", help="the drafter's mask, an id or its text, if it is not known")
    group.add_argument(
        "--attention",
        choices=("full", "block-causal", "causal-prefix"),
        help="the drafter's attention (default: its family's, else full)",
    )
    group.add_argument(
        "--shifted",
        action=argparse.BooleanOptionalAction,
        help="the drafter reads position p from output row p - 1 (default: as its family)",
    )
    group.add_argument(
        "--layout",
        metavar="TYPE",
        help="the known model with the drafter's weight names, such as "
        "qwen2, where transformers does not know the drafter's own type",
    )
    group.add_argument(
        "--ngram",
        metavar="FILE.npz",
        type=Path,
        help="the proxy's 3-gram, made by `train ngram` for this target (default: the pair's own, or none)",
    )
    group.add_argument(
        "--dtype",
        choices=("int8", "float32", "bfloat16"),
        help="int8 and float32 keep the output identical to plain decoding; bfloat16 may differ where "
        "logits tie (default: bfloat16 on a GPU; on a CPU int8 for pairs made for it, else "
        "float32)",
    )
    group.add_argument(
        "--static",
        action=argparse.BooleanOptionalAction,
        help="all passes of the target have one shape, so that bfloat16 is exact as well (default: on a GPU)",
    )
    group.add_argument(
        "--device",
        metavar="D",
        help="cpu, cuda or cuda:1 (default: the best here; a target too large for one GPU is spread over all)",
    )


def add_settings(parser: argparse.ArgumentParser, preset: str = "default") -> None:
    """preset: the one that holds where none is named."""
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default=preset,
        help="what the settings below start from. "
        + "; ".join(f"{name}: {entry.about}" for name, entry in PRESETS.items())
        + " (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="assignments",
        help="any setting by name, repeatable; the named flags below do the same",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        type=Path,
        help="mend the drafter's and the tree's probabilities by what `diagnose --fit-calibration` found",
    )
    group = parser.add_argument_group("settings")
    for name, knob in Settings.knobs().items():
        symbol = f"{knob.symbol}: " if knob.symbol else ""
        bounds = "" if knob.choices else f", {knob.low:g} to {knob.high:g}"
        group.add_argument(
            "--" + name.replace("_", "-"),
            metavar="|".join(knob.choices) or name.upper(),
            dest=f"knob_{name}",
            help=f"{symbol}{knob.meaning} (default {knob.default}{bounds})".replace("%", "%%"),
        )


def chosen_settings(arguments: argparse.Namespace, usual: Settings | None = None) -> Settings:
    """usual: of the pair, what neither preset nor flags say; by default `Settings()`."""
    changes = dict(PRESETS[arguments.preset].changes)
    for assignment in arguments.assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"--set {assignment}: write it as NAME=VALUE, for example --set k=8.")
        changes[name.strip().lower()] = value.strip()
    for name in Settings.knobs():
        value = getattr(arguments, f"knob_{name}")
        if value is not None:
            changes[name] = value
    return (usual or Settings()).replace(**changes)


def asked_pair(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_pair`'s options ask for, as keyword arguments of `load_pair`."""
    mask = arguments.mask_token
    said = {
        "mask_token": int(mask) if mask is not None and mask.isdigit() else mask,
        "attention": arguments.attention,
        "shifted": arguments.shifted,
        "layout": arguments.layout,
    }
    return {
        "name": arguments.pair,
        "target": arguments.target,
        "drafter": arguments.drafter,
        "target_url": arguments.target_url,
        "server": arguments.server,
        "convention": {name: value for name, value in said.items() if value is not None},
        "ngram": arguments.ngram,
        "static": arguments.static,
        "dtype": arguments.dtype,
        "device": arguments.device,
    }


def open_pair(arguments: argparse.Namespace):
    show = Progress(arguments.quiet)
    show(0.0, "Starting")
    from transformers.utils import logging

    from diffuspec.models.pair import load_pair

    logging.disable_progress_bar()
    calibration = getattr(arguments, "calibration", None)
    mended = Calibration.load(calibration) if calibration else None
    try:
        pair = load_pair(**asked_pair(arguments), progress=show)
        return pair.calibrated(mended) if mended else pair
    finally:
        show.close()


class Progress:
    """One line on a terminal that rewrites itself; plain lines where stderr is not a terminal."""

    def __init__(self, quiet: bool = False):
        self._shown, self._quiet = False, quiet

    def __call__(self, fraction: float | None, message: str) -> None:
        if self._quiet:
            return
        percent = "" if fraction is None else f"{fraction:4.0%} "
        if sys.stderr.isatty():
            say(f"\r\x1b[K{percent}{message}", end="")
            self._shown = True
        else:
            say(message)

    def close(self) -> None:
        if self._shown:
            say("\r\x1b[K", end="")
            self._shown = False
