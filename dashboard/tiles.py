"""The summary tiles: how many of each; a press on one narrows its table to those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dashboard import wording
from dashboard.elements import Text, box, put
from dashboard.records import Job, Verification

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile(Generic[T]):
    """One figure: what it counts."""

    label: str
    kind: str
    keep: Callable[[T], bool]


JOB_TILES: tuple[Tile[Job], ...] = (
    Tile(label="Queued", kind="idle", keep=lambda job: job.status in ("queued", "validating_files")),
    Tile(label="Running", kind="busy", keep=lambda job: job.status == "running"),
    Tile(label="Succeeded", kind="good", keep=lambda job: job.status == "succeeded"),
    Tile(label="Failed", kind="bad", keep=lambda job: job.status == "failed"),
)

VERIFICATION_TILES: tuple[Tile[Verification], ...] = (
    Tile(label="In progress", kind="busy", keep=lambda item: item.active),
    Tile(label="Detected", kind="found", keep=lambda item: item.verdict == "detected"),
    Tile(label="Not detected", kind="idle", keep=lambda item: item.verdict == "not_detected"),
    Tile(label="Inconclusive", kind="warn", keep=lambda item: item.verdict == "inconclusive"),
)


class TileRow(Generic[T]):
    """A group of tiles over one table."""

    def __init__(
        self, heading: str, tiles: Sequence[Tile[T]], on_filter: Callable[[Callable[[T], bool] | None], Any]
    ) -> None:
        self._tiles = tiles
        self._on_filter = on_filter
        self._pressed: int | None = None
        self._values: list[Text] = []
        with box("tile-group", tag="section") as group:
            put(group, "aria-label", heading)
            Text(heading, tag="h2", classes="eyebrow")
            with box("tiles"):
                self._buttons = [self._build(place, tile) for place, tile in enumerate(tiles)]

    def show(self, items: Sequence[T], *, loading: bool) -> None:
        """Count again."""
        for tile, value in zip(self._tiles, self._values, strict=True):
            value.set_text("…" if loading else wording.count(sum(1 for item in items if tile.keep(item))))

    def _build(self, place: int, tile: Tile[T]) -> Any:
        button = box(f"tile {tile.kind}", tag="button")
        put(button, "type", "button")
        put(button, "aria-pressed", "false")
        with button:
            self._values.append(Text("…", classes="tile-value"))
            Text(tile.label, classes="tile-label")
        button.on("click", lambda: self._press(place), args=[])
        return button

    def _press(self, place: int) -> None:
        self._pressed = None if self._pressed == place else place
        for index, button in enumerate(self._buttons):
            put(button, "aria-pressed", "true" if index == self._pressed else "false")
        self._on_filter(None if self._pressed is None else self._tiles[self._pressed].keep)
