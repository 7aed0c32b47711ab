"""The view as a PDF for archives (PDF/A-2b). The same evidence gives the same bytes.

The typesetter gets one document of ours and the view as JSON beside it. Nothing that a suspect or a user
wrote is ever part of the document's source, so there is no markup for it to be. It reads no other file, finds
no package and uses no font but its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from service.verifications.report.glyphs import drawable
from service.verifications.report.text import spelled
from service.verifications.report.view import View

SOURCE = Path(__file__).with_name("report.typ")
STANDARD: Final = "a-2b"
"""A profile for archives; it refuses a missing glyph instead of leaving a hole."""


def pdf_document(view: View) -> bytes:
    """Typeset the view. Takes up to some seconds: call it in a thread."""
    import typst  # 80 MB of code that an API without PDFs never maps

    try:
        return _typeset(view, drawable)
    except typst.TypstError:
        # a sequence that no font can shape although each of its characters has a glyph
        return _typeset(view, _ascii)


def _typeset(view: View, writable: Callable[[str], str]) -> bytes:
    import typst

    moment = datetime.fromisoformat(view.finished_at)
    numbers = [moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second]
    with TemporaryDirectory(prefix="doublei-report-") as name:
        folder = Path(name)
        source = folder / SOURCE.name
        source.write_bytes(SOURCE.read_bytes())
        return typst.compile(
            source,
            root=folder,
            format="pdf",
            sys_inputs={
                "view": json.dumps(_map(asdict(view), writable)),
                "moment": json.dumps(numbers),
            },
            ignore_system_fonts=True,
            package_path=folder,
            package_cache_path=folder,
            pdf_standards=[STANDARD],
            timestamp=int(moment.timestamp()),
        )


def _map(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _map(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map(item, change) for item in value]
    return value


def _ascii(text: str) -> str:
    return "".join(char if char.isascii() else spelled(char) for char in text)
