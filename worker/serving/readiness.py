"""Whether the weights are in memory yet."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from catalogue import CatalogueError
from worker.serving.errors import NotReady, ServingError
from worker.serving.loading import Served
from worker.weights import WeightsError

logger = logging.getLogger(__name__)


class Readiness:
    """Loads in a thread of its own, so that the port answers /health from the first moment."""

    def __init__(self) -> None:
        self._served: Served | None = None
        self._failure: str | None = None

    @property
    def served(self) -> Served:
        """Raises: NotReady while loading and after a failure."""
        if self._served is None:
            raise NotReady(self._failure or "the model is still being loaded")
        return self._served

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def start(self, load: Callable[[], Served], *, on_failure: Callable[[], None]) -> None:
        """Run `load`; its outcome shows in `served`."""
        threading.Thread(target=self._load, args=(load, on_failure), name="serving-load", daemon=True).start()

    def set_served(self, served: Served) -> None:
        self._served = served

    def _load(self, load: Callable[[], Served], on_failure: Callable[[], None]) -> None:
        try:
            self._served = load()
        except Exception as error:
            plain = isinstance(error, ServingError | CatalogueError | WeightsError)
            reason = str(error) if plain else type(error).__name__
            self._failure = f"the model could not be loaded: {reason}"
            logger.exception("serving.load_failed: %s", reason)
            on_failure()
        else:
            logger.info("serving.ready")
