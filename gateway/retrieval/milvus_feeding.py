"""The thread that feeds Milvus beside the ingest worker, as long as no other process does."""

from __future__ import annotations

import logging
import threading

from gateway.retrieval.milvus_client import Milvus
from gateway.retrieval.milvus_follower import OUTAGE, POLL_S, MilvusFollower
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.storage.sole import SoleRole

ROLE_KEY = 0x6D696C7675730001  # any constant
RETRY_S = 1.0

log = logging.getLogger(__name__)


def open_milvus_feed(settings: Settings, database: Database) -> MilvusFeed:
    milvus = Milvus(settings.milvus_uri, settings.milvus_token, timeout_s=settings.milvus_timeout_s)
    role = SoleRole(database, ROLE_KEY, settings.run_dir / "milvus-feed.lock")
    return MilvusFeed(MilvusFollower(database, milvus), milvus, role)


class MilvusFeed:
    def __init__(self, follower: MilvusFollower, milvus: Milvus, role: SoleRole) -> None:
        self._follower = follower
        self._milvus = milvus
        self._role = role
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="milvus-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends after the piece of work under way, which may be a page of chunks."""
        self._stop.set()
        self._thread.join()
        self._role.release()
        self._milvus.close()

    def _run(self) -> None:
        was_ours = False
        while not self._stop.is_set():
            is_ours = self._is_ours()
            if is_ours and not was_ours:
                log.info("feeding Milvus")
                self._follower.forget()  # another process may have written since
            was_ours = is_ours
            if is_ours:
                self._follower.poll()
            self._stop.wait(POLL_S if is_ours else RETRY_S)

    def _is_ours(self) -> bool:
        try:
            return self._role.is_ours()
        except OUTAGE:
            return False  # the follower of whoever has the role says that the database is away
