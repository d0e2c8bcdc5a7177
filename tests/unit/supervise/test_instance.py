"""Lock, secrets and the instance file of a var folder."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from gateway.supervise import credentials
from gateway.supervise.instance import InstanceLock, all_ports, is_running, read_instance, write_instance


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({}, var=tmp_path / "var")


def test_a_folder_is_locked_by_one_instance_only(settings: Settings) -> None:
    first, second = InstanceLock(settings), InstanceLock(settings)
    assert first.acquire()
    assert is_running(settings)
    assert not second.acquire()
    first.release()
    assert not is_running(settings)
    assert second.acquire()
    second.release()


def test_two_who_ask_at_once_do_not_take_each_other_for_an_instance(settings: Settings) -> None:
    settings.run_dir.mkdir(parents=True)
    with (settings.run_dir / "lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_running(settings)


def test_a_start_waits_for_one_who_only_asks(settings: Settings) -> None:
    settings.run_dir.mkdir(parents=True)
    with (settings.run_dir / "lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, fcntl.flock, (asking, fcntl.LOCK_UN))
        timer.start()
        lock = InstanceLock(settings)
        assert lock.acquire()
        timer.join()
    lock.release()


def test_a_released_lock_leaves_no_file(settings: Settings) -> None:
    lock = InstanceLock(settings)
    lock.acquire()
    lock.release()
    assert list(settings.run_dir.iterdir()) == []


def test_a_lock_file_left_by_a_killed_instance_is_no_obstacle(settings: Settings) -> None:
    settings.run_dir.mkdir(parents=True)
    (settings.run_dir / "lock").touch()
    assert not is_running(settings)
    lock = InstanceLock(settings)
    assert lock.acquire()
    lock.release()


def test_a_secret_is_made_once_and_private(settings: Settings) -> None:
    first = credentials.secret(settings, "redis")
    assert credentials.secret(settings, "redis") == first
    assert len(first) == 48
    path = settings.var / "secrets" / "redis"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["redis"]


def test_the_development_key_looks_like_a_key(settings: Settings) -> None:
    assert credentials.secret(settings, "dev-key").startswith("tg-")


def test_a_private_file_replaces_an_open_one(settings: Settings) -> None:
    settings.var.mkdir()
    path = settings.var / "conf"
    path.write_text("old")
    credentials.write_private(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)


def test_the_instance_file_says_who_and_where(settings: Settings) -> None:
    settings.run_dir.mkdir(parents=True)
    assert read_instance(settings) is None
    write_instance(settings)
    instance = read_instance(settings)
    assert instance is not None
    assert instance["ports"]["public"] == settings.port


def test_no_two_parts_share_a_port(tmp_path: Path) -> None:
    ports = all_ports(load_settings({}, var=tmp_path, gateway_workers=8, triton_replicas=4))
    assert len(set(ports.values())) == len(ports) == 5 + 2 * 8 + 16


def test_a_redis_of_the_operators_own_needs_no_port(tmp_path: Path) -> None:
    assert "redis" not in all_ports(load_settings({}, var=tmp_path, redis_url="redis://elsewhere:6379/0"))
