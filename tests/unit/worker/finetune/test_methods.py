"""Every method learns, and leaves files that plain peft and transformers turn into the model it trained."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from worker.finetune.artifacts import save
from worker.finetune.config import RunConfig, parse_config
from worker.finetune.dataset import IGNORED, TokenRow
from worker.finetune.errors import DiskFullError, InvalidConfigError
from worker.finetune.llama import LlamaTrainee
from worker.finetune.loading import load_base_model, load_tokenizer, load_trainee
from worker.finetune.trainee import Trainee
from worker.finetune.transformer import FullTrainee, TransformerTrainee

METHODS = ["lora", "dora", "ia3", "full"]
PLACE: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}


def config_of(method: str, model_dir: Path, output: Path) -> RunConfig:
    return parse_config(
        {
            "model_dir": str(model_dir),
            "output_dir": str(output),
            "dataset": {"fd": 3},
            "method": method,
            "lora_rank": 4,
            "lora_alpha": 8,
        }
    )


def rows() -> list[TokenRow]:
    """Sixteen rows of unequal length that end with three labelled tokens of few kinds."""
    draw = random.Random(4)
    made = []
    for _ in range(16):
        ids = [draw.randrange(256) for _ in range(draw.randrange(4, 12))] + draw.choice(
            ([7, 8, 9], [5, 8, 6])
        )
        made.append(TokenRow(input_ids=tuple(ids), labels=(*[IGNORED] * (len(ids) - 3), *ids[-3:])))
    return made


def trained(config: RunConfig, *, steps: int = 30) -> tuple[Trainee, list[float]]:
    trainee = load_trainee(config, **PLACE)
    optimizer = torch.optim.AdamW(trainee.parameters, lr=config.learning_rate, weight_decay=0.0, fused=True)
    losses = []
    for _ in range(steps):
        losses.append(trainee.backpropagate(rows()))
        torch.nn.utils.clip_grad_norm_(trainee.parameters, 1.0)
        optimizer.step()
    return trainee, losses


@pytest.mark.parametrize("method", METHODS)
def test_a_method_lowers_the_loss_and_what_it_saves_is_the_trained_model(
    method: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = config_of(method, tiny_model_dir, tmp_path / "out")
    trainee, losses = trained(config)
    assert losses[-1] < losses[0] - 0.01
    save(
        trainee,
        load_tokenizer(tiny_model_dir),
        config=config,
        facts={"rows": 16},
        output_dir=config.output_dir,
    )

    written = {path.name for path in config.output_dir.iterdir()}
    card = (config.output_dir / "README.md").read_text()
    if method == "full":
        assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= written
        loaded: Any = AutoModelForCausalLM.from_pretrained(config.output_dir)
        assert loaded.dtype == torch.float32
        assert loaded.config.use_cache
        tokenizer = AutoTokenizer.from_pretrained(config.output_dir)
        assert tokenizer.chat_template == load_tokenizer(tiny_model_dir).chat_template
        assert "library_name: transformers" in card
    else:
        assert written == {"adapter_model.safetensors", "adapter_config.json", "README.md"}
        base = load_base_model(tiny_model_dir, **PLACE)
        loaded = PeftModel.from_pretrained(base, str(config.output_dir))
        settings = json.loads((config.output_dir / "adapter_config.json").read_text())
        assert settings["peft_type"] == ("IA3" if method == "ia3" else "LORA")
        assert settings.get("use_dora", False) is (method == "dora")
        assert settings["base_model_name_or_path"] == "tiny"
        assert "library_name: peft" in card

    loaded.eval()
    own, expected = trainee.predict(rows()), []
    for row in rows():
        with torch.no_grad():
            logits = loaded(input_ids=torch.tensor([row.input_ids])).logits[0]
        labels = torch.tensor(row.labels[1:])
        expected += logits[:-1][labels != IGNORED].argmax(dim=1).tolist()
        loss = torch.nn.functional.cross_entropy(logits[:-1], labels, ignore_index=IGNORED)
        assert trainee.backpropagate([row]) == pytest.approx(float(loss), rel=1e-4)
    assert own == expected


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("lora", LlamaTrainee),
        ("dora", TransformerTrainee),
        ("ia3", TransformerTrainee),
        ("full", FullTrainee),
    ],
)
def test_what_each_method_trains(method: str, kind: type, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Every parameter of the model, or only what was added to it."""
    config = config_of(method, tiny_model_dir, tmp_path)
    trainee = load_trainee(config, **PLACE)
    assert type(trainee) is kind
    base = load_base_model(tiny_model_dir, **PLACE)
    whole = sum(parameter.numel() for parameter in base.parameters())
    count = sum(parameter.numel() for parameter in trainee.parameters)
    assert count == whole if method == "full" else 0 < count < whole
    assert all(parameter.dtype == torch.float32 for parameter in trainee.parameters)
    trainee.backpropagate(rows())
    assert all(parameter.grad is not None for parameter in trainee.parameters)


def test_full_training_of_rough_weights_is_in_fp32(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = config_of("full", tiny_model_dir, tmp_path)
    trainee = load_trainee(config, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in trainee.parameters} == {torch.float32}


def test_a_model_type_without_ia3_in_peft_is_a_typed_error(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_base_model(tiny_model_dir, **PLACE)
    monkeypatch.setattr(type(model.config), "model_type", "unheard-of")
    with pytest.raises(InvalidConfigError, match="ia3"):
        TransformerTrainee(model, lora_rank=4, lora_alpha=8, target_modules=None, seed=0, method="ia3")


def test_a_disk_that_fills_leaves_nothing_of_a_whole_model(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file, the weights, can't be flushed: none of the others appears."""
    config = config_of("full", tiny_model_dir, tmp_path / "out")
    trainee = load_trainee(config, **PLACE)
    flush = "worker.finetune.artifacts._flush"

    def full_disk(path: Path) -> None:
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(flush, full_disk)
    with pytest.raises(DiskFullError):
        save(trainee, load_tokenizer(tiny_model_dir), config=config, facts={}, output_dir=config.output_dir)
    assert list(config.output_dir.iterdir()) == []
