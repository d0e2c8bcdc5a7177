"""Everything on disk before the first process starts: folders, leftovers, the model, the database, configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway.settings import Settings, SettingsError
from gateway.supervise import credentials, render, watching
from gateway.supervise.assets import Assets
from gateway.supervise.redis_config import redis_folder, render_redis
from gateway.supervise.triton_server import remove_leftovers
from gateway.tier_config import generate_tiers

PRIVATE = 0o077  # umask: what tenants stored is nobody else's business on this machine


class PreparationFailed(RuntimeError):
    """The text is one sentence, fit to print."""


def with_absolute_paths(settings: Settings) -> Settings:
    """Paths as the caller's working directory means them: the children work in var/.

    Raises: PreparationFailed when the database's URL is none.
    """
    return replace(
        settings,
        redis_server=_absolute(settings.redis_server),
        envoy_bin=_absolute(settings.envoy_bin),
        triton_home=_absolute(settings.triton_home),
        checkpoint=_absolute(settings.checkpoint),
        tiers_file=_absolute(settings.tiers_file),
        convert_python=_absolute(settings.convert_python),
        database_url=_absolute_url(settings.database_url),
    )


def _absolute(text: str) -> str:
    return str(Path(text).expanduser().absolute()) if text else ""


def _absolute_url(text: str) -> str:
    if not text:
        return ""
    import sqlalchemy as sa

    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        fix = "write it as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        raise PreparationFailed(f"TIDEGATE_DATABASE_URL is not a database URL: {fix}.") from None
    path = url.database
    if url.get_backend_name() != "sqlite" or not path or path.startswith((":memory:", "file:")):
        return text
    return url.set(database=_absolute(path)).render_as_string(hide_password=False)


def prepare(settings: Settings, assets: Assets, progress: Callable[[str], None]) -> tuple[str, str]:
    """Everything on disk. Returns the development key and supervisord's password.

    Raises: PreparationFailed.
    """
    try:
        return _prepare(settings, assets, progress)
    except OSError as error:
        raise cannot_write(settings, error) from error


def cannot_write(settings: Settings, error: OSError) -> PreparationFailed:
    """A full disk, a quota, a folder of someone else."""
    where = f"{error.filename}: " if error.filename else ""
    return PreparationFailed(
        f"The folder {settings.var} cannot be used ({where}{error.strerror or error}): make room or give us the right "
        "to write there, or set TIDEGATE_VAR to another folder."
    )


def _prepare(settings: Settings, assets: Assets, progress: Callable[[str], None]) -> tuple[str, str]:
    from gateway.embedding.export import EmbedderUnavailable
    from gateway.embedding.registry import prepare_embedders
    from gateway.errors import TidegateError

    for folder in (settings.run_dir, settings.log_dir, settings.files_dir, redis_folder(settings)):
        folder.mkdir(parents=True, exist_ok=True)
    _shut_out_others(settings)
    _remove_leftovers(settings)
    try:
        prepare_embedders(settings, progress)
        _prepare_tiers(settings, progress)
        dev_key = _prepare_database(settings)
    except (EmbedderUnavailable, SettingsError) as error:
        raise PreparationFailed(str(error)) from error
    except TidegateError as error:
        raise _no_database(settings, error) from error
    return dev_key, _write_configuration(settings, assets)


def _prepare_tiers(settings: Settings, progress: Callable[[str], None]) -> None:
    """Convert what has not been converted yet."""
    from gateway.checkpoint.errors import CheckpointError
    from gateway.checkpoint.prepare import prepare_checkpoint

    try:
        for tier in generate_tiers(settings):
            prepare_checkpoint(tier, settings.models_dir, settings.convert_python, progress)
    except (CheckpointError, SettingsError) as error:
        raise PreparationFailed(f"{tiers_setting(settings)}, {error}.") from error


def tiers_setting(settings: Settings) -> str:
    """Which setting the generative tiers come from."""
    return "TIDEGATE_TIERS_FILE" if settings.tiers_file else "TIDEGATE_CHECKPOINT"


def _no_database(settings: Settings, error: object) -> PreparationFailed:
    detail = str(getattr(error, "detail", "")).partition("\n")[0]
    setting = "TIDEGATE_DATABASE_URL" if settings.database_url else "TIDEGATE_VAR"
    public = str(getattr(error, "message", "")).rstrip(".")
    return PreparationFailed(
        f"{public} ({detail}): see {setting}." if detail else f"{public}: see {setting}."
    )


def _shut_out_others(settings: Settings) -> None:
    """A folder that an earlier version, or another umask, made readable for all."""
    for path in (settings.files_dir, settings.log_dir, *settings.var.glob("tidegate.db*")):
        mode = path.stat().st_mode
        if mode & PRIVATE:
            path.chmod(mode & ~PRIVATE & 0o777)


def _remove_leftovers(settings: Settings) -> None:
    """What a killed instance could not take away itself. Call with the instance lock held."""
    for pattern in ("models/.embed-*", "models/generate/.convert-*", "triton", "secrets/.*"):
        for left in settings.var.glob(pattern):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    remove_leftovers(settings)


def _prepare_database(settings: Settings) -> str:
    """Tables up to date, the development key known. Returns the key."""
    import sqlalchemy as sa

    from gateway.storage.database import Database
    from gateway.storage.keys import DEFAULT_TENANT, create_key
    from gateway.supervise.snapshot import check_snapshot

    dev_key = credentials.secret(settings, credentials.DEV_KEY)
    try:
        database = Database(settings.sql_url)
    except (ImportError, sa.exc.ArgumentError) as error:
        raise PreparationFailed(
            f"TIDEGATE_DATABASE_URL needs a driver that is not installed ({error}): install it, or name another."
        ) from error
    try:
        database.migrate()
        with database.write() as conn:
            create_key(conn, tenant=DEFAULT_TENANT, name="development", key=dev_key)
            if watching.is_watched(settings):
                alerts_key = credentials.secret(settings, credentials.ALERTS_KEY)
                create_key(conn, tenant="operator", name="alertmanager", key=alerts_key, is_admin=True)
    finally:
        database.close()
    check_snapshot(settings)
    return dev_key


def _write_configuration(settings: Settings, assets: Assets) -> str:
    password = credentials.secret(settings, "supervisor")
    envoys = enumerate(render.envoy_names(settings))
    files = {
        **{f"{name}.yaml": render.render_envoy(settings, assets, index) for index, name in envoys},
        "redis.conf": render_redis(settings, credentials.secret(settings, "redis")),
        "supervisord.conf": render.render_supervisor(settings, password),
        **watching.configuration(settings, assets),
    }
    for name, text in files.items():
        credentials.write_private(settings.run_dir / name, text)
    return password
