"""From JSON lines to token rows, and which tokens carry loss."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from worker.finetune.config import DatasetByDescriptor, DatasetByPath, RowSource
from worker.finetune.errors import (
    ChatTemplateError,
    EmptyDatasetError,
    InvalidDatasetError,
    UnreadableDatasetError,
)

if TYPE_CHECKING:  # reading and checking rows must not wait for transformers to load
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a position without loss (the value of torch's cross entropy and of transformers)."""

MAX_WEIGHT = 1000

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRow:
    """One conversation as it was given."""

    messages: tuple[dict[str, str], ...]
    system: Literal["template", "omit"]
    """Without a system message of its own: the template's default one, or no system segment at all."""
    group: int | None = None
    """Rows and checks of one group belong together: a group whose checks fail is trained on by its rows."""
    weight: float = 1.0
    """What each of its answer tokens counts in a step's mean loss, beside those of weight 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One conversation as the model sees it."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    """Per position: the token itself where it carries loss, else IGNORED. A label is predicted from the
    position before it, so the first is always IGNORED."""
    group: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDataset:
    rows: tuple[TokenRow, ...]
    truncated_rows: int
    skipped_rows: int
    """Rows whose every answer token lay beyond the length limit."""

    @property
    def tokens(self) -> int:
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def answer_tokens(self) -> int:
        return sum(label != IGNORED for row in self.rows for label in row.labels)


def read_rows(dataset: RowSource) -> tuple[ChatRow, ...]:
    """Read every row and leave no copy behind: a path is unlinked, a descriptor closed.

    Raises: UnreadableDatasetError, InvalidDatasetError (with the line), EmptyDatasetError.
    """
    try:
        match dataset:
            case DatasetByDescriptor():
                with os.fdopen(dataset.fd, "rb") as file:
                    content = file.read()
            case DatasetByPath():
                with dataset.path.open("rb") as file:
                    dataset.path.unlink()
                    content = file.read()
    except OSError as error:
        raise UnreadableDatasetError(error.strerror or type(error).__name__) from error
    lines = content.split(b"\n")
    rows = tuple(_parse_row(line, number) for number, line in enumerate(lines, 1) if line.strip())
    if not rows:
        raise EmptyDatasetError("it has no rows")
    return rows


def tokenize(
    rows: Iterable[ChatRow], tokenizer: PreTrainedTokenizerBase, *, max_length_tokens: int
) -> TokenDataset:
    """Render, tokenize and mask every row.

    Raises: ChatTemplateError; EmptyDatasetError if no answer token is left.
    """
    kept, truncated, skipped = [], 0, 0
    for row in rows:
        input_ids, labels = render_tokens(row, tokenizer)
        truncated += len(input_ids) > max_length_tokens
        labels = labels[:max_length_tokens]
        if all(label == IGNORED for label in labels):
            skipped += 1
            continue
        kept.append(
            TokenRow(
                input_ids=tuple(input_ids[:max_length_tokens]),
                labels=tuple(labels),
                group=row.group,
                weight=row.weight,
            )
        )
    if not kept:
        raise EmptyDatasetError("no row has an answer within max_length_tokens")
    return TokenDataset(rows=tuple(kept), truncated_rows=truncated, skipped_rows=skipped)


def render_tokens(row: ChatRow, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids and labels of one conversation: loss on each assistant content and its end of turn only.

    The text in front of an answer and the answer are tokenized apart, because that is what happens at
    inference: the prompt ends where generation begins. For a user who says "Hi" and the answer "Yes.":

        text    <|im_start|> user \\n Hi <|im_end|> \\n <|im_start|> assistant \\n Yes   .   <|im_end|> \\n
        labels  -100         ...                                              -100 Yes   .   <|im_end|> -100

    The line break after the last end of turn is never generated, so it carries no loss.

    Raises: ChatTemplateError if the template rewrites earlier turns when a later one is added.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    done = ""
    for index, message in enumerate(row.messages):
        if message["role"] != "assistant":
            continue
        prompt = _render(row.messages[:index], row.system, tokenizer, add_generation_prompt=True)
        full = _render(row.messages[: index + 1], row.system, tokenizer, add_generation_prompt=False)
        answer = full[len(prompt) :].rstrip()
        if not prompt.startswith(done) or not full.startswith(prompt) or not answer:
            raise ChatTemplateError("the chat template does not render a conversation turn by turn")
        context_ids = _encode(prompt[len(done) :], tokenizer)
        answer_ids = _encode(answer, tokenizer)
        input_ids += context_ids + answer_ids
        labels += [IGNORED] * len(context_ids) + answer_ids
        done = prompt + answer
    tail_ids = _encode(full[len(done) :], tokenizer) if done else []
    return input_ids + tail_ids, labels + [IGNORED] * len(tail_ids)


def render_prompt(row: ChatRow, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text in front of the answer to the row's last turn, as training shows it.

    Raises: ChatTemplateError.
    """
    return _render(row.messages, row.system, tokenizer, add_generation_prompt=True)


def _render(
    messages: Sequence[Mapping[str, str]],
    system: Literal["template", "omit"],
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_generation_prompt: bool,
) -> str:
    if system == "template":
        return _apply(messages, tokenizer, add_generation_prompt)
    # A template's default system segment appears only when no system message is given. So give one,
    # render it alone as well, and what follows it is the conversation without any system segment.
    placeholder = {"role": "system", "content": "placeholder"}
    segment = _apply([placeholder], tokenizer, add_generation_prompt=False)
    text = _apply([placeholder, *messages], tokenizer, add_generation_prompt)
    if not text.startswith(segment):
        raise ChatTemplateError("the chat template's system segment can't be left out")
    bos = tokenizer.bos_token
    rest = text[len(segment) :]
    lost_bos = isinstance(bos, str) and segment.startswith(bos) and not rest.startswith(bos)
    return f"{bos}{rest}" if lost_bos else rest


def _apply(
    messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, add_generation_prompt: bool
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except Exception as error:  # jinja2's own errors and whatever a template raises
        raise ChatTemplateError(f"the chat template refuses a row: {type(error).__name__}") from error
    return str(text)


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _parse_row(line: bytes, number: int) -> ChatRow:
    try:
        record: Any = json.loads(line)
    except ValueError:
        raise InvalidDatasetError(f"line {number}: not valid JSON") from None
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise InvalidDatasetError(f"line {number}: messages must be a list with at least one message")
    system = record.get("system", "template")
    if system not in ("template", "omit"):
        raise InvalidDatasetError(f"line {number}: system must be 'template' or 'omit'")
    group = record.get("group")
    if group is not None and (type(group) is not int or group < 0):
        raise InvalidDatasetError(f"line {number}: group must be a whole number, or left out")
    weight = record.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
        raise InvalidDatasetError(f"line {number}: weight must be a number above 0, at most {MAX_WEIGHT}")
    parsed = tuple(_parse_message(message, number, place) for place, message in enumerate(messages))
    if not any(message["role"] == "assistant" for message in parsed):
        raise InvalidDatasetError(f"line {number}: no assistant message to learn from")
    if any(message["role"] == "system" for message in parsed[1:]):
        raise InvalidDatasetError(f"line {number}: only the first message may be a system message")
    if system == "omit" and parsed[0]["role"] == "system":
        raise InvalidDatasetError(f"line {number}: system 'omit' contradicts its system message")
    return ChatRow(messages=parsed, system=system, group=group, weight=float(weight))


def _parse_message(message: object, number: int, place: int) -> dict[str, str]:
    match message:
        case {"role": str(role), "content": str(content)} if role in _ROLES:
            return {"role": role, "content": content}
    raise InvalidDatasetError(f"line {number}: messages[{place}] needs a role of {_ROLES} and text content")
