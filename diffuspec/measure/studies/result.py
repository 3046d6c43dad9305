"""A study's result: plain values, saved and loaded. Files of it travel, so loading one checks everything."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from diffuspec import codec
from diffuspec.errors import ResultsError, SettingsError
from diffuspec.measure.studies.catalogue import STUDIES
from diffuspec.measure.studies.study import Row
from diffuspec.plaintext import brief, csv_text
from diffuspec.provenance import PairInfo, Provenance
from diffuspec.settings import Settings

FORMAT, VERSION = "diffuspec-results", 1
MAX_BYTES, MAX_ROWS, MAX_TEXT = 8 * 2**20, 5_000, 2_000


@dataclass(frozen=True)
class QuestionsUsed:
    """name, sha256: of the question file; count: how many of its questions were asked."""

    name: str
    sha256: str
    count: int


@dataclass(frozen=True)
class StudyResult:
    """A study, finished or under way. rows have the keys of the study's columns; remark says where and why
    they differ from the paper; done, total: answers; now: what comes next; differences: for each answer that
    was not plain AR's, the variant, question, turn and position (0-based) and the target's logit gap there;
    skipped: questions that could not be asked, or not to their last turn, and why."""

    study: str
    rows: tuple[Row, ...]
    remark: str
    done: int
    total: int
    now: str
    settings: Settings
    pair: PairInfo
    provenance: Provenance
    questions: QuestionsUsed
    differences: tuple[Row, ...]
    skipped: tuple[Row, ...] = ()

    @property
    def complete(self) -> bool:
        return self.done == self.total

    def to_json(self) -> bytes:
        document = {"format": FORMAT, "version": VERSION, **vars(self), "complete": self.complete}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)

    def to_csv(self) -> str:
        """The rows, a line each, under their keys."""
        keys = [column.key for column in STUDIES[self.study].columns]
        return csv_text(keys, ([row[key] for key in keys] for row in self.rows))

    def save(self, path: Path) -> None:
        """Write JSON, or CSV where the name ends in .csv, as a whole or not at all (see `codec.write`)."""
        try:
            codec.write(path, self.to_csv().encode() if path.suffix == ".csv" else self.to_json())
        except OSError as error:
            raise ResultsError(f"Cannot write the results to {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: Path) -> StudyResult:
        """Read a results file; raises `ResultsError` on anything that is not one."""
        try:
            with path.open("rb") as file:
                return cls.loads(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise ResultsError(f"Cannot read {path}: {error.strerror or error}.") from error

    @classmethod
    def loads(cls, data: bytes) -> StudyResult:
        """Parse results from untrusted bytes."""
        if len(data) > MAX_BYTES:
            raise ResultsError(f"This file is larger than the {MAX_BYTES >> 20} MB that results may have.")
        try:
            document = orjson.loads(data)
            if document["format"] != FORMAT:
                raise ValueError
        except (ValueError, KeyError, TypeError, IndexError):
            raise ResultsError("This is not a file of DiffuSpec results.") from None
        if document.get("version") != VERSION:
            raise ResultsError("These results are of another version than this program reads.")
        study = document.get("study")
        if not isinstance(study, str) or study not in STUDIES:
            raise ResultsError("These results are of a study that this program does not know.")
        fields = {f.name: document.get(f.name) for f in dataclasses.fields(cls)}
        fields["skipped"] = fields["skipped"] or []  # younger than the first results
        for name in ("rows", "differences", "skipped"):
            fields[name] = _rows(fields[name], name)
        for column in STUDIES[study].columns:
            if column.bound:  # younger than the first results too
                for row in fields["rows"]:
                    row.setdefault(column.key, None)
        keys = {column.key for column in STUDIES[study].columns}
        if any(row.keys() != keys for row in fields["rows"]):
            raise ResultsError(f"The rows are not those of the study {study}.")
        if any(row.keys() != set(DIFFERENCE) for row in fields["differences"]):
            raise ResultsError("The differences are not those of a study.")
        if any(row.keys() != {"question", "why"} for row in fields["skipped"]):
            raise ResultsError("The questions left out are not those of a study.")
        try:
            fields["settings"] = Settings.from_mapping(fields["settings"])
        except (SettingsError, TypeError, AttributeError) as error:
            raise ResultsError(f"The settings cannot be read: {brief(error)}.") from error
        for name, kind in (
            ("pair", PairInfo),
            ("provenance", Provenance),
            ("questions", QuestionsUsed),
            ("remark", str),
            ("now", str),
            ("done", int),
            ("total", int),
        ):
            fields[name] = _decoded(kind, fields[name], name)
        if not 0 <= fields["done"] <= fields["total"] or len(fields["remark"]) > 20 * MAX_TEXT:
            raise ResultsError("The results contradict themselves.")
        return cls(**fields)


def _decoded(kind: Any, value: Any, where: str) -> Any:
    try:
        return codec.decode(kind, value, where)
    except (ValueError, OverflowError) as error:
        raise ResultsError(f"These results are damaged: {brief(error)}.") from error


DIFFERENCE = ("variant", "question", "turn", "position", "gap")


def _rows(value: Any, where: str) -> tuple[Row, ...]:
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        raise ResultsError(f"{where} is not a list of at most {MAX_ROWS} rows.")
    for row in value:
        if not isinstance(row, dict) or len(row) > 40:
            raise ResultsError(f"{where} holds something other than rows.")
        for key, cell in row.items():
            if isinstance(cell, str) and len(cell) > MAX_TEXT:
                raise ResultsError(f"{where}: {brief(key, 40)} is too long.")
            if not isinstance(cell, str | bool | None):
                _decoded(float, cell, f"{where}: {key[:40]}")
    return tuple(value)
