"""What a folder holds, whether there is room for it, and the one sentence for everything that is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.checkpoint import inspection
from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.inspection import (
    GIB,
    RUNTIME_BYTES,
    SUPPORTED,
    available_bytes,
    check_can_convert,
    check_fits,
    inspect,
)
from gateway.tier_config import GenerateTier
from tests.fakes.small_tokenizers import write_checkpoint

Usage = namedtuple("Usage", "total used free")


def tier(**fields: Any) -> GenerateTier:
    return GenerateTier(**{"checkpoint": "x", "context_tokens": 1024, "slots": 4, "weights": "f32", **fields})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def index(folder: Path, *names: str) -> None:
    weights = {f"w{number}": name for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def test_sizes_are_read_from_the_headers(folder: Path) -> None:
    found = inspect(folder)
    assert found.model_type == "llama"
    assert not found.is_converted
    assert found.num_weights == 400 * 64
    assert found.num_bytes == (folder / "model.safetensors").stat().st_size
    assert found.kv_values == 2 * 2 * 2 * 16  # keys and values, layers, heads, 64 / 4
    assert (found.vocab_size, found.max_tokens) == (400, 2048)


def test_weights_in_parts_are_taken_together(folder: Path) -> None:
    for number in (1, 2):
        shutil.copy(folder / "model.safetensors", folder / f"part-{number}.safetensors")
    index(folder, "part-1.safetensors", "part-2.safetensors", "part-1.safetensors")
    (folder / "model.safetensors").unlink()
    assert inspect(folder).num_weights == 2 * 400 * 64


def test_a_head_dim_of_its_own_counts(tmp_path: Path) -> None:
    assert inspect(write_checkpoint(tmp_path, head_dim=64, num_key_value_heads=1)).kv_values == 2 * 2 * 1 * 64


def test_a_converted_folder_is_known_by_its_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "openvino_model.xml").write_text("<net/>")
    (folder / "openvino_model.bin").write_bytes(b"x" * 100)
    found = inspect(folder)
    assert found.is_converted
    assert found.num_bytes == 106


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / "model.safetensors", (1, 1)),
        lambda folder: (folder / "chat_template.jinja").write_text("x"),
        lambda folder: write_checkpoint(folder, rope_theta=5.0),
    ],
    ids=["weights", "template", "configuration"],
)
def test_the_key_changes_with_what_is_in_the_folder(folder: Path, change: Callable[[Path], Any]) -> None:
    before = inspect(folder).key
    assert inspect(folder).key == before
    change(folder)
    assert inspect(folder).key != before


def test_the_key_does_not_change_with_the_folders_place(folder: Path) -> None:
    before = inspect(folder).key
    (folder.parent / "link").symlink_to(folder)
    assert inspect(folder.parent / "link").key == before


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def header(raw: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)

    return damage


def content(name: str, raw: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(raw)


def config(**fields: Any) -> Callable[[Path], Any]:
    return lambda folder: write_checkpoint(folder, **fields)


def half_converted(folder: Path) -> None:
    (folder / "openvino_model.xml").touch()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not there": (shutil.rmtree, "does not exist: name the folder"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "configuration is no JSON": (content("config.json", b"{"), "config.json cannot be read as JSON"),
    "unsupported": (config(model_type="bert"), "has architecture `bert`, which is not supported: choose one of glm4"),
    "no architecture": (config(model_type=None), "an architecture that its config.json does not name"),
    "no vocabulary": (config(vocab_size="many"), "config.json has no usable vocab_size"),
    "no layers": (config(num_hidden_layers=0), "config.json has no usable num_hidden_layers"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json: save"),
    "no weights": (no_weights, "has no model.safetensors: copy it again"),
    "pickled weights": (pickled, "pytorch_model.bin is not read, so save the weights as safetensors"),
    "a part is missing": (lambda folder: index(folder, "a.safetensors"), "has no a.safetensors"),
    "a part lies elsewhere": (lambda folder: index(folder, "../model.safetensors"), "has no ../model.safetensors"),
    "no parts": (index, "names no files"),
    "weights cut off": (cut_off, "model.safetensors is damaged: copy it again"),
    "weights empty": (content("model.safetensors", b""), "model.safetensors is damaged"),
    "header too long": (content("model.safetensors", b"\xff" * 64), "model.safetensors is damaged"),
    "header is no JSON": (header(b"{{{"), "model.safetensors is damaged"),
    "header is no object": (header(b"[1]"), "model.safetensors is damaged"),
    "header without offsets": (header(b'{"w": {"shape": [1]}}'), "model.safetensors is damaged"),
    "header with odd shape": (header(b'{"w": {"shape": ["x"], "data_offsets": [0, 0]}}'), "is damaged"),
    "half converted": (half_converted, "has openvino_model.xml but no openvino_model.bin"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_wrong_is_one_sentence(folder: Path, damage: Callable[[Path], Any], sentence: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        inspect(folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder: name the folder"):
        inspect(folder / "config.json")


def test_every_supported_architecture_is_let_in(tmp_path: Path) -> None:
    for name in SUPPORTED:
        assert inspect(write_checkpoint(tmp_path / name, model_type=name)).model_type == name


# Room


def test_a_context_beyond_the_model_names_the_field(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"takes at most 2048 tokens: lower context_tokens, which is 2049$"
    ):
        check_fits(inspect(folder), tier(context_tokens=2049))


def test_what_is_needed_is_weights_cache_and_the_runtime(folder: Path) -> None:
    needed = check_fits(inspect(folder), tier())
    assert needed == 400 * 64 * 4 + 128 * 4 * 4 * 1024 + RUNTIME_BYTES
    assert check_fits(inspect(folder), tier(), num_replicas=3) == 3 * needed
    assert check_fits(inspect(folder), tier(weights="int8")) < needed


def test_too_little_memory_says_how_much_and_what_to_lower(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "available_bytes", lambda: GIB)
    with pytest.raises(CheckpointError) as caught:
        check_fits(inspect(folder), tier(slots=1024, context_tokens=2048))
    text = str(caught.value)
    assert "needs 1.3 GiB of memory (weights 0.0 GiB, cache 1.0 GiB for 1024 slots of 2048 tokens)" in text
    assert text.endswith("1.0 GiB are available: lower slots or context_tokens, or choose smaller weights")


def test_what_other_tiers_take_is_not_available(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "available_bytes", lambda: GIB)
    check_fits(inspect(folder), tier())
    with pytest.raises(CheckpointError, match=r"0\.1 GiB are available"):
        check_fits(inspect(folder), tier(), taken_bytes=int(0.9 * GIB))


def test_a_conversion_without_memory_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "available_bytes", lambda: 2**20)
    with pytest.raises(CheckpointError, match=r"^the conversion of .* needs 0\.3 GiB of memory"):
        check_can_convert(inspect(folder), tier(), folder.parent)


def test_a_conversion_without_disk_names_the_setting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 1000))
    with pytest.raises(CheckpointError, match=r"0\.0 GiB are free: make room, or set TIDEGATE_VAR"):
        check_can_convert(inspect(folder), tier(), folder.parent / "not" / "there" / "yet")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(str(300 * 2**20))
    (tmp_path / "memory.current").write_text(str(200 * 2**20))
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {50 * 2**20}\n")
    assert available_bytes() == 150 * 2**20


@pytest.mark.parametrize("limit", ["max\n", None], ids=["no limit", "no cgroup"])
def test_without_a_containers_limit_it_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None
) -> None:
    monkeypatch.setattr(inspection, "CGROUP", tmp_path)
    if limit:
        (tmp_path / "memory.max").write_text(limit)
    assert available_bytes() > 100 * 2**20
