"""GPTCache as perf/cache/peer.py asks it, one JSON object a line; runs in .venv/gptcache and imports nothing of ours.

`python gptcache_server.py FOLDER VECTORS`: FOLDER takes its SQLite and FAISS files. VECTORS (.npz with `texts` and
`vectors`) stands for its embedding function, so that both caches see the same model and its time is told apart. Its
reports, one row of SQLite a hit, are off.
"""

# mypy: disable-error-code="import-not-found"

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gptcache import Cache, Config
from gptcache.adapter.api import get, put
from gptcache.manager import CacheBase, VectorBase, get_data_manager
from gptcache.processor.pre import get_prompt
from gptcache.similarity_evaluation import SearchDistanceEvaluation


def opened(folder: Path, vectors: dict[str, Any]) -> Cache:
    dimension = len(next(iter(vectors.values())))
    store = CacheBase("sqlite", sql_url=f"sqlite:///{folder / 'cache.db'}")
    index = VectorBase("faiss", dimension=dimension, index_path=str(folder / "faiss.index"))
    made = Cache()
    made.init(
        pre_embedding_func=get_prompt,
        embedding_func=lambda text, **_: vectors[text],
        data_manager=get_data_manager(store, index, max_size=100_000),
        similarity_evaluation=SearchDistanceEvaluation(),
        config=Config(disable_report=True, enable_token_counter=False),
    )
    return made


def main() -> None:
    kept = np.load(sys.argv[2])
    cache = opened(Path(sys.argv[1]), dict(zip(kept["texts"].tolist(), kept["vectors"], strict=True)))
    for line in sys.stdin:
        order = json.loads(line)
        answers, seconds = [], []
        cache.config.similarity_threshold = order.get("threshold", 0.8)
        for text in order["texts"]:
            started = time.perf_counter()
            answers.append(
                put(text, "answer to: " + text, cache_obj=cache)
                if order["do"] == "put"
                else get(text, cache_obj=cache)
            )
            seconds.append(time.perf_counter() - started)
        print(json.dumps({"answers": answers, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
