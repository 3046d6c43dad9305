"""Adapts layers of a causal LM into a block-diffusion drafter: the training loop.

Loss of a row: `soft` times the cross-entropy to the target's top-8 probabilities plus (1 - `soft`) times that to its
greedy token, weighted exp(-i / `decay`) by the row's place i in its block, since a token counts only where all before
it were right. AdamW (Loshchilov & Hutter, 2019), warm-up and cosine decay, and an exponential average of the weights,
which is what is evaluated and exported.

A run is a function of its options and the data: step n draws its blocks from a generator seeded by (seed, n). The
checkpoint holds weights, average, optimiser state and the step, and is replaced by a rename, so that a run killed at
any moment goes on to the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffuspec.errors import DiffuSpecError
from diffuspec.training import blocks
from diffuspec.training.data import Conversation, write_atomically
from diffuspec.training.network import DrafterNetwork
from diffuspec.training.recipe import Recipe

HELD_OUT = 25
CHECKPOINT = "checkpoint.pt"


def draft_vocabulary(conversations: Sequence[Conversation], size: int, always: Sequence[int]) -> torch.Tensor:
    """The `size` ids most often among the target's top candidates in these answers, and `always`; int64, sorted."""
    counts = np.bincount(np.concatenate([c.top_ids[:, :2].ravel() for c in conversations]))
    order = np.argsort(-counts, kind="stable")
    kept = {int(i) for i in order[:size] if counts[i]} | set(always)
    return torch.tensor(sorted(kept))


def vocabulary_of(folder: Path) -> torch.Tensor:
    """The draft vocabulary of an exported drafter, int64."""
    try:
        return load_file(folder / "model.safetensors")["draft_vocab"].long()
    except (OSError, KeyError, SafetensorError) as error:
        raise DiffuSpecError(f"{folder} holds no drafter to start from ({error}).") from error


def end_of_turn(conversations: Sequence[Conversation], stop_ids: frozenset[int]) -> int:
    """The id with which most answers end: what a drafter shall say past an end."""
    ends = Counter(int(c.ids[end - 1]) for c in conversations for _, end in c.spans)
    likely = [token for token, _ in ends.most_common() if token in stop_ids]
    return likely[0] if likely else min(stop_ids)


def split(conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """(to train on, held out): every `HELD_OUT`th of each family is held out; none where all are too few."""
    train, held, seen = [], [], defaultdict(int)
    for conversation in conversations:
        if len(conversation.top_p) == 0:
            continue
        seen[conversation.family] += 1
        (held if seen[conversation.family] % HELD_OUT == 0 else train).append(conversation)
    return train, held


class Trainer:
    """One run in `folder`: goes on from its checkpoint if there is one."""

    def __init__(
        self, network: DrafterNetwork, conversations: Sequence[Conversation], stop_ids: frozenset[int], eos: int,
        recipe: Recipe, folder: Path,
    ):  # fmt: skip
        self.network, self.recipe, self.folder, self.stop_ids, self.eos = network, recipe, folder, stop_ids, eos
        train, self.held_out = split(conversations)
        if not train:
            raise DiffuSpecError("There is nothing to train on: synthesise answers first.")
        if network.kind == "target-conditioned" and any(c.cache is None for c in train):
            raise DiffuSpecError("The target's caches are missing: run `train cache` first.")
        families = defaultdict(list)
        for conversation in train:
            families[conversation.family if recipe.balance else "all"].append(conversation)
        self._families = [families[name] for name in sorted(families)]
        self._key_heads = network.config.get_text_config().num_key_value_heads
        vocab = len(network._embedding[0])
        self._column = torch.full((vocab,), -1)
        self._column[network.draft_vocab] = torch.arange(len(network.draft_vocab))
        decayed = [p for p in network.parameters() if p.ndim >= 2]
        plain = [p for p in network.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            betas=(0.9, 0.95),
        )
        self.average = {name: tensor.clone().float() for name, tensor in network.state_dict().items()}
        self.step, self.rows = 0, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(
        self, save_every: int, evaluate_every: int, progress: Callable[[float | None, str], None],
        keep: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Train to the recipe's last step. save_every, evaluate_every: steps; keep: called after an evaluation."""
        started, rows_before, smooth = time.monotonic(), self.rows, None
        while self.step < self.recipe.steps:
            loss = self._train_step()
            smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
            speed = (self.rows - rows_before) / max(1e-9, time.monotonic() - started)
            progress(
                self.step / self.recipe.steps,
                f"step {self.step}/{self.recipe.steps}, loss {smooth:.3f}, {self.rows} rows, {speed:.0f} a second",
            )
            last = self.step == self.recipe.steps
            if self.step % save_every == 0 or last:
                self.save()
            if self.step % evaluate_every and not last:
                continue
            if self.held_out:
                figures = {"step": self.step, "rows": self.rows, "loss": smooth, **self.evaluate()}
                with (self.folder / "curve.jsonl").open("a") as out:
                    out.write(json.dumps(figures) + "\n")
                progress(None, f"held out at step {self.step}: {summary(figures)}")
            keep()

    def _train_step(self) -> float:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.step])
        drawn = []
        for _ in range(recipe.conversations):
            family = self._families[rng.integers(len(self._families))]
            drawn.append(family[rng.integers(len(family))])
        length = int(rng.choice(blocks.LENGTHS))
        # The same number of rows whatever the length.
        batch = self._cut(drawn, rng, max(1, recipe.anchors * 16 // length), length, recipe.filled)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(self.step)
        self.network.train()
        loss = self._loss(self.network(batch), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.rows += len(batch.targets)
        keep = min(recipe.average, self.step / (self.step + 10))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - keep)
        return float(loss.detach())

    def _loss(self, logits: torch.Tensor, batch: blocks.Blocks) -> torch.Tensor:
        """Logits [N, V'] against targets; what lies outside the draft vocabulary is not asked for."""
        recipe = self.recipe
        hard, soft = self._column[batch.targets], self._column[batch.soft_ids]
        normaliser = logits.logsumexp(-1)
        p = batch.soft_p * (soft >= 0)
        total = p.sum(-1)
        p = p / total.clamp_min(1e-6)[:, None]
        chosen = logits.gather(1, torch.cat([hard[:, None], soft], 1).clamp_min(0)) - normaliser[:, None]
        weight = torch.exp(-batch.depth / recipe.decay)
        hard_loss = -chosen[:, 0] * (hard >= 0)
        soft_loss = -(p * chosen[:, 1:]).sum(-1)
        return (weight * ((1 - recipe.soft) * hard_loss + recipe.soft * soft_loss)).sum() / weight.sum()

    def _cut(self, drawn, rng, count: int, length: int, filled: float) -> blocks.Blocks:
        return blocks.cut(
            drawn, rng, blocks=count, length=length, stop_ids=self.stop_ids, eos=self.eos,
            key_heads=self._key_heads, filled=filled,
        )  # fmt: skip

    @torch.inference_mode()
    def evaluate(self, k: int = 16, blocks_each: int = 4) -> dict:
        """The average's acceptance on held-out answers, from anchors drawn at random, the same every time.

        accepted: greedy tokens named correctly before the first error, mean over blocks; by_family: the same;
        right: share of blocks in which row i is right, by row, whatever stands before it.
        """
        self.network.eval()
        training = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        accepted, right, asked = defaultdict(list), np.zeros(k), np.zeros(k)
        try:
            for first in range(0, len(self.held_out), 8):
                batch = self._cut(
                    self.held_out[first : first + 8], np.random.default_rng([7, first]), blocks_each, k, filled=0.0
                )
                named = self.network.draft_vocab[self.network(batch).argmax(-1)]
                hit = (named == batch.targets).numpy()
                depth, block = batch.depth.numpy(), batch.block.numpy()
                right += np.bincount(depth, hit, minlength=k)
                asked += np.bincount(depth, minlength=k)
                for number, family in enumerate(batch.families):
                    run = hit[block == number]
                    accepted[family].append(int(np.cumprod(run).sum()))
        finally:
            self.network.load_state_dict(training)
        by_family = {name: float(np.mean(runs)) for name, runs in sorted(accepted.items())}
        return {
            "accepted": float(np.mean(list(by_family.values()))), "by_family": by_family,
            "right": (right / np.maximum(asked, 1)).round(4).tolist(),
        }  # fmt: skip

    def save(self) -> None:
        state = {
            "recipe": dataclasses.asdict(self.recipe), "step": self.step, "rows": self.rows,
            "network": self.network.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        write_atomically(self.folder / CHECKPOINT, lambda path: torch.save(state, path))

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            changed = [k for k, v in dataclasses.asdict(self.recipe).items() if state["recipe"].get(k) != v]
            raise DiffuSpecError(f"{path} was trained with another {', '.join(changed)}: use a new folder.")
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise DiffuSpecError(f"{path} holds another drafter ({error}).") from error
        self.average, self.step, self.rows = state["average"], state["step"], state["rows"]
        self.optimizer.load_state_dict(state["optimizer"])


def summary(figures: dict) -> str:
    families = ", ".join(f"{name} {value:.2f}" for name, value in figures["by_family"].items())
    rows = ", ".join(f"{share:.0%}" for share in figures["right"][:4])
    return f"accepted {figures['accepted']:.3f} ({families}); right at rows 1-4: {rows}"
