"""Adapts layers of a causal LM into a block-diffusion drafter: the training loop.

Loss of a row: `soft` times the cross-entropy to the target's top-8 probabilities plus (1 - `soft`) times that to its
greedy token. A token counts only where all before it were right: a row is weighted exp(-i / `decay`) by its place i in
its block, or, for a share `reach` of its weight, by the probability that the drafter gives to all those before it.
AdamW (Loshchilov & Hutter, 2019), warm-up and cosine decay, and an exponential average of the weights, which is what is
evaluated and exported.

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffuspec.errors import DiffuSpecError
from diffuspec.training import blocks
from diffuspec.training.data import Conversation, save_arrays, write_atomically
from diffuspec.training.network import DrafterNetwork
from diffuspec.training.recipe import Recipe

HELD_OUT = 25
PART = 12  # conversations in one pass at most,
PADDED = 6000  # and their tokens, each counted as long as the longest
CHECKPOINT = "checkpoint.pt"
VISITED = "visited.npz"
WALK = 8  # rows of the drafts that decide where the next one begins


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
        self,
        network: DrafterNetwork,
        conversations: Sequence[Conversation],
        stop_ids: frozenset[int],
        eos: int,
        recipe: Recipe,
        folder: Path,
    ):
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
        vocab = len(network._embedding[0])
        self._column = torch.full((vocab,), -1, device=network.device)
        self._column[network.draft_vocab] = torch.arange(len(network.draft_vocab), device=network.device)
        decayed = [p for p in network.parameters() if p.ndim >= 2]
        plain = [p for p in network.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            betas=(0.9, 0.95),
            fused=True,
        )
        self._worker = network.in_bfloat16() if recipe.bf16 else network  # what the products of a step are made with
        self._pairs = list(zip(network.parameters(), self._worker.parameters(), strict=True))
        self.average = {name: tensor.clone().float() for name, tensor in network.state_dict().items()}
        self.step, self.rows = 0, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._visited: dict[int, np.ndarray] = {}
        self._train = train
        self._resume()

    def run(
        self,
        save_every: int,
        evaluate_every: int,
        progress: Callable[[float | None, str], None],
        keep: Callable[[], None] = lambda: None,
        workers: int = 1,
    ) -> None:
        """Train to the recipe's last step. save_every, evaluate_every: steps; keep: called after an evaluation;
        workers: parts of a step at work at once; it changes nothing but the time."""
        started, rows_before, smooth = time.monotonic(), self.rows, None
        with ThreadPoolExecutor(workers) as pool:
            if self.recipe.visited:
                self._look_where(pool.map, progress)
            while self.step < self.recipe.steps:
                loss = self._train_step(pool.map)
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
                    figures = {"step": self.step, "rows": self.rows, "loss": smooth, **self.evaluate(pool.map)}
                    with (self.folder / "curve.jsonl").open("a") as out:
                        out.write(json.dumps(figures) + "\n")
                    progress(None, f"held out at step {self.step}: {summary(figures)}")
                keep()

    def _train_step(self, at_once: Callable) -> float:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.step])
        drawn = []
        for _ in range(recipe.conversations):
            family = self._families[rng.integers(len(self._families))]
            drawn.append(family[rng.integers(len(family))])
        self._worker.train()
        if self._worker is not self.network:
            list(at_once(lambda pair: pair[1].data.copy_(pair[0].data), self._pairs))
        key = recipe.seed, self.step
        done = list(at_once(lambda part: self._gradient(part[1], (*key, part[0])), enumerate(_parts(drawn))))
        loss, weight, rows = (sum(part[i] for part in done) for i in range(3))

        def collect(parameter: torch.Tensor, *gradients: torch.Tensor) -> None:
            total = gradients[0].float()
            for gradient in gradients[1:]:
                total.add_(gradient)
            parameter.grad = total.div_(weight)

        list(at_once(collect, self.network.parameters(), *(part[3] for part in done)))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(self.step)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.rows += rows
        keep = min(recipe.average, self.step / (self.step + 10))
        now = self.network.state_dict()
        floats = [name for name, tensor in now.items() if tensor.is_floating_point()]
        list(at_once(lambda name: self.average[name].lerp_(now[name], 1 - keep), floats))
        return loss / weight

    def _gradient(self, drawn: Sequence[Conversation], key: Sequence[int]) -> tuple:
        """(loss, summed over rows; their weight; rows; the loss's gradients) of blocks from these conversations."""
        rng = np.random.default_rng(key)
        length = int(rng.choice(blocks.LENGTHS))
        # The same number of rows whatever the length.
        batch = blocks.cut(
            drawn,
            rng,
            blocks=max(1, self.recipe.anchors * 16 // length),
            length=length,
            stop_ids=self.stop_ids,
            eos=self.eos,
            key_heads=self.network.key_heads,
            filled=self.recipe.filled,
            choose=self._choose,
            dtype=self._worker.mask_embedding.dtype,
        ).to(self.network.device)
        columns, correction = self._sampled_columns(batch, rng)
        logits = self._worker(batch, columns)
        loss, weight = self._loss(logits.float() + correction, columns, batch)
        gradients = torch.autograd.grad(loss, list(self._worker.parameters()))
        return float(loss.detach()), float(weight), len(batch.targets), gradients

    def _choose(self, conversation: Conversation, rng: np.random.Generator) -> int:
        if not self.recipe.visited or rng.random() >= self.recipe.visited:
            return blocks.anywhere(conversation, rng)
        return int(rng.choice(self._visited[id(conversation)]))

    def _look_where(self, at_once: Callable, progress: Callable[[float | None, str], None]) -> None:
        """Find what `_choose` needs, with the weights a run starts from; kept, since a resumed run has others."""
        path = self.folder / VISITED
        if not path.exists():
            if self.step:
                raise DiffuSpecError(f"{path} is missing: start in a new folder.")
            found = at_once(lambda one: visited(self.network, one, self.stop_ids, self.eos), self._train)
            places = []
            for done, own in enumerate(found, 1):
                places.append(own)
                progress(None, f"where drafts begin: {done} of {len(self._train)} conversations")
            sizes = np.array([len(own) for own in places])
            write_atomically(path, lambda out: save_arrays(out, {"places": np.concatenate(places), "sizes": sizes}))
        with np.load(path) as stored:
            places, sizes = stored["places"], stored["sizes"]
        if len(sizes) != len(self._train):
            raise DiffuSpecError(f"{path} belongs to other data: start in a new folder.")
        parts = np.split(places, np.cumsum(sizes)[:-1])
        self._visited = {id(one): part for one, part in zip(self._train, parts, strict=True)}

    def _sampled_columns(self, batch: blocks.Blocks, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns of the draft vocabulary [M] that stand for all of it, and what to add to their logits [M].

        Every token that the blocks are about, and a sample of the rest, each of which counts for as many as were
        left out (Jean et al., 2015): the normaliser is right on average and costs a quarter.
        """
        asked = self._column[torch.cat([batch.targets[:, None], batch.soft_ids], 1)]
        asked = asked[asked >= 0].unique()
        rest = np.setdiff1d(np.arange(len(self.network.draft_vocab)), asked.cpu().numpy(), assume_unique=True)
        drawn = rng.choice(rest, min(self.recipe.negatives, len(rest)), replace=False)
        correction = torch.zeros(len(asked) + len(drawn), device=asked.device)
        correction[len(asked) :] = np.log(max(1, len(rest)) / max(1, len(drawn)))
        return torch.cat([asked, torch.from_numpy(drawn).to(asked.device)]), correction

    def _loss(
        self, logits: torch.Tensor, columns: torch.Tensor, batch: blocks.Blocks
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, weight), summed over rows: logits [N, M] of these columns against targets. What lies outside the
        draft vocabulary is not asked for."""
        recipe = self.recipe
        place = torch.full((len(self.network.draft_vocab) + 1,), -1, device=columns.device)  # the last: what is outside
        place[columns] = torch.arange(len(columns), device=columns.device)
        hard, soft = place[self._column[batch.targets]], place[self._column[batch.soft_ids]]
        normaliser = logits.logsumexp(-1)
        p = batch.soft_p * (soft >= 0)
        total = p.sum(-1)
        p = p / total.clamp_min(1e-6)[:, None]
        chosen = logits.gather(1, torch.cat([hard[:, None], soft], 1).clamp_min(0)) - normaliser[:, None]
        hard_loss = -chosen[:, 0] * (hard >= 0)
        weight = torch.exp(-batch.depth / recipe.decay)
        if recipe.reach:
            named = torch.where(hard >= 0, chosen[:, 0].detach(), -torch.inf)
            weight = (1 - recipe.reach) * weight + recipe.reach * _reached(named, batch)
        soft_loss = -(p * chosen[:, 1:]).sum(-1)
        return (weight * ((1 - recipe.soft) * hard_loss + recipe.soft * soft_loss)).sum(), weight.sum()

    def evaluate(self, at_once: Callable = map, k: int = 16) -> dict:
        """`acceptance` of the average on the held-out answers."""
        training = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        try:
            return acceptance(self.network, self.held_out, self.stop_ids, self.eos, at_once=at_once, k=k)
        finally:
            self.network.load_state_dict(training)

    def save(self) -> None:
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "step": self.step,
            "rows": self.rows,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        write_atomically(self.folder / CHECKPOINT, lambda path: torch.save(state, path))

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location=self.network.device)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            changed = [k for k, v in dataclasses.asdict(self.recipe).items() if state["recipe"].get(k) != v]
            raise DiffuSpecError(f"{path} was trained with another {', '.join(changed)}: use a new folder.")
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise DiffuSpecError(f"{path} holds another drafter ({error}).") from error
        self.average, self.step, self.rows = state["average"], state["step"], state["rows"]
        self.optimizer.load_state_dict(state["optimizer"])


def _parts(conversations: Sequence[Conversation]) -> list[list[Conversation]]:
    """Passes that the conversations are read in, of like lengths, the longest first: the last to be done, while other
    workers have nothing left to do, shall be short."""
    waiting = sorted(conversations, key=lambda c: -len(c.ids))
    parts = []
    while waiting:
        size = max(1, min(PART, PADDED // len(waiting[0].ids)))
        parts.append(waiting[:size])
        waiting = waiting[size:]
    return parts


def acceptance(
    network: DrafterNetwork,
    conversations: Sequence[Conversation],
    stop_ids: frozenset[int],
    eos: int,
    *,
    at_once: Callable = map,
    k: int = 16,
    blocks_each: int = 4,
) -> dict:
    """How much of the target's own answers a drafter foresees, from anchors drawn at random, the same every time.

    accepted: greedy tokens named correctly before the first error, at most to the end of the answer, mean of the
    families' means over blocks; by_family; right: share of blocks in which row i is right, by row, whatever stands
    before it, of those whose answer reaches that far.
    """
    parts = [conversations[first : first + 8] for first in range(0, len(conversations), 8)]

    @torch.inference_mode()
    def look(number: int) -> tuple[blocks.Blocks, torch.Tensor]:
        batch = blocks.cut(
            parts[number],
            np.random.default_rng([7, number]),
            blocks=blocks_each,
            length=k,
            stop_ids=stop_ids,
            eos=eos,
            key_heads=network.key_heads,
            filled=0.0,
        )
        return batch, network.draft_vocab[network(batch.to(network.device)).argmax(-1)].cpu()

    network.eval()
    accepted, right, asked = defaultdict(list), np.zeros(k), np.zeros(k)
    for batch, named in at_once(look, range(len(parts))):
        hit = (named == batch.targets).numpy()
        depth = batch.depth[batch.inside].numpy()
        right += np.bincount(depth, hit[batch.inside], minlength=k)
        asked += np.bincount(depth, minlength=k)
        for family, foreseen in zip(batch.families, _foreseen(hit, batch), strict=True):
            accepted[family].append(foreseen)
    by_family = {name: float(np.mean(runs)) for name, runs in sorted(accepted.items())}
    return {
        "accepted": float(np.mean(list(by_family.values()))),
        "by_family": by_family,
        "right": (right / np.maximum(asked, 1)).round(4).tolist(),
    }


def _foreseen(hit: np.ndarray, batch: blocks.Blocks) -> list[int]:
    """Of each block, the rows of its answer before the first that is not hit; hit: bool [N]."""
    block, hit = batch.block.numpy(), hit & batch.inside.numpy()
    return [int(np.cumprod(hit[block == number]).sum()) for number in range(len(batch.families))]


@torch.inference_mode()
def visited(network: DrafterNetwork, conversation: Conversation, stop_ids: frozenset[int], eos: int) -> np.ndarray:
    """Answer tokens, by their places among all those of the conversation, at which greedy decoding with the likeliest
    tokens of drafts of `WALK` rows begins a draft: the first of each answer, then the second after each token that the
    draft foresaw last, since the target adds one of its own. int32, ascending."""
    lengths = (conversation.spans[:, 1] - conversation.spans[:, 0]).tolist()
    places = iter(range(sum(lengths)))
    foreseen, most = [], 32
    for first in range(0, sum(lengths), most):
        batch = blocks.cut(
            [conversation],
            np.random.default_rng(0),
            blocks=min(most, sum(lengths) - first),
            length=WALK,
            stop_ids=stop_ids,
            eos=eos,
            key_heads=network.key_heads,
            filled=0.0,
            choose=lambda *_: next(places),
        )
        named = network.draft_vocab[network(batch.to(network.device)).argmax(-1)].cpu()
        foreseen += _foreseen((named == batch.targets).numpy(), batch)
    found, start = [], 0
    for length in lengths:
        at = start
        while at < start + length:
            found.append(at)
            at += foreseen[at] + 1
        start += length
    return np.array(found, np.int32)


def _reached(log_p: torch.Tensor, batch: blocks.Blocks) -> torch.Tensor:
    """[N]: the product of exp(log_p) [N] over the rows before each in its block; rows that are shown count as 1."""
    spread = torch.zeros(int(batch.block.max()) + 1, int(batch.depth.max()) + 2, device=log_p.device)
    spread[batch.block, batch.depth + 1] = log_p
    return spread.cumsum(1)[batch.block, batch.depth].exp()


def summary(figures: dict) -> str:
    families = ", ".join(f"{name} {value:.2f}" for name, value in figures["by_family"].items())
    rows = ", ".join(f"{share:.0%}" for share in figures["right"][:4])
    return f"accepted {figures['accepted']:.3f} ({families}); right at rows 1-4: {rows}"
