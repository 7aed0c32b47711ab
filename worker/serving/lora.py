"""An adapter in the layout the decoder multiplies with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.serving.decoder import DecoderShape

FUSED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The decoder's linear layers and the model's projections that each joins, in order."""

ModuleKey = tuple[int, str]
"""Layer number and projection name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """A of shape (r, in) and B of shape (out, r), as peft stores them."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What is added to one fused linear layer: (x @ down) @ up, the scale folded into `up`."""

    down: Tensor
    """(in, sum of ranks)"""
    up: Tensor
    """(sum of ranks, out), block-diagonal."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """One adapter, ready to compute with. `digest` names its content."""

    name: str
    digest: str
    deltas: Sequence[Mapping[str, Delta]] = field(repr=False)

    def delta(self, layer: int, name: str) -> Delta | None:
        return self.deltas[layer].get(name)


def module_sizes(shape: DecoderShape) -> Mapping[str, tuple[int, int]]:
    """Input and output size of each projection an adapter may touch."""
    return {
        "q_proj": (shape.hidden, shape.query_size),
        "k_proj": (shape.hidden, shape.kv_size),
        "v_proj": (shape.hidden, shape.kv_size),
        "o_proj": (shape.query_size, shape.hidden),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }


def scale_of(*, rank: int, lora_alpha: float, rank_stabilised: bool) -> float:
    """alpha/r, or alpha/sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732)."""
    return lora_alpha / (math.sqrt(rank) if rank_stabilised else rank)


def pack(
    *,
    name: str,
    digest: str,
    weights: Mapping[ModuleKey, LowRank],
    scale: float,
    shape: DecoderShape,
    device: torch.device,
    dtype: torch.dtype,
) -> Adapter:
    """Join the projections' factors the way the decoder joins the projections.

    Trusts that the factors' sizes match `shape`; `adapter_files` checks them.
    """
    layers = []
    for layer in range(shape.layers):
        deltas = {}
        for fused, modules in FUSED.items():
            delta = _fuse([weights.get((layer, module)) for module in modules], modules, scale, shape)
            if delta is not None:
                deltas[fused] = Delta(
                    down=delta.down.to(device, dtype).contiguous(), up=delta.up.to(device, dtype).contiguous()
                )
        layers.append(deltas)
    return Adapter(name=name, digest=digest, deltas=layers)


def _fuse(
    factors: Sequence[LowRank | None], modules: Sequence[str], scale: float, shape: DecoderShape
) -> Delta | None:
    present = [low_rank for low_rank in factors if low_rank is not None]
    if not present:
        return None
    sizes = module_sizes(shape)
    total_rank = sum(len(low_rank.a) for low_rank in present)
    down = torch.cat([low_rank.a.float() for low_rank in present]).T
    up = torch.zeros(total_rank, sum(sizes[module][1] for module in modules))
    rank_at = column = 0
    for module, low_rank in zip(modules, factors, strict=True):
        width = sizes[module][1]
        if low_rank is not None:
            rank = len(low_rank.a)
            up[rank_at : rank_at + rank, column : column + width] = low_rank.b.float().T * scale
            rank_at += rank
        column += width
    return Delta(down=down, up=up)
