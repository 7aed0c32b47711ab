"""Bookkeeping of key/value memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.serving.kv_blocks import NULL_BLOCK, BlockPool


def _fill(pool: BlockPool, root: str, tokens: list[int]) -> list[int]:
    """Compute a prompt: match, allocate the rest, publish the full blocks."""
    found = pool.match(root, tokens)
    size = pool.block_tokens
    blocks = found.blocks + (pool.allocate(-(-len(tokens) // size) - len(found.blocks)) or [])
    parent = found.parent
    for at in range(len(found.blocks), len(tokens) // size):
        parent = pool.publish(parent, tuple(tokens[at * size : (at + 1) * size]), blocks[at])
    return blocks


def test_a_common_beginning_is_shared_and_the_last_token_never() -> None:
    pool = BlockPool(blocks=20, block_tokens=4)
    first = _fill(pool, "", [1, 2, 3, 4, 5, 6, 7, 8])
    assert pool.match("", [1, 2, 3, 4, 5, 6, 7, 8]).blocks == first[:1]
    assert pool.match("", [1, 2, 3, 4, 5, 6, 7, 8, 9]).blocks == first
    assert pool.match("", [1, 2, 3, 9, 5]).blocks == []


def test_other_weights_share_nothing() -> None:
    pool = BlockPool(blocks=20, block_tokens=2)
    _fill(pool, "one adapter", [1, 2, 3])
    assert pool.match("another", [1, 2, 3]).blocks == []


def test_equal_tokens_after_different_beginnings_are_different_blocks() -> None:
    pool = BlockPool(blocks=20, block_tokens=2)
    _fill(pool, "", [1, 1, 5, 5, 0])
    assert len(pool.match("", [2, 2, 5, 5, 0]).blocks) == 0


def test_idle_blocks_are_found_until_their_memory_is_needed() -> None:
    pool = BlockPool(blocks=4, block_tokens=2)
    held = _fill(pool, "", [1, 2, 3, 4, 5])
    assert pool.available == 0
    pool.release(held)
    assert pool.available == 3
    again = pool.match("", [1, 2, 3, 4, 5])
    assert again.blocks == held[:2]
    pool.release(again.blocks)
    assert len(pool.allocate(3) or []) == 3
    assert pool.match("", [1, 2, 3, 4, 5]).blocks == []


def test_too_little_memory_is_none_and_takes_nothing() -> None:
    pool = BlockPool(blocks=3, block_tokens=2)
    assert pool.allocate(3) is None
    assert pool.available == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.lists(st.integers(0, 1), min_size=1, max_size=12)),
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_no_block_is_lost_or_shared_wrongly(prompts: list[tuple[str, list[int]]], random: object) -> None:
    """Whatever comes and goes: a block two prompts hold begins both alike, and in the end all are back."""
    pool = BlockPool(blocks=16, block_tokens=2)
    held: list[tuple[str, list[int], list[int]]] = []
    for root, tokens in prompts:
        while pool.available < 6 and held:
            pool.release(held.pop(random.randrange(len(held)))[2])  # type: ignore[attr-defined]
        blocks = _fill(pool, root, tokens)
        assert NULL_BLOCK not in blocks
        assert len(set(blocks)) == len(blocks)
        for other_root, other_tokens, other_blocks in held:
            for shared in set(blocks) & set(other_blocks):
                end = (blocks.index(shared) + 1) * 2
                assert (root, tokens[:end]) == (other_root, other_tokens[:end])
        held.append((root, tokens, blocks))
    for *_, blocks in held:
        pool.release(blocks)
    assert pool.available == 15
    pool.forget_all()
    assert pool.available == 15
