"""The page's head: whose page it is, whether the service is well, the theme, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from dashboard import wording
from dashboard.elements import Badge, Button, Text, box, put, show_if
from dashboard.feed import Snapshot

THEMES: dict[str | None, str | None] = {None: "light", "light": "dark", "dark": None}
"""What follows on a press; None follows the system."""

THEME_LABELS = {None: "System", "light": "Light", "dark": "Dark"}
DARK_VALUES = {None: None, "light": False, "dark": True}
MAX_PARTS = 6


class StatusBar:
    """The header."""

    def __init__(self, *, api_url: str, theme: str | None) -> None:
        self._theme = theme
        self._dark = ui.dark_mode(DARK_VALUES[theme])
        self._parts: list[Badge] = []
        with box("top", tag="header"), box("top-inner"):
            with box("brand"):
                put(box("brand-mark", tag="span"), "aria-hidden", "true")
                Text("Double-I", classes="brand-name")
                Text("Provider", classes="brand-role")
            with box("health") as health:
                put(health, "title", api_url)
                put(health, "role", "status")
                self._state = Badge("state")
                with box("health-parts"):
                    self._parts = [Badge("part") for _ in range(MAX_PARTS)]
            with box("top-actions"):
                self._theme_button = Button(
                    THEME_LABELS[theme], self._next_theme, classes="button quiet theme"
                )
                put(self._theme_button.element, "aria-label", "Change the colour theme")
                with box(tag="form") as form:
                    put(form, "method", "post")
                    put(form, "action", "/sign-out")
                    put(Button("Sign out", classes="button quiet").element, "type", "submit")

    def show(self, snapshot: Snapshot) -> None:
        """Show how the service is."""
        health = snapshot.health
        missing = ", ".join(name for name, well in health.parts if not well) if health else ""
        if snapshot.outage is not None:
            self._state.tell("API unreachable", "bad")
        elif health is None:
            self._state.tell("Connecting…", "idle")
        elif health.ready and missing:
            # requests are answered, but not all that the service offers is there
            self._state.tell(f"Ready, without {missing}", "bad")
        elif health.ready:
            self._state.tell("All parts ready", "good")
        else:
            self._state.tell(f"Not ready: {missing}" if missing else "Not ready", "bad")
        parts = health.parts[:MAX_PARTS] if health else ()
        for place, badge in enumerate(self._parts):
            show_if(badge, place < len(parts))
            if place < len(parts):
                name, well = parts[place]
                badge.tell(name, "good" if well else "bad", title=f"{name}: {'ready' if well else 'missing'}")

    def _next_theme(self) -> None:
        self._theme = THEMES[self._theme]
        self._dark.set_value(DARK_VALUES[self._theme])
        self._theme_button.tell(THEME_LABELS[self._theme])
        # Kept by the browser, for the next page and for the sign-in page.
        ui.run_javascript(
            f"document.cookie = 'doublei_theme={self._theme or ''}; path=/; max-age=31536000; samesite=lax'"
        )


class OutageBanner:
    """Says that the API does not answer, since when, and how old the figures are."""

    def __init__(self, on_retry: Callable[[], Any]) -> None:
        with box("banner") as self._frame:
            put(self._frame, "role", "alert")
            self._text = Text()
            Button("Try now", on_retry, classes="button small")
        show_if(self._frame, False)

    def show(self, snapshot: Snapshot) -> None:
        """Show or hide it."""
        outage = snapshot.outage
        show_if(self._frame, outage is not None)
        if outage is None:
            return
        age = (
            f" What you see is from {wording.clock(snapshot.updated_at)} UTC."
            if snapshot.updated_at is not None
            else ""
        )
        self._text.set_text(
            f"{outage.message} Trying again every {wording.duration(outage.retry_seconds)}.{age}"
        )
