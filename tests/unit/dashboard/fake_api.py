"""A double of the HTTP API, over real HTTP, for the dashboard's tests. Its state is set by the test."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

PROVIDER_KEY = "di_provider0001_" + "p" * 43
OWNER_KEY = "di_owner0000001_" + "o" * 43


class FakeApi:
    """The routes that the dashboard uses, with the shapes and the paging of the real ones."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        """Newest first, as on the wire."""
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.verifications: list[dict[str, Any]] = []
        self.campaigns: list[dict[str, Any]] = []
        self.organizations: list[dict[str, Any]] = []
        self.checks = {"database": "ok", "broker": "ok", "serving": "ok"}
        self.keys = {PROVIDER_KEY: "provider", OWNER_KEY: "owner"}
        self.requests: list[tuple[str, str]] = []
        """Method and path with query of every request."""
        self.broken = False
        """Answer everything with HTTP 500."""
        self.url = ""

    def app(self) -> FastAPI:
        """The ASGI application."""
        app = FastAPI(openapi_url=None)

        @app.middleware("http")
        async def guard(request: Request, call_next: Any) -> Response:
            query = f"?{request.url.query}" if request.url.query else ""
            self.requests.append((request.method, request.url.path + query))
            if self.broken:
                return error(500, "internal error; request id 1", "internal_error")
            if request.url.path != "/readyz":
                role = self.keys.get(request.headers.get("authorization", "").removeprefix("Bearer "))
                if role is None:
                    return error(
                        401, "the API key is not valid: unknown, revoked or incomplete", "invalid_api_key"
                    )
                if role != "provider" and request.url.path == "/v1/organizations":
                    return error(403, "this needs a provider's key", "role_not_permitted")
            response: Response = await call_next(request)
            return response

        @app.get("/readyz")
        async def ready() -> Response:
            missing = [name for name, state in self.checks.items() if state != "ok"]
            if missing:
                body = {"error": {"message": "not ready", "code": "not_ready", "checks": self.checks}}
                return JSONResponse(body, status_code=503)
            return JSONResponse({"status": "ready", "checks": self.checks})

        @app.get("/v1/organizations")
        async def organizations(limit: int = 20, after: str | None = None) -> Response:
            return page(self.organizations, limit, after)

        @app.get("/v1/fine_tuning/jobs")
        async def jobs(limit: int = 20, after: str | None = None) -> Response:
            return page(self.jobs, limit, after)

        @app.get("/v1/fine_tuning/jobs/{job_id}")
        async def job(job_id: str) -> Response:
            return one(self.jobs, job_id)

        @app.post("/v1/fine_tuning/jobs/{job_id}/cancel")
        async def cancel(job_id: str) -> Response:
            for item in self.jobs:
                if item["id"] == job_id and item["status"] in ("queued", "running"):
                    item["cancel_requested"] = True
                    if item["status"] == "queued":
                        item["status"] = "cancelled"
                elif item["id"] == job_id:
                    return error(409, f"the job has already {item['status']}", "job_ended")
            return one(self.jobs, job_id)

        @app.get("/v1/fine_tuning/jobs/{job_id}/events")
        async def events(job_id: str, limit: int = 20, after: str | None = None) -> Response:
            return page(self.events.get(job_id, []), limit, after)

        @app.get("/v1/verifications")
        async def verifications(limit: int = 20, after: str | None = None) -> Response:
            return page(self.verifications, limit, after)

        @app.get("/v1/verifications/{verification_id}")
        async def verification(verification_id: str) -> Response:
            return one(self.verifications, verification_id)

        @app.get("/v1/campaigns/{campaign_id}")
        async def campaign(campaign_id: str) -> Response:
            return one(self.campaigns, campaign_id)

        return app

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Serve it from a thread; yields the root URL."""
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = uvicorn.Server(uvicorn.Config(self.app(), log_level="warning", access_log=False))
            thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
            thread.start()
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            try:
                yield self.url
            finally:
                server.should_exit = True
                thread.join(timeout=5)


def job(number: int, status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """A job object as service.api.jobs shapes it."""
    created = 1_790_000_000 + 60 * number
    return {
        "id": f"ftjob-{number:024d}",
        "object": "fine_tuning.job",
        "created_at": created,
        "started_at": created + 5 if status not in ("queued", "validating_files") else None,
        "finished_at": created + 300 if status in ("succeeded", "failed", "cancelled") else None,
        "status": status,
        "model": "smollm2-135m-instruct",
        "fine_tuned_model": f"ft:smollm2-135m-instruct:owner:demo:{number}"
        if status == "succeeded"
        else None,
        "training_file": "file-0123456789abcdefghijklmn",
        "hyperparameters": {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": "auto"},
        "method": {"type": "supervised"},
        "seed": 7,
        "trained_tokens": 61_440 if status == "succeeded" else None,
        "error": None,
        "organization_id": "org-000000000000000000owner1",
        "user_provided_suffix": f"suffix-{number}",
        "watermark": None,
        "progress": None,
        "cancel_requested": False,
        **fields,
    }


def event(number: int, message: str, **fields: Any) -> dict[str, Any]:
    """A job event as service.api.jobs shapes it."""
    return {
        "id": f"ftevent-{number:024d}",
        "object": "fine_tuning.job.event",
        "created_at": 1_790_000_000 + number,
        "level": "info",
        "type": "message",
        "message": message,
        "data": None,
        **fields,
    }


def step_event(number: int, step: int, loss: float, total: int = 300) -> dict[str, Any]:
    """A metrics event."""
    data = {
        "step": step,
        "total_steps": total,
        "train_loss": loss,
        "learning_rate": 1e-3 * (1 - step / total),
    }
    return event(number, f"Step {step}/{total}: training loss={loss:.2f}", type="metrics", data=data)


def verification(number: int, verdict: str | None = "detected", **fields: Any) -> dict[str, Any]:
    """A verification as service.api.verifications shows it to a provider: without a result."""
    return {
        "id": f"verif-{number:024d}",
        "object": "verification",
        "created_at": 1_790_000_000 + 60 * number,
        "status": "succeeded" if verdict else "running",
        "progress": {"asked": 96 if verdict else 40, "total": 96},
        "suspect": {"base_url": "http://127.0.0.1:8000/v1", "model": f"suspect-{number}", "api": "chat"},
        "verdict": verdict,
        "reasons": [],
        "result": None,
        "watermark": "wm-000000000000000000000001",
        "organization_id": "org-0000000000000000auditor1",
        "preregistration": {
            "sha256": "ab" * 32,
            "audit_index": number,
            "alpha": "1e-6",
            "alpha_i": "1/2000000",
        },
        **fields,
    }


def sequential(number: int, verdict: str | None, *products: str, **fields: Any) -> dict[str, Any]:
    """A sequential audit with its looks, as a provider sees it."""
    looks = [
        {"look": place + 1, "mark": 3 * place, "e_value": "11.4", "product": product, "at": 1_790_000_000}
        for place, product in enumerate(products)
    ]
    return verification(number, verdict, mode="sequential", looks=looks, **fields)


def campaign(number: int, members: list[dict[str, Any]], *, holm: Any = None) -> dict[str, Any]:
    """A campaign as service.api.campaigns shapes it; its members say that they belong to it."""
    own = f"camp-{number:024d}"
    for position, member in enumerate(members):
        member["campaign"] = {"id": own, "position": position, "size": len(members)}
    return {
        "id": own,
        "object": "verification.campaign",
        "created_at": 1_790_000_000,
        "audit_index": 4,
        "alpha_i": "1/2000000",
        "size": len(members),
        "verifications": members,
        "holm": holm,
    }


def page(items: list[dict[str, Any]], limit: int, after: str | None) -> Response:
    """One page after a cursor."""
    start = 0
    if after is not None:
        start = next((index + 1 for index, item in enumerate(items) if item["id"] == after), len(items))
    data = items[start : start + limit]
    return JSONResponse({"object": "list", "data": data, "has_more": start + limit < len(items)})


def one(items: list[dict[str, Any]], identifier: str) -> Response:
    """One object, or the envelope of a 404."""
    for item in items:
        if item["id"] == identifier:
            return JSONResponse(item)
    return error(404, f"No such object: {identifier}", "not_found")


def error(status: int, message: str, code: str) -> Response:
    """OpenAI's error envelope."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return JSONResponse(body, status_code=status)
