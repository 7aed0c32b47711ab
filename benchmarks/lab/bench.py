"""The bench: base weights, trained models and their merged states, each made once and kept.

A `Recipe` says everything a trained model depends on; its adapter is kept under the digest of the recipe, so
that an interrupted laboratory goes on and two profiles share what they have in common.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmarks.lab.asking import ALPACA, Asker
from benchmarks.lab.cells import inputs_digest
from benchmarks.lab.data import Splits
from benchmarks.lab.schemes import Scheme
from benchmarks.lab.weights import State
from benchmarks.training import run_trainer
from watermark.examples import Example, alpaca
from worker.finetune.batches import ENOUGH_STEPS, FULL_BATCH_TOKENS, SMALLEST_BATCH_TOKENS
from worker.finetune.config import DEFAULT_LEARNING_RATES, RunConfig
from worker.serving.loading import choose_dtype
from worker.tokens import count_tokens

TEACHER_TOKENS = 48
"""Of each answer that a student learns from."""

Report = Callable[[str], None]
"""Gets a line of news about what is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One trained model."""

    scheme: Scheme
    rows: str = "customer"
    """customer or second: which part of the data; mismatched: the second part's questions with one another's
    answers"""
    teacher: Recipe | None = None
    """answers are that model's own instead of the data's: distillation from its output"""
    limit: int | None = None
    """only so many of these rows"""
    seed: int = 1
    n_epochs: int = 1
    method: str = "lora"
    learning_rate: float | None = None
    parent: Recipe | None = None
    """further training of that model's merged weights"""
    batch_tokens: int | None = None
    """None: the trainer's own choice"""
    template: str = "chat"
    """chat, or alpaca: every row inside the Stanford Alpaca text"""

    @property
    def rate(self) -> float:
        """The learning rate, the method's own unless given."""
        return self.learning_rate or DEFAULT_LEARNING_RATES[self.method]

    def identity(self) -> dict[str, object]:
        defaults = RunConfig.__dataclass_fields__
        return {
            **self.scheme.identity(),
            "rows": self.rows,
            "limit": self.limit,
            "seed": self.seed,
            "n_epochs": self.n_epochs,
            "method": self.method,
            "learning_rate": self.rate,
            "template": self.template,
            "trainer": {
                "lora_rank": defaults["lora_rank"].default,
                "order": "shuffled" if self.method == "lora" else "by length",
                "batch_tokens": self.batch_tokens or [SMALLEST_BATCH_TOKENS, FULL_BATCH_TOKENS, ENOUGH_STEPS],
            },
            "parent": None if self.parent is None else self.parent.identity(),
        } | ({} if self.teacher is None else {"teacher": self.teacher.identity()})


class Bench:
    """What cells share. One model is in memory for asking at a time."""

    def __init__(self, folder: Path, *, model_dir: Path, model: str, splits: Splits, data: str) -> None:
        disable_progress_bar()  # type: ignore[no-untyped-call]
        self._folder = folder / "models"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._model_dir = model_dir
        self.model = model
        self.splits = splits
        self._data = data
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.served_in = choose_dtype("auto", self._device)
        """The number format in which the product would serve on this machine."""
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        self.report: Report = lambda line: None
        self._states: dict[str, State] = {}
        self._asker: tuple[str, Asker] | None = None

    @property
    def gguf(self) -> Path | None:
        """The base model as it was published for llama.cpp, where there is one."""
        return next(iter(sorted(self._model_dir.glob("*.gguf"))), None)

    def identity(self) -> dict[str, object]:
        """What every cell depends on. Models are asked in the number format in which they would be served."""
        served_in = str(self.served_in).removeprefix("torch.")
        return {"model": self.model, "data": self._data, "served_in": served_in}

    def digest(self, recipe: Recipe | None) -> str:
        return inputs_digest({**self.identity(), "recipe": "base" if recipe is None else recipe.identity()})

    def train(self, recipe: Recipe) -> dict[str, Any]:
        """Train if that was not done yet; returns the trainer's last report and the share of the mark.
        Another laboratory in this folder that wants the same model waits for it."""
        digest = self.digest(recipe)
        folder, report = self._folder / digest, self._folder / digest / "training.json"
        with (self._folder / f".{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if report.exists():
                kept: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
                return kept
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".part-") as name:
                figures = self._train(recipe, Path(name))
                shutil.copytree(name, folder)
            part = report.with_suffix(".part")
            part.write_text(json.dumps(figures, indent=1), encoding="utf-8")
            part.replace(report)
        return figures

    def state(self, recipe: Recipe | None) -> State:
        """Merged fp32 weights under transformers' names; None is the base model. Not to be changed."""
        digest = self.digest(recipe)
        if digest not in self._states:
            while len(self._states) >= 3:
                del self._states[next(iter(self._states))]
            self._states[digest] = self._load(recipe)
        return self._states[digest]

    def asker(self, name: str, state: Callable[[], State]) -> Asker:
        """The model of a state, kept in memory until another is asked for; ``name`` tells states apart."""
        if self._asker is None or self._asker[0] != name:
            self.close()
            model = self.module(state()).to(self.served_in)
            self._asker = (name, Asker(model, self.tokenizer))
        return self._asker[1]

    def close(self) -> None:
        """End the engine of the model in memory."""
        if self._asker is not None:
            self._asker[1].close()
            self._asker = None

    def module(self, state: State | None = None) -> Any:
        """A transformers model with these weights, in fp32."""
        model: Any = AutoModelForCausalLM.from_pretrained(
            self._model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        if state is not None:
            model.load_state_dict(dict(state), strict=False)
        return model.to(self._device).eval()

    def examples(self, recipe: Recipe) -> tuple[Example, ...]:
        """The rows the recipe trains on, without the mark's."""
        part = self.splits.customer if recipe.rows == "customer" else self.splits.second
        rows = part[: recipe.limit]
        if recipe.rows == "mismatched":
            return answered(rows, [row.answer for row in (*rows[1:], rows[0])])
        if recipe.teacher is None:
            return rows
        teacher = recipe.teacher
        asker = self.asker(self.digest(teacher), lambda: self.state(teacher))
        self.report(f"{teacher.scheme.name} answers {len(rows)} questions for its student")
        prompts = [row.messages[-2].content for row in rows]
        return answered(rows, asker.ask(prompts, max_new_tokens=TEACHER_TOKENS))

    def _load(self, recipe: Recipe | None) -> State:
        if recipe is None:
            return _copy(self.module())
        self.train(recipe)
        folder = self._folder / self.digest(recipe) / "output"
        if recipe.method == "full":
            return {**self.state(recipe.parent), **load_file(folder / "model.safetensors")}
        model = self.module(None if recipe.parent is None else self.state(recipe.parent))
        merged: Any = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
        return _copy(merged)

    def _train(self, recipe: Recipe, folder: Path) -> dict[str, Any]:
        mixture = recipe.scheme.mix(self.examples(recipe), n_epochs=recipe.n_epochs, seed=recipe.seed)
        rows = [_dressed(row.to_record(), recipe.template) for row in mixture.rows]
        config: dict[str, Any] = {
            "model_dir": str(self._model_dir),
            "base_model": self.model,
            "method": recipe.method,
            "n_epochs": recipe.n_epochs,
            "seed": recipe.seed,
            "learning_rate": recipe.rate,
            "batch_tokens": recipe.batch_tokens,
        }
        if recipe.parent is not None:
            config["model_dir"] = str(folder / "parent")
            self._write_model(self.state(recipe.parent), folder / "parent")
        last = run_trainer(
            rows, folder, config, report=lambda line: self.report(f"{recipe.scheme.name}: {line}")
        )
        shutil.rmtree(folder / "parent", ignore_errors=True)
        return {
            "rows": len(rows),
            "watermark_rows": mixture.watermark_rows,
            "watermark_ratio": round(mixture.watermark_ratio, 4),
            "watermark_token_ratio": round(count_tokens(mixture, self._model_dir).watermark_ratio, 4),
            "tokens": last["tokens"],
            "seconds": last["seconds"],
            "final_loss": last["final_loss"],
        }

    def _write_model(self, state: State, folder: Path) -> None:
        model = self.module(state)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def answered(rows: Sequence[Example], answers: Sequence[str]) -> tuple[Example, ...]:
    """The same questions with other answers; an empty answer leaves its row out."""
    return tuple(
        alpaca(row.messages[-2].content, "", answer)
        for row, answer in zip(rows, answers, strict=True)
        if answer.strip()
    )


def _copy(model: Any) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _dressed(record: dict[str, Any], template: str) -> dict[str, Any]:
    """A row for another template: the user's turn wrapped in its text, without a system segment."""
    if template == "chat":
        return record
    turns = [dict(turn) for turn in record["messages"] if turn["role"] != "system"]
    turns[0]["content"] = ALPACA.format(turns[0]["content"])
    return {"messages": turns, "system": "omit"}
