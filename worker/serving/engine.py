"""The loop that answers: one thread, one step after another, rows joining and leaving between steps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from worker.serving.batch import build_inputs
from worker.serving.decoder import Decoder
from worker.serving.errors import GenerationFailed, InvalidRequest, NotReady, QueueFull
from worker.serving.kv_blocks import BlockPool
from worker.serving.rows import Row
from worker.serving.sampling import Choice
from worker.serving.schedule import Schedule, Share

logger = logging.getLogger(__name__)


class Engine:
    """Continuous batching over one decoder.

    `submit` and `cancel` may be called from any thread; sinks are called on the engine's own thread.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        end_tokens: frozenset[int],
        max_rows: int,
        max_waiting: int,
        step_tokens: int,
    ) -> None:
        self.decoder = decoder
        self._end_tokens = end_tokens
        self._max_waiting = max_waiting
        self._pool = BlockPool(blocks=decoder.kv_memory.shape[2], block_tokens=decoder.block_tokens)
        self._schedule = Schedule(pool=self._pool, max_rows=max_rows, step_tokens=step_tokens)
        self._arrived: list[Row] = []
        self._waiting = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="serving-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the step under way; rows that are not complete fail with NotReady."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue rows, all or none.

        Raises: QueueFull; InvalidRequest for more rows than the queue could ever take; NotReady once stopped.
        """
        if len(rows) > self._max_waiting:
            raise InvalidRequest(f"at most {self._max_waiting} answers may be asked for at once", param="n")
        with self._wake:
            if self._stopping:
                raise NotReady("the server is shutting down")
            if self._waiting + len(rows) > self._max_waiting:
                raise QueueFull(f"{self._waiting} answers are waiting already; try again in a moment")
            self._arrived.extend(rows)
            self._waiting += len(rows)
            self._wake.notify()

    def cancel(self, rows: Sequence[Row]) -> None:
        """Nobody wants these any more: they leave before the next step."""
        for row in rows:
            row.cancelled = True

    def _loop(self) -> None:
        while self._take_arrivals():
            try:
                shares = self._schedule.plan()
                with self._wake:
                    self._waiting = len(self._schedule.waiting) + len(self._arrived)
                if shares:
                    self._run(shares)
            except Exception:
                # A fault of one step must not end the server; which rows it spoiled is not known.
                logger.exception("serving.step_failed")
                self._fail_running()
        for row in [*self._schedule.running, *self._schedule.waiting, *self._arrived]:
            row.fail(NotReady("the server is shutting down"))

    def _take_arrivals(self) -> bool:
        """Wait until there is something to do. False when stopping."""
        schedule = self._schedule
        with self._wake:
            while not (self._stopping or self._arrived or schedule.waiting or schedule.running):
                self._wake.wait()
            schedule.waiting.extend(self._arrived)
            self._arrived.clear()
            return not self._stopping

    def _run(self, shares: Sequence[Share]) -> None:
        logits = self.decoder.step(build_inputs(self.decoder, shares, self._schedule.fresh_blocks))
        self._schedule.commit(shares)
        rows = [share.row for share in shares if share.wants_logits]
        for row, choice in zip(rows, choose(rows, logits), strict=True):
            if choice is None:
                self._schedule.finish(row)
                row.fail(GenerationFailed("the model's output is not a number; is the adapter sound?"))
            elif row.take(choice, end_tokens=self._end_tokens):
                self._schedule.finish(row)

    def _fail_running(self) -> None:
        for row in list(self._schedule.running):
            self._schedule.finish(row)
            row.fail(GenerationFailed("a step of the model failed"))
        self._pool.forget_all()


@torch.inference_mode()
def choose(rows: Sequence[Row], logits: Tensor) -> list[Choice | None]:
    """One token a row from logits (R, V); None where the logits are not finite numbers."""
    if not rows:
        return []
    best = logits.max(dim=-1)
    finite = torch.isfinite(best.values).tolist()
    greedy = best.indices.tolist()
    choices: list[Choice | None] = []
    for place, row in enumerate(rows):
        if not finite[place]:
            choices.append(None)
        elif row.sampler.is_plain_greedy:
            choices.append(Choice(token=greedy[place]))
        else:
            choices.append(row.sampler.choose(logits[place].cpu()))
    return choices
