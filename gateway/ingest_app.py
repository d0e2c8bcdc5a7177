"""The ingest worker's process: puts the parts together and works until told to stop. `python -m gateway.ingest_app`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from redis.asyncio import Redis

from gateway.errors import UpstreamUnavailable
from gateway.ingest.reembed import Reembedder
from gateway.ingest.worker import IngestWorker
from gateway.logs import set_up_logging
from gateway.priority import give_way
from gateway.retrieval.stores import Feed, open_feed
from gateway.retrieval.triton_models import TritonEmbedder
from gateway.settings import Settings, load_settings
from gateway.storage import ledger
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.storage.redis_channel import follow_channel
from gateway.storage.redis_client import connect_redis
from gateway.tensors import EMBED_PASSAGES
from gateway.triton import TritonClient

log = logging.getLogger("tidegate.ingest_app")

WAKE_CHANNEL = "tidegate:ingest"
# Questions come first. But a little only: a worker without the processor would hold the database's write lock, for
# which the gateway waits. (Its model has no such lock and gives way entirely.)
NICENESS = 5
RETRY_S = 1.0
STALE_PART_S = 24 * 3600.0  # longer than any upload
PRUNE_EVERY_S = 3600.0
PRUNE_BATCH = 1000  # receipts in one transaction: it holds the write lock
TURN_FILE = "ingest.turn"  # its age says when the worker last went round: what the probe in a cluster asks
TURN_EVERY_S = 5.0
PRUNE_PAUSE_S = 0.05  # for other writers, between two batches


async def serve(settings: Settings) -> None:
    """Start, work, stop. Database, Triton and Redis may all come later than we do."""
    stop, wake, turned = asyncio.Event(), asyncio.Event(), turn_file(settings.run_dir / TURN_FILE)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    database, blobs = Database(settings.sql_url), BlobStore(settings.files_dir)
    triton, redis = TritonClient(settings.triton_target), connect_redis(settings)
    beside = {asyncio.create_task(_listen(redis, wake))}
    feed: Feed | None = None
    try:
        await asyncio.to_thread(blobs.remove_stale_parts, STALE_PART_S)
        if await _migrated(database, stop, turned):
            feed = open_feed(settings, database)
            if feed is not None:
                feed.start()
            log.info("ready")
            beside.add(asyncio.create_task(_prune_receipts(database)))
            embedder = TritonEmbedder(triton, model=EMBED_PASSAGES)
            beside.add(asyncio.create_task(Reembedder(database, embedder, settings).run(stop)))
            worker = IngestWorker(database, blobs, embedder, settings)
            await worker.run(stop, wake, turned)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        if feed is not None:
            await asyncio.to_thread(feed.close)
        await redis.aclose()
        await triton.close()
        database.close()
        (settings.run_dir / TURN_FILE).unlink(missing_ok=True)
        log.info("stopped")


def turn_file(path: Path, clock: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """What touches that file when called, every TURN_EVERY_S at most. Raises nothing: a full disk stops no work."""
    last = float("-inf")

    def turned() -> None:
        nonlocal last
        if clock() - last < TURN_EVERY_S:
            return
        last = clock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            log.warning("%s cannot be touched: %s", path, error)

    return turned


async def _migrated(database: Database, stop: asyncio.Event, turned: Callable[[], None]) -> bool:
    """Wait for the database; False when told to stop before it came."""
    while not stop.is_set():
        turned()
        try:
            await asyncio.to_thread(database.migrate)
        except UpstreamUnavailable as error:
            log.warning("waiting for the database: %s", error.detail)
            await asyncio.sleep(RETRY_S)
        else:
            return True
    return False


async def _listen(redis: Redis, wake: asyncio.Event) -> None:
    """Wake the worker when a gateway tells of a new file. Without Redis its polling finds the file as well."""

    async def look() -> None:
        wake.set()

    await follow_channel(redis, WAKE_CHANNEL, lambda _: wake.set(), look)


async def _prune_receipts(database: Database) -> None:
    """Delete receipts that are older than ledger.RECEIPT_DAYS, now and every hour. Raises nothing."""

    def prune() -> int:
        before = int(time.time()) - ledger.RECEIPT_DAYS * 24 * 3600
        with database.write() as conn:
            return ledger.prune(conn, before, PRUNE_BATCH)

    while True:
        try:
            count = await asyncio.to_thread(prune)
        except Exception:
            log.exception("old receipts are not pruned; next try in %g s", PRUNE_EVERY_S)
            count = 0
        if count:
            log.info("old receipts pruned: %d", count)
        await asyncio.sleep(PRUNE_PAUSE_S if count == PRUNE_BATCH else PRUNE_EVERY_S)


def main() -> int:
    settings = load_settings()
    set_up_logging(settings, "ingest", sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each of its plugins
    give_way(NICENESS)
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
