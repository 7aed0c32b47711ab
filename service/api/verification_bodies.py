"""What the verification routes take. Unknown fields are refused everywhere."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, StrictInt, StringConstraints

from probe.adapters import Api
from service.verifications.campaigns import MAX_SUSPECTS
from service.verifications.plans import PlanRequest
from service.verifications.suspects import SuspectRequest

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[StrictInt, Field(ge=0, le=1_000_000)]


class Body(BaseModel):
    """Unknown fields are refused: a misspelt limit must not be ignored in an audit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SuspectBody(Body):
    """Whom to ask."""

    base_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    model: Text
    api_key: Annotated[SecretStr, Field(min_length=1, max_length=4096)] | None = None
    api: Api = Api.chat
    template: dict[str, JsonValue] | None = None
    """For the api "template"; docs/suspects.md says what it may hold."""

    def to_request(self) -> SuspectRequest:
        """As the domain knows it."""
        return SuspectRequest(
            base_url=self.base_url,
            model=self.model,
            api=self.api,
            template=self.template,
            api_key=None if self.api_key is None else self.api_key.get_secret_value(),
        )


class PlanBody(Body):
    """How to ask; every field has a default. `marks` is a count or a list of mark numbers."""

    family: Count | None = None
    marks: Count | Annotated[list[Count], Field(min_length=1, max_length=64)] | None = None
    probes_per_cue: Count = 2
    mode: Literal["fixed", "sequential"] = "fixed"
    canaries: bool = True
    alpha: Annotated[str, StringConstraints(max_length=64)] = "1e-6"
    temperature: Annotated[Decimal, Field(ge=0, le=2, max_digits=6, decimal_places=4)] = Decimal(0)
    max_tokens: Count = 8
    concurrency: Count = 8
    probe_timeout_seconds: Count = 30
    total_timeout_seconds: Count = 900
    retries: Count = 1

    def to_request(self) -> PlanRequest:
        """As the domain knows it."""
        values = self.model_dump()
        if isinstance(self.marks, list):
            values["marks"] = tuple(self.marks)
        return PlanRequest(**values)


Opening = Annotated[dict[str, JsonValue] | None, Field(repr=False)]
"""One family of a key that its owner holds, as `doublei key open` writes it."""


class VerifyBody(Body):
    """The body of POST /v1/verify."""

    watermark: Text
    suspect: SuspectBody
    plan: PlanBody = PlanBody()
    opening: Opening = None
    auditor_nonce_commitment: Digest | None = None
    """hex SHA-256; docs/evidence-format.md says of what. The audit then waits for the nonce."""


class CampaignBody(Body):
    """The body of POST /v1/campaigns."""

    watermark: Text
    suspects: Annotated[list[SuspectBody], Field(min_length=1, max_length=MAX_SUSPECTS)]
    plan: PlanBody = PlanBody()
    opening: Opening = None


class BeaconBody(Body):
    """A round of a public beacon, as the auditor read it."""

    source: Text
    round: Text
    value: Text


class NonceBody(Body):
    """The body of POST /v1/verifications/{id}/nonce."""

    nonce: Digest
    beacon: BeaconBody | None = None
