"""How fast are an audit's questions answered? One whole audit over HTTP, at several concurrencies.

    python -m benchmarks.serving --json serving.json       # a few minutes on two idle cores
    python -m benchmarks.serving --quick                   # one scenario

The questions are a key's own: 192 held-out probes of one family, as the auditor asks them, greedy. They go
to `python -m worker.serving` over HTTP: to the base model, to one adapter (r=16 on all linear layers) and to
four adapters in turn. The adapters change nothing (B = 0), so that every run computes the same answers; they
cost what any adapter costs. Answers of at most 8 tokens are the worst case of an audit; at most 2 is what
"Yes" and the end of the text cost. Compared with transformers and peft answering one question at a time.

Bar: an audit of 192 questions through one adapter, 8 at a time, in less than 60 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2

from watermark.keys import Design, Secret, derive
from watermark.probes import draw_probes
from worker.weights import resolve
from worker.weights.settings import WeightsSettings

# As the server sets it for itself, so that the comparison is fair. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

MODEL = "smollm2-135m-instruct"
BAR_SECONDS = 60.0
BASELINE_QUESTIONS = 24
LORA_RANK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One audit's worth of questions."""

    target: str
    concurrency: int
    max_tokens: int
    questions: int
    seconds: float
    requests_per_second: float
    latency_p50_seconds: float
    latency_p95_seconds: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    server_cpu_seconds: float
    machine_cpu_seconds: float
    """Of all processes: the rest was spent on asking, and by whoever else used the machine."""


def questions(count: int) -> list[str]:
    """The probes of a fixed key."""
    key = derive(Secret(value=bytes([7]) * 32, blinding=bytes(32)), b"benchmark", Design())
    probes = draw_probes(key.families[0], order_seed=b"benchmark")
    return [probe.prompt for probe in probes][:count]


def write_adapter(folder: Path) -> None:
    """An adapter that is computed like any other and adds zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    settings = LoraConfig(
        r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, settings)
    model.peft_config["default"].base_model_name_or_path = MODEL
    model.save_pretrained(str(folder), save_embedding_layers=False)


def model_folder() -> Path:
    return resolve(MODEL, cache_dir=WeightsSettings().model_cache).path


@contextmanager
def server(storage: Path, *arguments: str) -> Iterator[tuple[str, dict[str, str], int]]:
    """A serving process of our own: base URL, headers, process id."""
    token = secrets.token_urlsafe(32)
    token_file = storage / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "DOUBLEI_SERVING_TOKEN_FILE": str(token_file),
        "DOUBLEI_STORAGE_DIR": str(storage),
    }
    command = [sys.executable, "-m", "worker.serving", "--model", MODEL, "--port", str(port), *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        yield url, {"authorization": f"Bearer {token}"}, process.pid
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if httpx2.get(f"{url}/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server ended with {process.returncode}")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds() -> float:
    """Processor time of all processes so far: user, nice, system, irq, softirq and steal of /proc/stat."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


async def audit(
    url: str,
    headers: dict[str, str],
    pid: int,
    *,
    target: str,
    models: Sequence[str],
    prompts: Sequence[str],
    concurrency: int,
    max_tokens: int,
) -> Result:
    """Ask every question once, `concurrency` at a time, the models in turn."""
    room = asyncio.Semaphore(concurrency)
    latencies: list[float] = []
    usages: list[dict[str, Any]] = []

    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=600) as client:

        async def ask(at: int, prompt: str) -> None:
            async with room:
                started = time.perf_counter()
                response = await client.post(
                    "/v1/chat/completions",
                    json={
                        "model": models[at % len(models)],
                        "messages": [{"role": "user", "content": prompt}],
                        "temperature": 0,
                        "max_tokens": max_tokens,
                    },
                )
                response.raise_for_status()
                latencies.append(time.perf_counter() - started)
                usages.append(response.json()["usage"])

        cpu_before, machine_before = cpu_seconds(pid), machine_cpu_seconds()
        started = time.perf_counter()
        await asyncio.gather(*(ask(at, prompt) for at, prompt in enumerate(prompts)))
        seconds = time.perf_counter() - started
    return Result(
        target=target,
        concurrency=concurrency,
        max_tokens=max_tokens,
        questions=len(prompts),
        seconds=round(seconds, 2),
        requests_per_second=round(len(prompts) / seconds, 2),
        latency_p50_seconds=round(statistics.median(latencies), 3),
        latency_p95_seconds=round(statistics.quantiles(latencies, n=20)[-1], 3),
        prompt_tokens=sum(usage["prompt_tokens"] for usage in usages),
        cached_tokens=sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages),
        completion_tokens=sum(usage["completion_tokens"] for usage in usages),
        server_cpu_seconds=round(cpu_seconds(pid) - cpu_before, 2),
        machine_cpu_seconds=round(machine_cpu_seconds() - machine_before, 2),
    )


def baseline(adapter: Path, prompts: Sequence[str], max_tokens: int) -> float:
    """Requests a second of transformers and peft, one question after another, no HTTP."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from worker.serving.loading import choose_dtype

    dtype = choose_dtype("auto", torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    base: Any = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=dtype)
    model: Any = PeftModel.from_pretrained(base, str(adapter))
    started = time.perf_counter()
    with torch.inference_mode():
        for prompt in prompts:
            chat: Any = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
            )
            model.generate(**chat, max_new_tokens=max_tokens, do_sample=False)
    return len(prompts) / (time.perf_counter() - started)


def measure(arguments: argparse.Namespace) -> list[Result]:
    """Every scenario on a fresh server, so that no prefix is warm from the one before."""
    prompts = questions(arguments.questions)
    scenarios = [("one adapter", 8, 8)]
    if not arguments.quick:
        scenarios = [
            (target, concurrency, max_tokens)
            for target in ("base model", "one adapter", "four adapters")
            for concurrency in (1, 8, 32)
            for max_tokens in (2, 8)
            if concurrency > 1 or (target == "one adapter" and max_tokens == 2)
        ]
    results = []
    with tempfile.TemporaryDirectory() as name:
        storage = Path(name)
        for adapter in range(4):
            write_adapter(storage / f"adapter-{adapter}")
        for target, concurrency, max_tokens in scenarios:
            with server(storage) as (url, headers, pid):
                names = {"base model": [MODEL], "one adapter": ["a0"]}.get(target, ["a0", "a1", "a2", "a3"])
                for loaded in (loaded for loaded in names if loaded != MODEL):
                    body = {"lora_name": loaded, "lora_path": f"adapter-{loaded[1:]}"}
                    load = f"{url}/v1/load_lora_adapter"
                    httpx2.post(load, json=body, headers=headers, timeout=120).raise_for_status()
                result = asyncio.run(
                    audit(
                        url,
                        headers,
                        pid,
                        target=target,
                        models=names,
                        prompts=prompts,
                        concurrency=concurrency,
                        max_tokens=max_tokens,
                    )
                )
            show(result)
            results.append(result)
    return results


def show(result: Result) -> None:
    print(
        f"{result.target:13} {result.concurrency:3} at a time, answers <= {result.max_tokens}: "
        f"{result.questions} in {result.seconds:6.2f} s = {result.requests_per_second:6.2f}/s, "
        f"latency p50 {result.latency_p50_seconds:.2f} s p95 {result.latency_p95_seconds:.2f} s, "
        f"{result.cached_tokens}/{result.prompt_tokens} prompt tokens cached, "
        f"{result.server_cpu_seconds:.1f} s of processor time of {result.machine_cpu_seconds:.1f} s in all",
        flush=True,
    )


def main() -> int:
    """Print a line a scenario; exit 1 when the bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--quick", action="store_true", help="one scenario, no baseline")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    results = measure(arguments)
    summary: dict[str, Any] = {"load_before": os.getloadavg()[0], "results": [asdict(one) for one in results]}
    if not arguments.quick:
        with tempfile.TemporaryDirectory() as name:
            write_adapter(Path(name))
            few = questions(BASELINE_QUESTIONS)
            plain = {str(limit): round(baseline(Path(name), few, limit), 2) for limit in (2, 8)}
        summary["transformers_requests_per_second"] = plain
        print(f"transformers and peft, one at a time: {plain['2']}/s (answers <= 2), {plain['8']}/s (<= 8)")
    audits = [one for one in results if one.target == "one adapter" and one.concurrency == 8]
    summary["bar_holds"] = all(one.seconds < BAR_SECONDS for one in audits)
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return 0 if summary["bar_holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
