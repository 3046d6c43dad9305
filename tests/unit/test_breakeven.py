"""The break-even formula against its source, a simulation, and itself."""

import numpy as np
import pytest

from diffuspec.method.breakeven import (
    acceptance_for,
    acceptance_rate,
    speedup,
    tokens_per_step,
    verify_cost,
)


@pytest.mark.parametrize("acceptance, gamma, cost", [(0.8, 5, 0.02), (0.6, 2, 0.1), (0.95, 10, 0.05)])
def test_a_free_verifier_gives_leviathans_theorem(acceptance, gamma, cost):
    theorem = (1 - acceptance ** (gamma + 1)) / ((1 - acceptance) * (gamma * cost + 1))
    assert speedup(acceptance, gamma * cost, gamma) == pytest.approx(theorem)


def test_tokens_per_step_is_the_mean_of_a_simulation():
    random = np.random.default_rng(3)
    hits = random.random((40_000, 6)) < 0.7
    made = np.cumprod(hits, axis=1).sum(1) + 1
    assert tokens_per_step(0.7, 6) == pytest.approx(made.mean(), abs=0.03)
    refused = int((made < 7).sum())
    assert acceptance_rate(int((made - 1).sum()), refused) == pytest.approx(0.7, abs=0.01)
    assert acceptance_for(float(made.mean()) - 1, 6) == pytest.approx(0.7, abs=0.01)


def test_the_ends_are_exact():
    assert tokens_per_step(0.0, 9) == 1
    assert tokens_per_step(1.0, 9) == 10
    assert acceptance_rate(0, 0) == 0


def test_a_dearer_verifier_or_draft_never_helps():
    curve = ((1, 1.0), (8, 1.4), (32, 2.2))
    assert verify_cost(1, curve) == 1 and verify_cost(8, curve) == 1.4
    assert verify_cost(20, curve) == pytest.approx(1.8)
    assert verify_cost(40, curve) == pytest.approx(2.2 + 8 * 0.8 / 24)
    grid = np.linspace(0, 1, 11)
    assert (speedup(grid, 0.2, 7, curve) < speedup(grid, 0.2, 7)).all()
    assert (np.diff(speedup(0.7, grid, 7, curve)) < 0).all()
    assert (np.diff(speedup(grid, 0.2, 7, curve)) > 0).all()
