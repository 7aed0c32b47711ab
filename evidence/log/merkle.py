"""The Merkle tree of RFC 6962, section 2.1: hashes, proofs and their verification.

Nodes are addressed as (level, index): level 0 holds the leaves' hashes, and node (l, i) covers the leaves
i * 2**l to (i + 1) * 2**l. Only full nodes are stored; what the right edge of a tree needs beside them is
hashed when it is wanted. Verification follows RFC 9162, sections 2.1.3.2 and 2.1.4.2, and shares no code with
the making of proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

from evidence.errors import ProofInvalid

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Node = tuple[int, int]
"""(level, index)"""
Read = Callable[[Sequence[Node]], Mapping[Node, bytes]]
"""Hashes of stored nodes, all that were asked for."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def grow(size: int, leaf: bytes, read: Read) -> list[tuple[Node, bytes]]:
    """The nodes that become full when one leaf hash is added to a tree of ``size`` leaves, the leaf first.

    Reads at most one stored node a level.
    """
    made = [((0, size), leaf)]
    lefts = []
    level, index = 0, size
    while index % 2:
        lefts.append((level, index - 1))
        level, index = level + 1, index // 2
    stored = read(lefts)
    hashed = leaf
    for level, index in lefts:
        hashed = node_hash(stored[level, index], hashed)
        made.append(((level + 1, index // 2), hashed))
    return made


class Frontier:
    """The hash of a growing tree from its leaves in order, in memory that grows with the logarithm."""

    def __init__(self) -> None:
        self.size = 0
        self._full: list[bytes] = []
        """of the size's binary digits that are 1, the largest first"""

    def add(self, leaf: bytes) -> None:
        """One leaf hash more."""
        hashed, index = leaf, self.size
        while index % 2:
            hashed = node_hash(self._full.pop(), hashed)
            index //= 2
        self._full.append(hashed)
        self.size += 1

    def root(self) -> bytes:
        """The tree's hash."""
        return _join(self._full) if self._full else EMPTY_ROOT


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The hash of a tree with these leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


def root(size: int, read: Read) -> bytes:
    """The hash of the first ``size`` leaves of a stored tree."""
    return _hash_ranges([(0, size)], read)[0] if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: Read) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1, from the leaf upwards.

    Raises:
        ValueError: there is no such leaf in a tree of this size.
    """
    if not 0 <= index < size:
        raise ValueError(f"a log of {size} entries has no entry {index}")
    return _hash_ranges(list(_path(index, 0, size)), read)


def consistency_proof(first: int, second: int, read: Read) -> list[bytes]:
    """PROOF(first, D[second]) of RFC 6962, section 2.1.2. Empty for equal sizes and for an empty first tree.

    Raises:
        ValueError: the first size is negative or the larger one.
    """
    if not 0 <= first <= second:
        raise ValueError(f"a log of {second} entries was never one of {first}")
    if first in (0, second):
        return []
    return _hash_ranges(list(_subproof(first, 0, second, whole=True)), read)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash stands at ``index`` in the tree with this size and hash (RFC 9162, 2.1.3.2).

    Raises:
        ProofInvalid: it does not follow from the proof.
    """
    _check_hashes([leaf, root, *proof])
    if not 0 <= index < size:
        raise ProofInvalid(f"a log of {size} entries has no entry {index}")
    place, last, hashed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("the inclusion proof is too long")
        if place % 2 or place == last:
            hashed = node_hash(sibling, hashed)
            while place % 2 == 0 and place:
                place, last = place // 2, last // 2
        else:
            hashed = node_hash(hashed, sibling)
        place, last = place // 2, last // 2
    if last:
        raise ProofInvalid("the inclusion proof is too short")
    if hashed != root:
        raise ProofInvalid("the entry is not in the log with this root")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the smaller tree is a beginning of the larger one (RFC 9162, 2.1.4.2).

    Raises:
        ProofInvalid: it does not follow from the proof.
    """
    _check_hashes([first_root, second_root, *proof])
    if not 0 <= first <= second:
        raise ProofInvalid(f"a log of {second} entries was never one of {first}")
    if first in (0, second):
        if proof:
            raise ProofInvalid("the consistency proof is too long")
        if first == second and first_root != second_root:
            raise ProofInvalid("two roots of one size")
        if first == 0 and first_root != EMPTY_ROOT:
            raise ProofInvalid("an empty log has another root")
        return
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        raise ProofInvalid("the consistency proof is too short")
    place, last = first - 1, second - 1
    while place % 2:
        place, last = place // 2, last // 2
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofInvalid("the consistency proof is too long")
        if place % 2 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while place % 2 == 0 and place:
                place, last = place // 2, last // 2
        else:
            new = node_hash(new, sibling)
        place, last = place // 2, last // 2
    if last:
        raise ProofInvalid("the consistency proof is too short")
    if old != first_root:
        raise ProofInvalid("the log does not begin as it did: the earlier root does not follow")
    if new != second_root:
        raise ProofInvalid("the later root does not follow")


Range = tuple[int, int]
"""The leaves start to end - 1."""


def _path(index: int, start: int, end: int) -> Iterator[Range]:
    if end - start == 1:
        return
    middle = start + _split(end - start)
    if index < middle:
        yield from _path(index, start, middle)
        yield middle, end
    else:
        yield from _path(index, middle, end)
        yield start, middle


def _subproof(first: int, start: int, end: int, *, whole: bool) -> Iterator[Range]:
    if first == end:
        if not whole:
            yield start, end
        return
    middle = start + _split(end - start)
    if first <= middle:
        yield from _subproof(first, start, middle, whole=whole)
        yield middle, end
    else:
        yield from _subproof(first, middle, end, whole=False)
        yield start, middle


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << (count - 1).bit_length() - 1


def _hash_ranges(ranges: Sequence[Range], read: Read) -> list[bytes]:
    """MTH of each range, with one read for all."""
    parts = [list(_full_nodes(*one)) for one in ranges]
    stored = read([node for part in parts for node in part])
    return [_join([stored[node] for node in part]) for part in parts]


def _full_nodes(start: int, end: int) -> Iterator[Node]:
    """The stored nodes a range consists of, from the left; ranges of proofs begin where a node does."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def _join(parts: Sequence[bytes]) -> bytes:
    hashed = parts[-1]
    for left in reversed(parts[:-1]):
        hashed = node_hash(left, hashed)
    return hashed


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise ProofInvalid(f"a hash has {HASH_BYTES} bytes")
