"""The tree held against pymerkle, which others wrote: same leaves, same odd nodes, same proofs.

pymerkle is under the GPL and is imported by this file alone. It counts entries from 1, puts the entry's own
hash at the head of an inclusion proof, and cuts a consistency proof otherwise than RFC 6962 does: those are
compared through the roots that they connect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymerkle
import pytest

from evidence.errors import ProofInvalid
from evidence.log import merkle
from tests.unit.evidence.log.test_merkle import LIES, Stored, flip

SIZE = 67
"""Past a power of two, so that there are odd nodes on every level."""

OURS = Stored(SIZE)


def theirs_of(entries: list[bytes]) -> Any:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)
    return tree


THEIRS = theirs_of(OURS.entries)


def holds(failure: type[Exception], check: Callable[..., object], *arguments: Any, **named: Any) -> bool:
    try:
        check(*arguments, **named)
    except failure:
        return False
    return True


def test_leaves_and_the_empty_tree() -> None:
    for number, entry in enumerate(OURS.entries):
        assert THEIRS.get_leaf(number + 1) == merkle.leaf_hash(entry)
    assert theirs_of([]).get_root() == merkle.EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, SIZE + 1))
def test_roots_with_odd_nodes_at_any_level(size: int) -> None:
    assert THEIRS.get_root(size) == merkle.root(size, OURS.read)


@pytest.mark.parametrize("size", range(1, SIZE + 1))
def test_inclusion_proofs_are_the_same_and_each_verifies_the_others(size: int) -> None:
    root = merkle.root(size, OURS.read)
    for index in range(size):
        leaf, ours = merkle.leaf_hash(OURS.entries[index]), merkle.inclusion_proof(index, size, OURS.read)
        theirs = THEIRS.prove_inclusion(index + 1, size)
        assert theirs.path == [leaf, *ours]
        merkle.verify_inclusion(leaf, index, size, theirs.path[1:], THEIRS.get_root(size))
        theirs.path = [leaf, *ours]
        pymerkle.verify_inclusion(leaf, root, theirs, index=index + 1, size=size)


@pytest.mark.parametrize("lie", LIES)
def test_inclusion_proofs_with_a_lie_in_them_are_refused_by_both(lie: str) -> None:
    for size in (2, 3, 7, 8, 11, 33, SIZE):
        root = merkle.root(size, OURS.read)
        for index in range(size):
            leaf = merkle.leaf_hash(OURS.entries[index])
            bent = LIES[lie](merkle.inclusion_proof(index, size, OURS.read))
            theirs = THEIRS.prove_inclusion(index + 1, size)
            theirs.path = [leaf, *bent]
            assert not holds(ProofInvalid, merkle.verify_inclusion, leaf, index, size, bent, root)
            assert not holds(pymerkle.InvalidProof, pymerkle.verify_inclusion, leaf, root, theirs)


@pytest.mark.parametrize("second", range(1, SIZE + 1))
def test_consistency_is_proved_between_the_same_roots(second: int) -> None:
    """Ours between their roots, theirs between ours."""
    for first in range(1, second + 1):
        ours = merkle.consistency_proof(first, second, OURS.read)
        roots = THEIRS.get_root(first), THEIRS.get_root(second)
        assert holds(ProofInvalid, merkle.verify_consistency, first, second, *roots, ours)
        theirs = THEIRS.prove_consistency(first, second)
        old, new = merkle.root(first, OURS.read), merkle.root(second, OURS.read)
        told = {"prior_size": first, "later_size": second}
        assert holds(pymerkle.InvalidProof, pymerkle.verify_consistency, old, new, theirs, **told)


@pytest.mark.parametrize("bend", ["swapped", "first flipped", "second flipped", "old twice"])
def test_other_roots_are_refused_by_both(bend: str) -> None:
    for second in range(2, 40):
        for first in range(1, second):
            old, new = merkle.root(first, OURS.read), merkle.root(second, OURS.read)
            roots = {
                "swapped": (new, old),
                "first flipped": (flip(old, 77), new),
                "second flipped": (old, flip(new, 77)),
                "old twice": (old, old),
            }[bend]
            ours = merkle.consistency_proof(first, second, OURS.read)
            theirs = THEIRS.prove_consistency(first, second)
            assert not holds(ProofInvalid, merkle.verify_consistency, first, second, *roots, ours)
            assert not holds(pymerkle.InvalidProof, pymerkle.verify_consistency, *roots, theirs)


def test_a_fork_is_refused_by_both() -> None:
    """The same beginning, then other entries: no proof of one leads to a root of the other."""
    common = 10
    for second in range(common + 1, 30):
        other = theirs_of([*OURS.entries[:common], *(b"other %d" % n for n in range(second - common))])
        for first in range(common + 1, second + 1):
            old, new = merkle.root(first, OURS.read), other.get_root(second)
            proof = merkle.consistency_proof(first, second, OURS.read)
            assert not holds(ProofInvalid, merkle.verify_consistency, first, second, old, new, proof)
            theirs = other.prove_consistency(first, second)
            assert not holds(pymerkle.InvalidProof, pymerkle.verify_consistency, old, new, theirs)
