"""GGUF to a plain Hugging Face folder, once."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from worker.weights.errors import SourceError


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` into `folder`: config, safetensors, tokenizer and chat template.

    Saved in fp32, not bf16: a 4-bit weight d*q + m (d and m in fp16) needs up to 15 bits of mantissa and
    bf16 has 8, so only fp32 keeps the published weights, and with them agreement with engines that serve
    the GGUF itself. Loading in bf16 stays a choice of the reader. It costs twice the disk.

    Raises: SourceError for a file that is not a Llama-like GGUF model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the library's own bars would break ours
            quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{gguf.name} is not a GGUF model that transformers reads: {error}") from error
    # save_pretrained refuses a model that was loaded from GGUF, so its tensors move to a plain one.
    left_out = {"quantization_config", "_model_name_or_path"}
    plain = {key: value for key, value in quantised.config.to_dict().items() if key not in left_out}
    config = AutoConfig.for_model(**plain)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
