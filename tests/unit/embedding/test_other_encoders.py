"""Encoders that an operator brings: what can be served is served right, what cannot is refused in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.embedding.embedders import Embedders, Wish
from gateway.embedding.export import EmbedderUnavailable, prepare_from_folder
from gateway.embedding.registry import embedder_folders, embedder_names, prepare_embedders
from gateway.embedding.runtime import SentenceEmbedder
from gateway.settings import SettingsError, load_settings
from gateway.types import DEFAULT_EMBEDDER
from tests.fakes.encoders import DIM, NUM_HEADS, NUM_LAYERS, NUM_POSITIONS, write_encoder

from .reference import ReferenceEmbedder

TEXTS = ["How do I rotate an API key?", "", "The tide comes in twice a day. " * 40, "潮汐门"]


def _say_nothing(_: str) -> None:
    pass


def _built(folder: Path, models_dir: Path) -> SentenceEmbedder:
    return SentenceEmbedder(prepare_from_folder("small", folder, models_dir, _say_nothing), precision="f32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "small")


def _write(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_agree_with_the_reference(folder: Path, tmp_path: Path, pooling: str) -> None:
    if pooling == "cls":
        _write(
            folder,
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        )
    embedder = _built(folder, tmp_path / "models")
    reference = ReferenceEmbedder(
        folder, num_layers=NUM_LAYERS, num_heads=NUM_HEADS, max_tokens=NUM_POSITIONS, pooling=pooling
    )
    expected = np.stack([reference.embed(text) for text in TEXTS])
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dim) == (len(TEXTS), DIM)
    assert (vectors * expected).sum(axis=1).min() > 0.9999


def test_names_with_the_prefix_of_other_checkpoints_are_found(tmp_path: Path) -> None:
    plain = _built(write_encoder(tmp_path / "plain"), tmp_path / "a").embed(TEXTS)
    prefixed = _built(write_encoder(tmp_path / "prefixed", prefix="bert."), tmp_path / "b").embed(TEXTS)
    assert np.allclose(plain, prefixed, atol=1e-5)


def test_a_model_that_tells_questions_from_passages_gets_its_prompts(folder: Path, tmp_path: Path) -> None:
    plain = _built(folder, tmp_path / "a")
    _write(
        folder, "config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": "doc: "}}
    )
    prompted = _built(folder, tmp_path / "b")
    assert np.allclose(prompted.embed(["tide"], "query"), plain.embed(["query: tide"]), atol=1e-5)
    assert np.allclose(prompted.embed(["tide"], "passage"), plain.embed(["doc: tide"]), atol=1e-5)


def test_the_folders_own_length_of_texts_holds(folder: Path, tmp_path: Path) -> None:
    _write(folder, "sentence_bert_config.json", {"max_seq_length": 8})
    embedder = _built(folder, tmp_path / "models")
    head, whole = "one two three four five six", "one two three four five six seven eight"
    assert np.allclose(embedder.embed([head]), embedder.embed([whole]), atol=1e-5)


def test_a_folder_is_built_once_and_again_when_a_file_in_it_has_changed(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = prepare_from_folder("small", folder, tmp_path / "models", said.append)
    assert said
    said.clear()
    assert prepare_from_folder("small", folder, tmp_path / "models", said.append) == first
    assert said == []
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert prepare_from_folder("small", folder, tmp_path / "models", said.append) != first


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: [path.unlink() for path in folder.iterdir()], r"config\.json is missing"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "another architecture": (lambda folder: write_encoder(folder, model_type="roberta"), "'roberta'"),
    "another activation": (lambda folder: write_encoder(folder, hidden_act="relu"), "'relu'"),
    "relative positions": (
        lambda folder: write_encoder(folder, position_embedding_type="relative_key"),
        "absolute",
    ),
    "a size that is no number": (
        lambda folder: write_encoder(folder, hidden_size="wide"),
        "not that of a BERT",
    ),
    "heads that do not fit": (
        lambda folder: write_encoder(folder, num_attention_heads=5),
        "impossible sizes",
    ),
    "another width than the weights": (
        lambda folder: write_encoder(folder, hidden_size=128),
        "does not hold",
    ),
    "more layers than the weights": (
        lambda folder: write_encoder(folder, num_hidden_layers=9),
        "does not hold",
    ),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "a JSON list": (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
    "weights cut short": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "does not hold"),
    "a tokenizer that is none": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "is no tokenizer",
    ),
    "another pooling": (
        lambda folder: _write(folder, "1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        "pools by max_tokens",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    with pytest.raises(EmbedderUnavailable, match=words) as caught:
        prepare_from_folder("small", folder, tmp_path / "models", _say_nothing)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "models").glob("*"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("small", "NAME=FOLDER"),
        ("small=", "NAME=FOLDER"),
        ("a b=/x", "NAME=FOLDER"),
        ("../x=/x", "NAME=FOLDER"),
        ("a=/x,a=/y", "taken"),
        (f"{DEFAULT_EMBEDDER}=/x", "taken"),
    ],
)
def test_a_bad_setting_is_refused_and_shown(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        embedder_folders(load_settings({}, embedders=text))


def test_names_are_listed_with_the_default_first() -> None:
    settings = load_settings({}, embedders="b=/b, a = /a ,")
    assert embedder_names(settings) == [DEFAULT_EMBEDDER, "b", "a"]
    assert embedder_folders(settings)["a"] == Path("/a")


def test_a_folder_that_is_missing_names_the_setting_and_the_embedder(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(model_dir.parent)
    settings = load_settings({}, var=tmp_path, embedders=f"small={tmp_path / 'nowhere'}")
    with pytest.raises(EmbedderUnavailable, match=r"TIDEGATE_EMBEDDERS: small: .*nowhere"):
        prepare_embedders(settings, _say_nothing)


def test_requests_to_several_embedders_get_their_own_vectors(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / model_dir.name).symlink_to(model_dir)
    embedders = Embedders(load_settings({}, var=tmp_path, embedders=f"small={folder}"), _say_nothing)
    wishes = [
        Wish(["a tide", "a gate"]),
        Wish(["a tide"], embedder="small"),
        Wish(["soup"]),
        Wish([], "passage"),
    ]
    found = embedders.embed(wishes)
    assert [each.shape for each in found] == [(2, 384), (1, DIM), (1, 384), (0, 384)]
    alone = [embedders.embed([wish])[0] for wish in wishes[:3]]
    for together, single in zip(found, alone, strict=False):
        assert np.allclose(together, single, atol=2e-2)
    for wish, words in ((Wish(["x"], "poem"), "role"), (Wish(["x"], embedder="none"), "there is no 'none'")):
        with pytest.raises(ValueError, match=words):
            embedders.check(wish)
