"""Singular queries of RFC 9535, strictly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.jsonpath import MAX_SEGMENTS, PathError, parse_path

VALUE = {
    "results": [{"text": "first"}, {"text": "last"}],
    "a b": {"c'd": 1, 'e"f': 2, "": 3, "\t": 4, "☃": 5, "😀": 6, "/": 7, "\\": 8},
    "0": "a name",
    "_x9": None,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", VALUE),
        ("$.results[0].text", "first"),
        ("$.results[-1].text", "last"),
        ("$['results'][1]['text']", "last"),
        ('$["results"][-2]["text"]', "first"),
        ("$['a b']['c\\'d']", 1),
        ('$["a b"]["e\\"f"]', 2),
        ("$['a b']['']", 3),
        ("$['a b']['\\t']", 4),
        ("$['a b']['\\u2603']", 5),
        ("$['a b'].☃", 5),
        ("$['a b']['\\ud83D\\uDE00']", 6),
        ("$['a b']['\\/']", 7),
        ("$['a b']['\\\\']", 8),
        ("$['0']", "a name"),
        ("$._x9", None),
        ("$.missing", None),
        ("$.results[2]", None),
        ("$.results[-3]", None),
        ("$.results.text", None),
        ("$[0]", None),
        ("$.results[0].text[0]", None),
    ],
)
def test_a_path_names_one_node_or_none(path: str, found: object) -> None:
    assert parse_path(path).find(VALUE) == found


@pytest.mark.parametrize(
    "path",
    [
        "", "results", ".results", "@.a", "$.", "$..a", "$.*", "$[*]", "$[0,1]", "$[0:1]", "$[:]", "$[?@.a]",
        "$[-0]", "$[01]", "$[+1]", "$[1.0]", "$[]", "$[", "$['a", "$['a'", "$['a']]", "$[a]", "$.0", "$.a-b",
        "$.a b", "$ .a", "$. a", "$[ 0]", "$['a' ]", "$.a ", " $", "$['a\"b\\\"']", "$[\"a\\'\"]",
        "$['\\x41']",
        "$['\\u12']", "$['\\ud83d']", "$['\\ude00\\ud83d']", "$['\t']", "$['\ud800']", "$[9007199254740992]",
        "$[99999999999999999999]", "$" + ".a" * (MAX_SEGMENTS + 1), "$." + "a" * 300, "$.a\n",
        "$['a'].", "$$",
        "$.length()",
    ],
)  # fmt: skip
def test_anything_else_is_refused(path: str) -> None:
    with pytest.raises(PathError):
        parse_path(path)


def test_the_error_says_where() -> None:
    with pytest.raises(PathError, match="character 11: expected"):
        parse_path("$.results[*].text")
    with pytest.raises(PathError, match="at its end: expected the closing quote"):
        parse_path("$['a")


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.integers(-5, 5),
        max_size=MAX_SEGMENTS,
    )
)
def test_every_name_and_index_can_be_written(segments: list[str | int]) -> None:
    """JSON's own spelling of a string in double quotes is a name selector."""
    path = "$" + "".join(f"[{json.dumps(segment)}]" for segment in segments)
    if len(path) <= 256:
        assert parse_path(path).segments == tuple(segments)


@given(st.text(alphabet="$.[]'\"\\u0a-1 *", max_size=20).map("$".__add__) | st.text(max_size=20))
def test_parsing_is_total(path: str) -> None:
    """A query or a PathError; what is taken begins at the root."""
    try:
        parse_path(path)
    except PathError:
        return
    assert path.startswith("$")
