"""Opening a job's key and mixing its rows into the data. The only place where a worker sees a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.db.models import WatermarkKey
from service.errors import ServiceError
from service.watermarks.secrets import OWNER_HELD, PresetSecret, load_families, load_key
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
) -> tuple[Mixture, tuple[Family, ...]]:
    """The dataset that is trained on, and the families in it. The same inputs give the same rows, so a new
    attempt repeats the last. A preset has no families: it is never evidence, and nothing checks it. Of a key
    that its owner holds there are none either: its rows are among the examples already.

    Raises:
        RunFailed: the key can't be opened.
    """
    seed_bytes = str(seed).encode()
    if key is None or options is None or key.origin == OWNER_HELD:
        return embed(examples, (), n_epochs=n_epochs, seed=seed_bytes), ()
    try:
        secret = load_key(key, place.sealer)
        if isinstance(secret, PresetSecret):
            return _with_preset(examples, secret, n_epochs=n_epochs, seed=seed_bytes), ()
        families = load_families(key, place.sealer, options["families"])
    except ServiceError as error:
        raise RunFailed("sealed_value_unreadable") from error
    strength = Strength(options["strength"])
    mixture = embed(examples, families, strength=strength, n_epochs=n_epochs, seed=seed_bytes)
    return mixture, tuple(families)


def _with_preset(examples: Sequence[Example], secret: PresetSecret, *, n_epochs: int, seed: bytes) -> Mixture:
    """The paper's rows after the customer's; the trainer draws its own order."""
    plain = embed(examples, (), n_epochs=n_epochs, seed=seed)
    marked = preset_rows(secret.seed)
    return Mixture(rows=plain.rows + marked, watermark_rows=len(marked), customer_rows=plain.customer_rows)
