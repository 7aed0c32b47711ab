"""The customer's, the thief's and the held-out rows never meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lab.data import DataError, read_examples, split


def test_parts_are_disjoint_and_the_same_for_the_same_seed() -> None:
    examples = read_examples(None)
    first = split(examples, customer=100, second=100, held_out=100, seed=1)
    texts = [{row.messages for row in part} for part in (first.customer, first.second, first.held_out)]
    assert sum(len(part) for part in texts) == len(set.union(*texts)) == 300
    assert split(examples, customer=100, second=100, held_out=100, seed=1) == first
    assert split(examples, customer=100, second=100, held_out=100, seed=2) != first


def test_too_few_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError, match="needs 3 distinct rows; the data has 1"):
        split(read_examples(path), customer=1, second=1, held_out=1, seed=1)


@pytest.mark.parametrize(("line", "says"), [("{", "line 2: not valid JSON"), ('{"prompt": "a"}', "line 2")])
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "a", "completion": "b"}}\n{line}\n')
    with pytest.raises(DataError, match=says):
        read_examples(path)
