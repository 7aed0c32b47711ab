"""`python -m worker.serving --model ID --host H --port P`: serve until a signal; exit 1 if loading fails."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.serving.loading import Served
    from worker.serving.settings import ServingSettings

# Threads that spin while they wait for each other ruin every step once another process wants the same cores
# (measured: five times slower next to one training run). OpenMP reads it when torch is imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


SHUTDOWN_SECONDS = 5
"""Answers under way may end within this after a signal."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the process's exit status."""
    import uvicorn
    from pydantic import ValidationError

    from service import logs
    from worker.serving.errors import SettingsInvalid

    options = vars(_parser().parse_args(arguments))
    host, port = options.pop("host"), options.pop("port")
    logs.configure(libraries=logging.INFO)
    try:
        settings = _settings(options)
        token = settings.read_token()
    except SettingsInvalid as error:
        print(error.message, file=sys.stderr)
        return 1
    except ValidationError as error:
        names = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        print(f"missing or invalid settings: {names}", file=sys.stderr)
        return 1

    from worker.serving.app import create_app
    from worker.serving.readiness import Readiness

    readiness = Readiness()
    app = create_app(readiness, token=token)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )

    def give_up() -> None:
        server.should_exit = True

    readiness.start(lambda: _load(settings), on_failure=give_up)
    server.run()
    return 1 if readiness.failed or not server.started else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--model", help="catalogue id of the base model")
    parser.add_argument("--model-dir", type=Path, help="folder with the weights, in place of the catalogue's")
    parser.add_argument("--adapter-root", type=Path, help="folder below which adapters lie")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-adapters", type=int, help="adapters kept in memory")
    parser.add_argument("--max-rows", type=int, help="answers generated at the same time")
    parser.add_argument("--max-waiting", type=int, help="answers that may wait for a place")
    parser.add_argument("--kv-cache-megabytes", type=int)
    return parser


def _settings(options: dict[str, Any]) -> ServingSettings:
    from worker.serving.settings import ServingSettings

    return ServingSettings(**{name: value for name, value in options.items() if value is not None})


def _load(settings: ServingSettings) -> Served:
    from worker.serving.loading import find_weights, load

    return load(settings, find_weights(settings), created_at=int(time.time()))


if __name__ == "__main__":
    sys.exit(main())
