"""A multipart form with one file, read as it arrives: the file goes to disk, never into memory.

FastAPI's own forms are read before the caller is authenticated and without a cap of ours, hence this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.errors import InvalidRequest, TooLarge
from service.storage import Incoming

MAX_FIELDS = 16
MAX_FIELD_BYTES = 1024
MAX_NAME_CHARACTERS = 255
BATCH_BYTES = 1 << 20
"""Bytes handed to the writing thread at once."""


class UploadForm:
    """The parts of the form, as far as they have arrived."""

    def __init__(self, content_type: str | None, incoming: Incoming, *, max_file_bytes: int) -> None:
        """Raises: InvalidRequest, if the body is not multipart/form-data."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise _malformed("send the file as multipart/form-data")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._incoming = incoming
        self._max_file_bytes = max_file_bytes
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._field: str | None = None
        self._field_value = b""
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from None

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the whole body.

        Raises:
            InvalidRequest: it is malformed or ends too early.
            TooLarge: the file is over its cap; noticed while it comes in.
        """
        batch = bytearray()
        async for chunk in chunks:
            batch += chunk
            if len(batch) >= BATCH_BYTES:
                await asyncio.to_thread(self._feed, bytes(batch))
                batch.clear()
        await asyncio.to_thread(self._feed, bytes(batch))
        if not self._complete:
            raise _malformed("the form ends before its closing boundary")

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def _part_begin(self) -> None:
        self._disposition = b""
        self._field = None
        self._field_value = b""

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _text(options.get(b"name", b""))
        if name == "file":
            if self.filename is not None:
                raise _malformed("there is more than one file")
            self.filename = _plain_name(_text(options.get(b"filename", b"")))
        elif len(self.fields) >= MAX_FIELDS:
            raise _malformed("there are too many fields")
        else:
            self._field = name

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            if self._incoming.size_bytes + end - start > self._max_file_bytes:
                raise TooLarge(f"the file is over {self._max_file_bytes} bytes", param="file")
            self._incoming.write(data[start:end])
        else:
            self._field_value += data[start:end]
            if len(self._field_value) > MAX_FIELD_BYTES:
                raise _malformed(f"the field {self._field[:60]!r} is too long")

    def _part_end(self) -> None:
        if self._field is not None:
            self.fields[self._field] = _text(self._field_value)

    def _end(self) -> None:
        self._complete = True


def _plain_name(name: str) -> str:
    """A file's name without folders and control characters. It names nothing on our disk."""
    base = PurePosixPath(name.replace("\\", "/")).name
    kept = "".join(character for character in base if character.isprintable())
    return kept[:MAX_NAME_CHARACTERS] or "upload.jsonl"


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the upload can't be read: {reason}", code="invalid_multipart")
