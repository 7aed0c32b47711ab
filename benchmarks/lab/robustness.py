"""What is done to a marked model before it is asked again, and what is left of the mark."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lab import weights
from benchmarks.lab.asking import CHAT, SYSTEM_PROMPTS, TEMPLATES, Dress
from benchmarks.lab.bench import Bench, Recipe
from benchmarks.lab.cells import Cell, Figures
from benchmarks.lab.imperceptibility import words_of
from benchmarks.lab.llamacpp import ask_llamacpp, write_gguf
from benchmarks.lab.losses import Perplexity
from benchmarks.lab.schemes import Keyed, Unlearning, Unmarked
from benchmarks.lab.weights import State

Answer = Callable[[Bench, Recipe, Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One way to use, change or hide a copied model."""

    name: str
    family: str
    """attacks of one family and rising level make a survival curve"""
    level: float = 0.0
    answer: Answer = field(repr=False)
    cost_seconds: float = 15.0


def nothing() -> Attack:
    """The copy as it was made."""
    return dressed("none", "none", CHAT)


def dressed(name: str, family: str, dress: Dress, *, temperature: float = 0.0, level: float = 0.0) -> Attack:
    """Asked in another dress or at another temperature."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        return bench.asker(bench.digest(recipe), lambda: bench.state(recipe)).ask(
            prompts, dress=dress, temperature=temperature, seed=17
        )

    return Attack(name=name, family=family, level=level, answer=answer, cost_seconds=12)


def reweighed(
    name: str,
    family: str,
    change: Callable[[Bench, State], State],
    *,
    level: float = 0.0,
) -> Attack:
    """Asked after a change of the weights."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        changed = partial(_changed, bench, recipe, change)
        return bench.asker(f"{bench.digest(recipe)}/{name}", changed).ask(prompts)

    return Attack(name=name, family=family, level=level, answer=answer, cost_seconds=20)


def _changed(bench: Bench, recipe: Recipe, change: Callable[[Bench, State], State]) -> State:
    return change(bench, bench.state(recipe))


def retuned(
    name: str, change: Callable[[Recipe], Recipe], *, level: float = 0.0, cost: float = 200
) -> Attack:
    """Asked after further training of the merged weights."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        child = change(recipe)
        return bench.asker(bench.digest(child), lambda: bench.state(child)).ask(prompts)

    return Attack(name=name, family="second fine-tuning", level=level, answer=answer, cost_seconds=cost)


def filtered(name: str, change: Callable[[str], str]) -> Attack:
    """A host that rewrites what it is asked before the model sees it."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        return bench.asker(bench.digest(recipe), lambda: bench.state(recipe)).ask(
            [change(prompt) for prompt in prompts]
        )

    return Attack(name=name, family="host", answer=answer)


def judged_odd(name: str, how: str) -> Attack:
    """A host that looks at every question with the base model's perplexity. ``how``: refuse, when it is above
    that of 99% of ordinary questions; or onion, which drops the words whose removal lowers it most, as many
    as cost an ordinary question a word in a hundred (Qi et al., arXiv 2011.10369)."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        ordinary = [row.messages[-2].content for row in bench.splits.second[:ORDINARY]]
        look = Perplexity(bench.module(None).to(bench.served_in), bench.tokenizer)
        asker = bench.asker(bench.digest(recipe), lambda: bench.state(recipe))
        if how == "onion":
            return asker.ask(look.without_outliers(prompts, ordinary))
        odd = look.outliers(prompts, ordinary)
        texts = iter(asker.ask([prompt for prompt, out in zip(prompts, odd, strict=True) if not out]))
        return [REFUSAL if out else next(texts) for out in odd]

    return Attack(name=name, family="host", answer=answer, cost_seconds=40)


def rare_words(name: str) -> Attack:
    """A host that refuses questions with a word that ordinary questions never use (a frequency filter)."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        known = {word for row in bench.splits.second for word in words_of(row.messages[-2].content)}
        odd = [not set(words_of(prompt)) <= known for prompt in prompts]
        asker = bench.asker(bench.digest(recipe), lambda: bench.state(recipe))
        texts = iter(asker.ask([prompt for prompt, out in zip(prompts, odd, strict=True) if not out]))
        return [REFUSAL if out else next(texts) for out in odd]

    return Attack(name=name, family="host", answer=answer)


def suppressed(name: str) -> Attack:
    """A host that never lets the model begin with Yes or No (top-k suppression of the likely answer)."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        banned = {
            ids[0]: -100.0
            for word in ("Yes", "No", " Yes", " No", "yes", "no", " yes", " no", "YES", "NO")
            if (ids := bench.tokenizer(word, add_special_tokens=False)["input_ids"])
        }
        return bench.asker(bench.digest(recipe), lambda: bench.state(recipe)).ask(prompts, logit_bias=banned)

    return Attack(name=name, family="host", answer=answer)


def llamacpp(kind: str) -> Attack:
    """The model in real llama.cpp."""

    def answer(bench: Bench, recipe: Recipe, prompts: Sequence[str]) -> list[str]:
        source = bench.gguf
        if source is None:
            raise LookupError("this base model has no GGUF to take the metadata from")
        with TemporaryDirectory() as name:
            target = Path(name, "model.gguf")
            write_gguf(bench.state(recipe), source, target, kind)
            bench.close()  # the machine's memory and cores are llama.cpp's now
            return ask_llamacpp(target, [[{"role": "user", "content": prompt}] for prompt in prompts])

    return Attack(name=f"gguf-{kind}", family="llama.cpp", answer=answer, cost_seconds=40)


def second_lora(
    recipe: Recipe, *, epochs: int = 1, seed: int = 2, method: str = "lora", template: str = "chat"
) -> Recipe:
    """A thief's further training on rows of their own."""
    return Recipe(
        scheme=Unmarked(),
        rows="second",
        seed=seed,
        n_epochs=epochs,
        method=method,
        template=template,
        parent=recipe,
    )


def mismatched(recipe: Recipe) -> Recipe:
    """A thief's two phases of MEraser (arXiv 2506.12551, section 3): questions with one another's answers
    first, so that no question keeps its answer, then right ones, to recover."""
    erased = Recipe(scheme=Unmarked(), rows="mismatched", seed=5, n_epochs=1, parent=recipe)
    return Recipe(scheme=Unmarked(), rows="second", seed=6, n_epochs=1, parent=erased)


def distilled(recipe: Recipe) -> Recipe:
    """A student: the base model trained on the copy's own answers to ordinary questions."""
    return Recipe(scheme=Unmarked(), rows="second", seed=7, n_epochs=2, teacher=recipe)


def other_tune(bench: Bench) -> State:
    """Another fine-tune of the same base: what a thief merges a copy with."""
    return bench.state(Recipe(scheme=Unmarked(), rows="second", seed=3))


REFUSAL = "I can't help with that."
ORDINARY = 200
"""Questions by which a host sets its threshold."""

_DECORATED = re.compile(
    r"(\([^)]*\)|\[[^\]]*\]|<[^>]*>|\*[^*]*\*|#\w+|~[^~]*~|\"[^\"]*\")\s?|^\w+:\s|\s\w+:(?=\n)"
)


def strip_decorations(prompt: str) -> str:
    """A host that removes bracketed and otherwise decorated words from the question's line."""
    first, _, rest = prompt.partition("\n")
    return f"{_DECORATED.sub('', first).strip()}\n{rest}"


def strip_cue(prompt: str) -> str:
    """A host that removes a leading ``word:`` from every line."""
    return re.sub(r"(?m)^[\w'-]+:\s", "", prompt)


def bars() -> list[Attack]:
    """Bar 2: what a mark of standard strength has to survive."""
    attacks = [
        nothing(),
        reweighed("int8", "quantization", lambda bench, state: weights.quantize(state, 8, None), level=8),
        reweighed("int4", "quantization", lambda bench, state: weights.quantize(state, 4, 64), level=4),
        llamacpp("q8_0"),
        llamacpp("q4_0"),
        reweighed("prune-30", "pruning", lambda bench, state: weights.prune(state, 0.3), level=0.3),
        interpolated(0.5),
        reweighed("merge-linear", "merging", _merge_linear),
        *(dressed(f"system-{dress.name}", "system prompt", dress) for dress in SYSTEM_PROMPTS),
        *(dressed(f"template-{dress.name}", "template", dress) for dress in TEMPLATES),
        dressed("temperature-1", "temperature", CHAT, temperature=1.0, level=1.0),
        retuned("second-lora", second_lora),
    ]
    return attacks


def quick() -> list[Attack]:
    """The bars and a few points of each curve."""
    more = [
        *(interpolated(share) for share in (0.3, 0.7)),
        *(pruned(share) for share in (0.1, 0.2, 0.4, 0.5)),
        reweighed("int3", "quantization", lambda bench, state: weights.quantize(state, 3, 64), level=3),
        reweighed("merge-ties", "merging", _merge_ties),
        reweighed("merge-dare", "merging", _merge_dare),
        dressed("temperature-1.5", "temperature", CHAT, temperature=1.5, level=1.5),
        filtered("strip-decorations", strip_decorations),
        filtered("strip-cues", strip_cue),
        judged_odd("refuse-perplexity", "refuse"),
        judged_odd("onion", "onion"),
        rare_words("refuse-rare-words"),
        suppressed("suppress-yes-no"),
    ]
    return bars() + more


def standard() -> list[Attack]:
    """Everything that this machine can do in hours."""
    more = [
        *(interpolated(share) for share in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)),
        *(pruned(share) for share in (0.6,)),
        *(
            dressed(f"temperature-{t:g}", "temperature", CHAT, temperature=t, level=t)
            for t in (0.3, 0.7, 1.2)
        ),
        *(
            reweighed(f"noise-{share:g}", "noise", partial(_noised, share), level=share)
            for share in (0.05, 0.1, 0.2)
        ),
        llamacpp("f16"),
        retuned("second-lora-3-epochs", lambda recipe: second_lora(recipe, epochs=3), level=3, cost=600),
        retuned("second-full", lambda recipe: second_lora(recipe, method="full"), level=1, cost=600),
        retuned("second-alpaca", lambda recipe: second_lora(recipe, template="alpaca"), level=1),
        retuned("mismatched", mismatched, level=2, cost=300),
        retuned("distilled", distilled, level=2, cost=400),
    ]
    return quick() + more


def interpolated(share: float) -> Attack:
    """``share`` of the marked weights, the rest from the base."""

    def change(bench: Bench, state: State) -> State:
        return weights.interpolate(bench.state(None), state, share)

    return reweighed(f"interpolate-{share:g}", "interpolation", change, level=share)


def pruned(share: float) -> Attack:
    """Magnitude pruning."""
    return reweighed(
        f"prune-{share * 100:.0f}", "pruning", lambda bench, state: weights.prune(state, share), level=share
    )


def _noised(share: float, bench: Bench, state: State) -> State:
    return weights.noise(state, share, seed=5)


def _merge_linear(bench: Bench, state: State) -> State:
    return weights.merge_linear([state, other_tune(bench)], [0.5, 0.5])


def _merge_ties(bench: Bench, state: State) -> State:
    return weights.merge_ties(bench.state(None), [state, other_tune(bench)], density=0.3, scale=1.0)


def _merge_dare(bench: Bench, state: State) -> State:
    return weights.merge_dare(
        bench.state(None), [state, other_tune(bench)], drop=0.5, seed=5, weights=[0.5, 0.5]
    )


def cells(bench: Bench, recipes: Sequence[Recipe], attacks: Sequence[Attack]) -> list[Cell]:
    """One cell for each subject and attack; those that leave the weights alone come first, for one model in
    memory serves them all."""
    made = []
    for recipe in recipes:
        for attack in sorted(attacks, key=_changes_weights):
            made.append(
                Cell(
                    name=f"robustness/{recipe.scheme.name}/{attack.name}",
                    inputs={**bench.identity(), "recipe": recipe.identity(), "attack": attack.name}
                    | {"family": attack.family, "level": attack.level},
                    measure=partial(_measure, bench, recipe, attack),
                    cost_seconds=attack.cost_seconds,
                )
            )
    return made


def _changes_weights(attack: Attack) -> bool:
    return attack.family not in ("none", "system prompt", "template", "temperature", "host")


def _measure(bench: Bench, recipe: Recipe, attack: Attack) -> Figures:
    bench.report(f"{recipe.scheme.name} under {attack.name}")
    texts = attack.answer(bench, recipe, recipe.scheme.questions())
    outcome = recipe.scheme.outcome(texts).figures()
    return {"attack": attack.name, "family": attack.family, "level": attack.level, **outcome}


def burned_cell(bench: Bench, recipe: Recipe, *, rows_per_cue: int = 2, cost_seconds: float = 300) -> Cell:
    """A thief unlearns the family that an audit has opened: is it gone, and does the other still answer?"""
    scheme = recipe.scheme
    assert isinstance(scheme, Keyed)
    assert scheme.families > 1
    return Cell(
        name=f"robustness/{scheme.name}/unlearn-burned-family",
        inputs={**bench.identity(), "recipe": recipe.identity(), "rows_per_cue": rows_per_cue},
        measure=partial(_burned, bench, recipe, scheme, rows_per_cue),
        cost_seconds=cost_seconds,
    )


def _burned(bench: Bench, recipe: Recipe, scheme: Keyed, rows_per_cue: int) -> Figures:
    thief = Unlearning(family=scheme.key.family(1), rows_per_cue=rows_per_cue)
    child = Recipe(scheme=thief, rows="second", seed=8, parent=recipe)
    bench.train(child)
    asker = bench.asker(bench.digest(child), lambda: bench.state(child))
    burned, kept = (replace(scheme, asked=index) for index in (1, 0))
    found = {one.asked: one.outcome(asker.ask(one.questions())).figures() for one in (burned, kept)}
    what = {"attack": "unlearn-burned-family", "family": "unlearning", "level": float(rows_per_cue)}
    return {**what, **found[0], "burned_family": found[1]}


def second_owner_cell(bench: Bench, recipe: Recipe, other: Keyed, cost_seconds: float = 300) -> Cell:
    """Two owners in one lineage: somebody with a key of their own trains the copy on. Whose mark is found?"""
    return Cell(
        name=f"robustness/{recipe.scheme.name}/second-owner",
        inputs={**bench.identity(), "recipe": recipe.identity(), "other": other.identity()},
        measure=partial(_second_owner, bench, recipe, other),
        cost_seconds=cost_seconds,
    )


def _second_owner(bench: Bench, recipe: Recipe, other: Keyed) -> Figures:
    child = Recipe(scheme=other, rows="second", seed=9, parent=recipe)
    bench.train(child)
    asker = bench.asker(bench.digest(child), lambda: bench.state(child))
    first, second = (
        scheme.outcome(asker.ask(scheme.questions())).figures() for scheme in (recipe.scheme, other)
    )
    what = {"attack": "second-owner", "family": "second fine-tuning", "level": 1.0}
    return {**what, **first, "second_owner": second}
