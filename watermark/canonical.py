"""One byte string for one record: sorted compact JSON over strings, integers and lists.

With ASCII keys and no floating-point numbers this is RFC 8785 (JCS); a test compares it with the
rfc8785 package. Floats and non-ASCII keys are refused, not converted.
"""

from __future__ import annotations

import json
from typing import TypeAlias

from watermark.errors import RecordError

Record: TypeAlias = "str | int | bool | list[Record] | dict[str, Record] | None"

MAX_SAFE_INTEGER = 2**53 - 1
"""Beyond it JSON numbers are not portable (RFC 8785, section 3.2.2.3): write such integers as strings."""


def canonical_bytes(value: object) -> bytes:
    """The canonical UTF-8 bytes.

    Raises:
        RecordError: the value holds something that has no single spelling.
    """
    _check(value, "record")
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _check(value: object, path: str) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise RecordError(f"{path} is an integer beyond 2^53")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RecordError(f"{path} is not valid Unicode") from None
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise RecordError(f"{path} has a key that is not ASCII text")
            _check(item, f"{path}.{key}")
    else:
        raise RecordError(f"{path} is a {type(value).__name__}, which has no canonical form")
