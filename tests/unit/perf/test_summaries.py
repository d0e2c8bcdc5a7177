"""What is computed and printed from the rows of a run."""

from __future__ import annotations

import pytest

from perf import generate, relay_report
from perf.profile import name_of
from perf.relay_report import Measured
from perf.relay_text import NUM_CHUNKS
from perf.rows import Row

FIRST_MS = {"bare": 2.0, "parts": 7.0, "service": 9.0, "upstream": 1.0, "litellm": 21.0}
TOOK_S = {"bare": 1.0, "parts": 1.0, "service": 1.25, "upstream": 0.1, "litellm": 20.0}


def measured(*, with_litellm: bool = True) -> Measured:
    arms = [arm for arm in FIRST_MS if with_litellm or arm not in {"upstream", "litellm"}]
    found = [Row(f"relay_rate/{a}", 0, 0, 0, TOOK_S[a], NUM_CHUNKS, 0.1) for a in arms if a in TOOK_S]
    found += [Row(f"relay_first/{a}", 0, 1, 1, 2, NUM_CHUNKS, 1 + FIRST_MS[a] / 1000) for a in arms]
    found += [
        Row("relay_paced/service", turn, turn, turn, turn + 4, NUM_CHUNKS, turn + 0.1) for turn in range(2)
    ]
    profile = {arm: {"gateway": 50.0} for arm in [*TOOK_S, "paced", "steady"]}
    return Measured(found, profile)


def test_the_relay_is_compared_with_the_bare_client_and_with_litellm() -> None:
    ratio = relay_report.summarise(measured())["ratio"]
    assert ratio["service / bare"]["median"] == pytest.approx(0.8)
    assert ratio["service / litellm"]["median"] == pytest.approx(16)


def test_added_time_leaves_the_floor_out_and_names_what_retrieval_takes() -> None:
    summary = relay_report.summarise(measured())
    assert summary["added_first_chunk_p50_ms"] == pytest.approx(
        {"service - bare": 7.0, "service - parts": 2.0, "litellm - upstream": 20.0}
    )
    assert summary["retrieval_p50_ms"] == pytest.approx(5.0)


def test_the_paced_rate_counts_all_tokens_over_the_whole_time() -> None:
    paced = relay_report.summarise(measured())["paced"]
    assert (paced["streams"], paced["tokens_per_s"]) == (1, 2 * NUM_CHUNKS / 5)


@pytest.mark.parametrize("with_litellm", [True, False], ids=["with litellm", "without"])
def test_the_relay_summary_can_be_shown(with_litellm: bool, capsys: pytest.CaptureFixture[str]) -> None:
    relay_report.show(relay_report.summarise(measured(with_litellm=with_litellm)))
    assert ("litellm" in capsys.readouterr().out) is with_litellm


def test_a_tier_over_grpc_is_compared_with_its_engine(capsys: pytest.CaptureFixture[str]) -> None:
    took_s = {"engine": 1.0, "grpc": 1.25, "grpc_each": 2.0}
    found = [
        Row(f"{arm}/{count}", 0, 0, 0, seconds, 100)
        for arm, seconds in took_s.items()
        for count in generate.NUM_STREAMS
    ]
    summary = generate.summarise(found, {})
    assert summary["share_of_engine"]["grpc/8"]["median"] == pytest.approx(0.8)
    generate.show(summary)
    assert "0.50 of the engine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/x/triton_python_backend_stub /dev/shm/l/retrieval/embed/1/model.py p_1 1048576", "stub embed"),
        ("/x/triton_python_backend_stub /dev/shm/l/tiers/my-tier/1/model.py p_1 1048576", "stub my-tier"),
        ("/x/bin/tritonserver --id=triton-0", "tritonserver"),
        ("python -m perf.relay_worker 0", "gateway"),
        ("python -m gateway.app 0", "gateway"),
        ("/x/bin/envoy --config-path c", "envoy"),
        ("/usr/bin/sleep 5", ""),
    ],
)
def test_a_profile_names_processes_by_their_part(command: str, name: str) -> None:
    assert name_of(command.split()) == name
