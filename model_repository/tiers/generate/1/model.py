"""`generate` on Triton, decoupled: the model of every generative tier. Its inputs: gateway/tensors.py (generate_model).

Each response: text_output BYTES [1], output_ids INT32 [N]; the last one also finish_reason BYTES [1],
num_input_tokens INT32 [1], version BYTES [1] (of the model, as its rollout names it), and the final flag. A refused
request gets one error, also final: INVALID_ARG `prompt_too_long: …` or `<tensor>: …`, UNAVAILABLE `engine_full: …`,
else INTERNAL.

Thin: gateway.generation decides everything. The model's own thread runs one event loop, in which the engine steps and
every request is a task.
"""

from __future__ import annotations

import asyncio
import os
import threading

import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.checkpoint.chat_format import ChatFormat
from gateway.checkpoint.prepare import prepared_folder
from gateway.errors import EngineFull, InvalidRequest, PromptTooLong, TidegateError
from gateway.generation.answer_stream import AnswerStream
from gateway.generation.engines import open_engine
from gateway.generation.generate_wire import decode_generate
from gateway.settings import load_settings
from gateway.tensors import stream_error
from gateway.tier_config import generate_tiers

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# How often each stream is asked whether its client has left. That is a round trip to Triton of about 0.1 ms, in which
# the engine does not step: many streams are asked less often.
POLL_S, POLL_MANY_S, MANY = 0.04, 0.07, 8
SHOW_S = 0.02
KV_USAGE_EVERY = 25  # of those; the counts are shown whenever they change


class TritonPythonModel:
    def initialize(self, args):
        settings = load_settings()
        self._version = settings.model_version.encode()
        self._tier = next(tier for tier in generate_tiers(settings) if tier.name == args["model_name"])
        folder = prepared_folder(self._tier, settings.models_dir)
        self._chat = ChatFormat.load(folder)
        self._engine = open_engine(folder, self._tier, self._chat.end_ids)
        self._gauges = Gauges(self._tier.name)
        self._streams = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def execute(self, requests):
        for request in requests:
            values = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            self._loop.call_soon_threadsafe(self._begin, values, request.get_response_sender())

    def finalize(self):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self):
        self._watches = [asyncio.ensure_future(each) for each in (self._watch_streams(), self._show_load())]

    async def _stop(self):
        for task in [*self._watches, *self._streams]:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        await self._engine.close()

    def _begin(self, values, sender):
        task = self._loop.create_task(self._respond(values, sender))
        self._streams[task] = sender
        task.add_done_callback(self._streams.pop)

    async def _watch_streams(self):
        """Cancels the streams whose client has left. Raises: nothing."""
        while True:
            for task, sender in list(self._streams.items()):
                if not task.done() and sender.is_cancelled():
                    task.cancel()
            await asyncio.sleep(POLL_S if len(self._streams) <= MANY else POLL_MANY_S)

    async def _show_load(self):
        while not self._engine.is_broken:
            self._gauges.show(self._engine.load())
            await asyncio.sleep(SHOW_S)
        pb_utils.Logger.log_error(
            "generate: the engine is broken; its process ends, and the guard replaces the replica"
        )
        await asyncio.sleep(SHOW_S)  # the errors go out first
        os._exit(1)

    async def _respond(self, values, sender):
        """Send the whole stream. Ends with exactly one final flag, whatever happens."""
        try:
            tier = self._tier
            request = decode_generate(
                values, max_tokens=tier.max_tokens, temperature=tier.temperature, top_p=tier.top_p
            )
            stream = AnswerStream(
                self._engine,
                self._chat,
                tier.context_tokens,
                lambda answer: _send(sender, answer, self._version),
            )
            await stream.run(request)
        except asyncio.CancelledError:
            sender.send(flags=FINAL)
        except Exception as error:  # noqa: BLE001 - the edge of the process: one request must not end the others
            _fail(sender, error)


class Gauges:
    """What the engine itself counts, in Triton's metrics."""

    def __init__(self, tier):
        def gauge(name, description):
            family = pb_utils.MetricFamily(
                name=name, description=description, kind=pb_utils.MetricFamily.GAUGE
            )
            self._families.append(family)
            return family.Metric(labels={"tier": tier})

        self._families = []  # a metric does not keep its family alive
        self._running = gauge("tidegate_generate_running", "Requests that the engine works on")
        self._slots = gauge("tidegate_generate_slots", "Requests that the engine takes at most")
        self._kv_usage = gauge("tidegate_generate_kv_usage", "Share of the engine's cache in use, 0 to 1")
        self._shown = None
        self._num_calls = 0

    def show(self, load):
        """Call it every SHOW_S: each value that is set is a round trip to Triton."""
        counts = load.num_running, load.max_running
        if counts != self._shown:
            self._running.set(load.num_running)
            self._slots.set(load.max_running)
        if counts != self._shown or self._num_calls % KV_USAGE_EVERY == 0:
            self._kv_usage.set(load.kv_usage)
        self._shown = counts
        self._num_calls += 1


def _send(sender, answer, version):
    tensors = [
        pb_utils.Tensor("text_output", np.array([answer.text.encode()], np.object_)),
        pb_utils.Tensor("output_ids", np.array(answer.token_ids, np.int32)),
    ]
    if answer.finish_reason:
        tensors.append(
            pb_utils.Tensor("finish_reason", np.array([answer.finish_reason.encode()], np.object_))
        )
        tensors.append(pb_utils.Tensor("num_input_tokens", np.array([answer.num_input_tokens], np.int32)))
        tensors.append(pb_utils.Tensor("version", np.array([version], np.object_)))
    sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if answer.finish_reason else 0)


def _fail(sender, error):
    if isinstance(error, (PromptTooLong, EngineFull)):
        status = "INVALID_ARGUMENT" if isinstance(error, PromptTooLong) else "UNAVAILABLE"
        text = f"{error.code}: {error}"
    elif isinstance(error, (ValueError, InvalidRequest)):
        status, text = "INVALID_ARGUMENT", str(error)
    else:
        detail = error.detail if isinstance(error, TidegateError) else repr(error)
        pb_utils.Logger.log_error(f"generate: {error}: {detail}")
        status, text = "INTERNAL", "the engine failed on this request."
    failed = pb_utils.TritonError(stream_error(status, text))
    sender.send(pb_utils.InferenceResponse(error=failed), flags=FINAL)
