"""What a client may send and how long it is served: bodies, streams, connections, the edge."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    max_body_bytes: int = setting(4 * 2**20, "Largest JSON body (bytes).", minimum=1024)
    max_file_bytes: int = setting(64 * 2**20, "Largest uploaded file (bytes).", minimum=1024)
    max_messages: int = setting(1000, "Most messages in one chat request.", minimum=1)
    max_conversation_messages: int = setting(
        2000, "Most messages that one stored conversation may hold.", minimum=2
    )
    max_question_chars: int = setting(
        32_000, "Longest text of one message (characters).", minimum=1, maximum=32_000
    )
    keepalive_s: float = setting(
        15.0,
        "Silence in a stream (seconds) before a comment is sent; the first one comes within 1 s.",
        minimum=0.05,
        maximum=60,
    )
    drain_s: float = setting(
        20.0, "Time that open requests get to finish when the service stops (seconds).", minimum=0
    )

    slow_reader_s: float = setting(
        30.0,
        "Longest time that one write of up to 64 KiB may wait for its reader (seconds); then its connection is cut.",
        minimum=0.05,
        maximum=300,
    )
    worker_memory_mb: int = setting(
        0,
        "Memory of one gateway worker (MiB) above which it refuses new work; 0 = go by the limit of the container "
        "that it runs in, if there is one.",
        minimum=0,
    )
    edge_processes: int = setting(
        1,
        "Envoy processes that share the public port. One holds about half as many connections as it may open files.",
        minimum=1,
        maximum=6,
    )
    edge_connections: int = setting(
        0,
        "Client connections that one Envoy process holds; 0 = as many as its open files allow.",
        minimum=0,
    )
    edge_requests_per_s: int = setting(
        10_000,
        "Requests that Envoy lets through in a second, from all clients together; it refuses more with 503. "
        "0 = no limit.",
        minimum=0,
        maximum=1_000_000,
    )
    edge_heap_mb: int = setting(
        2048,
        "Memory of one Envoy process (MiB). Near it Envoy gives up idle connections, then refuses requests.",
        minimum=64,
    )
