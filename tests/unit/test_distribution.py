"""Temperature, top-k and top-p against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from diffuspec.method.sampling import distribution, draw

widths = st.sampled_from([1, 2, 7, 300, 2000])


@given(
    st.integers(0, 2**32 - 1), widths, st.floats(0.1, 2.0), st.integers(0, 40), st.sampled_from([0.05, 0.5, 0.9, 1.0])
)
def test_the_distribution_is_that_of_transformers(seed, width, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).normal(0, 3, width).astype(np.float32)
    p = distribution(logits, temperature, top_k, top_p)
    scores = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None].double())
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    np.testing.assert_allclose(p, scores.softmax(-1)[0].numpy(), rtol=1e-4, atol=1e-9)


def test_of_equals_exactly_k_remain():
    p = distribution(np.zeros(10, np.float32), 1.0, top_k=3)
    np.testing.assert_allclose(p, [1 / 3] * 3 + [0] * 7)
    assert (distribution(np.zeros(1000, np.float32), 1.0, top_p=0.5) > 0).sum() in (500, 501)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1, exclude_max=True))
def test_a_draw_is_the_inverse_of_the_running_sum(seed, u):
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(6)) * (random.random(6) < 0.7) * 3
    if p.any():
        token = draw(p, u)
        assert p[token] > 0
        assert p[:token].sum() / p.sum() <= u + 1e-9 and u - 1e-9 <= p[: token + 1].sum() / p.sum()


@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_unit_interval_fall_on_possible_tokens(u):
    assert draw(np.array([0.0, 0.3, 0.7, 0.0]), u) == (1 if u == 0 else 2)
