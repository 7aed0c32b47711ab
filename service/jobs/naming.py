"""Names of fine-tuned models: `ft:<base>:<organization>:<suffix>:<8 characters>`, as OpenAI writes them."""

from __future__ import annotations

import re
import unicodedata

MODEL_PREFIX = "ft:"
_SLUG_LENGTH = 40


def slug(name: str) -> str:
    """An organization's name in lower-case letters, digits and hyphens; "org" if nothing is left of it."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG_LENGTH].strip("-") or "org"


CHECKPOINT_PART = ":ckpt-step-"


def fine_tuned_model(*, base_model: str, organization_name: str, suffix: str | None, job_id: str) -> str:
    """The same for every attempt of a job, because its last part comes from the job's random id."""
    return f"{MODEL_PREFIX}{base_model}:{slug(organization_name)}:{suffix or ''}:{job_id[-8:]}"


def checkpoint_model(model_id: str, step: int) -> str:
    """Of the job that publishes `model_id`, the model as it was after `step` steps. As OpenAI names it."""
    return f"{model_id}{CHECKPOINT_PART}{step}"
