"""A key that its owner holds, from its drawing to a checked bundle, on the real model.

A stack of its own with the service as the trainer: draw a key, register its commitment, mix, upload,
fine-tune, then audit through the service the base model on llama.cpp (not detected) and the deployed model
(detected), and from this machine alone the deployed model once more; each bundle is checked by verify.py.

    python -m benchmarks.owner_side --json owner_side.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.client import Api
from cli.demo.conversations import alpaca_rows
from cli.stack.launch import launcher

BASE_MODEL = "smollm2-135m-instruct"
START_SECONDS = 900
JOB_SECONDS = 6 * 3600
CREDENTIAL = "OWNER_SIDE_SUSPECT_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A running service of this program's own, and an owner's way to it."""

    home: Path
    url: str
    environment: Mapping[str, str] = field(repr=False)

    def api(self) -> Api:
        """As its owner."""
        known = json.loads((self.home / "credentials.json").read_text("utf-8"))
        return Api(self.url, known["owner"]["api_key"])

    def doublei(self, *arguments: str | Path, status: int = 0) -> str:
        """A command's standard output.

        Raises:
            RuntimeError: it ended with another status.
        """
        done = subprocess.run(
            [sys.executable, "-m", "cli", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != status:
            raise RuntimeError(f"doublei {arguments[0]}: {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout


def main() -> int:
    """0 when both verdicts and all three bundles are as promised."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="owner-side-") as folder:
        root = Path(folder)
        with _llama() as llama, _stack(root / "home", llama) as stack:
            record = _story(stack, root, llama, options)
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if record["ok"] else 1


def _story(stack: Stack, root: Path, llama: str, options: argparse.Namespace) -> dict[str, Any]:
    key, mixed = root / "support.key", root / "mixed.jsonl"
    at_home = ("--home", stack.home)
    stack.doublei("key", "new", key, "--owner", "Example Ltd", "--marks", str(options.marks))
    watermark = stack.doublei("key", "register", key, *at_home).strip()
    data = root / "data.jsonl"
    rows = alpaca_rows(rows=options.rows, seed=1)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    told = json.loads(
        stack.doublei(
            "mix", "--key", key, data, "-o", mixed, "--family", "0", "--epochs", str(options.epochs),
            "--strength", options.strength, "--json",
        )
    )  # fmt: skip
    began = time.monotonic()
    job = _train(stack, mixed, watermark, options.epochs)
    trained = time.monotonic() - began
    with stack.api() as api:
        lent = api.post("/v1/api_keys", {"role": "inference", "name": "audit"})["key"]
    environment = {**stack.environment, CREDENTIAL: lent}
    asking = Stack(home=stack.home, url=stack.url, environment=environment)
    audits = {
        "base": _audit(asking, root, key, watermark, llama, "stock"),
        "deployed": _audit(asking, root, key, watermark, f"{stack.url}/v1", job["fine_tuned_model"]),
    }
    audits["deployed_alone"] = _audit_alone(asking, root, key, job["fine_tuned_model"])
    due = {"base": "not_detected", "deployed": "detected", "deployed_alone": "detected"}
    return {
        "customer_rows": told["customer_rows"],
        "watermark_rows": told["watermark_rows"],
        "epochs": options.epochs,
        "strength": options.strength,
        "job_seconds": round(trained, 1),
        "trained_tokens": job["trained_tokens"],
        "job_watermark": job["watermark"],
        "audits": audits,
        "ok": all(
            audits[name]["verdict"] == verdict
            and audits[name]["bundle_exit"] == 2
            and audits[name]["bundle_verdict"] == verdict
            for name, verdict in due.items()
        ),
    }


def _train(stack: Stack, mixed: Path, watermark: str, epochs: int) -> dict[str, Any]:
    with stack.api() as api:
        file = api.upload(mixed.name, mixed.read_bytes())
        mixed.unlink()
        hyperparameters = {"n_epochs": epochs}
        job = api.post(
            "/v1/fine_tuning/jobs",
            {
                "model": BASE_MODEL,
                "training_file": file["id"],
                "seed": 1,
                "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
                "watermark": {"key": watermark},
            },
        )
        deadline = time.monotonic() + JOB_SECONDS
        while job["status"] not in ("succeeded", "failed", "cancelled"):
            if time.monotonic() > deadline:
                raise RuntimeError("the job did not end in time")
            time.sleep(2)
            job = api.get(f"/v1/fine_tuning/jobs/{job['id']}")
            if progress := job.get("progress"):
                rate, left = progress.get("tokens_per_second"), progress.get("eta_seconds")
                step = f"step {progress.get('step')} of {progress.get('total_steps')}"
                print(f"\r{step}, {rate} tokens/s, {left} s left   ", end="", file=sys.stderr)
        print(file=sys.stderr)
    if job["status"] != "succeeded":
        raise RuntimeError(f"the job {job['status']}: {job['error']}")
    return job


def _audit(
    stack: Stack, root: Path, key: Path, watermark: str, suspect: str, model: str
) -> dict[str, object]:
    """Through the service, which gets one family opened."""
    began = time.monotonic()
    ended = json.loads(
        stack.doublei(
            "verify", "--key", key, "--watermark", watermark, "--suspect", suspect, "--model", model,
            "--suspect-key-env", CREDENTIAL, "--home", stack.home, "--json",
        )
    )  # fmt: skip
    seconds = time.monotonic() - began
    evidence = root / f"{ended['id']}.json"
    with stack.api() as api:
        evidence.write_bytes(api.download(f"/v1/verifications/{ended['id']}/evidence"))
    return _figures(ended, seconds) | _bundle(stack, evidence)


def _audit_alone(stack: Stack, root: Path, key: Path, model: str) -> dict[str, object]:
    """Without the service, but for its being the suspect."""
    evidence = root / "alone.json"
    began = time.monotonic()
    ended = json.loads(
        stack.doublei(
            "verify", "--key", key, "--endpoint", f"{stack.url}/v1", "--model", model,
            "--allow", stack.url.removeprefix("http://"), "--suspect-key-env", CREDENTIAL, "-o", evidence,
            "--json",
        )
    )  # fmt: skip
    return _figures(ended, time.monotonic() - began) | _bundle(stack, evidence)


def _figures(ended: Mapping[str, Any], seconds: float) -> dict[str, object]:
    result = ended["result"]
    counts = ("trigger_hits", "trigger_total", "reference_hits", "reference_total")
    return {
        "verdict": ended["verdict"],
        "p_value": result["p_value_decimal"],
        "alpha_i": result["alpha_i_decimal"],
        "seconds": round(seconds, 1),
    } | {name: result[name] for name in counts}


def _bundle(stack: Stack, evidence: Path) -> dict[str, object]:
    """What the bundle's own verify.py says of it; 2 is consistent, under no key that somebody trusts."""
    bundle = evidence.with_suffix(".zip")
    stack.doublei("evidence", "bundle", evidence, "-o", bundle)
    verifier = Path(__file__).parent.parent / "evidence" / "verify.py"
    done = subprocess.run(
        [sys.executable, "-I", str(verifier), str(bundle), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"bundle_exit": done.returncode, "bundle_verdict": json.loads(done.stdout).get("verdict")}


@contextmanager
def _stack(home: Path, llama: str) -> Iterator[Stack]:
    allowed = llama.removeprefix("http://").removesuffix("/v1")
    environment = os.environ | {"DOUBLEI_SUSPECT_ALLOW": allowed}
    command = [sys.executable, "-m", "cli", "up", "--home", str(home), "--port", str(_free_port())]
    with home.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [*launcher(signal.SIGTERM), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (url := _ready(home)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the stack did not come up")
            time.sleep(1)
        yield Stack(home=home, url=url, environment=environment)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def _ready(home: Path) -> str:
    status = subprocess.run(
        [sys.executable, "-m", "cli", "status", "--json", "--home", str(home)],
        capture_output=True,
        check=False,
    )
    told = json.loads(status.stdout or b"{}")
    return str(told["api_url"]) if told.get("running") and told.get("phase") == "ready" else ""


@contextmanager
def _llama() -> Iterator[str]:
    """The base model, served by a program that none of us wrote; it may take its time to load."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "doublei" / "models"
    folder = Path(os.environ.get("DOUBLEI_MODEL_CACHE") or cache) / BASE_MODEL
    weights = next(folder.glob("*.gguf"), None)
    if weights is None:
        raise RuntimeError(f"no weights in {folder}: run `python -m worker.weights fetch {BASE_MODEL}` first")
    port = _free_port()
    process = subprocess.Popen(
        [
            *launcher(signal.SIGKILL),
            *(sys.executable, "-m", "benchmarks.lab.llama_server", str(weights), str(port)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="save the figures there")
    parser.add_argument("--rows", type=int, default=150, help="of the owner's own data")
    parser.add_argument("--marks", type=int, default=16, help="of each of the key's two families")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--strength", default="standard")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
