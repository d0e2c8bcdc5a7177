"""All settings, in one table: name, unit, default, help. Explicit argument > TIDEGATE_* environment > default.

An unknown TIDEGATE_ name or a bad value stops the start with one sentence that names it. Ports that are not set
follow TIDEGATE_PORT, so a second instance needs only another TIDEGATE_PORT and TIDEGATE_VAR.

A setting is one row of the module of its subject: `place`, `parts`, `models`, `load`, `limits`, `cache`, `watching`,
`doors`, `ingest`. Nobody outside this package imports these modules.
"""

from gateway.settings.loading import load_settings, secret_files
from gateway.settings.place import LOOPBACK
from gateway.settings.row import PREFIX, SettingsError
from gateway.settings.table import Settings

__all__ = ["LOOPBACK", "PREFIX", "Settings", "SettingsError", "load_settings", "secret_files"]
