"""A small Ray Serve deployment that speaks OpenAI's chat completions. Run by Ray's own Python: `ray_app.py PORT`.

It streams the words of its answer with a pause before each, and prints `tell ready`, `tell began` and `tell left` as
that happens. Knows nothing of tidegate. The class is sent to a replica without this module: so it uses none of its
functions, and annotations are no text, which FastAPI could not resolve there.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve

TEXT = "A tide gate holds back the surge [1]. Envoy balances gRPC [2]."
app = FastAPI()


@serve.deployment(num_replicas=1, max_ongoing_requests=16, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Model:
    @app.post("/v1/chat/completions")
    async def complete(self, request: Request) -> Any:
        body = await request.json()
        if request.headers.get("authorization") != "Bearer sk-ray":
            return JSONResponse({"error": {"message": "wrong key"}}, status_code=401)
        words = TEXT.split(" ") * (50 if "for long" in body["messages"][-1]["content"] else 1)
        return StreamingResponse(self._events(body, words), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], words: list[str]) -> AsyncIterator[str]:
        print("tell began", flush=True)
        try:
            for number, word in enumerate(words):
                await asyncio.sleep(0.02)
                yield self._event([{"index": 0, "delta": {"content": word if not number else f" {word}"}}])
            yield self._event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
            if body["stream_options"]["include_usage"]:
                yield self._event([], usage={"prompt_tokens": 11, "completion_tokens": len(words)})
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            print("tell left", flush=True)
            raise

    def _event(self, choices: list[dict[str, Any]], **extra: Any) -> str:
        return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': choices, **extra})}\n\n"


def main() -> None:
    ray.init(
        num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, _node_ip_address="127.0.0.1"
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Model.bind(), route_prefix="/")
    print("tell ready", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
