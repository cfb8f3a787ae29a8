"""The first start of a database: its admin's key, and whether requests need one at all."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from ironflow.actors.directory.keyring import Keyring
from ironflow.actors.directory.registrar import Registrar
from ironflow.core.access.directory import DirectoryFounded
from ironflow.core.access.keys import ADMIN
from ironflow.core.errors import ConfigError
from ironflow.discovery import is_loopback
from ironflow.settings import Settings

log = logging.getLogger("ironflow")

NAME = "bootstrap"

_BLOCK = """
  The first start of {db}. This is the key of its admin; it is not shown again:

      {secret}

  {use}

"""
_NEEDED = "Requests need a key: export IRONFLOW_API_KEY={shown}..."
_SPARE = "On this machine no key is asked for until one is made (ironflow keys create), see --auth."


def demand_of(settings: Settings) -> bool | None:
    """Whether requests need a key; None: as soon as somebody has made one."""
    if settings.dev:
        return False
    if settings.auth == "required":
        return True
    return None if is_loopback(settings.host) or settings.insecure else True


async def prepare(
    settings: Settings, keyring: Keyring, registrar: Registrar, *, announce: bool
) -> None:
    """Know keys and directory before anybody is listened to; at the first start found the one, and
    make the first key: into the file that the settings name, else (`announce`) on stderr. Raises
    `ConfigError`.
    """
    check_address(settings, keys=True)  # before a key is made that this start would not live to see
    keyring.demand = demand_of(settings)
    await keyring.start()
    await registrar.start()
    if announce and not registrar.directory.version:
        await registrar.record(lambda _: DirectoryFounded())
    if keyring.is_empty:
        if settings.bootstrap_key_file:
            await _write_first_key(keyring, settings.bootstrap_key_file)
        elif announce and (keyring.is_needed or settings.db != "memory"):
            _, secret = await keyring.create(NAME, (ADMIN,), bootstrap=True)
            _show(settings, secret, is_needed=keyring.is_needed)
    check_address(settings, keys=not keyring.is_empty)


def check_address(settings: Settings, *, keys: bool) -> None:
    """Refuse to offer an API that asks for no keys beyond this machine, unless told to. Raises
    `ConfigError`.
    """
    if is_loopback(settings.host) or settings.insecure or (keys and not settings.dev):
        return
    raise ConfigError(
        f"host: {settings.host} can be reached from other machines and the API asks for no key"
        f"{' with --dev' if settings.dev else ''}; "
        "listen on 127.0.0.1, make a key first (ironflow keys create, or "
        "--bootstrap-key-file), or accept that with --insecure"
    )


async def _write_first_key(keyring: Keyring, path: str) -> None:
    """An admin's key in a file that only its owner reads. Raises `ConfigError` for a file that is
    there already or cannot be made; then there is no key.
    """
    try:
        # The file first: a key that nobody has would lock everybody out.
        descriptor = await asyncio.to_thread(
            os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
        )
    except OSError as error:
        raise ConfigError(f"bootstrap_key_file: cannot make {path}: {error.strerror}") from error
    _, secret = await keyring.create(NAME, (ADMIN,), bootstrap=True)
    await asyncio.to_thread(_fill, descriptor, secret + "\n")
    log.info("the admin's key is in %s", path)


def _fill(descriptor: int, text: str) -> None:
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _show(settings: Settings, secret: str, *, is_needed: bool) -> None:
    """Tell the admin's key to whoever started the server, and to no log file of the server's."""
    if settings.log_format == "json":
        log.warning("first start of %s: the key of its admin is %s", settings.db, secret)
        return
    use = _NEEDED.format(shown=secret[:14]) if is_needed else _SPARE
    sys.stderr.write(_BLOCK.format(db=settings.db, secret=secret, use=use))
    sys.stderr.flush()
