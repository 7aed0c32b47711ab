"""The adapters this server answers for: names, folders, and the few that are in memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from worker.serving.adapter_files import read_folder, resolve_folder
from worker.serving.decoder import Decoder
from worker.serving.errors import AdapterInvalid, AdapterNameTaken, InvalidRequest, ModelNotFound
from worker.serving.lora import Adapter, pack

MAX_NAME_CHARACTERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A name that was given to a folder, and the content the folder had then."""

    name: str
    folder: Path
    digest: str
    created_at: int


class AdapterRegistry:
    """Names of adapters with a least-recently-used set of them in memory. Thread-safe.

    A row that is being answered keeps its own reference to its adapter, so eviction and unloading never
    disturb it.
    """

    def __init__(
        self, *, decoder: Decoder, base_model: str, root: Path, max_loaded: int, max_bytes: int
    ) -> None:
        self._decoder = decoder
        self._base_model = base_model
        self._root = root
        self._max_loaded = max_loaded
        self._max_bytes = max_bytes
        self._registered: dict[str, Registered] = {}
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def registered(self) -> list[Registered]:
        """Every name, oldest first, in memory or not."""
        with self._lock:
            return list(self._registered.values())

    def loaded_names(self) -> list[str]:
        """The names in memory, least recently used first."""
        with self._lock:
            return list(self._loaded)

    def find(self, name: str) -> Registered | None:
        with self._lock:
            return self._registered.get(name)

    def register(self, name: str, path: str) -> Registered:
        """Read, check and keep an adapter. Repeating it with the same content changes nothing.

        Raises: InvalidRequest for the name, AdapterInvalid for the folder, AdapterNameTaken when the name
        stands for other content.
        """
        if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or name == self._base_model:
            raise InvalidRequest("lora_name is empty, too long, or the base model's own", param="lora_name")
        folder = resolve_folder(self._root, path)
        with self._loading:
            adapter = self._read(name, folder)
            with self._lock:
                known = self._registered.get(name)
                if known is not None and known.digest != adapter.digest:
                    raise AdapterNameTaken(
                        f"{name!r} stands for another adapter; unload it first", param="lora_name"
                    )
                entry = known or Registered(
                    name=name, folder=folder, digest=adapter.digest, created_at=int(time.time())
                )
                self._registered[name] = entry
                self._keep(name, adapter)
        return entry

    def unregister(self, name: str) -> None:
        """Forget a name. Raises: ModelNotFound."""
        with self._lock:
            if self._registered.pop(name, None) is None:
                raise ModelNotFound(f"no adapter named {name!r}", param="lora_name")
            self._loaded.pop(name, None)

    def in_memory(self, name: str) -> Adapter | None:
        """The adapter if it is at hand; never reads a file."""
        with self._lock:
            adapter = self._loaded.get(name)
            if adapter is not None:
                self._loaded.move_to_end(name)
            return adapter

    def load(self, name: str) -> Adapter:
        """The adapter, read again from its folder if it had been evicted.

        Raises: ModelNotFound; AdapterInvalid if the folder is gone or no longer has the content it had.
        """
        with self._loading:
            if (adapter := self.in_memory(name)) is not None:
                return adapter
            entry = self.find(name)
            if entry is None:
                raise ModelNotFound(f"the model {name!r} does not exist", param="model")
            adapter = self._read(name, entry.folder)
            if adapter.digest != entry.digest:
                raise AdapterInvalid(f"the files of {name!r} changed after it was loaded", param="model")
            with self._lock:
                if name in self._registered:
                    self._keep(name, adapter)
            return adapter

    def _read(self, name: str, folder: Path) -> Adapter:
        decoder = self._decoder
        content = read_folder(
            folder, shape=decoder.shape, base_model=self._base_model, max_bytes=self._max_bytes
        )
        return pack(
            name=name,
            digest=content.digest,
            weights=content.weights,
            scale=content.scale,
            shape=decoder.shape,
            device=decoder.device,
            dtype=decoder.dtype,
        )

    def _keep(self, name: str, adapter: Adapter) -> None:
        self._loaded[name] = adapter
        self._loaded.move_to_end(name)
        while len(self._loaded) > self._max_loaded:
            self._loaded.popitem(last=False)
