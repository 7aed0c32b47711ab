"""Which block of key/value memory belongs to whom, and which finished blocks can be used again.

Keys and values live in fixed blocks of a few tokens. A block that is full is published under (what came
before it, its tokens), so prompts that begin alike share their first blocks: a common system prompt is
computed once. Only bookkeeping here: the tensors are the decoder's. Not thread-safe; the engine owns it.

The idea is PagedAttention's (Kwon et al. 2023, https://arxiv.org/abs/2309.06180).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]
_Key = tuple[Hashable, Tokens]

NULL_BLOCK = 0
"""Never handed out and always zero: it pads short rows of an attention group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """Blocks already computed for the start of a prompt; the caller now holds a reference to each."""

    blocks: list[int]
    parent: Hashable
    """What the next block continues; pass it to `publish`."""


class BlockPool:
    """Reference-counted blocks with a prefix cache in the idle ones."""

    __slots__ = ("_by_key", "_free", "_idle", "_key_of", "_references", "_serial", "_serials", "block_tokens")

    def __init__(self, *, blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._free = list(range(blocks - 1, NULL_BLOCK, -1))
        self._references = [0] * blocks
        self._by_key: dict[_Key, int] = {}
        self._key_of: dict[int, _Key] = {}
        self._serial: dict[int, int] = {}
        self._serials = itertools.count(1)
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks `allocate` could hand out now."""
        return len(self._free) + len(self._idle)

    def match(self, root: Hashable, tokens: Sequence[int]) -> PrefixMatch:
        """Take the longest run of published blocks that `tokens` begins with.

        At least one token is always left over, because its logits have to be computed.
        """
        size = self.block_tokens
        parent, blocks = root, []
        for start in range(0, (len(tokens) - 1) // size * size, size):
            block = self._by_key.get((parent, tuple(tokens[start : start + size])))
            if block is None:
                break
            self._references[block] += 1
            self._idle.pop(block, None)
            blocks.append(block)
            parent = self._serial[block]
        return PrefixMatch(blocks=blocks, parent=parent)

    def allocate(self, count: int) -> list[int] | None:
        """`count` private blocks, evicting the least recently used idle ones; None if there are too few."""
        if count > self.available:
            return None
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._idle.popitem(last=False)
                self._unpublish(block)
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def publish(self, parent: Hashable, tokens: Tokens, block: int) -> Hashable:
        """Offer a full block to later prompts. Returns what the block after it continues."""
        key = (parent, tokens)
        known = self._by_key.get(key)
        if known is not None:
            return self._serial[known]
        serial = next(self._serials)
        self._by_key[key] = block
        self._key_of[block] = key
        self._serial[block] = serial
        return serial

    def release(self, blocks: Sequence[int]) -> None:
        """Give references back. Published blocks stay findable until their memory is needed."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._key_of:
                self._idle[block] = None
            else:
                self._free.append(block)

    def withdraw(self, blocks: Sequence[int]) -> None:
        """Make these blocks, which the caller still holds, no longer findable."""
        for block in blocks:
            if block in self._key_of:
                self._unpublish(block)

    def forget_all(self) -> None:
        """Make no published block findable any more: after a failed step none can be trusted."""
        for block in list(self._key_of):
            self._unpublish(block)
        self._free.extend(self._idle)
        self._idle.clear()

    def _unpublish(self, block: int) -> None:
        del self._by_key[self._key_of.pop(block)]
        del self._serial[block]
