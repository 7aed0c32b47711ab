"""What is asked on the wire and where the answer is in the reply. Pure functions of their arguments.

An offline check runs the same two functions over the recorded bytes, so they are versioned: `ADAPTERS`
is written into every pre-registration.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum

from probe.errors import FailureCode
from probe.template import Template

ADAPTERS = "doublei-adapters/2"
MAX_JSON_DEPTH = 32
MAX_TEMPERATURE_POWER = 15
MAX_TEXT_CHARS = 4096
"""What is kept of an answer's text; far more than ``max_tokens`` of any pre-registration brings."""

# a string without an end counts as one to the end of the text: were it none, each quote in it would be tried
# as a beginning, and a few hundred kilobytes of \" would take minutes
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Api(StrEnum):
    """Which wire format the suspect speaks."""

    chat = "chat"
    completions = "completions"
    template = "template"
    """its own, as a `probe.template.Template` says"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Either the answer's text or the reason why there is none."""

    text: str | None
    failure: FailureCode | None


def request_body(
    api: Api, *, model: str, prompt: str, temperature: str, max_tokens: int, template: Template | None = None
) -> bytes:
    """The exact ASCII bytes of one question.

    Args:
        temperature: a decimal such as ``"0"`` or ``"0.7"``, as pre-registered.
        template: for ``Api.template``, and for no other.

    Raises:
        ValueError: the temperature is no decimal number below 10^16, or there is no template.
    """
    try:
        degree = Decimal(temperature)
    except InvalidOperation:
        raise ValueError("temperature is no decimal number") from None
    # a hostile record's 1e9999999 would be written out as an integer of ten million digits
    if not degree.is_finite() or degree.adjusted() > MAX_TEMPERATURE_POWER:
        raise ValueError("temperature is no finite number of an ordinary size")
    number: int | float = int(degree) if degree == degree.to_integral_value() else float(degree)
    if api is Api.template:
        filled = _required(template)
        return filled.request_body(model=model, prompt=prompt, temperature=number, max_tokens=max_tokens)
    body: dict[str, object] = {"model": model}
    if api is Api.chat:
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    body |= {"temperature": number, "max_tokens": max_tokens, "stream": False}
    return json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def extract(api: Api, body: bytes, template: Template | None = None) -> Extraction:
    """Find the answer in a reply's body. Total: any bytes give an `Extraction`, none an exception.

    The text is that of the first choice, or the string that the template's path names, cut to
    `MAX_TEXT_CHARS`, with NUL and lone surrogates (which no database column holds) replaced by U+FFFD. An
    empty text is an answer.
    """
    try:
        value = parse_json(body)
    except ValueError:
        return Extraction(text=None, failure=FailureCode.not_json)
    text = _first_choice(api, value) if template is None else _at_path(template, value)
    if text is None:
        return Extraction(text=None, failure=FailureCode.no_answer)
    return Extraction(text=_UNSTORABLE.sub("�", text[:MAX_TEXT_CHARS]), failure=None)


def parse_json(body: bytes) -> object:
    """JSON from a stranger: depth at most `MAX_JSON_DEPTH`, UTF-8 only.

    Raises:
        ValueError: it is none, or too deep, or holds an integer of thousands of digits.
    """
    text = body.decode("utf-8-sig")
    depth = 0
    for match in _TOKENS.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise ValueError("JSON too deep")
        elif token in "]}":
            depth -= 1
    try:
        return json.loads(text)
    except RecursionError:
        # unbalanced quotes can hide brackets from the count above
        raise ValueError("JSON too deep") from None


def _required(template: Template | None) -> Template:
    if template is None:
        raise ValueError("this api needs a template")
    return template


def _at_path(template: Template, value: object) -> str | None:
    found = template.query.find(value)
    return found if isinstance(found, str) else None


def _first_choice(api: Api, value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    if api is Api.completions:
        text = choices[0].get("text")
        return text if isinstance(text, str) else None
    message = choices[0].get("message")
    if not isinstance(message, dict):
        return None
    content = message.get("content")
    if isinstance(content, list):
        content = _joined_parts(content)
    if not isinstance(content, str):
        # a refusal in its own field is an answer too: one that is neither Yes nor No
        content = message.get("refusal")
    return content if isinstance(content, str) else None


def _joined_parts(parts: list[object]) -> str | None:
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None
