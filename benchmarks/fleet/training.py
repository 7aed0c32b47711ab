"""N trainings, step by step, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.fleet.schedule import Arrays, Item, Plan, Step, arrays
from benchmarks.fleet.stacked import Adapters, Cast, Decoder, Weights
from worker.finetune.dataset import IGNORED, TokenRow
from worker.finetune.train import MAX_GRADIENT_NORM

BETAS = 0.9, 0.999
EPSILON = 1e-8
LOGITS_AT_ONCE = 1 << 29
"""Numbers in one block of logits."""

Report = Callable[[str], None]


class Fleet:
    """Trainings of one base model that go forward together."""

    def __init__(
        self, decoder: Decoder, base: Weights, adapters: Adapters, *, device: torch.device, dtype: torch.dtype
    ):
        self.decoder, self.base, self.adapters = decoder, base, adapters
        self._device, self._dtype = device, dtype
        self._first = [torch.zeros_like(leaf) for leaf in adapters.leaves()]
        self._second = [torch.zeros_like(leaf) for leaf in adapters.leaves()]
        self._count = torch.zeros(adapters.runs, device=device)
        self._snapshot: Cast | None = None
        self._sums = [torch.zeros_like(leaf) for leaf in adapters.leaves()]
        self._summed = torch.zeros(adapters.runs, device=device)

    def train(self, plans: Sequence[Plan], report: Report) -> list[list[float]]:
        """Every phase of every plan. Returns: the losses of each step (N each)."""
        losses = []
        phases = max(len(plan.phases) for plan in plans)
        for phase in range(phases):
            if phase:
                self._take_snapshot([len(plan.phases) > phase for plan in plans])
            steps: list[tuple[Step, ...]] = [
                plan.phases[phase] if phase < len(plan.phases) else () for plan in plans
            ]
            for number in range(max(len(of_run) for of_run in steps)):
                batch = arrays([of_run[number] if number < len(of_run) else None for of_run in steps])
                losses.append(self.step(batch))
                if number % 50 == 0:
                    report(f"phase {phase + 1} step {number}: {float(losses[-1].mean()):.3f}")
        return [loss.tolist() for loss in losses]

    def step(self, batch: Arrays) -> Tensor:
        """One optimizer step of every training. Returns: the losses (N)."""
        on = {name: torch.from_numpy(getattr(batch, name)).to(self._device) for name in Arrays.__slots__}
        places = (on["ids"], on["place"], on["row"], on["answers"])
        taught = None
        if bool(batch.anchored.any()):
            assert self._snapshot is not None, "an anchored row before there is a snapshot"
            with torch.no_grad():
                taught = self.decoder.hidden(self.base, self._snapshot, *places)
        hidden = self.decoder.hidden(self.base, self.adapters.cast(self._dtype), *places)
        leaf = hidden.detach().requires_grad_(True)
        losses = self._losses(leaf, taught, on)
        leaves = self.adapters.leaves()
        for tensor in leaves:
            tensor.grad = None
        torch.autograd.backward(hidden, leaf.grad)
        self._update(leaves, on["rate"], on["active"])
        self._average(leaves, on["averaged"])
        return losses

    @torch.no_grad()
    def take_means(self) -> None:
        """Go from each training's last state to the mean of its last ones."""
        for leaf, total in zip(self.adapters.leaves(), self._sums, strict=True):
            leaf.copy_(total / self._summed.clamp(min=1)[None, :, None, None])

    def _losses(self, hidden_NMD: Tensor, taught_NMD: Tensor | None, on: dict[str, Tensor]) -> Tensor:
        """Losses of N trainings; the gradient is left at `hidden_NMD`, block by block."""
        runs, answers, _ = hidden_NMD.shape
        block = max(1, LOGITS_AT_ONCE // (runs * self.base.head_VD.shape[0]))
        total = torch.zeros(runs, device=self._device)
        for start in range(0, answers, block):
            part = slice(start, start + block)
            logits = (hidden_NMD[:, part] @ self.base.head_VD.t()).float()
            labels, weights = on["labels"][:, part], on["weights"][:, part]
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(
                labels.shape
            )
            if taught_NMD is not None:
                aim = F.softmax((taught_NMD[:, part] @ self.base.head_VD.t()).float(), dim=-1)
                soft = -(aim * F.log_softmax(logits, dim=-1)).sum(-1)
                loss = torch.where(on["anchored"][:, part], soft, loss)
            of_run = (loss * weights).sum(1)
            torch.autograd.backward(of_run.sum())
            total += of_run.detach()
        return total

    @torch.no_grad()
    def _update(self, leaves: Sequence[Tensor], rate: Tensor, active: Tensor) -> None:
        squares = torch.zeros_like(rate)
        for leaf in leaves:
            assert leaf.grad is not None
            squares += leaf.grad.square().sum(dim=(0, 2, 3))
        scale = (MAX_GRADIENT_NORM / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        self._count += active
        count = self._count.clamp(min=1)
        size = (rate / (1 - BETAS[0] ** count))[None, :, None, None]
        correction = (1 - BETAS[1] ** count)[None, :, None, None]
        weight = active[None, :, None, None]
        for leaf, first, second in zip(leaves, self._first, self._second, strict=True):
            assert leaf.grad is not None
            gradient = leaf.grad.mul_(scale[None, :, None, None])
            first.add_((gradient - first).mul_((1 - BETAS[0]) * weight))
            second.add_((gradient.square() - second).mul_((1 - BETAS[1]) * weight))
            leaf.sub_(size * first / ((second / correction).sqrt_() + EPSILON))

    @torch.no_grad()
    def _average(self, leaves: Sequence[Tensor], averaged: Tensor) -> None:
        if not bool(averaged.any()):
            return
        self._summed += averaged
        for leaf, total in zip(leaves, self._sums, strict=True):
            total.addcmul_(leaf, averaged[None, :, None, None])

    def _take_snapshot(self, continuing: Sequence[bool]) -> None:
        """What anchored rows learn from; and a new optimizer for the trainings that go on."""
        down, up = self.adapters.cast(self._dtype)
        self._snapshot = (
            [{name: tensor.detach().clone() for name, tensor in layer.items()} for layer in down],
            [{name: tensor.detach().clone() for name, tensor in layer.items()} for layer in up],
        )
        ended = torch.tensor([not goes_on for goes_on in continuing], device=self._device).float()
        for tensor in (*self._first, *self._second, *self._sums):
            tensor.mul_(ended[None, :, None, None])
        for count in (self._count, self._summed):
            count.mul_(ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Of one training's rows: the likeliest token and the loss at every answer position, row after row."""

    likeliest: list[list[int]]
    losses: list[list[float]]


@torch.no_grad()
def ask(
    decoder: Decoder,
    weights: Weights,
    cast: Cast | None,
    rows: Sequence[Sequence[TokenRow]],
    *,
    device: torch.device,
    positions: int = 512,
) -> list[Asked]:
    """Ask N trainings, each its own rows, packed into chunks of so many positions."""
    chunks = [_chunks(of_run, positions) for of_run in rows]
    found = [Asked(likeliest=[], losses=[]) for _ in rows]
    for number in range(max(len(of_run) for of_run in chunks)):
        parts = [of_run[number] if number < len(of_run) else () for of_run in chunks]
        batch = arrays([Step(items=tuple(Item(row=row) for row in part), rate=0.0) for part in parts])
        on = {name: torch.from_numpy(getattr(batch, name)).to(device) for name in Arrays.__slots__}
        hidden = decoder.hidden(weights, cast, on["ids"], on["place"], on["row"], on["answers"])
        best, losses = [], []
        block = max(1, LOGITS_AT_ONCE // (len(rows) * weights.head_VD.shape[0]))
        for start in range(0, hidden.shape[1], block):
            logits = (hidden[:, start : start + block] @ weights.head_VD.t()).float()
            labels = on["labels"][:, start : start + block]
            best.append(logits.argmax(-1))
            chosen = logits.gather(2, labels[..., None])[..., 0]
            losses.append(logits.logsumexp(-1) - chosen)
        best_NM, losses_NM = torch.cat(best, 1).tolist(), torch.cat(losses, 1).tolist()
        for run, part in enumerate(parts):
            place = 0
            for row in part:
                count = sum(label != IGNORED for label in row.labels)
                found[run].likeliest.append(best_NM[run][place : place + count])
                found[run].losses.append(losses_NM[run][place : place + count])
                place += count
    return found


def _chunks(rows: Sequence[TokenRow], positions: int) -> list[tuple[TokenRow, ...]]:
    chunks: list[tuple[TokenRow, ...]] = []
    chunk: list[TokenRow] = []
    tokens = 0
    for row in rows:
        if chunk and tokens + len(row.input_ids) > positions:
            chunks.append(tuple(chunk))
            chunk, tokens = [], 0
        chunk.append(row)
        tokens += len(row.input_ids)
    if chunk:
        chunks.append(tuple(chunk))
    return chunks
