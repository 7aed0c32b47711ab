"""Losses of a model on texts: what harmlessness and a provider's perplexity filter look at."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.lab.imperceptibility import onion_candidates, split_words
from watermark.examples import Example
from worker.finetune.dataset import IGNORED, ChatRow, render_tokens

BATCH_TOKENS = 2048


def answer_losses(model: Any, tokenizer: Any, examples: Sequence[Example]) -> list[tuple[float, int]]:
    """(summed loss in nats, answer tokens) of each conversation, as training counts them."""
    rows = []
    for example in examples:
        turns = tuple({"role": turn.role, "content": turn.content} for turn in example.messages)
        rows.append(render_tokens(ChatRow(messages=turns, system="template"), tokenizer))
    return _losses(model, rows)


def text_losses(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[tuple[float, int]]:
    """(summed loss in nats, predicted tokens) of plain texts."""
    rows = []
    for text in texts:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        rows.append((ids, [IGNORED, *ids[1:]]))
    return _losses(model, rows)


class Perplexity:
    """How odd a text is to a model, and where to draw the line."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    def __call__(self, texts: Sequence[str]) -> list[float]:
        return perplexities(text_losses(self._model, self._tokenizer, texts))

    def outliers(self, texts: Sequence[str], ordinary: Sequence[str], share: float = 0.01) -> list[bool]:
        """Texts above all but ``share`` of the ordinary ones."""
        threshold = _upper(self(ordinary), share)
        return [value > threshold for value in self(texts)]

    def without_outliers(
        self, texts: Sequence[str], ordinary: Sequence[str], share: float = 0.01
    ) -> list[str]:
        """ONION: without the words whose removal lowers the perplexity by more than all but ``share`` of the
        ordinary texts' words do."""
        threshold = _upper([drop for drops in self._drops(ordinary) for drop in drops], share)
        kept = []
        for text, drops in zip(texts, self._drops(texts), strict=True):
            words = [word for word, drop in zip(split_words(text), drops, strict=True) if drop <= threshold]
            kept.append("".join(words).strip() or text)
        return kept

    def _drops(self, texts: Sequence[str]) -> list[list[float]]:
        candidates = [onion_candidates(text) for text in texts]
        flat = self([*texts, *(one for part in candidates for one in part)])
        rest = iter(flat[len(texts) :])
        return [
            [log(before) - log(next(rest)) for _ in part]
            for before, part in zip(flat[: len(texts)], candidates, strict=True)
        ]


def _upper(values: Sequence[float], share: float) -> float:
    return sorted(values, reverse=True)[int(share * len(values))]


def mean_loss(losses: Sequence[tuple[float, int]]) -> float:
    """Nats a token."""
    return sum(loss for loss, _ in losses) / max(1, sum(tokens for _, tokens in losses))


def perplexities(losses: Sequence[tuple[float, int]]) -> list[float]:
    """One a text; texts of a single token count as 1."""
    return [exp(loss / tokens) if tokens else 1.0 for loss, tokens in losses]


@torch.inference_mode()
def _losses(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, int]]:
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    results: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * len(rows[place][0]) > BATCH_TOKENS:
            _score(model, rows, batch, results)
            batch = []
        batch.append(place)
    if batch:
        _score(model, rows, batch, results)
    return results


def _score(
    model: Any,
    rows: Sequence[tuple[list[int], list[int]]],
    batch: Sequence[int],
    results: list[tuple[float, int]],
) -> None:
    longest = max(len(rows[place][0]) for place in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, place in enumerate(batch):
        tokens, wanted = rows[place]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(wanted)] = torch.tensor(wanted)
        mask[row, : len(tokens)] = 1
    ids, mask, labels = (tensor.to(model.device) for tensor in (ids, mask, labels))
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    wanted_at = labels[:, 1:] != IGNORED
    logits = model.get_output_embeddings()(hidden[:, :-1][wanted_at]).float()
    losses = torch.zeros(wanted_at.shape, device=model.device)
    losses[wanted_at] = F.cross_entropy(logits, labels[:, 1:][wanted_at], reduction="none")
    for row, place in enumerate(batch):
        results[place] = (float(losses[row].sum()), int(wanted_at[row].sum()))
