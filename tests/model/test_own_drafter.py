"""A drafter of one's own: the example of docs/drafters.md as it stands there, and what breaks the contract."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from diffuspec import DiffuSpec, load_pair
from diffuspec.cli.main import main
from diffuspec.errors import PairError
from diffuspec.measure.baselines import compare_with_ar

PAGE = Path(__file__).parents[2] / "docs" / "drafters.md"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `mine` with the example's code, or with another."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def write(code=None):
        code = code or re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1]
        (tmp_path / "mine.py").write_text(code)
        sys.modules.pop("mine", None)
        return code

    yield write
    sys.modules.pop("mine", None)


def test_the_worked_example_runs_and_is_exact(module, tiny_folder):
    assert len(module().splitlines()) <= 24
    pair = load_pair(target=str(tiny_folder), drafter="mine:Recall")
    assert pair.info.drafter == "mine:Recall" and pair.info.drafter_kind == "custom" and pair.info.max_draft == 12
    words = [20, 30, 40, 50, 20, 30, 40, 50, 20, 30]
    for changes in (dict(search="cps"), dict(search="tree"), dict(search="exact", passes=2), dict(length="failfast")):
        trace = DiffuSpec(pair, pair.settings.replace(**changes)).run(ids=words, max_new_tokens=10)
        assert compare_with_ar(pair, trace).difference is None
    assert trace.steps[0].lattice.raw_draft[:4].tolist() == [40, 50, 20, 30]


def test_the_command_line_takes_it(module, tiny_folder, capsys):
    module()
    assert main(["run", "--target", str(tiny_folder), "--drafter", "mine:Recall", "--max-new-tokens", "4", "hi"]) == 0
    capsys.readouterr()


def test_an_entry_point_names_it(module, tiny_folder, monkeypatch):
    module()
    entry = metadata.EntryPoint("recall", "mine:Recall", "diffuspec.drafters")
    found = metadata.entry_points
    monkeypatch.setattr(
        metadata,
        "entry_points",
        lambda **asked: [entry] if asked == {"group": "diffuspec.drafters", "name": "recall"} else found(**asked),
    )
    assert load_pair(target=str(tiny_folder), drafter="recall").drafter.max_block == 12


OWN = """
import torch
from diffuspec import DiffusionDrafter

class Mine(DiffusionDrafter):
    max_block = 6
    def __init__(self, target, tokenizer):
        pass
    def logits(self, prefix, block, cache):
        return {}
"""


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        (OWN.format("torch.zeros(3, 264)"), "Mine", r"must be a tensor \[2, vocabulary\] here, not \[3, 264\]"),
        (OWN.format("None"), "Mine", "not NoneType"),
        (OWN.format("torch.full((len(block), 264), torch.nan)"), "Mine", "not numbers"),
        (OWN.format("torch.zeros(len(block), 9999)"), "Mine", "vocabulary of 264 lacks"),
        (OWN.format("1 / 0"), "Mine", "failed at its first draft: ZeroDivisionError"),
        (OWN.format("0").replace("= 6", "= 0"), "Mine", "max_block of Mine must be a whole number above 0"),
        ("class Mine: pass", "Mine", "is no DiffusionDrafter"),
        ("", "Mine", "could not be imported: module 'mine' has no attribute 'Mine'"),
        ("import no_such_module_here", "Mine", "could not be imported: No module named 'no_such_module_here'"),
        ("Mine = (", "Mine", "could not be imported"),
    ],
)
def test_what_breaks_the_contract_is_told_in_one_sentence(module, tiny_folder, code, name, said):
    module(code or "\n")
    with pytest.raises(PairError, match=said):
        load_pair(target=str(tiny_folder), drafter=f"mine:{name}")
