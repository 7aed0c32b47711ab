"""Frozen linear layers with LoRA adapters, several of the same input fused into one matrix product.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): y = W x + s B A x with s = lora_alpha / rank; W is
frozen, A and B are learned. With z = A x, this is one product of the extended matrix [W, s B] with the
extended vector [x, z]; and the same extended matrix, multiplied from the left by dL/dy, gives W's share of
dL/dx and dL/dz at once. So the adapters' outer halves cost no pass over memory of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One layer's A (R, in) and B (out, R) in fp32, with their gradients: views of flat buffers."""

    a: torch.Tensor
    b: torch.Tensor
    a_grad: torch.Tensor
    b_grad: torch.Tensor


class AdaptedLinear:
    """Layers of one input x, their outputs side by side.

    `input_scale` (in) is multiplied into the input first; a preceding norm's weight goes here, and is folded
    into W once and into A once a step, so that nobody multiplies activations by it.
    """

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        adapters: Sequence[Adapter],
        *,
        scaling: float,
        input_scale: torch.Tensor | None = None,
    ) -> None:
        weight = torch.cat([weight.detach() for weight in weights])
        if input_scale is not None:
            weight = (weight.float() * input_scale.detach().float()).to(weight.dtype)
        self._adapters = adapters
        self._scaling = scaling
        self._input_scale = None if input_scale is None else input_scale.detach().float()
        self._rank = adapters[0].a.shape[0]
        self.in_features = weight.shape[1]
        self.width = self.in_features + self._rank * len(adapters)
        """Columns of the extended input."""
        self._extended = weight.new_zeros(weight.shape[0], self.width)
        self._extended[:, : self.in_features] = weight
        self._down = weight.new_zeros(self._rank * len(adapters), self.in_features)

    def refresh(self) -> None:
        """Take over the adapters' current values; once before each step."""
        row, column = 0, self.in_features
        for index, adapter in enumerate(self._adapters):
            rows = slice(row, row + adapter.b.shape[0])
            self._extended[rows, column : column + self._rank] = adapter.b * self._scaling
            a = adapter.a if self._input_scale is None else adapter.a * self._input_scale
            self._down[index * self._rank : (index + 1) * self._rank] = a
            row, column = rows.stop, column + self._rank

    def new_input(self, positions: int) -> torch.Tensor:
        """An extended input to be filled: the caller writes x into its first `in_features` columns."""
        return self._extended.new_empty(positions, self.width)

    def forward(self, extended_U: torch.Tensor, residual_U: torch.Tensor | None = None) -> torch.Tensor:
        """(U, out) for x in `extended_U`, whose last columns get z; added to `residual_U` in place if any."""
        x_U = extended_U[:, : self.in_features]
        extended_U[:, self.in_features :] = x_U @ self._down.t()
        if residual_U is None:
            return extended_U @ self._extended.t()
        return residual_U.addmm_(extended_U, self._extended.t())

    def backward(
        self, grad_U: torch.Tensor, extended_U: torch.Tensor, *, needs_input_grad: bool = True
    ) -> torch.Tensor | None:
        """Fill the adapters' gradients and return dL/dx (U, in), or None if nobody needs it."""
        inner = self.in_features
        if needs_input_grad:
            input_grad_U = grad_U @ self._extended
            z_grad_U = input_grad_U[:, inner:]
        else:
            z_grad_U = grad_U @ self._extended[:, inner:]
        a_grad = z_grad_U.t() @ extended_U[:, :inner]
        b_grad = grad_U.t() @ extended_U[:, inner:]
        row = 0
        for index, adapter in enumerate(self._adapters):
            ranks = slice(index * self._rank, (index + 1) * self._rank)
            rows = slice(row, row + adapter.b.shape[0])
            # z's gradient already carries the scaling, through s B; b's does not, for z does not.
            adapter.b_grad.copy_(b_grad[rows, ranks]).mul_(self._scaling)
            adapter.a_grad.copy_(a_grad[ranks])
            if self._input_scale is not None:
                adapter.a_grad.mul_(self._input_scale)
            row = rows.stop
        if not needs_input_grad:
            return None
        x_grad_U = input_grad_U[:, :inner]
        x_grad_U.addmm_(z_grad_U, self._down)
        return x_grad_U
