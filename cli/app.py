"""The doublei command: its subcommands, and how their failures are shown."""

from __future__ import annotations

import sys

import typer

from cli.commands import (
    audits,
    backup,
    demo,
    dispute,
    erase,
    evidence,
    gc,
    held,
    key,
    lab,
    log,
    mix,
    secrets,
    stack,
    verify,
)
from cli.errors import CliError
from cli.stack.stack import Interrupted

app = typer.Typer(
    name="doublei",
    help="Fine-tuning that proves ownership, on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
stack.register(app)
demo.register(app)
verify.register(app)
dispute.register(app)
audits.register(app)
lab.register(app)
backup.register(app)
mix.register(app)
gc.register(app)
erase.register(app)
held.register(key.app)
app.add_typer(key.app, name="key")
app.add_typer(evidence.app, name="evidence")
app.add_typer(log.app, name="log")
app.add_typer(secrets.app, name="secrets")


def run() -> int:
    """Run the command in ``sys.argv`` and return the exit status."""
    try:
        app()
    except CliError as error:
        print(f"doublei: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupt:
        return interrupt.exit_code
    except BrokenPipeError:
        return 141
    except SystemExit as status:
        return status.code if isinstance(status.code, int) else 1
    return 0
