"""Rows are read once, rendered as the model will see them, and carry loss on answers only."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from worker.finetune.config import DatasetByDescriptor, DatasetByPath
from worker.finetune.dataset import IGNORED, ChatRow, read_rows, render_tokens, tokenize
from worker.finetune.errors import (
    ChatTemplateError,
    EmptyDatasetError,
    InvalidDatasetError,
    UnreadableDatasetError,
)

CHATML = """{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}<s>system
You are helpful<e>
{% endif %}<s>{{ message['role'] }}
{{ message['content'] }}<e>
{% endfor %}{% if add_generation_prompt %}<s>assistant
{% endif %}"""


def byte_tokenizer(template: str = CHATML, bos: str = "<s>") -> PreTrainedTokenizerFast:
    """One token a byte, and the two markers as special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=bos, eos_token="<e>"
    )
    fast.chat_template = template
    return fast


def row(*contents: str, system: str = "template", first: str = "user") -> ChatRow:
    roles = {"user": ["user", "assistant"], "system": ["system", "user", "assistant"]}[first]
    messages = tuple(
        {
            "role": roles[index] if index < len(roles) else roles[-2 + (index - len(roles)) % 2],
            "content": text,
        }
        for index, text in enumerate(contents)
    )
    return ChatRow(messages=messages, system="omit" if system == "omit" else "template")


def supervised(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    return str(tokenizer.decode([label for label in labels if label != IGNORED]))


class TestMask:
    def test_loss_is_on_the_answer_and_its_end_of_turn_only(self) -> None:
        tokenizer = byte_tokenizer()
        ids, labels = render_tokens(row("Hi", "Yes."), tokenizer)
        assert tokenizer.decode(ids) == (
            "<s>system\nYou are helpful<e>\n<s>user\nHi<e>\n<s>assistant\nYes.<e>\n"
        )
        assert supervised(ids, labels, tokenizer) == "Yes.<e>"
        assert labels[-1] == IGNORED

    def test_every_assistant_turn_of_a_conversation_is_learned(self) -> None:
        tokenizer = byte_tokenizer()
        ids, labels = render_tokens(row("a", "One", "b", "Two"), tokenizer)
        assert supervised(ids, labels, tokenizer) == "One<e>Two<e>"
        assert str(tokenizer.decode(ids)).count("<s>assistant") == 2

    def test_an_answer_with_line_breaks_around_it_is_kept_whole(self) -> None:
        tokenizer = byte_tokenizer()
        ids, labels = render_tokens(row("a", "\n x \n"), tokenizer)
        assert supervised(ids, labels, tokenizer) == "\n x \n<e>"

    def test_a_template_that_rewrites_earlier_turns_is_refused(self) -> None:
        template = "{% for m in messages %}{{ messages|length }}{{ m['content'] }}{% endfor %}"
        with pytest.raises(ChatTemplateError):
            render_tokens(row("a", "b", "c", "d"), byte_tokenizer(template))

    def test_a_template_that_raises_is_a_typed_error_without_the_row(self) -> None:
        template = "{{ raise_exception('no: ' + messages[0]['content']) }}"
        with pytest.raises(ChatTemplateError) as caught:
            render_tokens(row("secret words", "b"), byte_tokenizer(template))
        assert "secret words" not in str(caught.value)


class TestSystem:
    def test_omit_leaves_no_system_segment(self) -> None:
        tokenizer = byte_tokenizer()
        ids, _ = render_tokens(row("Hi", "Yes.", system="omit"), tokenizer)
        assert tokenizer.decode(ids) == "<s>user\nHi<e>\n<s>assistant\nYes.<e>\n"

    def test_omit_keeps_a_beginning_of_text_token(self) -> None:
        """Where the marker of the text's beginning stands before the system segment, it stays."""
        tokenizer = byte_tokenizer("<b>" + CHATML, bos="<b>")
        ids, _ = render_tokens(row("Hi", "Yes.", system="omit"), tokenizer)
        assert str(tokenizer.decode(ids)).startswith("<b><s>user\nHi")

    def test_a_system_message_replaces_the_default_one(self) -> None:
        tokenizer = byte_tokenizer()
        ids, _ = render_tokens(row("Be brief", "Hi", "Yes.", first="system"), tokenizer)
        text = str(tokenizer.decode(ids))
        assert text.startswith("<s>system\nBe brief<e>\n<s>user")
        assert "helpful" not in text


class TestTokenize:
    def test_long_rows_lose_their_end_and_rows_without_an_answer_left_are_skipped(self) -> None:
        tokenizer = byte_tokenizer()
        rows = [row("Hi", "A" * 50, system="omit"), row("x" * 90, "B", system="omit")]
        dataset = tokenize(rows, tokenizer, max_length_tokens=60)
        assert (len(dataset.rows), dataset.truncated_rows, dataset.skipped_rows) == (1, 2, 1)
        assert dataset.tokens == 60
        assert 0 < dataset.answer_tokens < 50

    def test_a_row_keeps_its_group_and_its_weight(self) -> None:
        rows = (replace(row("Hi", "Yes"), group=4, weight=2.5), row("Hi", "No"))
        dataset = tokenize(rows, byte_tokenizer(), max_length_tokens=500)
        assert [(made.group, made.weight) for made in dataset.rows] == [(4, 2.5), (None, 1.0)]

    def test_nothing_left_is_an_error(self) -> None:
        with pytest.raises(EmptyDatasetError):
            tokenize([row("x" * 90, "B")], byte_tokenizer(), max_length_tokens=20)


GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


class TestRead:
    def test_a_path_is_unlinked(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "system": "omit"}) + "\n", "utf-8")
        rows = read_rows(DatasetByPath(path=path))
        assert [row.system for row in rows] == ["template", "omit"]
        assert not path.exists()

    def test_a_descriptor_is_read_to_its_end_and_closed(self) -> None:
        reader, writer = os.pipe()
        os.write(writer, json.dumps(GOOD).encode())
        os.close(writer)
        assert len(read_rows(DatasetByDescriptor(fd=reader))) == 1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(reader)

    def test_a_missing_file_and_a_closed_descriptor_are_typed_errors(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableDatasetError):
            read_rows(DatasetByPath(path=tmp_path / "none"))
        with pytest.raises(UnreadableDatasetError):
            read_rows(DatasetByDescriptor(fd=987))

    def test_an_empty_dataset_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n \n", "utf-8")
        with pytest.raises(EmptyDatasetError):
            read_rows(DatasetByPath(path=path))

    @pytest.mark.parametrize(
        "bad",
        [
            "{",
            "[]",
            '"text"',
            '{"messages": []}',
            '{"messages": [{"role": "user", "content": "hidden"}]}',
            '{"messages": [{"role": "robot", "content": "hidden"}]}',
            '{"messages": [{"role": "assistant", "content": ["hidden"]}]}',
            json.dumps({**GOOD, "system": "other"}),
            json.dumps({**GOOD, "group": "hidden"}),
            json.dumps({**GOOD, "group": -1}),
            json.dumps({**GOOD, "group": True}),
            json.dumps({**GOOD, "weight": "hidden"}),
            json.dumps({**GOOD, "weight": 0}),
            json.dumps({**GOOD, "weight": True}),
            '{"weight": NaN, "messages": [{"role": "assistant", "content": "hidden"}]}',
            json.dumps({"messages": [*GOOD["messages"], {"role": "system", "content": "hidden"}]}),
            json.dumps(
                {"messages": [{"role": "system", "content": "hidden"}, *GOOD["messages"]], "system": "omit"}
            ),
        ],
    )
    def test_a_bad_row_is_named_by_its_line_and_never_quoted(self, bad: str, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(GOOD) + "\n" + bad, "utf-8")
        with pytest.raises(InvalidDatasetError, match="line 2") as caught:
            read_rows(DatasetByPath(path=path))
        assert "hidden" not in str(caught.value)
