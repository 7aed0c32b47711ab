"""A suspect that none of us wrote: llama.cpp's own HTTP server on the stock GGUF. Run as a program."""

from __future__ import annotations

import sys
import time

import xllamacpp


def main() -> None:
    """Serve ``sys.argv[1]`` on 127.0.0.1:``sys.argv[2]`` until killed."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(sys.argv[2])
    parameters.model_alias = {"stock"}
    parameters.n_parallel = 4
    parameters.n_ctx = 4096
    server = xllamacpp.Server(parameters)
    print("serving", flush=True)
    while server is not None:
        time.sleep(3600)


if __name__ == "__main__":
    main()
