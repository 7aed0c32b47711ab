"""The page's small parts. All text goes through ``Text``, which the browser gets as text, never as HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from dashboard.wording import NOTHING


class Text(TextElement):
    """A run of text in a tag of its own; setting the same text again sends nothing."""

    def __init__(self, text: str = "", *, tag: str = "span", classes: str = "") -> None:
        super().__init__(tag=tag, text=text)
        if classes:
            self.classes(classes)

    def show(self, text: str, *, title: str | None = None) -> None:
        """Show a text, with the full form of it as a tooltip."""
        self.set_text(text)
        put(self, "title", title)
        # A narrow screen leaves out what has no figure.
        put(self, "data-none", True if text == NOTHING else None)


class Badge(Text):
    """A word with a colour of its kind; the kind is one of this page's own class names."""

    def __init__(self, classes: str = "badge") -> None:
        super().__init__(classes=classes)
        self._base = classes
        self._kind = ""

    def tell(self, text: str, kind: str, *, title: str | None = None) -> None:
        """Show a text in the colour of ``kind`` (good, bad, warn, busy, idle)."""
        self.show(text, title=title)
        if kind != self._kind:
            self._kind = kind
            self.classes(replace=f"{self._base} {kind}")


class Bar:
    """A progress bar; without a known share it only says that something is going on."""

    def __init__(self, label: str) -> None:
        self._element = box("bar", tag="progress")
        put(self._element, "max", "1")
        put(self._element, "aria-label", label)

    def show(self, fraction: float | None, *, kind: str = "busy") -> None:
        """Show a share in 0..1, or an unknown one."""
        put(self._element, "value", None if fraction is None else f"{fraction:.4f}")
        put(self._element, "data-kind", kind)

    def set_visible(self, visible: bool) -> None:
        """Show or hide it."""
        show_if(self._element, visible)


class Button:
    """A native button."""

    def __init__(
        self, label: str, on_click: Callable[[], Any] | None = None, *, classes: str = "button"
    ) -> None:
        self.element = box(classes, tag="button")
        put(self.element, "type", "button")
        with self.element:
            self._label = Text(label)
        if on_click is not None:
            self.element.on("click", on_click, args=[])

    def tell(self, label: str, *, enabled: bool = True) -> None:
        """Change its label and whether it can be pressed."""
        self._label.set_text(label)
        put(self.element, "disabled", None if enabled else True)


class Figures:
    """Names and values under each other, as a description list."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._values: dict[str, Text] = {}
        self._rows: dict[str, Element] = {}
        with box("figures", tag="dl"):
            for name in names:
                with box("figure") as row:
                    Text(name, tag="dt")
                    self._values[name] = Text(tag="dd")
                self._rows[name] = row

    def show(self, name: str, value: str, *, full: str | None = None) -> None:
        """Set one value; ``full`` is what a click copies when the value shown is shortened."""
        element = self._values[name]
        element.show(value, title=full)
        put(element, "data-copy", full)
        show_if(self._rows[name], True)

    def hide(self, name: str) -> None:
        """Leave one out."""
        show_if(self._rows[name], False)


COPY_SCRIPT = """
<script>
document.addEventListener('click', (event) => {
  const source = event.target.closest?.('[data-copy]');
  if (!source || !navigator.clipboard) return;
  navigator.clipboard.writeText(source.dataset.copy).then(() => {
    source.classList.add('copied');
    setTimeout(() => source.classList.remove('copied'), 1200);
  });
});
</script>
"""
"""Copies the full form of a shortened value; the value itself stays an attribute and is never code."""


def box(classes: str = "", *, tag: str = "div") -> Element:
    """An element that holds others."""
    element = ui.element(tag)
    return element.classes(classes) if classes else element


def put(element: Element, name: str, value: str | bool | None) -> None:
    """Set an attribute, or remove it with None; sends nothing when it is so already."""
    if element.props.get(name) != value:
        element.props.set_optional(name, value)


def show_if(element: Element, visible: bool) -> None:
    """Show or hide an element."""
    if element.visible != visible:
        element.set_visibility(visible)


def frame(label: str, classes: str = "") -> Element:
    """A table cell that holds others; a narrow screen shows its label before it."""
    element = box(classes, tag="td")
    put(element, "data-label", label)
    return element


def cell(label: str, classes: str = "") -> Text:
    """A table cell with a text."""
    with frame(label):
        return Text(classes=classes)
