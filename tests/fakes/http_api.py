"""The HTTP API in one process and in memory, for tests of its clients: real sockets, OpenAI's shapes, and knobs.

Files are "indexed" by polls: each look at a file in progress moves it one step on, so nothing waits for a clock.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NUM_POLLS = 2  # looks at a file until it is indexed


@dataclass
class Reply:
    """A prepared answer: its tokens, the citations of the first one, and its receipt. status: refused instead."""

    tokens: list[str]
    receipt: dict[str, Any] = field(default_factory=dict)
    citations: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200


@dataclass
class FakeApi:
    """State and knobs. Every test has its own."""

    tokens: list[str] = field(default_factory=lambda: ["The tide ", "turns twice. [1]"])
    token_delay_s: float = 0.0
    fail_at_token: int | None = None  # an error event instead of this token
    break_at_token: int | None = None  # the connection closes instead
    key: str = ""  # "" = open
    is_ready: bool = True
    speaks_html: bool = False  # some other server
    parts: dict[str, str] = field(default_factory=lambda: {"triton": "ok"})
    refusals: int = 0  # so many uploads get 429 first
    unreadable: frozenset[bytes] = frozenset()  # contents that fail to be indexed
    refuses_attaching: bool = False
    stuck: bool = False  # indexing never ends
    reply: Callable[[dict[str, Any]], Reply] | None = None  # to a chat body, instead of the one below
    page_items: int = 100
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    stores: dict[str, dict[str, Any]] = field(default_factory=dict)
    attached: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    client_left: threading.Event = field(default_factory=threading.Event)
    first_token_sent: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    num_ids: int = 0

    def new_id(self, prefix: str) -> str:
        self.num_ids += 1
        return f"{prefix}{self.num_ids:04d}"

    def add_store(self, name: str) -> str:
        store_id = self.new_id("vs_")
        self.stores[store_id] = {
            "id": store_id,
            "object": "vector_store",
            "name": name,
            "created_at": 1,
            "file_counts": {"completed": 1, "in_progress": 0, "failed": 0},
            "tidegate": {
                "num_chunks": NUM_POLLS,
                "chunks_done": 1,
                "embedder": "mini",
                "next_embedder": None,
            },
        }
        self.attached[store_id] = {}
        return store_id

    def names(self, store: str) -> dict[str, str]:
        """path -> status of every file in the collection of this name."""
        (store_id,) = (key for key, value in self.stores.items() if value["name"] == store)
        return {item["attributes"]["path"]: item["status"] for item in self.attached[store_id].values()}

    def count(self, method: str, path: str) -> int:
        return sum(1 for request in self.requests if request == (method, path))

    def advance(self, item: dict[str, Any], attached: dict[str, dict[str, Any]]) -> None:
        """One step of indexing; a file that is done takes the place of the one that it replaces."""
        if item["status"] != "in_progress" or self.stuck:
            return
        item["tidegate"]["chunks_done"] += 1
        if item["tidegate"]["chunks_done"] < NUM_POLLS:
            return
        if self.contents[item["id"]] in self.unreadable:
            item["status"] = "failed"
            item["last_error"] = {"code": "unsupported_file", "message": "This is not text."}
        else:
            item["status"] = "completed"
            attached.pop(item["tidegate"].get("replaces", ""), None)

    def reembed(self, extension: dict[str, Any]) -> None:
        """One step of a change of embedder."""
        change = extension.get("reembedding")
        if not change or self.stuck:
            return
        change["num_done"] += 1
        if change["num_done"] == NUM_POLLS:
            extension |= {"embedder": extension["next_embedder"], "next_embedder": None, "reembedding": None}


class _Failure(Exception):
    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def log_message(self, *_: Any) -> None:
        """Tests read `api.requests`."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.api.requests.append((self.command, parts.path))
        words = [word for word in parts.path.split("/") if word and word != "v1"]
        try:
            if self.api.key and self.headers["authorization"] != f"Bearer {self.api.key}":
                raise _Failure(401, "invalid_api_key", "The API key is unknown or revoked.")
            if words == ["chat", "completions"]:
                self._chat()
                return
            with self.api.lock:
                value = self._route(self.command, words)
            self._send(200, value)
        except _Failure as failure:
            error = {"message": str(failure), "type": "e", "param": None, "code": failure.code}
            self._send(failure.status, {"error": error}, **failure.headers)

    def _send(self, status: int, value: Any, **headers: str) -> None:
        data = b"<html></html>" if self.api.speaks_html else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def _route(self, method: str, words: list[str]) -> Any:
        match (method, words):
            case ("GET", ["health", "ready"]):
                if not self.api.is_ready:
                    raise _Failure(503, "starting", "The service is starting.")
                return {"status": "ready", "version": "9.9", "parts": self.api.parts}
            case ("GET", ["models"]):
                about = {"kind": "chat", "description": "Quick.", "slots": 8}
                return {"object": "list", "data": [{"id": "fast", "object": "model", "tidegate": about}]}
            case ("GET", ["files"]):
                return self._page(self.api.files)
            case ("POST", ["files"]):
                return self._upload()
            case ("DELETE", ["files", file_id]):
                self._file(file_id)
                for store in self.api.attached.values():
                    store.pop(file_id, None)
                del self.api.files[file_id]
                return {"id": file_id, "object": "file", "deleted": True}
            case ("POST", ["conversations"]):
                return {"id": self.api.new_id("conv_"), "object": "conversation", "metadata": {}}
            case ("GET", ["vector_stores"]):
                return self._page(self.api.stores)
            case ("POST", ["vector_stores"]):
                return self.api.stores[self.api.add_store(json.loads(self.body)["name"])]
            case ("DELETE", ["vector_stores", store_id]) if store_id in self.api.stores:
                del self.api.stores[store_id], self.api.attached[store_id]
                return {"id": store_id, "object": "vector_store.deleted", "deleted": True}
            case (_, ["vector_stores", store_id, *rest]) if store_id in self.api.stores:
                return self._in_store(method, store_id, rest)
        raise _Failure(404, "not_found", f"There is nothing at {self.path}.")

    def _in_store(self, method: str, store_id: str, words: list[str]) -> Any:
        attached = self.api.attached[store_id]
        match (method, words):
            case ("POST", []):
                extension = self.api.stores[store_id]["tidegate"]
                wanted = json.loads(self.body)["tidegate"]["embedder"]
                if wanted == "huge":
                    raise _Failure(400, "embedder_not_found", "There is no embedder 'huge'.")
                extension |= {
                    "next_embedder": wanted,
                    "reembedding": {"num_done": 0, "num_chunks": NUM_POLLS},
                }
                return self.api.stores[store_id]
            case ("GET", []):
                self.api.reembed(self.api.stores[store_id]["tidegate"])
                return self.api.stores[store_id]
            case ("POST", ["search"]):
                return self._search(store_id)
            case ("GET", ["files"]):
                for item in list(attached.values()):
                    self.api.advance(item, attached)
                wanted = self.query.get("filter")
                shown = {key: item for key, item in attached.items() if wanted in {None, item["status"]}}
                return self._page(shown)
            case ("POST", ["files"]):
                body = json.loads(self.body)
                self._file(body["file_id"])
                if self.api.refuses_attaching:
                    raise _Failure(500, "internal_error", "The service failed.")
                attached[body["file_id"]] = {
                    "id": body["file_id"],
                    "object": "vector_store.file",
                    "status": "in_progress",
                    "last_error": None,
                    "attributes": body.get("attributes", {}),
                    "created_at": self.api.num_ids,
                    "tidegate": {"num_chunks": NUM_POLLS, "chunks_done": 0, **body.get("tidegate", {})},
                }
                return attached[body["file_id"]]
            case ("GET" | "DELETE", ["files", file_id]) if file_id in attached:
                if method == "DELETE":
                    del attached[file_id]
                    return {"id": file_id, "deleted": True}
                self.api.advance(attached[file_id], attached)
                return attached[file_id]
        raise _Failure(404, "not_found", f"There is nothing at {self.path}.")

    def _file(self, file_id: str) -> dict[str, Any]:
        if file_id not in self.api.files:
            raise _Failure(404, "file_not_found", f"No such file: {file_id}.")
        return self.api.files[file_id]

    def _page(self, items: dict[str, dict[str, Any]]) -> dict[str, Any]:
        rows = list(items.values())
        after = self.query.get("after")
        start = next((at + 1 for at, row in enumerate(rows) if row["id"] == after), 0)
        size = min(int(self.query.get("limit", "20")), self.api.page_items)
        return {"object": "list", "data": rows[start : start + size], "has_more": start + size < len(rows)}

    def _upload(self) -> dict[str, Any]:
        if self.api.refusals > 0:
            self.api.refusals -= 1
            raise _Failure(429, "rate_limit_exceeded", "Slow down.", retry_after="0")
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + self.body, policy=email.policy.HTTP)
        fields = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
        content = fields["file"].get_payload(decode=True)
        if b"too large" in content:
            raise _Failure(413, "file_too_large", "The file is larger than 10 bytes.")
        file_id = self.api.new_id("file-")
        self.api.contents[file_id] = content
        self.api.files[file_id] = {
            "id": file_id,
            "object": "file",
            "filename": fields["file"].get_filename(),
            "bytes": len(content),
            "purpose": fields["purpose"].get_payload(),
            "tidegate": {"sha256": hashlib.sha256(content).hexdigest()},
        }
        return self.api.files[file_id]

    def _search(self, store_id: str) -> dict[str, Any]:
        body = json.loads(self.body)
        self.api.searches.append(body)
        stores = [store_id, *body.get("tidegate", {}).get("collections", [])]
        rows = [
            {
                "file_id": file_id,
                "filename": item["attributes"].get("path", ""),
                "score": round(0.9 - 0.1 * rank, 2),
                "content": [{"type": "text", "text": self.api.contents[file_id].decode()}],
                "tidegate": {
                    "chunk_id": rank,
                    "heading": "Tides",
                    "start": 0,
                    "end": 9,
                    "collection_id": store,
                },
            }
            for store in stores
            for rank, (file_id, item) in enumerate(self.api.attached[store].items())
        ]
        return {"search_query": [body["query"]], "data": rows[: body["max_num_results"]], "has_more": False}

    def _chat(self) -> None:
        body = json.loads(self.body)
        self.api.chats.append(body)
        if body["model"] == "nope":
            raise _Failure(404, "model_not_found", "The model 'nope' does not exist.")
        reply = self.api.reply(body) if self.api.reply else None
        if reply and reply.status != 200:
            raise _Failure(reply.status, "refused", "No room.", retry_after="0")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            if reply:
                self._prepared(reply)
            else:
                self._tokens()
        except (BrokenPipeError, ConnectionResetError):
            self.api.client_left.set()

    def _tokens(self) -> None:
        self.wfile.write(b": keep-alive\n\n")
        self._event({"choices": [], "tidegate": {"stage": "retrieving"}})
        self._event({"choices": [], "tidegate": {"queue": {"position": 3, "eta_s": 1.6}}})
        for index, token in enumerate(self.api.tokens):
            if index == self.api.fail_at_token:
                self._event({"error": {"message": "The engine stopped.", "code": "upstream_unavailable"}})
                return
            if index == self.api.break_at_token:
                return
            delta: dict[str, Any] = {"content": token}
            if index == 0:
                quote = {"quote": "It turns twice a day.", "start": 3, "end": 24, "passage": 1, "index": 9}
                cited = {"file_id": "file-1", "filename": "docs/tide.md", **quote}
                delta["annotations"] = [{"type": "file_citation", "file_citation": cited}]
            self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            self.api.first_token_sent.set()
            time.sleep(self.api.token_delay_s)
        passages = [
            {"n": 1, "file_id": "file-1", "filename": "docs/tide.md", "heading": "Tides", "score": 0.83,
             "text": "It turns twice a day.", "start": 3, "end": 24, "cited": True},
            {"n": 2, "file_id": "file-2", "filename": "docs/moon.md", "heading": "", "score": 0.4,
             "text": "The moon.", "start": 0, "end": 9, "cited": False},
        ]  # fmt: skip
        self._event(
            {
                "choices": [],
                "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
                "tidegate": {"receipt": {"id": "chatcmpl-1", "outcome": "completed", "passages": passages}},
            }
        )
        self.wfile.write(b"data: [DONE]\n\n")

    def _prepared(self, reply: Reply) -> None:
        for index, token in enumerate(reply.tokens):
            if index == self.api.break_at_token:
                return
            marks = [{"type": "file_citation", "file_citation": cited} for cited in reply.citations]
            delta = {"content": token} | ({"annotations": marks} if index == 0 and marks else {})
            self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self._event({"choices": [], "tidegate": {"receipt": reply.receipt}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: Any) -> None:
        self.wfile.write(b"id: 1\ndata: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


@contextmanager
def running_api(api: FakeApi | None = None, port: int = 0) -> Iterator[FakeApi]:
    """The API on a free port until the block ends."""
    api = api or FakeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = _Server(("127.0.0.1", port), handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
