"""Three row shapes become one Example; everything else is told what is wrong, where, and what to do."""

from __future__ import annotations

import pytest

from watermark.errors import RowError
from watermark.examples import Message, parse_row


def test_alpaca_row_puts_the_input_below_the_instruction() -> None:
    example = parse_row({"instruction": "Translate.", "input": "Hello", "output": "Bonjour"})
    assert example.messages == (
        Message(role="user", content="Translate.\n\nHello"),
        Message(role="assistant", content="Bonjour"),
    )


@pytest.mark.parametrize(
    "row", [{"instruction": "Hi", "output": "Ho"}, {"instruction": "Hi", "input": "", "output": "Ho"}]
)
def test_an_empty_or_absent_input_leaves_the_instruction_alone(row: dict[str, str]) -> None:
    assert parse_row(row).messages[0].content == "Hi"


def test_chat_row_keeps_its_turns_and_reads_developer_as_system() -> None:
    example = parse_row(
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Ho"},
            ]
        }
    )
    assert [message.role for message in example.messages] == ["system", "user", "assistant"]
    assert example.answer == "Ho"


def test_prompt_row_becomes_two_turns() -> None:
    assert parse_row({"prompt": "2+2=", "completion": "4"}).answer == "4"


@pytest.mark.parametrize(
    ("row", "reason", "path"),
    [
        ([1], "not_an_object", ""),
        ("text", "not_an_object", ""),
        ({}, "unknown_shape", ""),
        ({"question": "x"}, "unknown_shape", ""),
        ({"instruction": "x"}, "missing_field", "output"),
        ({"output": "x"}, "missing_field", "instruction"),
        ({"instruction": "x", "output": 3}, "wrong_type", "output"),
        ({"instruction": "x", "output": "  "}, "empty", "output"),
        ({"instruction": "x", "input": None, "output": "y"}, "wrong_type", "input"),
        ({"instruction": "x", "output": "y", "Input": "z"}, "unknown_field", "Input"),
        ({"prompt": "x"}, "missing_field", "completion"),
        ({"messages": {}}, "wrong_type", "messages"),
        ({"messages": []}, "empty", "messages"),
        ({"messages": ["x"]}, "wrong_type", "messages[0]"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "unknown_role", "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no_answer", "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no_user_turn", "messages"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
            "misplaced_system",
            "messages[1].role",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "weight": 1}]},
            "unknown_field",
            "messages[0].weight",
        ),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages[0].content"),
    ],
)
def test_a_bad_row_names_its_field_its_code_and_a_remedy(row: object, reason: str, path: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(row)
    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert caught.value.message
    assert caught.value.hint
