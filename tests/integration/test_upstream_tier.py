"""A tier on another server as the worker is put together: from the tiers file and a key in the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import build
from gateway.checkpoint.errors import CheckpointError
from gateway.settings import Settings, SettingsError, load_settings
from gateway.supervise import preflight, render
from gateway.types import Inquiry, Tenant
from tests.fakes.engines import PASSAGES
from tests.fakes.openai_server import running_openai
from tests.fakes.small_tokenizers import write_checkpoint

KEY = "sk-secret-987654321"


def settings_of(tmp_path: Path, models_dir: Path, url: str, more: str = "") -> Settings:
    path = tmp_path / "tiers.toml"
    path.write_text(
        f'[large]\nbase_url = "{url}"\nmodel = "m"\nslots = 6\napi_key_env = "LARGE_KEY"\nfallback = ["fast"]\n{more}'
    )
    var = tmp_path / "var"
    var.mkdir(exist_ok=True)
    if not (var / "models").exists():
        (var / "models").symlink_to(models_dir)
    return load_settings(
        {}, var=var, tiers_file=str(path), gateway_workers=1, redis_url="redis://127.0.0.1:1/0"
    )


async def test_a_worker_offers_it_and_it_answers(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LARGE_KEY", KEY)
    async with running_openai() as server:
        services, triton = await build(settings_of(tmp_path, models_dir, server.url))
        tier = services.pipeline.tiers.tiers["large"]
        assert (tier.slots, tier.fallback, tier.is_remote, tier.is_generative) == (6, ("fast",), True, True)
        assert tier in services.pipeline.tiers.offered(Tenant("t"))
        answer = services.upstreams["large"].answer(Inquiry(question="What?"), PASSAGES, timeout_s=10)
        assert "".join([delta.text async for delta in answer]) == "A tide gate holds back the surge [1]."
        assert KEY in server.heads[0]
        shown = services.metrics.render().decode()
        assert 'tidegate_upstream_calls_total{result="ok",tier="large"} 1.0' in shown
        assert 'tidegate_circuit_open{tier="large"} 0.0' in shown
        await services.upstreams["large"].close()
        await triton.close()


async def test_the_models_own_tokenizer_counts_exactly(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LARGE_KEY", KEY)
    write_checkpoint(tmp_path / "tokens")
    counts = {}
    async with running_openai() as server:
        server.usage = None
        for more in ("", 'tokenizer = "tokens"\n'):
            settings = settings_of(tmp_path, models_dir, server.url, more)
            services, triton = await build(settings)
            answer = services.upstreams["large"].answer(Inquiry(question="What?"), PASSAGES, timeout_s=10)
            counts[more] = [delta async for delta in answer][-1].num_input_tokens
            await services.upstreams["large"].close()
            await triton.close()
    assert len(set(counts.values())) == 2
    with pytest.raises(CheckpointError):
        await build(settings_of(tmp_path, models_dir, "http://127.0.0.1:1/v1", 'tokenizer = "none"\n'))


async def test_without_its_key_nothing_starts_and_doctor_says_why(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, models_dir, "http://127.0.0.1:1/v1")
    monkeypatch.delenv("LARGE_KEY", raising=False)
    with pytest.raises(SettingsError, match="LARGE_KEY"):
        await build(settings)
    (check,) = preflight.check_tiers(settings)
    assert not check.ok
    assert "LARGE_KEY" in check.sentence()
    monkeypatch.setenv("LARGE_KEY", KEY)
    (check,) = preflight.check_tiers(settings)
    assert (check.ok, check.detail) == (True, "m at http://127.0.0.1:1/v1, with a key")
    for more, said in (('ca_file = "none.pem"\n', "none.pem"), ('tokenizer = "none"\n', "none")):
        (check,) = preflight.check_tiers(settings_of(tmp_path, models_dir, "http://127.0.0.1:1/v1", more))
        assert not check.ok
        assert said in check.detail


def test_the_key_reaches_the_gateways_workers_alone_and_no_other_variable_does(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LARGE_KEY", KEY)
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    settings = settings_of(tmp_path, models_dir, "http://127.0.0.1:1/v1")
    environment = render.child_environment(settings)
    assert environment["LARGE_KEY"] == KEY
    assert "OTHER_KEY" not in environment
    rendered = render.render_supervisor(settings, "password")
    assert KEY not in rendered
    sections = {part.partition("]")[0]: part for part in rendered.split("[program:")[1:]}
    told = {name: 'environment=LARGE_KEY=""' in part for name, part in sections.items()}
    assert told == {name: not name.startswith("gateway-") for name in sections}
    assert {"triton-0", "envoy", "ingest", "gateway-0"} <= told.keys()
