"""From tokens to text: exact bytes of each token, and the text of an answer as it grows."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from worker.serving.errors import ModelUnsupported
from worker.serving.sampling import Choice

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>\Z")


class Vocabulary:
    """The bytes every token stands for. Special tokens stand for none."""

    __slots__ = ("_bytes", "_names", "size")

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raises: ModelUnsupported unless tokens are byte-level BPE or SentencePiece with byte fallback."""
        to_bytes = _token_decoder(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, str] = {}
        for token, index in tokenizer.get_vocab().items():
            if index in added:
                self._names[index] = token
                self._bytes[index] = b"" if added[index].special else token.encode()
            else:
                self._bytes[index] = to_bytes(token)
        self.size = len(self._bytes)

    def bytes_of(self, token: int) -> bytes:
        """Its bytes; a padding row of the embedding, which no text maps to, has none."""
        return self._bytes.get(token, b"")

    def name_of(self, token: int) -> str:
        """Its text, special tokens by name; bytes that are not UTF-8 on their own appear as U+FFFD."""
        return self._names.get(token) or self.bytes_of(token).decode("utf-8", "replace")


class _TokenDecoder:
    """Maps a vocabulary entry to the bytes it stands for."""

    def __init__(self, byte_of: dict[str, int] | None) -> None:
        self._byte_of = byte_of

    def __call__(self, token: str) -> bytes:
        if self._byte_of is not None:
            return bytes(self._byte_of[character] for character in token)
        if found := _BYTE_TOKEN.match(token):
            return bytes((int(found[1], 16),))
        return token.replace("▁", " ").encode()


def _token_decoder(tokenizer: PreTrainedTokenizerFast) -> _TokenDecoder:
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}
    parts = {part["type"] for part in decoder.get("decoders", [decoder]) if "type" in part}
    if "ByteLevel" in parts:
        return _TokenDecoder({character: byte for byte, character in _byte_alphabet().items()})
    if "ByteFallback" in parts:
        return _TokenDecoder(None)
    raise ModelUnsupported("the tokenizer is neither byte-level BPE nor SentencePiece with byte fallback")


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte (Radford et al. 2019): printable Latin-1 for itself, the other
    bytes, in order, for the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in alphabet)
    alphabet.update({byte: chr(0x100 + place) for place, byte in enumerate(others)})
    return alphabet


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What became certain of an answer: more text, and the tokens it came from."""

    text: str
    tokens: tuple[Choice, ...]


class AnswerText:
    """The text of one answer, token by token. Everything `push` and `finish` return, joined, is the answer.

    Text is held back while it may be the beginning of a stop string or of a character whose last bytes are
    still to come, so what was returned never has to be taken back.
    """

    __slots__ = (
        "_decoder",
        "_longest_stop",
        "_pending",
        "_released",
        "_stops",
        "_text",
        "_vocabulary",
        "stopped",
    )

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._stops = tuple(stops)
        self._longest_stop = max((len(stop) for stop in stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._released = 0
        self._pending: list[tuple[int, Choice]] = []
        self.stopped = False
        """Whether a stop string was found; nothing may be pushed after it."""

    def push(self, choice: Choice) -> Piece:
        """Take one more token."""
        self._pending.append((len(self._text), choice))
        self._append(self._decoder.decode(self._vocabulary.bytes_of(choice.token)))
        if self.stopped:
            return self._release(len(self._text))
        return self._release(len(self._text) - self._held_back())

    def finish(self) -> Piece:
        """The answer ended without a stop string: whatever was held back is part of it."""
        self._append(self._decoder.decode(b"", final=True))
        return self._release(len(self._text), everything=not self.stopped)

    def _append(self, more: str) -> None:
        search_from = max(0, len(self._text) - self._longest_stop + 1)
        self._text += more
        found = [at for stop in self._stops if (at := self._text.find(stop, search_from)) >= 0]
        if found:
            self.stopped = True
            self._text = self._text[: min(found)]

    def _held_back(self) -> int:
        """Length of the longest end of the text that some stop string begins with."""
        for length in range(min(self._longest_stop - 1, len(self._text) - self._released), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, end: int, *, everything: bool = False) -> Piece:
        text, self._released = self._text[self._released : end], end
        count = 0
        while count < len(self._pending) and (everything or self._pending[count][0] < end):
            count += 1
        tokens = tuple(choice for _, choice in self._pending[:count])
        del self._pending[:count]
        return Piece(text=text, tokens=tokens)
