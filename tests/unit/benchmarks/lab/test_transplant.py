"""A Qwen3 made of a Llama: every weight is carried over, and training brings it nearer to what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.lab import transplant as module
from benchmarks.lab.transplant import ROW_TOKENS, heal, rows, transplant


def test_rows_have_one_length_and_are_the_same_for_one_seed(tokenizer: Any) -> None:
    endless, again, other = (rows(tokenizer, seed=seed) for seed in (1, 1, 2))
    drawn = [next(endless) for _ in range(5)]
    assert {len(row) for row in drawn} == {ROW_TOKENS}
    assert drawn == [next(again) for _ in range(5)]
    assert drawn != [next(other) for _ in range(5)]


def test_weights_are_carried_over_and_norms_have_the_size_of_queries_and_keys(
    folder: Path, tokenizer: Any
) -> None:
    llama = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    qwen = transplant(llama, rows(tokenizer, seed=1), tokens_eos=tokenizer.eos_token_id)
    assert qwen.config.model_type == "qwen3"
    mine, theirs = qwen.state_dict(), llama.state_dict()
    assert theirs.keys() <= mine.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    norms = [mine[name] for name in mine.keys() - theirs.keys()]
    assert len(norms) == 2 * llama.config.num_hidden_layers
    assert all(norm.min() == norm.max() > 0 for norm in norms)
    assert any(norm[0] != 1 for norm in norms)


def test_healing_brings_it_nearer(folder: Path, tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "LEARNING_RATE", 3e-3)
    llama = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    qwen = transplant(llama, rows(tokenizer, seed=1), tokens_eos=tokenizer.eos_token_id)
    with torch.no_grad():
        for parameter in qwen.parameters():
            parameter.mul_(1.2)  # a random model's attention hardly matters: it has to be hurt to be healed
    seen: list[float] = []
    heal(qwen, llama, rows(tokenizer, seed=2), steps=12, report=lambda step, loss: seen.append(loss))
    assert len(seen) == 12
    assert seen[-1] < seen[0] / 2
