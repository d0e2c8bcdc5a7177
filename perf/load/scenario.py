"""A scenario file: which model, which arms, who sends what and how fast, and what counts as good. Strict: a typo stops.

Owns the file's form and its checks. Refuses to know how anything is sent.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FOLDER = Path(__file__).with_name("scenarios")
Kind = Literal["phases", "rejection", "hold"]
ArmName = Literal["tidegate", "unshedded", "nginx", "litellm", "envoy"]
ArrivalKind = Literal["poisson", "burst", "even"]
Priority = Literal["interactive", "standard", "batch"]
Name = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,31}\Z")]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class ScenarioError(ValueError):
    """The file is wrong. The text is one sentence that names file and field."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model behind all arms. `engine`: perf/load/engine.py, slots with a first-in-first-out line in front.

    `fast`: the reader that quotes, on Triton; slots are then the tier's. gap_ms: between tokens; prefill_ms: before
    the first.
    """

    backend: Literal["engine", "fast"] = "engine"
    slots: Annotated[int, Meta(ge=1, le=1024)] = 16
    gap_ms: NotNegative = 20.0
    prefill_ms: NotNegative = 50.0

    def service_s(self, num_tokens: int) -> float:
        """How long one request holds its slot."""
        return (self.prefill_ms + self.gap_ms * num_tokens) / 1000

    def capacity(self, num_tokens: float) -> float:
        """Requests/s that the slots can work through, by arithmetic."""
        return self.slots * 1000 / (self.prefill_ms + self.gap_ms * num_tokens)


class Slo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a good answer is (seconds). ttft_s from the intended send; tpot_s after the first token; 0 = not asked."""

    ttft_s: NotNegative = 2.0
    tpot_s: NotNegative = 0.1
    total_s: NotNegative = 0.0

    def __str__(self) -> str:
        bounds = [("TTFT", self.ttft_s), ("TPOT", self.tpot_s), ("whole answer", self.total_s)]
        return ", ".join(f"{name} <= {bound * 1000:g} ms" for name, bound in bounds if bound) or "complete"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Callers of one kind. share: of a phase's rate, over all of its tenants together, who share evenly.

    arrivals: "" = the phase's. deadline_ms: 0 = none.
    """

    name: Name
    share: Positive = 1.0
    num_tenants: Count = 1
    priority: Priority = "interactive"
    num_tokens: Count = 32
    arrivals: Literal["", "poisson", "burst", "even"] = ""
    deadline_ms: Annotated[int, Meta(ge=0)] = 0
    slo: Slo | None = None

    @property
    def tenants(self) -> list[str]:
        if self.num_tenants == 1:
            return [self.name]
        return [f"{self.name}-{number:02d}" for number in range(self.num_tenants)]


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of time at one rate: `rate` requests/s, or `of_peak` times the peak goodput G found before.

    sources: those that send in it, each at its share of the rate; [] = all. warm_s: at its start, sent but not counted.
    is_joined: follows the phase before without a pause.
    """

    name: Name
    duration_s: Positive
    rate: NotNegative = 0.0
    of_peak: NotNegative = 0.0
    arrivals: ArrivalKind = "poisson"
    burst_size: Count = 20
    sources: list[str] = []
    warm_s: NotNegative = 0.0
    is_joined: bool = False

    def rate_at(self, peak: float) -> float:
        return self.rate or self.of_peak * peak


class PeakSearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How G is looked for: probes of probe_s at rising rates, from `first` of the slots' arithmetic capacity on."""

    probe_s: Positive = 16.0
    warm_s: NotNegative = 4.0
    first: Positive = 0.5
    growth: Annotated[float, Meta(gt=1)] = 1.25
    max_probes: Count = 9


class Rejection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the processor time of a refusal is measured: that many of each, at these rates (per second).

    flood_rate: at which as many again are refused; 0 = not measured.
    """

    num_accepted: Count = 200
    num_rejected: Count = 2000
    accepted_rate: Positive = 5.0
    rejected_rate: Positive = 100.0
    flood_rate: NotNegative = 0.0


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """num_streams opened at connect_rate per second, held for hold_s after the last one, then all answered.

    churn_s: after that, this long (seconds) at churn_rate per second, to see whether memory stays flat.
    """

    num_streams: Count = 10_000
    connect_rate: Positive = 100.0
    hold_s: Positive = 30.0
    churn_s: NotNegative = 0.0
    churn_rate: Positive = 20.0
    workers: Count = 2
    envoys: Count = 2
    max_kib_per_stream: Positive = 24.0


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file. patience_s: a client that has no whole answer after that long leaves. seed: of all randomness.

    queue_max, queue_ttl_s, settings: how the service is set; anything `tidegate settings` lists.
    """

    title: str
    what: str
    kind: Kind = "phases"
    seed: int = 1
    arms: Annotated[list[ArmName], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["tidegate"])
    patience_s: Positive = 30.0
    processes: Annotated[int, Meta(ge=0, le=64)] = 0
    model: Model = Model()
    slo: Slo = Slo()
    peak: PeakSearch = PeakSearch()
    sources: list[Source] = msgspec.field(default_factory=lambda: [Source("all")])
    phases: list[Phase] = []
    rejection: Rejection = Rejection()
    hold: Hold = Hold()
    settings: dict[str, str | int | float | bool] = {}
    nginx_connections: Annotated[int, Meta(ge=0)] = 0  # 0 = twice the slots
    targets: dict[str, float] = {}  # figure -> bar; shown beside what was measured
    name: str = ""

    @property
    def needs_peak(self) -> bool:
        return any(phase.of_peak for phase in self.phases)

    @property
    def num_tokens(self) -> float:
        """Mean length of an answer over all sources, by share."""
        return sum(s.share * s.num_tokens for s in self.sources) / sum(s.share for s in self.sources)

    def source(self, name: str) -> Source:
        return next(source for source in self.sources if source.name == name)

    def slo_of(self, source: str) -> Slo:
        return self.source(source).slo or self.slo

    def active(self, phase: Phase) -> list[Source]:
        return [source for source in self.sources if not phase.sources or source.name in phase.sources]


def load(name: str) -> Scenario:
    """A scenario by name (of perf/load/scenarios/) or by the path of a file. Raises: ScenarioError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return parse(path.read_text("utf-8"), path.stem)
    except OSError:
        raise ScenarioError(f"there is no scenario {name!r}; choose from: {', '.join(names())}") from None


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def parse(text: str, name: str) -> Scenario:
    """Raises: ScenarioError."""
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ScenarioError(f"{name}: {error}") from None
    for problem in _problems(scenario):
        raise ScenarioError(f"{name}: {problem}")
    return msgspec.structs.replace(scenario, name=name)


def _problems(scenario: Scenario) -> list[str]:
    known = [source.name for source in scenario.sources]
    out = []
    if len(set(known)) != len(known):
        out.append("two sources have the same name")
    if scenario.kind == "phases" and not scenario.phases:
        out.append("there are no phases")
    for phase in scenario.phases:
        unknown = sorted(set(phase.sources) - set(known))
        if unknown:
            out.append(f"phase {phase.name!r} names the unknown source {unknown[0]!r}")
        if bool(phase.rate) == bool(phase.of_peak):
            out.append(f"phase {phase.name!r} needs either rate or of_peak")
        if phase.warm_s >= phase.duration_s:
            out.append(f"phase {phase.name!r} is warm for all of its time")
    if scenario.model.backend == "fast" and {"litellm", "envoy"} & set(scenario.arms):
        out.append("the arms litellm and envoy have no model but the engine")
    return out
