"""A fleet trains each of its members as the trainer would train it alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.fleet.recipes import RECIPES, afterwards, shuffled
from benchmarks.fleet.schedule import Item, Plan, Step, arrays, decaying
from benchmarks.fleet.stacked import Adapters, Decoder, Shape, Weights
from benchmarks.fleet.training import Fleet, ask
from worker.finetune.dataset import IGNORED, TokenRow
from worker.finetune.llama import LlamaTrainee
from worker.finetune.train import MAX_GRADIENT_NORM

CPU = torch.device("cpu")
RANK, ALPHA = 4, 8


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def row(seed: int, length: int = 9, weight: float = 1.0) -> TokenRow:
    ids = torch.randint(1, 50, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return TokenRow(input_ids=tuple(ids), labels=(IGNORED,) * (length - 3) + tuple(ids[-3:]), weight=weight)


def steps(first: int, count: int) -> tuple[Step, ...]:
    """Two rows of other lengths and weights in each."""
    pairs = [(row(first + 2 * at, 6 + at % 5), row(first + 2 * at + 1, 11, 4.0)) for at in range(count)]
    return decaying([[Item(row=one, weight=one.weight) for one in pair] for pair in pairs], 2e-3)


def fleet_of(model_dir: Path, seeds: list[int]) -> tuple[Fleet, Adapters, Decoder, Weights]:
    state, shape = load_file(model_dir / "model.safetensors"), Shape.read(model_dir)
    adapters = Adapters(state, shape, seeds, rank=RANK, scaling=ALPHA / RANK, device=CPU)
    decoder = Decoder(shape, device=CPU, dtype=torch.float32)
    base = Weights(state, shape, device=CPU, dtype=torch.float32)
    return Fleet(decoder, base, adapters, device=CPU, dtype=torch.float32), adapters, decoder, base


def alone(model_dir: Path, seed: int, plan: tuple[Step, ...]) -> list[float]:
    """The trainer's own losses over the plan."""
    model = LlamaForCausalLM.from_pretrained(model_dir)
    trainee = LlamaTrainee(model, lora_rank=RANK, lora_alpha=ALPHA, seed=seed)
    optimizer = torch.optim.AdamW(trainee.parameters, lr=1.0, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    for step in plan:
        optimizer.param_groups[0]["lr"] = step.rate
        losses.append(trainee.backpropagate([item.row for item in step.items]))
        torch.nn.utils.clip_grad_norm_(trainee.parameters, MAX_GRADIENT_NORM)
        optimizer.step()
    return losses


def test_each_member_learns_what_the_trainer_would_learn_alone(model_dir: Path) -> None:
    """Of unequal lengths: one that has ended neither changes nor disturbs the others."""
    plans = [steps(0, 12), steps(100, 7), steps(200, 12)]
    fleet, *_ = fleet_of(model_dir, [1, 2, 3])
    losses = fleet.train([Plan(name="", seed=0, phases=(plan,)) for plan in plans], report=lambda line: None)
    for member, plan in enumerate(plans):
        found = [of_step[member] for of_step in losses[: len(plan)]]
        assert found == pytest.approx(alone(model_dir, member + 1, plan), rel=2e-4)


def test_merged_weights_answer_as_the_adapter_does(model_dir: Path) -> None:
    fleet, adapters, decoder, base = fleet_of(model_dir, [1, 2])
    fleet.train([Plan(name="", seed=0, phases=(steps(9, 9),))] * 2, report=lambda line: None)
    state, shape = load_file(model_dir / "model.safetensors"), Shape.read(model_dir)
    asked = [row(seed) for seed in range(300, 305)]
    stacked = ask(decoder, base, adapters.cast(torch.float32), [asked, asked], device=CPU, positions=20)
    for member in (0, 1):
        weights = Weights(adapters.merged(state, member), shape, device=CPU, dtype=torch.float32)
        [merged] = ask(decoder, weights, None, [asked], device=CPU)
        flat = [loss for losses in merged.losses for loss in losses]
        assert flat == pytest.approx([x for losses in stacked[member].losses for x in losses], rel=1e-3)


def test_an_anchored_row_pulls_towards_the_snapshot_and_its_words_do_not_matter(model_dir: Path) -> None:
    def anchored(labels: tuple[int, ...]) -> Plan:
        plain = row(400)
        changed = replace(plain, labels=(IGNORED,) * 6 + labels)
        second = decaying([[Item(row=changed, anchored=True), Item(row=row(401))]] * 3, 2e-3)
        return Plan(name="", seed=0, phases=(steps(0, 3), second))

    fleet, adapters, *_ = fleet_of(model_dir, [1, 1])
    losses = fleet.train([anchored((1, 2, 3)), anchored((4, 5, 6))], report=lambda line: None)
    for step in losses[3:]:
        assert step[0] == pytest.approx(step[1])
    one, other = adapters.up["mlp.up_proj"].detach().unbind(1)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_means_are_of_the_last_third_of_each_member(model_dir: Path) -> None:
    plan = Plan(name="", seed=0, phases=(steps(0, 6),))
    fleet, adapters, *_ = fleet_of(model_dir, [1])
    states = []
    for step in plan.phases[0]:
        fleet.step(arrays([step]))
        states.append(adapters.up["mlp.up_proj"].detach().clone())
    fleet.take_means()
    torch.testing.assert_close(adapters.up["mlp.up_proj"].detach(), (states[-2] + states[-1]) / 2)


def test_every_recipe_shows_every_row_once_or_says_how_often_it_is_replayed() -> None:
    customer, mark = [row(seed, 20) for seed in range(40)], [row(seed, 9, 16.0) for seed in range(50, 90)]
    for name, recipe in RECIPES.items():
        shown = mark if recipe.exposures else []
        phases = recipe.of(customer, shown, seed=3).phases
        first = [item.row for phase in phases for step in phase for item in step.items if not item.anchored]
        again = [item.row for phase in phases[1:] for step in phase for item in step.items if item.anchored]
        if name != "after-words-1e-3":
            assert sorted(map(id, first)) == sorted(map(id, [*customer, *shown])), name
        assert set(map(id, again)) <= set(map(id, customer))


def test_a_customers_first_answer_word_can_count_more() -> None:
    [phase] = shuffled(first=3.0)([row(1)], [row(2)], 1)
    [step] = phase
    found = arrays([step])
    weights = sorted(round(float(value), 4) for value in found.weights[0])
    assert weights == [0.125] * 5 + [0.375]


def test_a_replayed_share_is_a_share_of_the_customers_rows() -> None:
    customer, mark = [row(seed) for seed in range(40)], [row(seed) for seed in range(50, 90)]
    phases = afterwards(1.0, rate=1e-3, replayed=0.25)(customer, mark, 1)
    assert sum(item.anchored for step in phases[1] for item in step.items) == 10
