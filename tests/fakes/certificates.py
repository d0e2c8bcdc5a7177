"""Certificates of servers in tests, by openssl: nobody signs them, so who is to believe one is given its file."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Pair(NamedTuple):
    certificate: Path
    key: Path

    def for_server(self) -> ssl.SSLContext:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self.certificate, self.key)
        return tls


def make_pair(folder: Path, *names: str, certificate: str = "cert.pem", key: str = "key.pem") -> Pair:
    """Both files, in the folder. names: the server's, as `DNS:localhost` and `IP:127.0.0.1`. Skips without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the server's certificate")
    pair = Pair(folder / certificate, folder / key)
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "1", "-subj", "/CN=test", "-addext", f"subjectAltName={','.join(names)}",
            "-keyout", str(pair.key), "-out", str(pair.certificate),
        ],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return pair
