"""A dispute's record as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from cli.commands.wording import plain

TEMPLATE = Path(__file__).with_name("page.html")

GRADES = {
    "committed": "the salt came after the commitment, by the service's word",
    "self-generated": "no outside salt is proven: an audit must be 2^20 times surer",
    "chosen": "its owner picked the words: the order of the commitments alone protects",
}


def html_page(record: Mapping[str, Any]) -> str:
    """The page of a judgment's record. All of its texts are escaped, without control characters."""
    return _template().render(report=_plain(record), grades=GRADES)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
