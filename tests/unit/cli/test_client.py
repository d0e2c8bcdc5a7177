"""Where the client talks, with which key, and how failures read."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.cli.client import Target, explain_answer, explain_failure, find_collection, resolve_target
from gateway.cli.terminal import CommandFailed, ExitCode
from gateway.settings import Settings
from gateway.supervise.instance import InstanceLock

URL = "http://127.0.0.1:8080"


@pytest.fixture
def idle(tmp_path: Path) -> Settings:
    """A var folder that no instance holds."""
    (tmp_path / "run").mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "dev-key").write_text("tg-dev\n")
    return Settings(var=tmp_path, port=9123)


@pytest.fixture
def settings(idle: Settings) -> Iterator[Settings]:
    """A var folder that an instance holds."""
    lock = InstanceLock(idle)
    assert lock.acquire()
    yield idle
    lock.release()


def started(settings: Settings, text: str) -> None:
    (settings.run_dir / "instance.json").write_text(text)


def test_the_port_setting_is_the_last_resort(settings: Settings) -> None:
    assert resolve_target(settings, None, None, {}).url == "http://127.0.0.1:9123"


def test_a_running_instance_wins_over_the_port_setting(settings: Settings) -> None:
    started(settings, json.dumps({"pid": 1, "ports": {"public": 9500}}))
    assert resolve_target(settings, None, None, {}).url == "http://127.0.0.1:9500"


def test_the_file_of_an_instance_that_was_killed_means_nothing(idle: Settings) -> None:
    started(idle, json.dumps({"pid": 1, "ports": {"public": 9500}}))
    assert resolve_target(idle, None, None, {}).url == "http://127.0.0.1:9123"


def test_the_url_option_wins_over_a_running_instance(settings: Settings) -> None:
    started(settings, json.dumps({"pid": 1, "ports": {"public": 9500}}))
    assert resolve_target(settings, "https://chat.example/", None, {}).url == "https://chat.example"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9500"),
        ("::", "http://127.0.0.1:9500"),
        ("::1", "http://[::1]:9500"),
        ("10.1.2.3", "http://10.1.2.3:9500"),
    ],
)
def test_an_instance_is_called_where_it_listens(settings: Settings, host: str, url: str) -> None:
    started(settings, json.dumps({"host": host, "ports": {"public": 9500}}))
    target = resolve_target(settings, None, None, {})
    assert (target.url, target.key) == (url, "tg-dev")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ports": 3}', '{"ports": {"public": "x"}}'])
def test_a_broken_instance_file_is_no_instance(settings: Settings, text: str) -> None:
    started(settings, text)
    assert resolve_target(settings, None, None, {}).url == "http://127.0.0.1:9123"


def test_an_openai_base_url_is_taken_too(settings: Settings) -> None:
    assert resolve_target(settings, "http://127.0.0.1:1/v1/", None, {}).url == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8080", "http://", "http://host:port", "http://[::1", "x y"]
)
def test_a_bad_url_is_wrong_usage(settings: Settings, url: str) -> None:
    with pytest.raises(CommandFailed, match="--url") as caught:
        resolve_target(settings, url, None, {})
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("option", "environ", "key"),
    [
        ("tg-o", {"TG_API_KEY": "tg-e"}, "tg-o"),
        (None, {"TG_API_KEY": "tg-e"}, "tg-e"),
        (None, {}, "tg-dev"),
    ],
    ids=["option", "environment", "development key"],
)
def test_keys_have_an_order(
    settings: Settings, option: str | None, environ: dict[str, str], key: str
) -> None:
    assert resolve_target(settings, None, option, environ).key == key


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.2:1", "http://[::1]:1"])
def test_the_development_key_goes_to_loopback(settings: Settings, url: str) -> None:
    assert resolve_target(settings, url, None, {}).key == "tg-dev"


@pytest.mark.parametrize("url", ["https://chat.example", "http://10.0.0.1", "http://localhost.evil.example"])
def test_the_development_key_never_leaves_the_machine(settings: Settings, url: str) -> None:
    assert resolve_target(settings, url, None, {}).key == ""


def test_a_key_with_a_line_break_is_refused(settings: Settings) -> None:
    with pytest.raises(CommandFailed, match="TG_API_KEY"):
        resolve_target(settings, None, "tg-\r\nx: y", {})


def test_a_target_does_not_show_its_key() -> None:
    assert "secret" not in repr(Target(URL, "secret"))


def test_nothing_listening_names_both_ways_out() -> None:
    failure = explain_failure(URL, httpx.ConnectError("refused"))
    assert str(failure) == (
        f"No tidegate answers at {URL}: start one with `tidegate up`, or name another with --url."
    )
    assert failure.exit_code == ExitCode.NOT_RUNNING


def _errors() -> list[type[httpx.HTTPError]]:
    found = [
        error for _, error in inspect.getmembers(httpx, inspect.isclass) if issubclass(error, httpx.HTTPError)
    ]
    return [error for error in found if error is not httpx.HTTPStatusError]


@pytest.mark.parametrize("error", _errors())
def test_every_httpx_error_becomes_one_sentence(error: type[httpx.HTTPError]) -> None:
    text = str(explain_failure(URL, error("secret detail")))
    assert URL in text
    assert text.endswith(".")
    assert "secret detail" not in text


def error_body(message: str, code: str = "c") -> bytes:
    return json.dumps({"error": {"message": message, "code": code}}).encode()


def test_the_services_own_words_are_passed_on() -> None:
    error = explain_answer(URL, 404, {}, error_body("No such file: x.", "file_not_found"))
    assert (str(error), error.status, error.code) == ("No such file: x.", 404, "file_not_found")


def test_a_refused_key_names_option_and_variable() -> None:
    text = str(explain_answer(URL, 401, {}, error_body("The API key is unknown or revoked.")))
    assert "--key" in text
    assert "TG_API_KEY" in text


def test_retry_after_is_told() -> None:
    error = explain_answer(URL, 503, {"retry-after": "2"}, error_body("Busy."))
    assert (str(error), error.retry_after_s) == ("Busy. Try again in 2 s.", 2.0)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"upstream \x1b[31mconnect error\nmore", f"{URL} answered 502: upstream [31mconnect error"),
        (b"", f"{URL} answered 502."),
        (b"[]", f"{URL} answered 502: []"),
        (b'{"error": "x"}', f'{URL} answered 502: {{"error": "x"}}'),
        (b"\xff\x00", f"{URL} answered 502: \ufffd"),
    ],
)
def test_an_answer_that_is_not_ours_is_shown_safely(body: bytes, text: str) -> None:
    assert str(explain_answer(URL, 502, {}, body)) == text


def test_a_collection_id_wins_over_an_equal_name() -> None:
    assert find_collection([("vs_1", "a"), ("a", "b")], "a") == "a"


def test_a_name_carried_twice_asks_for_the_id() -> None:
    with pytest.raises(CommandFailed, match="vs_1, vs_2"):
        find_collection([("vs_1", "a"), ("vs_2", "a")], "a")
