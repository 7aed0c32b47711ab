"""A frozen matrix to multiply with, laid out for the processor it is on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PACKED_FOR_TOKENS = 64
"""oneDNN lays weights out for a number of rows; measured, the layout for this one serves 1 to 512 as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """One or more projections of the same input, side by side."""

    weight: Tensor
    """(out, in), or oneDNN's own blocked layout of it when `is_packed`."""
    bias: Tensor | None
    is_packed: bool

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, in) times the matrix: (N, out)."""
        if self.is_packed:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return packed
        return F.linear(x, self.weight, self.bias)


def join(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, device: torch.device, pack: bool
) -> Linear:
    """The matrices (out, in) as one.

    Packing copies the weights into the layout that oneDNN multiplies with, which for 4 to 64 rows takes about
    half the time of multiplying with them as they are. Whether it can be done is `can_pack`'s to say.
    """
    # Also copies a single matrix: see `loading` on why nothing may stay a part of the model it came from.
    weight = torch.cat(list(weights))
    bias = None
    if any(part is not None for part in biases):
        bias = torch.cat(
            [
                matrix.new_zeros(len(matrix)) if part is None else part
                for matrix, part in zip(weights, biases, strict=True)
            ]
        )
        bias = bias.detach().to(device)
    weight = weight.detach().to(device)
    if pack:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_TOKENS)
    return Linear(weight=weight, bias=bias, is_packed=pack)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of torch packs weights of that type on that device. These operators are what torch's
    own compiler emits for frozen models; they are not public, so they are asked for before they are used."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        weight = torch.ones(8, 4, dtype=dtype)
        linear = join([weight], [None], device=device, pack=True)
        return bool(torch.equal(linear(torch.ones(2, 4, dtype=dtype)), torch.full((2, 8), 4, dtype=dtype)))
    except (AttributeError, RuntimeError):
        return False
