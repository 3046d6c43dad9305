"""A diagnosis as words, as a report and as numbers of calibration and splits."""

import re

import numpy as np
import pytest

from diffuspec.measure.diagnose.losses import Loss, Losses
from diffuspec.measure.diagnose.reliability import (
    Events,
    auroc,
    brier,
    by_chance,
    ece,
    fit,
    isotonic,
    judged,
)
from diffuspec.measure.diagnose.splits import CODE, language, repetition
from diffuspec.measure.diagnose.verdict import AVOID, TUNE, UNSURE, USE, compare, sentences, verdict
from diffuspec.measure.statistics import Estimate
from diffuspec.ui.diagnose.events import save, save_report
from diffuspec.ui.diagnose.report import body, page
from tests.fakes.diagnosis import fake_diagnosis

NO_LEVERS = {"levers": ()}


@pytest.mark.parametrize(
    "word, found, opens",
    [
        (USE, dict(faster=1.6, **NO_LEVERS), "Use it: these settings are 1.6"),
        (TUNE, dict(faster=1.6, lever=1.2), "Worth it once tuned: as set, it is 1.6"),
        (AVOID, dict(faster=0.7, **NO_LEVERS), "Do not use it here: as set, it is 0.7"),
        (TUNE, dict(faster=0.8, lever=1.5), "Worth it once tuned: as set, it is 0.8"),
        (AVOID, dict(faster=0.5, lever=1.5), "Do not use it here: as set, it is 0.5"),
        (UNSURE, dict(faster=1.01, **NO_LEVERS), "Not sure: the interval holds 1"),
        (UNSURE, dict(faster=1.6, questions=3, lever=1.2), "Not sure: the interval holds 1, or there is none"),
    ],
)
def test_the_verdict(word, found, opens):
    diagnosis = fake_diagnosis(**found)
    assert verdict(diagnosis) == word and sentences(diagnosis)[0].startswith(opens)


def test_sentences_have_their_numbers():
    said = " ".join(sentences(fake_diagnosis(faster=1.6, lever=1.1)))
    assert "Plain decoding takes 4.00 ms a token: 75% of what memory allows here (90 MB of weights at 30.0 GB/s" in said
    assert "a draft of 4 takes 0.50 ms (0.12 plain passes), each of eight rows 0.40 ms more" in said.replace(
        "A d", "a d"
    )
    # 64 tokens in 26 steps; a token takes 2.5 ms, a plain pass 4
    cost = 2.5 * (64 / 26) / 4
    assert f"A step costs {cost:.2f} plain passes, so it pays from {cost:.2f} tokens a step; it gives 2.46." in said
    assert "the drafter does not know the token 50%, rows read and refused 30%, drafting 15%. 95% has a name" in said
    assert (
        "What to change: nodes = 24: 1.10 (1.05 to 1.15) times as fast by replay, 1.10 (1.05 to 1.15) measured" in said
    )
    assert "off by 0.050" in said and "Plain decoding against itself: 1.00" in said


def test_a_machine_whose_arithmetic_binds_is_told_so():
    diagnosis = fake_diagnosis()
    machine = type(diagnosis.machine)(1000.0, 40.0)
    plain = type(diagnosis.plain)(90_000_000, 134_000_000, 3.35, 4.0, 3.9)
    assert "of what arithmetic allows" in " ".join(sentences(fake_diagnosis(machine=machine, plain=plain)))
    unknown = type(diagnosis.plain)(None, None, None, 4.0, 3.9)
    assert "Plain decoding takes 4.00 ms a token." in sentences(fake_diagnosis(plain=unknown))


def test_the_report_is_one_safe_page():
    diagnosis = fake_diagnosis(losses=Losses(2.5, 0.6, 16, (Loss("unknown", 1.9, 9),)))
    text = page(diagnosis)
    assert text.startswith("<!doctype html>") and "default-src 'none'" in text
    assert not re.search(r"<script|https?://|url\(|\son\w+=", text)
    assert "A note &lt;b&gt;on&lt;/b&gt; what was not done." in text and "<b>" not in text
    assert len(text) < 200_000
    assert text.count("<section") == body(diagnosis).count("<section") == 9
    assert "nodes = 24" in text and "--nodes 24" in text


def test_a_diagnosis_without_drafts_or_levers_has_a_report():
    bare = fake_diagnosis(levers=(), reliability=(), cells=(), budgets=(), positions=(), splits=(), notes=())
    assert body(bare).count("<section") == 4


def test_compared_with_itself_nothing_differs():
    said = compare(fake_diagnosis(), fake_diagnosis(faster=2.0))
    assert "made with the same machine" in said
    assert re.search(r"as set, speed-up +1\.60 \(.*\) +2\.0", said) and "ar, tokens/s" in said


def test_calibration_by_hand():
    p = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.9])
    walked = np.array([0, 0, 0, 1, 1, 1.0])
    assert ece(p, walked) == pytest.approx((4 * abs(0.1 - 0.25) + 2 * abs(0.9 - 1)) / 6)
    assert brier(p, walked) == pytest.approx((3 * 0.01 + 0.81 + 2 * 0.01) / 6)
    # of 9 pairs (walked, not): 6 in order, 3 tied
    assert auroc(p, walked) == pytest.approx((6 + 1.5) / 9)
    assert auroc(p, np.ones(6)) is None
    # of 400 events at p = 1/2 the share walked to is off by sqrt(2 / pi) sqrt(1/4 / 400) on average
    assert by_chance(np.full(400, 0.5), 400) == pytest.approx(0.0199, rel=0.15)
    x, y = isotonic(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1.0]))
    assert np.interp([0.1, 0.25, 0.4], x, y) == pytest.approx([0.0, 0.5, 1.0])


def test_recalibration_mends_what_it_was_fitted_on_and_more():
    """Drafts twice as sure at depth 1 as at depth 0: a temperature each, then a map, on other questions."""
    random = np.random.default_rng(0)
    n = 40_000
    depth, truth = random.integers(0, 2, n), random.random(n)
    claimed = np.where(depth == 0, truth, truth**0.5)
    events = Events(
        claimed, (random.random(n) < truth).astype(float), depth, np.zeros(n, int), random.integers(0, 40, n)
    )
    found = judged("tree nodes", events)
    assert found.ece > 0.05 > 0.015 > found.ece_after and found.brier_after < found.brier
    assert found.temperatures[0] == pytest.approx(1, abs=0.1) and found.temperatures[1] == pytest.approx(0.5, abs=0.06)
    again = fit(events)
    assert again(np.array([0.49]), np.array([1]))[0] == pytest.approx(0.24, abs=0.02)
    rising = again(np.linspace(0, 1, 50), np.ones(50, int))
    assert (np.diff(rising) >= 0).all() and rising[0] >= 0 and rising[-1] <= 1
    assert judged("tree nodes", events.where(np.arange(n) < 150)) is None


@pytest.mark.parametrize(
    "text, name",
    [
        ("What is the capital of France, and why is it not in the south?", "English"),
        ("Das ist die Stadt, und sie ist nicht auf der Insel.", "German"),
        ("Il est dans la ville avec les autres et ne dit pas une chose.", "French"),
        ("El perro de la casa no se come los zapatos para una fiesta.", "Spanish"),
        ("Сколько стоит билет до Москвы?", "Cyrillic"),
        ("東京はどこですか。", "Chinese or Japanese"),
        ("17 + 25 = 42", "other"),
        ("", "other"),
    ],
)
def test_language(text, name):
    assert language(text) == name


def test_code_and_repetition():
    assert CODE.search("def f(x):\n    return x") and CODE.search("```python\n1\n```")
    assert not CODE.search("I import goods from Spain.\nFor a while, that was all.")
    assert repetition([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx(2 / 5)
    assert repetition([1, 2], [3, 4, 5]) == repetition([1], []) == 0.0


def test_an_estimate_without_an_interval_is_a_number():
    assert str(Estimate(1.5, None, None, 2)) == "1.50"


def test_there_is_nothing_to_save_before_the_first():
    for write in (save, save_report):
        assert "There is no diagnosis yet: press Diagnose first." in str(write(None)[1])
