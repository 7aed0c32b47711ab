"""The panel that slides in from the right with the details of one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from dashboard.elements import Button, Text, box, put


class Sheet:
    """An empty panel with a head; what is in it is built inside ``with sheet.body``."""

    def __init__(self, label: str, on_close: Callable[[], Any]) -> None:
        self._dialog = ui.dialog().props("position=right full-height").classes("sheet-dialog")
        self._dialog.on("hide", on_close, args=[])
        with self._dialog, box("sheet", tag="article") as article:
            put(article, "aria-label", label)
            with box("sheet-head", tag="header"):
                with box("sheet-title"):
                    Text(label, classes="eyebrow")
                    self.title = Text(tag="h2")
                    self.subtitle = Text(classes="mono muted small clip")
                self.actions = box("sheet-actions")
                with self.actions:
                    close = Button("Close", self._dialog.close, classes="button quiet")
                    put(close.element, "aria-label", f"Close {label.lower()}")
            self.body = box("sheet-body")

    @property
    def is_open(self) -> bool:
        """Whether it is on the screen."""
        return bool(self._dialog.value)

    def open(self) -> None:
        """Slide it in."""
        self._dialog.open()

    def close(self) -> None:
        """Slide it out."""
        self._dialog.close()
