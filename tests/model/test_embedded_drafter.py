"""What the drafter that ships is worth on the app's own questions, which no drafter was trained on: three of each of
Spec-Bench's families. In int8 no bit depends on the machine, so neither do these counts."""

from __future__ import annotations

from collections import defaultdict

import pytest

from diffuspec import Settings
from diffuspec.measure.bench import measure
from diffuspec.measure.methods import Variant
from diffuspec.measure.questions import bundled_questions
from diffuspec.models.cost import measure as costs

# The first drafter of this layout, an hour's training on short chat turns (the card's stage 1), measured the same way.
PROTOTYPE = {"mt": 0.46, "translation": 0.24, "summarization": 0.33, "qa": 0.41, "math": 0.34, "rag": 0.32}


@pytest.fixture(scope="module")
def measured(embedded_int8):
    settings = Settings(max_new_tokens=64)
    variants = [
        Variant("ar", "ar", settings),
        Variant("plain", "plain", settings.replace(k=16)),
        Variant("tree", "tree+copy", settings.replace(length="fixed", k=4, nodes=8)),
        Variant("throughput", "throughput", settings.replace(k_max=5)),
    ]
    *_, last = measure(embedded_int8, bundled_questions().questions, variants)
    return last.results


def by_family(results, variant, count) -> dict[str, float]:
    """A count a step, by family."""
    counted, steps = defaultdict(int), defaultdict(int)
    for row in results:
        if row.variant == variant:
            counted[row.category] += getattr(row, count)
            steps[row.category] += row.steps
    return {family: counted[family] / steps[family] for family in steps}


def mean(values) -> float:
    return sum(values) / len(values)


def test_it_foresees_half_a_token_more_than_the_first_one_and_more_in_every_family(measured):
    accepted = by_family(measured, "plain", "accepted")
    assert mean(accepted.values()) >= mean(PROTOTYPE.values()) + 0.5, accepted
    assert all(accepted[family] > PROTOTYPE[family] for family in PROTOTYPE), accepted


def test_a_tree_with_copies_makes_two_and_a_half_tokens_a_step(measured):
    tokens = by_family(measured, "tree", "tokens")
    assert mean(tokens.values()) >= 2.4, tokens


def test_every_answer_is_plain_decodings(measured):
    assert all(row.identical for row in measured)


def test_the_throughput_method_is_faster_than_plain_decoding(measured):
    """How much is for the bench to say (see README): it depends on the processor, 1.3 to 1.9 times on those we met."""
    rate = {
        name: mean([row.tokens / row.seconds for row in measured if row.variant == name])
        for name in ("ar", "throughput")
    }
    assert rate["throughput"] > 1.05 * rate["ar"], rate


def test_a_draft_of_16_costs_at_most_30_percent_of_the_pass_that_verifies_it(embedded_int8):
    """23 to 26 % on the machines we met; of three tries, since other work may fall into one."""
    for _ in range(3):
        cost = costs(embedded_int8.target, embedded_int8.drafter)
        share = cost.draft_ms(16) / cost.verify_ms(17)[-1]
        if share <= 0.30:
            return
    raise AssertionError(share)
