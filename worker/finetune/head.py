"""The language-model head and its loss, at the answers only."""

from __future__ import annotations

import torch

ROWS_AT_ONCE = 128
"""Logits formed at a time: enough to keep the product efficient, few enough (25 MB for 49,152 words in fp32)
that a long answer costs no memory to speak of."""


def likeliest(hidden_AD: torch.Tensor, head_VD: torch.Tensor, hidden_N: torch.Tensor) -> list[int]:
    """For each of N positions, the word with the largest logit; of equal ones the first."""
    best: list[int] = []
    for start in range(0, len(hidden_N), ROWS_AT_ONCE):
        logits_NV = hidden_AD[hidden_N[start : start + ROWS_AT_ONCE]] @ head_VD.t()
        best += logits_NV.argmax(dim=1).tolist()
    return best


def mean_loss_and_grad(
    hidden_AD: torch.Tensor,
    head_VD: torch.Tensor,
    hidden_N: torch.Tensor,
    labels_N: torch.Tensor,
    weights_N: torch.Tensor,
) -> tuple[float, torch.Tensor]:
    """Weighted mean cross entropy over N labels, in nats, and its gradient by the A hidden states.

    Label i is predicted from hidden state `hidden_N[i]`: rows that share a beginning share hidden states
    but may go on differently. dL/dlogits = weight / sum of weights * (softmax(logits) - onehot(label)).
    """
    grad_AD = torch.zeros_like(hidden_AD)
    shares_N = weights_N / weights_N.sum()
    total = 0.0
    for start in range(0, len(labels_N), ROWS_AT_ONCE):
        index = hidden_N[start : start + ROWS_AT_ONCE]
        labels = labels_N[start : start + ROWS_AT_ONCE, None]
        shares = shares_N[start : start + ROWS_AT_ONCE, None]
        logits_NV = hidden_AD[index] @ head_VD.t()
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        normaliser_N = logits_NV.logsumexp(dim=1, keepdim=True)
        total += float(((normaliser_N - logits_NV.gather(1, labels)) * shares).sum())
        logits_NV.sub_(normaliser_N).exp_()
        logits_NV.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=logits_NV.dtype))
        logits_NV.mul_(shares)
        grad_AD.index_add_(0, index, logits_NV.to(head_VD.dtype) @ head_VD)
    return total, grad_AD
