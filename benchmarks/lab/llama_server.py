"""llama.cpp's own HTTP server, until killed: ``python -m benchmarks.lab.llama_server GGUF PORT``."""

from __future__ import annotations

import sys
import time

PARALLEL = 4
CONTEXT_TOKENS = 4096


def main() -> None:
    """Serve on 127.0.0.1."""
    # Only here: the laboratory imports PARALLEL on machines that have no llama.cpp.
    import xllamacpp

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
