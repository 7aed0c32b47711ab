"""/v1/files over HTTP: streaming, caps, validation, tenancy, and what is left on the disk."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text

from service.settings import Settings
from tests.integration.service.conftest import Account, NewAccount, dataset, upload

pytestmark = pytest.mark.integration


def blobs(settings: Settings) -> list[Path]:
    """What lies in the blob store."""
    return [path for path in (settings.storage_dir / "blobs").rglob("*") if path.is_file()]


def leftovers(settings: Settings) -> list[Path]:
    """Unfinished uploads."""
    return list((settings.storage_dir / "incoming").iterdir())


class TestUpload:
    async def test_the_official_client_uploads_lists_reads_and_deletes(
        self, app: FastAPI, owner: Account
    ) -> None:
        client = openai.AsyncOpenAI(
            api_key=owner.api_key, base_url="http://doublei.test/v1", http_client=owner.http, max_retries=0
        )
        content = dataset()
        made = await client.files.create(file=("my data.jsonl", content), purpose="fine-tune")
        assert made.id.startswith("file-")
        assert (made.object, made.bytes, made.filename) == ("file", len(content), "my data.jsonl")
        assert (made.status, made.purpose) == ("processed", "fine-tune")
        assert made.model_extra is not None
        report = made.model_extra["validation"]
        assert report["valid"] is True
        assert (report["rows"], report["format"]) == (12, "alpaca")
        assert [file.id async for file in client.files.list()] == [made.id]
        assert (await client.files.retrieve(made.id)).created_at == made.created_at
        assert (await client.files.content(made.id)).content == content
        assert (await client.files.wait_for_processing(made.id)).id == made.id
        assert (await client.files.delete(made.id)).deleted is True
        with pytest.raises(openai.NotFoundError) as caught:
            await client.files.retrieve(made.id)
        assert caught.value.code == "file_not_found"
        assert caught.value.request_id

    async def test_all_bad_rows_come_back_in_the_envelope_and_nothing_is_stored(
        self, owner: Account, settings: Settings, database: Engine
    ) -> None:
        content = dataset() + b'{"prompt": 7, "completion": "a"}\n{"messages": []}\n'
        response = await upload(owner, content)
        error = response.json()["error"]
        assert response.status_code == 400
        assert (error["code"], error["param"], error["type"]) == (
            "invalid_dataset",
            "file",
            "invalid_request_error",
        )
        assert [(item["line"], item["path"], item["code"]) for item in error["errors"]] == [
            (13, "prompt", "wrong_type"),
            (14, "messages", "empty"),
        ]
        assert error["error_count"] == 2
        assert error["message"].startswith("Line 13, prompt: ")
        assert blobs(settings) == leftovers(settings) == []
        with database.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM files")).scalar() == 0

    async def test_a_full_disk_is_507_and_leaves_nothing(
        self, owner: Account, settings: Settings, database: Engine
    ) -> None:
        """The kernel refuses the write, as it does on a full disk; when there is room again, all is well."""
        content = dataset(4000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        try:
            response = await upload(owner, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (507, "disk_full", "server_error")
        assert response.headers["x-should-retry"] == "false"
        assert blobs(settings) == leftovers(settings) == []
        with database.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM files")).scalar() == 0
        assert (await upload(owner, content)).status_code == 200

    async def test_a_small_dataset_and_an_empty_one_are_refused(self, owner: Account) -> None:
        small = (await upload(owner, dataset(9))).json()["error"]["errors"][0]
        empty = (await upload(owner, b"")).json()["error"]["errors"][0]
        assert small["code"] == "dataset_too_small"
        assert empty["code"] == "empty_file"

    async def test_a_file_over_the_cap_is_413_declared_or_not(
        self, owner: Account, settings: Settings
    ) -> None:
        """With a content-length it is refused unread; without, as soon as the cap is passed."""
        declared = await upload(owner, b"x" * (settings.max_file_bytes + 100_000))
        assert declared.status_code == 413
        assert declared.json()["error"]["code"] == "too_large"
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            while True:
                sent += 1 << 20
                yield b"x" * (1 << 20)

        streamed = await owner.http.post(
            "/v1/files", content=body(), headers={"content-type": "multipart/form-data; boundary=B"}
        )
        assert streamed.status_code == 413
        assert sent <= settings.max_file_bytes + (3 << 20)
        assert blobs(settings) == leftovers(settings) == []

    @pytest.mark.parametrize(
        ("data", "file_field", "param", "code"),
        [
            ({"purpose": "fine-tune"}, None, "file", "missing_field"),
            ({}, "file", "purpose", "missing_field"),
            ({"purpose": "assistants"}, "file", "purpose", "invalid_value"),
            (
                {"purpose": "fine-tune", "expires_after[seconds]": "3600"},
                "file",
                "expires_after[seconds]",
                "unsupported_parameter",
            ),
            ({"purpose": "x" * 5000}, "file", None, "invalid_multipart"),
        ],
    )
    async def test_form_fields_are_checked(
        self, owner: Account, data: dict[str, str], file_field: str | None, param: str | None, code: str
    ) -> None:
        files = {file_field or "other": ("a.jsonl", dataset())}
        if file_field is None:
            data, files = data | {"x": "y"}, {"purpose2": ("", b"")}
        response = await owner.http.post("/v1/files", data=data, files=files)
        assert response.status_code == 400
        error = response.json()["error"]
        if file_field is not None:
            assert error["param"] == param
        assert error["code"] == code

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("application/json", b"{}"),
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=B", b"no boundary here"),
            ("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="file"'),
            (
                "multipart/form-data; boundary=B",
                b'--B\r\nContent-Disposition: form-data; name="file"\r\n\r\ntruncated',
            ),
            ("multipart/form-data; boundary=" + "B" * 500, b"x"),
        ],
    )
    async def test_broken_forms_are_400_and_leave_nothing(
        self, owner: Account, settings: Settings, content_type: str, body: bytes
    ) -> None:
        response = await owner.http.post("/v1/files", content=body, headers={"content-type": content_type})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_multipart"
        assert leftovers(settings) == []

    async def test_a_client_that_goes_away_leaves_nothing(
        self, app: FastAPI, owner: Account, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The connection breaks in the middle of an upload: no file, no half file, no crash in the log."""
        arriving = iter(
            [
                {
                    "type": "http.request",
                    "body": b'--B\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * (2 << 20),
                    "more_body": True,
                },
                {"type": "http.disconnect"},
            ]
        )
        sent: list[Any] = []

        async def receive() -> Any:
            return next(arriving)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = {
            b"authorization": f"Bearer {owner.api_key}".encode(),
            b"content-type": b"multipart/form-data; boundary=B",
        }
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/files",
            "raw_path": b"/v1/files",
            "query_string": b"",
            "headers": list(headers.items()),
            "http_version": "1.1",
            "scheme": "http",
            "server": ("doublei.test", 80),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }
        await app(scope, receive, send)
        assert sent == []
        assert blobs(settings) == leftovers(settings) == []
        logged = capsys.readouterr().err
        assert "request.abandoned" in logged
        assert "request.crashed" not in logged

    async def test_a_compressed_body_is_refused(self, owner: Account) -> None:
        response = await owner.http.post("/v1/files", content=b"x", headers={"content-encoding": "gzip"})
        assert response.status_code == 415
        assert response.json()["error"]["code"] == "unsupported_media_type"

    async def test_a_name_never_becomes_a_path(self, owner: Account, settings: Settings) -> None:
        made = await upload(owner, dataset(), filename="../../..\\etc/pass wd.jsonl")
        assert made.json()["filename"] == "pass wd.jsonl"
        (blob,) = blobs(settings)
        assert len(blob.name) == 64
        assert blob.stat().st_mode & 0o077 == 0

    async def test_the_same_bytes_are_stored_once(self, owner: Account, settings: Settings) -> None:
        first, second = await asyncio.gather(upload(owner, dataset()), upload(owner, dataset()))
        assert first.json()["id"] != second.json()["id"]
        assert len(blobs(settings)) == 1


class TestDelete:
    async def test_bytes_go_with_the_last_file_that_has_them(
        self, owner: Account, new_account: NewAccount, settings: Settings
    ) -> None:
        other = await new_account("owner")
        mine, theirs = (await upload(owner, dataset())).json(), (await upload(other, dataset())).json()
        await owner.http.delete(f"/v1/files/{mine['id']}")
        assert len(blobs(settings)) == 1
        assert (await other.http.get(f"/v1/files/{theirs['id']}/content")).content == dataset()
        await other.http.delete(f"/v1/files/{theirs['id']}")
        assert blobs(settings) == []

    async def test_a_job_that_runs_keeps_its_bytes_until_it_ended(
        self, owner: Account, settings: Settings, database: Engine
    ) -> None:
        used = (await upload(owner, dataset(12))).json()
        other = (await upload(owner, dataset(13))).json()
        with database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO jobs (id, organization_id, status, base_model, seed, training_file_id,"
                    " hyperparameters, method, metadata)"
                    " VALUES ('ftjob-1', :organization, 'running', 'm', 0, :file, '{}', '{}', '{}')"
                ),
                {"organization": owner.organization, "file": used["id"]},
            )
        assert (await owner.http.delete(f"/v1/files/{used['id']}")).status_code == 200
        assert (await owner.http.get(f"/v1/files/{used['id']}")).status_code == 404
        assert len(blobs(settings)) == 2
        with database.begin() as connection:
            connection.execute(text("UPDATE jobs SET status = 'cancelled'"))
        await owner.http.delete(f"/v1/files/{other['id']}")
        assert blobs(settings) == []


class TestTenancy:
    async def test_foreign_files_are_not_there_for_anybody(
        self, owner: Account, provider: Account, auditor: Account, new_account: NewAccount
    ) -> None:
        file_id = (await upload(owner, dataset())).json()["id"]
        for stranger in (provider, auditor, await new_account("owner")):
            assert (await stranger.http.get(f"/v1/files/{file_id}")).status_code == 404
            assert (await stranger.http.get(f"/v1/files/{file_id}/content")).status_code == 404
            assert (await stranger.http.delete(f"/v1/files/{file_id}")).status_code == 404
        assert (await owner.http.get(f"/v1/files/{file_id}")).status_code == 200

    async def test_lists_hold_own_files_only_and_page_both_ways(
        self, owner: Account, new_account: NewAccount
    ) -> None:
        other = await new_account("owner")
        await upload(other, dataset())
        made = [(await upload(owner, dataset(12 + n))).json()["id"] for n in range(5)]
        newest = (await owner.http.get("/v1/files")).json()
        assert [row["id"] for row in newest["data"]] == made[::-1]
        assert newest["has_more"] is False
        first = (await owner.http.get("/v1/files", params={"limit": 2, "order": "asc"})).json()
        assert [row["id"] for row in first["data"]] == made[:2]
        assert first["has_more"] is True
        rest = await owner.http.get("/v1/files", params={"order": "asc", "after": first["last_id"]})
        assert [row["id"] for row in rest.json()["data"]] == made[2:]
        none = await owner.http.get("/v1/files", params={"purpose": "batch"})
        assert none.json()["data"] == []

    @pytest.mark.parametrize("role", ["provider", "auditor"])
    async def test_only_owners_upload(self, accounts: dict[str, Account], role: str) -> None:
        assert (await upload(accounts[role], dataset())).status_code == 403


async def test_the_report_of_a_hundred_bad_rows_fits_the_wire(owner: Account) -> None:
    rows = b"".join(json.dumps({"x": number}).encode() + b"\n" for number in range(300))
    error = (await upload(owner, rows)).json()["error"]
    assert len(error["errors"]) == 100
    assert error["error_count"] == 300
