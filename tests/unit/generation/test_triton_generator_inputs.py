"""What a generative tier's model is sent for a request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.checkpoint.chat_format import ChatFormat
from gateway.generation.prompt import Prompt
from gateway.generation.triton_generator import TritonGenerator
from gateway.tier_config import GenerateTier
from gateway.types import Inquiry
from tests.fakes.small_tokenizers import CHATML, byte_level

PROMPT = Prompt(messages=[{"role": "user", "content": "q"}], num_tokens=3, num_passages=0, max_tokens=7)


@pytest.mark.parametrize(("priority", "sent"), [(0, None), (1, [1]), (2, [2])])
def test_a_priority_is_sent_where_a_request_gives_way(priority: int, sent: list[int] | None) -> None:
    client: Any = None  # nothing is called
    chat = ChatFormat(byte_level(), CHATML, {}, frozenset({2}))
    generator = TritonGenerator(client, GenerateTier(name="small", checkpoint="none"), chat)
    inputs = generator._inputs(PROMPT, Inquiry(question="q", priority=priority))
    found = inputs.get("priority")
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == sent
