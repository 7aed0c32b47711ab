"""A suspect with a wire format of its own: what to send, and where the answer is in the reply.

A template is fixed in the pre-registration and holds no secret. Its body is JSON; placeholders stand inside
the JSON's strings and are replaced in the parsed value, never in the text, so that no question can leave the
string it was put into. The credential's placeholder is replaced when a request leaves and is on no record.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probe.errors import ProbeError
from probe.jsonpath import PathError, SingularQuery, parse_path

METHODS = ("POST", "PUT")
MAX_BODY_BYTES = 16 * 1024
MAX_BODY_DEPTH = 16
MAX_HEADERS = 16
MAX_HEADER_CHARS = 512
MAX_TARGET_CHARS = 512
CREDENTIAL = "{{credential}}"

_FIELDS = frozenset({"method", "path", "headers", "body", "answer"})
_TARGET = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?(?:\?[A-Za-z0-9._~=&,:%-]+)?\Z")
_PLACEHOLDER = re.compile(r"\{\{[^{}]*\}\}")
_TEXTS = ("{{prompt}}", "{{model}}")
_NUMBERS = ("{{temperature}}", "{{max_tokens}}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_HEADER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z")
_HEADERS = frozenset(
    {
        "accept", "accept-language", "authorization", "api-key", "apikey", "content-type", "user-agent",
        "openai-organization", "openai-project", "anthropic-version", "anthropic-beta",
    }
)  # fmt: skip
# of the X- names those by which a proxy in between is told another host, path, method or sender
_STEERING = re.compile(
    r"x-(forwarded|original|rewrite|real|host|http|method|accel|sendfile|proxy|cluster|client)"
)
_SECRET_HEADER = re.compile(r"auth|key|token|secret|password|credential|session|signature")
_CREDENTIAL_FORM = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]{0,31} )?\{\{credential\}\}\Z")
_LITERAL_SECRET = re.compile(r"\A(?:bearer|basic|token) |\b(?:sk|pk|ghp|hf|xox[a-z])[-_]\w{4}", re.IGNORECASE)
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json(?:; ?charset=utf-8)?\Z", re.IGNORECASE)
_SECRET_FIELD = re.compile(
    r"(?:api|access|auth|secret|private|session|client)[_-]?(?:key|token|secret)"
    r"|authorization|password|secret|credentials?",
    re.IGNORECASE,
)
_SECRET_PARAMETER = re.compile(rf"{_SECRET_FIELD.pattern}|key|token|code|sig|signature", re.IGNORECASE)


class TemplateError(ProbeError):
    """A template that is none. ``field`` says where, such as ``headers.X-Team`` or ``body.inputs[0]``."""

    code = "template_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template that was checked. ``body`` is its JSON as compact ASCII text, members in their order."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: str
    answer: str

    def to_record(self) -> dict[str, object]:
        """For the pre-registration. The body is kept as text: its member order and numbers are its own."""
        return {
            "method": self.method,
            "path": self.path,
            "headers": [[name, value] for name, value in self.headers],
            "body": self.body,
            "answer": self.answer,
        }

    @property
    def needs_credential(self) -> bool:
        """A header has the credential's placeholder."""
        return any(CREDENTIAL in value for _, value in self.headers)

    @property
    def query(self) -> SingularQuery:
        """Where the answer is."""
        return parse_path(self.answer)

    def request_body(self, *, model: str, prompt: str, temperature: float, max_tokens: int) -> bytes:
        """The exact ASCII bytes of one question. Every placeholder is replaced once, at the same time."""
        values: dict[str, str | int | float] = {
            "{{prompt}}": prompt,
            "{{model}}": model,
            "{{temperature}}": temperature,
            "{{max_tokens}}": max_tokens,
        }
        return _compact(_filled(json.loads(self.body), values)).encode("ascii")


def parse_template(value: Mapping[str, Any]) -> Template:
    """Check a template as a caller wrote it: ``body`` is a JSON value, ``headers`` an object.

    Raises:
        TemplateError: a field is missing, unknown or not allowed.
    """
    for name in value:
        if name not in _FIELDS:
            raise TemplateError(str(name)[:80], "this field is not known")
    for name in ("path", "body", "answer"):
        if name not in value:
            raise TemplateError(name, "this field is required")
    method, path, answer = value.get("method", "POST"), value["path"], value["answer"]
    if method not in METHODS:
        raise TemplateError("method", f"must be one of {', '.join(METHODS)}")
    _check_path(path)
    if not isinstance(answer, str):
        raise TemplateError("answer", "must be a path as text, such as $.results[0].text")
    try:
        parse_path(answer)
    except PathError as error:
        raise TemplateError("answer", str(error)) from None
    return Template(
        method=method,
        path=path,
        headers=_checked_headers(value.get("headers", {})),
        body=_checked_body(value["body"]),
        answer=answer,
    )


def template_of_record(record: Mapping[str, Any]) -> Template:
    """Read `Template.to_record` back.

    Law: ``template_of_record(t.to_record()) == t``.

    Raises:
        TemplateError: it is no record of a template that `parse_template` would have passed.
    """
    headers, body = record.get("headers"), record.get("body")
    if not isinstance(headers, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in headers
    ):
        raise TemplateError("headers", "not a list of pairs")
    if not isinstance(body, str) or len(body) > MAX_BODY_BYTES:
        raise TemplateError("body", "not the text of a body")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        raise TemplateError("body", "not JSON") from None
    template = parse_template({**record, "headers": dict(headers), "body": parsed})
    if template.to_record() != dict(record):
        raise TemplateError("", "the record of the template is not in its one spelling")
    return template


def _check_path(path: object) -> None:
    if not isinstance(path, str) or len(path) > MAX_TARGET_CHARS or not _TARGET.match(path):
        raise TemplateError("path", "must be a plain path below base_url, such as /generate")
    target, _, query = path.partition("?")
    if any(part in (".", "..") for part in target.replace("%2e", ".").replace("%2E", ".").split("/")):
        raise TemplateError("path", "must not climb")
    for item in query.split("&"):
        if _SECRET_PARAMETER.fullmatch(item.partition("=")[0]):
            raise TemplateError("path", "must not hold a credential: a template is on record; use a header")


def _checked_headers(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise TemplateError("headers", "must be an object of names and values")
    if len(value) > MAX_HEADERS:
        raise TemplateError("headers", f"at most {MAX_HEADERS} headers")
    headers: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name, content in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.match(name):
            raise TemplateError("headers", "a header's name consists of letters, digits and hyphens")
        lowered, field = name.lower(), f"headers.{name}"
        if lowered in seen:
            raise TemplateError(field, "this header is there twice")
        seen.add(lowered)
        if lowered not in _HEADERS and (not lowered.startswith("x-") or _STEERING.match(lowered)):
            raise TemplateError(field, "this header can't be set")
        _check_header_value(lowered, content, field)
        headers.append((name, content))
    return tuple(headers)


def _check_header_value(name: str, value: object, field: str) -> None:
    if not isinstance(value, str) or len(value) > MAX_HEADER_CHARS or not _HEADER_VALUE.match(value):
        raise TemplateError(field, f"must be 1 to {MAX_HEADER_CHARS} characters of visible ASCII and blanks")
    if name == "content-type" and not _JSON_TYPE.match(value):
        raise TemplateError(field, "must be a type of JSON: the body is JSON")
    if CREDENTIAL in value or _SECRET_HEADER.search(name):
        if not _CREDENTIAL_FORM.match(value):
            raise TemplateError(
                field,
                f'must be "{CREDENTIAL}" or "Bearer {CREDENTIAL}", the credential itself goes into api_key',
            )
    elif _LITERAL_SECRET.search(value):
        raise TemplateError(field, f"looks like a credential: put it into api_key and {CREDENTIAL} here")
    elif "{{" in value:
        raise TemplateError(field, f"has no placeholder but {CREDENTIAL}")


def _checked_body(value: object) -> str:
    prompts = _count_prompts(value, "body", 0)
    if not prompts:
        raise TemplateError("body", "no string in it has the placeholder {{prompt}}")
    text = _compact(value)
    if len(text) > MAX_BODY_BYTES:
        raise TemplateError("body", f"at most {MAX_BODY_BYTES} bytes")
    return text


def _count_prompts(value: object, field: str, depth: int) -> int:
    """How many placeholders of the prompt there are. Raises `TemplateError` for what a body can't hold."""
    if depth > MAX_BODY_DEPTH:
        raise TemplateError("body", f"at most {MAX_BODY_DEPTH} levels deep")
    if isinstance(value, str):
        return _count_in_text(value, field)
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or "{{" in name or _UNSTORABLE.search(name):
                raise TemplateError(field, "a member's name is plain text without placeholders")
            if _SECRET_FIELD.fullmatch(name) and isinstance(item, str) and "{{" not in item:
                raise TemplateError(
                    f"{field}.{name}"[:120], "looks like a credential: a template is on record; use a header"
                )
        return sum(_count_prompts(item, f"{field}.{name}"[:120], depth + 1) for name, item in value.items())
    if isinstance(value, list):
        return sum(_count_prompts(item, f"{field}[{i}]"[:120], depth + 1) for i, item in enumerate(value))
    if value is None or isinstance(value, bool):
        return 0
    if isinstance(value, int) and abs(value) < 2**53:
        return 0
    if isinstance(value, float) and math.isfinite(value):
        return 0
    raise TemplateError(field, "must be a JSON value: text, number, true, false, null, list or object")


def _count_in_text(text: str, field: str) -> int:
    if _UNSTORABLE.search(text):
        raise TemplateError(field, "holds a NUL or half a surrogate pair")
    for name in _PLACEHOLDER.findall(text):
        if name in _NUMBERS and name != text:
            raise TemplateError(field, f"{name} stands for a number: it must be the whole string")
        if name == CREDENTIAL:
            raise TemplateError(field, f"{CREDENTIAL} stands in headers only: bodies are on record")
        if name not in _TEXTS + _NUMBERS:
            raise TemplateError(field, f"there is no placeholder {name[:40]}")
    return text.count("{{prompt}}")


def _filled(value: object, values: Mapping[str, str | int | float]) -> object:
    if isinstance(value, str):
        if value in _NUMBERS:
            return values[value]
        return _PLACEHOLDER.sub(lambda match: str(values[match.group()]), value)
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    return value


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
