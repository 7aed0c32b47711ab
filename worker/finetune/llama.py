"""The fast path: a Llama decoder's forward and backward pass written out for LoRA training.

What it saves over running the model under autograd, none of it approximate:

- positions shared by rows are computed once and padding never (`packing.py`);
- q, k, v and gate, up are one product each, adapters included (`linear.py`);
- norm weights are folded into the matrices behind them;
- no gradient is formed for frozen weights or for the embeddings, the last layer runs at the answers only,
  and only there are logits computed, a block of rows at a time;
- activations are written once and gradients of the residual stream are added in place.

Symbols: n = x / rms(x), with the norm's weight folded away; rms(x) = sqrt(mean(x^2) + eps).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from worker.finetune.adapters import adapter_settings, write_adapter
from worker.finetune.attention import AttentionTrace, attend, attend_backward
from worker.finetune.batches import Arrangement
from worker.finetune.dataset import TokenRow
from worker.finetune.head import likeliest, mean_loss_and_grad
from worker.finetune.linear import AdaptedLinear, Adapter
from worker.finetune.packing import AttentionOutputs, HeadCounts, PackedStep, pack

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def supports(model: Any, target_modules: tuple[str, ...] | None) -> bool:
    """Whether `LlamaTrainee` computes exactly this model with adapters on exactly these modules."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type == "llama"
        and not config.attention_bias
        and not config.mlp_bias
        and not config.attention_dropout
        and config.hidden_act == "silu"
        and rope.get("rope_type") == "default"
        and (target_modules is None or set(target_modules) == set(PROJECTIONS))
    )


@dataclass(slots=True, kw_only=True)
class _Trace:
    """What one layer's backward pass needs of its forward pass."""

    attention_input_U: torch.Tensor
    attention_rms_U: torch.Tensor
    attention: AttentionTrace
    output_input_U: torch.Tensor
    mlp_input_U: torch.Tensor
    mlp_rms_U: torch.Tensor
    gate_up_UF: torch.Tensor
    silu_UF: torch.Tensor
    down_input_U: torch.Tensor


class _Layer:
    """One decoder layer: x += O(attention(QKV(n))); x += Down(silu(Gate(n)) * Up(n))."""

    def __init__(
        self, module: Any, adapters: Mapping[str, Adapter], heads: HeadCounts, scaling: float
    ) -> None:
        attention, mlp = module.self_attn, module.mlp

        def fused(owner: Any, names: Sequence[str], norm: Any = None) -> AdaptedLinear:
            return AdaptedLinear(
                [getattr(owner, name).weight for name in names],
                [adapters[name] for name in names],
                scaling=scaling,
                input_scale=None if norm is None else norm.weight,
            )

        self._qkv = fused(attention, PROJECTIONS[:3], module.input_layernorm)
        self._output = fused(attention, PROJECTIONS[3:4])
        self._gate_up = fused(mlp, PROJECTIONS[4:6], module.post_attention_layernorm)
        self._down = fused(mlp, PROJECTIONS[6:])
        self._epsilon = module.input_layernorm.variance_epsilon
        self._heads = heads

    def refresh(self) -> None:
        for linear in (self._qkv, self._output, self._gate_up, self._down):
            linear.refresh()

    def forward(
        self,
        x_UD: torch.Tensor,
        step: PackedStep,
        rotation: tuple[torch.Tensor, torch.Tensor],
        outputs: AttentionOutputs,
    ) -> tuple[torch.Tensor, _Trace]:
        """`x_UD` holds the kept positions' residual stream on return if `outputs` keeps all of them."""
        attention_input_U, attention_rms_U = self._normalise(x_UD, self._qkv)
        qkv_U = self._qkv.forward(attention_input_U)
        output_input_U = self._output.new_input(outputs.positions)
        attention = attend(
            qkv_U, step, rotation, self._heads, outputs, into=output_input_U[:, : self._output.in_features]
        )
        if outputs is not step.everywhere:
            x_UD = x_UD[step.answers_A]
        x_UD = self._output.forward(output_input_U, x_UD)
        mlp_input_U, mlp_rms_U = self._normalise(x_UD, self._gate_up)
        gate_up_UF = self._gate_up.forward(mlp_input_U)
        gate_UF, up_UF = gate_up_UF.chunk(2, dim=1)
        silu_UF = F.silu(gate_UF)
        down_input_U = self._down.new_input(len(x_UD))
        torch.mul(silu_UF, up_UF, out=down_input_U[:, : self._down.in_features])
        x_UD = self._down.forward(down_input_U, x_UD)
        return x_UD, _Trace(
            attention_input_U=attention_input_U,
            attention_rms_U=attention_rms_U,
            attention=attention,
            output_input_U=output_input_U,
            mlp_input_U=mlp_input_U,
            mlp_rms_U=mlp_rms_U,
            gate_up_UF=gate_up_UF,
            silu_UF=silu_UF,
            down_input_U=down_input_U,
        )

    def backward(
        self,
        grad_UD: torch.Tensor,
        trace: _Trace,
        step: PackedStep,
        rotation: tuple[torch.Tensor, torch.Tensor],
        outputs: AttentionOutputs,
        *,
        first: bool,
    ) -> torch.Tensor:
        """The residual stream's gradient before this layer, given the one behind it (changed in place).

        For the `first` layer only the adapters' gradients are formed and the return value is meaningless.
        """
        product_grad_UF = self._down.backward(grad_UD, trace.down_input_U)
        assert product_grad_UF is not None
        gate_UF, up_UF = trace.gate_up_UF.chunk(2, dim=1)
        gate_up_grad_UF = torch.empty_like(trace.gate_up_UF)
        gate_grad_UF, up_grad_UF = gate_up_grad_UF.chunk(2, dim=1)
        torch.mul(product_grad_UF, trace.silu_UF, out=up_grad_UF)
        gate_grad_UF.copy_(torch.ops.aten.silu_backward(product_grad_UF.mul_(up_UF), gate_UF))
        normal_grad_UD = self._gate_up.backward(gate_up_grad_UF, trace.mlp_input_U)
        self._normalise_backward(normal_grad_UD, trace.mlp_input_U, trace.mlp_rms_U, grad_UD)

        output_grad_U = self._output.backward(grad_UD, trace.output_input_U)
        assert output_grad_U is not None
        qkv_grad_U = attend_backward(output_grad_U, trace.attention, step, rotation, self._heads, outputs)
        normal_grad_UD = self._qkv.backward(qkv_grad_U, trace.attention_input_U, needs_input_grad=not first)
        if first:
            return grad_UD
        if outputs is not step.everywhere:
            everywhere_UD = grad_UD.new_zeros(len(step.input_ids_U), grad_UD.shape[1])
            everywhere_UD[step.answers_A] = grad_UD
            grad_UD = everywhere_UD
        self._normalise_backward(normal_grad_UD, trace.attention_input_U, trace.attention_rms_U, grad_UD)
        return grad_UD

    def _normalise(self, x_UD: torch.Tensor, target: AdaptedLinear) -> tuple[torch.Tensor, torch.Tensor]:
        """n in an extended input for `target`, and 1 / rms in fp32 (U, 1)."""
        extended_U = target.new_input(len(x_UD))
        return extended_U, normalise(x_UD, self._epsilon, out=extended_U[:, : target.in_features])

    def _normalise_backward(
        self,
        normal_grad_UD: torch.Tensor | None,
        extended_U: torch.Tensor,
        inverse_rms_U: torch.Tensor,
        grad_UD: torch.Tensor,
    ) -> None:
        assert normal_grad_UD is not None
        normalise_backward(normal_grad_UD, extended_U[:, : grad_UD.shape[1]], inverse_rms_U, into=grad_UD)


def normalise(x_UD: torch.Tensor, epsilon: float, *, out: torch.Tensor) -> torch.Tensor:
    """Write n = x / rms(x) to `out` and return 1 / rms(x), (U, 1), in fp32 at least."""
    wide = torch.promote_types(x_UD.dtype, torch.float32)
    squares_U = torch.linalg.vector_norm(x_UD, dim=1, keepdim=True, dtype=wide).square_()
    inverse_rms_U: torch.Tensor = squares_U.div_(x_UD.shape[1]).add_(epsilon).rsqrt_()
    torch.mul(x_UD, inverse_rms_U, out=out)
    return inverse_rms_U


def normalise_backward(
    normal_grad_UD: torch.Tensor, n_UD: torch.Tensor, inverse_rms_U: torch.Tensor, *, into: torch.Tensor
) -> None:
    """Add dL/dx = (dL/dn - n mean(n dL/dn)) / rms to `into`."""
    mean_U = (normal_grad_UD * n_UD).mean(dim=1, keepdim=True, dtype=inverse_rms_U.dtype)
    into.addcmul_(normal_grad_UD, inverse_rms_U.to(into.dtype))
    into.addcmul_(n_UD, (mean_U * inverse_rms_U).to(into.dtype), value=-1)


class LlamaTrainee:
    """A `Trainee` for Llama models with adapters on all seven linear layers of each block.

    Consumes `model`: its decoder weights are copied into fused matrices and released.
    """

    arrangement = Arrangement.ANY

    def __init__(self, model: Any, *, lora_rank: int, lora_alpha: int, seed: int) -> None:
        config, decoder = model.config, model.model
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._heads = HeadCounts(query=config.num_attention_heads, key_value=config.num_key_value_heads)
        self._embeddings_VD = decoder.embed_tokens.weight.detach()
        self._head_VD = model.lm_head.weight.detach()
        self._norm_weight_D = decoder.norm.weight.detach()
        self._epsilon = decoder.norm.variance_epsilon
        self._device = self._embeddings_VD.device
        exponent_W = torch.arange(0, head_size, 2, dtype=torch.float32, device=self._device) / head_size
        self._frequency_W = config.rope_parameters["rope_theta"] ** -exponent_W
        shapes = {
            name: tuple(module.weight.shape)
            for name, module in decoder.layers[0].named_modules()
            if name.endswith(PROJECTIONS)
        }
        n_layers = len(decoder.layers)
        size = n_layers * sum(lora_rank * (rows + columns) for rows, columns in shapes.values())
        self._flat = torch.zeros(size, device=self._device)
        self._flat.grad = torch.zeros_like(self._flat)
        self._adapters = dict(self._carve(shapes, n_layers, lora_rank))
        self._initialise(seed)
        self._settings = adapter_settings(
            "lora", lora_rank=lora_rank, lora_alpha=lora_alpha, target_modules=PROJECTIONS
        )
        self._layers = []
        for index in range(n_layers):
            of_layer = {name.rpartition(".")[2]: self._adapters[f"{index}.{name}"] for name in shapes}
            self._layers.append(
                _Layer(decoder.layers[index], of_layer, self._heads, scaling=lora_alpha / lora_rank)
            )
            decoder.layers[index] = torch.nn.Identity()

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return [self._flat]

    def write(self, folder: Path, *, base_model: str) -> None:
        write_adapter(folder, self.adapter_state(), self._settings, base_model=base_model)

    def adapter_state(self) -> Mapping[str, torch.Tensor]:
        """The adapter in fp32 under the names of peft's `adapter_model.safetensors`."""
        state = {}
        for name, adapter in self._adapters.items():
            prefix = f"base_model.model.model.layers.{name}"
            state[f"{prefix}.lora_A.weight"] = adapter.a.detach().cpu().clone()
            state[f"{prefix}.lora_B.weight"] = adapter.b.detach().cpu().clone()
        return state

    @torch.no_grad()
    def backpropagate(self, step: Sequence[TokenRow]) -> float:
        packed = pack(step, self._heads, self._device)
        rotation = self._rotation(packed.place_U)
        x_UD = self._embeddings_VD[packed.input_ids_U]
        traces: list[_Trace] = []
        kept = self._kept(packed)
        for layer, outputs in zip(self._layers, kept, strict=True):
            layer.refresh()
            x_UD, trace = layer.forward(x_UD, packed, rotation, outputs)
            traces.append(trace)

        n_AD = torch.empty_like(x_UD)
        inverse_rms_A = normalise(x_UD, self._epsilon, out=n_AD)
        loss, hidden_grad_AD = mean_loss_and_grad(
            n_AD * self._norm_weight_D, self._head_VD, packed.hidden_N, packed.labels_N, packed.weights_N
        )
        grad_UD = torch.zeros_like(n_AD)
        normalise_backward(hidden_grad_AD * self._norm_weight_D, n_AD, inverse_rms_A, into=grad_UD)

        for index in reversed(range(len(self._layers))):
            grad_UD = self._layers[index].backward(
                grad_UD, traces.pop(), packed, rotation, kept[index], first=index == 0
            )
        return loss

    @torch.no_grad()
    def predict(self, step: Sequence[TokenRow]) -> list[int]:
        packed = pack(step, self._heads, self._device)
        rotation = self._rotation(packed.place_U)
        x_UD = self._embeddings_VD[packed.input_ids_U]
        for layer, outputs in zip(self._layers, self._kept(packed), strict=True):
            layer.refresh()
            x_UD, _ = layer.forward(x_UD, packed, rotation, outputs)
        n_AD = torch.empty_like(x_UD)
        normalise(x_UD, self._epsilon, out=n_AD)
        return likeliest(n_AD * self._norm_weight_D, self._head_VD, packed.hidden_N)

    def _kept(self, packed: PackedStep) -> list[AttentionOutputs]:
        """Which positions each layer computes: the last one those that predict a label only."""
        return [packed.everywhere] * (len(self._layers) - 1) + [packed.at_answers]

    def _rotation(self, place_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of the rotary angles (Su et al. 2021, arXiv 2104.09864), each (U, 1, W)."""
        angle_UW = place_U[:, None].float() * self._frequency_W
        dtype = self._embeddings_VD.dtype
        return angle_UW.cos().to(dtype)[:, None, :], angle_UW.sin().to(dtype)[:, None, :]

    def _carve(
        self, shapes: Mapping[str, tuple[int, ...]], n_layers: int, rank: int
    ) -> Iterator[tuple[str, Adapter]]:
        """Every adapter as views of the flat parameter and its gradient, by `<layer>.<module>`."""
        grad = self._flat.grad
        assert grad is not None
        offset = 0
        for index in range(n_layers):
            for name, (rows, columns) in shapes.items():
                middle, end = offset + rank * columns, offset + rank * (columns + rows)
                yield (
                    f"{index}.{name}",
                    Adapter(
                        a=self._flat[offset:middle].view(rank, columns),
                        b=self._flat[middle:end].view(rows, rank),
                        a_grad=grad[offset:middle].view(rank, columns),
                        b_grad=grad[middle:end].view(rows, rank),
                    ),
                )
                offset = end

    def _initialise(self, seed: int) -> None:
        """As peft does: A uniform in +-1/sqrt(in) (its Kaiming initialisation with a = sqrt(5)), B zero."""
        generator = torch.Generator().manual_seed(seed)
        for adapter in self._adapters.values():
            bound = adapter.a.shape[1] ** -0.5
            values = torch.rand(adapter.a.shape, generator=generator) * (2 * bound) - bound
            adapter.a.copy_(values)
