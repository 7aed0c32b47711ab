"""The view as an HTML page that loads nothing and runs nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from service.verifications.report.view import View

TEMPLATE = Path(__file__).with_name("page.html")


def html_page(view: View) -> str:
    """The page. Text is escaped; the two pictures were made from escaped text."""
    return _template().render(view=view, cues=Markup(view.cues), product=Markup(view.product))


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
