"""Signals to stop, sent by the kernel to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from gateway.supervise.signals import StopSignals

# Counts to 50. A handler that takes a lock, as threading.Event.set does, would hang in here.
COUNTER = """
import os
from gateway.supervise.signals import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    while signals.count < 50:
        signals.wait(0.0001)
    print(signals.last, flush=True)
    os._exit(0)  # with the handlers still in place: signals are on their way
"""


def test_a_signal_ends_the_wait_at_once_and_is_counted() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        start_s = time.monotonic()
        signals.wait(10)
        assert time.monotonic() - start_s < 1
        assert (signals.count, signals.last) == (1, "SIGTERM")
        start_s = time.monotonic()
        signals.wait(0.05)  # the old one is not waited for again
        assert time.monotonic() - start_s >= 0.05


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_in_the_middle_of_waits_never_lock_up() -> None:
    with subprocess.Popen([sys.executable, "-c", COUNTER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline_s = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline_s:
            process.send_signal(signal.SIGINT)
            time.sleep(0.0005)
        if process.poll() is None:
            process.kill()
        assert process.stdout.read().strip() == "SIGINT"
    assert process.returncode == 0
