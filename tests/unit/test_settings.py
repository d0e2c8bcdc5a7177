from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gateway.settings import Settings, SettingsError, load_settings


def test_an_explicit_value_beats_the_environment_beats_the_default() -> None:
    environ = {"TIDEGATE_PORT": "9000", "TIDEGATE_QUEUE_MAX": "7"}
    settings = load_settings(environ, port=9100, host=None)
    assert (settings.port, settings.queue_max, settings.host) == (9100, 7, "127.0.0.1")


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"TIDEGATE_PROT": "1"}, "TIDEGATE_PROT is not a setting"),
        ({"TIDEGATE_PORT": "high"}, "TIDEGATE_PORT='high' is not a valid int"),
        ({"TIDEGATE_PORT": "0"}, "TIDEGATE_PORT='0' is below the minimum 1"),
        ({"TIDEGATE_AUTH": "maybe"}, "is not one of: development, required"),
        ({"TIDEGATE_CHUNK_CHARS": "100", "TIDEGATE_CHUNK_OVERLAP_CHARS": "100"}, "must be smaller"),
        ({"TIDEGATE_HOST": "0.0.0.0"}, "set TIDEGATE_AUTH=required"),
        ({"TIDEGATE_VECTOR_STORE": "pinecone"}, "is not `faiss` or `milvus:URI`"),
        ({"TIDEGATE_VECTOR_STORE": "milvus:"}, "not a URL such as http://127.0.0.1:19530"),
        ({"TIDEGATE_VECTOR_STORE": "milvus:http://h:port"}, "not a URL such as"),
        ({"TIDEGATE_VECTOR_STORE": "milvus:ftp://h"}, "not a URL such as"),
        ({"TIDEGATE_VECTOR_STORE": "milvus:http://root:pw@h"}, "belong in TIDEGATE_MILVUS_TOKEN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_setting_stops_the_start_with_one_sentence_that_names_it(
    environ: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        load_settings(environ)
    assert "\n" not in str(refused.value)


def test_secrets_do_not_show() -> None:
    settings = load_settings({"TIDEGATE_REDIS_URL": "redis://:hunter2@h/0"})
    assert "hunter2" not in repr(settings)


def test_the_uri_of_milvus_is_what_follows_its_name(tmp_path: Path) -> None:
    def uri(value: str) -> str:
        return load_settings({"TIDEGATE_VECTOR_STORE": value}).milvus_uri

    assert uri("faiss") == ""
    assert uri("milvus:https://m.example:443/tidegate") == "https://m.example:443/tidegate"
    assert uri(f"milvus:{tmp_path}/lite.db") == f"{tmp_path}/lite.db"
    assert Path(uri("milvus:lite.db")).is_absolute()


def test_a_child_process_rebuilds_the_same_settings_from_the_environment(tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path, port=9000, embed_precision="f32", queue_ttl_s=1.5)
    assert load_settings(settings.environment()) == settings


def test_every_setting_has_a_help_that_ends_in_a_full_stop() -> None:
    for spec in fields(Settings):
        assert spec.metadata["help"].endswith("."), spec.name


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "redis_url"
    secret.write_text("redis://:hunter2@h/0\n")
    assert load_settings({"TIDEGATE_REDIS_URL_FILE": str(secret)}).redis_url == "redis://:hunter2@h/0"
    for environ, says in (
        ({"TIDEGATE_REDIS_URL_FILE": str(secret), "TIDEGATE_REDIS_URL": "redis://h"}, "are both set"),
        ({"TIDEGATE_REDIS_URL_FILE": str(tmp_path / "gone")}, "TIDEGATE_REDIS_URL_FILE=.* cannot be read"),
        ({"TIDEGATE_PORT_FILE": str(secret)}, "TIDEGATE_PORT_FILE is not a setting"),
    ):
        with pytest.raises(SettingsError, match=says):
            load_settings(environ)


@pytest.mark.parametrize(
    "text", ["vs_1", "vs_1=", "=5", "vs_1=0", "vs_1=a day", "vs_1=5;vs_2=6", "vs_1=inf", "vs_1=nan"]
)
def test_lives_of_answers_by_collection_are_checked(text: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_CACHE_TTL_COLLECTIONS"):
        load_settings({"TIDEGATE_CACHE_TTL_COLLECTIONS": text})
    found = load_settings({"TIDEGATE_CACHE_TTL_COLLECTIONS": "vs_1=60, vs_2=3600.5,"})
    assert found.ttl_s_of_collections == {"vs_1": 60.0, "vs_2": 3600.5}
