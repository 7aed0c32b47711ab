"""The tree against RFC 6962's own definitions, its published roots, and proofs that lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import pytest

from evidence.errors import ProofInvalid
from evidence.log import merkle
from evidence.log.merkle import Node

LARGEST = 33

ENTRIES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Of the first 0 to 8 of these entries, as the reference log of Certificate Transparency tests them."""


class Stored:
    """A tree in a dictionary, that counts what it is asked for."""

    def __init__(self, size: int) -> None:
        self.entries = [b"entry %d" % number for number in range(size)]
        self.nodes: dict[Node, bytes] = {}
        self.reads: list[int] = []
        for number, entry in enumerate(self.entries):
            self.nodes |= dict(merkle.grow(number, merkle.leaf_hash(entry), self.read))
        self.reads.clear()

    def read(self, wanted: Sequence[Node]) -> Mapping[Node, bytes]:
        self.reads.append(len(wanted))
        return {node: self.nodes[node] for node in wanted}


STORED = Stored(LARGEST)


def tree_hash(entries: Sequence[bytes]) -> bytes:
    """MTH, as section 2.1 writes it."""
    if not entries:
        return sha256().digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = largest_power_below(len(entries))
    return sha256(b"\x01" + tree_hash(entries[:k]) + tree_hash(entries[k:])).digest()


def path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH, as section 2.1.1 writes it."""
    if len(entries) == 1:
        return []
    k = largest_power_below(len(entries))
    if m < k:
        return [*path(m, entries[:k]), tree_hash(entries[k:])]
    return [*path(m - k, entries[k:]), tree_hash(entries[:k])]


def subproof(m: int, entries: Sequence[bytes], b: bool) -> list[bytes]:
    """SUBPROOF, as section 2.1.2 writes it."""
    if m == len(entries):
        return [] if b else [tree_hash(entries)]
    k = largest_power_below(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], b), tree_hash(entries[k:])]
    return [*subproof(m - k, entries[k:], False), tree_hash(entries[:k])]


def largest_power_below(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_roots_are_the_published_ones(size: int) -> None:
    leaves = [merkle.leaf_hash(entry) for entry in ENTRIES[:size]]
    assert merkle.root_of(leaves).hex() == ROOTS[size]


@pytest.mark.parametrize("size", range(LARGEST + 1))
def test_roots_follow_the_definition(size: int) -> None:
    expected = tree_hash(STORED.entries[:size])
    assert merkle.root(size, STORED.read) == expected
    assert merkle.root_of(map(merkle.leaf_hash, STORED.entries[:size])) == expected


@pytest.mark.parametrize("size", range(1, LARGEST + 1))
def test_inclusion_proofs_follow_the_definition_and_verify(size: int) -> None:
    root = tree_hash(STORED.entries[:size])
    for index in range(size):
        proof = merkle.inclusion_proof(index, size, STORED.read)
        assert proof == path(index, STORED.entries[:size])
        merkle.verify_inclusion(merkle.leaf_hash(STORED.entries[index]), index, size, proof, root)


@pytest.mark.parametrize("second", range(LARGEST + 1))
def test_consistency_proofs_follow_the_definition_and_verify(second: int) -> None:
    new = tree_hash(STORED.entries[:second])
    for first in range(second + 1):
        proof = merkle.consistency_proof(first, second, STORED.read)
        if first:
            assert proof == subproof(first, STORED.entries[:second], True)
        merkle.verify_consistency(first, second, tree_hash(STORED.entries[:first]), new, proof)


def flip(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(data))


LIES: Mapping[str, Callable[[list[bytes]], list[bytes]]] = {
    "a flipped bit in the first hash": lambda proof: [flip(proof[0], 4), *proof[1:]],
    "a flipped bit in the last hash": lambda proof: [*proof[:-1], flip(proof[-1], 255)],
    "truncated at the end": lambda proof: proof[:-1],
    "truncated at the beginning": lambda proof: proof[1:],
    "nothing": lambda proof: [],
    "garbage behind": lambda proof: [*proof, bytes(32)],
    "garbage before": lambda proof: [bytes(32), *proof],
    "its last hash twice": lambda proof: [*proof, proof[-1]],
    "an empty hash behind": lambda proof: [*proof, b""],
    "a short hash": lambda proof: [*proof[:-1], proof[-1][:31]],
    "a long hash": lambda proof: [*proof[:-1], proof[-1] + b"\x00"],
}


@pytest.mark.parametrize("lie", LIES)
def test_an_inclusion_proof_with_a_lie_in_it_is_refused(lie: str) -> None:
    for size in range(2, LARGEST + 1):
        root = tree_hash(STORED.entries[:size])
        for index in range(size):
            proof = LIES[lie](merkle.inclusion_proof(index, size, STORED.read))
            with pytest.raises(ProofInvalid):
                merkle.verify_inclusion(merkle.leaf_hash(STORED.entries[index]), index, size, proof, root)


@pytest.mark.parametrize("lie", LIES)
def test_a_consistency_proof_with_a_lie_in_it_is_refused(lie: str) -> None:
    for second in range(2, LARGEST + 1):
        new = tree_hash(STORED.entries[:second])
        for first in range(1, second):
            proof = LIES[lie](merkle.consistency_proof(first, second, STORED.read))
            with pytest.raises(ProofInvalid):
                merkle.verify_consistency(first, second, tree_hash(STORED.entries[:first]), new, proof)


def test_another_leaf_place_or_root_is_refused() -> None:
    for size in range(2, LARGEST + 1):
        root = tree_hash(STORED.entries[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, STORED.read)
            leaf = merkle.leaf_hash(STORED.entries[index])
            others = [
                (merkle.leaf_hash(b"another"), index, size, root),
                (leaf, (index + 1) % size, size, root),
                (leaf, size, size, root),
                (leaf, -1, size, root),
                (leaf, index, size, flip(root, 0)),
                (leaf, index, size, merkle.EMPTY_ROOT),
                (leaf, index, 2 * size + 1, root),
            ]
            for wrong_leaf, wrong_index, wrong_size, wrong_root in others:
                with pytest.raises(ProofInvalid):
                    merkle.verify_inclusion(wrong_leaf, wrong_index, wrong_size, proof, wrong_root)


def test_a_node_is_no_leaf() -> None:
    """Without the prefixes of leaves and nodes the hash of two leaves would be an entry's."""
    inner = STORED.nodes[0, 0] + STORED.nodes[0, 1]
    with pytest.raises(ProofInvalid):
        merkle.verify_inclusion(merkle.leaf_hash(inner), 0, 1, [], merkle.root(2, STORED.read))


def test_swapped_roots_and_sizes_are_refused() -> None:
    for second in range(2, LARGEST + 1):
        new = tree_hash(STORED.entries[:second])
        for first in range(1, second):
            old = tree_hash(STORED.entries[:first])
            proof = merkle.consistency_proof(first, second, STORED.read)
            for sizes, roots in (
                ((first, second), (new, old)),
                ((second, first), (old, new)),
                ((first, second), (old, old)),
                ((first, second), (flip(old, 9), new)),
                ((first, second), (old, flip(new, 9))),
                ((-1, second), (old, new)),
                ((first, 2 * second + 1), (old, new)),
            ):
                with pytest.raises(ProofInvalid):
                    merkle.verify_consistency(*sizes, *roots, proof)


def test_a_log_of_one_size_has_one_root() -> None:
    with pytest.raises(ProofInvalid, match="two roots of one size"):
        merkle.verify_consistency(5, 5, tree_hash(STORED.entries[:5]), bytes(32), [])
    with pytest.raises(ProofInvalid):
        merkle.verify_consistency(0, 5, bytes(32), tree_hash(STORED.entries[:5]), [])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_no_proof_is_made_for_an_entry_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has no entry"):
        merkle.inclusion_proof(index, size, STORED.read)


def test_no_proof_is_made_of_a_log_that_shrank() -> None:
    with pytest.raises(ValueError, match="was never one"):
        merkle.consistency_proof(4, 3, STORED.read)


def test_a_proof_takes_one_read_of_few_nodes() -> None:
    stored = Stored(1000)
    merkle.inclusion_proof(333, 1000, stored.read)
    merkle.consistency_proof(333, 1000, stored.read)
    assert len(stored.reads) == 2
    assert max(stored.reads) <= 2 * (1000).bit_length()
