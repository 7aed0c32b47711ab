"""How an audit asks: what a pre-registration fixes of it. No network code: a reader imports it."""

from __future__ import annotations

from dataclasses import dataclass

from probe.adapters import Api, Extraction, extract, request_body
from probe.errors import FailureCode
from probe.template import Template

ANSWERED = "answered"
RETRY_FAILURES = (
    FailureCode.timeout,
    FailureCode.refused,
    FailureCode.unreachable,
    FailureCode.disconnected,
    "http_408",
    "http_429",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
)
"""What a second attempt may cure. Anything else is final at once."""
GIVE_UP_AFTER = 24
"""So many questions in a row without an answer, before the first answer, end the asking."""
AUDIT_REPLY_BYTES = 16 * 1024 * 1024
"""What all replies of one audit may amount to; later ones count as too_large."""
BODY_BYTES = 256 * 1024
"""The most that is read of one reply. Nothing is decompressed, so these are the decoded bytes too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPlan:
    """How to ask, as pre-registered."""

    api: Api
    model: str
    temperature: str
    max_tokens: int
    concurrency: int
    probe_timeout_seconds: float
    total_timeout_seconds: float
    retries: int
    give_up_after: int = GIVE_UP_AFTER
    reply_bytes: int = AUDIT_REPLY_BYTES
    template: Template | None = None
    """for ``Api.template``, and for no other"""

    @property
    def endpoint(self) -> str:
        """The path below the base URL."""
        if self.template is not None:
            return self.template.path
        return "/chat/completions" if self.api is Api.chat else "/completions"

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "POST" if self.template is None else self.template.method

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers beyond the transport's own; a value may hold the credential's placeholder."""
        return () if self.template is None else self.template.headers

    def request(self, prompt: str) -> bytes:
        """The exact bytes that ask one question.

        Raises:
            ValueError: the pre-registered temperature is no number.
        """
        return request_body(
            self.api,
            model=self.model,
            prompt=prompt,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            template=self.template,
        )

    def read(self, body: bytes) -> Extraction:
        """The answer in a reply. Total."""
        return extract(self.api, body, self.template)
