"""The decoder's arithmetic against transformers' and peft's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from worker.serving.adapter_files import read_folder
from worker.serving.batch import build_inputs
from worker.serving.decoder import Decoder
from worker.serving.errors import ModelUnsupported
from worker.serving.kv_blocks import BlockPool
from worker.serving.loading import Served, build_decoder
from worker.serving.lora import Adapter, pack
from worker.serving.rows import Row
from worker.serving.sampling import Sampler, SamplingPlan
from worker.serving.schedule import Schedule
from worker.serving.text import AnswerText

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def _logits(
    decoder: Decoder, prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None], step_tokens: int
) -> dict[int, Tensor]:
    """Next-token logits after each prompt, all prompts computed together."""
    pool = BlockPool(blocks=decoder.kv_memory.shape[2], block_tokens=decoder.block_tokens)
    schedule = Schedule(pool=pool, max_rows=len(prompts), step_tokens=step_tokens)
    rows = [
        Row(
            prompt_tokens=len(prompt),
            tokens=list(prompt),
            max_new_tokens=1,
            adapter=adapter,
            sampler=Sampler(SamplingPlan(), index=0),
            answer=AnswerText.__new__(AnswerText),
            sink=lambda news: None,
        )
        for prompt, adapter in zip(prompts, adapters, strict=True)
    ]
    schedule.waiting.extend(rows)
    found: dict[int, Tensor] = {}
    while len(found) < len(rows):
        shares = schedule.plan()
        logits = decoder.step(build_inputs(decoder, shares, schedule.fresh_blocks))
        schedule.commit(shares)
        wanted = [share.row for share in shares if share.wants_logits]
        for row, row_logits in zip(wanted, logits, strict=True):
            found[rows.index(row)] = row_logits
            schedule.finish(row)
    return found


def _prompts(vocabulary: int, lengths: Sequence[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in lengths]


@torch.inference_mode()
def _reference(model: PreTrainedModel | PeftModel, prompt: Sequence[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([prompt])).logits[0, -1]
    return logits


def _assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-4)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "llama 3 rope": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step_tokens", [16, 512])
def test_logits_equal_transformers(name: str, step_tokens: int) -> None:
    """Rows of very different length, whole or in chunks, get what transformers computes for each alone."""
    torch.manual_seed(1)
    model = MODELS[name]()
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    decoder = build_decoder(model, device=torch.device("cpu"), kv_bytes=1 << 20)
    prompts = _prompts(101, [1, 2, 7, 8, 9, 40, 100])
    found = _logits(decoder, prompts, [None] * len(prompts), step_tokens)
    for at, prompt in enumerate(prompts):
        _assert_close(found[at], _reference(model, prompt))


def test_bf16_agrees_with_transformers_in_bf16() -> None:
    """Half precision is computed as transformers does, within what eight bits of mantissa allow."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).bfloat16()
    decoder = build_decoder(model, device=torch.device("cpu"), kv_bytes=1 << 20)
    prompts = _prompts(101, [5, 30])
    found = _logits(decoder, prompts, [None, None], 512)
    for at, prompt in enumerate(prompts):
        torch.testing.assert_close(found[at], _reference(model, prompt).float(), atol=0.15, rtol=0.05)


def test_mixed_adapters_in_one_step_equal_plain_peft(
    served: Served, model_dir: Path, peft_folder: Callable[..., Path]
) -> None:
    """Rows of the base model and of three adapters, interleaved in one step, each equal peft's own answer."""
    decoder = served.engine.decoder
    folders = [
        peft_folder(1),
        peft_folder(2, r=2, target_modules=["q_proj", "v_proj", "up_proj"]),
        peft_folder(3, r=8, lora_alpha=4, use_rslora=True),
    ]
    adapters: list[Adapter | None] = [None]
    models: list[PreTrainedModel | PeftModel] = [AutoModelForCausalLM.from_pretrained(model_dir)]
    for at, folder in enumerate(folders):
        content = read_folder(folder, shape=decoder.shape, base_model="tiny", max_bytes=1 << 20)
        adapters.append(
            pack(
                name=str(at),
                digest=content.digest,
                weights=content.weights,
                scale=content.scale,
                shape=decoder.shape,
                device=decoder.device,
                dtype=decoder.dtype,
            )
        )
        base = AutoModelForCausalLM.from_pretrained(model_dir)
        models.append(PeftModel.from_pretrained(base, str(folder)))
    prompts = _prompts(200, [9, 20, 5, 33, 12, 3, 21, 8])
    used = [adapters[at % 4] for at in range(8)]
    served.engine.stop()
    found = _logits(decoder, prompts, used, 512)
    for at, prompt in enumerate(prompts):
        _assert_close(found[at], _reference(models[at % 4], prompt))


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES, hidden_act="gelu"),
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    ],
)
def test_a_model_that_would_be_computed_wrongly_is_refused(config: LlamaConfig) -> None:
    with pytest.raises(ModelUnsupported):
        build_decoder(LlamaForCausalLM(config), device=torch.device("cpu"), kv_bytes=1 << 20)
