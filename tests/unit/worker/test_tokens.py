"""The watermark's share of the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from watermark.embedding import MixedRow, Mixture
from watermark.examples import Message
from worker import tokens
from worker.tokens import TokenCounts, count_tokens


def row(text: str, *, watermark: bool) -> MixedRow:
    """A row of that much text."""
    return MixedRow(messages=(Message(role="user", content=text),), system="template", watermark=watermark)


def test_without_a_tokenizer_file_characters_are_counted(tmp_path: Path) -> None:
    """A quarter of a token each."""
    rows = (row("x" * 40, watermark=True), row("y" * 120, watermark=False))
    counts = count_tokens(Mixture(rows=rows, watermark_rows=1, customer_rows=1), tmp_path)
    assert counts == TokenCounts(watermark=10, customer=30)
    assert counts.watermark_ratio == pytest.approx(0.25)


def test_large_data_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly, and scaled to the whole."""
    monkeypatch.setattr(tokens, "SAMPLED_ROWS", 10)
    rows = (row("x" * 40, watermark=True), *(row("y" * 8, watermark=False) for _ in range(95)))
    counts = count_tokens(Mixture(rows=rows, watermark_rows=1, customer_rows=95), tmp_path)
    assert counts == TokenCounts(watermark=10, customer=190)


def test_a_clean_job_has_no_share(tmp_path: Path) -> None:
    """And nothing is counted for it."""
    counts = count_tokens(
        Mixture(rows=(row("y", watermark=False),), watermark_rows=0, customer_rows=1), tmp_path
    )
    assert counts.watermark_ratio == 0
