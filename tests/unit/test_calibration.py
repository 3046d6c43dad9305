"""Mended probabilities: by hand, in a tree's budget, and as a file."""

import json

import numpy as np
import pytest

from diffuspec.errors import SettingsError
from diffuspec.method.calibration import Calibration
from diffuspec.method.lattice import prune
from diffuspec.method.length import StepCost, ThroughputLength, TreeBudget
from diffuspec.method.proxy import NoProxy
from diffuspec.method.tree import best_first_tree

ENDS = np.array([0.0, 1.0])
HALF = Calibration(np.array([1.0]), ENDS, np.array([0.0, 0.5]))  # nodes are walked to half as often as they say
LOGQ = np.log(np.array([[0.5, 0.3, 0.1], [0.6, 0.2, 0.05]], np.float32))
IDS = np.array([[1, 2, 3], [4, 5, 6]], np.int32)


def test_temperature_one_changes_nothing_and_two_flattens():
    assert Calibration(np.array([1.0]), ENDS, ENDS).tempered(LOGQ) == pytest.approx(LOGQ, abs=1e-6)
    q = np.exp(Calibration(np.array([1.0, 2.0]), ENDS, ENDS).tempered(LOGQ))
    assert q[0] == pytest.approx([0.5, 0.3, 0.1], abs=1e-6)
    roots = np.sqrt([0.6, 0.2, 0.05, 0.15])  # the last is all other tokens
    assert q[1] == pytest.approx(roots[:3] / roots.sum(), rel=1e-5)
    assert Calibration(np.array([2.0]), ENDS, ENDS).tempered(LOGQ[:0]).shape == (0, 3)


def grown(calibration, row_ms=0.1):
    budget = TreeBudget(1.0, [row_ms], calibration)
    lattice = prune(IDS, LOGQ, tau=1.0, m_max=3, stop_ids=())
    tree, _ = best_first_tree(lattice, NoProxy(), [0], nodes=12, lam=1.0, stop_ids=(), budget=budget)
    return tree, budget


@pytest.mark.parametrize("row_ms", [0.02, 0.1, 0.2, 0.4])
def test_a_budget_counts_what_nodes_are_kept_to(row_ms):
    """The tree ends at the first node whose mended probability does not pay."""
    whole, _ = grown(None, 1e-9)
    expected, ms, paid = 1.0, 1.0, 0
    for p in np.exp(whole.score):
        if p / 2 <= expected * row_ms / ms:
            break
        expected, ms, paid = expected + p / 2, ms + row_ms, paid + 1
    tree, budget = grown(HALF, row_ms)
    assert len(tree) == budget.nodes == paid
    assert budget.expected == pytest.approx(expected) and budget.ms == pytest.approx(ms)
    assert tree.score == pytest.approx(whole.score[:paid])
    same, _ = grown(Calibration(np.array([1.0]), ENDS, ENDS), row_ms)
    assert same.ids.tolist() == grown(None, row_ms)[0].ids.tolist()


def test_a_flat_map_ends_where_nothing_pays():
    never = Calibration(np.array([1.0]), ENDS, np.zeros(2))
    assert len(grown(never)[0]) == 0
    always = Calibration(np.array([1.0]), ENDS, np.ones(2))
    assert len(grown(always)[0]) == 12


def test_a_policy_hands_it_to_its_trees():
    cost = StepCost(draft=((1, 1.0), (4, 2.0)), verify=((1, 5.0), (8, 9.0)))
    policy = ThroughputLength(1, 4, cost)
    assert not len(policy.tree_budget().knots[0])
    policy.calibration = HALF
    assert policy.tree_budget().knots[1].tolist() == [0.0, 0.5]


def test_a_file_of_it(tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(HALF.to_json())
    again = Calibration.load(path)
    assert again.digest == HALF.digest and again.kept(0.4) == pytest.approx(0.2)
    document = json.loads(path.read_text())
    for damage in (
        {"format": "x"},
        {"version": 2},
        {"temperatures": []},
        {"temperatures": [0.0]},
        {"temperatures": [None]},
        {"x": [0.0, 0.5]},
        {"y": [0.5, 0.1]},
        {"y": [0.0, 2.0]},
        {"x": [0.0, 0.0, 1.0], "y": [0.0, 0.1, 0.2]},
        {"x": "no"},
    ):
        path.write_text(json.dumps(document | damage))
        with pytest.raises(SettingsError, match="is not a calibration"):
            Calibration.load(path)
    for bad in (b"", b"[]", b"\xff"):
        path.write_bytes(bad)
        with pytest.raises(SettingsError, match="is not a calibration"):
            Calibration.load(path)
    with pytest.raises(SettingsError, match="Cannot read"):
        Calibration.load(tmp_path / "none")
