"""Prompts about code, from the sources of Python packages and from MBPP's problems: what a coder's drafter learns from.

Each function, class or file gives one prompt: to write it from its docstring, to complete, edit, rename, annotate,
document, test, explain, mend or translate it. Prompts like a question that measures the drafter are left out.
"""

from __future__ import annotations

import ast
import io
import json
import random
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffuspec.errors import DiffuSpecError
from diffuspec.training.overlap import Kept

LINES = 5, 40  # of a function that is asked about
LONGEST = 1800  # characters of it
LANGUAGES = "JavaScript", "TypeScript", "Java", "C", "C++", "Go", "Rust", "Ruby", "C#", "Kotlin"


@dataclass(frozen=True)
class Piece:
    """A function or class of a Python package.

    name, code: of a function or class; doc: its docstring; bare: its code without.
    """

    name: str
    code: str
    doc: str
    bare: str
    is_class: bool


def pieces(path: Path) -> Iterator[Piece]:
    """The functions and small classes of a Python file."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith(("_", "test")):
            continue
        body = lines[node.lineno - 1 : node.end_lineno]
        code = textwrap.dedent("\n".join(body))
        doc = ast.get_docstring(node) or ""
        is_empty = bool(doc) and len(node.body) == 1
        if not LINES[0] <= len(body) <= LINES[1] or len(code) > LONGEST or is_empty:
            continue
        bare = body
        if doc:
            first = node.body[0]
            bare = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        yield Piece(node.name, code, doc, textwrap.dedent("\n".join(bare)), isinstance(node, ast.ClassDef))


def _block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code.strip()}\n```"


def _write(piece: Piece, random: random.Random) -> str | None:
    if len(piece.doc) < 40 or len(piece.doc) > 900:
        return None
    what = "class" if piece.is_class else "function"
    ask = random.choice(
        (
            f"Write a Python {what} `{piece.name}`:",
            f"Implement `{piece.name}` in Python.",
            f"I need a {what} called {piece.name}. This is what it should do:",
            f"Write the {what} {piece.name} for me.",
        )
    )
    return f"{ask}\n\n{piece.doc}"


def _complete(piece: Piece, random: random.Random) -> str | None:
    if piece.is_class or len(piece.doc) < 30 or '"""' not in piece.code:
        return None
    head = piece.code[: piece.code.index('"""')] + '"""' + piece.doc.replace("\n", "\n    ") + '\n    """'
    ask = random.choice(
        (
            "Fill in the body of this function and give all of it back.",
            "Complete this code:",
            "Finish this function.",
            "Implement this Python function; show it whole, in a code block.",
        )
    )
    return f"{ask}\n\n{_block(head)}"


def _continue(piece: Piece, random: random.Random) -> str | None:
    lines = piece.code.splitlines()
    if len(lines) < 10:
        return None
    return f"Continue this code to its end.\n\n{_block(chr(10).join(lines[: len(lines) // 2]))}"


def _edit(*asks: str) -> Callable[[Piece, random.Random], str | None]:
    def make(piece: Piece, random: random.Random) -> str | None:
        return f"{random.choice(asks)}\n\n{_block(piece.bare)}"

    return make


def _broken(piece: Piece, random: random.Random) -> str | None:
    """The piece with one comparison, number or operator changed."""
    swaps = {"<": "<=", ">": ">=", "==": "!=", "+": "-", "-": "+", "and": "or", "0": "1", "1": "0"}
    try:
        found = [t for t in tokenize.generate_tokens(io.StringIO(piece.bare).readline) if t.string in swaps]
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return None
    if not found:
        return None
    token = random.choice(found)
    lines = piece.bare.splitlines()
    line, (_, start), (_, end) = lines[token.start[0] - 1], token.start, token.end
    lines[token.start[0] - 1] = line[:start] + swaps[token.string] + line[end:]
    ask = random.choice(
        (
            "There is a bug in this code. Find and fix it.",
            "Why does this not work? Mend it.",
            "Review this code and correct what is wrong.",
        )
    )
    return f"{ask}\n\n{_block(chr(10).join(lines))}"


def _translate(piece: Piece, random: random.Random) -> str | None:
    language = random.choice(LANGUAGES)
    ask = random.choice((f"Translate this Python code to {language}.", f"How would this look in {language}?"))
    return f"{ask}\n\n{_block(piece.bare)}"


def _shell(piece: Piece, random: random.Random) -> str:
    return random.choice(SHELL).format(**_names(random))


def _sql(piece: Piece, random: random.Random) -> str:
    names = _names(random)
    return f"{random.choice(TABLES)}\n\n{random.choice(SQL)}".format(**names)


# How often each is asked.
KINDS: dict[str, tuple[int, Callable[[Piece, random.Random], str | None]]] = {
    "write": (14, _write),
    "complete": (22, _complete),
    "continue": (6, _continue),
    "rename": (
        7,
        _edit(
            "Give the variables of this code clearer names; leave the rest alone.", "Rename what is badly named here."
        ),
    ),
    "annotate": (8, _edit("Add type annotations to this code.", "Add type hints everywhere in this code.")),
    "document": (8, _edit("Write a docstring for this code.", "Document this code: docstrings and a few comments.")),
    "test": (7, _edit("Write pytest tests for this code.", "Write unit tests for this code.")),
    "explain": (6, _edit("Explain what this code does.", "What does this code do, step by step?")),
    "improve": (
        8,
        _edit(
            "Refactor this code so that it is easier to read.",
            "Make this code faster.",
            "Handle errors in this code: bad arguments must raise ValueError.",
            "Rewrite this code without recursion or loops where that is simpler.",
            "Turn this into a class.",
            "Add logging to this code.",
            "Make this code asynchronous.",
        ),
    ),
    "fix": (6, _broken),
    "translate": (5, _translate),
    "shell": (2, _shell),
    "sql": (3, _sql),
}


def questions(folders: Iterable[Path], mbpp: Path | None, avoid: Iterable[str], seed: int, count: int) -> list[dict]:
    """At most `count` questions in Spec-Bench's format, and what an eighth of them are: MBPP's own problems.

    folders: unpacked Python packages; mbpp: JSON Lines with "text" and "test_list"; avoid: questions that measure.
    """
    draw, kept = random.Random(seed), Kept(avoid)
    found: list[Piece] = []
    for folder in folders:
        of_one = [piece for path in sorted(folder.rglob("*.py")) for piece in pieces(path)]
        draw.shuffle(of_one)
        found += of_one[:3000]
    if not found:
        raise DiffuSpecError("The folders hold no Python functions to ask about.")
    draw.shuffle(found)
    names, weights = list(KINDS), [share for share, _ in KINDS.values()]
    made, seen = [], set()
    for piece in found:
        if len(made) >= count:
            break
        name = draw.choices(names, weights)[0]
        prompt = KINDS[name][1](piece, draw)
        if prompt and prompt not in seen and not kept.out(prompt):
            seen.add(prompt)
            made.append({"category": f"code-{name}", "turns": [prompt]})
    for problem in _problems(mbpp) if mbpp else ():
        prompt = _problem(problem, draw)
        if not kept.out(prompt):
            made.insert(draw.randrange(len(made) + 1), {"category": "code-mbpp", "turns": [prompt]})
    return [{"question_id": i, **row} for i, row in enumerate(made)]


def _problems(path: Path) -> list[dict]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [{"text": str(row["text"]), "test": str(row["test_list"][0])} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DiffuSpecError(f'{path} does not hold MBPP\'s problems, with "text" and "test_list": {error}.') from error


def _problem(problem: dict, random: random.Random) -> str:
    ask = problem["text"].replace("write a", "Write a", 1)
    if random.random() < 0.75:
        return f"{ask} This test has to pass:\n\n{_block(problem['test'])}"
    return ask.replace("a function", "a Python function", 1)


def _names(random: random.Random) -> dict[str, str]:
    first, second, third = random.sample(THINGS, 3)
    return {
        "a": first,
        "b": second,
        "c": third,
        "n": str(random.randrange(2, 60)),
        "ending": random.choice(ENDINGS),
        "year": str(random.randrange(1990, 2026)),
    }


THINGS = (
    "orders customers products invoices employees books authors flights tickets songs albums patients visits "
    "rooms bookings courses students grades sensors readings players matches recipes suppliers payments"
).split()
ENDINGS = "log txt csv json py md jpg pdf tmp html".split()
SHELL = (
    "Write a shell command that deletes all .{ending} files older than {n} days.",
    "Write a bash script that makes a dated backup of the folder {a} and keeps the newest {n}.",
    "How do I count the lines of all .{ending} files under {a} in bash?",
    "Write a one-liner that prints the {n} largest files in {a}.",
    "Write a bash script which renames all .{ending} files in {a} to lower case.",
    "Write a shell pipeline that lists the {n} most frequent words of {a}.{ending}.",
    "Write an awk program that sums the third column of {a}.csv for each value of the first.",
    "How do I replace {a} by {b} in all .{ending} files with sed, keeping a copy?",
    "Write a bash script that waits until {a}.{ending} appears and then runs {b}.sh.",
    "Write a Makefile with the targets {a}, {b} and clean.",
    "Write a Dockerfile for a Flask application called {a} that listens on port 80{n}.",
    "Write a crontab line that runs {a}.sh every {n} minutes.",
)
TABLES = (
    "There are tables {a} (id, name, {b}_id, created) and {b} (id, name, price).",
    "Given the tables {a} (id, name), {b} (id, {a}_id, amount, day) and {c} (id, {b}_id, note):",
    "My database has a table {a} with the columns id, name, kind, amount and year.",
)
SQL = (
    "Write an SQL query for the {n} {a} with the highest total.",
    "Write an SQL query that counts {a} per year.",
    "Create the tables in SQL with keys and indexes.",
    "Write an SQL query that finds {a} that occur more than once.",
    "Write an SQL query for all {a} since {year}, newest first, {n} at a time.",
    "Write an SQL view that shows the average of each kind and how many there are.",
    "Write an SQL statement that deletes {a} without a match in the other table.",
    "Write an SQL query with a window function that ranks {a} within each year.",
)
