from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import SettingsError, load_settings
from gateway.tier_config import api_key, configured_tiers, generate_tiers, upstream_tiers


def tiers(tmp_path: Path, text: str) -> list[object]:
    path = tmp_path / "tiers.toml"
    path.write_text(text)
    return list(generate_tiers(load_settings({}, var=tmp_path, tiers_file=str(path))))


def test_no_setting_means_no_generative_tier(tmp_path: Path) -> None:
    assert generate_tiers(load_settings({}, var=tmp_path)) == []


def test_one_checkpoint_is_the_tier_generate() -> None:
    (tier,) = generate_tiers(load_settings({"TIDEGATE_CHECKPOINT": "/models/x"}))
    assert (tier.name, tier.checkpoint, tier.weights) == ("generate", "/models/x", "int8")


def test_a_file_names_several_in_its_order_and_paths_count_from_it(tmp_path: Path) -> None:
    found = tiers(
        tmp_path, '[small]\ncheckpoint = "a"\nslots = 3\n[large]\ncheckpoint = "/m/b"\nweights = "f32"\n'
    )
    assert [(t.name, t.checkpoint, t.slots, t.weights) for t in found] == [  # type: ignore[attr-defined]
        ("small", str(tmp_path / "a"), 3, "int8"),
        ("large", "/m/b", 8, "f32"),
    ]


def test_slots_are_enough_for_a_permit_in_every_worker(tmp_path: Path) -> None:
    path = tmp_path / "tiers.toml"
    path.write_text('[small]\ncheckpoint = "a"\nslots = 1\n')
    settings = load_settings({}, var=tmp_path, tiers_file=str(path), gateway_workers=5, triton_replicas=2)
    assert [tier.slots for tier in generate_tiers(settings)] == [3]


UPSTREAM = '[large]\nbase_url = "http://127.0.0.1:8000/v1/"\nmodel = "m"\n'


def test_a_tier_on_another_server_stands_beside_one_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "tiers.toml"
    path.write_text(
        UPSTREAM + 'slots = 3\ntokenizer = "tok"\n[small]\ncheckpoint = "a"\nfallback = ["large", "fast"]\n'
    )
    settings = load_settings({}, var=tmp_path, tiers_file=str(path), gateway_workers=5, triton_replicas=4)
    assert [tier.name for tier in configured_tiers(settings)] == ["large", "small"]
    assert [tier.fallback for tier in generate_tiers(settings)] == [("large", "fast")]
    (tier,) = upstream_tiers(settings)
    assert (tier.base_url, tier.model, tier.fallback) == ("http://127.0.0.1:8000/v1", "m", ("deep", "fast"))
    assert (tier.slots, tier.tokenizer) == (
        5,
        str(tmp_path / "tok"),
    )  # one for each worker, whatever Triton has


def test_a_key_comes_from_the_environment_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiers.toml"
    path.write_text(UPSTREAM + 'api_key_env = "LARGE_KEY"\n')
    (tier,) = upstream_tiers(load_settings({}, var=tmp_path, tiers_file=str(path)))
    assert api_key(tier, {"LARGE_KEY": " sk-1 \n"}) == "sk-1"
    for environ in ({}, {"LARGE_KEY": ""}, {"LARGE_KEY": "sk-1\r\nx: y"}, {"LARGE_KEY": "sk-ü"}):
        with pytest.raises(SettingsError, match=r"'large'.*LARGE_KEY") as caught:
            api_key(tier, environ)
        assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[small", "is not TOML"),
        ("[small]\nslots = 3", "[small]: Object missing required field `checkpoint`"),
        ('[small]\ncheckpoint = "a"\nslot = 3', "[small]: Object contains unknown field `slot`"),
        ('[small]\ncheckpoint = "a"\nslots = 0', "`$.slots`"),
        ('[small]\ncheckpoint = "a"\nweights = "int2"', "`$.weights`"),
        ('[fast]\ncheckpoint = "a"', "[fast]: that name is taken"),
        ('["a b"]\ncheckpoint = "a"', "[a b] is no name for a tier"),
        ('["A"]\ncheckpoint = "a"', "[A] is no name for a tier"),
        ('[s]\ncheckpoint = "a"\nmax_tokens = 99\ncontext_tokens = 99', "max_tokens must be smaller"),
        ("small = 3", "[small]: Expected `object`"),
        ('[s]\nbase_url = "http://h/v1"', "[s]: Object missing required field `model`"),
        ('[s]\nbase_url = "http://h/v1"\nmodel = ""', "[s]: model is empty"),
        ('[s]\nbase_url = "http://h/v1"\nmodel = "m"\ncheckpoint = "a"', "unknown field `checkpoint`"),
        ('[s]\nbase_url = "ftp://h/v1"\nmodel = "m"', "base_url is not a plain http or https URL"),
        ('[s]\nbase_url = "http://u:p@h/v1"\nmodel = "m"', "base_url is not a plain"),
        ('[s]\nbase_url = "http://h/v1?k=1"\nmodel = "m"', "base_url is not a plain"),
        ('[s]\nbase_url = "http://h:x/v1"\nmodel = "m"', "base_url is not a plain"),
        ('[s]\nbase_url = "http://h/v1"\nmodel = "m"\nproxy = "socks5://p"', "proxy is not a plain"),
        ('[s]\nbase_url = "http://h/v1"\nmodel = "m"\napi_key_env = "sk-123"', "api_key_env is no name"),
        (
            '[s]\nbase_url = "http://h/v1"\nmodel = "m"\napi_key_env = "TIDEGATE_X"',
            "may not begin with TIDEGATE_",
        ),
        ('[s]\nbase_url = "http://h/v1"\nmodel = "m"\nfirst_token_s = 0', "`$.first_token_s`"),
        ('[s]\ncheckpoint = "a"\nfallback = ["s"]', "[s]: fallback names 's'"),
        ('[s]\ncheckpoint = "a"\nfallback = ["deep", "deep"]', "fallback names 'deep'"),
        ('[s]\ncheckpoint = "a"\nfallback = ["auto"]', "there are: fast, deep)"),
    ],
    ids=lambda value: value[:30],
)
def test_a_bad_file_is_told_with_setting_tier_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_TIERS_FILE") as caught:
        tiers(tmp_path, text)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_missing_file_and_two_settings_at_once_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"TIDEGATE_TIERS_FILE=/none cannot be read: No such file"):
        generate_tiers(load_settings({"TIDEGATE_TIERS_FILE": "/none"}))
    with pytest.raises(SettingsError, match="are both set"):
        generate_tiers(load_settings({"TIDEGATE_TIERS_FILE": "/none", "TIDEGATE_CHECKPOINT": "/m"}))


def test_the_example_of_a_gpu_box_is_a_tiers_file(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples" / "tiers-gpu.toml"
    settings = load_settings({}, var=tmp_path, tiers_file=str(path), gateway_workers=1)
    small, large = generate_tiers(settings)
    assert (small.name, small.engine, small.tensor_parallel) == ("small", "tensorrt_llm", 1)
    assert (large.name, large.tensor_parallel, large.kv_cache) == ("large", 2, "fp8")
    assert large.fallback[0] == "small"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("tensor_parallel = 2", "tensor_parallel does not go with engine 'openvino'"),
        ('kv_cache = "fp8"', "kv_cache does not go with engine 'openvino'"),
        ('engine = "vllm"\nweights = "int4"', "weights does not go with engine 'vllm', a GPU engine takes"),
        ('engine = "vllm"\nnum_threads = 4', "num_threads does not go with engine 'vllm'"),
        ('engine = "exllama"', "Invalid enum value 'exllama'"),
        ('engine = "vllm"\ngpu_memory = 1.0', "`float` < 1.0"),
    ],
)
def test_a_field_of_the_other_kind_of_engine_is_refused(tmp_path: Path, fields: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=r"TIDEGATE_TIERS_FILE=.*\[small\]") as caught:
        tiers(tmp_path, f'[small]\ncheckpoint = "a"\n{fields}\n')
    assert sentence in str(caught.value)
