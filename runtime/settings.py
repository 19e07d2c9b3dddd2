"""Settings: environment variables and ``.env`` file, read and validated once. Source of ``docs/settings.md``."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from runtime.errors import SettingsError
from runtime.retention_settings import RetentionSettings

PREFIX = "MELDWATCH_"
_INVALID_URL = "is not a valid URL: check its port, and percent-encode special characters in its password"


def _parse_list(value: object) -> object:
    """Split a comma separated list, or parse a JSON list (for values that contain commas)."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("starts like a JSON list but is not one") from None
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _check_port(url: str) -> None:
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError(_INVALID_URL) from None


Texts = Annotated[tuple[str, ...], BeforeValidator(_parse_list)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_parse_list)]


class Settings(RetentionSettings):
    """All settings. Secrets are ``SecretStr``, so that they are never printed."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)

    database_url: SecretStr = Field(
        default=SecretStr("sqlite:///meldwatch.db"),
        description="The database: `sqlite:///...` (one serving process, `up`; operator commands may run beside it) or"
        " `postgresql://...`.",
    )
    broker_url: SecretStr = Field(
        default=SecretStr("memory://"),
        description="The message broker: `memory://` (one process, `up`), `redis://`, `rediss://` (Redis or Valkey),"
        " `amqp://` or `amqps://` (RabbitMQ).",
    )
    meld_api_url: str = Field(
        default="https://api-sb.meld.io", description="The base URL of Meld's API. Production: https://api.meld.io"
    )
    meld_api_key: SecretStr | None = Field(
        default=None, description="The API key for Meld, sent as `Authorization: BASIC <key>`."
    )
    meld_authorization: SecretStr | None = Field(
        default=None, description="The exact `Authorization` header, if the form above does not fit."
    )
    meld_version: str | None = Field(default=None, description="The `Meld-Version` header, a date such as 2023-12-19.")
    meld_timeout_seconds: float = Field(default=20, gt=0, le=120, description="The timeout of one whole read of Meld.")
    webhook_urls: Texts = Field(
        default=(),
        description="The webhook URLs exactly as configured in the Meld profile, comma separated or a JSON list: Meld's"
        " signature covers the URL.",
    )
    webhook_secrets: Secrets = Field(
        default=(),
        description="The secrets of the Meld webhook profiles, comma separated or a JSON list. A signature with any"
        " of them is valid, so that they can be rotated.",
    )
    webhook_max_age_seconds: float = Field(
        default=345600,
        gt=0,
        description="The maximum age of a signature. Meld may retry for three days with the first signature.",
    )
    webhook_max_skew_seconds: float = Field(
        default=300, ge=0, description="How far in the future the time of a signature may be."
    )
    read_tokens: Secrets = Field(
        default=(),
        description="Bearer tokens with read access, each `token` or `name:token`. Without tokens the API is closed.",
    )
    admin_tokens: Secrets = Field(
        default=(),
        description="Bearer tokens with admin access, each `token` or `name:token`; the audit log records the name."
        " If none is set, `up` creates one, prints it once, and keeps it beside the database.",
    )
    encryption_keys: Secrets = Field(
        default=(),
        description="Fernet keys, newest first, comma separated. Webhook bodies and the secrets of subscriptions are"
        " encrypted with the first key, and decrypted with any; `meldwatch keys rotate` encrypts them again with the"
        " first. If none is set, `up` creates one, and keeps it beside the database. Without a key, bodies are stored"
        " unencrypted, and subscriptions cannot be created.",
    )
    push_allowed_networks: Texts = Field(
        default=(),
        description="Networks (CIDR, comma separated) that events may be pushed to although they are private, loopback"
        " or otherwise not public. Only these may be pushed to with plain `http`.",
    )
    handlers: Texts = Field(
        default=(), description="Python modules with event handlers, comma separated; `worker` and `up` import them."
    )
    reconcile_every_seconds: float = Field(
        default=86400, ge=0, description="How often Meld's whole list is compared with the mirror; 0 turns this off."
    )
    reread_after_seconds: float = Field(
        default=604800, ge=0, description="A living connection is read again after this time; 0 turns this off."
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 chooses a free one.")
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="Format of log lines: `json`, `console`, or `auto` (console on a terminal)."
    )

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if text.startswith("postgres://"):
            return SecretStr("postgresql://" + text.removeprefix("postgres://"))
        if not text.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must start with sqlite:/// or postgresql://")
        if ":memory:" in text or text == "sqlite:///":
            raise ValueError("must name a file: an in-memory database would lose every webhook")
        try:
            make_url(text)
        except (ValueError, ArgumentError):
            raise ValueError(_INVALID_URL) from None
        return url

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("memory://", "redis://", "rediss://", "amqp://", "amqps://")):
            raise ValueError("must start with memory://, redis://, rediss://, amqp:// or amqps://")
        _check_port(url.get_secret_value())
        return url

    @field_validator("meld_api_url")
    @classmethod
    def _check_meld_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with https:// (or http:// for a simulated Meld)")
        _check_port(url)
        return url.rstrip("/")

    @field_validator("webhook_urls")
    @classmethod
    def _check_webhook_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError("must be absolute URLs that start with https://, as in the Meld profile")
        return urls

    @field_validator("meld_api_key", "meld_authorization", "meld_version")
    @classmethod
    def _check_header_value(cls, value: SecretStr | str | None) -> SecretStr | str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        if not (text.isascii() and text.isprintable()):
            raise ValueError("contains a character that is not allowed in an HTTP header")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _check_fernet_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        try:
            from cryptography.fernet import Fernet  # noqa: PLC0415 - slow to import, and most commands have no keys

            _ = [Fernet(key.get_secret_value()) for key in keys]
        except ValueError:
            raise ValueError("has an entry that is not a Fernet key: 32 random bytes in URL-safe base64") from None
        return keys

    @field_validator("push_allowed_networks")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        try:
            _ = [ip_network(network) for network in networks]
        except ValueError:
            raise ValueError("has an entry that is not a network such as 10.0.0.0/8 or fd00::/8") from None
        return networks

    @field_validator("webhook_secrets", "read_tokens", "admin_tokens")
    @classmethod
    def _check_not_empty(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(not secret.get_secret_value() for secret in secrets):
            raise ValueError("has an empty entry")
        return secrets

    @property
    def authorization(self) -> SecretStr | None:
        """The ``Authorization`` header for Meld; None if no credentials are set."""
        if self.meld_authorization is not None:
            return self.meld_authorization
        return SecretStr(f"BASIC {self.meld_api_key.get_secret_value()}") if self.meld_api_key is not None else None

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is SQLite, a file on this machine."""
        return self.database_url.get_secret_value().startswith("sqlite:")

    @property
    def sqlite_path(self) -> Path:
        """The path in the SQLite URL."""
        return Path(self.database_url.get_secret_value().removeprefix("sqlite:///"))

    @property
    def is_memory_broker(self) -> bool:
        """Whether the broker is the in-process one."""
        return self.broker_url.get_secret_value().startswith("memory://")

    @property
    def lease_seconds(self) -> float:
        """The duration of a read lease: longer than any read, so that the lease of a live reader never expires."""
        return self.meld_timeout_seconds + 10


def load_settings(environ: Mapping[str, str], env_file: Path | None = Path(".env")) -> Settings:
    """Load the settings. The environment takes precedence over ``env_file``; an empty value counts as not set.

    Raises:
        SettingsError: If settings are invalid. The message names each of them, and the reason, but no value.
    """
    variables = {**_read_env_file(env_file), **environ}
    named = {name: value for name, value in variables.items() if name.startswith(PREFIX) and value != ""}
    values: dict[str, Any] = {}
    for field in Settings.model_fields:
        name = PREFIX + field.upper()
        if name in named and name + "_FILE" in named:
            raise SettingsError(f"{name} and {name}_FILE are both set. Set one of them.")
        if name in named:
            values[field] = named[name]
        elif name + "_FILE" in named:
            values[field] = _read_value_file(name, named[name + "_FILE"])
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_describe_errors(error)) from None


def find_unknown_variables(environ: Mapping[str, str], env_file: Path | None = Path(".env")) -> list[str]:
    """Return a message for each unknown ``MELDWATCH_`` variable, with the setting that was probably meant."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    names = {**_read_env_file(env_file), **environ}
    lines = []
    for name in sorted(names):
        if name.startswith(PREFIX) and name.removesuffix("_FILE") not in known:
            similar = get_close_matches(name, known, n=1, cutoff=0.8)
            lines.append(
                f"{name} is not a setting of this version" + (f"; did you mean {similar[0]}?" if similar else "")
            )
    return lines


def require_settings(settings: Settings, *names: str) -> None:
    """Check that the settings that a process needs are set.

    Args:
        settings: The settings.
        names: Fields of ``Settings`` that must have a value; instead of ``"meld_api_key"``, ``meld_authorization`` may
            be set.

    Raises:
        SettingsError: If one is missing; the message names the first.
    """
    for name in names:
        value = settings.authorization if name == "meld_api_key" else getattr(settings, name)
        if not value:
            raise SettingsError(f"{PREFIX}{name.upper()} is not set. See docs/settings.md.")


def _read_env_file(env_file: Path | None) -> dict[str, str]:
    if env_file is None or not env_file.is_file():
        return {}
    return {name: value for name, value in dotenv_values(env_file, interpolate=False).items() if value is not None}


def _read_value_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}_FILE names a file that cannot be read ({type(error).__name__}).") from None


def _describe_errors(error: ValidationError) -> str:
    problems = [
        f"{PREFIX}{str(item['loc'][0]).upper()} {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return "; ".join(problems) + ". See docs/settings.md."
