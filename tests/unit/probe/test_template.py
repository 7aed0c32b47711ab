"""What a template may hold, and what it puts on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.adapters import Api
from probe.errors import FailureCode
from probe.plan import AskPlan
from probe.template import Template, TemplateError, parse_template, template_of_record

GOOD: dict[str, Any] = {
    "method": "POST",
    "path": "/generate",
    "headers": {"X-Api-Key": "{{credential}}", "X-Team": "audit"},
    "body": {
        "z": 1.5,
        "inputs": "<s>{{prompt}}</s>",
        "model": "{{model}}",
        "options": {"n": "{{max_tokens}}", "t": "{{temperature}}", "stream": False, "stop": [None, "x"]},
    },
    "answer": "$.results[0].text",
}


def _with(**changes: Any) -> dict[str, Any]:
    return GOOD | changes


def _plan(template: Template) -> AskPlan:
    return AskPlan(
        api=Api.template,
        model="m",
        temperature="0.5",
        max_tokens=8,
        concurrency=1,
        probe_timeout_seconds=1,
        total_timeout_seconds=5,
        retries=0,
        template=template,
    )


def test_a_question_is_the_templates_body_with_its_placeholders_replaced() -> None:
    plan = _plan(parse_template(GOOD))
    assert plan.request('Say "no"\n{{model}} Ä') == (
        b'{"z":1.5,"inputs":"<s>Say \\"no\\"\\n{{model}} \\u00c4</s>","model":"m",'
        b'"options":{"n":8,"t":0.5,"stream":false,"stop":[null,"x"]}}'
    )
    assert (plan.method, plan.endpoint) == ("POST", "/generate")


def test_the_answer_is_the_string_at_the_path() -> None:
    plan = _plan(parse_template(GOOD))
    assert plan.read(b'{"results":[{"text":"Yes"}]}').text == "Yes"
    for body in (b'{"results":[]}', b'{"results":[{"text":1}]}', b'{"results":[{"text":null}]}', b'"Yes"'):
        assert plan.read(body).failure == FailureCode.no_answer
    assert plan.read(b"<html>").failure == FailureCode.not_json
    assert _plan(parse_template(_with(answer="$"))).read(b'"Yes"').text == "Yes"


def test_its_record_reads_back_and_no_other_spelling_does() -> None:
    template = parse_template(GOOD)
    record = template.to_record()
    assert template_of_record(json.loads(json.dumps(record))) == template
    for changes in (
        {"body": str(record["body"]).replace(":", ": ", 1)},
        {"body": '{"a":"{{prompt}}","a":"{{prompt}}"}'},
        {"body": "[" * 100_000},
        {"body": '{"a":"{{prompt}}","b":NaN}'},
        {"headers": [["X-A", "1", "2"]]},
        {"headers": [["X-A", "1"], ["X-A", "2"]]},
        {"headers": {"X-A": "1"}},
        {"answer": "$.*"},
        {"more": 1},
        {"method": "GET"},
    ):
        with pytest.raises(TemplateError):
            template_of_record(record | changes)
    with pytest.raises(TemplateError):
        template_of_record({name: value for name, value in record.items() if name != "method"})


@given(st.text())
def test_a_question_never_leaves_its_string(prompt: str) -> None:
    """Whatever it holds, other placeholders included, it arrives as it is and changes nothing else."""
    plan = _plan(parse_template(GOOD))
    body = plan.request(prompt)
    assert body.isascii()
    value, plain = json.loads(body), json.loads(plan.request(""))
    assert value.pop("inputs") == f"<s>{prompt}</s>"
    plain.pop("inputs")
    assert value == plain


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "GET"}, "method"),
        ({"method": "post"}, "method"),
        ({"method": ["POST"]}, "method"),
        ({"extra": 1}, "extra"),
        ({"path": "generate"}, "path"),
        ({"path": "/../admin"}, "path"),
        ({"path": "/a/%2E%2e/b"}, "path"),
        ({"path": "//evil.example/"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/a\r\nHost: x"}, "path"),
        ({"path": "/a#b"}, "path"),
        ({"path": "/a@b?x=1\n"}, "path"),
        ({"path": "/" + "a" * 600}, "path"),
        ({"path": "/a?key=AIza123"}, "path"),
        ({"path": "/a?v=1&access_token=abc"}, "path"),
        ({"path": 7}, "path"),
        ({"answer": "$.*"}, "answer"),
        ({"answer": 7}, "answer"),
        ({"headers": ["X-A"]}, "headers"),
        ({"headers": {f"X-{n}": "1" for n in range(17)}}, "headers"),
        ({"headers": {"X A": "1"}}, "headers"),
        ({"headers": {"X-A\r\nHost": "1"}}, "headers"),
        ({"headers": {"": "1"}}, "headers"),
        ({"headers": {"X-Å": "1"}}, "headers"),
        ({"headers": {"Host": "internal"}}, "headers.Host"),
        ({"headers": {"content-length": "5"}}, "headers.content-length"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers.Transfer-Encoding"),
        ({"headers": {"Connection": "keep-alive"}}, "headers.Connection"),
        ({"headers": {"Cookie": "a=b"}}, "headers.Cookie"),
        ({"headers": {"Proxy-Authorization": "{{credential}}"}}, "headers.Proxy-Authorization"),
        ({"headers": {"Accept-Encoding": "gzip"}}, "headers.Accept-Encoding"),
        ({"headers": {"Upgrade": "h2c"}}, "headers.Upgrade"),
        ({"headers": {"Expect": "100-continue"}}, "headers.Expect"),
        ({"headers": {"TE": "trailers"}}, "headers.TE"),
        ({"headers": {"X-Forwarded-For": "127.0.0.1"}}, "headers.X-Forwarded-For"),
        ({"headers": {"X-HTTP-Method-Override": "DELETE"}}, "headers.X-HTTP-Method-Override"),
        ({"headers": {"X-Original-URL": "/admin"}}, "headers.X-Original-URL"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers.x-a"),
        ({"headers": {"X-A": "a\r\nb"}}, "headers.X-A"),
        ({"headers": {"X-A": "a\n"}}, "headers.X-A"),
        ({"headers": {"X-A": "ä"}}, "headers.X-A"),
        ({"headers": {"X-A": " a"}}, "headers.X-A"),
        ({"headers": {"X-A": ""}}, "headers.X-A"),
        ({"headers": {"X-A": "a" * 600}}, "headers.X-A"),
        ({"headers": {"X-A": 1}}, "headers.X-A"),
        ({"headers": {"X-A": "{{prompt}}"}}, "headers.X-A"),
        ({"headers": {"Content-Type": "text/html"}}, "headers.Content-Type"),
        ({"headers": {"Authorization": "Bearer abcdef"}}, "headers.Authorization"),
        ({"headers": {"Authorization": "Bearer {{credential}}x"}}, "headers.Authorization"),
        ({"headers": {"X-Api-Key": "0123456789"}}, "headers.X-Api-Key"),
        ({"headers": {"X-Access-Token": "abc"}}, "headers.X-Access-Token"),
        ({"headers": {"X-A": "Bearer abcdef"}}, "headers.X-A"),
        ({"headers": {"X-A": "sk-proj1234"}}, "headers.X-A"),
        ({"body": {"inputs": "no place"}}, "body"),
        ({"body": {"{{prompt}}": "a"}}, "body"),
        ({"body": {"a": "{{prompt}}", "{{model}}": 1}}, "body"),
        ({"body": {"a": "{{prompt}}", "b": ["{{other}}"]}}, "body.b[0]"),
        ({"body": {"a": "{{prompt}}", "b": "{{credential}}"}}, "body.b"),
        ({"body": {"a": "{{prompt}}", "b": "n={{max_tokens}}"}}, "body.b"),
        ({"body": {"a": "{{prompt}}\x00"}}, "body.a"),
        ({"body": {"a": "{{prompt}}\ud800"}}, "body.a"),
        ({"body": {"a": "{{prompt}}", "b": float("nan")}}, "body.b"),
        ({"body": {"a": "{{prompt}}", "b": float("inf")}}, "body.b"),
        ({"body": {"a": "{{prompt}}", "b": 2**60}}, "body.b"),
        ({"body": {"a": "{{prompt}}", "b": b"x"}}, "body.b"),
        ({"body": {"a": "{{prompt}}", "api_key": "abc"}}, "body.api_key"),
        ({"body": {"a": "{{prompt}}" + "x" * 17_000}}, "body"),
    ],
)
def test_what_may_not_be_in_it_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(_with(**changes))
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["path", "body", "answer"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template({key: value for key, value in GOOD.items() if key != name})
    assert (caught.value.field, caught.value.message) == (name, "this field is required")


def test_a_body_too_deep_is_refused() -> None:
    body: Any = "{{prompt}}"
    for _ in range(17):
        body = [body]
    with pytest.raises(TemplateError, match="levels"):
        parse_template(_with(body=body))


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/openai/deployments/x/chat?api-version=2024-02-01"},
        {"path": ""},
        {"path": "/"},
        {"path": "/v1/models/m:generate"},
        {
            "headers": {
                "Authorization": "Token {{credential}}",
                "Accept": "*/*",
                "User-Agent": "tokenizer",
            }
        },
        {"headers": {"anthropic-version": "2023-06-01", "Content-Type": "application/json; charset=utf-8"}},
        {"body": "{{prompt}}"},
        {"body": ["{{prompt}}", {"max_tokens": 5, "token": "<s>"}]},
        {"method": "PUT"},
    ],
)
def test_ordinary_templates_pass(changes: dict[str, Any]) -> None:
    template = parse_template(_with(**changes))
    assert template_of_record(template.to_record()) == template


def test_the_method_is_post_and_headers_are_none_unless_said() -> None:
    template = parse_template({"path": "/g", "body": "{{prompt}}", "answer": "$"})
    assert (template.method, template.headers, template.needs_credential) == ("POST", (), False)
    assert parse_template(GOOD).needs_credential
