"""The catalogue finds models by id and refuses operator files that would surprise somebody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from catalogue import (
    BUILT_IN,
    BaseModel,
    Catalogue,
    CatalogueFileError,
    HubSource,
    LocalSource,
    UnknownModelError,
    WheelSource,
    load_catalogue,
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "catalogue.toml"
    path.write_text(text, "utf-8")
    return path


def test_default_model_has_pinned_sources_in_order() -> None:
    model = BUILT_IN.default
    assert model.id == "smollm2-135m-instruct"
    hub, wheel = model.sources
    assert isinstance(hub, HubSource)
    assert len(hub.revision) == 40
    assert isinstance(wheel, WheelSource)
    assert len(wheel.wheel_sha256) == 64
    assert len(model.lora_target_modules) == 7


def test_unknown_model_error_names_the_known_ones() -> None:
    with pytest.raises(UnknownModelError, match=r"unknown base model 'gpt-4'.*smollm2-135m-instruct"):
        BUILT_IN.get("gpt-4")


def test_no_file_means_the_built_in_models() -> None:
    assert load_catalogue() is BUILT_IN


def test_operator_file_adds_models_after_the_built_in_ones(tmp_path: Path) -> None:
    catalogue = load_catalogue(
        write(
            tmp_path,
            """
            default = "mine"
            [models.mine]
            title = "Mine"
            licence = "MIT"
            parameters = 5
            sources = [
              { path = "/srv/models/mine" },
              { repo_id = "a/b", revision = "0123456789012345678901234567890123456789" },
            ]
            """,
        )
    )
    assert catalogue.ids == ("smollm2-135m-instruct", "mine")
    assert catalogue.default.id == "mine"
    assert catalogue.get("mine").sources[0] == LocalSource(path=Path("/srv/models/mine"))


MODEL = """
[models.{id}]
title = "t"
licence = "MIT"
parameters = {parameters}
sources = [ {source} ]
{more}
"""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": '"../up"'}, "must match"),
        ({"id": '"UPPER"'}, "must match"),
        ({"id": "smollm2-135m-instruct"}, "appears twice"),
        ({"parameters": "0"}, "parameters must be a positive whole number"),
        ({"parameters": "true"}, "parameters must be a positive whole number"),
        ({"source": '{ path = "relative" }'}, "path must be absolute"),
        ({"source": '{ repo_id = "a/b", revision = "main" }'}, "revision must match"),
        (
            {"source": '{ repo_id = "--flag/b", revision = "main" }'},
            "repo_id must match",
        ),
        ({"source": '{ url = "x" }'}, "must have exactly the keys"),
        ({"source": ""}, "at least one source"),
        ({"more": "trust_remote_code = true"}, "unknown key 'trust_remote_code'"),
        ({"more": "lora_target_modules = []"}, "list of names"),
    ],
)
def test_a_bad_entry_is_refused_with_its_place(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    good = {"id": "m", "parameters": "1", "source": '{ path = "/m" }', "more": ""}
    with pytest.raises(CatalogueFileError, match=message):
        load_catalogue(write(tmp_path, MODEL.format(**(good | fields))))


def test_wheel_options_cannot_be_smuggled_in(tmp_path: Path) -> None:
    """A distribution that pip would read as an option is refused; so is a member outside the wheel."""
    wheel = '{{ distribution = "{d}", version = "1", sha256 = "{s}", bytes = 1, member = "{m}" }}'
    for distribution, member, message in (
        ("--index-url", "m", "distribution"),
        ("d", "../m", "member"),
    ):
        source = wheel.format(d=distribution, s="0" * 64, m=member)
        with pytest.raises(CatalogueFileError, match=message):
            load_catalogue(write(tmp_path, MODEL.format(id="m", parameters=1, source=source, more="")))


def test_unreadable_and_malformed_files_are_typed_errors(tmp_path: Path) -> None:
    with pytest.raises(CatalogueFileError, match="No such file"):
        load_catalogue(tmp_path / "missing.toml")
    with pytest.raises(CatalogueFileError, match="not valid TOML"):
        load_catalogue(write(tmp_path, "models = ["))


def test_a_catalogue_refuses_an_unknown_default() -> None:
    with pytest.raises(UnknownModelError):
        Catalogue((BUILT_IN.default,), default="other")


def test_a_model_needs_a_source() -> None:
    with pytest.raises(ValueError, match="no sources"):
        BaseModel(id="m", title="t", licence="MIT", parameters=1, sources=())


def test_importing_the_catalogue_loads_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import catalogue; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names) - {'catalogue'}))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
