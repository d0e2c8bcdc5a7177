"""The generated stubs are those of chat.proto, and it documents every field."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from gateway.proto import chat_pb2

pytest.importorskip("grpc_tools", reason="the protobuf compiler grpcio-tools is not installed")

ROOT = Path(__file__).parents[2]
PROTO = "gateway/proto/chat.proto"
GENERATED = ("chat_pb2.py", "chat_pb2.pyi", "chat_pb2_grpc.py")


def test_the_committed_stubs_are_what_make_proto_writes(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, PROTO]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    for name in GENERATED:
        made = (tmp_path / "gateway/proto" / name).read_text()
        assert (ROOT / "gateway/proto" / name).read_text() == made, f"{name} is stale: run `make proto`"


# Fields whose names say all there is to say.
PLAIN = {"file_id", "filename", "collection_id", "tier", "text", "heading", "usage", "finish_reason", "end"}


def test_every_field_is_documented() -> None:
    bare, previous = [], ""
    for line in (ROOT / PROTO).read_text().splitlines():
        field = re.match(r"\s+(?:repeated |optional )?[\w.]+ (\w+) = \d+;", line)
        if field and "//" not in previous and field[1] not in PLAIN:
            bare.append(line.strip())
        previous = line
    assert not bare


def test_the_request_in_the_grpcurl_line_is_one() -> None:
    readme = (ROOT / "examples/README.md").read_text()
    line = next(line for line in readme.splitlines() if line.startswith("grpcurl "))
    words = shlex.split(line)
    request = json_format.Parse(words[words.index("-d") + 1], chat_pb2.ChatRequest())
    assert request.messages[0].role == chat_pb2.ROLE_USER
    service, _, method = words[-1].partition("/")
    assert chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name == service
    assert method in chat_pb2.DESCRIPTOR.services_by_name["ChatService"].methods_by_name
