"""From a step's plan to the tensors the decoder works on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.serving.decoder import AttentionGroup, Decoder, Segment, StepInputs
from worker.serving.kv_blocks import NULL_BLOCK
from worker.serving.schedule import Share

QUERY_SLACK = 32
KEY_SLACK = 64
"""A row joins an attention group if padding makes it at most twice as long plus this: below that, one larger
call is cheaper than two."""


def build_inputs(decoder: Decoder, shares: Sequence[Share], fresh_blocks: Sequence[int]) -> StepInputs:
    """Lay the shares end to end, in the given order. Rows of one adapter must be side by side."""
    device, size = decoder.device, decoder.block_tokens
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    logits_at: list[int] = []
    starts: list[int] = []
    for share in shares:
        starts.append(len(tokens))
        tokens.extend(share.row.tokens[share.start : share.end])
        positions.extend(range(share.start, share.end))
        blocks = share.row.blocks
        slots.extend(blocks[at // size] * size + at % size for at in range(share.start, share.end))
        if share.wants_logits:
            logits_at.append(len(tokens) - 1)
    return StepInputs(
        tokens=_index(tokens, device),
        positions=_index(positions, device),
        kv_slots=_index(slots, device),
        fresh_blocks=_index(fresh_blocks, device),
        groups=[_attention_group(decoder, group) for group in _group(list(zip(shares, starts, strict=True)))],
        segments=_segments(shares, starts),
        logits_at=_index(logits_at, device),
    )


def _index(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)


def _segments(shares: Sequence[Share], starts: Sequence[int]) -> list[Segment]:
    segments: list[Segment] = []
    for share, start in zip(shares, starts, strict=True):
        adapter = share.row.adapter
        if adapter is None:
            continue
        end = start + share.end - share.start
        if segments and segments[-1].end == start and segments[-1].adapter.digest == adapter.digest:
            start = segments.pop().start
        segments.append(Segment(adapter=adapter, start=start, end=end))
    return segments


_Placed = tuple[Share, int]
"""A share and where its tokens begin in the step."""


def _group(placed: list[_Placed]) -> list[list[_Placed]]:
    """Split by number of queries and keys, so that padding stays within bounds."""
    groups: list[list[_Placed]] = []
    for item in sorted(placed, key=lambda item: (item[0].end - item[0].start, item[0].end)):
        share = item[0]
        if groups and _fits(share, [member for member, _ in groups[-1]]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _fits(share: Share, members: Sequence[Share]) -> bool:
    queries = [member.end - member.start for member in (*members, share)]
    if min(queries) == 1 and max(queries) > 1:
        return False
    keys = [member.end for member in (*members, share)]
    return max(queries) <= 2 * min(queries) + QUERY_SLACK and max(keys) <= 2 * min(keys) + KEY_SLACK


def _attention_group(decoder: Decoder, placed: Sequence[_Placed]) -> AttentionGroup:
    shape, size, device = decoder.shape, decoder.block_tokens, decoder.device
    queries = max(share.end - share.start for share, _ in placed)
    blocks_per_row = max(-(-share.end // size) for share, _ in placed)
    query_index: list[int] = []
    query_position: list[int] = []
    real: list[int] = []
    token_index: list[int] = []
    blocks: list[int] = []
    for row, (share, start) in enumerate(placed):
        count = share.end - share.start
        padding = queries - count
        query_index.extend([*range(start, start + count), *[start] * padding])
        query_position.extend([*range(share.start, share.end), *[share.start] * padding])
        real.extend(range(row * queries, row * queries + count))
        token_index.extend(range(start, start + count))
        held = share.row.blocks[:blocks_per_row]
        blocks.extend([*held, *[NULL_BLOCK] * (blocks_per_row - len(held))])
    key_position = torch.arange(blocks_per_row * size, device=device)
    visible = key_position <= _index(query_position, device).view(len(placed), queries, 1)
    mask = torch.zeros(visible.shape, dtype=decoder.dtype, device=device).masked_fill_(~visible, -torch.inf)
    return AttentionGroup(
        query_index=_index(query_index, device),
        real_query=None if len(real) == len(query_index) else _index(real, device),
        token_index=_index(token_index, device),
        blocks=_index(blocks, device),
        mask=mask.repeat(1, shape.heads // shape.kv_heads, 1).unsqueeze(1),
        rows=len(placed),
        queries=queries,
    )
