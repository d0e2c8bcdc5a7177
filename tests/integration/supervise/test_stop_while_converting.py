"""A conversion takes minutes for a large checkpoint: an order to stop ends it, and leaves nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.fakes.small_tokenizers import write_checkpoint
from tests.fakes.triton_process import free_port

STOP_S = 15


def test_a_start_that_converts_can_be_stopped(triton_installed: None, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", max_position_embeddings=8192)
    converter = tmp_path / "python"
    converter.write_text("#!/bin/sh\necho begun\nexec sleep 600\n")
    converter.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    settings = {
        "TIDEGATE_VAR": str(tmp_path / "var"),
        "TIDEGATE_PORT": str(free_port()),
        "TIDEGATE_CHECKPOINT": str(folder),
        "TIDEGATE_CONVERT_PYTHON": str(converter),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "up"],
        env=kept | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen: list[str] = []
    with process, process.stdout as lines:
        for line in lines:
            seen.append(line)
            if "Tier generate: begun" in line:
                process.send_signal(signal.SIGTERM)
                break
        seen += lines
        assert process.wait(STOP_S) == 0, "".join(seen)
    assert "Stopping (SIGTERM)." in "".join(seen)
    assert [path.name for path in (tmp_path / "var" / "models" / "generate").iterdir()] == [".lock"]
