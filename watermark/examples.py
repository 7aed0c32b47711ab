"""One row of instruction data. Three shapes come in; one `Example` comes out.

Accepted shapes:

- Alpaca: ``{"instruction": str, "input": str (optional), "output": str}``
- chat: ``{"messages": [{"role": "system"|"developer"|"user"|"assistant", "content": str}, ...]}``
- prompt: ``{"prompt": str, "completion": str}``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from watermark.errors import RowError

Role = Literal["system", "user", "assistant"]
Shape = Literal["alpaca", "chat", "prompt"]

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}

SHAPES_HINT = (
    'Use {"instruction", "input", "output"}, {"messages": [{"role", "content"}, ...]} '
    'or {"prompt", "completion"}.'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation that ends with the assistant's answer."""

    messages: tuple[Message, ...]
    shape: Shape

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.messages[-1].content


def user_text(instruction: str, input_text: str) -> str:
    """The user turn of an Alpaca row: the instruction, and below it the input if there is one."""
    return f"{instruction}\n\n{input_text}" if input_text else instruction


def instruction_and_input(text: str) -> tuple[str, str]:
    """The two parts that `user_text` has put together; the input is "" where there was none.

    Law: ``instruction_and_input(user_text(a, b)) == (a, b)`` for an instruction ``a`` without a blank line,
    as the watermark's all are.
    """
    instruction, _, input_text = text.partition("\n\n")
    return instruction, input_text


def alpaca(instruction: str, input_text: str, output: str) -> Example:
    """An `Example` from the three Alpaca fields (not checked)."""
    return Example(
        messages=(
            Message(role="user", content=user_text(instruction, input_text)),
            Message(role="assistant", content=output),
        ),
        shape="alpaca",
    )


def parse_row(value: object) -> Example:
    """Read one decoded JSON value.

    Raises:
        RowError: with the field's path, a stable code and a hint; the first problem of the row.
    """
    if not isinstance(value, dict):
        raise RowError("not_an_object", "", f"expected a JSON object, found {_kind(value)}", SHAPES_HINT)
    if "messages" in value:
        return _parse_chat(value)
    if "instruction" in value or "output" in value:
        return _parse_alpaca(value)
    if "prompt" in value or "completion" in value:
        return _parse_prompt(value)
    found = ", ".join(sorted(str(key)[:40] for key in value)[:5]) or "none"
    raise RowError("unknown_shape", "", f"no known set of fields (found: {found})", SHAPES_HINT)


def _parse_alpaca(row: Mapping[str, object]) -> Example:
    _refuse_unknown(row, {"instruction", "input", "output"})
    instruction = _text(row, "instruction", "instruction")
    output = _text(row, "output", "output")
    given = row.get("input", "")
    if not isinstance(given, str):
        raise RowError(
            "wrong_type", "input", f"expected a string, found {_kind(given)}", 'Leave it out or use "".'
        )
    return alpaca(instruction, given, output)


def _parse_prompt(row: Mapping[str, object]) -> Example:
    _refuse_unknown(row, {"prompt", "completion"})
    return Example(
        messages=(
            Message(role="user", content=_text(row, "prompt", "prompt")),
            Message(role="assistant", content=_text(row, "completion", "completion")),
        ),
        shape="prompt",
    )


def _parse_chat(row: Mapping[str, object]) -> Example:
    _refuse_unknown(row, {"messages"})
    items = row["messages"]
    if not isinstance(items, list):
        raise RowError("wrong_type", "messages", f"expected a list, found {_kind(items)}", SHAPES_HINT)
    if not items:
        raise RowError(
            "empty", "messages", "the list is empty", "Give at least a user and an assistant turn."
        )
    messages = tuple(_parse_message(item, f"messages[{index}]", index) for index, item in enumerate(items))
    roles = [message.role for message in messages]
    if "user" not in roles:
        raise RowError(
            "no_user_turn", "messages", "there is no user turn", "Add the question to be answered."
        )
    if roles[-1] != "assistant":
        raise RowError(
            "no_answer",
            f"messages[{len(roles) - 1}].role",
            f"the last turn is {roles[-1]}, so there is nothing to learn",
            "End the conversation with an assistant turn.",
        )
    return Example(messages=messages, shape="chat")


def _parse_message(item: object, path: str, index: int) -> Message:
    if not isinstance(item, dict):
        raise RowError("wrong_type", path, f"expected an object, found {_kind(item)}", "Use {role, content}.")
    _refuse_unknown(item, {"role", "content"}, path + ".")
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        shown = repr(role[:40]) if isinstance(role, str) else _kind(role)
        raise RowError(
            "unknown_role", f"{path}.role", f"unknown role {shown}", "Use system, user or assistant."
        )
    if ROLES[role] == "system" and index:
        raise RowError(
            "misplaced_system", f"{path}.role", "a system turn must come first", "Move it to the front."
        )
    return Message(role=ROLES[role], content=_text(item, "content", f"{path}.content"))


def _text(row: Mapping[str, object], field: str, path: str) -> str:
    if field not in row:
        raise RowError("missing_field", path, f"the field {field!r} is missing", "Add it.")
    value = row[field]
    if not isinstance(value, str):
        raise RowError(
            "wrong_type", path, f"expected a string, found {_kind(value)}", "Write the value as text."
        )
    if not value.strip():
        raise RowError("empty", path, "the text is empty", "Fill it in or remove the row.")
    return value


def _refuse_unknown(row: Mapping[str, object], known: set[str], prefix: str = "") -> None:
    extra = sorted(str(key) for key in row if key not in known)
    if extra:
        raise RowError(
            "unknown_field",
            f"{prefix}{extra[0][:60]}",
            f"unknown field {extra[0][:60]!r}",
            "Remove it: only " + ", ".join(sorted(known)) + " are read, and nothing is dropped silently.",
        )


def _kind(value: object) -> str:
    names = {bool: "true/false", int: "a number", float: "a number", str: "a string", list: "a list"}
    if value is None:
        return "null"
    return names.get(type(value), "an object")
