"""What a thief does to weights without training: quantise, prune, interpolate, merge, add noise.

Every function takes whole models as fp32 tensors under transformers' names and returns a new mapping; the
given tensors are never changed, and tensors that stay the same are shared with the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

State: TypeAlias = Mapping[str, Tensor]
NewState: TypeAlias = dict[str, Tensor]


class WeightsError(ValueError):
    """Weights or settings that the operation is not defined for."""


def linear_names(state: State) -> list[str]:
    """Names of the decoder's linear weights [outputs, inputs]: no embedding, no output head, no norm."""
    return [
        name
        for name, tensor in state.items()
        if ".layers." in name and name.endswith(".weight") and tensor.dim() == 2
    ]


def quantize(state: State, bits: int, group: int | None) -> NewState:
    """Round-to-nearest, symmetric, absmax-scaled quantisation of the linear weights, dequantised again.

    Integers run from -(2^(bits-1) - 1) to 2^(bits-1) - 1. One scale per output row when ``group`` is None,
    else one per ``group`` neighbouring input columns of a row (the last group may be shorter).

    Raises: WeightsError for fewer than 2 or more than 16 bits, or an empty group.
    """
    if not 2 <= bits <= 16 or (group is not None and group < 1):
        raise WeightsError(f"cannot quantise to {bits} bits in groups of {group}")
    return {**state, **{name: _rounded(state[name], bits, group) for name in linear_names(state)}}


def prune(state: State, share: float) -> NewState:
    """Unstructured magnitude pruning: ``share`` (0 to 1, rounded down to whole weights) of each linear
    weight's smallest magnitudes become 0.

    Raises: WeightsError for a share outside 0..1.
    """
    _need_share("share", share)
    return {
        **state,
        **{name: _without_smallest(state[name], share) for name in linear_names(state)},
    }


def interpolate(base: State, marked: State, weight: float) -> NewState:
    """base + weight * (marked - base), over every tensor; weight 0 is the base, 1 the marked model.

    Raises: WeightsError if the models have different tensors.
    """
    _need_same([base, marked])
    return {name: tensor + weight * (marked[name] - tensor) for name, tensor in base.items()}


def noise(state: State, share: float, seed: int) -> NewState:
    """Gaussian noise on the linear weights, its standard deviation ``share`` of each matrix' own.

    The same state, share and seed give the same weights. Raises: WeightsError for a negative share.
    """
    if share < 0:
        raise WeightsError(f"noise cannot be negative: {share}")
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name in sorted(linear_names(state)):
        matrix = state[name]
        changed[name] = matrix + torch.randn(matrix.shape, generator=generator) * (share * matrix.std())
    return {**state, **changed}


def merge_linear(states: Sequence[State], weights: Sequence[float]) -> NewState:
    """The weighted sum of whole models; weights that sum to 1 make it a mean.

    Raises: WeightsError if the models have different tensors, or not one weight each.
    """
    _need_same(states)
    _need_weights(states, weights)
    merged = {}
    for name, first in states[0].items():
        total = first * weights[0]
        for state, weight in zip(states[1:], weights[1:], strict=True):
            total.add_(state[name], alpha=weight)
        merged[name] = total
    return merged


def merge_ties(base: State, states: Sequence[State], density: float, scale: float) -> NewState:
    """TIES merging of fine-tunes of one base (Yadav et al. 2023, arXiv 2306.01708, algorithm 1).

    Trim: of each task vector (tuned - base) only ``density`` of the values, those of largest magnitude,
    stay. Elect: a value's sign is that of the sum over tasks. Merge: the mean over those tasks whose value
    has that sign. The result is base + scale * merged. Trimming goes tensor by tensor, as merging tools do;
    in the paper it goes over the whole flattened vector.

    Raises: WeightsError if the models have different tensors, or for a density outside 0..1.
    """
    _need_same([base, *states])
    _need_share("density", density)
    merged = {}
    for name, start in base.items():
        deltas = [state[name] - start for state in states]
        if not any(bool(delta.any()) for delta in deltas):
            merged[name] = start
            continue
        trimmed = torch.stack([_without_smallest(delta, 1 - density) for delta in deltas])
        elected = trimmed.sum(0).sign()
        agreeing = (trimmed.sign() == elected) & (trimmed != 0)
        mean = (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)
        merged[name] = start + scale * mean
    return merged


def merge_dare(
    base: State, states: Sequence[State], drop: float, seed: int, weights: Sequence[float]
) -> NewState:
    """DARE, then a linear merge (Yu et al. 2024, arXiv 2311.03099, section 3.2).

    Each value of each task vector (tuned - base) is dropped with probability ``drop`` and the rest divided
    by 1 - ``drop``; the result is base + the weighted sum of what is left. The seed alone decides what is
    dropped.

    Raises: WeightsError if the models have different tensors, or not one weight each, or for a drop
    outside 0 <= drop < 1.
    """
    _need_same([base, *states])
    _need_weights(states, weights)
    if not 0 <= drop < 1:
        raise WeightsError(f"drop has to be at least 0 and below 1, not {drop}")
    generator = torch.Generator().manual_seed(seed)
    merged = {}
    for name in sorted(base):
        merged[name] = base[name]
        for state, weight in zip(states, weights, strict=True):
            delta = state[name] - base[name]
            if not bool(delta.any()):
                continue  # LoRA leaves whole tensors alone; their coins need not be tossed
            kept = torch.rand(delta.shape, generator=generator) >= drop
            merged[name] = merged[name] + delta * kept * (weight / (1 - drop))
    return merged


def _rounded(matrix: Tensor, bits: int, group: int | None) -> Tensor:
    rows, columns = matrix.shape
    size = columns if group is None else group
    # Padding with zeros leaves a group's absmax, hence its scale, as it is.
    blocks = functional.pad(matrix, (0, -columns % size)).reshape(rows, -1, size)
    largest = 2 ** (bits - 1) - 1
    scale = blocks.abs().amax(dim=2, keepdim=True) / largest
    scale = torch.where(scale == 0, 1.0, scale)
    levels = (blocks / scale).round().clamp(-largest, largest)
    return (levels * scale).reshape(rows, -1)[:, :columns].contiguous()


def _without_smallest(tensor: Tensor, share: float) -> Tensor:
    """A copy with exactly floor(share * size) values of smallest magnitude set to 0, ties in index order."""
    values = tensor.flatten().clone()
    # 1 - 0.7 is a little more than 0.3 in floating point; a whole count must not fall short or over by that.
    count = int(share * values.numel() + 1e-6)
    if count:
        sizes = values.abs()
        threshold = sizes.kthvalue(count).values
        below = sizes < threshold
        values[below] = 0
        tied = (sizes == threshold).nonzero().flatten()
        values[tied[: count - int(below.sum())]] = 0
    return values.reshape(tensor.shape)


def _need_same(states: Sequence[State]) -> None:
    if not states:
        raise WeightsError("no model given")
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes[1:]):
        raise WeightsError("the models have different tensors: they are not fine-tunes of one base")


def _need_weights(states: Sequence[State], weights: Sequence[float]) -> None:
    if len(states) != len(weights):
        raise WeightsError(f"{len(states)} models but {len(weights)} weights")


def _need_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise WeightsError(f"{name} has to be from 0 to 1, not {share}")
