"""A day of questions over the whole service, compressed: clients ask one after another as fast as they are answered.

The corpus is the labelled one (120 documents). What is asked follows Zipf(1.0) over `num_meanings` meanings: the
labelled questions, and questions by template about the names in the documents, shuffled into ranks. Three in ten are
asked in another wording (perf/cache_pairs.py, or a frame). Every answer is streamed.

    with     the day itself, the cache as it is by default
    without  the first questions of the same day with `"cache": "off"`, as many clients, the same service

Kept: one line a question: rank, verdict, microseconds to the first text and to the end.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from perf.cache.client import Connection, question, request
from perf.cache.eviction import zipf
from perf.cache_pairs import PARAPHRASES, names_in
from perf.eval_reader import DEFAULT, Corpus, load
from perf.ingest import attached, client_of, finished, uploaded
from perf.profile import processor_seconds
from perf.rows import percentile
from perf.service import Service, running_service

HOURS = 24
OTHER_WORDING = 0.3
TEMPLATES = (
    "What is {}?", "Who was {}?", "When was {} founded?", "Where is {}?", "Why is {} important?", "How old is {}?",
    "What did {} do?", "Who discovered {}?", "What is {} known for?", "How many people know {}?",
    "What happened to {}?", "Which country is {} in?", "What came before {}?", "What came after {}?",
    "Who wrote about {}?", "How large is {}?", "What does {} mean?", "Who led {}?", "What caused {}?",
    "How did {} begin?",
)  # fmt: skip
FRAMES = ("Please tell me: {}", "Can you tell me {}", "Hi, {}")
ENGINE = ("tritonserver", "stub ")


@dataclass(frozen=True)
class Size:
    """A tenth of a day of 200,000 questions over 20,000 meanings, which takes two cores half an hour. WHOLE is that."""

    num_asked: int = 20_000
    num_meanings: int = 2_000
    num_without: int = 1_500
    num_clients: int = 8


WHOLE = Size(num_asked=200_000, num_meanings=20_000, num_without=3_000)
QUICK = Size(num_asked=1_000, num_meanings=300, num_without=100, num_clients=4)


class Line(NamedTuple):
    rank: int
    verdict: str
    first_us: int
    total_us: int


class Arm(NamedTuple):
    """lines: in the order of the day. processor_s: by process, over all of it."""

    lines: list[Line]
    seconds: float
    processor_s: dict[str, float]


class Measured(NamedTuple):
    with_cache: Arm
    without: Arm


def run(size: Size) -> Measured:
    with running_service(cache=True, gateway_workers=1, log_level="warning") as service:
        return uvloop.run(_measure(service, size))


async def _measure(service: Service, size: Size) -> Measured:
    corpus = load(DEFAULT)
    async with client_of(service) as client:
        files = {f"{number}.txt": text.encode() for number, text in enumerate(corpus.texts)}
        collection, ids = await uploaded(client, files)
        await finished(client, collection, await attached(client, collection, ids))
    asked = day(corpus, size)
    await _asked(service, collection, asked[:200], "off", size.num_clients)  # warm
    without = await _asked(service, collection, asked[: size.num_without], "off", size.num_clients)
    return Measured(await _asked(service, collection, asked, "use", size.num_clients), without)


def day(corpus: Corpus, size: Size) -> list[tuple[int, str]]:
    """Rank and wording of every question, in order."""
    chance = random.Random(11)
    texts = meanings(corpus, size.num_meanings)
    labelled = {each.text for each in corpus.questions}
    return [
        (rank, _worded(texts[rank], chance, is_labelled=texts[rank] in labelled))
        for rank in zipf(len(texts), size.num_asked, seed=7).tolist()
    ]


def meanings(corpus: Corpus, count: int) -> list[str]:
    """By rank. The labelled questions are among them, wherever chance puts them."""
    names = dict.fromkeys(name for text in corpus.texts for name in names_in(text))
    made = [template.format(name) for name in names for template in TEMPLATES]
    chance = random.Random(5)
    chance.shuffle(made)
    own = list(dict.fromkeys(each.text for each in corpus.questions))[: count // 2]
    texts = list(dict.fromkeys([*own, *made]))[:count]
    chance.shuffle(texts)
    return texts


def _worded(text: str, chance: random.Random, *, is_labelled: bool) -> str:
    if chance.random() >= OTHER_WORDING:
        return text
    if is_labelled:
        rules = chance.sample(list(PARAPHRASES.values()), len(PARAPHRASES))
        return next((other for rule in rules for other in rule(text, chance, ())), text)
    return chance.choice(FRAMES).format(text)


async def _asked(
    service: Service, collection: str, asked: Sequence[tuple[int, str]], cache: str, num_clients: int
) -> Arm:
    lines: list[Line | None] = [None] * len(asked)
    turns = iter(range(len(asked)))

    async def client() -> None:
        connection = Connection(service.settings.port)
        for turn in turns:
            rank, text = asked[turn]
            body = question(text, stream=True, cache=cache, collections=[collection])
            reply = await connection.ask(request(service.key, body))
            first, total = (round((at - reply.sent_s) * 1e6) for at in (reply.first_s, reply.done_s))
            lines[turn] = Line(rank, reply.verdict, first, total)
        connection.close()

    before, started = processor_seconds(service), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(num_clients)))
    took, after = time.perf_counter() - started, processor_seconds(service)
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    return Arm([line for line in lines if line is not None], took, used)


def keep(path: Path, arm: Arm) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write("rank,verdict,first_us,total_us\n")
        file.writelines(f"{line.rank},{line.verdict},{line.first_us},{line.total_us}\n" for line in arm.lines)


def engine_ms(arm: Arm) -> float:
    """Processor milliseconds of Triton and its models, a question."""
    return 1000 * sum(s for name, s in arm.processor_s.items() if name.startswith(ENGINE)) / len(arm.lines)


def summarise(measured: Measured) -> dict[str, Any]:
    lines, asked = measured.with_cache.lines, len(measured.with_cache.lines)
    verdicts = Counter(line.verdict for line in lines)
    distinct = len({line.rank for line in lines})
    with_ms, without_ms = engine_ms(measured.with_cache), engine_ms(measured.without)
    return {
        "asked": asked,
        "meanings": distinct,
        "seconds": round(measured.with_cache.seconds, 1),
        "hit_rate": 1 - verdicts["miss"] / asked,
        "hit_rate_possible": 1 - distinct / asked,
        "verdicts": dict(verdicts),
        "hit_rate_by_hour": [1 - share.get("miss", 0.0) for share in by_hour(lines)],
        "ttft_ms": {
            "with": _ttft(lines),
            "without": _ttft(measured.without.lines),
            **{name: _ttft([line for line in lines if line.verdict == name]) for name in verdicts},
        },
        "questions_per_s": {
            "with": asked / measured.with_cache.seconds,
            "without": len(measured.without.lines) / measured.without.seconds,
        },
        "processor_ms_per_question": {
            "with": _each(measured.with_cache),
            "without": _each(measured.without),
        },
        "engine_work_saved": 1 - with_ms / without_ms,
    }


def by_hour(lines: Sequence[Line]) -> list[dict[str, float]]:
    """Shares of the verdicts in each 24th of the day."""
    out = []
    for hour in range(HOURS):
        part = lines[hour * len(lines) // HOURS : (hour + 1) * len(lines) // HOURS]
        out.append({name: n / len(part) for name, n in Counter(line.verdict for line in part).items()})
    return out


def _ttft(lines: Sequence[Line]) -> dict[str, float]:
    values = [line.first_us / 1000 for line in lines if line.first_us > 0]
    return {f"p{q}": percentile(values, q) for q in (50, 90, 95, 99)} | {"n": len(values)}


def _each(arm: Arm) -> dict[str, float]:
    each = {name: round(1000 * s / len(arm.lines), 3) for name, s in arm.processor_s.items()}
    return dict(sorted(((k, v) for k, v in each.items() if v >= 0.01), key=lambda item: -item[1]))


def show(summary: dict[str, Any]) -> None:
    print(
        f"\na day of {summary['asked']} questions ({summary['meanings']} meanings) in {summary['seconds']:.0f} s: "
        f"hit rate {summary['hit_rate']:.3f} ({summary['verdicts']}); "
        f"engine work saved {summary['engine_work_saved']:.3f}"
    )
    for arm, row in summary["ttft_ms"].items():
        print(
            f"  TTFT {arm:9} p50 {row['p50']:7.2f}  p95 {row['p95']:7.2f}  p99 {row['p99']:7.2f} ms  n {row['n']}"
        )
