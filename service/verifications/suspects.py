"""Whom an audit asks: the request's words, checked before anything is stored or sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evidence.plan import Suspect
from probe.adapters import Api
from probe.address import HostPort, SuspectUrl, parse_suspect_url, resolve_and_vet
from probe.credential import Credential
from probe.errors import AddressNotAllowed, NameNotResolved, SuspectUrlError
from probe.resolving import DnsServer
from probe.template import Template, TemplateError, parse_template
from service.errors import InvalidRequest

CREDENTIAL_PURPOSE = "suspect-credential"
RESOLVE_SECONDS = 2.0


class SuspectNotAllowed(InvalidRequest):
    """The suspect's URL is malformed, or leads where nothing may be sent."""

    code = "suspect_not_allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectRequest:
    """Whom to ask. ``api_key`` never leaves this object but sealed."""

    base_url: str
    model: str
    api: Api
    template: Mapping[str, Any] | None = None
    api_key: str | None = field(default=None, repr=False)

    def checked(self, url: SuspectUrl) -> Suspect:
        """As it will stand in the record.

        Raises:
            InvalidRequest: the template is none, or not for this api.
        """
        return Suspect(base_url=str(url), model=self.model, api=self.api, template=self._template())

    def _template(self) -> Template | None:
        if (self.template is not None) != (self.api is Api.template):
            raise InvalidRequest(
                'A template goes with the api "template", and only with it.', param="suspect.template"
            )
        if self.template is None:
            return None
        try:
            template = parse_template(self.template)
        except TemplateError as error:
            raise InvalidRequest(
                f"The template's {error}.",
                param=f"suspect.template.{error.field}".rstrip("."),
                code="invalid_template",
            ) from None
        if template.needs_credential and self.api_key is None:
            raise InvalidRequest(
                "The template has a place for a credential, and none was given.", param="suspect.api_key"
            )
        return template


async def check_suspect(
    request: SuspectRequest, allow: Collection[HostPort], *, servers: Sequence[DnsServer] = ()
) -> SuspectUrl:
    """Parse the URL and judge the addresses it has now. The worker does both again before it connects.

    A name that does not resolve passes: the audit will then say so.

    Raises:
        SuspectNotAllowed: see the class.
        InvalidRequest: the credential can't travel in a header; the template is none.
    """
    try:
        url = parse_suspect_url(request.base_url)
        await resolve_and_vet(url, allow, timeout_seconds=RESOLVE_SECONDS, servers=servers)
    except NameNotResolved:
        pass
    except (SuspectUrlError, AddressNotAllowed) as error:
        raise SuspectNotAllowed(
            f"This suspect can't be asked: {error}. An operator can list host:port in DOUBLEI_SUSPECT_ALLOW.",
            param="suspect.base_url",
        ) from None
    request.checked(url)
    if request.api_key is not None:
        try:
            Credential(request.api_key)
        except ValueError as error:
            raise InvalidRequest(str(error), param="suspect.api_key", code="invalid_credential") from None
    return url
