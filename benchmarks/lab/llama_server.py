"""llama.cpp's own HTTP server, until killed: ``python -m benchmarks.lab.llama_server GGUF PORT``."""

from __future__ import annotations

import sys
import time

import xllamacpp

PARALLEL = 4
CONTEXT_TOKENS = 4096


def main() -> None:
    """Serve on 127.0.0.1."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(sys.argv[2])
    parameters.n_parallel = PARALLEL
    parameters.n_ctx = CONTEXT_TOKENS
    server = xllamacpp.Server(parameters)
    while server is not None:
        time.sleep(3600)


if __name__ == "__main__":
    main()
