"""What the request line in the log shows of a path."""

from __future__ import annotations

import pytest

from service.accounts.keys import ApiKeyToken
from service.api.context import _shown_path
from service.ids import new_id


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        f"/v1/verifications/{new_id('verif')}/evidence",
        f"/v1/fine_tuning/jobs/{new_id('ftjob')}/events",
        "/v1/models/ft:smollm2-135m-instruct:acme:mine:a1B2c3/adapter",
    ],
    ids=["plain", "verification", "job", "model"],
)
def test_routes_and_our_own_ids_are_shown(path: str) -> None:
    assert _shown_path(path) == path


@pytest.mark.parametrize(
    "secret",
    ["ab" * 32, ApiKeyToken.new().reveal(), "sk-proj-0123456789abcdefghij", "passw0rd!", "%00"],
    ids=["hex", "api-key", "other-api-key", "password", "escape"],
)
def test_a_secret_put_into_a_path_by_mistake_is_not_logged(secret: str) -> None:
    assert _shown_path(f"/v1/watermarks/{secret}/grants") == "/v1/watermarks/…/grants"
