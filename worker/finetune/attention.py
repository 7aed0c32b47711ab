"""Causal attention over a packed step, forward and backward, as plain batched products.

Training rows are short here, so the whole score matrix of a step fits in cache and products beat the
blockwise algorithms that avoid forming it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.finetune.packing import AttentionOutputs, HeadCounts, PackedStep

KEPT_SCORES = 1 << 24
"""Score matrices up to this many numbers a layer are kept for the backward pass; larger ones (long rows) are
formed again, because kept in every layer they would not fit."""


@dataclass(slots=True, kw_only=True)
class AttentionTrace:
    cells: torch.Tensor
    """Queries, keys and values by cell; see packing._Layout."""
    weights: torch.Tensor | None
    """(K * B, G * T, T), or None where they are formed again."""


def attend(
    qkv_U: torch.Tensor,
    step: PackedStep,
    rotation: tuple[torch.Tensor, torch.Tensor],
    heads: HeadCounts,
    outputs: AttentionOutputs,
    *,
    into: torch.Tensor,
) -> AttentionTrace:
    """Write the attention output of the kept positions, (positions, H * E), to `into`.

    `qkv_U` (U, (H + 2K) * E) is rotated in place. Softmax and scale as in Vaswani et al. 2017.
    """
    columns = heads.query + 2 * heads.key_value
    size = qkv_U.shape[1] // columns
    rotate_(qkv_U.view(-1, columns, size)[:, : heads.query + heads.key_value], *rotation)
    cells = qkv_U.view(-1, size).index_select(0, step.gather_cells)
    query, key, value = _split(cells, step, heads)
    weights = _weights(query, key, step)
    mixed = torch.bmm(weights, value)
    into.copy_(mixed.view(-1, size).index_select(0, outputs.from_cells).view(into.shape))
    return AttentionTrace(cells=cells, weights=weights if weights.numel() <= KEPT_SCORES else None)


def attend_backward(
    output_grad_U: torch.Tensor,
    trace: AttentionTrace,
    step: PackedStep,
    rotation: tuple[torch.Tensor, torch.Tensor],
    heads: HeadCounts,
    outputs: AttentionOutputs,
) -> torch.Tensor:
    """dL/d(qkv_U) (U, (H + 2K) * E) before the rotation, given dL/d(output) of the kept positions."""
    columns = heads.query + 2 * heads.key_value
    query, key, value = _split(trace.cells, step, heads)
    size = query.shape[-1]
    weights = _weights(query, key, step) if trace.weights is None else trace.weights
    by_head = output_grad_U.new_zeros(outputs.positions * heads.query + 1, size)  # the last row stays zero
    by_head[:-1].view(outputs.positions, -1).copy_(output_grad_U)
    mixed_grad = by_head.index_select(0, outputs.to_cells).view(query.shape)

    cells_grad = torch.empty_like(trace.cells)
    query_grad, key_grad, value_grad = _split(cells_grad, step, heads)
    torch.bmm(weights.transpose(1, 2), mixed_grad, out=value_grad)
    # Softmax: dL/ds = w * (dL/dw - sum(w * dL/dw)), then the scale of the scores.
    weights_grad = torch.bmm(mixed_grad, value.transpose(1, 2))
    scores_grad = torch.ops.aten._softmax_backward_data(weights_grad, weights, -1, weights.dtype)
    scores_grad.mul_(size**-0.5)
    torch.bmm(scores_grad, key, out=query_grad)
    torch.bmm(scores_grad.transpose(1, 2), query, out=key_grad)

    by_position = cells_grad.index_select(0, step.first_cells)
    if len(step.repeated_cells):
        repeated = cells_grad.index_select(0, step.repeated_cells)
        by_position.index_add_(0, step.repeated_targets, repeated)
    cosine, sine = rotation
    rotated = by_position.view(-1, columns, size)[:, : heads.query + heads.key_value]
    rotate_(rotated, cosine, -sine)
    return by_position.view(-1, columns * size)


def rotate_(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> None:
    """Rotate the pairs (x[i], x[i + E/2]) of the last axis in place; the transpose takes -sine."""
    first, second = x.chunk(2, dim=-1)
    turned = first * sine
    first.mul_(cosine).addcmul_(second, sine, value=-1)
    second.mul_(cosine).add_(turned)


def _weights(query: torch.Tensor, key: torch.Tensor, step: PackedStep) -> torch.Tensor:
    """(K * B, G * T, T). Padding lies behind a row's end, so the causal mask already hides it."""
    places = torch.arange(step.longest, device=query.device)
    hidden_TT = places[None, :] > places[:, None]
    mask_TT = query.new_zeros(step.longest, step.longest).masked_fill_(hidden_TT, float("-inf"))
    mask = mask_TT.repeat(query.shape[1] // step.longest, 1)
    scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    return torch.softmax(scores, dim=-1)


def _split(
    cells: torch.Tensor, step: PackedStep, heads: HeadCounts
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views: queries (K * B, G * T, E), keys and values (K * B, T, E)."""
    per_head = step.rows * step.longest
    sizes = [per_head * heads.query, per_head * heads.key_value, per_head * heads.key_value]
    query, key, value = torch.split(cells, sizes)
    batch, size = heads.key_value * step.rows, cells.shape[1]
    return query.view(batch, -1, size), key.view(batch, -1, size), value.view(batch, -1, size)
