"""The worker, with `fake_trainer` in the place of the training process."""

from __future__ import annotations

import worker.training
from worker.app import app

worker.training.TRAINER = "fake_trainer"

__all__ = ["app"]
