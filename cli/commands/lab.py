"""``doublei lab``: the laboratory needs torch, so it is a program of its own."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import typer

from cli.errors import UsageMistake


def register(app: typer.Typer) -> None:
    """Add the command."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("lab", context_settings=settings)(lab)


def lab(context: typer.Context) -> None:
    """Measure how well a mark takes and what it survives, beside the paper's own marks (lab --help).

    Examples:

        doublei lab --profile quick

        doublei lab --profile standard --only 'robustness/*' --json robustness.json
    """
    if find_spec("benchmarks") is None:
        raise UsageMistake("the laboratory is part of the source tree: run this from a checkout of it")
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.lab", *context.args])
