"""Real text out of a distribution's files, prompts built from it, and the check against questions."""

import bz2
import dataclasses
import gzip
import random
import shutil
import struct
from collections import Counter

import numpy as np
import pytest

from diffuspec.training import overlap, text
from diffuspec.training.data import Conversation
from diffuspec.training.prompts import SHARES, Answer, Invent, Prompts, Say

SENTENCES = {
    "en": "The old harbour was closed for repairs, and the ships had to wait outside in the storm. ",
    "de": "Der alte Hafen war wegen einer Reparatur geschlossen, und die Schiffe mussten draußen warten. ",
}


def catalogue(messages: dict[str, str]) -> bytes:
    """A compiled message catalogue (GNU gettext's .mo)."""
    entries = sorted(({"": "Content-Type: text/plain; charset=UTF-8\n"} | messages).items())
    head, n = 28, len(entries)
    at, tables, blob = head + 16 * n, [[], []], b""
    for column in (0, 1):
        for entry in entries:
            raw = entry[column].encode()
            tables[column].append(struct.pack("<II", len(raw), at + len(blob)))
            blob += raw + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, n, head, head + 8 * n, 0, 0) + b"".join(tables[0] + tables[1]) + blob


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    root = tmp_path_factory.mktemp("packages")
    english = SENTENCES["en"].strip()

    def write(path, content):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    manual = (
        f'.TH HARBOUR 7\n.SH NAME\nharbour \\- a place\n.SH DESCRIPTION\n.\\" a comment\n{english}\nThe\n'
        ".B gate\nof it \\fBstays\\fR open at night for everyone.\n.nf\nint main(void) { return 0; }\n"
    )
    write("manuals/usr/share/man/man7/harbour.7.gz", gzip.compress(manual.encode()))
    write("manuals/usr/share/man/de/man7/hafen.7.gz", gzip.compress((".SH NAME\n" + SENTENCES["de"]).encode()))
    write("manuals/usr/share/man/ja/man7/minato.7.gz", gzip.compress(f".PP\n{english}".encode()))
    write(
        "game/locale/de/LC_MESSAGES/game.mo", catalogue({"ship": "Das Schiff verließ den Hafen erst am späten Abend."})
    )
    write("cookies/usr/share/games/fortunes/wise", f"{english} Twice.\n%\nToo short\n%\n" + SENTENCES["en"] + "Once.\n")
    page = f"<html><body><h1>No heading</h1><p>{english} On a page.</p><table><tr><td>1</td></tr></table></body></html>"
    write("book/html/page.html", page)
    write("book/html/broken.html", "<p>" + "x = y + 1; { } [ ] " * 20)
    article = (
        f"{english} {{{{cite|a={{{{b}}}}}}}} It has a [[lamp|light]] and [[Boat]]s.&lt;ref>A. Book&lt;/ref>\n"
        f"[[File:a.png|thumb|A [[lamp]] on the roof of it.]]\n== Harbours ==\n{{| x\n| table\n|}}\n"
    )
    export = f'<mediawiki><page><text bytes="1">{article}</text></page></mediawiki>'
    write("library/data/wiki.xml.bz2", bz2.compress(export.encode()))
    write("library/data/news.cor", f"{english} One document.\n{english} Another document.\n")
    tagged = (
        "Der/ART alte/ADJA Hafen/NN der/ART Stadt/NN bleibt/VVFIN ``/$( noch/ADV ''/$( offen/ADJD ,/$, sagt/VVFIN "
        "sie/PPER ./$.\n"
    )
    write("library/data/tagged-de-news.txt", tagged)
    write("library/data/tagged-nl-news.txt", "De/ART haven/NN blijft/V open/ADJ vannacht/ADV ./$.\n")
    write("library/data/broken.xml.bz2", b"no archive")
    return [root / name for name in ("manuals", "game", "cookies", "book", "library")]


def test_prose_comes_out_and_markup_does_not(packages, tmp_path):
    found = list(text.collect(packages))
    by_language = Counter(p.language for p in found)
    assert by_language == {"en": 7, "de": 3}
    whole = "\n".join(p.text for p in found)
    assert "The gate of it stays open at night for everyone." in whole
    assert "Das Schiff verließ den Hafen" in whole
    for rubbish in ("main(", ".B", "\\f", "heading", "x = y", "Too short", "comment"):
        assert rubbish not in whole
    assert 'Der alte Hafen der Stadt bleibt "noch" offen, sagt sie.' in whole
    assert any(p.text.endswith("It has a light and Boats.") for p in found)
    for rubbish in ("cite", "A. Book", "thumb", "table", "Harbours ==", "haven"):
        assert rubbish not in whole
    assert any(p.text.endswith("One document.") for p in found), "two documents of a corpus are two passages"
    path = tmp_path / "text.jsonl.gz"
    assert text.save(found, path) == len(found) and text.load(path) == found


def test_a_folder_above_the_packages_is_no_language(packages, tmp_path):
    within = tmp_path / "pk" / "fr"
    shutil.copytree(packages[0].parent, within)
    found = [dataclasses.astuple(p) for p in text.collect(within / package.name for package in packages)]
    assert found == [dataclasses.astuple(p) for p in text.collect(packages)]


def passages():
    made = [text.Passage("en", "a", SENTENCES["en"] * n) for n in (2, 8, 12, 30)]
    return made + [text.Passage("de", "a", SENTENCES["de"] * 3)]


def test_a_prompt_is_a_function_of_its_number():
    prompts = Prompts(passages(), seed=3)
    assert [prompts[i] for i in range(200)] == [Prompts(passages(), seed=3)[i] for i in range(200)]
    assert [Prompts(passages(), seed=4)[i] for i in range(9)] != [prompts[i] for i in range(9)]


def test_all_families_come_in_their_shares_and_every_turn_is_answered():
    made = [Prompts(passages(), seed=1)[i] for i in range(2000)]
    counts = Counter(p.family for p in made)
    total = sum(SHARES.values())
    for family, share in SHARES.items():
        assert abs(counts[family] / 2000 - share / total) < 0.04
    for prompt in made:
        assert isinstance(prompt.parts[-1], Answer)
        for part in prompt.parts:
            words = part.text if isinstance(part, Say) else part.start if isinstance(part, Invent) else ""
            assert "{" not in words or "code" in words
    assert any(len(p.parts) > 2 for p in made)
    german = [p for p in made if p.family == "translation" and "Der alte Hafen" in str(p.parts[0])]
    assert german and all("English" in str(p.parts[0]) for p in german)


def test_an_article_goes_on_in_its_source_until_it_is_as_long_as_asked():
    made = [text.Passage("en", source, f"{source}{i} " * 100) for source in "ab" for i in range(4)]
    prompts = Prompts(made, seed=1)
    for seed in range(40):
        words = prompts._article(random.Random(seed), 250).split()
        source, at = words[0][0], int(words[0][1:])
        follows = [f"{source}{i}" for i in range(at, 4)]
        assert words == [name for name in follows for _ in range(100)][:250]


def test_without_text_the_families_that_need_none_remain():
    families = {Prompts([], seed=1)[i].family for i in range(300)}
    assert families == {"qa", "math", "mt"}


def test_a_shared_run_of_words_is_found(tiny):
    tokenizer = tiny.tokenizer()

    def conversation(number, asked, answer):
        head, tail = (tokenizer(t, add_special_tokens=False).input_ids for t in (f"<|im_start|>user\n{asked}", answer))
        ids = np.array(head + tail, np.int32)
        return Conversation(
            number, "qa", ids, np.array([[len(head), len(ids)]], np.int32), np.zeros((0, 8)), np.zeros((0, 8))
        )

    questions = ["Who was the first keeper of the old harbour gate, and when did he retire?"]
    conversations = [
        conversation(0, "Tell me: who was the First keeper of the old harbour gate?", "Nobody knows."),
        conversation(1, "Who kept the gate of the old harbour?", questions[0]),
    ]
    found = list(overlap.shared(conversations, questions, tokenizer, 8))
    assert [c.number for c, _ in found] == [0]
    assert found[0][1] in questions[0].lower()
