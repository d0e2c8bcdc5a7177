"""The socket that a worker listens on, with what the kernel may hold for each of its connections bounded.

Left to itself the kernel takes some 4 MiB from a writer whose reader has stopped: a stalled reader would show only
after so much, and ten thousand of them would hold 40 GiB.
"""

from __future__ import annotations

import socket

BACKLOG = 4096  # Sanic's own 100 makes a burst of connects wait for seconds
UNSENT_BYTES = 65_536  # high-water mark of the kernel's send queue, for each connection


def listening_socket(host: str, port: int) -> socket.socket:
    """Bound, not yet listening; accepted connections inherit its options. Raises: OSError when the port is taken."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        made.setblocking(False)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
