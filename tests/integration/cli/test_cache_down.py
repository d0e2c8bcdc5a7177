"""`tidegate cache` while the service is down: what waits on disk for its next start can be forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from gateway.supervise.instance import InstanceLock
from gateway.supervise.redis_config import redis_folder, snapshot_path
from tests.integration.cli.conftest import Run


@pytest.fixture
def stopped(bare: Run, workplace: Path) -> Settings:
    """An instance that has ended in order and knows the tenant acme."""
    settings = load_settings({}, var=workplace.parent / "var")
    assert bare("keys", "create", "--tenant", "acme", "--name", "test").code == 0
    redis_folder(settings).mkdir(parents=True)
    snapshot_path(settings).write_bytes(b"answers")
    return settings


def test_a_purge_forgets_all_that_waits_for_the_next_start(bare: Run, stopped: Settings) -> None:
    result = bare("cache", "purge", "--tenant", "acme")
    assert (result.code, "is forgotten" in result.out) == (0, True)
    assert not snapshot_path(stopped).exists()
    assert bare("cache", "purge", "--tenant", "acme").code == 3  # nothing waits any more


def test_a_purge_of_nobody_forgets_nothing(bare: Run, stopped: Settings) -> None:
    assert bare("cache", "purge", "--tenant", "acne").code != 0
    assert snapshot_path(stopped).exists()


def test_while_an_instance_starts_its_file_is_left_alone(bare: Run, stopped: Settings) -> None:
    lock = InstanceLock(stopped)
    assert lock.acquire()
    try:
        assert bare("cache", "purge", "--tenant", "acme").code != 0  # its Redis is not there yet
        assert snapshot_path(stopped).exists()
    finally:
        lock.release()
