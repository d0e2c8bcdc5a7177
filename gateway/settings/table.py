"""`Settings`: the whole table, in reading order, and what must hold of several rows."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gateway.settings.cache import CacheSettings
from gateway.settings.doors import DoorSettings
from gateway.settings.formats import VERSION, check_vector_store, hosts, lives
from gateway.settings.ingest import IngestSettings
from gateway.settings.limits import LimitSettings
from gateway.settings.load import LoadSettings
from gateway.settings.models import ModelSettings
from gateway.settings.parts import PartSettings
from gateway.settings.place import LOOPBACK, PlaceSettings
from gateway.settings.row import PREFIX, SettingsError, check
from gateway.settings.watching import WatchSettings


# The last base's fields come first, so the bases stand against the reading order.
@dataclass(frozen=True, kw_only=True)
class Settings(
    IngestSettings,
    DoorSettings,
    WatchSettings,
    CacheSettings,
    LimitSettings,
    LoadSettings,
    ModelSettings,
    PartSettings,
    PlaceSettings,
):
    """What an operator may set. Each field is TIDEGATE_<NAME> in the environment."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            check(spec, getattr(self, spec.name))
        if self.chunk_overlap_chars >= self.chunk_chars:
            raise SettingsError("TIDEGATE_CHUNK_OVERLAP_CHARS must be smaller than TIDEGATE_CHUNK_CHARS.")
        for name in ("host", "part_host"):
            address = getattr(self, name)
            if self.auth == "development" and address not in LOOPBACK:
                raise SettingsError(
                    f"{PREFIX}{name.upper()}={address} is not loopback: set TIDEGATE_AUTH=required as well."
                )
        hosts(self.triton_hosts, "TRITON_HOSTS")
        if not VERSION.fullmatch(self.model_version):
            raise SettingsError(
                f"TIDEGATE_MODEL_VERSION={self.model_version[:80]!r} is not a version's name."
            )
        if "" in hosts(self.canary_hosts, "CANARY_HOSTS"):
            raise SettingsError("TIDEGATE_CANARY_HOSTS takes TIER=HOST only.")
        check_vector_store(self.vector_store)
        lives(self.cache_ttl_collections)

    @property
    def sql_url(self) -> str:
        return self.database_url or f"sqlite:///{self.var / 'tidegate.db'}"

    def slots(self, tier: str) -> int:
        """Permits of a built-in tier over all replicas."""
        per_replica = {"fast": self.fast_slots, "deep": self.deep_slots}[tier]
        return per_replica * self.triton_replicas

    def environment(self) -> dict[str, str]:
        """TIDEGATE_* variables that rebuild exactly these settings in a child process."""
        out = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value != spec.default or spec.name == "var":
                out[PREFIX + spec.name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
        return out
