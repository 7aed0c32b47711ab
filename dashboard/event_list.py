"""A job's events, newest first; the steps among them only on demand, for the curve shows those better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nicegui.element import Element

from dashboard import wording
from dashboard.elements import Badge, Text, box, put, show_if
from dashboard.records import Event

MAX_SHOWN = 60
LEVELS = {"info": "idle", "warn": "warn", "error": "bad"}


class EventList:
    """The panel with the events. It keeps its lines and refills them."""

    def __init__(self) -> None:
        self._events: Sequence[Event] = ()
        self._complete = True
        self._with_steps = False
        self._lines: list[tuple[Element, Text, Badge, Text]] = []
        with box("panel", tag="section"):
            with box("panel-head"):
                Text("Events", tag="h3")
                with box("switch", tag="label"):
                    element = box(tag="input")
                    put(element, "type", "checkbox")
                    element.on("change", self._on_switch, js_handler="(e) => emit(e.target.checked)")
                    Text("Every step")
            self._list = box("events", tag="ol")
            self._note = Text(tag="p", classes="muted small")

    def clear(self) -> None:
        """Forget the events: another job is about to be shown."""
        self._events = ()
        self._render(loading=True)

    def show(self, newest_first: Sequence[Event], *, complete: bool) -> None:
        """Show these events."""
        self._events, self._complete = newest_first, complete
        self._render()

    def _on_switch(self, event: Any) -> None:
        self._with_steps = event.args is True
        self._render()

    def _render(self, *, loading: bool = False) -> None:
        chosen = [item for item in self._events if self._with_steps or item.type != "metrics"]
        shown = chosen[:MAX_SHOWN]
        while len(self._lines) < len(shown):
            self._add_line()
        for place, (line, time, dot, message) in enumerate(self._lines):
            show_if(line, place < len(shown))
            if place < len(shown):
                event = shown[place]
                time.show(wording.clock(event.created_at), title=wording.moment(event.created_at))
                dot.tell("", LEVELS.get(event.level, "idle"), title=event.level)
                message.set_text(event.message)
        if loading:
            self._note.set_text("Reading…")
        elif not chosen:
            self._note.set_text("Nothing has happened yet.")
        elif len(chosen) > MAX_SHOWN:
            more = "" if self._complete else " or more"
            self._note.set_text(f"The newest {MAX_SHOWN} of {len(chosen)}{more}.")
        else:
            self._note.set_text("")

    def _add_line(self) -> None:
        with self._list, box("event", tag="li") as line:
            time = Text(tag="time", classes="mono muted small")
            dot = Badge("dot")
            message = Text(classes="event-message")
        self._lines.append((line, time, dot, message))
