"""Bodies and answers on the wire."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.adapters import MAX_TEXT_CHARS, Api, extract, request_body
from probe.errors import FailureCode


def _chat(message: object) -> bytes:
    return json.dumps({"choices": [{"message": message}]}).encode()


def test_a_chat_question_is_one_user_message_and_reproducible_bytes() -> None:
    body = request_body(Api.chat, model="m", prompt="Is it? Ä", temperature="0", max_tokens=8)
    assert body.isascii()
    assert json.loads(body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Is it? Ä"}],
        "temperature": 0,
        "max_tokens": 8,
        "stream": False,
    }
    assert body == request_body(Api.chat, model="m", prompt="Is it? Ä", temperature="0.0", max_tokens=8)


def test_a_completions_question_is_a_prompt() -> None:
    body = json.loads(request_body(Api.completions, model="m", prompt="p", temperature="0.7", max_tokens=4))
    assert body["prompt"] == "p"
    assert body["temperature"] == 0.7


@pytest.mark.parametrize("temperature", ["", "hot", "NaN", "Infinity"])
def test_a_temperature_that_is_no_number_is_refused(temperature: str) -> None:
    with pytest.raises(ValueError, match="temperature"):
        request_body(Api.chat, model="m", prompt="p", temperature=temperature, max_tokens=8)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (_chat({"content": "Yes"}), "Yes"),
        (_chat({"content": ""}), ""),
        (_chat({"content": [{"type": "text", "text": "No"}, {"type": "image"}, {"text": "."}]}), "No."),
        (_chat({"content": None, "refusal": "I can't."}), "I can't."),
        (_chat({"content": "a\x00b\ud800c"}), "a�b�c"),
        (_chat({"content": "x" * 10_000}), "x" * MAX_TEXT_CHARS),
        (b"\xef\xbb\xbf" + _chat({"content": "Yes"}), "Yes"),
    ],
)
def test_the_answer_of_a_chat_reply(body: bytes, text: str) -> None:
    found = extract(Api.chat, body)
    assert found.text == text
    assert found.failure is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        b'{"a":' * 5000,
        b"1" * 10_000,
        b'"\\',
        b"NaN,",
    ],
)
def test_what_is_not_json_says_so(body: bytes) -> None:
    assert extract(Api.chat, body).failure == FailureCode.not_json


@pytest.mark.parametrize(
    "body", [b'"' + b'\\"' * 120_000, b'"\\' * 120_000, b'"' * 250_001, b'"\\"[' * 60_000]
)
def test_hostile_quoting_takes_no_time(body: bytes) -> None:
    """The largest reply that is read, made of quotes: a loop that reads it must not stand still."""
    started = time.monotonic()
    extract(Api.chat, body)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":{"0":1}}',
        b'{"choices":[1]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":"Yes"}]}',
        b'{"choices":[{"message":{"content":1}}]}',
        b'{"error":{"message":"no"}}',
        b'{"choices":[{"message":{"content":[]}}]}',
        b'{"choices":[{"message":{"content":[{"text":5}]}}]}',
        b"NaN",
    ],
)
def test_json_without_an_answer_says_so(body: bytes) -> None:
    assert extract(Api.chat, body).failure == FailureCode.no_answer


def test_a_completions_reply() -> None:
    assert extract(Api.completions, b'{"choices":[{"text":" Yes"}]}').text == " Yes"
    assert extract(Api.completions, _chat({"content": "Yes"})).failure == FailureCode.no_answer


NAMES = st.sampled_from(["choices", "message", "content", "text", "refusal", "x"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "text", "refusal", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(list(Api)), st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode())
)
def test_extraction_is_total_and_its_text_can_be_stored(api: Api, body: bytes) -> None:
    found = extract(api, body)
    assert (found.text is None) != (found.failure is None)
    if found.text is not None:
        assert "\x00" not in found.text
        found.text.encode()
