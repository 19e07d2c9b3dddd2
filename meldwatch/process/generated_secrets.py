"""Secrets that ``up`` generates if they are not set: the admin token and the encryption key.

Each is stored in a file beside the database that only its owner can read.
"""

import os
import secrets
from pathlib import Path

import click
from cryptography.fernet import Fernet
from pydantic import SecretStr

from runtime.errors import SettingsError
from runtime.settings import Settings


def ensure_admin_token(settings: Settings) -> Settings:
    """Return the settings with an admin token: the one that is set, the stored one, or a new one.

    A new token is printed once.
    """
    if settings.admin_tokens:
        return settings
    path = _get_path_beside_database(settings, "admin-token")
    if path.exists():
        token = path.read_text(encoding="utf-8").strip()
    else:
        token = secrets.token_urlsafe(24)
        _write_secret(path, token)
        click.echo(f"Generated an admin token for the API, stored in {path}: {token}", err=True)
    return settings.model_copy(update={"admin_tokens": (SecretStr(token),)})


def get_read_token(settings: Settings) -> SecretStr:
    """Return a token with read permission: one that is set, or the one that ``up`` has stored.

    Raises:
        SettingsError: If there is none.
    """
    for token in (*settings.read_tokens, *settings.admin_tokens):
        return token
    try:
        return SecretStr(_get_path_beside_database(settings, "admin-token").read_text(encoding="utf-8").strip())
    except OSError:
        raise SettingsError("MELDWATCH_READ_TOKENS is not set: the service refuses requests without a token.") from None


def ensure_encryption_key(settings: Settings) -> Settings:
    """Return the settings with an encryption key: the one that is set, the stored one, or a new one.

    A new key is not printed: nobody needs to type it.
    """
    settings = load_stored_encryption_key(settings)
    if settings.encryption_keys:
        return settings
    path = _get_path_beside_database(settings, "encryption-key")
    _write_secret(path, Fernet.generate_key().decode())
    click.echo(f"Generated an encryption key, stored in {path}: back it up with the database.", err=True)
    return load_stored_encryption_key(settings)


def load_stored_encryption_key(settings: Settings) -> Settings:
    """Return the settings with the encryption key that ``up`` has stored, if none is set: for a command beside it."""
    path = _get_path_beside_database(settings, "encryption-key")
    if settings.encryption_keys or not path.exists():
        return settings
    key = path.read_text(encoding="utf-8").strip()
    try:
        Fernet(key)
    except ValueError:
        raise SettingsError(f"{path} no longer has an encryption key in it. Restore it, or set one.") from None
    return settings.model_copy(update={"encryption_keys": (SecretStr(key),)})


def _get_path_beside_database(settings: Settings, kind: str) -> Path:
    if not settings.is_sqlite:
        return Path(f"meldwatch.{kind}")
    return settings.sqlite_path.with_name(f"{settings.sqlite_path.stem}.{kind}")


def _write_secret(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")
