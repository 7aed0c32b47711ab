"""The table of children: complete, acyclic, and without a secret in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.stack.home import Home, ensure_secrets, prepare
from cli.stack.plan import ChildSpec, Site, build_plan
from cli.stack.ports import Ports
from cli.stack.privileges import Privileges


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A first start."""
    home = Home(root=tmp_path / "home")
    prepare(home)
    ensure_secrets(home)
    return Site(
        home=home,
        ports=Ports(api=8000, dashboard=8001, serving=20001),
        socket_dir=tmp_path / "sockets",
        stack_id="0123456789abcdef",
        privileges=Privileges(),
    )


@pytest.fixture
def plan(site: Site) -> dict[str, ChildSpec]:
    """By name."""
    return {spec.name: spec for spec in build_plan(site)}


def test_each_child_comes_after_what_it_waits_for(site: Site) -> None:
    """So the plan can be started from top to bottom, and has no circle."""
    seen: set[str] = set()
    for spec in build_plan(site):
        assert spec.name not in seen
        assert set(spec.after) <= seen | {"cluster"}
        seen.add(spec.name)


def test_stop_order(plan: dict[str, ChildSpec]) -> None:
    """Who asks stops before who answers; the stores are last."""
    order = ["dashboard", "api", "worker-train", "serving", "valkey", "postgres"]
    stages = [plan[name].stop_stage for name in order]
    assert stages == sorted(set(stages))
    assert plan["worker-probe"].stop_stage == plan["worker-train"].stop_stage


def test_serving_and_training_wait_for_the_weights(plan: dict[str, ChildSpec]) -> None:
    """The API does not: it is up while they are still downloaded."""
    assert "weights" in plan["serving"].after
    assert "weights" in plan["worker-train"].after
    assert "weights" not in plan["api"].after


def test_the_cluster_is_made_once(site: Site) -> None:
    """A folder that is complete is not touched again."""
    site.home.postgres.mkdir()
    (site.home.postgres / "PG_VERSION").write_text("18\n")
    assert "cluster" not in {spec.name for spec in build_plan(site)}


def test_no_secret_in_arguments_environment_or_repr(site: Site, plan: dict[str, ChildSpec]) -> None:
    """Secrets are in files that the environment only names."""
    home = site.home
    files = (home.kek_file, home.evidence_key_file, home.serving_token_file, home.dashboard_secret_file)
    secrets = [file.read_text().strip() for file in files]
    secrets += [file.read_text().split()[1] for file in (site.home.log_key_file, site.home.witness_key_file)]
    for spec in plan.values():
        shown = " ".join((*spec.command, *spec.environment.values(), repr(spec)))
        assert not any(secret in shown for secret in secrets)


def test_only_the_api_knows_where_the_signing_keys_are(site: Site, plan: dict[str, ChildSpec]) -> None:
    keys = {
        "DOUBLEI_LOG_KEY_FILE": site.home.log_key_file,
        "DOUBLEI_EVIDENCE_KEY_FILE": site.home.evidence_key_file,
        "DOUBLEI_WITNESS_KEY_FILE": site.home.witness_key_file,
    }
    for variable, file in keys.items():
        assert {name for name, spec in plan.items() if variable in spec.environment} == {"api"}
        assert plan["api"].environment[variable] == str(file)


def test_only_its_own_api_may_be_probed(
    site: Site, plan: dict[str, ChildSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the operator adds by the same variable."""
    assert plan["worker-probe"].environment["DOUBLEI_SUSPECT_ALLOW"] == "127.0.0.1:8000"
    monkeypatch.setenv("DOUBLEI_SUSPECT_ALLOW", "127.0.0.1:9999")
    again = {spec.name: spec for spec in build_plan(site)}
    assert again["api"].environment["DOUBLEI_SUSPECT_ALLOW"] == "127.0.0.1:8000,127.0.0.1:9999"


def test_the_users_folder_shadows_no_module(plan: dict[str, ChildSpec]) -> None:
    """Children run in the data folder, and Python does not look for modules in it."""
    for spec in plan.values():
        if "-m" in spec.command:
            assert spec.command[spec.command.index("-m") - 1] == "-P"


def test_relative_paths_of_the_user_stay_true(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are meant from where the user stands, not from the data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOUBLEI_CATALOGUE_FILE", "models.toml")
    assert build_plan(site)[0].environment["DOUBLEI_CATALOGUE_FILE"] == str(tmp_path / "models.toml")
