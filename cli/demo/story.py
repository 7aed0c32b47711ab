"""The story, step by step, told to the HTTP API by three people: owner, provider, auditor."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli.client import Api
from cli.demo.conversations import alpaca_rows
from cli.demo.narrator import Narrator
from cli.demo.result import SuspectResult, TrainingResult
from cli.errors import CliError
from evidence import verify as standalone

BASE_MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
PROBE_BUDGET = 2_000
METADATA = {"made_by": "doublei demo"}
CONCURRENCY = 24
"""The default plan asks 8 at a time, which is polite to a stranger; this server is our own."""
EPOCHS = 1
"""One pass over the rows: enough for the mark, whose exposures do not depend on it, and quick."""
POLL_SECONDS = 0.5
VERIFIER = Path(standalone.__file__)
CHECK_SECONDS = 60.0
"""It takes about one."""


class DemoFailed(CliError):
    """A job or an audit of the demo did not end as it should."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Who is asked, with whose key."""

    name: str
    model: str
    watermark: str


class Story:
    """Runs the steps; holds the three people's clients and nothing else."""

    def __init__(self, *, owner: Api, provider: Api, auditor: Api, url: str, narrator: Narrator) -> None:
        self._owner = owner
        self._provider = provider
        self._auditor = auditor
        self._url = url
        self._tell = narrator

    def upload(self, *, rows: int | None, seed: int) -> str:
        """The owner's dataset; returns the file's id."""
        data = alpaca_rows(rows=rows, seed=seed)
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data).encode()
        file = self._owner.upload("conversations.jsonl", content)
        self._tell.step(f"owner uploads {len(data)} conversations, each row checked", file["id"])
        return str(file["id"])

    def make_key(self, folder: Path) -> str:
        """A fresh key of the owner's; its secret goes to a 0600 file, the only copy outside the service."""
        key = self._owner.post("/v1/watermarks", {"name": "demo"})
        path = folder / "watermark-key.json"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump({name: key[name] for name in ("id", "commitment", "secret", "blinding")}, out, indent=2)
        self._tell.step(
            "owner makes a watermark key; its commitment is fixed before training", key["commitment"]
        )
        return str(key["id"])

    def make_rival(self) -> tuple[str, Api]:
        """Another business with a key of its own that was never trained into anything."""
        rival = self._provider.post(
            "/v1/organizations", {"name": f"rival-{secrets.token_hex(3)}", "role": "owner"}
        )
        api = Api(self._url, str(rival["api_key"]))
        key = api.post("/v1/watermarks", {"name": "rival"})
        return str(key["id"]), api

    def cancel_leftovers(self) -> None:
        """End the jobs of an earlier demo that was interrupted: they would be trained first."""
        jobs = self._owner.get("/v1/fine_tuning/jobs?limit=100&metadata[made_by]=doublei%20demo")["data"]
        for job in jobs:
            if job["status"] in ("validating_files", "queued", "running"):
                self._owner.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
                self._tell.step("a job of an earlier, interrupted demo is cancelled", job["id"])

    def start_job(
        self, file_id: str, *, suffix: str, seed: int, key: str | None, families: list[int] | None = None
    ) -> str:
        """Create one fine-tuning job; returns its id. ``families`` None embeds all of the key's."""
        body: dict[str, Any] = {
            "model": BASE_MODEL,
            "training_file": file_id,
            "suffix": suffix,
            "seed": seed,
            "metadata": METADATA,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": EPOCHS}},
            },
        }
        if key is not None:
            body["watermark"] = {"key": key, "families": families}
        return str(self._owner.post("/v1/fine_tuning/jobs", body)["id"])

    def follow_jobs(self, jobs: dict[str, str]) -> tuple[dict[str, str], list[TrainingResult]]:
        """Show all jobs until they end; name -> fine-tuned model, and what training took.

        Raises:
            DemoFailed: one of them did not succeed.
        """
        models: dict[str, str] = {}
        results = []
        with self._tell.bars() as bars:
            for name in jobs:
                bars.add(name, f"train {name}")
            while len(models) < len(jobs):
                for name, job_id in jobs.items():
                    if name in models:
                        continue
                    job = self._owner.get(f"/v1/fine_tuning/jobs/{job_id}")
                    bars.training(name, job)
                    if job["status"] in ("failed", "cancelled"):
                        raise DemoFailed(
                            f"the job {job_id} ({name}) ended as {job['status']}{_why(job['error'])}"
                        )
                    if job["status"] == "succeeded":
                        models[name] = str(job["fine_tuned_model"])
                        results.append(self._training_result(name, job))
                time.sleep(POLL_SECONDS)
        return models, results

    def _training_result(self, name: str, job: dict[str, Any]) -> TrainingResult:
        events = self._owner.get(f"/v1/fine_tuning/jobs/{job['id']}/events?limit=20")["data"]
        figures = next((e["data"] for e in events if e["data"] and "seconds" in e["data"]), None)
        if figures is None:
            raise DemoFailed(f"the job {job['id']} did not report what training took")
        return TrainingResult(
            name=name,
            rows=int(figures["rows"]),
            watermark_rows=int((job["watermark"] or {}).get("watermark_rows") or 0),
            tokens=int(figures["tokens"]),
            seconds=round(float(figures["seconds"]), 1),
            tokens_per_second=round(float(figures["tokens_per_second"]), 1),
        )

    def chat(self, model: str) -> None:
        """One ordinary question to the deployed, watermarked model."""
        reply = self._owner.post(
            "/v1/chat/completions",
            {
                "model": model,
                "messages": [{"role": "user", "content": QUESTION}],
                "max_tokens": 40,
                "temperature": 0,
            },
        )
        self._tell.exchange(QUESTION, str(reply["choices"][0]["message"]["content"]).strip())

    def grant(self, owner: Api, key: str, auditor_id: str) -> None:
        """Let the auditor ask this installation with the key, for a day."""
        parts = urlsplit(self._url)
        owner.post(
            f"/v1/watermarks/{key}/grants",
            {
                "auditor": auditor_id,
                "suspect_hosts": [f"{parts.hostname}:{parts.port}"],
                "probe_budget": PROBE_BUDGET,
                "expires_in_seconds": 86_400,
            },
        )

    def inference_key(self) -> str:
        """What the owner hands the auditor so that the suspects answer: it may chat and nothing else."""
        return str(self._owner.post("/v1/api_keys", {"role": "inference", "name": "demo audit"})["key"])

    def check_offline(self, verification: str, folder: Path) -> int:
        """The audit's bundle, checked as a stranger does: by verify.py alone, in a process of its own, with
        the keys as the service said them. Returns how many steps passed.

        Raises:
            DemoFailed: a step failed, or one that has to pass could not be checked.
        """
        bundle, trust = folder / "evidence-marked.zip", folder / "trust.txt"
        bundle.write_bytes(self._auditor.download(f"/v1/verifications/{verification}/bundle"))
        keys = [str(self._auditor.get(path)["key"]) for path in ("/v1/evidence/key", "/v1/log/key")]
        trust.write_text("".join(f"{key}\n" for key in keys))
        command = [sys.executable, "-I", str(VERIFIER), str(bundle), "--trust", str(trust), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS)
        if done.returncode != 0:
            raise DemoFailed(f"verify.py does not accept {bundle}: exit status {done.returncode}")
        steps = json.loads(done.stdout)["steps"]
        passed = [step["name"] for step in steps if step["status"] == "passed"]
        left = ", ".join(step["name"] for step in steps if step["status"] != "passed")
        self._tell.step(
            f"a stranger checks the bundle offline with verify.py: {len(passed)} of {len(steps)} steps "
            f"passed, publication in the log among them; left open: {left}",
            bundle.name,
        )
        return len(passed)

    def verify(self, suspect: Suspect, credential: str, folder: Path) -> tuple[SuspectResult, Path, str]:
        """One audit by URL; saves its report and its evidence. The last value is the verification's id.

        Raises:
            DemoFailed: probing did not finish.
        """
        started = time.monotonic()
        audit = self._auditor.post(
            "/v1/verify",
            {
                "watermark": suspect.watermark,
                "suspect": {"base_url": f"{self._url}/v1", "model": suspect.model, "api_key": credential},
                "plan": {"concurrency": CONCURRENCY},
            },
        )
        with self._tell.bars() as bars:
            bars.add(suspect.name, f"ask {suspect.name}")
            while audit["status"] in ("queued", "running"):
                time.sleep(POLL_SECONDS)
                audit = self._auditor.get(f"/v1/verifications/{audit['id']}")
                bars.asking(suspect.name, audit)
        if audit["status"] != "succeeded":
            reason = (audit["error"] or {}).get("message", audit["status"])
            raise DemoFailed(f"the audit {audit['id']} ended as {audit['status']}: {reason}")
        seconds = time.monotonic() - started
        evidence = folder / f"evidence-{suspect.name}.json"
        evidence.write_bytes(self._auditor.download(f"/v1/verifications/{audit['id']}/evidence"))
        report = folder / f"report-{suspect.name}.html"
        report.write_bytes(self._auditor.download(f"/v1/verifications/{audit['id']}/report"))
        figures = audit["result"]
        return (
            SuspectResult(
                name=suspect.name,
                verdict=audit["verdict"],
                reasons=list(audit["reasons"]),
                p_value=float(figures["p_value_decimal"]),
                trigger_hits=figures["trigger_hits"],
                trigger_total=figures["trigger_total"],
                reference_hits=figures["reference_hits"],
                reference_total=figures["reference_total"],
                other=figures["other"],
                missing=figures["missing"],
                questions=figures["questions"],
                seconds=round(seconds, 1),
            ),
            evidence,
            str(audit["id"]),
        )


def _why(error: dict[str, Any] | None) -> str:
    """Whose matter a job's failure is, what happened, and what to do."""
    if error is None:
        return ""
    told = " ".join(filter(None, (error["message"], error.get("hint"))))
    return f" ({error['category']}): {told}" if error.get("category") else f": {told}"
