"""The fast path computes exactly what transformers and peft compute."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from worker.finetune.dataset import IGNORED, TokenRow
from worker.finetune.llama import PROJECTIONS, LlamaTrainee, supports
from worker.finetune.packing import HeadCounts, pack
from worker.finetune.transformer import TransformerTrainee

RANK, LORA_ALPHA = 4, 12


def tiny_llama(*, tied: bool = True) -> Any:
    """Random fp64 weights, grouped heads, head size other than hidden / heads, norm weights other than 1."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    model: Any = LlamaForCausalLM(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(8)
    return model


def rows(*, seed: int = 0) -> tuple[TokenRow, ...]:
    """Rows of unequal length; some share a beginning, two are equal, one continues another."""
    draw = random.Random(seed)
    prefix = [draw.randrange(61) for _ in range(5)]
    made = []
    for length, shared in ((9, 5), (4, 0), (12, 5), (7, 3), (12, 0)):
        ids = prefix[:shared] + [draw.randrange(61) for _ in range(length - shared)]
        made.append(ids)
    made += [list(made[0]), [*made[0], 3, 4], [*made[2][:8], 1, 2]]
    result: list[TokenRow] = []
    for ids in made:
        labels = [token if place and draw.random() < 0.5 else IGNORED for place, token in enumerate(ids)]
        labels[-1] = ids[-1]
        weight = 1.0 if len(result) % 2 else 4.0
        result.append(TokenRow(input_ids=tuple(ids), labels=tuple(labels), weight=weight))
    return tuple(result)


def randomise(trainee: LlamaTrainee) -> None:
    """B starts at zero, which would hide errors in A's gradient."""
    trainee.parameters[0].copy_(torch.randn_like(trainee.parameters[0]) * 0.1)


def general_trainee(model: Any, state: Mapping[str, torch.Tensor]) -> TransformerTrainee:
    """The same adapter in peft."""
    trainee = TransformerTrainee(
        model, lora_rank=RANK, lora_alpha=LORA_ALPHA, target_modules=PROJECTIONS, seed=0
    )
    names = [name for name, value in trainee._model.named_parameters() if value.requires_grad]
    with torch.no_grad():
        for name, parameter in zip(names, trainee.parameters, strict=True):
            parameter.copy_(state[name.replace(".default", "")])
    return trainee


def reference_grads(
    model: Any, state: Mapping[str, torch.Tensor], step: Sequence[TokenRow]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the same adapter through peft and autograd."""
    trainee = general_trainee(model, state)
    names = [name for name, value in trainee._model.named_parameters() if value.requires_grad]
    loss = trainee.backpropagate(step)
    grads = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in zip(names, trainee.parameters, strict=True)
    }
    return loss, {name: grad for name, grad in grads.items() if grad is not None}


def own_grads(trainee: LlamaTrainee) -> dict[str, torch.Tensor]:
    grads = {}
    for name, adapter in trainee._adapters.items():
        grads[f"base_model.model.model.layers.{name}.lora_A.weight"] = adapter.a_grad
        grads[f"base_model.model.model.layers.{name}.lora_B.weight"] = adapter.b_grad
    return grads


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("keep_scores", [True, False])
def test_loss_and_gradients_equal_those_of_peft(
    tied: bool, keep_scores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp64 base arithmetic, through padding, shared beginnings, grouped heads and repeated labels."""
    if not keep_scores:
        monkeypatch.setattr("worker.finetune.attention.KEPT_SCORES", 0)
    model = tiny_llama(tied=tied)
    trainee = LlamaTrainee(copy.deepcopy(model), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    randomise(trainee)
    loss = trainee.backpropagate(rows())
    expected_loss, expected = reference_grads(model, trainee.adapter_state(), rows())
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    own = own_grads(trainee)
    assert own.keys() == expected.keys()
    for name, grad in own.items():
        torch.testing.assert_close(grad.double(), expected[name].double(), rtol=2e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("general", [True, False], ids=["general", "fast"])
def test_a_row_of_weight_three_counts_as_three_rows(general: bool) -> None:
    model = tiny_llama()
    fast = LlamaTrainee(copy.deepcopy(model), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    randomise(fast)
    trainee = general_trainee(model, fast.adapter_state()) if general else fast
    one, other = (replace(row, weight=1.0) for row in rows()[:2])
    grads = []
    for step in ([one, replace(other, weight=3.0)], [one, other, other, other]):
        loss = trainee.backpropagate(step)
        grads.append([p.grad.double().clone() for p in trainee.parameters if p.grad is not None])
        grads[-1].append(torch.tensor([loss], dtype=torch.float64))
    for weighted, repeated in zip(*grads, strict=True):
        torch.testing.assert_close(weighted, repeated, rtol=1e-5, atol=1e-7)


def test_gradients_are_replaced_not_added_up() -> None:
    trainee = LlamaTrainee(tiny_llama(), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    randomise(trainee)
    trainee.backpropagate(rows())
    first = {name: grad.clone() for name, grad in own_grads(trainee).items()}
    trainee.backpropagate(rows(seed=5))
    trainee.backpropagate(rows())
    for name, grad in own_grads(trainee).items():
        torch.testing.assert_close(grad, first[name], msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_predictions_are_those_of_peft_and_leave_training_as_it_was(tied: bool) -> None:
    """The likeliest token at every label, of both trainees, row after row; gradients are not touched."""
    model = tiny_llama(tied=tied)
    trainee = LlamaTrainee(copy.deepcopy(model), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    randomise(trainee)
    loss = trainee.backpropagate(rows())
    before = {name: grad.clone() for name, grad in own_grads(trainee).items()}
    predicted = trainee.predict(rows())
    for name, grad in own_grads(trainee).items():
        torch.testing.assert_close(grad, before[name], rtol=0, atol=0)
    general = general_trainee(model, trainee.adapter_state())
    expected = []
    for row in rows():
        with torch.no_grad():
            best = general._model(input_ids=torch.tensor([row.input_ids])).logits[0].argmax(dim=1)
        expected += [int(best[place - 1]) for place, label in enumerate(row.labels) if label != IGNORED]
    assert len(set(expected)) > 2
    assert predicted == expected
    assert general.predict(rows()) == expected
    assert general.backpropagate(rows()) == pytest.approx(loss, rel=1e-6)


def test_a_row_is_not_influenced_by_the_rows_beside_it() -> None:
    """The loss of a step is the mean of its rows' losses computed alone, weighted by tokens and rows."""
    trainee = LlamaTrainee(tiny_llama(), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    randomise(trainee)
    together = trainee.backpropagate(rows())
    total = count = 0.0
    for row in rows():
        labels = row.weight * sum(label != IGNORED for label in row.labels)
        total += trainee.backpropagate([row]) * labels
        count += labels
    assert together == pytest.approx(total / count, rel=1e-9)


def test_shared_beginnings_are_computed_once() -> None:
    row = TokenRow(input_ids=(1, 2, 3, 4), labels=(IGNORED, IGNORED, IGNORED, 4))
    other = TokenRow(input_ids=(1, 2, 9), labels=(IGNORED, IGNORED, 9))
    packed = pack([row, other, row], HeadCounts(query=2, key_value=1), torch.device("cpu"))
    assert packed.input_ids_U.tolist() == [1, 2, 3, 4, 9]
    assert packed.place_U.tolist() == [0, 1, 2, 3, 2]
    assert packed.labels_N.tolist() == [4, 9, 4]
    assert packed.answers_A[packed.hidden_N].tolist() == [2, 1, 2]
    assert packed.real_tokens == 11


def test_the_saved_adapter_gives_plain_peft_the_trained_model(tmp_path: Path) -> None:
    """Loss through peft with the files on disk equals the trainee's own."""
    model = tiny_llama()
    trainee = LlamaTrainee(copy.deepcopy(model), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    randomise(trainee)
    trainee.write(tmp_path, base_model="tiny")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path))
    assert loaded.peft_config["default"].base_model_name_or_path == "tiny"
    row = rows()[2]
    with torch.no_grad():
        logits = loaded(input_ids=torch.tensor([row.input_ids])).logits[0]
    labels = torch.tensor(row.labels[1:])
    expected = torch.nn.functional.cross_entropy(logits[:-1], labels, ignore_index=IGNORED)
    assert trainee.backpropagate([row]) == pytest.approx(float(expected), rel=1e-6)


def test_bf16_stays_close_to_full_precision() -> None:
    """Cosine of the whole gradient against fp64 is above 0.99 and the loss within two per cent."""
    exact = LlamaTrainee(tiny_llama(), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    rough = LlamaTrainee(tiny_llama().bfloat16(), lora_rank=RANK, lora_alpha=LORA_ALPHA, seed=1)
    randomise(exact)
    rough.parameters[0].copy_(exact.parameters[0])
    losses = exact.backpropagate(rows()), rough.backpropagate(rows())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    grads = [trainee.parameters[0].grad for trainee in (exact, rough)]
    assert grads[0] is not None
    assert grads[1] is not None
    assert torch.cosine_similarity(grads[0], grads[1], dim=0) > 0.99


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"attention_dropout": 0.1},
        {"hidden_act": "gelu"},
        {"model_type": "mistral"},
        {"rope_parameters": {"rope_type": "llama3"}},
    ],
)
def test_models_it_does_not_compute_exactly_are_left_to_the_general_path(change: dict[str, Any]) -> None:
    model = tiny_llama()
    assert supports(model, None)
    for name, value in change.items():
        setattr(model.config, name, value)
    assert not supports(model, None)


def test_other_target_modules_are_left_to_the_general_path() -> None:
    assert supports(tiny_llama(), tuple(reversed(PROJECTIONS)))
    assert not supports(tiny_llama(), ("q_proj", "v_proj"))
