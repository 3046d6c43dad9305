"""What DSpark and DFlash 2 learned of the order of tokens: how well a candidate follows the one before it.

Markov head (DSpark)   logits_i + W2 e,    e = W1[previous],  gated: sigmoid(G [h_i, e]) * e,
                       rnn: tanh of the output part of J [state, e, h_i], the state being carried along the block
selector (DFlash 2)    logits_i + <P[previous] * (H h_i), S[candidate]>, among the likeliest candidates of each row
confidence (DSpark)    sigmoid(C [h_i, W1[previous]]): how likely the token at position i is accepted

h_i is the final hidden state of the row that predicts position i. All are asked for the cells of a lattice only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from diffuspec.models.dflash.formats import DraftShape

Weights = dict[str, torch.Tensor]


class FollowingTerm:
    """What a drafter learned of the order of tokens.

    kind: "markov" or "selector"; recurrent: what is added depends on all tokens of the path, not on the last one.
    """

    def __init__(self, shape: DraftShape, weights: Weights):
        self.kind = "selector" if shape.selector else "markov"
        self.recurrent = bool(shape.markov) and shape.markov[1] == "rnn"
        self._type = shape.markov[1] if shape.markov else ""
        self._weights = weights

    def added(
        self, hidden: torch.Tensor, previous: torch.Tensor, columns: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """Added to the logits, float32 [k, P, W], of cell w of column i after previous[i, p].

        hidden [k, h]; previous int64 [k, P], token ids of the target; columns int64 [k, W] of the drafter's output and
        ids int64 [k, W], the tokens that they stand for. Of a head that is not recurrent.
        """
        w = self._weights
        if self.kind == "selector":
            before = _rows(w["candidate_selector.predecessor_codebook.weight"], previous)
            here = F.linear(hidden, w["candidate_selector.hidden_projection.weight"])
            after = _rows(w["candidate_selector.successor_codebook.weight"], ids)
            return torch.einsum("kpr,kwr->kpw", before * here[:, None], after).float()
        e = self.embedded(previous)
        if self._type == "gated":
            wide = hidden[:, None].expand(-1, e.shape[1], -1)
            e = torch.sigmoid(self._project("gate_proj", torch.cat([wide, e], -1))) * e
        return torch.einsum("kpr,kwr->kpw", e, w["markov_head.markov_w2.weight"][columns]).float()

    def along(self, hidden: torch.Tensor, path: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Of a recurrent head: what is added to `columns` int64 [W] of position n - 1 after the tokens path int64 [n],
        the anchor first; hidden [n, h]. float32 [W]."""
        e = self.embedded(path)
        state = e.new_zeros(e.shape[1])
        for at, token in enumerate(e):
            gate, candidate, out = self._project("joint_proj", torch.cat([state, token, hidden[at]])).chunk(3)
            gate = torch.sigmoid(gate)
            state = gate * state + (1.0 - gate) * torch.tanh(candidate)
        return (self._weights["markov_head.markov_w2.weight"][columns] @ torch.tanh(out)).float()

    def embedded(self, ids: torch.Tensor) -> torch.Tensor:
        return _rows(self._weights["markov_head.markov_w1.weight"], ids)

    def _project(self, name, x):
        return F.linear(x, self._weights[f"markov_head.{name}.weight"], self._weights[f"markov_head.{name}.bias"])


def confidence(shape: DraftShape, weights: Weights, hidden: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """How likely each position is accepted if all before it are, float32 [k]; previous: int64 [k], tokens before it."""
    features = hidden
    if shape.confidence_with_markov:
        features = torch.cat([hidden, _rows(weights["markov_head.markov_w1.weight"], previous).to(hidden.dtype)], -1)
    out = F.linear(features, weights["confidence_head.proj.weight"], weights["confidence_head.proj.bias"])
    return torch.sigmoid(out.float()[:, 0])


def _rows(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Ids of a vocabulary padded further than the table have its last row; they are never emitted."""
    return table[ids.clamp(max=len(table) - 1)]
