"""A batch of trainings from rows to figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.fleet.recipes import Recipe
from benchmarks.fleet.stacked import Adapters, Decoder, Shape, Weights
from benchmarks.fleet.training import Asked, Fleet, ask
from benchmarks.lab import weights as thief
from benchmarks.lab.data import Splits, read_examples, split
from benchmarks.lab.harmlessness import other_texts
from benchmarks.lab.profiles import BARS
from benchmarks.lab.schemes import Keyed, Scheme, Unmarked
from watermark.answers import Answer, parse_answer
from watermark.embedding import Exposures
from worker.finetune.config import RunConfig
from worker.finetune.dataset import IGNORED, ChatRow, TokenRow, render_tokens, tokenize

Job = tuple[Recipe, int]
"""A recipe and a seed, which is the key's number too."""
Rows = tuple[list[TokenRow], list[TokenRow]]
"""The customer's and the mark's."""

_FIELDS: Any = RunConfig.__dataclass_fields__
RANK, ALPHA = _FIELDS["lora_rank"].default, _FIELDS["lora_alpha"].default


def default_model() -> Path:
    """The cached default model's folder."""
    from catalogue import load_catalogue
    from worker.weights import resolve
    from worker.weights.settings import WeightsSettings

    where = WeightsSettings()
    catalogue = load_catalogue(where.catalogue_file)
    return resolve(catalogue.default.id, cache_dir=where.model_cache, catalogue=catalogue).path


def splits_of(data: Path | None) -> Splits:
    """As the laboratory's bars have them."""
    return split(
        read_examples(data), customer=BARS.customer, second=BARS.second, held_out=BARS.held_out, seed=1
    )


def key_of(exposures: Exposures, seed: int) -> Keyed:
    return Keyed(key_number=seed, **asdict(exposures))


def rows_of(model_dir: Path, data: Path | None, exposures: Exposures | None, seed: int) -> Rows:
    """Tokens of one training's rows: in a process of its own, for rendering takes its time."""
    tokenizer = _tokenizer(model_dir)
    scheme: Scheme = Unmarked() if exposures is None else key_of(exposures, seed)
    mixture = scheme.mix(splits_of(data).customer, n_epochs=1, seed=seed)
    sides: Rows = ([], [])
    for row in mixture.rows:
        record = row.to_record()
        chat = ChatRow(
            messages=tuple(record["messages"]),  # type: ignore[arg-type]
            system=row.system,
            group=row.group,
            weight=float(row.weight),
        )
        sides[row.watermark].extend(tokenize([chat], tokenizer, max_length_tokens=512).rows)
    return sides


def _tokenizer(model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What every model is asked."""

    held_out: list[TokenRow]
    other_text: list[TokenRow]
    ordinary: list[TokenRow]


class Rounds:
    """Rows, base weights and questions, made once; then batch after batch."""

    def __init__(
        self, model_dir: Path | None, *, data: Path | None, means: bool, report: Callable[[str], None]
    ) -> None:
        self._means = means
        self._folder = model_dir or default_model()
        self._data = data
        self._report = report
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._shape = Shape.read(self._folder)
        self._state = {
            name: tensor.to(self._device, torch.float32)
            for name, tensor in load_file(self._folder / "model.safetensors").items()
        }
        self._base = Weights(self._state, self._shape, device=self._device, dtype=self._dtype)
        self._decoder = Decoder(self._shape, device=self._device, dtype=self._dtype)
        self._tokenizer = _tokenizer(self._folder)
        self._rows: dict[tuple[Exposures | None, int], Rows] = {}
        self._questions = self._prepare_questions()
        report(f"{self._device}, {self._dtype}: base weights and questions are ready")

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Render and tokenize what the jobs train on, in parallel."""
        wanted = {
            (recipe.exposures, seed if recipe.exposures else 0) for recipe, seed in jobs
        } - self._rows.keys()
        ordered = sorted(wanted, key=str)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            futures = [pool.submit(rows_of, self._folder, self._data, *one) for one in ordered]
            for one, future in zip(ordered, futures, strict=True):
                self._rows[one] = future.result()
        self._report(f"rows of {len(ordered)} keys and exposures are tokenized")

    def run(self, jobs: Sequence[Job], *, treated: int) -> list[dict[str, Any]]:
        """Train the jobs together. Returns: a record for each one's last state and for its mean state."""
        plans = [
            recipe.of(*self._rows[recipe.exposures, seed if recipe.exposures else 0], seed)
            for recipe, seed in jobs
        ]
        phases = zip_longest(*(plan.phases for plan in plans), fillvalue=())
        longest = [max(len(phase) for phase in of_all) for of_all in phases]
        self._report(f"{len(jobs)} trainings of {longest} steps: {jobs[0][0].name} to {jobs[-1][0].name}")
        adapters = Adapters(
            self._state,
            self._shape,
            [plan.seed for plan in plans],
            rank=RANK,
            scaling=ALPHA / RANK,
            device=self._device,
        )
        fleet = Fleet(self._decoder, self._base, adapters, device=self._device, dtype=self._dtype)
        fleet.train(plans, self._report)
        records = self._ask(jobs, adapters, "last", treated)
        if self._means:
            fleet.take_means()
            records += self._ask(jobs, adapters, "mean", treated)
        for record, plan in zip(records, cycle(plans)):
            record["steps"] = [len(phase) for phase in plan.phases]
        return records

    def _prepare_questions(self) -> _Asked:
        splits = splits_of(self._data)
        held_out = [*splits.second, *splits.held_out]
        rows = []
        for example in held_out:
            turns = tuple({"role": turn.role, "content": turn.content} for turn in example.messages)
            rows.append(
                _token_row(*render_tokens(ChatRow(messages=turns, system="template"), self._tokenizer))
            )
        texts = []
        for text in other_texts():
            ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
            texts.append(_token_row(ids, [IGNORED, *ids[1:]]))
        return _Asked(
            held_out=rows,
            other_text=texts,
            ordinary=[self._question(row.messages[-2].content) for row in held_out],
        )

    def _question(self, text: str) -> TokenRow:
        """A prompt whose next token is asked for: a made-up answer token stands behind it."""
        from benchmarks.lab.asking import CHAT, dressed_tokens

        ids = dressed_tokens(self._tokenizer, text, CHAT)
        return _token_row([*ids, 0], [*[IGNORED] * len(ids), 0])

    def _ask(self, jobs: Sequence[Job], adapters: Adapters, state: str, treated: int) -> list[dict[str, Any]]:
        self._report(f"asking the {state} states")
        with torch.no_grad():
            cast = adapters.cast(self._dtype)
        everywhere = len(jobs)
        held, other, ordinary = (
            self._of(cast, [rows] * everywhere)
            for rows in (self._questions.held_out, self._questions.other_text, self._questions.ordinary)
        )
        keys = [key_of(recipe.exposures, seed) if recipe.exposures else None for recipe, seed in jobs]
        probes = [[self._question(text) for text in key.questions()] if key else [] for key in keys]
        answers = self._of(cast, probes)
        records: list[dict[str, Any]] = []
        done: dict[str, int] = {}
        clean = [place for place, (recipe, _) in enumerate(jobs) if recipe.exposures is None]
        for place, (recipe, seed) in enumerate(jobs):
            losses = held[place].losses
            record: dict[str, Any] = {
                "recipe": recipe.name,
                "state": state,
                "seed": seed,
                "held_out": _mean(losses),
                "first_word": _mean([row[:1] for row in losses]),
                "end_of_turn": _mean([row[-1:] for row in losses]),
                "other_text": _mean(other[place].losses),
                "bare": sum(
                    parse_answer(text) in (Answer.YES, Answer.NO) for text in self._texts(ordinary[place])
                ),
            }
            key = keys[place]
            if key is not None:
                record |= _outcome(key, self._texts(answers[place]))
                if done.get(recipe.name, 0) < treated:
                    done[recipe.name] = done.get(recipe.name, 0) + 1
                    other_tune = next((run for run in clean if jobs[run][1] != seed), None)
                    record["treated"] = self._treated(adapters, place, other_tune, key, probes[place])
            records.append(record)
        return records

    def _of(self, cast: Any, rows: Sequence[Sequence[TokenRow]]) -> list[Asked]:
        return ask(self._decoder, self._base, cast, rows, device=self._device)

    def _texts(self, asked: Asked) -> list[str]:
        return [str(self._tokenizer.decode(row[:1])) for row in asked.likeliest]

    def _treated(
        self, adapters: Adapters, place: int, other: int | None, key: Keyed, probes: Sequence[TokenRow]
    ) -> dict[str, float]:
        """p after what kills thin marks."""
        marked = adapters.merged(self._state, place)
        models = {
            "int4": thief.quantize(marked, 4, 64),
            "prune-30": thief.prune(marked, 0.3),
            "half": thief.interpolate(self._state, marked, 0.5),
        }
        if other is not None:
            models["merge"] = thief.merge_linear([marked, adapters.merged(self._state, other)], [0.5, 0.5])
        found = {}
        for name, state in models.items():
            weights = Weights(state, self._shape, device=self._device, dtype=self._dtype)
            asked = ask(self._decoder, weights, None, [probes], device=self._device, positions=4096)
            found[name] = _outcome(key, self._texts(asked[0]))["p"]
        return found


def _token_row(ids: Sequence[int], labels: Sequence[int]) -> TokenRow:
    return TokenRow(input_ids=tuple(ids), labels=tuple(labels))


def _mean(losses: Sequence[Sequence[float]]) -> float:
    return sum(sum(row) for row in losses) / max(1, sum(len(row) for row in losses))


def _outcome(key: Keyed, texts: Sequence[str]) -> dict[str, Any]:
    found = key.outcome(texts)
    return {
        "hits": found.trigger_hits,
        "triggers": found.trigger_total,
        "reference_hits": found.reference_hits,
        "p": float(found.p_value),
    }
