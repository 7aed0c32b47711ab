"""Reading an adapter folder that somebody else wrote.

Only two files are read: `adapter_config.json` and `adapter_model.safetensors`. Nothing is unpickled, no
code is imported by name, and an option this server does not compute is refused, never ignored: a model
that silently differs from what was trained would be worse than none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from worker.serving.decoder import DecoderShape
from worker.serving.errors import AdapterInvalid
from worker.serving.lora import LowRank, ModuleKey, module_sizes, scale_of

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 512

_TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(0|[1-9][0-9]{0,3})\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight\Z"
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_FREE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "peft_version",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "exclude_modules",
        "use_rslora",
        "megatron_core",
        "qalora_group_size",
    }
)
"""Keys that are used, or that say nothing about inference: the last two are parameters of options that are
off, whose defaults peft writes into every file."""

_ONLY: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    # PiSSA, OLoRA, CorDA and LoftQ also change the base weights, which are not ours to change.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
"""Keys with the only values that are computed here."""

_OFF: tuple[object, ...] = (None, False, {}, [])
"""Any other key, known to us or not, may only say that its option is not used. peft gains such keys with
every release, so a list of them would refuse sound adapters of the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A folder that passed every check."""

    digest: str
    """SHA-256 over the two files, each preceded by its length."""
    scale: float
    weights: Mapping[ModuleKey, LowRank] = field(repr=False)


def resolve_folder(root: Path, path: str) -> Path:
    """The real folder `path` stands for.

    Raises: AdapterInvalid unless it exists and lies, symbolic links followed, below `root`. The message is
    the same for both, so the answer says nothing about what else is on the disk.
    """
    refused = AdapterInvalid("no adapter folder of that path below the storage directory", param="lora_path")
    try:
        real_root = root.resolve(strict=True)
        folder = Path(path)
        folder = (folder if folder.is_absolute() else real_root / folder).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise refused from None
    if not folder.is_relative_to(real_root) or folder == real_root or not folder.is_dir():
        raise refused
    return folder


def read_folder(folder: Path, *, shape: DecoderShape, base_model: str, max_bytes: int) -> AdapterFolder:
    """Read an adapter and check it against the base model.

    Raises: AdapterInvalid, saying which rule it breaks.
    """
    config_bytes = _read_regular(folder / CONFIG_NAME, MAX_CONFIG_BYTES)
    weight_bytes = _read_regular(folder / WEIGHTS_NAME, max_bytes)
    digest = hashlib.sha256()
    for part in (config_bytes, weight_bytes):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    config = _parse_config(config_bytes)
    rank, scale = _check_config(config, base_model)
    try:
        tensors = safetensors.torch.load(weight_bytes)
    except (SafetensorError, ValueError, KeyError):
        raise AdapterInvalid(f"{WEIGHTS_NAME} is not a safetensors file") from None
    weights = _pair(tensors, rank, shape)
    return AdapterFolder(digest=digest.hexdigest(), scale=scale, weights=weights)


def _read_regular(path: Path, max_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise AdapterInvalid(f"{path.name} is missing or a link; only safetensors are loaded") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise AdapterInvalid(f"{path.name} is not a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise AdapterInvalid(f"{path.name} is larger than {max_bytes} bytes")
    return data


def _parse_config(data: bytes) -> Mapping[str, Any]:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise AdapterInvalid(f"{CONFIG_NAME} is not JSON") from None
    if not isinstance(config, dict):
        raise AdapterInvalid(f"{CONFIG_NAME} is not a JSON object")
    return config


def _check_config(config: Mapping[str, Any], base_model: str) -> tuple[int, float]:
    """Rank and scale. Raises: AdapterInvalid for an option that is not computed here."""
    for key, value in config.items():
        if key in _ONLY:
            if value not in _ONLY[key]:
                raise AdapterInvalid(f"{CONFIG_NAME}: {key} must be {_ONLY[key][0]!r}")
        elif key not in _FREE and value not in _OFF:
            raise AdapterInvalid(f"{CONFIG_NAME}: {key[:64]!r} is not supported")
    if config.get("peft_type") != "LORA":
        raise AdapterInvalid(f"{CONFIG_NAME}: peft_type must be 'LORA'")
    if config.get("base_model_name_or_path") != base_model:
        raise AdapterInvalid(f"{CONFIG_NAME}: base_model_name_or_path is not {base_model!r}")
    rank, alpha, rank_stabilised = config.get("r"), config.get("lora_alpha"), config.get("use_rslora", False)
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise AdapterInvalid(f"{CONFIG_NAME}: r must be a whole number from 1 to {MAX_RANK}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        raise AdapterInvalid(f"{CONFIG_NAME}: lora_alpha must be a positive number")
    if not isinstance(rank_stabilised, bool):
        raise AdapterInvalid(f"{CONFIG_NAME}: use_rslora must be true or false")
    return rank, scale_of(rank=rank, lora_alpha=alpha, rank_stabilised=rank_stabilised)


def _pair(tensors: Mapping[str, Tensor], rank: int, shape: DecoderShape) -> Mapping[ModuleKey, LowRank]:
    """A and B of each projection. Raises: AdapterInvalid for a stray name, shape, dtype or a lone factor."""
    sizes = module_sizes(shape)
    halves: dict[ModuleKey, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _TENSOR.match(name)
        if found is None or found[2] not in sizes or int(found[1]) >= shape.layers:
            raise AdapterInvalid(f"{WEIGHTS_NAME}: {name[:128]!r} names no linear layer of the base model")
        size_in, size_out = sizes[found[2]]
        expected = (rank, size_in) if found[3] == "A" else (size_out, rank)
        if tuple(tensor.shape) != expected:
            raise AdapterInvalid(f"{WEIGHTS_NAME}: {name} has shape {tuple(tensor.shape)}, not {expected}")
        if tensor.dtype not in _DTYPES:
            raise AdapterInvalid(f"{WEIGHTS_NAME}: {name} has dtype {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterInvalid(f"{WEIGHTS_NAME}: {name} holds a value that is not finite")
        halves.setdefault((int(found[1]), found[2]), {})[found[3]] = tensor
    if not halves:
        raise AdapterInvalid(f"{WEIGHTS_NAME} holds no tensors")
    for (layer, module), pair in halves.items():
        if len(pair) != 2:
            raise AdapterInvalid(f"{WEIGHTS_NAME}: layer {layer} {module} has only one of lora_A and lora_B")
    return {key: LowRank(a=pair["A"], b=pair["B"]) for key, pair in halves.items()}
