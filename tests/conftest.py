"""Pairs that the tests share: three tiny random ones, built in a second, and the embedded one.

The tiny pairs have one target. Their drafters are good enough to be accepted now and then, and bad
enough to be refused: two are made of the target's own layers reading in both directions, the third
peeks at the target's answer and adds noise.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings as hypothesis_settings
from transformers import AutoModelForCausalLM

from diffuspec import DiffuSpec, Settings, Trace, load_pair
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models import embedded as weights
from diffuspec.models.drafter import BlockDrafter, Convention
from tests.fakes.tiny import PeekingDrafter, block_parts, byte_tokenizer, tiny_target

hypothesis_settings.register_profile("shared machine", deadline=None)
hypothesis_settings.load_profile("shared machine")

MARKS = {"api": "slow", "browser": "browser", "model": "models", "training": "training"}  # by folder of tests/


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in MARKS:
            item.add_marker(MARKS[folder])


@pytest.fixture(scope="session")
def tiny():
    """The builders of `fakes.tiny`, for tests that want a pair of their own."""
    return SimpleNamespace(
        tokenizer=byte_tokenizer, model=tiny_target, block_parts=block_parts, PeekingDrafter=PeekingDrafter
    )


@pytest.fixture(scope="session")
def tiny_model():
    """The tiny target as plain transformers has it: its layers are not repacked."""
    return tiny_target()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A checkpoint folder of the tiny target with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-target")
    tiny_target().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pairs(tiny_folder, tiny_model):
    """name -> Pair: a standalone drafter, a block drafter, and one that peeks; one target for all."""
    standalone = load_pair(
        target=str(tiny_folder), drafter=str(tiny_folder), convention=Convention("<mask>", shifted=True)
    )
    target = standalone.target

    def with_drafter(name, drafter):
        info = dataclasses.replace(
            standalone.info, name=name, drafter=name, drafter_kind=drafter.kind, max_draft=drafter.max_block
        )
        return dataclasses.replace(standalone, info=info, drafter=drafter)

    return {
        "standalone": standalone,
        "block": with_drafter("block", BlockDrafter(*block_parts(tiny_model), target)),
        "peeking": with_drafter("peeking", PeekingDrafter(tiny_model, standalone.stop_ids)),
    }


@pytest.fixture(scope="session")
def tiny_pair(tiny_pairs):
    return tiny_pairs["block"]


@pytest.fixture(scope="session")
def tiny_trace(tiny_pairs) -> Trace:
    """A short run, compared with plain AR: beams, rejections, accepts and one bonus at least."""
    pair = tiny_pairs["peeking"]
    trace = DiffuSpec(pair, Settings(proxy="context", k_min=2, k_max=6)).run("A tiny <b>run</b> ⚙", max_new_tokens=24)
    return trace.with_baseline(compare_with_ar(pair, trace))


@contextlib.contextmanager
def one_thread():
    """torch on one thread. Two wait for each other some 400 times a pass, and on a machine whose cores are wanted
    elsewhere each wait may last a time slice: five times as long as one thread alone was measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def plain_greedy():
    """(model, ids, n, stop_ids) -> the new ids of transformers' own `generate(do_sample=False)`."""
    known = {}

    def generate(model, ids, n, stop_ids=(1, 3)):
        key = (id(model), tuple(ids), n)
        if key not in known:
            with one_thread():
                made = model.generate(
                    torch.tensor([ids]),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=n,
                    eos_token_id=sorted(stop_ids),
                    pad_token_id=0,
                )
            known[key] = made[0, len(ids) :].tolist()
        return known[key]

    return generate


@pytest.fixture(scope="session")
def embedded_pair():
    """The real models in float32. Where they cannot be had, the tests fail; they are never skipped."""
    return load_pair("embedded", dtype="float32")


@pytest.fixture(scope="session")
def embedded_int8():
    """The real models as the app loads them on a processor that can."""
    pair = load_pair("embedded")
    assert pair.info.dtype == "int8"
    return pair


@pytest.fixture(scope="session")
def embedded_model(embedded_pair):
    """The embedded target as plain transformers loads it: its layers are not repacked."""
    return AutoModelForCausalLM.from_pretrained(weights.embedded_target(), dtype=torch.float32).eval()
