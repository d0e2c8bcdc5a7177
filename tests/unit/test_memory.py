"""The watermark on memory: when it refuses, when it takes work again, and what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import AdmissionError
from gateway.memory import (
    LOOK_S,
    UNKNOWN_RETRY_S,
    MemoryGuard,
    Reading,
    container_gauge,
    memory_gauge,
    process_gauge,
)

MIB = 2**20


class Machine:
    """A gauge of 1000 bytes and a clock."""

    def __init__(self) -> None:
        self.used, self.now, self.num_looks = 0, 50.0, 0
        self.guard = MemoryGuard(self.look, lambda: self.now)

    def look(self) -> Reading:
        self.num_looks += 1
        return Reading(self.used, 1000)

    def then(self, used: int, after_s: float = LOOK_S) -> bool:
        self.used, self.now = used, self.now + after_s
        return self.guard.is_full()


def test_it_refuses_from_the_high_mark_until_below_the_low_one() -> None:
    machine = Machine()
    seen = [machine.then(used) for used in (800, 899, 900, 880, 850, 849, 880, 899, 900)]
    assert seen == [False, False, True, True, True, False, False, False, True]


def test_a_refusal_is_ours_and_says_when_to_come_back() -> None:
    machine = Machine()
    machine.then(950)
    with pytest.raises(AdmissionError) as caught:
        machine.guard.check()
    error = caught.value
    assert (error.status, error.code, error.retry_after_s) == (503, "overloaded", UNKNOWN_RETRY_S)
    assert "950" not in error.message


def test_the_delay_follows_how_fast_memory_falls() -> None:
    machine = Machine()
    machine.then(980)
    machine.then(970, after_s=1.0)  # 10 a second, and 120 to go until the low mark
    with pytest.raises(AdmissionError) as caught:
        machine.guard.check()
    assert caught.value.retry_after_s == pytest.approx(12.0)


def test_a_new_surge_is_not_judged_by_the_peak_of_an_old_one() -> None:
    machine = Machine()
    machine.then(990)
    assert not machine.then(100)
    machine.then(910, after_s=100)
    with pytest.raises(AdmissionError) as caught:
        machine.guard.check()
    assert caught.value.retry_after_s == UNKNOWN_RETRY_S


def test_it_looks_no_more_often_than_it_must() -> None:
    machine = Machine()
    for _ in range(100):
        machine.then(10, after_s=LOOK_S / 10)
    assert machine.num_looks <= 11


def test_without_a_limit_nothing_is_refused() -> None:
    guard = MemoryGuard(None)
    guard.check()
    assert (guard.is_full(), guard.share()) == (False, 0.0)


def test_the_share_in_use_is_told() -> None:
    machine = Machine()
    machine.then(400)
    assert machine.guard.share() == 0.4


def test_this_process_has_a_size() -> None:
    gauge = process_gauge(10 * 2**30)
    if gauge is None:
        pytest.skip("this system tells no process its size")
    used, limit = gauge()
    assert 5 * MIB < used < limit == 10 * 2**30
    set_by_hand = memory_gauge(7)
    assert set_by_hand is not None
    assert set_by_hand().limit_bytes == 7 * MIB


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_a_container_of_today_is_read(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/pod/worker\n")
    root = tmp_path / "fs"
    write(root / "pod" / "worker", memory__max="max\n")
    write(
        root / "pod",
        memory__max="1000\n",
        memory__current="700\n",
        memory__stat="anon 500\ninactive_file 150\nactive_file 50\n",
    )
    gauge = container_gauge(tmp_path / "cgroup", root)
    assert gauge is not None
    assert gauge() == Reading(550, 1000)


def test_a_container_of_the_first_kind_is_read_though_its_own_path_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("5:devices:/x\n4:cpu,memory:/docker/abc\n0::/\n")
    root = tmp_path / "fs"
    write(
        root / "memory",
        memory__limit_in_bytes="2000\n",
        memory__usage_in_bytes="1500\n",
        memory__stat="inactive_file 1\ntotal_inactive_file 600\n",
    )
    gauge = container_gauge(tmp_path / "cgroup", root)
    assert gauge is not None
    assert gauge() == Reading(900, 2000)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)], ids=["v2", "v1"])
def test_a_container_without_a_limit_has_no_gauge(tmp_path: Path, limit: str) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/\n0::/\n")
    write(tmp_path / "fs", memory__max=limit)
    write(tmp_path / "fs" / "memory", memory__limit_in_bytes=limit)
    assert container_gauge(tmp_path / "cgroup", tmp_path / "fs") is None


def test_a_system_without_control_groups_has_no_gauge(tmp_path: Path) -> None:
    assert container_gauge(tmp_path / "none", tmp_path) is None
