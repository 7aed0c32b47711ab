"""Adapter folders that others wrote, and the few adapters that are in memory."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from worker.serving.adapters import AdapterRegistry
from worker.serving.errors import AdapterInvalid, AdapterNameTaken, InvalidRequest, ModelNotFound
from worker.serving.loading import Served

Put = Callable[..., Path]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
A_NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def registry(served: Served, storage: Path) -> AdapterRegistry:
    return AdapterRegistry(
        decoder=served.engine.decoder, base_model="tiny", root=storage, max_loaded=2, max_bytes=1 << 20
    )


def _edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def _edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


class TestWhatIsRefused:
    """Every refusal is AdapterInvalid and leaves nothing registered."""

    @pytest.mark.parametrize(
        "edit",
        [
            lambda tensors: tensors.update({A_NAME: torch.zeros(4, 47)}),
            lambda tensors: tensors.update({A_NAME: torch.zeros(5, 48)}),
            lambda tensors: tensors.update({A_NAME: torch.zeros(4, 48, dtype=torch.int32)}),
            lambda tensors: tensors.update({A_NAME: torch.full((4, 48), torch.nan)}),
            lambda tensors: tensors.pop(A_NAME),
            lambda tensors: tensors.update({A_NAME.replace("layers.0", "layers.3"): torch.zeros(4, 48)}),
            lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.zeros(4, 48)}),
            lambda tensors: tensors.update({A_NAME.replace("q_proj", "z_proj"): torch.zeros(4, 48)}),
            lambda tensors: tensors.clear(),
        ],
        ids=["size", "rank", "dtype", "nan", "lone", "layer", "stray", "module", "empty"],
    )
    def test_tensors_that_do_not_fit(self, registry: AdapterRegistry, put_adapter: Put, edit: Any) -> None:
        _edit_weights(put_adapter("a", 1), edit)
        with pytest.raises(AdapterInvalid):
            registry.register("a", "a")
        assert registry.registered() == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"peft_type": "IA3"},
            {"base_model_name_or_path": "another-model"},
            {"r": 0},
            {"r": "4"},
            {"lora_alpha": float("inf")},
            {"use_dora": True},
            {"bias": "all"},
            {"modules_to_save": ["lm_head"]},
            {"rank_pattern": {"q_proj": 2}},
            {"init_lora_weights": "pissa"},
            {"trust_remote_code": True},
            {"a_future_option": "on"},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_options_that_are_not_computed(
        self, registry: AdapterRegistry, put_adapter: Put, changes: dict[str, object]
    ) -> None:
        _edit_config(put_adapter("a", 1), **changes)
        with pytest.raises(AdapterInvalid):
            registry.register("a", "a")

    def test_a_future_option_that_is_off_is_no_obstacle(
        self, registry: AdapterRegistry, put_adapter: Put
    ) -> None:
        _edit_config(put_adapter("a", 1), a_future_option=None, another={})
        registry.register("a", "a")
        assert registry.find("a") is not None

    def test_a_pickle_is_never_read(
        self, registry: AdapterRegistry, put_adapter: Put, tmp_path: Path
    ) -> None:
        """Neither under its usual name nor under that of the safetensors file."""
        trap = tmp_path / "trap"
        folder = put_adapter("a", 1)

        class Payload:
            def __reduce__(self) -> tuple[object, ...]:
                return (Path.touch, (trap,))

        (folder / WEIGHTS).write_bytes(pickle.dumps(Payload()))
        with pytest.raises(AdapterInvalid):
            registry.register("a", "a")
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
        with pytest.raises(AdapterInvalid):
            registry.register("a", "a")
        assert not trap.exists()

    def test_folders_outside_the_storage_directory(
        self, registry: AdapterRegistry, peft_folder: Put, put_adapter: Put, storage: Path
    ) -> None:
        """By absolute path, dots, a link, or the root itself; one that isn't there looks the same."""
        outside = peft_folder(1)
        (storage / "link").symlink_to(outside, target_is_directory=True)
        put_adapter("inside", 1)
        relative = [f"../{outside.name}", "inside/../../x", "link", ".", "nothing-here", "a\0b", ""]
        messages = set()
        for path in [str(outside), *relative]:
            with pytest.raises(AdapterInvalid) as caught:
                registry.register("a", path)
            messages.add(caught.value.message)
        assert len(messages) == 1

    def test_files_that_are_links(
        self, registry: AdapterRegistry, put_adapter: Put, peft_folder: Put
    ) -> None:
        folder = put_adapter("a", 1)
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(peft_folder(1) / WEIGHTS)
        with pytest.raises(AdapterInvalid):
            registry.register("a", "a")

    def test_files_larger_than_the_limit(self, served: Served, storage: Path, put_adapter: Put) -> None:
        put_adapter("a", 1)
        small = AdapterRegistry(
            decoder=served.engine.decoder, base_model="tiny", root=storage, max_loaded=1, max_bytes=1000
        )
        with pytest.raises(AdapterInvalid):
            small.register("a", "a")

    @pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000])
    def test_a_config_that_is_no_json_object(
        self, registry: AdapterRegistry, put_adapter: Put, content: bytes
    ) -> None:
        (put_adapter("a", 1) / CONFIG).write_bytes(content)
        with pytest.raises(AdapterInvalid):
            registry.register("a", "a")

    @pytest.mark.parametrize("name", ["", "tiny", "x" * 257, "a\nb"])
    def test_names(self, registry: AdapterRegistry, put_adapter: Put, name: str) -> None:
        put_adapter("a", 1)
        with pytest.raises(InvalidRequest):
            registry.register(name, "a")


class TestNames:
    """What a name stands for."""

    def test_registering_twice_changes_nothing(self, registry: AdapterRegistry, put_adapter: Put) -> None:
        put_adapter("a", 1)
        assert registry.register("one", "a") == registry.register("one", "a")

    def test_a_name_is_not_silently_given_to_other_content(
        self, registry: AdapterRegistry, put_adapter: Put
    ) -> None:
        put_adapter("a", 1)
        put_adapter("b", 2)
        registry.register("one", "a")
        with pytest.raises(AdapterNameTaken):
            registry.register("one", "b")
        registry.unregister("one")
        registry.register("one", "b")

    def test_unknown_names(self, registry: AdapterRegistry) -> None:
        with pytest.raises(ModelNotFound):
            registry.load("one")
        with pytest.raises(ModelNotFound):
            registry.unregister("one")


class TestMemory:
    """At most two adapters are in memory."""

    def test_the_least_recently_used_leaves_and_comes_back(
        self, registry: AdapterRegistry, put_adapter: Put
    ) -> None:
        for seed, name in enumerate("abc"):
            put_adapter(name, seed)
        registry.register("a", "a")
        registry.register("b", "b")
        first = registry.in_memory("a")
        registry.register("c", "c")
        assert registry.loaded_names() == ["a", "c"]
        assert registry.load("b").name == "b"
        assert registry.loaded_names() == ["c", "b"]
        again = registry.load("a")
        assert first is not None
        assert again.digest == first.digest

    def test_files_that_changed_are_not_loaded_under_the_old_name(
        self, registry: AdapterRegistry, put_adapter: Put
    ) -> None:
        folder = put_adapter("a", 1)
        registry.register("a", "a")
        for seed, name in ((2, "b"), (3, "c")):
            put_adapter(name, seed)
            registry.register(name, name)
        _edit_weights(folder, lambda tensors: tensors[A_NAME].add_(1))
        with pytest.raises(AdapterInvalid):
            registry.load("a")
        shutil.rmtree(folder)
        with pytest.raises(AdapterInvalid):
            registry.load("a")
