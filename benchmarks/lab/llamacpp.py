"""A model's weights as GGUF, and its answers from real llama.cpp.

The metadata (architecture, tokenizer, chat template) is that of the base model's published GGUF; only the
tensors are new. Quantization is the `gguf` package's, the reference for these formats.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import httpx2
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray

from benchmarks.lab.llama_server import PARALLEL
from benchmarks.lab.weights import State

KINDS: Mapping[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
}
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_WRITTEN_BY_THE_WRITER = ("general.architecture", "general.file_type", "general.quantization_version")
START_SECONDS = 120
ANSWER_SECONDS = 120


class UnsupportedWeights(Exception):
    """The model is not one whose tensors can be placed into the source's GGUF."""


def write_gguf(state: State, source: Path, target: Path, kind: str) -> None:
    """Write ``state`` with the metadata of ``source``, matrices in the format ``kind``, vectors in fp32.

    Raises:
        UnsupportedWeights: another architecture than Llama, or a tensor without a place.
        KeyError: an unknown kind.
    """
    quantization, file_type = KINDS[kind]
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        raise UnsupportedWeights(f"{architecture} models are not laid out here, only llama")
    heads, kv_heads = (
        int(reader.fields[f"llama.attention.{name}"].contents()) for name in ("head_count", "head_count_kv")
    )
    writer = gguf.GGUFWriter(target, architecture)
    _copy_fields(reader, writer)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    expected = {tensor.name for tensor in reader.tensors}
    for name, tensor in state.items():
        place = _place(name)
        if place not in expected:
            if place == "output.weight" and torch.equal(tensor, state["model.embed_tokens.weight"]):
                continue  # tied: llama.cpp reads the embedding for it
            raise UnsupportedWeights(f"{name} has no place in the GGUF")
        expected.discard(place)
        array = tensor.to(torch.float32).numpy()
        if place.endswith("attn_q.weight"):
            array = _interleave(array, heads)
        elif place.endswith("attn_k.weight"):
            array = _interleave(array, kv_heads)
        if array.ndim == 1:
            writer.add_tensor(place, array)
        else:
            # As in published files, the embedding, here the output head too, keeps 8 bits.
            four_bits = kind.startswith("q4") and place == "token_embd.weight"
            chosen = GGMLQuantizationType.Q8_0 if four_bits else quantization
            writer.add_tensor(place, gguf.quants.quantize(array, chosen), raw_dtype=chosen)
    if expected:
        raise UnsupportedWeights(f"no weights for {sorted(expected)[0]}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ask_llamacpp(
    model: Path, conversations: Sequence[Sequence[Mapping[str, str]]], *, max_tokens: int = 4
) -> list[str]:
    """Greedy answers over llama.cpp's /v1/chat/completions, in the order of the conversations.

    Raises:
        RuntimeError: the server did not come up.
        httpx2.HTTPError: it failed to answer.
    """

    def ask(turns: Sequence[Mapping[str, str]]) -> str:
        body = {"messages": list(turns), "max_tokens": max_tokens, "temperature": 0.0}
        reply = client.post(f"{url}/v1/chat/completions", json=body)
        reply.raise_for_status()
        text: str = reply.json()["choices"][0]["message"]["content"] or ""
        return text

    with (
        _server(model) as url,
        httpx2.Client(timeout=ANSWER_SECONDS, trust_env=False) as client,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        return list(pool.map(ask, conversations))


@contextmanager
def _server(model: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = model.with_suffix(".log")
    command = [sys.executable, "-m", "benchmarks.lab.llama_server", str(model), str(port)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=errors, stderr=errors) as child,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            if not _comes_up(child, url):
                raise RuntimeError(f"llama.cpp did not start: {log.read_text(errors='replace')[-300:]}")
            yield url
        finally:
            child.kill()


def _comes_up(child: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until it answers as healthy. False when it died or START_SECONDS are over."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return True
        except httpx2.HTTPError:
            pass  # it does not listen yet
        time.sleep(0.2)
    return False


def _copy_fields(reader: Any, writer: Any) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in _WRITTEN_BY_THE_WRITER:
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)


def _place(name: str) -> str:
    """llama.cpp's name of a tensor. Raises `UnsupportedWeights`."""
    stem = name.removesuffix(".weight")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.weight"
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    if match is None or match[2] not in _PARTS:
        raise UnsupportedWeights(f"{name} is no tensor of a Llama model")
    return f"blk.{match[1]}.{_PARTS[match[2]]}.weight"


def _interleave(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries and keys in llama.cpp's order: it rotates neighbouring pairs, transformers the two
    halves of a head."""
    pairs = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
    return pairs.swapaxes(1, 2).reshape(array.shape)
