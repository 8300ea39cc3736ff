"""Attention over states, the learned aggregation module of the paper (section 3.4)."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Attention matrices in memory at once have at most this many entries.
MAX_ENTRIES = 2**22
# Standard deviation of untrained position embeddings.
POSITION_STD = 0.02


class StateAttention(nn.Module):
    """Single-head attention over the states of an image, separate for every location.

    With ``x = feature + embedding of the displacement``, queries ``q`` and keys ``k`` are scalars,
    ``A[i, j] = softmax over j of q_i * k_j``, and state i becomes ``f_i + scale * sum_j A[i, j] *
    x_j``. The result is the mean over i. The number of states may vary, and their order does not
    matter. ``scale`` is initialised to zero, so the untrained module computes the plain mean.

    Args:
        channels: ``C``, of the features.
        num_positions: number of displacements per axis, from 0, that have an embedding; half of the
            channels embed dx, the other half dy.
    """

    def __init__(self, channels: int, num_positions: int) -> None:
        super().__init__()
        self.channels = channels
        self.query = nn.Linear(channels, 1)
        self.key = nn.Linear(channels, 1)
        self.position = nn.Parameter(
            torch.randn(num_positions, 2, (channels + 1) // 2) * POSITION_STD
        )
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor, positions: Tensor, present: Tensor | None = None) -> Tensor:
        """Merge states: ``(N, P, C, *locations)`` -> ``(N, C, *locations)``.

        Args:
            features: ``(N, P, C, *locations)``, aligned.
            positions: ``(N, P, 2)`` long, displacement (dy, dx) in units of the first searched
                group's input.
            present: ``(N, P)`` bool, False for padding where an image has fewer than ``P`` states;
                None if no image has.
        """
        flat, embedded = _flat(features), self.embed(positions)
        received = self._received(flat, embedded, present)
        if present is None:
            mean = flat.mean(1)
        else:
            mean = (flat * present[:, :, None, None]).sum(1) / present.sum(1)[:, None, None]
        attended = torch.einsum('npl,npcl->ncl', received, flat.to(received))
        attended = attended + torch.einsum('npl,npc->ncl', received, embedded)
        merged = (mean + self.scale[:, None] * attended).to(features.dtype)
        return merged.view_as(features[:, 0])

    def received(
        self, features: Tensor, positions: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """See `forward`: attention ``(N, P)`` that each state receives, over queries and locations.

        It is a mean, and sums to 1 over states.
        """
        return self._received(_flat(features), self.embed(positions), present).mean(2)

    def embed(self, positions: Tensor) -> Tensor:
        """Embeddings of displacements (dy, dx): ``(..., 2)`` long -> ``(..., C)``."""
        positions = positions.to(self.position.device)
        halves = self.position[positions[..., 1], 0], self.position[positions[..., 0], 1]
        return torch.cat(halves, -1)[..., : self.channels]

    def _received(self, flat: Tensor, embedded: Tensor, present: Tensor | None) -> Tensor:
        """Attention that states receive at each location, ``(N, P, L)``, the mean over queries."""
        query, key = self._projections(flat, embedded)
        step = max(1, MAX_ENTRIES // (query[..., 0].numel() * query.shape[1]))
        parts = zip(query.split(step, 2), key.split(step, 2), strict=True)
        return torch.cat([_received_in_part(q, k, present) for q, k in parts], 2)

    def _projections(self, flat: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys ``(N, P, L)``; features and embeddings are projected apart."""
        query, key = (
            torch.einsum('npcl,c->npl', flat, layer.weight[0].to(flat)).float()
            + layer(embedded).float()
            for layer in (self.query, self.key)
        )
        return query, key


def _received_in_part(query: Tensor, key: Tensor, present: Tensor | None) -> Tensor:
    # Without checkpointing, the backward pass would keep the matrices of all parts in memory.
    if torch.is_grad_enabled() and query.requires_grad:
        return checkpoint(_mean_over_queries, query, key, present, use_reentrant=False)
    return _mean_over_queries(query, key, present)


def _mean_over_queries(query: Tensor, key: Tensor, present: Tensor | None) -> Tensor:
    """Attention that states receive, ``(N, P, L)``."""
    attention = _attention(query, key, present)
    if present is None:
        return attention.mean(1)
    count = present.sum(1)[:, None, None]
    return (attention * present[:, :, None, None]).sum(1) / count


def _attention(query: Tensor, key: Tensor, present: Tensor | None) -> Tensor:
    """``(N, P, P, L)``, softmax over the states that are present."""
    logits = query[:, :, None] * key[:, None]
    if present is not None:
        logits = logits.masked_fill(~present[:, None, :, None], -torch.inf)
    return logits.softmax(2)


def _flat(features: Tensor) -> Tensor:
    """``(N, P, C, L)``; a vector is a map of one location."""
    return features.flatten(3) if features.ndim > 3 else features.unsqueeze(3)
