"""Train a drafter on a machine that files reach in small pieces, such as a GPU that is lent for some minutes.

    python -m scripts.train_elsewhere split target.gguf questions.jsonl --out pieces
    (carry `pieces` over, some at a time; there:)
    python -m scripts.train_elsewhere join pieces --out work
    python -m scripts.train_elsewhere run work --target target.gguf --questions questions.jsonl --layers 0,1,9,18,27 \\
        --device cuda --answer-minutes 6 --train-minutes 15 --out back -- --steps 4000 --inner 4096 --vocabulary 16000
    (bring `back` home; here:)
    python -m scripts.train_elsewhere join back --out drafter

Every stage goes on where it was stopped: the same commands again, with more pieces or more minutes, lose nothing. What
comes back is the drafter, packed, and the curve of its training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

PIECE = 60 * 10**6  # bytes
LIST = "pieces.json"


class PiecesError(Exception):
    """Pieces that are missing or damaged."""


def split(files: Iterable[Path], out: Path, size: int = PIECE) -> list[Path]:
    """Cut files into pieces of at most `size` bytes in the folder `out`, with a list of names, sizes and hashes."""
    files = list(files)
    if len({file.name for file in files}) < len(files):
        raise PiecesError("Two of the files have one name: rename one of them.")
    out.mkdir(parents=True, exist_ok=True)
    known, made = {}, []
    for number, file in enumerate(files):
        whole, pieces = hashlib.sha256(), []
        with file.open("rb") as source:
            while (part := source.read(size)) or not pieces:
                whole.update(part)
                piece = out / f"{number:03}-{len(pieces):04}.bin"
                piece.write_bytes(part)
                pieces.append({"name": piece.name, "sha256": hashlib.sha256(part).hexdigest()})
                made.append(piece)
        known[file.name] = {"sha256": whole.hexdigest(), "pieces": pieces}
    (out / LIST).write_text(json.dumps(known, indent=1))
    return [out / LIST, *made]


def join(folder: Path, out: Path) -> list[Path]:
    """Put the files of a folder of pieces together in `out`; those that are there and whole stay.

    Raises `PiecesError`, which names what is missing or damaged, after the files that could be made are made.
    """
    try:
        known = json.loads((folder / LIST).read_text())
    except (OSError, ValueError) as error:
        raise PiecesError(f"{folder} has no list of pieces ({LIST}): carry it over first.") from error
    out.mkdir(parents=True, exist_ok=True)
    made, lacking = [], []
    for name, file in known.items():
        if Path(name).name != name:
            raise PiecesError(f"{name!r} in {folder / LIST} is no file name.")
        target = out / name
        if not (target.is_file() and _sha256(target) == file["sha256"]):
            bad = [p["name"] for p in file["pieces"] if _sha256(folder / Path(p["name"]).name) != p["sha256"]]
            if bad:
                lacking += bad
                continue
            half = target.with_name(f".{name}.half")
            with half.open("wb") as whole:
                for piece in file["pieces"]:
                    with (folder / Path(piece["name"]).name).open("rb") as part:
                        shutil.copyfileobj(part, whole, 2**20)
            half.replace(target)
        made.append(target)
    if lacking:
        raise PiecesError(f"{len(lacking)} pieces are missing or damaged: {', '.join(lacking[:8])} ...")
    return made


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(arguments: argparse.Namespace) -> None:
    """Answer, train, pack and split, each within its minutes; what is done already is not done again."""
    work, target = arguments.work, arguments.work / arguments.target
    shared = ["--target", target, "--device", arguments.device]
    answers = [
        *("synthesise", "--questions", work / arguments.questions, "--out", work / "answers"),
        *("--layers", arguments.layers, "--slots", arguments.slots, *shared),
    ]
    _stage(answers, arguments.answer_minutes)
    drafter = ["drafter", work / "answers", "--layers", arguments.layers, "--out", work / "run", *shared]
    _stage([*drafter, *arguments.recipe], arguments.train_minutes)
    _stage(["pack", work / "run" / "drafter", "--out", work / "packed"], None)
    split([*sorted((work / "packed").iterdir()), work / "run" / "curve.jsonl"], arguments.out)


def _stage(words: Sequence, minutes: float | None) -> None:
    command = [sys.executable, "-m", "diffuspec", "train", *map(str, words)]
    try:
        done = subprocess.run(command, timeout=None if minutes is None else 60 * minutes)
    except subprocess.TimeoutExpired:
        print(f"{words[0]}: its {minutes:g} minutes are over; what it has made is used.", flush=True)
        return
    if done.returncode:
        raise PiecesError(f"The stage {words[0]} failed: see above.")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    cut = commands.add_parser("split", help="cut files into pieces")
    cut.add_argument("files", metavar="FILE", type=Path, nargs="+")
    glue = commands.add_parser("join", help="put the files of a folder of pieces together")
    glue.add_argument("folder", metavar="FOLDER", type=Path)
    there = commands.add_parser("run", help="answer, train and pack; options of `train drafter` behind --")
    there.add_argument("work", metavar="FOLDER", type=Path, help="where `join` put target and questions")
    there.add_argument("--target", metavar="NAME", required=True, help="file or folder in it")
    there.add_argument("--questions", metavar="NAME", required=True, help="prompts in it, in Spec-Bench's format")
    there.add_argument("--layers", metavar="I,J,...", required=True, help="the target's layers the drafter starts from")
    there.add_argument("--slots", metavar="N", type=int, default=128, help="conversations at once (default 128)")
    there.add_argument("--device", metavar="NAME", default="cuda")
    there.add_argument("--answer-minutes", metavar="N", type=float, help="at most (default: until all are answered)")
    there.add_argument("--train-minutes", metavar="N", type=float, help="at most (default: to the last step)")
    for command in (cut, glue, there):
        command.add_argument("--out", metavar="FOLDER", type=Path, required=True)
    words = list(sys.argv[1:] if words is None else words)
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end])
    arguments.recipe = words[end + 1 :]
    try:
        if arguments.command == "split":
            print(f"{len(split(arguments.files, arguments.out))} files in {arguments.out}")
        elif arguments.command == "join":
            print("\n".join(map(str, join(arguments.folder, arguments.out))))
        else:
            run(arguments)
    except (PiecesError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
