"""Requests at moments that were fixed beforehand, whether or not the service keeps up (an open loop).

A request's time counts from the moment it was due, so a service that stalls is charged for everything that
would have come meanwhile (no coordinated omission: https://www.youtube.com/watch?v=lJ8ydIuPFeU).
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.throughput.service import MODEL

CONNECTIONS = 64
"""A request that is due while all of them are taken waits, and its time runs."""

REQUEST_TIMEOUT_SECONDS = 60.0

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True, kw_only=True)
class Sent:
    """What became of the requests of one step."""

    due: int = 0
    seconds: list[float] = field(default_factory=list)
    """of the accepted ones, from the moment they were due"""
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, why: str) -> None:
        """Count one that was not accepted."""
        self.refused[why] = self.refused.get(why, 0) + 1


async def send(
    *, port: int, api_key: str, training_file: str, rate: float, seconds: float, tick: Callable[[], None]
) -> Sent:
    """Create `rate` jobs a second, evenly spaced, and wait for the answers. `tick` is called now and then."""
    head = (
        "POST /v1/fine_tuning/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {api_key}\r\n"
    )
    body = json.dumps({"model": MODEL, "training_file": training_file}).encode()
    sent = Sent()
    free = asyncio.Semaphore(CONNECTIONS)
    idle: list[_Connection] = []  # the last one used is the next: the server closes those that idle for long

    async def create(moment: float) -> None:
        request = f"{head}idempotency-key: {uuid.uuid4()}\r\ncontent-length: {len(body)}\r\n\r\n"
        async with free:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                    connection, status = await _ask(port, idle, request.encode() + body)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                sent.refuse(type(error).__name__)
                return
        idle.append(connection)
        if status == 200:
            sent.seconds.append(time.monotonic() - moment)
        else:
            sent.refuse(str(status))

    started = time.monotonic()
    async with asyncio.TaskGroup() as requests:
        for number in range(max(round(rate * seconds), 1)):
            moment = started + number / rate
            if (early := moment - time.monotonic()) > 0:
                await asyncio.sleep(early)
            requests.create_task(create(moment))
            sent.due += 1
            if number % max(round(rate), 1) == 0:
                tick()
    for _, writer in idle:
        writer.close()
    return sent


async def _ask(port: int, idle: list[_Connection], request: bytes) -> tuple[_Connection, int]:
    """On the connection used last, or a new one; on a new one too if the server has closed that one."""
    while True:
        fresh = not idle
        connection = await asyncio.open_connection("127.0.0.1", port) if fresh else idle.pop()
        reader, writer = connection
        try:
            writer.write(request)
            return connection, await _answer(reader)
        except (OSError, EOFError):
            writer.close()
            if fresh:
                raise


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one whole answer; returns its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            await reader.readexactly(int(value))
            return status
    raise ValueError("an answer without a length")
