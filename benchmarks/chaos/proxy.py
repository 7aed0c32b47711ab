"""A unix socket in front of another one, whose traffic can be held up or cut: the network of one worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHUNK = 1 << 16


class Proxy:
    """Runs in a thread of its own from `start` to `stop`. Other threads call the rest."""

    def __init__(self, listen: Path, target: Path) -> None:
        self._listen, self._target = listen, target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{listen.name}", daemon=True)
        self._flowing = asyncio.Event()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._up = threading.Event()

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._up.wait(10)

    def stop(self) -> None:
        """Let go of every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Half-open: connections stand, new ones are made, and not a byte gets through. Then all flows on."""
        self._call(self._flowing.clear)
        try:
            yield
        finally:
            self._call(self._flowing.set)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Every connection is broken off and every new one at once."""
        self._call(self._cut)
        try:
            yield
        finally:
            self._call(self._mend)

    def _call(self, function: object) -> None:
        self._loop.call_soon_threadsafe(function)  # type: ignore[arg-type]

    def _cut(self) -> None:
        self._refusing = True
        for writer in self._writers:
            writer.transport.abort()

    def _mend(self) -> None:
        self._refusing = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._flowing.set()
        server = self._loop.run_until_complete(
            asyncio.start_unix_server(self._accept, path=str(self._listen))
        )
        self._listen.chmod(0o700)
        self._up.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            behind, ahead = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, ahead)
        self._writers.update(ends)
        try:
            pumps = (self._pump(reader, ahead), self._pump(behind, writer))
            done, rest = await asyncio.wait(
                [asyncio.ensure_future(pump) for pump in pumps], return_when=asyncio.FIRST_COMPLETED
            )
            for pump in rest:
                pump.cancel()
            await asyncio.gather(*done, *rest, return_exceptions=True)
        finally:
            for end in ends:
                self._writers.discard(end)
                with suppress(OSError):
                    end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
