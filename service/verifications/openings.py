"""One family of a key that its owner holds: checked when an audit is asked for, sealed as long as it lasts.

The family's secret and blinding follow from the key's by a one-way function, so that what is here for an
audit says nothing of the key's secret or of another family. It stands in the evidence in the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from service.db.models import WatermarkKey
from service.errors import InvalidRequest
from service.sealing import SealBroken, Sealer
from service.watermarks.secrets import OWNER_HELD
from watermark.errors import WatermarkError
from watermark.keys import family_of_opening

PURPOSE = "family-opening"


class WrongOpening(InvalidRequest):
    """The audit of this key needs another opening than was given, or none."""

    code = "opening_mismatch"


def check(key: WatermarkKey, opening: Mapping[str, object] | None, family: int) -> None:
    """Whether what was given is what an audit of this family needs.

    Raises:
        WrongOpening: it is not; no value of it is shown.
    """
    if key.origin != OWNER_HELD:
        if opening is not None:
            raise WrongOpening(
                "The service keeps this key itself; leave the opening out.",
                param="opening",
                code="opening_not_needed",
            )
        return
    if opening is None:
        raise WrongOpening(
            f"The owner holds this key. Send the opening of family {family}: "
            f"`doublei key open FILE --family {family}`.",
            param="opening",
            code="opening_required",
        )
    try:
        if opening.get("kind") != "drawn":
            raise WrongOpening("The opening is not of a drawn key.", param="opening")
        family_of_opening(opening, key.commitment)
    except WatermarkError:
        raise WrongOpening(
            "The opening does not belong to the key's commitment, or is damaged.", param="opening"
        ) from None
    if (opening["owner_id"], opening["salt"]) != (key.claimant, (key.salt or b"").hex()):
        raise WrongOpening("The opening has another owner or salt than the key here.", param="opening")
    if opening["family"] != family:
        raise WrongOpening(f"The plan asks family {family}; the opening is another one's.", param="opening")


def seal(
    sealer: Sealer, opening: Mapping[str, object] | None, *, owner_id: str, audit_id: str
) -> bytes | None:
    """For the audit's row; it opens there alone."""
    if opening is None:
        return None
    plaintext = json.dumps(opening, sort_keys=True, separators=(",", ":")).encode()
    return sealer.seal(plaintext, purpose=PURPOSE, owner=owner_id, subject=audit_id)


def unseal(sealer: Sealer, sealed: bytes | None, *, owner_id: str, audit_id: str) -> dict[str, object]:
    """What was sealed.

    Raises:
        SealBroken: nothing was, or it does not open.
    """
    if sealed is None:
        raise SealBroken("an audit of a key that its owner holds has no opening")
    plaintext = sealer.open(sealed, purpose=PURPOSE, owner=owner_id, subject=audit_id)
    return cast(dict[str, Any], json.loads(plaintext))
