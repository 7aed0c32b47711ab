"""The worker with a training that costs nothing: ``celery -A benchmarks.throughput.noop worker``.

Everything around the training is the product's: claim, lease, dataset, log entry, adapter, publication. Only
the process edge is replaced: with ``DOUBLEI_BENCHMARK_NOOP=child`` a real child process is started that
reports and ends (``python -m benchmarks.throughput.noop``), with ``inside`` its reports come from here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MODE_VARIABLE = "DOUBLEI_BENCHMARK_NOOP"
INSIDE = "inside"
CHILD = "child"


def reports(config: Path) -> Iterator[Mapping[str, Any]]:
    """What a trainer says of a training of one step; leaves its adapter on the way."""
    yield {"event": "loading"}
    yield {"event": "started", "rows": 1, "tokens": 1, "answer_tokens": 1, "total_steps": 1}
    yield {"event": "step", "step": 1, "total_steps": 1, "epoch": 1, "loss": 1.0, "eta_seconds": 0.0}
    output = Path(json.loads(config.read_text(encoding="utf-8"))["output_dir"])
    (output / "adapter_model.safetensors").write_bytes(b"weights")
    (output / "adapter_config.json").write_text("{}", encoding="utf-8")
    yield {"event": "saving"}
    yield {"event": "finished", "steps": 1, "tokens": 1, "seconds": 0.0, "trained_tokens": 1}


class InsideChild:
    """In the place of `worker.child.Child`: no process at all."""

    pid = 0
    out_of_memory = False

    def __init__(
        self, module: str, arguments: Sequence[str], *, stderr_path: Path, inherit: Sequence[int] = ()
    ) -> None:
        self._config = Path(arguments[1])

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Its reports."""
        return reports(self._config)

    def wait(self) -> int:
        """It ended well."""
        return 0

    def last_exception(self) -> None:
        """None."""

    def stop(self) -> None:
        """Too late."""

    suspend = kill = close = stop


if __name__ == "__main__":
    for report in reports(Path(sys.argv[2])):
        print(json.dumps(report), flush=True)
elif MODE_VARIABLE in os.environ:
    import worker.training
    from worker.app import app

    if os.environ[MODE_VARIABLE] == INSIDE:
        vars(worker.training)["Child"] = InsideChild
    else:
        worker.training.TRAINER = "benchmarks.throughput.noop"

    __all__ = ["app"]
