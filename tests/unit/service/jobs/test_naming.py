"""Names of fine-tuned models."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.naming import fine_tuned_model, slug


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Acme Ltd.", "acme-ltd"),
        ("Müller & Söhne", "muller-sohne"),
        ("a:b/c", "a-b-c"),
        ("", "org"),
        ("株式会社", "org"),
        ("x" * 100, "x" * 40),
    ],
)
def test_slug(name: str, expected: str) -> None:
    """Lower-case ASCII, hyphens between."""
    assert slug(name) == expected


@given(st.text())
def test_any_name_gives_a_usable_slug(name: str) -> None:
    """No colon or slash can get into a model's name."""
    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", slug(name))


def test_openais_shape() -> None:
    """Five parts; without a suffix the fourth is empty, as OpenAI writes it."""
    job_id = "ftjob-0123456789abcdefABCDEFGH"
    name = fine_tuned_model(base_model="m", organization_name="Acme", suffix="s", job_id=job_id)
    assert name == "ft:m:acme:s:ABCDEFGH"
    bare = fine_tuned_model(base_model="m", organization_name="Acme", suffix=None, job_id=job_id)
    assert bare == "ft:m:acme::ABCDEFGH"
