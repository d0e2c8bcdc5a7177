"""status, models, keys, settings, and the edges of the process."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli import build_app
from tests.fakes.http_api import FakeApi
from tests.integration.cli.conftest import Run

Spawn = Callable[..., "subprocess.Popen[str]"]


def test_a_ready_service_is_exit_0(run: Run, api: FakeApi) -> None:
    api.add_store("handbook")
    result = run("status")
    assert result.code == 0
    assert result.out.startswith(f"ready  {api.url}  version 9.9\n")
    assert "handbook" in result.out


def test_a_service_that_is_not_ready_is_degraded(run: Run, api: FakeApi) -> None:
    api.is_ready = False
    result = run("status")
    assert result.code == 1
    assert result.out.startswith("degraded")
    assert "The service is starting." in result.out


def test_a_part_that_is_away_makes_it_degraded(run: Run, api: FakeApi) -> None:
    api.parts = {"triton": "no replica answers"}
    report = run("status", "--json")
    assert report.code == 1
    assert report.json()["problems"] == ["triton: no replica answers"]


def test_no_service_is_exit_3(bare: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PORT", "1")
    result = bare("status")
    assert result.code == 3
    assert "tidegate up" in result.out


def test_a_stale_instance_file_is_no_service(bare: Run, workplace: Path) -> None:
    run_dir = workplace.parent / "var" / "run"
    run_dir.mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    (run_dir / "instance.json").write_text(json.dumps({"pid": dead.pid, "ports": {"public": 1}}))
    assert bare("status").code == 3


def test_models_are_listed(run: Run) -> None:
    assert run("models").out == "model  kind  slots  what it is\nfast   chat      8  Quick.\n"
    assert run("models", "--json").json()[0]["id"] == "fast"


def test_a_key_is_shown_once_and_then_only_its_end(bare: Run) -> None:
    made = bare("keys", "create", "--tenant", "acme", "--name", "website", "--admin")
    assert made.code == 0
    key = made.out.strip()
    assert key.startswith("tg-")
    listed = bare("keys", "list")
    assert key not in listed.out
    assert key[-4:] in listed.out
    assert "acme" in listed.out


def test_a_revoked_key_cannot_be_revoked_again(bare: Run) -> None:
    made = bare("keys", "create", "--tenant", "acme", "--name", "ci", "--json").json()
    assert bare("keys", "revoke", made["id"]).out == f"Revoked {made['id']}.\n"
    assert bare("keys", "revoke", made["id"]).code == 1
    assert bare("keys", "list", "--json").json()[0]["revoked_at"] is not None


def test_a_port_of_an_instance_that_was_killed_gets_no_password(bare: Run, workplace: Path) -> None:
    made = bare("keys", "create", "--tenant", "acme", "--name", "ci", "--json").json()
    var = workplace.parent / "var"
    for folder in ("run", "secrets"):
        (var / folder).mkdir(exist_ok=True)
    (var / "secrets" / "redis").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        ports = {"redis": stranger.getsockname()[1]}
        (var / "run" / "instance.json").write_text(json.dumps({"pid": 1, "ports": ports}))
        assert bare("keys", "revoke", made["id"]).code == 0
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()


def test_keys_of_a_folder_without_a_database_are_an_error(bare: Run, workplace: Path) -> None:
    result = bare("keys", "list")
    assert result.code == 1
    assert "--var" in result.err
    assert not (workplace.parent / "var").exists()


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
def test_a_bad_key_name_is_wrong_usage(bare: Run, name: str) -> None:
    result = bare("keys", "create", "--tenant", "acme", "--name", name)
    assert result.code == 2
    assert "--name" in result.err


def test_settings_show_what_is_in_force(bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_QUEUE_MAX", "7")
    rows = {row["name"]: row for row in bare("settings", "--json").json()}
    assert (rows["TIDEGATE_QUEUE_MAX"]["default"], rows["TIDEGATE_QUEUE_MAX"]["value"]) == ("512", "7")
    assert "TIDEGATE_QUEUE_MAX" in bare("settings").out


@pytest.mark.parametrize("command", ["up", "status", "doctor", "settings", "models"])
def test_a_bad_setting_is_one_sentence_and_exit_2(
    bare: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("TIDEGATE_PROT", "1")
    result = bare(command)
    assert result.code == 2
    assert result.err == "tidegate: TIDEGATE_PROT is not a setting; `tidegate settings` lists all of them.\n"


def test_options_of_up_are_settings(bare: Run) -> None:
    result = bare("up", "--host", "0.0.0.0")
    assert result.code == 2
    assert "TIDEGATE_AUTH=required" in result.err


def commands() -> list[list[str]]:
    names: list[list[str]] = [[]]
    for command in build_app().registered_commands:
        names.append([command.name or str(command.callback and command.callback.__name__)])
    return [*names, *(["keys", *word] for word in ([], ["create"], ["list"], ["revoke"]))]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_help_has_examples_and_no_cut_sentence(bare: Run, command: list[str]) -> None:
    result = bare(*command, "--help")
    assert result.code == 0
    assert "Examples:" in result.out
    assert "..." not in result.out.replace("]...", "").replace("}...", "")


def test_an_unexpected_error_has_no_traceback_unless_asked(
    bare: Run, monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("gateway.cli.client.resolve_target", broken)
    result = bare("models")
    assert result.code == 1
    assert (
        result.err
        == "tidegate: Unexpected error (ZeroDivisionError: boom); `tidegate --debug models` prints more.\n"
    )


def test_debug_prints_the_traceback(spawn: Spawn, workplace: Path) -> None:
    (workplace / "var").write_text("a file where a folder should be")
    process = spawn("--debug", "keys", "create", "--tenant", "a", "--name", "b", "--var", "var")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" in err


def test_the_version_is_the_packages(bare: Run) -> None:
    assert bare("--version").out == f"tidegate {__version__}\n"


def test_help_answers_at_once(spawn: Spawn) -> None:
    spent_s = []
    for _ in range(3):
        process = spawn("--help")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        spent_s.append(usage.ru_utime + usage.ru_stime)  # not wall time: other tests may hold the cores
    assert min(spent_s) < 2.0  # about 0.3 s; with SQLAlchemy, httpx and rich about four times that


def test_help_loads_nothing_heavy(spawn: Spawn) -> None:
    process = spawn("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    _, err = process.communicate(timeout=20)
    loaded = {line.rpartition("|")[2].strip() for line in err.splitlines()}
    assert not loaded & {
        "httpx",
        "rich",
        "sqlalchemy",
        "msgspec",
        "redis",
        "numpy",
        "sanic",
        "grpc",
        "faiss",
        "onnxruntime",
        "gateway.storage",
    }


def test_a_question_can_come_from_standard_input(spawn: Spawn, api: FakeApi) -> None:
    process = spawn("ask", "-", "--no-sources", "--url", api.url, stdin=subprocess.PIPE)
    out, _ = process.communicate("What is\na neap tide?\n", timeout=20)
    assert (process.returncode, out) == (0, "The tide turns twice. [1]\n")
    assert api.chats[0]["messages"] == [{"role": "user", "content": "What is\na neap tide?"}]


def test_ctrl_c_ends_the_request_and_is_exit_130(spawn: Spawn, api: FakeApi) -> None:
    api.tokens, api.token_delay_s = ["word "] * 500, 0.05
    process = spawn("ask", "x", "--url", api.url)
    assert api.first_token_sent.wait(20)
    assert process.stdout is not None
    assert process.stdout.read(5) == "word "
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert api.client_left.wait(10)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_a_reader_that_leaves_is_no_traceback(spawn: Spawn) -> None:
    process = spawn("settings")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_text_that_the_terminal_cannot_show_is_replaced(spawn: Spawn, api: FakeApi) -> None:
    process = spawn("ask", "x", "--url", api.url, env={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "docs/tide.md ? Tides" in out


@pytest.mark.parametrize("env", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}], ids=str)
@pytest.mark.parametrize(
    "args",
    [("ask", "x"), ("search", "x"), ("models",), ("status",), ("ingest", "a.md"), ("--help",)],
    ids=lambda args: args[0],
)
def test_a_pipe_gets_no_control_codes(
    bare: Run,
    api: FakeApi,
    args: tuple[str, ...],
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    workplace: Path,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    (workplace / "a.md").write_text("words")
    api.add_store("handbook")
    result = bare(*args, *([] if args == ("--help",) else ["--url", api.url]))
    assert "\x1b" not in result.out + result.err
    assert all(line == line.rstrip() for line in result.out.splitlines())


@pytest.mark.parametrize(
    ("env", "has_colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_a_terminal_gets_styles_unless_it_wants_none(
    spawn: Spawn, api: FakeApi, env: dict[str, str], has_colour: bool
) -> None:
    ours, theirs = pty.openpty()
    process = spawn("ask", "x", "--url", api.url, env={"TERM": "xterm", **env}, stdout=theirs)
    os.close(theirs)
    out = b""
    try:
        while chunk := os.read(ours, 4096):
            out += chunk
    except OSError:  # Linux: EIO once the other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=20) == 0
    assert b"Sources" in out
    assert (b"\x1b[1m" in out) == has_colour
