"""From tokens to text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from worker.serving.errors import ModelUnsupported
from worker.serving.loading import Served
from worker.serving.sampling import Choice
from worker.serving.text import AnswerText, Vocabulary


class _Bytes(Vocabulary):
    """Every token is one byte."""

    def __init__(self) -> None:
        self._bytes = {byte: bytes((byte,)) for byte in range(256)}
        self._names = {}
        self.size = 256


def _run(data: bytes, stops: list[str]) -> tuple[list[str], AnswerText, int]:
    answer = AnswerText(_Bytes(), stops)
    pieces, tokens = [], 0
    for byte in data:
        piece = answer.push(Choice(token=byte))
        pieces.append(piece.text)
        tokens += len(piece.tokens)
        if answer.stopped:
            return pieces, answer, tokens
    piece = answer.finish()
    return [*pieces, piece.text], answer, tokens + len(piece.tokens)


@given(
    st.text(alphabet="ab\nÄ😀", max_size=30),
    st.lists(st.text(alphabet="ab\nÄ", min_size=1, max_size=4), max_size=4),
)
def test_pieces_joined_are_the_text_up_to_the_first_stop_string(text: str, stops: list[str]) -> None:
    """Whatever the token boundaries: nothing released is ever past a stop string, nothing else is lost."""
    ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    pieces, answer, _ = _run(text.encode(), stops)
    joined = "".join(pieces)
    assert answer.stopped == bool(ends)
    if not ends:
        assert joined == text
        return
    first_end = min(end for end, _ in ends)
    assert joined == text[: min(at for end, at in ends if end == first_end)]
    assert not any(stop in joined for stop in stops)


def test_a_stop_string_that_is_never_completed_is_text() -> None:
    pieces, answer, tokens = _run(b"yes ST", ["STOP"])
    assert pieces == ["y", "e", "s", " ", "", "", "ST"]
    assert not answer.stopped
    assert tokens == 6


def test_the_tokens_of_a_stop_string_are_not_reported() -> None:
    pieces, _, tokens = _run(b"yesSTOP", ["STOP"])
    assert "".join(pieces) == "yes"
    assert tokens == 3


def test_a_character_waits_for_its_last_byte_and_half_of_one_becomes_a_mark() -> None:
    pieces, _, tokens = _run("é".encode() + b"\xf0\x9f", [])
    assert pieces == ["", "é", "", "", "�"]
    assert tokens == 4


def test_bytes_of_tokens_are_exact(served: Served) -> None:
    """Encoding and joining the tokens' bytes is the identity, for any text, and special tokens are silent."""
    text = "a ab  Äß\t😀\u0000 <|im_start|>"
    tokens = served.tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(served.vocabulary.bytes_of, tokens)) == text.removesuffix("<|im_start|>").encode()
    assert served.vocabulary.name_of(tokens[-1]) == "<|im_start|>"
    assert served.vocabulary.bytes_of(10**6) == b""


def test_sentencepiece_vocabularies_are_understood() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"▁a": 0, "<0x0A>": 1, "b": 2}, merges=[]))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    vocabulary = _vocabulary(tokenizer)
    assert [vocabulary.bytes_of(token) for token in range(3)] == [b" a", b"\n", b"b"]


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece(vocab={"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ModelUnsupported):
        _vocabulary(tokenizer)


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer))  # type: ignore[no-untyped-call]
