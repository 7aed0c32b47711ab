"""Which number format this machine trains fastest in, measured rather than assumed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from worker.finetune.config import Precision, PrecisionChoice

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
_WORTH_IT = 1.3
"""bf16 loses mantissa and adds casts, so a machine must win more than this by it."""


def choose_dtype(
    choice: PrecisionChoice, device: torch.device, *, before: Precision | None = None
) -> torch.dtype:
    """bf16 where the hardware multiplies it natively and a probe (under 0.2 s) confirms it, else fp32.

    The flags come first because emulated bf16 is 5 to 20 times slower than fp32 and even the probe hurts.
    `before`, what an earlier run of the same training was in, stands for the probe: beside other loads two
    probes may differ, and a checkpoint of the other format can't be gone on from.
    """
    if choice != "auto":
        return torch.bfloat16 if choice == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if not _cpu_flags() & _BF16_FLAGS:
        return torch.float32
    if before is not None:
        return torch.bfloat16 if before == "bf16" else torch.float32
    faster = matmul_flops(torch.bfloat16, device) > _WORTH_IT * matmul_flops(torch.float32, device)
    return torch.bfloat16 if faster else torch.float32


def matmul_flops(
    dtype: torch.dtype, device: torch.device, *, rows: int = 1024, inner: int = 576, columns: int = 1536
) -> float:
    """Floating-point operations a second of one product of a layer's size: the best of eight tries."""
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(columns, inner, device=device).to(dtype)
    best_seconds = float("inf")
    for _ in range(9):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best_seconds = min(best_seconds, time.perf_counter() - start)
    return 2.0 * rows * inner * columns / best_seconds


def usable_threads() -> int:
    """Processors this process may run on (a container's share may be smaller than the machine)."""
    return len(os.sched_getaffinity(0))


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return set()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
