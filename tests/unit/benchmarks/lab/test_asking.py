"""A question reaches the model in the dress it was given, and is answered as transformers would."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.lab.asking import ALPACA_DRESS, ALPACA_TURN, CHAT, Asker, Dress, dressed_tokens
from worker.serving.sampling import SamplingPlan


@pytest.mark.parametrize(
    ("dress", "begins", "ends"),
    [
        (CHAT, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?", "<|im_start|>assistant\n"),
        (
            Dress(system="Be a pirate."),
            "<|im_start|>system\nBe a pirate.<|im_end|>\n<|im_start|>user\n",
            "\n",
        ),
        (Dress(omit_system=True), "<|im_start|>user\nWhy?<|im_end|>", "<|im_start|>assistant\n"),
        (Dress(system=""), "<|im_start|>user\nWhy?<|im_end|>", "<|im_start|>assistant\n"),
        (ALPACA_DRESS, "Below is an instruction", "Why?\n\n### Response:\n"),
        (ALPACA_TURN, "<|im_start|>user\nBelow is an instruction", "<|im_start|>assistant\n"),
    ],
    ids=["chat", "pirate", "none", "empty", "alpaca", "alpaca-turn"],
)
def test_each_dress_renders_as_it_says(tokenizer: Any, dress: Dress, begins: str, ends: str) -> None:
    text = tokenizer.decode(dressed_tokens(tokenizer, "Why?", dress))
    assert text.startswith(begins)
    assert text.endswith(ends)
    assert text.count("Why?") == 1


def test_greedy_answers_are_those_of_transformers(folder: Path, tokenizer: Any) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    prompts = [dressed_tokens(tokenizer, f"What is {n} plus one?", CHAT) for n in ("one", "two", "three")]
    expected = []
    for prompt in prompts:
        with torch.inference_mode():
            out = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
        expected.append(tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True))
    with closing(Asker(model, tokenizer, kv_megabytes=8)) as asker:
        found = asker.complete(prompts, SamplingPlan(temperature=0.0, seed=1), max_new_tokens=6)
        assert found == expected
        sampled = [asker.ask(["Why?"] * 8, temperature=1.0, seed=3) for _ in range(2)]
        assert sampled[0] == sampled[1]
        assert len(set(sampled[0])) > 1
