"""A Llama decoder with a stack of adapters: N independent trainings share every product with frozen weights.

One training of a small model leaves a GPU idle between launches. N of them, each with its own rows, adapters,
rate and gradient norm, are one batch: frozen weights multiply all of it at once, adapters by batched
products. Each is what `worker.finetune.llama` would train from the same rows, up to rounding.

Symbols: N trainings, S positions of a step (rows packed one after another), M answers, D width, L layers,
R rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PROJECTIONS = (
    ("self_attn.q_proj", "qkv"),
    ("self_attn.k_proj", "qkv"),
    ("self_attn.v_proj", "qkv"),
    ("self_attn.o_proj", "o"),
    ("mlp.gate_proj", "gate_up"),
    ("mlp.up_proj", "gate_up"),
    ("mlp.down_proj", "down"),
)
"""In the order in which the trainer draws initial values, with the product each is part of."""
GROUPS = ("qkv", "o", "gate_up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of the base model, from its config.json."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    theta: float

    @classmethod
    def read(cls, folder: Path) -> Shape:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        rope = config.get("rope_parameters") or config
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            epsilon=config["rms_norm_eps"],
            theta=rope["rope_theta"],
        )


class Weights:
    """Frozen weights on the device: of the base, or of a model changed by a thief."""

    def __init__(
        self, state: Mapping[str, Tensor], shape: Shape, *, device: torch.device, dtype: torch.dtype
    ):
        def take(name: str) -> Tensor:
            return state[f"model.{name}"].to(device=device, dtype=dtype)

        self.embeddings_VD = take("embed_tokens.weight")
        head = state.get("lm_head.weight")
        self.head_VD = self.embeddings_VD if head is None else head.to(device=device, dtype=dtype)
        self.norm_D = take("norm.weight")
        self.layers: list[dict[str, Tensor]] = []
        for index in range(shape.layers):
            layer = {
                "norm1": take(f"layers.{index}.input_layernorm.weight"),
                "norm2": take(f"layers.{index}.post_attention_layernorm.weight"),
            }
            for group in GROUPS:
                names = [name for name, of in PROJECTIONS if of == group]
                layer[group] = torch.cat([take(f"layers.{index}.{name}.weight") for name in names])
            self.layers.append(layer)


class Adapters:
    """N adapters in fp32. `down[group]` is (L, N, R x projections, in); `up[name]` is (L, N, out, R)."""

    def __init__(
        self, state: Mapping[str, Tensor], shape: Shape, seeds: Sequence[int], *, rank: int, scaling: float,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.rank, self.scaling, self.runs = rank, scaling, len(seeds)
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}
        sizes = {name: tuple(state[f"model.layers.0.{name}.weight"].shape) for name, _ in PROJECTIONS}
        for group in GROUPS:
            names = [name for name, of in PROJECTIONS if of == group]
            inner = sizes[names[0]][1]
            self.down[group] = torch.zeros(shape.layers, self.runs, rank * len(names), inner)
        for name, (outer, _) in sizes.items():
            self.up[name] = torch.zeros(shape.layers, self.runs, outer, rank, device=device)
        for run, seed in enumerate(seeds):
            # As the trainer does (worker.finetune.llama), so that equal seeds begin at equal values.
            generator = torch.Generator().manual_seed(seed)
            for index in range(shape.layers):
                places = dict.fromkeys(GROUPS, 0)
                for name, group in PROJECTIONS:
                    inner = sizes[name][1]
                    bound = inner**-0.5
                    values = torch.rand(rank, inner, generator=generator) * (2 * bound) - bound
                    self.down[group][index, run, places[group] : places[group] + rank] = values
                    places[group] += rank
        self.down = {group: tensor.to(device) for group, tensor in self.down.items()}
        for leaf in self.leaves():
            leaf.requires_grad_(True)

    def leaves(self) -> list[Tensor]:
        return [*self.down.values(), *self.up.values()]

    def cast(self, dtype: torch.dtype) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """Per layer, in the model's number format."""
        down = {name: tensor.to(dtype).unbind(0) for name, tensor in self.down.items()}
        up = {name: (tensor * self.scaling).to(dtype).unbind(0) for name, tensor in self.up.items()}
        layers = range(len(next(iter(down.values()))))
        return (
            [{name: parts[index] for name, parts in down.items()} for index in layers],
            [{name: parts[index] for name, parts in up.items()} for index in layers],
        )

    @torch.no_grad()
    def merged(self, state: Mapping[str, Tensor], run: int) -> dict[str, Tensor]:
        """Whole weights of one training, fp32, under transformers' names."""
        merged = dict(state)
        for index in range(next(iter(self.up.values())).shape[0]):
            places = dict.fromkeys(GROUPS, 0)
            for name, group in PROJECTIONS:
                a = self.down[group][index, run, places[group] : places[group] + self.rank]
                places[group] += self.rank
                key = f"model.layers.{index}.{name}.weight"
                merged[key] = state[key] + self.scaling * (self.up[name][index, run] @ a)
        return merged


Cast = tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]


class Decoder:
    """Forward of N trainings; autograd differentiates."""

    def __init__(self, shape: Shape, *, device: torch.device, dtype: torch.dtype) -> None:
        self._shape = shape
        self._dtype = dtype
        half = torch.arange(0, shape.head_size, 2, dtype=torch.float32, device=device) / shape.head_size
        self._frequency = shape.theta**-half

    def hidden(
        self,
        weights: Weights,
        cast: Cast | None,
        ids_NS: Tensor,
        place_NS: Tensor,
        row_NS: Tensor,
        answers_NM: Tensor,
    ) -> Tensor:
        """The normalised last hidden states (N, M, D) at `answers_NM`. Positions see the earlier ones of
        their own row (`row_NS`) only."""
        runs, length = ids_NS.shape
        shape = self._shape
        x = weights.embeddings_VD[ids_NS]
        angle = place_NS[..., None].float() * self._frequency
        cos, sin = (f(angle).to(self._dtype)[:, :, None, :] for f in (torch.cos, torch.sin))
        causal = torch.ones(length, length, dtype=torch.bool, device=ids_NS.device).tril()
        mask = (row_NS[:, :, None] == row_NS[:, None, :]) & causal
        mask = mask[:, None]
        for index, layer in enumerate(weights.layers):
            down, up = (None, None) if cast is None else (cast[0][index], cast[1][index])
            normal = _rms(x, layer["norm1"], shape.epsilon)
            q, k, v = _adapted(normal, layer["qkv"], "qkv", down, up, self._sizes(layer["qkv"]))
            q, k, v = (part.reshape(runs, length, -1, shape.head_size) for part in (q, k, v))
            q, k = (_rotate(part, cos, sin).transpose(1, 2) for part in (q, k))
            v = v.transpose(1, 2)
            repeats = shape.heads // shape.kv_heads
            k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            attended = attended.transpose(1, 2).reshape(runs, length, -1)
            x = x + _adapted(attended, layer["o"], "o", down, up)[0]
            normal = _rms(x, layer["norm2"], shape.epsilon)
            gate, rise = _adapted(normal, layer["gate_up"], "gate_up", down, up, 2)
            x = x + _adapted(F.silu(gate) * rise, layer["down"], "down", down, up)[0]
        picked = x.gather(1, answers_NM[..., None].expand(-1, -1, x.shape[2]))
        return _rms(picked, weights.norm_D, shape.epsilon)

    def _sizes(self, weight: Tensor) -> list[int]:
        shape = self._shape
        kv = shape.kv_heads * shape.head_size
        return [weight.shape[0] - 2 * kv, kv, kv]


def _rms(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _adapted(
    x: Tensor,
    weight: Tensor,
    group: str,
    down: dict[str, Tensor] | None,
    up: dict[str, Tensor] | None,
    parts: list[int] | int = 1,
) -> list[Tensor]:
    """W x + s B A x, one tensor for each projection of the group."""
    y = x @ weight.t()
    sizes = parts if isinstance(parts, list) else [weight.shape[0] // parts] * parts
    pieces = list(torch.split(y, sizes, dim=-1))
    if down is None or up is None:
        return pieces
    z = x @ down[group].transpose(1, 2)
    names = [name for name, of in PROJECTIONS if of == group]
    zs = z.chunk(len(names), dim=-1)
    return [
        torch.baddbmm(piece, part, up[name].transpose(1, 2))
        for piece, part, name in zip(pieces, zs, names, strict=True)
    ]
