"""``python -m dashboard --host H --port P --api URL``: serve the provider's page until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from dashboard.errors import SettingsError
from dashboard.settings import SECRET_VARIABLE, Settings, api_root, read_secret


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    """The settings from the command line and the secret's file.

    Raises:
        SettingsError: a value can't be used; the message says which and what to do.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dashboard",
        description="The provider's web page, a client of the Double-I HTTP API.",
        epilog=f"{SECRET_VARIABLE} names a file (mode 0600) with at least 32 random bytes that sign cookies.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--api", default="http://127.0.0.1:8000", help="the API's root (default: %(default)s)"
    )
    parsed = parser.parse_args(arguments)
    if not 1 <= parsed.port <= 65535:
        raise SettingsError("--port must be in 1..65535")
    return Settings(host=parsed.host, port=parsed.port, api_url=api_root(parsed.api), secret=read_secret())


def main() -> int:
    """Serve; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = parse_arguments()
    except SettingsError as error:
        print(f"dashboard: {error.message}", file=sys.stderr)
        return 2
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        logging.getLogger("dashboard").warning(
            "listening on %s without TLS: put a proxy that ends TLS in front of it", settings.host
        )
    # After the arguments were judged: NiceGUI takes most of the start-up time.
    import uvicorn

    from dashboard.app import create_app

    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
