"""From a folder in Hugging Face layout to a decoder, a tokenizer and an engine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from catalogue import load_catalogue
from worker.serving.adapters import AdapterRegistry
from worker.serving.decoder import Decoder, DecoderShape, Layer
from worker.serving.engine import Engine
from worker.serving.errors import ModelUnsupported
from worker.serving.linear import Linear, can_pack, join
from worker.serving.settings import ServingSettings
from worker.serving.text import Vocabulary
from worker.weights import resolve
from worker.weights.settings import WeightsSettings

BLOCK_TOKENS = 8
"""Small blocks let prompts share more of a common beginning; gathering them costs little."""

ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Position encodings whose angles depend on the position alone, so that they can be tabulated."""

END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")
"""Special tokens that end an answer in the model families above, if the vocabulary has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFolder:
    """Where the weights are, and what tells them from others."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Everything the HTTP side needs once the weights are in memory."""

    model: str
    created_at: int
    context_tokens: int
    fingerprint: str
    """Changes when an equal seed may give another answer: weights, precision or torch version."""
    default_output_tokens: int
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary
    engine: Engine
    adapters: AdapterRegistry


def find_weights(settings: ServingSettings) -> WeightsFolder:
    """The operator's own folder, or the catalogue model in the cache.

    Raises: CatalogueError, WeightsError.
    """
    if settings.model_dir is not None:
        return WeightsFolder(path=settings.model_dir, digest=f"folder {settings.model_dir}")
    where = WeightsSettings()
    files = resolve(
        settings.model, cache_dir=where.model_cache, catalogue=load_catalogue(where.catalogue_file)
    )
    return WeightsFolder(path=files.path, digest=files.digest)


def load(settings: ServingSettings, weights: WeightsFolder, *, created_at: int) -> Served:
    """Read the weights and start the engine.

    Raises: ModelUnsupported for an architecture, position encoding or tokenizer that is not computed here;
    OSError for missing files.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(settings.precision, device)
    tokenizer = AutoTokenizer.from_pretrained(weights.path, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelUnsupported("the model has no tokenizer.json")
    model = AutoModelForCausalLM.from_pretrained(
        weights.path, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    decoder = build_decoder(model, device=device, kv_bytes=settings.kv_cache_megabytes << 20)
    end_tokens = find_end_tokens(model, tokenizer)
    del model
    engine = Engine(
        decoder,
        end_tokens=end_tokens,
        max_rows=settings.max_rows,
        max_waiting=settings.max_waiting,
        step_tokens=settings.step_tokens,
    )
    adapters = AdapterRegistry(
        decoder=decoder,
        base_model=settings.model,
        root=settings.adapter_root,
        max_loaded=settings.max_adapters,
        max_bytes=settings.max_adapter_bytes,
    )
    engine.start()
    identity = f"{settings.model} {weights.digest} {dtype} {torch.__version__}"
    return Served(
        model=settings.model,
        created_at=created_at,
        context_tokens=decoder.shape.context_tokens,
        fingerprint="fp_" + hashlib.sha256(identity.encode()).hexdigest()[:12],
        default_output_tokens=settings.default_output_tokens,
        tokenizer=tokenizer,
        vocabulary=Vocabulary(tokenizer),
        engine=engine,
        adapters=adapters,
    )


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it, float32 elsewhere, where bf16 would be far slower."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16" or device.type == "cuda" or _cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_multiplies_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def find_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The tokens that end an answer: what the model says, and the well-known names."""
    found: set[int] = set()
    for source in (model.config.eos_token_id, model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found.update([source] if isinstance(source, int) else source or ())
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    found.update(added[name] for name in END_NAMES if name in added)
    return frozenset(found)


def build_decoder(model: PreTrainedModel, *, device: torch.device, kv_bytes: int) -> Decoder:
    """The model's weights in the decoder's layout, with key/value memory of at least one full context.

    Raises: ModelUnsupported.
    """
    config: Any = model.config
    _check_supported(config)
    shape = _shape(config)
    inner: Any = model.model
    with torch.inference_mode():
        positions = torch.arange(shape.context_tokens).unsqueeze(0)
        cosine, sine = inner.rotary_emb(torch.zeros(1, dtype=torch.float32), positions)
        sine = torch.cat((-sine[..., : shape.head_size // 2], sine[..., shape.head_size // 2 :]), dim=-1)
        dtype = inner.embed_tokens.weight.dtype
        block_bytes = 2 * shape.layers * BLOCK_TOKENS * shape.kv_size * dtype.itemsize
        blocks = 2 + max(kv_bytes // block_bytes, -(-shape.context_tokens // BLOCK_TOKENS))
        memory = (shape.layers, 2, blocks, BLOCK_TOKENS, shape.kv_heads, shape.head_size)
        pack = can_pack(device, dtype)
        return Decoder(
            shape=shape,
            embedding=_own(inner.embed_tokens.weight, device),
            head=_linear(device, pack, model.lm_head),
            final_norm=_own(inner.norm.weight, device),
            layers=[_layer(layer, device, pack) for layer in inner.layers],
            cosine=cosine[0].unsqueeze(1).to(device, dtype),
            signed_sine=sine[0].unsqueeze(1).to(device, dtype),
            kv_memory=_zeros(memory, dtype, device),
        )


def _check_supported(config: Any) -> None:
    if config.model_type not in ARCHITECTURES:
        raise ModelUnsupported(f"architecture {config.model_type!r} is not one of {sorted(ARCHITECTURES)}")
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise ModelUnsupported(f"position encoding {rope_type!r} is not one of {sorted(ROPE_TYPES)}")
    if config.hidden_act != "silu":
        raise ModelUnsupported(f"activation {config.hidden_act!r} is not 'silu'")


def _shape(config: Any) -> DecoderShape:
    window = getattr(config, "sliding_window", None)
    return DecoderShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocabulary=config.vocab_size,
        # Within its window, sliding attention sees everything: up to there it is plain attention.
        context_tokens=min(config.max_position_embeddings, window or config.max_position_embeddings),
        rms_epsilon=config.rms_norm_eps,
    )


def _layer(layer: Any, device: torch.device, pack: bool) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        input_norm=_own(layer.input_layernorm.weight, device),
        qkv=_linear(device, pack, attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=_norm_weight(attention, "q_norm", device),
        key_norm=_norm_weight(attention, "k_norm", device),
        o=_linear(device, pack, attention.o_proj),
        mlp_norm=_own(layer.post_attention_layernorm.weight, device),
        gate_up=_linear(device, pack, mlp.gate_proj, mlp.up_proj),
        down=_linear(device, pack, mlp.down_proj),
    )


def _norm_weight(attention: Any, name: str, device: torch.device) -> Tensor | None:
    norm = getattr(attention, name, None)
    return None if norm is None else _own(norm.weight, device)


def _own(weight: Tensor, device: torch.device) -> Tensor:
    """A copy: the model's tensors are windows into its file, and one of them would keep all of it mapped."""
    return weight.detach().to(device, copy=True)


def _zeros(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take no memory on the CPU until they are written to, unlike torch's."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, np.uint8)).view(dtype).view(size)


def _linear(device: torch.device, pack: bool, *parts: nn.Linear) -> Linear:
    return join([part.weight for part in parts], [part.bias for part in parts], device=device, pack=pack)
