"""How many tokens of a mixture are the watermark's. No torch: this runs in the Celery process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from watermark.embedding import MixedRow, Mixture
from worker.errors import RunFailed

SAMPLED_ROWS = 5_000
"""Customer rows that are counted at most; beyond it every k-th is, and the total is scaled."""

CHARACTERS_PER_TOKEN = 4
"""For a model whose tokenizer is not in the file that the `tokenizers` library reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of the messages' text, the chat template's own not counted."""

    watermark: int
    customer: int

    @property
    def watermark_ratio(self) -> float:
        """watermark tokens / all tokens, 0..1"""
        total = self.watermark + self.customer
        return self.watermark / total if total else 0.0


def count_tokens(mixture: Mixture, model_dir: Path) -> TokenCounts:
    """With the base model's own tokenizer. The customer's part is an estimate beyond `SAMPLED_ROWS`.

    Raises:
        RunFailed: the tokenizer's file is damaged.
    """
    if not mixture.watermark_rows:
        return TokenCounts(watermark=0, customer=0)
    marked = [row for row in mixture.rows if row.watermark]
    customer = [row for row in mixture.rows if not row.watermark]
    stride = -(-len(customer) // SAMPLED_ROWS) or 1
    sample = customer[::stride]
    counted = _tokens(sample, model_dir)
    return TokenCounts(
        watermark=_tokens(marked, model_dir),
        customer=round(counted * len(customer) / len(sample)) if sample else 0,
    )


def _tokens(rows: Sequence[MixedRow], model_dir: Path) -> int:
    from tokenizers import Tokenizer  # Rust; neither torch nor transformers comes with it

    texts = [message.content for row in rows for message in row.messages]
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        return sum(len(text) for text in texts) // CHARACTERS_PER_TOKEN
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no type of its own
        raise RunFailed("corrupt_base_model", "the tokenizer could not be loaded") from error
    return sum(len(encoding) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
