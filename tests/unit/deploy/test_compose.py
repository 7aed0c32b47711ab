"""docker-compose.yml and .env.example say what the code understands. No engine is needed here."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboard.settings import SECRET_VARIABLE
from service.settings import Settings
from worker.serving.settings import ServingSettings

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LONG_RUNNING = {"postgres", "valkey", "api", "train", "probe", "serving", "dashboard"}
ONE_SHOT = {"secrets", "migrations", "bootstrap", "weights"}
ON_REQUEST = {"operator"}
LOG_KEY, WITNESS_KEY = "DOUBLEI_LOG_KEY_FILE", "DOUBLEI_WITNESS_KEY_FILE"
EVIDENCE_KEY = "DOUBLEI_EVIDENCE_KEY_FILE"
NOT_OURS = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE", "XDG_CACHE_HOME"}


def _known_variables() -> set[str]:
    aliases = {str(field.alias) for field in Settings.model_fields.values()}
    serving = {f"DOUBLEI_SERVING_{name.upper()}" for name in ServingSettings.model_fields}
    return aliases | serving | {SECRET_VARIABLE}


def _modules() -> Iterator[tuple[str, str]]:
    for name, service in SERVICES.items():
        command = service.get("command", [])
        if command[:2] == ["python", "-m"]:
            yield name, command[2]
        if "-A" in command:
            yield name, command[command.index("-A") + 1]
        yield from ((name, word.partition(":")[0]) for word in command if re.fullmatch(r"[\w.]+:\w+", word))


def test_every_process_of_the_embedded_stack_has_a_service() -> None:
    """Nothing of the process table is missing, and nothing is there that we don't know."""
    assert set(SERVICES) == LONG_RUNNING | ONE_SHOT | ON_REQUEST
    assert {name for name, service in SERVICES.items() if "profiles" in service} == ON_REQUEST


@pytest.mark.parametrize(("service", "module"), list(_modules()))
def test_commands_name_modules_that_exist(service: str, module: str) -> None:
    """``python -m X``, ``-A X`` and ``X:factory`` can be found."""
    assert importlib.util.find_spec(module) is not None, f"{service} runs {module}"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_environment_names_are_settings(service: str) -> None:
    """A misspelt variable would be ignored in silence."""
    names = set(SERVICES[service].get("environment", {}))
    assert names <= _known_variables() | NOT_OURS


@pytest.mark.parametrize("service", ["api", "train", "probe"])
def test_every_required_setting_is_given(service: str) -> None:
    """A container would not start without them."""
    required = {str(field.alias) for field in Settings.model_fields.values() if field.is_required()}
    assert required <= set(SERVICES[service]["environment"])


@pytest.mark.parametrize(
    ("key", "told"),
    [(LOG_KEY, {"api", "operator"}), (WITNESS_KEY, {"api"}), (EVIDENCE_KEY, {"api", "operator"})],
)
def test_only_the_api_is_told_where_the_signing_keys_are(key: str, told: set[str]) -> None:
    """And who changes them, who alone may write where they lie, besides the one that made them."""
    knowing = {name for name, service in SERVICES.items() if key in service.get("environment", {})}
    assert knowing == told
    writing = {name for name, service in SERVICES.items() if "secrets:/secrets" in service.get("volumes", [])}
    assert writing == {"secrets", "operator"}


@pytest.mark.parametrize("service", sorted(LONG_RUNNING))
def test_servers_have_a_health_check_and_come_back(service: str) -> None:
    """What dies or hangs is seen and started again."""
    assert SERVICES[service]["healthcheck"]["test"]
    assert SERVICES[service]["restart"] == "unless-stopped"


def test_training_and_serving_reserve_a_gpu_and_the_cpu_file_takes_it_away() -> None:
    """Nothing else holds one."""
    holders = {name for name, service in SERVICES.items() if "deploy" in service}
    assert holders == {"train", "serving"}
    for name in holders:
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
    overriding = (ROOT / "docker-compose.cpu.yml").read_text()
    assert overriding.count("deploy: !reset null") == len(holders)


def test_the_stores_are_not_published_and_the_rest_is_local() -> None:
    """Only the API and the dashboard have ports, on the loopback address."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"api", "dashboard"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert COMPOSE["networks"]["stores"]["internal"] is True


def test_the_api_image_installs_no_torch() -> None:
    """Neither by its lock nor by its stage of the Dockerfile."""
    assert not re.search(
        r"(?mi)^(torch|transformers|peft|nvidia)", (ROOT / "requirements-api.lock").read_text()
    )
    stage = (ROOT / "Dockerfile").read_text().split("AS api")[1].split("FROM")[0]
    assert "torch" not in stage
    assert "COPY worker" not in stage


def test_the_image_locks_agree_with_the_whole_lock() -> None:
    """An image runs the versions that were tested."""
    whole = _pins("requirements.lock")
    for part in ("requirements-api.lock", "requirements-worker.lock"):
        assert _pins(part) <= whole


def test_env_example_names_every_setting() -> None:
    """And nothing that is not one."""
    text = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"(?m)^#?([A-Z_]+)=", text)) - {"TORCH_SPEC", "TORCH_INDEX"}
    assert {str(field.alias) for field in Settings.model_fields.values()} <= named
    assert named <= _known_variables()


def _pins(name: str) -> set[str]:
    return set(re.findall(r"(?m)^([A-Za-z0-9][^ ]*==[^ \\]+)", (ROOT / name).read_text()))
