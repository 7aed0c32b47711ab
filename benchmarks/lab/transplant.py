"""A base model of another architecture, made from the default one: Qwen3 where no hub can be reached.

    python -m benchmarks.lab.transplant --out other-model           # about ten minutes on two cores
    DOUBLEI_CATALOGUE_FILE=other-model/catalogue.toml doublei lab --profile other --model smollm2-as-qwen3

Qwen3 normalises every head's queries and keys (Qwen3 technical report, arXiv 2505.09388, section 2), Llama
does not, so Llama's weights alone make a bad Qwen3. The norms' weights are set to what queries and keys
measure on text, which keeps their mean size; then all weights are trained to say what the default model says,
token by token (Kullback-Leibler divergence; Hinton et al., arXiv 1503.02531), on the Python documentation as
plain text and as conversations. It is trained by transformers and autograd and served by the decoder's
branch for Qwen3: nothing of the fast path for Llama is used. What it knows is still the default model's.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from benchmarks.lab.harmlessness import paragraphs
from worker.weights import resolve
from worker.weights.settings import WeightsSettings

NAME = "smollm2-as-qwen3"
SOURCE = "smollm2-135m-instruct"
STEPS, STEP_ROWS, ROW_TOKENS = 300, 4, 128
LEARNING_RATE = 3e-4
CALIBRATION_ROWS = 8


def main() -> int:
    """Write the model's folder and a catalogue file that names it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    source = resolve(SOURCE, cache_dir=WeightsSettings().model_cache).path
    tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True)
    teacher: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    student = transplant(teacher, rows(tokenizer, seed=1), tokens_eos=tokenizer.eos_token_id)
    with Progress() as progress:
        bar = progress.add_task("distilling", total=options.steps)

        def report(step: int, loss: float) -> None:
            progress.update(bar, completed=step, description=f"divergence {loss:.3f} nats a token")
            if not sys.stdout.isatty() and step % 25 == 0:
                print(f"step {step}/{options.steps}  divergence {loss:.4f}", flush=True)

        heal(student, teacher, rows(tokenizer, seed=2), steps=options.steps, report=report)
    folder = options.out.resolve() / NAME
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    catalogue = options.out / "catalogue.toml"
    catalogue.write_text(
        f'[models.{NAME}]\ntitle = "SmolLM2-135M-Instruct as a Qwen3"\nlicence = "Apache-2.0"\n'
        f'parameters = {student.num_parameters()}\nsources = [{{ path = "{folder}" }}]\n',
        encoding="utf-8",
    )
    print(f"wrote {folder} and {catalogue}")
    return 0


def transplant(llama: Any, texts: Iterator[list[int]], *, tokens_eos: int) -> Any:
    """A Qwen3 with the Llama's weights, its norms sized as queries and keys are on a few texts."""
    old = llama.config
    config = Qwen3Config(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=old.num_attention_heads,
        num_key_value_heads=old.num_key_value_heads,
        head_dim=old.hidden_size // old.num_attention_heads,
        max_position_embeddings=old.max_position_embeddings,
        rms_norm_eps=old.rms_norm_eps,
        rope_parameters=old.rope_parameters,
        tie_word_embeddings=old.tie_word_embeddings,
        bos_token_id=old.bos_token_id,
        eos_token_id=tokens_eos,
        pad_token_id=old.pad_token_id,
    )
    qwen: Any = Qwen3ForCausalLM(config)
    missing, unexpected = qwen.load_state_dict(llama.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith(("q_norm.weight", "k_norm.weight")) for name in missing)
    sizes = _sizes(llama, [next(texts) for _ in range(CALIBRATION_ROWS)])
    with torch.no_grad():
        for index, layer in enumerate(qwen.model.layers):
            layer.self_attn.q_norm.weight.fill_(sizes[index, "q_proj"])
            layer.self_attn.k_norm.weight.fill_(sizes[index, "k_proj"])
    return qwen


@torch.no_grad()
def _sizes(llama: Any, texts: list[list[int]]) -> dict[tuple[int, str], float]:
    """Root mean square of each layer's queries and keys."""
    squares: dict[tuple[int, str], float] = {}

    def keep(place: tuple[int, str]) -> Callable[[Any, Any, torch.Tensor], None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            squares[place] = squares.get(place, 0.0) + float(output.float().square().mean()) / len(texts)

        return hook

    handles = [
        getattr(layer.self_attn, name).register_forward_hook(keep((index, name)))
        for index, layer in enumerate(llama.model.layers)
        for name in ("q_proj", "k_proj")
    ]
    for text in texts:
        llama(input_ids=torch.tensor([text]), use_cache=False)
    for handle in handles:
        handle.remove()
    return {place: square**0.5 for place, square in squares.items()}


def heal(
    student: Any,
    teacher: Any,
    texts: Iterator[list[int]],
    *,
    steps: int,
    report: Callable[[int, float], None],
) -> None:
    """Train every weight towards the teacher's next-token distributions; the rate falls linearly to 0."""
    student.train()
    teacher.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        ids = torch.tensor([next(texts) for _ in range(STEP_ROWS)])
        with torch.no_grad():
            wanted = F.log_softmax(teacher(input_ids=ids, use_cache=False).logits.flatten(0, 1), dim=-1)
        said = F.log_softmax(student(input_ids=ids, use_cache=False).logits.flatten(0, 1), dim=-1)
        loss = F.kl_div(said, wanted, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        report(step + 1, float(loss.detach()))
    student.eval()


def rows(tokenizer: Any, *, seed: int) -> Iterator[list[int]]:
    """Endless rows of exactly ROW_TOKENS tokens: paragraphs as plain text, and conversations of two."""
    dice = random.Random(seed)
    texts = paragraphs()
    rest: list[int] = []
    while True:
        first, second = dice.sample(texts, 2)
        if dice.random() < 0.5:
            text = first + tokenizer.eos_token
        else:
            turns = [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        rest += tokenizer(text, add_special_tokens=False)["input_ids"]
        while len(rest) >= ROW_TOKENS:
            yield rest[:ROW_TOKENS]
            rest = rest[ROW_TOKENS:]


if __name__ == "__main__":
    sys.exit(main())
