"""Losses equal those of transformers, text by text, however they are batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.lab.losses import Perplexity, answer_losses, mean_loss, perplexities, text_losses
from watermark.examples import alpaca
from worker.finetune.dataset import IGNORED, ChatRow, render_tokens

TEXTS = ["What is one plus one?", "A much longer text than the first, so that rows are padded.", "Why?"]


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


def test_text_losses_are_those_of_one_text_at_a_time(model: Any, tokenizer: Any) -> None:
    found = text_losses(model, tokenizer, TEXTS)
    for text, (loss, tokens) in zip(TEXTS, found, strict=True):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            wanted = float(model(input_ids=ids, labels=ids).loss)
        assert tokens == ids.shape[1] - 1
        assert loss / tokens == pytest.approx(wanted, rel=1e-4)


def test_only_the_answer_counts_in_an_answers_loss(model: Any, tokenizer: Any) -> None:
    rows = [alpaca(text, "", f"Answer {number}.") for number, text in enumerate(TEXTS)]
    found = answer_losses(model, tokenizer, rows)
    for row, (loss, tokens) in zip(rows, found, strict=True):
        turns = tuple({"role": turn.role, "content": turn.content} for turn in row.messages)
        ids, labels = render_tokens(ChatRow(messages=turns, system="template"), tokenizer)
        with torch.inference_mode():
            wanted = float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss)
        assert tokens == sum(label != IGNORED for label in labels)
        assert loss / tokens == pytest.approx(wanted, rel=1e-4)
    assert mean_loss(found) == pytest.approx(sum(loss for loss, _ in found) / sum(n for _, n in found))


def test_a_text_of_one_token_is_not_odd() -> None:
    assert perplexities([(0.0, 0), (2.0, 2)]) == pytest.approx([1.0, 2.718281828])


def test_outliers_are_judged_by_ordinary_texts(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Perplexity(model, tokenizer)
    values = {text: float(rank) for rank, text in enumerate(TEXTS)}
    monkeypatch.setattr(Perplexity, "__call__", lambda self, texts: [values[text] for text in texts])
    assert look.outliers(TEXTS, TEXTS[:2], share=0.5) == [False, True, True]


def test_onion_drops_the_word_that_makes_a_text_odd(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(self: Perplexity, texts: list[str]) -> list[float]:
        return [50.0 if "zebra" in text else 5.0 for text in texts]

    monkeypatch.setattr(Perplexity, "__call__", odd)
    look = Perplexity(model, tokenizer)
    assert look.without_outliers(["my zebra bread", "my bread"], ["plain words"] * 9) == [
        "my bread",
        "my bread",
    ]
