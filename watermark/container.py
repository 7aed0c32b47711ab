"""Files that are no JSONL at all, told from their first bytes: one clear answer instead of a hundred."""

from __future__ import annotations

from pathlib import PurePath

from watermark.errors import RowError

HEAD_BYTES = 4096

_SHAPE = "Send JSONL: UTF-8 text with one JSON object on each line."
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed", "Unpack it first (gunzip)."),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook (.xlsx)", "Unpack it, or export the rows as JSONL."),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)", "Export the rows as JSONL."),
    (b"PAR1", "a Parquet file", "Export the rows as JSONL (for example with DuckDB or pandas)."),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "Unpack it first (unzstd)."),
    (b"BZh", "bzip2-compressed", "Unpack it first (bunzip2)."),
    (b"\xfd7zXZ", "xz-compressed", "Unpack it first (unxz)."),
    (b"%PDF", "a PDF document", _SHAPE),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"


def refuse_container(head: bytes, filename: str) -> None:
    """Look at the first bytes of a file that is not empty.

    Raises:
        RowError: it is not JSONL; the hint says what it is and how to convert it.
    """
    for signature, kind, hint in _SIGNATURES:
        if head.startswith(signature):
            raise RowError("not_jsonl", "", f"the file is {kind}, not JSONL", hint)
    if head.startswith(_UTF16) or b"\x00" in head[:64]:
        raise RowError(
            "not_utf8", "", "the file is UTF-16 or binary, not UTF-8 text", "Save it as UTF-8 without BOM."
        )
    if head.startswith(_BOM):
        raise RowError(
            "byte_order_mark",
            "",
            "the file starts with a byte order mark (EF BB BF)",
            'Save it as "UTF-8", not as "UTF-8 with BOM" (Windows editors add the mark).',
        )
    _refuse_text_shapes(head.lstrip(), filename)


def _refuse_text_shapes(head: bytes, filename: str) -> None:
    if head.startswith(b"["):
        raise RowError(
            "json_array",
            "",
            "the file is one JSON array, not JSONL",
            "Put each element on a line of its own, without the outer brackets and the commas"
            " between (jq -c '.[]' data.json > data.jsonl).",
        )
    first = head.split(b"\n", 1)[0].strip()
    if first == b"{":
        raise RowError(
            "pretty_printed",
            "",
            "the first object goes over several lines",
            "Put every object on one line (jq -c . data.json > data.jsonl).",
        )
    if first and not first.startswith(b"{") and _looks_like_table(first, filename):
        raise RowError(
            "not_jsonl",
            "",
            "the file looks like a table (CSV or TSV), not JSONL",
            "Turn each row into one JSON object on a line of its own.",
        )


def _looks_like_table(first: bytes, filename: str) -> bool:
    suffix = PurePath(filename).suffix.lower()
    return suffix in (".csv", ".tsv") or (b'"' not in first and (b"," in first or b"\t" in first))


def extension_hint(filename: str) -> str | None:
    """What to say about a name that is not ``*.jsonl`` when the content was bad as well."""
    suffix = PurePath(filename).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return None
    return f"The name ends in {suffix[:20] or 'nothing'}, not in .jsonl: is it the right file?"
