"""Drafts and whole answers against the published packages; not part of CI, which has the forward written out instead.

    pip install --no-deps --target PEERS dflash==0.1.0 speculators==0.9.0 loguru==0.7.3 openai distro jiter sniffio
    PYTHONPATH=.:PEERS python tests/peers/published.py

Prints rows of the table in docs/drafters.md; fails where a difference is too large.
"""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np
import torch
from dflash.model import DFlash2DraftModel, DFlashDraftModel, dflash_generate, extract_context_feature
from transformers import Qwen3Config

from diffuspec import DiffuSpec, Settings
from diffuspec.models.dflash.drafter import HiddenStateDrafter
from diffuspec.models.dflash.formats import read_shape
from diffuspec.models.drafter import MASKED
from diffuspec.models.hidden import HiddenStates
from diffuspec.models.target import Target
from tests.fakes.hidden_drafters import BLOCK, CONFIGS, MASK, VOCAB, random_weights, target_model

TOLERANCE, PROMPTS, NEW = 1e-5, 5, 40


def ours(name, target, weights):
    return HiddenStateDrafter(read_shape(CONFIGS[name], name), dict(weights), target)


def weights_of(name):
    """Spread as trained ones are, so that logits have the size of real ones and 1e-5 means something."""
    small = {
        key: t if "norm" in key else 0.4 * t
        for key, t in random_weights(CONFIGS[name]).items()
        if t.is_floating_point()
    }
    whole = {key: t for key, t in random_weights(CONFIGS[name]).items() if not t.is_floating_point()}
    for key in small:
        if key.endswith("base_kernel"):
            small[key][:, 0] += 0.6
    return small | whole


class Given:
    """A cache with hidden states that were given."""

    def __init__(self, drafter, states):
        self.hidden = HiddenStates(drafter.hidden_entries)
        self.hidden.put(0, [states])


def draft(drafter, ids, states, k):
    with torch.inference_mode():
        return drafter.logits(ids, [MASKED] * k, Given(drafter, states))


def report(name, package, made, expected, answers):
    shown = [i for i in range(made.shape[1]) if made.shape[1] < VOCAB or i != MASK]
    difference = float((made - expected)[:, shown].abs().max())
    same = made[:, shown].argmax(-1).equal(expected[:, shown].argmax(-1))
    print(f"| {name} | {package} | {difference:.1e} | {'yes' if same else 'NO'} | {answers} |", flush=True)
    return same and difference <= TOLERANCE


def without_mask(logits):
    """[1, k, V]; the package lets the mask itself be a candidate, this project does not."""
    logits = logits.clone()
    logits[:, MASK] = -torch.inf
    return logits[None]


def generated(model, prompt) -> list[int]:
    options = dict(do_sample=False, max_new_tokens=NEW, eos_token_id=[1, 3], pad_token_id=0)
    return model.generate(prompt, **options)[0, 23:].tolist()


@torch.inference_mode()
def zlab(name, kind) -> bool:
    model, weights = target_model(kind), weights_of(name)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.2)
    theirs = (DFlash2DraftModel if "dflash2" in name else DFlashDraftModel)(Qwen3Config(**CONFIGS[name])).eval()
    theirs.load_state_dict(weights)
    random = torch.Generator().manual_seed(1)
    prompts = [torch.randint(5, VOCAB, (1, 23), generator=random) for _ in range(PROMPTS)]
    expected, states = [], []
    for prompt in prompts:
        hidden = extract_context_feature(
            model(prompt[:, :-1], output_hidden_states=True).hidden_states, theirs.target_layer_ids
        )
        block = torch.tensor([[int(prompt[0, -1]), *[MASK] * (BLOCK - 1)]])
        rows = theirs(
            position_ids=torch.arange(22 + BLOCK)[None],
            noise_embedding=model.get_input_embeddings()(block),
            target_hidden=hidden,
        )[:, 1:]
        expected.append((theirs.compute_logits(rows, model.lm_head)[0], rows))
        states.append(hidden[0])
    answers = [
        (dflash_generate(theirs, model, prompt, NEW, [1, 3])[0, 23:].tolist(), generated(model, prompt))
        for prompt in prompts
    ]
    paths = [
        theirs.candidate_selector.select(rows, without_mask(logits), prompt[:, -1], 0.0)[0][0].tolist()
        if "dflash2" in name
        else None
        for prompt, (logits, rows) in zip(prompts, expected, strict=True)
    ]
    target = Target(model)
    drafter = ours(name, target, weights)
    made = [draft(drafter, prompt[0].tolist(), given, BLOCK - 1) for prompt, given in zip(prompts, states, strict=True)]
    equal, walks = 0, 0
    pair = pair_of(drafter, target, kind)
    for prompt, both, path, given in zip(prompts, answers, paths, states, strict=True):
        settings = Settings(length="fixed", k=BLOCK - 1, search="argmax", proxy="none", max_new_tokens=NEW)
        got = list(DiffuSpec(pair, settings).run(ids=prompt[0].tolist()).token_ids)
        equal += got == both[0] == both[1]
        if path is not None:
            cache = Given(drafter, given)
            ids, logq = drafter.draft(prompt[0].tolist(), BLOCK - 1, width=9, passes=1, cache=cache)
            walks += drafter.follow(cache, int(prompt[0, -1]), ids, logq).walk() == path
    said = f"{equal} of {PROMPTS} equal" + (f"; {walks} of {PROMPTS} walks equal" if any(paths) else "")
    fine = report(f"{name}, target {kind}", "dflash 0.1.0", torch.cat(made), torch.cat([e for e, _ in expected]), said)
    return fine and equal == PROMPTS and (not any(paths) or walks == PROMPTS)


def pair_of(drafter, target, kind):
    from diffuspec.models.pair import Pair
    from diffuspec.provenance import PairInfo
    from tests.fakes.tiny import byte_tokenizer

    info = PairInfo(
        name="peer",
        target=kind,
        drafter="peer",
        drafter_kind=drafter.kind,
        dtype="float32",
        device="cpu",
        context=256,
        max_draft=drafter.max_block,
        ngram=0,
    )
    return Pair(info, byte_tokenizer(), target, drafter, None, frozenset({1, 3}))


@torch.inference_mode()
def speculators(name) -> bool:
    for trainer_only in ("datasets", "hs_connectors"):  # imported, not needed here
        sys.modules.setdefault(trainer_only, mock.MagicMock())
    from speculators.models.dflash.model_definitions import Qwen3DFlashDecoderLayer
    from speculators.models.dflash2.model_definitions import CandidateSelector, Qwen3DFlash2DecoderLayer
    from speculators.models.dspark.model_definitions import ConfidenceHead, MarkovHead
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, Qwen3RotaryEmbedding

    config, weights, model = CONFIGS[name], weights_of(name), target_model()
    stack = Qwen3Config(**config["transformer_layer_config"], attn_implementation="sdpa")
    shifted = name.endswith("dspark")
    k = BLOCK if shifted else BLOCK - 1
    layers = [
        Qwen3DFlash2DecoderLayer(stack, i, block_size=BLOCK, conv_kernel_size=2, conv_group_size=8)
        if name.endswith("dflash2")
        else Qwen3DFlashDecoderLayer(stack, i)
        for i in range(stack.num_hidden_layers)
    ]
    for i, layer in enumerate(layers):
        layer.eval().load_state_dict(
            {key.removeprefix(f"layers.{i}."): t for key, t in weights.items() if key.startswith(f"layers.{i}.")}
        )
    norms = {}
    for key in ("norm", "hidden_norm"):
        norms[key] = Qwen3RMSNorm(32, eps=1e-6)
        norms[key].weight.copy_(weights[f"{key}.weight"])
    ids = torch.randint(5, VOCAB, (23,), generator=torch.Generator().manual_seed(2)).tolist()
    hidden_states = model(torch.tensor([ids[:-1]]), output_hidden_states=True).hidden_states
    states = torch.cat([hidden_states[e][0] for e in config["aux_hidden_state_layer_ids"]], -1)
    context = norms["hidden_norm"](states @ weights["fc.weight"].T)[None]
    x = model.get_input_embeddings().weight[[ids[-1], *[MASK] * (BLOCK - 1)]][None]
    angles = Qwen3RotaryEmbedding(stack)(x, torch.arange(22 + BLOCK)[None])
    for layer in layers:
        x = layer(hidden_states=x, target_hidden=context, attention_mask=None, position_embeddings=angles)
    rows = norms["norm"](x)[0, 0 if shifted else 1 :]
    expected = rows @ weights.get("lm_head.weight", model.get_output_embeddings().weight).T
    drafter = ours(name, Target(model), weights)
    made, said = draft(drafter, ids, states, k), "–"
    fine = True
    cache = Given(drafter, states)
    found, logq = drafter.draft(ids, k, width=9, passes=1, cache=cache)
    if shifted or name.endswith("dflash2"):
        walk = drafter.follow(cache, ids[-1], found, logq).walk()
        previous = torch.tensor([ids[-1], *walk[:-1]])
        if shifted:
            head = MarkovHead(verifier_vocab_size=VOCAB, draft_vocab_size=120, markov_rank=6, hidden_size=32)
            head.load_state_dict(
                {
                    "markov_w1.weight": weights["markov_head.markov_w1.weight"],
                    "markov_w2.weight": weights["markov_head.markov_w2.weight"],
                }
            )
            corrected = expected + head.block_bias(prev_token_ids=previous[None], hidden_states=rows[None])[0]
            best = corrected.argmax(-1) + weights["d2t"][corrected.argmax(-1)]
            sure = ConfidenceHead(38)
            sure.load_state_dict(
                {
                    "proj.weight": weights["confidence_head.proj.weight"],
                    "proj.bias": weights["confidence_head.proj.bias"],
                }
            )
            expects = sure(torch.cat([rows, head.prev_embeddings(previous)], -1)).sigmoid().numpy()
            gap = float(np.abs(drafter.acceptance(cache, ids[-1], found, logq) - expects).max())
            fine, said = gap < TOLERANCE, f"confidence within {gap:.0e}; "
        else:
            selector = CandidateSelector(vocab_size=VOCAB, hidden_size=32, rank=6, top_k=9)
            own = {key.removeprefix("candidate_selector."): t for key, t in weights.items() if "selector" in key}
            selector.load_state_dict({key.replace("codebook.weight", "codebook"): t for key, t in own.items()})
            candidates, scores = selector.select(without_mask(expected)[0], rows, previous)
            best, said = candidates.gather(1, scores.argmax(-1, keepdim=True))[:, 0], ""
        agrees = best.tolist() == walk
        fine, said = fine and agrees, said + ("walk equal" if agrees else "WALK DIFFERS")
    return report(name, "speculators 0.9.0", made, expected, said) and fine


if __name__ == "__main__":
    torch.manual_seed(0)
    fine = [zlab(name, kind) for name in ("dflash", "dflash-sliding", "dflash2") for kind in ("qwen3", "llama")]
    fine += [speculators(name) for name in ("speculators-dflash", "speculators-dflash2", "speculators-dspark")]
    sys.exit(0 if all(fine) else "Some drafts differ from the packages' own.")
