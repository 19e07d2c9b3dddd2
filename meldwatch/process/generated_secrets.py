"""What ``up`` makes for itself when it is not set: kept beside the database, readable by its owner alone."""

import os
import secrets
from pathlib import Path

import click
from cryptography.fernet import Fernet
from pydantic import SecretStr

from runtime.errors import SettingsError
from runtime.settings import Settings


def with_admin_token(settings: Settings) -> Settings:
    """Return the settings with an admin token: the one that is set, the one that was kept, or a new one.

    A new one is printed, once.
    """
    if settings.admin_tokens:
        return settings
    path = _beside_database(settings, "admin-token")
    if path.exists():
        token = path.read_text(encoding="utf-8").strip()
    else:
        token = secrets.token_urlsafe(24)
        _write(path, token)
        click.echo(f"Made an admin token for the API, kept in {path}: {token}", err=True)
    return settings.model_copy(update={"admin_tokens": (SecretStr(token),)})


def reading_token(settings: Settings) -> SecretStr:
    """Return a token that the service on these settings lets read: one that is set, or the one that ``up`` has kept.

    Raises:
        SettingsError: Where there is none.
    """
    for token in (*settings.read_tokens, *settings.admin_tokens):
        return token
    try:
        return SecretStr(_beside_database(settings, "admin-token").read_text(encoding="utf-8").strip())
    except OSError:
        raise SettingsError("MELDWATCH_READ_TOKENS is not set: the service answers nobody without a token.") from None


def with_encryption_key(settings: Settings) -> Settings:
    """Return the settings with a key that encrypts: the one that is set, the one that was kept, or a new one.

    A new one is not printed: nobody needs to type it.
    """
    settings = with_kept_encryption_key(settings)
    if settings.encryption_keys:
        return settings
    path = _beside_database(settings, "encryption-key")
    _write(path, Fernet.generate_key().decode())
    click.echo(f"Made an encryption key, kept in {path}: back it up with the database.", err=True)
    return with_kept_encryption_key(settings)


def with_kept_encryption_key(settings: Settings) -> Settings:
    """Return the settings with the key that `up` has kept, where none is set: for a command beside it."""
    path = _beside_database(settings, "encryption-key")
    if settings.encryption_keys or not path.exists():
        return settings
    kept = path.read_text(encoding="utf-8").strip()
    try:
        Fernet(kept)
    except ValueError:
        raise SettingsError(f"{path} holds no encryption key any more. Restore it, or set one.") from None
    return settings.model_copy(update={"encryption_keys": (SecretStr(kept),)})


def _beside_database(settings: Settings, kind: str) -> Path:
    if not settings.is_sqlite:
        return Path(f"meldwatch.{kind}")
    return settings.sqlite_path.with_name(f"{settings.sqlite_path.stem}.{kind}")


def _write(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")
