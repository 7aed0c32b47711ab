"""Who takes part in the next step, and with how many tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from worker.serving.kv_blocks import BlockPool
from worker.serving.rows import Row

MIN_CHUNK_TOKENS = 32
"""A long prompt is not cut into pieces smaller than this when others already fill the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The tokens start..end of a row are computed in this step."""

    row: Row
    start: int
    end: int

    @property
    def wants_logits(self) -> bool:
        """Whether this reaches the row's last token, after which the next is chosen."""
        return self.end == len(self.row.tokens)


class Schedule:
    """Waiting and running rows. First come, first served; rows being answered go before new prompts.

    When memory runs out the youngest running row gives its blocks back and waits again at the head of the
    queue; what it has generated is kept and computed again. Not thread-safe.
    """

    __slots__ = ("_max_rows", "_pool", "_step_tokens", "fresh_blocks", "running", "waiting")

    def __init__(self, *, pool: BlockPool, max_rows: int, step_tokens: int) -> None:
        self._pool = pool
        self._max_rows = max_rows
        self._step_tokens = step_tokens
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []
        self.fresh_blocks: list[int] = []
        """Blocks handed out by the last `plan`."""

    def plan(self) -> Sequence[Share]:
        """The next step, rows of one adapter side by side. Empty when nothing can be done."""
        self.fresh_blocks = []
        self._drop_cancelled()
        shares: dict[Row, Share] = {}
        room = self._step_tokens
        for row in sorted(self.running, key=_is_prefilling):
            if row not in self.running:
                continue
            if room <= 0:
                break
            share = self._share(row, room, shares)
            if share is not None:
                shares[row] = share
                room -= share.end - share.start
        while self.waiting and len(self.running) < self._max_rows and room > 0:
            row = self.waiting[0]
            share = self._admit(row, room, crowded=bool(shares))
            if share is None:
                break
            self.waiting.popleft()
            self.running.append(row)
            shares[row] = share
            room -= share.end - share.start
        return sorted(shares.values(), key=lambda share: share.row.cache_root)

    def commit(self, shares: Sequence[Share]) -> None:
        """The step was computed."""
        for share in shares:
            share.row.computed = share.end

    def finish(self, row: Row) -> None:
        """Give a running row's place and memory back."""
        self.running.remove(row)
        self._give_back(row)

    def _drop_cancelled(self) -> None:
        for row in [row for row in self.running if row.cancelled]:
            self.finish(row)
        if any(row.cancelled for row in self.waiting):
            self.waiting = deque(row for row in self.waiting if not row.cancelled)

    def _admit(self, row: Row, room: int, *, crowded: bool) -> Share | None:
        """Start a waiting row if memory for its whole prompt is there."""
        pool = self._pool
        found = pool.match(row.cache_root, row.tokens)
        cached = len(found.blocks) * pool.block_tokens
        chunk = min(len(row.tokens) - cached, room)
        cut_small = chunk < min(len(row.tokens) - cached, MIN_CHUNK_TOKENS)
        missing = self._blocks_for(len(row.tokens) + 1) - len(found.blocks)
        if (crowded and cut_small) or missing > pool.available:
            pool.release(found.blocks)
            return None
        row.blocks, row.parent, row.published = found.blocks, found.parent, len(found.blocks)
        row.computed = cached
        row.cached_tokens = min(cached, row.prompt_tokens)
        self._extend(row, cached + chunk)
        return Share(row=row, start=cached, end=cached + chunk)

    def _share(self, row: Row, room: int, shares: dict[Row, Share]) -> Share | None:
        """A running row's part; None if the row itself had to give way."""
        end = min(len(row.tokens), row.computed + room)
        while not self._extend(row, end):
            youngest = self.running[-1]
            shares.pop(youngest, None)
            self._preempt(youngest)
            if youngest is row:
                return None
        return Share(row=row, start=row.computed, end=end)

    def _preempt(self, row: Row) -> None:
        # Blocks it was to fill in this very step stay unfilled now: nobody may find them.
        self._pool.withdraw(row.blocks[row.computed // self._pool.block_tokens :])
        self.running.remove(row)
        self._give_back(row)
        self.waiting.appendleft(row)

    def _extend(self, row: Row, end: int) -> bool:
        """Get the blocks for tokens up to `end` and publish those this step will fill.

        Publishing before the step is computed is safe: a row that finds such a block is planned in this same
        step or a later one, and within a step every key is written before any is read, layer by layer.
        """
        missing = self._blocks_for(end) - len(row.blocks)
        if missing > 0:
            blocks = self._pool.allocate(missing)
            if blocks is None:
                return False
            row.blocks.extend(blocks)
            self.fresh_blocks.extend(blocks)
        size = self._pool.block_tokens
        while (row.published + 1) * size <= end:
            start = row.published * size
            tokens = tuple(row.tokens[start : start + size])
            row.parent = self._pool.publish(row.parent, tokens, row.blocks[row.published])
            row.published += 1
        return True

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._pool.block_tokens)

    def _give_back(self, row: Row) -> None:
        self._pool.release(row.blocks)
        row.blocks, row.computed, row.published, row.parent = [], 0, 0, None


def _is_prefilling(row: Row) -> bool:
    return len(row.tokens) - row.computed > 1
