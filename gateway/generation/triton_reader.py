"""The extractive tiers' engine on Triton: ports.Answerer over the model `reader`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Literal, cast

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.errors import UpstreamProtocolError
from gateway.generation.extractive import MAX_SENTENCES, ReaderParams
from gateway.tensors import READER
from gateway.triton import Outputs, TritonClient, Value
from gateway.types import Citation, Delta, Inquiry, Passage


class TritonReader:
    """mode: the tier, `fast` or `deep`."""

    def __init__(self, client: TritonClient, mode: Literal["fast", "deep"]) -> None:
        self._client = client
        self._mode = mode
        self._encode = msgspec.json.Encoder().encode
        self._decode_citations = msgspec.json.Decoder(list[Citation]).decode

    async def answer(
        self, inquiry: Inquiry, passages: Sequence[Passage], *, timeout_s: float
    ) -> AsyncIterator[Delta]:
        """The answer sentence by sentence; the last delta has the finish reason. Leaving cancels it on Triton.

        Quotes for the question alone: what was said before it and sampling have no meaning here.

        Raises: UpstreamError and its subclasses.
        """
        inputs: dict[str, Value] = {
            "question": inquiry.question.encode("utf-8", "replace"),
            "passages": self._encode(passages),
            "params": self._encode(
                ReaderParams(
                    mode=self._mode,
                    max_tokens=inquiry.sampling.max_tokens or 0,
                    max_sentences=max(1, len(inquiry.parts)) if inquiry.is_short else MAX_SENTENCES,
                    parts=inquiry.parts,
                )
            ),
        }
        async with aclosing(self._client.stream(READER, inputs, timeout_s=timeout_s)) as answers:
            async for outputs in answers:
                yield self._delta(outputs)

    def _delta(self, outputs: Outputs) -> Delta:
        try:
            return Delta(
                text=_text(outputs, "text_output"),
                citations=self._decode_citations(_bytes(outputs, "citations")),
                finish_reason=_text(outputs, "finish_reason"),
                num_input_tokens=_number(outputs, "num_input_tokens"),
                num_output_tokens=_number(outputs, "num_output_tokens"),
            )
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as error:
            raise UpstreamProtocolError(
                "The model server gave a malformed answer.", detail=f"reader: {error}"
            ) from error


def _bytes(outputs: Outputs, name: str) -> bytes:
    return cast(bytes, outputs[name][0])


def _text(outputs: Outputs, name: str) -> str:
    return _bytes(outputs, name).decode()


def _number(outputs: Outputs, name: str) -> int:
    return int(cast(npt.NDArray[np.int32], outputs[name]).flat[0])
