"""A table of the page: search, filter, pages of rows, and what it says when there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from nicegui.element import Element

from dashboard.elements import Button, Text, box, put, show_if

PAGE_SIZE = 10
SKELETON_ROWS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a row needs to know beside its item."""

    now: datetime
    organizations: Mapping[str, str]
    """Names by id."""


class Row(Protocol):
    """The cells of one row, filled again and again with whatever is in that place now."""

    def fill(self, item: Any, context: Context) -> None:
        """Show an item."""


T = TypeVar("T")


class Listing(Generic[T]):
    """One table. It keeps its rows and refills them, so a poll sends only what differs."""

    def __init__(
        self,
        *,
        title: str,
        columns: tuple[str, ...],
        make_row: Callable[[], Row],
        words: Callable[[T, Context], str],
        on_open: Callable[[T], Any],
        empty: tuple[str, str],
    ) -> None:
        self._make_row = make_row
        self._words = words
        self._on_open = on_open
        self._empty = empty
        self._columns = columns
        self._items: Sequence[T] = ()
        self._shown: Sequence[T] = ()
        self._context: Context | None = None
        self._loading = True
        self._first = 0
        self._search = ""
        self._keep: Callable[[T], bool] | None = None
        self._rows: list[tuple[Element, Row]] = []
        self._build(title)

    def show(self, items: Sequence[T], context: Context, *, loading: bool) -> None:
        """Show the newest state of everything."""
        self._items, self._context, self._loading = items, context, loading
        self._render()

    def filter(self, keep: Callable[[T], bool] | None) -> None:
        """Show only what ``keep`` accepts."""
        self._keep, self._first = keep, 0
        self._render()

    def _build(self, title: str) -> None:
        with box("card listing", tag="section") as section:
            put(section, "aria-label", title)
            with box("card-head"):
                Text(title, tag="h2")
                self._count = Text(classes="count")
                search = box("search", tag="input")
                put(search, "type", "search")
                put(search, "placeholder", "Search")
                put(search, "aria-label", f"Search {title.lower()}")
                search.on("input", self._on_search, js_handler="(e) => emit(e.target.value)", throttle=0.2)
            with box("table-frame"), box("table", tag="table"):
                with box(tag="thead"), box(tag="tr"):
                    for name in self._columns:
                        Text(name, tag="th")
                self._body = box(tag="tbody")
            with box("skeleton") as self._skeleton:
                for _ in range(SKELETON_ROWS):
                    box("skeleton-row")
            with box("empty") as self._nothing:
                self._nothing_title = Text(tag="p", classes="empty-title")
                self._nothing_hint = Text(tag="p", classes="muted")
            with box("pager") as self._pager:
                self._newer = Button("Newer", lambda: self._turn(-PAGE_SIZE), classes="button small")
                self._place = Text(classes="muted small")
                self._older = Button("Older", lambda: self._turn(PAGE_SIZE), classes="button small")
        for element in (self._nothing, self._pager):
            show_if(element, False)

    def _on_search(self, event: Any) -> None:
        self._search = event.args.strip().lower() if isinstance(event.args, str) else ""
        self._first = 0
        self._render()

    def _turn(self, by: int) -> None:
        self._first = max(self._first + by, 0)
        self._render()

    def _selected(self, context: Context) -> Sequence[T]:
        items = self._items
        if self._keep is not None:
            items = [item for item in items if self._keep(item)]
        if self._search:
            items = [item for item in items if self._search in self._words(item, context).lower()]
        return items

    def _render(self) -> None:
        if self._context is None:
            return
        selected = self._selected(self._context)
        if self._first >= len(selected):
            self._first = max((len(selected) - 1) // PAGE_SIZE * PAGE_SIZE, 0)
        self._shown = selected[self._first : self._first + PAGE_SIZE]
        while len(self._rows) < len(self._shown):
            self._add_row()
        for place, (element, row) in enumerate(self._rows):
            if place < len(self._shown):
                row.fill(self._shown[place], self._context)
            show_if(element, place < len(self._shown))
        self._render_around(len(selected))

    def _render_around(self, selected: int) -> None:
        show_if(self._skeleton, self._loading)
        narrowed = self._keep is not None or bool(self._search)
        title, hint = ("Nothing matches", "Clear the search or the filter.") if narrowed else self._empty
        self._nothing_title.set_text(title)
        self._nothing_hint.set_text(hint)
        show_if(self._nothing, not self._loading and selected == 0)
        total = len(self._items)
        self._count.set_text("" if self._loading else f"{selected} of {total}" if narrowed else str(total))
        show_if(self._pager, selected > PAGE_SIZE)
        self._place.set_text(f"{self._first + 1}\N{EN DASH}{self._first + len(self._shown)} of {selected}")
        self._newer.tell("Newer", enabled=self._first > 0)
        self._older.tell("Older", enabled=self._first + PAGE_SIZE < selected)

    def _add_row(self) -> None:
        place = len(self._rows)
        with self._body:
            element = box(tag="tr")
            # The row's first cell holds a button for the keyboard; its click bubbles up to here.
            element.on("click", lambda: self._open(place), args=[])
            with element:
                self._rows.append((element, self._make_row()))

    def _open(self, place: int) -> None:
        if place < len(self._shown):
            self._on_open(self._shown[place])
