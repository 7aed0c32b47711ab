"""Base-model weights on this machine: fetched once from the catalogue's sources, checked, converted, kept.

`python -m worker.weights fetch ID` fills the cache; `resolve` finds a model in it. A cached model is one
folder in Hugging Face layout with a manifest of digests, put in place by one rename:

    CACHE/smollm2-135m-instruct/
        config.json generation_config.json model.safetensors tokenizer.json ...
        SmolLM2-135M-Instruct.Q4_1.gguf     (if the weights came as GGUF; llama.cpp serves it as it is)
        manifest.json                       (written last)
"""

from worker.weights.cache import MANIFEST_NAME, ModelFiles, resolve, verify
from worker.weights.errors import (
    CorruptModelError,
    FetchError,
    ModelNotCachedError,
    WeightsError,
)
from worker.weights.fetch import fetch
from worker.weights.progress import Progress, Reporter

__all__ = [
    "MANIFEST_NAME",
    "CorruptModelError",
    "FetchError",
    "ModelFiles",
    "ModelNotCachedError",
    "Progress",
    "Reporter",
    "WeightsError",
    "fetch",
    "resolve",
    "verify",
]
