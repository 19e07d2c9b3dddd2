"""What an operator sets: read once, from the environment and a ``.env`` file. ``docs/settings.md`` is made of this."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from dotenv import dotenv_values
from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from runtime.errors import SettingsError
from runtime.retention_settings import RetentionSettings

PREFIX = "MELDWATCH_"


def _several(value: object) -> object:
    """Split a comma separated list, or read a JSON list (for values that have commas in them)."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("starts like a JSON list but is none") from None
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _check_port(url: str) -> None:
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError("is no URL: see its port, and quote what is special in its password") from None


Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_several)]


class Settings(RetentionSettings):
    """All settings. Secrets are ``SecretStr``: they are never printed."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)

    database_url: SecretStr = Field(
        default=SecretStr("sqlite:///meldwatch.db"),
        description="`sqlite:///...` (one serving process, `up`; the operator's commands may run beside it) or"
        " `postgresql://...`.",
    )
    broker_url: SecretStr = Field(
        default=SecretStr("memory://"),
        description="`memory://` (one process, `up`), `redis://`, `rediss://` (Redis or Valkey), `amqp://`,"
        " `amqps://` (RabbitMQ).",
    )
    meld_api_url: str = Field(
        default="https://api-sb.meld.io", description="Meld's API. Production: https://api.meld.io"
    )
    meld_api_key: SecretStr | None = Field(
        default=None, description="Meld's API key, sent as `Authorization: BASIC <key>`."
    )
    meld_authorization: SecretStr | None = Field(
        default=None, description="The exact `Authorization` header, where the form above is not right."
    )
    meld_version: str | None = Field(default=None, description="`Meld-Version` header, a date such as 2023-12-19.")
    meld_timeout_seconds: float = Field(default=20, gt=0, le=120, description="One read of Meld, in all.")
    webhook_urls: Texts = Field(
        default=(),
        description="The webhook URLs exactly as configured in the Meld profile, comma separated or a JSON list: they"
        " are part of what Meld signs.",
    )
    webhook_secrets: Secrets = Field(
        default=(),
        description="Secrets of the Meld webhook profiles, comma separated or a JSON list; any of them verifies, so"
        " that they can be rotated.",
    )
    webhook_max_age_seconds: float = Field(
        default=345600,
        gt=0,
        description="Oldest accepted signature time. Meld retries for three days and may not sign anew, hence four.",
    )
    webhook_max_skew_seconds: float = Field(
        default=300, ge=0, description="Furthest accepted signature time in the future."
    )
    read_tokens: Secrets = Field(
        default=(),
        description="Bearer tokens that may read, each `token` or `name:token`. Without any the API stays closed.",
    )
    admin_tokens: Secrets = Field(
        default=(),
        description="Bearer tokens that may also act, each `token` or `name:token`: an act is noted with the name. `up`"
        " makes one when none is set, prints it once and keeps it beside the database.",
    )
    encryption_keys: Secrets = Field(
        default=(),
        description="Fernet keys, newest first, comma separated: raw webhook bodies and secrets of subscriptions are"
        " stored encrypted with the first, and read with any; `meldwatch keys rotate` encrypts what is stored with the"
        " first. `up` makes one when none is set, and keeps it beside the database; without any, bodies are stored in"
        " clear, and no subscription can be made.",
    )
    push_allowed_networks: Texts = Field(
        default=(),
        description="Networks (CIDR, comma separated) that events may be pushed to although they are private, loopback"
        " or otherwise not public; plain `http` is allowed to these alone.",
    )
    handlers: Texts = Field(
        default=(), description="Python modules with event handlers, comma separated, which `worker` and `up` import."
    )
    reconcile_every_seconds: float = Field(
        default=86400,
        ge=0,
        description="How often Meld's whole list is compared with the mirror; 0 turns it off.",
    )
    reread_after_seconds: float = Field(
        default=604800,
        ge=0,
        description="How old the last read of a living connection may be before it is read again; 0 turns it off.",
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`json`, `console`, or `auto` (console on a terminal)."
    )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if text.startswith("postgres://"):
            return SecretStr("postgresql://" + text.removeprefix("postgres://"))
        if not text.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must start with sqlite:/// or postgresql://")
        if ":memory:" in text or text == "sqlite:///":
            raise ValueError("must name a file: a database in memory would lose every webhook")
        try:
            make_url(text)
        except (ValueError, ArgumentError):
            raise ValueError("is no URL: see its port, and quote what is special in its password") from None
        return url

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("memory://", "redis://", "rediss://", "amqp://", "amqps://")):
            raise ValueError("must start with memory://, redis://, rediss://, amqp:// or amqps://")
        _check_port(url.get_secret_value())
        return url

    @field_validator("meld_api_url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with https:// (or http:// for a simulated Meld)")
        _check_port(url)
        return url.rstrip("/")

    @field_validator("webhook_urls")
    @classmethod
    def _http_each(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError("must be whole URLs that start with https://, as in the Meld profile")
        return urls

    @field_validator("meld_api_key", "meld_authorization", "meld_version")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | str | None) -> SecretStr | str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        if not (text.isascii() and text.isprintable()):
            raise ValueError("has a character in it that no HTTP header takes")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _fernet(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        try:
            _ = [Fernet(key.get_secret_value()) for key in keys]
        except ValueError:
            raise ValueError("has an entry that is no Fernet key: 32 random bytes in URL-safe base64") from None
        return keys

    @field_validator("push_allowed_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        try:
            _ = [ip_network(network) for network in networks]
        except ValueError:
            raise ValueError("has an entry that is no network such as 10.0.0.0/8 or fd00::/8") from None
        return networks

    @field_validator("webhook_secrets", "read_tokens", "admin_tokens")
    @classmethod
    def _not_empty(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(not secret.get_secret_value() for secret in secrets):
            raise ValueError("has an empty entry")
        return secrets

    @property
    def authorization(self) -> SecretStr | None:
        """The ``Authorization`` header for Meld; None where nothing is set."""
        if self.meld_authorization is not None:
            return self.meld_authorization
        return SecretStr(f"BASIC {self.meld_api_key.get_secret_value()}") if self.meld_api_key is not None else None

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of this machine."""
        return self.database_url.get_secret_value().startswith("sqlite:")

    @property
    def sqlite_path(self) -> Path:
        """The file that a SQLite URL names."""
        return Path(self.database_url.get_secret_value().removeprefix("sqlite:///"))

    @property
    def is_memory_broker(self) -> bool:
        """Whether messages stay inside one process."""
        return self.broker_url.get_secret_value().startswith("memory://")

    @property
    def lease_seconds(self) -> float:
        """How long a claim on a connection lasts: longer than any read, so that a living reader is never overtaken."""
        return self.meld_timeout_seconds + 10


def load_settings(environ: Mapping[str, str], env_file: Path | None = Path(".env")) -> Settings:
    """Read the settings. The environment goes before ``env_file``; an empty value is no value.

    Raises:
        SettingsError: Naming each setting that is unusable, and why, without its value.
    """
    given = {**_from_file(env_file), **environ}
    named = {name: value for name, value in given.items() if name.startswith(PREFIX) and value != ""}
    values: dict[str, Any] = {}
    for field in Settings.model_fields:
        name = PREFIX + field.upper()
        if name in named and name + "_FILE" in named:
            raise SettingsError(f"{name} and {name}_FILE are both set. Set one of them.")
        if name in named:
            values[field] = named[name]
        elif name + "_FILE" in named:
            values[field] = _content(name, named[name + "_FILE"])
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def find_unknown_variables(environ: Mapping[str, str], env_file: Path | None = Path(".env")) -> list[str]:
    """Return a line for each ``MELDWATCH_`` variable that is no setting, with the one that was probably meant."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    names = {**_from_file(env_file), **environ}
    lines = []
    for name in sorted(names):
        if name.startswith(PREFIX) and name.removesuffix("_FILE") not in known:
            meant = get_close_matches(name, known, n=1, cutoff=0.8)
            lines.append(f"{name} is no setting of this version" + (f"; {meant[0]} is" if meant else ""))
    return lines


def require_settings(settings: Settings, *names: str) -> None:
    """Check that a process has what it needs.

    Args:
        settings: The settings.
        names: Fields of ``Settings`` that must have a value; ``"meld_api_key"`` is also met by ``meld_authorization``.

    Raises:
        SettingsError: Naming the first that is missing.
    """
    for name in names:
        value = settings.authorization if name == "meld_api_key" else getattr(settings, name)
        if not value:
            raise SettingsError(f"{PREFIX}{name.upper()} is not set. See docs/settings.md.")


def _from_file(env_file: Path | None) -> dict[str, str]:
    if env_file is None or not env_file.is_file():
        return {}
    return {name: value for name, value in dotenv_values(env_file, interpolate=False).items() if value is not None}


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}_FILE names a file that cannot be read ({type(error).__name__}).") from None


def _explain(error: ValidationError) -> str:
    problems = [
        f"{PREFIX}{str(item['loc'][0]).upper()} {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return "; ".join(problems) + ". See docs/settings.md."
