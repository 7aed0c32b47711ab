"""The base model as plain tensors, and the arithmetic of one step over many rows at once.

Every linear layer runs once over the tokens of all rows laid end to end, so no padding is multiplied; only
attention is padded, in groups of rows of like length. Adapters are added as low-rank deltas to their own
rows (h = xW + (xA)B * scale, Hu et al. 2021, https://arxiv.org/abs/2106.09685), so rows of different
adapters share one step and one copy of the base weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.serving.linear import Linear

if TYPE_CHECKING:
    from worker.serving.lora import Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes of a Llama-family decoder; `context_tokens` is the longest sequence it may see."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context_tokens: int
    rms_epsilon: float

    @property
    def query_size(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder block."""

    input_norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    """Shape (D,): Qwen3 normalises each head; None elsewhere."""
    key_norm: Tensor | None
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGroup:
    """Rows attended in one call."""

    query_index: Tensor
    """(R * Q,) which of the step's N tokens each query is; padding repeats some token."""
    real_query: Tensor | None
    """(tokens,) positions in R * Q that are not padding; None when all are real."""
    token_index: Tensor
    """(tokens,) where each real query's output goes among the N tokens."""
    blocks: Tensor
    """(R * blocks per row,) block numbers, padded with the null block."""
    mask: Tensor
    """(R, 1, G * Q, L) 0 where a query may look, -inf elsewhere."""
    rows: int
    queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The tokens start..end of a step belong to rows of this adapter."""

    adapter: Adapter
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What one step computes. All tensors are on the decoder's device."""

    tokens: Tensor
    """(N,)"""
    positions: Tensor
    """(N,) place of each token in its own row."""
    kv_slots: Tensor
    """(N,) block * block_tokens + offset: where each token's key and value are kept."""
    fresh_blocks: Tensor
    """(any,) blocks handed out for this step: wiped first, so that nothing of an earlier owner remains."""
    groups: Sequence[AttentionGroup]
    segments: Sequence[Segment]
    logits_at: Tensor
    """(R,) the tokens whose next-token logits are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Frozen weights with their key/value memory. Not thread-safe: one step at a time."""

    shape: DecoderShape
    embedding: Tensor
    """(V, E)"""
    head: Linear
    """From hidden states to logits."""
    final_norm: Tensor
    layers: Sequence[Layer]
    cosine: Tensor
    """(context, 1, D) of the rotary embedding."""
    signed_sine: Tensor
    """(context, 1, D), first half negated, so that rotating is one roll and one multiply-add."""
    kv_memory: Tensor
    """(layers, 2, blocks, block_tokens, H, D), zero at first."""

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def block_tokens(self) -> int:
        return self.kv_memory.shape[3]

    @torch.inference_mode()
    def step(self, inputs: StepInputs) -> Tensor:
        """Compute all tokens of the step, keep their keys and values, and return logits (R, V) in float32."""
        if inputs.fresh_blocks.numel():
            self.kv_memory.index_fill_(2, inputs.fresh_blocks, 0)
        hidden = F.embedding(inputs.tokens, self.embedding)
        cosine, sine = self.cosine[inputs.positions], self.signed_sine[inputs.positions]
        for index, layer in enumerate(self.layers):
            normed = self._norm(hidden, layer.input_norm)
            qkv = _project(normed, layer.qkv, index, "qkv", inputs.segments)
            attended = self._attend(index, layer, qkv, cosine, sine, inputs)
            hidden += _project(attended, layer.o, index, "o", inputs.segments)
            normed = self._norm(hidden, layer.mlp_norm)
            gate, up = _project(normed, layer.gate_up, index, "gate_up", inputs.segments).chunk(2, dim=-1)
            hidden += _project(F.silu(gate).mul_(up), layer.down, index, "down", inputs.segments)
        last = self._norm(hidden[inputs.logits_at], self.final_norm)
        return self.head(last).float()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.shape.rms_epsilon)

    def _attend(
        self, index: int, layer: Layer, qkv: Tensor, cosine: Tensor, sine: Tensor, inputs: StepInputs
    ) -> Tensor:
        """Attention output (N, heads * D), after writing this step's keys and values to memory."""
        shape = self.shape
        heads = qkv.view(len(qkv), shape.heads + 2 * shape.kv_heads, shape.head_size)
        rotating, values = torch.split(heads, [shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = torch.split(rotating, [shape.heads, shape.kv_heads], dim=1)
            rotating = torch.cat(
                (self._norm(queries, layer.query_norm), self._norm(keys, layer.key_norm)), dim=1
            )
        rotated = torch.addcmul(rotating * cosine, rotating.roll(shape.head_size // 2, -1), sine)
        key_memory, value_memory = self.kv_memory[index]
        key_memory.flatten(0, 1).index_copy_(0, inputs.kv_slots, rotated[:, shape.heads :])
        value_memory.flatten(0, 1).index_copy_(0, inputs.kv_slots, values)
        queries = rotated[:, : shape.heads]
        out = torch.empty_like(queries)
        for group in inputs.groups:
            attended = self._attend_group(queries, key_memory, value_memory, group)
            if group.real_query is not None:
                attended = attended[group.real_query]
            out.index_copy_(0, group.token_index, attended)
        return out.flatten(1)

    def _attend_group(
        self, queries: Tensor, key_memory: Tensor, value_memory: Tensor, group: AttentionGroup
    ) -> Tensor:
        """Output (R * Q, heads, D). Query heads that share a key/value head are laid out as further queries
        of it, so grouped attention needs no repeated keys."""
        shape = self.shape
        rows, per_kv = group.rows, shape.heads // shape.kv_heads
        q = queries[group.query_index].view(rows, group.queries, shape.kv_heads, per_kv, shape.head_size)
        q = q.permute(0, 2, 3, 1, 4).reshape(rows, shape.kv_heads, per_kv * group.queries, shape.head_size)
        k, v = (
            memory[group.blocks].view(rows, -1, shape.kv_heads, shape.head_size).transpose(1, 2)
            for memory in (key_memory, value_memory)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask)
        out = out.view(rows, shape.kv_heads, per_kv, group.queries, shape.head_size)
        return out.permute(0, 3, 1, 2, 4).reshape(rows * group.queries, shape.heads, shape.head_size)


def _project(x: Tensor, linear: Linear, layer: int, name: str, segments: Sequence[Segment]) -> Tensor:
    """x through the base weight, plus each segment's own low-rank delta."""
    out = linear(x)
    for segment in segments:
        delta = segment.adapter.delta(layer, name)
        if delta is not None:
            part = slice(segment.start, segment.end)
            out[part].addmm_(torch.mm(x[part], delta.down), delta.up)
    return out
