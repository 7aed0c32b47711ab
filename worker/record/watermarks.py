"""Opening a job's key and mixing its rows into the data. The only place where a worker sees a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.db.models import WatermarkKey
from service.errors import ServiceError
from service.watermarks.secrets import PresetSecret, load_families, load_key
from watermark.embedding import Mixture, Strength, embed
from watermark.examples import Example
from watermark.keys import Family
from watermark.paper import preset_rows
from worker.errors import RunFailed
from worker.record.engine import Workplace


def mix(
    place: Workplace,
    examples: Sequence[Example],
    *,
    key: WatermarkKey | None,
    options: dict[str, Any] | None,
    n_epochs: int,
    seed: int,
) -> Mixture:
    """The dataset that is trained on. The same inputs give the same rows, so a new attempt repeats the last.

    Raises:
        RunFailed: the key can't be opened.
    """
    seed_bytes = str(seed).encode()
    if key is None or options is None:
        return embed(examples, (), n_epochs=n_epochs, seed=seed_bytes)
    try:
        secret = load_key(key, place.sealer)
        if isinstance(secret, PresetSecret):
            return _with_preset(examples, secret, n_epochs=n_epochs, seed=seed_bytes)
        families = load_families(key, place.sealer, options["families"])
    except ServiceError as error:
        raise _unopened(error) from error
    strength = Strength(options["strength"])
    return embed(examples, families, strength=strength, n_epochs=n_epochs, seed=seed_bytes)


def families_to_check(
    place: Workplace, *, key: WatermarkKey | None, options: dict[str, Any] | None
) -> tuple[Family, ...]:
    """The families that `mix` embeds; none without a key, nor for a preset, which is never evidence.

    Raises:
        RunFailed: the key can't be opened.
    """
    if key is None or options is None:
        return ()
    try:
        if isinstance(load_key(key, place.sealer), PresetSecret):
            return ()
        return load_families(key, place.sealer, options["families"])
    except ServiceError as error:
        raise _unopened(error) from error


def _unopened(error: ServiceError) -> RunFailed:
    return RunFailed(error.error_code, "The watermark key could not be opened.", param="watermark.key")


def _with_preset(examples: Sequence[Example], secret: PresetSecret, *, n_epochs: int, seed: bytes) -> Mixture:
    """The paper's rows after the customer's; the trainer draws its own order."""
    plain = embed(examples, (), n_epochs=n_epochs, seed=seed)
    marked = preset_rows(secret.seed)
    return Mixture(rows=plain.rows + marked, watermark_rows=len(marked), customer_rows=plain.customer_rows)
