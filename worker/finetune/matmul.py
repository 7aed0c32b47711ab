"""``python -m worker.finetune.matmul``: the yardstick of training speed on this machine."""

from __future__ import annotations

import json

import torch

from worker.finetune.precision import matmul_flops, usable_threads


def main() -> None:
    """Print one JSON object: {"bf16_gflops": …}."""
    torch.set_num_threads(usable_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(json.dumps({"bf16_gflops": round(matmul_flops(torch.bfloat16, device) / 1e9, 1)}))


if __name__ == "__main__":
    main()
