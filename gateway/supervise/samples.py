"""The sample collection of a first start: the project's own documentation, sent over the public API as anyone would."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

COLLECTION = "tidegate-docs"
LIMIT_S = 120.0


class SamplesFailed(RuntimeError):
    """The samples were not ingested. The text is one sentence."""


def ingest_samples(
    base_url: str, api_key: str, documents: list[Path], progress: Callable[[str], None]
) -> str:
    """Make the collection and wait until every document is searchable. Returns the collection's id.

    Raises: SamplesFailed.
    """
    headers = {"authorization": f"Bearer {api_key}"}
    try:
        with httpx.Client(base_url=base_url, headers=headers, timeout=30) as client:
            collection = str(_post(client, "/v1/vector_stores", json={"name": COLLECTION})["id"])
            waiting = {}
            for path in documents:
                upload = {"file": (path.name, path.read_bytes(), "text/markdown")}
                file_id = _post(client, "/v1/files", data={"purpose": "assistants"}, files=upload)["id"]
                _post(client, f"/v1/vector_stores/{collection}/files", json={"file_id": file_id})
                waiting[str(file_id)] = path.name
            _wait(client, collection, waiting, progress)
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise SamplesFailed(f"the sample collection could not be ingested ({error})") from error
    return collection


def _post(client: httpx.Client, path: str, **body: object) -> dict[str, object]:
    response = client.post(path, **body)  # type: ignore[arg-type]
    response.raise_for_status()
    answer = response.json()
    return dict(answer)


def _wait(
    client: httpx.Client, collection: str, waiting: dict[str, str], progress: Callable[[str], None]
) -> None:
    total, deadline_s = len(waiting), time.monotonic() + LIMIT_S
    while waiting:
        for file_id, name in list(waiting.items()):
            state = client.get(f"/v1/vector_stores/{collection}/files/{file_id}").raise_for_status().json()
            if state["status"] == "completed":
                del waiting[file_id]
                progress(f"{total - len(waiting)} of {total} documents ingested ({name})")
            elif state["status"] != "in_progress":
                raise ValueError(f"{name} is {state['status']}: {state.get('last_error')}")
        if time.monotonic() > deadline_s:
            raise ValueError(f"not done after {LIMIT_S:g} s: {', '.join(waiting.values())}")
        time.sleep(0.1)
