"""A step's rows as one list of distinct positions: no padding, and shared beginnings only once.

In a causal model a position's state depends on the tokens up to it and on nothing else, so rows that begin
with the same tokens (a system prompt, an instruction) have equal states there. All per-position work, which
is nearly all of a small model's work, is done once for each distinct beginning. Only attention looks at whole
rows: it gathers them, padded, from the distinct positions. Nothing is approximated: `llama.py`'s gradients
equal those of padded rows (tests/unit/worker/finetune/test_llama.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.finetune.dataset import IGNORED, TokenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCounts:
    query: int
    key_value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionOutputs:
    """Which cells of the padded rows give which positions their attention output.

    A cell is a (row, place) pair; a position shared by several rows takes the output of the first.
    """

    from_cells: torch.Tensor
    """(positions * H): row of the attention output, laid out (K, B, G, T), for each position and head."""
    to_cells: torch.Tensor
    """(K * B * G * T): where a cell's output gradient lies among (positions * H), or one past the end
    for a cell whose output nobody takes."""
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedStep:
    """Indices, all on the model's device, that turn rows into positions and back."""

    input_ids_U: torch.Tensor
    place_U: torch.Tensor
    """Distance from the row's start: the argument of the rotary embedding."""
    rows: int
    longest: int
    gather_cells: torch.Tensor
    """Per cell and head, a row of the (U * (H + 2K), E) matrix of queries, keys and values; queries first,
    laid out (K, B, G, T), then keys and values (K, B, T)."""
    first_cells: torch.Tensor
    """(U * (H + 2K)): the inverse, a position's first cell, in the same layout."""
    repeated_cells: torch.Tensor
    """Key and value rows of the other cells of shared positions..."""
    repeated_targets: torch.Tensor
    """...and the rows of (U * (H + 2K), E) their gradients belong to."""
    everywhere: AttentionOutputs
    at_answers: AttentionOutputs
    """For the last layer, whose other outputs nobody reads."""
    answers_A: torch.Tensor
    """Distinct positions that predict at least one label."""
    hidden_N: torch.Tensor
    """Index into answers_A of each label."""
    labels_N: torch.Tensor
    weights_N: torch.Tensor
    """Of each label in the mean loss, fp64."""
    real_tokens: int
    """Tokens of the rows, without padding and without regard to sharing."""


def pack(step: Sequence[TokenRow], heads: HeadCounts, device: torch.device) -> PackedStep:
    """Lay out one step. Takes about a millisecond for a thousand tokens."""
    ids: list[int] = []
    places: list[int] = []
    children: dict[tuple[int, int], int] = {}
    longest = max(len(row.input_ids) for row in step)
    cells: list[list[int]] = []
    predictors: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for row in step:
        path: list[int] = []
        node = -1
        for place, token in enumerate(row.input_ids):
            child = children.setdefault((node, token), len(ids))
            if child == len(ids):
                ids.append(token)
                places.append(place)
            node = child
            path.append(child)
        for place, label in enumerate(row.labels[1:]):
            if label != IGNORED:
                predictors.append(path[place])
                labels.append(label)
                weights.append(row.weight)
        cells.append(path + [-1] * (longest - len(path)))
    source_BT = torch.tensor(cells)
    answers_A, hidden_N = torch.unique(torch.tensor(predictors), return_inverse=True)
    first_U = torch.full((len(ids),), -1)
    real = source_BT.flatten() >= 0
    cell_of_real = real.nonzero().flatten().flip(0)
    # Written backwards, so that the first cell of a position is the one that stays.
    first_U[source_BT.flatten()[cell_of_real]] = cell_of_real
    repeated = real.clone()
    repeated[first_U] = False
    layout = _Layout(rows=len(step), longest=longest, heads=heads)
    repeated_cell = repeated.nonzero().flatten()
    return PackedStep(
        input_ids_U=torch.tensor(ids, device=device),
        place_U=torch.tensor(places, device=device),
        rows=len(step),
        longest=longest,
        gather_cells=layout.gather(source_BT.clamp(min=0)).to(device),
        first_cells=layout.every_row(first_U).to(device),
        repeated_cells=layout.key_value_rows(repeated_cell).flatten().to(device),
        repeated_targets=layout.key_value_columns(source_BT.flatten()[repeated_cell]).flatten().to(device),
        everywhere=layout.outputs(first_U, device),
        at_answers=layout.outputs(first_U[answers_A], device),
        answers_A=answers_A.to(device),
        hidden_N=hidden_N.to(device),
        labels_N=torch.tensor(labels, device=device),
        weights_N=torch.tensor(weights, dtype=torch.float64, device=device),
        real_tokens=sum(len(row.input_ids) for row in step),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Row numbers in the two matrices that attention moves between.

    By position: (U, H + 2K) rows of E numbers, the heads of one position side by side.
    By cell: queries (K, B, G, T), then keys (K, B, T), then values (K, B, T), so that the query heads of one
    key/value head are neighbours and one batched product serves them all without repeating keys.
    """

    rows: int
    longest: int
    heads: HeadCounts

    @property
    def _columns(self) -> int:
        return self.heads.query + 2 * self.heads.key_value

    def gather(self, source_BT: torch.Tensor) -> torch.Tensor:
        """By cell, the row by position."""
        queries, shared = self.heads.query, self.heads.key_value
        base_BT = source_BT * self._columns
        query_KG = torch.arange(queries).view(shared, 1, queries // shared, 1)
        key_K = queries + torch.arange(shared).view(shared, 1, 1)
        parts = (base_BT[None, :, None, :] + query_KG, base_BT + key_K, base_BT + key_K + shared)
        return torch.cat([part.flatten() for part in parts])

    def query_rows(self, cell: torch.Tensor) -> torch.Tensor:
        """(cells, H): the query rows by cell, which are the rows of the attention output as well."""
        group = self.heads.query // self.heads.key_value
        row, place = cell // self.longest, cell % self.longest
        head = torch.arange(self.heads.query)
        block = ((head // group) * self.rows)[None, :] + row[:, None]
        return (block * group + (head % group)[None, :]) * self.longest + place[:, None]

    def key_value_rows(self, cell: torch.Tensor) -> torch.Tensor:
        """(cells, 2K): the key and value rows by cell."""
        size = self.rows * self.longest
        return size * (self.heads.query + torch.arange(2 * self.heads.key_value))[None, :] + cell[:, None]

    def key_value_columns(self, position: torch.Tensor) -> torch.Tensor:
        """(positions, 2K): the key and value rows by position."""
        column = self.heads.query + torch.arange(2 * self.heads.key_value)
        return position[:, None] * self._columns + column[None, :]

    def every_row(self, cell: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.query_rows(cell), self.key_value_rows(cell)], dim=1).flatten()

    def outputs(self, cell: torch.Tensor, device: torch.device) -> AttentionOutputs:
        from_cells = self.query_rows(cell).flatten()
        to_cells = torch.full((self.heads.query * self.rows * self.longest,), len(from_cells))
        to_cells[from_cells] = torch.arange(len(from_cells))
        return AttentionOutputs(
            from_cells=from_cells.to(device), to_cells=to_cells.to(device), positions=len(cell)
        )
