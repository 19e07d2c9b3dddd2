import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from runtime.errors import SettingsError
from runtime.settings import PREFIX, Settings, find_unknown_variables, load_settings, require_settings

ROOT = Path(__file__).parent.parent.parent
SECRETS = ["meld_api_key", "meld_authorization", "webhook_secrets", "read_tokens", "admin_tokens"]
# Texts that no message contains by itself.
secret_texts = st.text("QXZJ0123456789", min_size=8, max_size=40).map(lambda text: "Q" + text)


def loaded(tmp_path: Path | None = None, env_file: str | None = None, **given: str) -> Settings:
    environ = {PREFIX + name.upper(): value for name, value in given.items()}
    if tmp_path is None or env_file is None:
        return load_settings(environ, None)
    path = tmp_path / ".env"
    path.write_text(env_file)
    return load_settings(environ, path)


def error_message(**given: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(**given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def revealed(value: Any) -> Any:
    return tuple(each.get_secret_value() for each in value) if isinstance(value, tuple) else value.get_secret_value()


def test_every_setting_has_a_default() -> None:
    """Without any setting the database is SQLite, the broker is in memory, and the API is closed."""
    settings = loaded()

    assert settings == Settings()
    assert (settings.is_sqlite, settings.is_memory_broker) == (True, True)
    assert (settings.read_tokens, settings.admin_tokens, settings.authorization) == ((), (), None)


def test_the_environment_takes_precedence_over_the_file(tmp_path: Path) -> None:
    """A value in the environment overrides the file's, and the file's overrides the default."""
    settings = loaded(tmp_path, "MELDWATCH_PORT=1\nMELDWATCH_HOST=file\n", port="2")

    assert (settings.port, settings.host) == (2, "file")


def test_a_missing_file_is_ignored(tmp_path: Path) -> None:
    """Without a ``.env`` file only the environment is used."""
    assert load_settings({}, tmp_path / "none") == Settings()


def test_an_empty_value_counts_as_not_set(tmp_path: Path) -> None:
    """An empty variable leaves the default, and so does a line without a value."""
    settings = loaded(tmp_path, "MELDWATCH_PORT=\nMELDWATCH_HOST\n", meld_api_key="", webhook_secrets="")

    assert settings == Settings()


def test_the_file_is_not_interpolated(tmp_path: Path) -> None:
    """A dollar sign in a secret is not a reference to another variable."""
    settings = loaded(tmp_path, "MELDWATCH_MELD_API_KEY='a$b${HOME}'\n")

    assert settings.meld_api_key == SecretStr("a$b${HOME}")


def test_other_variables_are_ignored() -> None:
    """Variables without the prefix, and unknown ones, change nothing."""
    assert load_settings({"PORT": "1", "MELDWATCH_NONSENSE": "1"}, None) == Settings()


@pytest.mark.parametrize("field", list(Settings.model_fields))
def test_every_setting_can_be_in_a_file(field: str, tmp_path: Path) -> None:
    """Each setting has a form that names a file; the line end is not part of the value."""
    values = {
        "broker_url": "redis://h",
        "database_url": "sqlite:///x.db",
        "log_format": "json",
        "encryption_keys": "A" * 43 + "=",
        "push_allowed_networks": "10.0.0.0/8",
    }
    is_url = field.endswith(("_url", "_urls"))
    value = values.get(field, "https://h" if is_url else "7")
    path = tmp_path / "value"
    path.write_text(value + "\n")

    assert loaded(**{field + "_file": str(path)}) == loaded(**{field: value})
    assert loaded(**{field: value}) != Settings()


def test_a_value_and_a_file_are_refused(tmp_path: Path) -> None:
    """A setting in both forms is refused by name."""
    message = error_message(meld_api_key="hidden", meld_api_key_file=str(tmp_path))

    assert message.startswith("MELDWATCH_MELD_API_KEY and MELDWATCH_MELD_API_KEY_FILE are both set")
    assert "hidden" not in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_file_is_reported_by_its_setting(content: bytes | None, tmp_path: Path) -> None:
    """A missing file, or one that is not text, is reported by the name of the setting."""
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)

    assert error_message(meld_api_key_file=str(path)).startswith("MELDWATCH_MELD_API_KEY_FILE names a file")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a", ("a",)),
        (" a , b,", ("a", "b")),
        ('["a,b", " c"]', ("a,b", " c")),
        (' ["a"]', ("a",)),
        (",", ()),
        ("[]", ()),
    ],
)
def test_lists_are_comma_separated_or_json(text: str, values: tuple[str, ...]) -> None:
    """A list is comma separated, or JSON if a value contains a comma."""
    assert revealed(loaded(webhook_secrets=text).webhook_secrets) == values


@pytest.mark.parametrize("text", ['["a"', '["a", 5]', '["a", null]', '[["a"]]', '["a", ""]'])
def test_an_invalid_list_is_refused(text: str) -> None:
    """A JSON list of anything but texts is refused by the name of the setting."""
    assert error_message(webhook_secrets=text).startswith("MELDWATCH_WEBHOOK_SECRETS ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "mysql://h/d"),
        ("database_url", "sqlite://"),
        ("database_url", "sqlite:///"),
        ("database_url", "sqlite:///:memory:"),
        ("database_url", "postgresql://user:word@host:port/name"),
        ("database_url", "meld.db"),
        ("broker_url", "kafka://h"),
        ("broker_url", "redis://user:word@host:port/0"),
        ("broker_url", "amqp://user:word@host:99999999/"),
        ("meld_api_url", "api.meld.io"),
        ("meld_api_url", "https://api.meld.io:port"),
        ("webhook_urls", "https://a.example,b.example"),
        ("meld_timeout_seconds", "0"),
        ("meld_timeout_seconds", "121"),
        ("meld_timeout_seconds", "nan"),
        ("meld_timeout_seconds", "soon"),
        ("webhook_max_age_seconds", "0"),
        ("webhook_max_age_seconds", "inf"),
        ("webhook_max_skew_seconds", "-1"),
        ("webhook_max_skew_seconds", "1e999"),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "80.5"),
        ("port", "http"),
        ("log_format", "yaml"),
        ("encryption_keys", "word@short"),
        ("encryption_keys", "A" * 43 + "=,word@"),
        ("push_allowed_networks", "10.0.0.1/8"),
        ("push_allowed_networks", "localhost"),
        ("push_allowed_networks", "10.0.0.0/8,fd00::/129"),
    ],
)
def test_invalid_values_are_refused(name: str, value: str) -> None:
    """An invalid value stops the start with one line that names the setting and contains no password."""
    message = error_message(**{name: value})

    assert message.startswith(f"{PREFIX}{name.upper()} ")
    assert "word@" not in message


def test_all_problems_are_reported_at_once() -> None:
    """The message names all invalid settings."""
    message = error_message(port="http", log_format="yaml")

    assert "MELDWATCH_PORT" in message
    assert "MELDWATCH_LOG_FORMAT" in message


@given(secret_texts)
def test_no_message_contains_a_secret(secret: str) -> None:
    """Whatever is wrong with a setting, its value is not in the message."""
    wrong = {name: json.dumps([secret, ""]) for name in SECRETS if name.endswith("s")}
    anything_goes = {*SECRETS, "host", "meld_version", "handlers"}
    wrong |= {name: secret for name in Settings.model_fields if name not in anything_goes}

    message = error_message(**wrong)

    assert secret not in message
    assert [name for name in wrong if name.upper() not in message] == []


@given(secret_texts)
def test_no_secret_is_printed(secret: str) -> None:
    """Neither the settings nor values derived from them show a secret when they are printed."""
    given_ = dict.fromkeys(SECRETS, secret)
    settings = loaded(**given_, database_url=f"postgresql://me:{secret}@h/d", broker_url=f"redis://:{secret}@h")

    assert secret not in f"{settings} {settings!r} {settings.authorization}"
    assert [revealed(getattr(settings, name)) in {secret, (secret,)} for name in SECRETS] == [True] * len(SECRETS)


def test_the_key_becomes_the_authorization_header() -> None:
    """The API key makes a header; an exact header takes precedence."""
    by_key, by_header = loaded(meld_api_key="k"), loaded(meld_api_key="k", meld_authorization="Bearer b")

    assert by_key.authorization == SecretStr("BASIC k")
    assert by_header.authorization == SecretStr("Bearer b")


@pytest.mark.parametrize("name", ["meld_api_key", "meld_authorization", "meld_version"])
@given(before=secret_texts, odd=st.characters(exclude_categories=["Cs"]).filter(lambda each: not " " <= each <= "~"))
def test_invalid_header_characters_are_refused(name: str, before: str, odd: str) -> None:
    """A key that was pasted with a line end or a typographic character is refused at the start."""
    message = error_message(**{name: before + odd + "x"})

    assert message.startswith(f"{PREFIX}{name.upper()} contains a character")
    assert before not in message


def test_the_short_postgres_scheme_is_accepted() -> None:
    """``postgres://``, as hosting providers write it, means PostgreSQL."""
    settings = loaded(database_url="postgres://me:pw@h/d")

    assert settings.database_url == SecretStr("postgresql://me:pw@h/d")
    assert not settings.is_sqlite


def test_trailing_slashes_of_melds_url_are_removed() -> None:
    """Paths are appended without a double slash."""
    assert loaded(meld_api_url="https://api.meld.io//").meld_api_url == "https://api.meld.io"


def test_a_lease_is_longer_than_every_read() -> None:
    """A lease lasts ten seconds longer than the timeout of a read."""
    assert loaded(meld_timeout_seconds="3.5").lease_seconds == pytest.approx(13.5)


def test_settings_are_frozen() -> None:
    """Settings cannot be changed after the start."""
    with pytest.raises(ValueError, match="frozen"):
        loaded().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("given_", [{}, {"meld_api_url": "https://h"}])
def test_a_missing_setting_is_reported_by_name(given_: dict[str, str]) -> None:
    """A process that lacks a setting names it."""
    with pytest.raises(SettingsError, match="MELDWATCH_MELD_API_KEY is not set"):
        require_settings(loaded(**given_), "database_url", "meld_api_key", "webhook_secrets")


@pytest.mark.parametrize("name", ["meld_api_key", "meld_authorization"])
def test_either_form_of_credentials_is_sufficient(name: str) -> None:
    """Credentials may be a key or a whole header."""
    require_settings(loaded(**{name: "value"}), "meld_api_key")


def test_unknown_variables_are_reported() -> None:
    """Each unknown variable is reported, with the setting that was probably meant."""
    given_ = {"MELDWATCH_WEBHOOK_SECRET": "x", "MELDWATCH_PORT": "1", "MELDWATCH_QQQ": "x", "MELDWATCH_PORT_FILE": "x"}

    assert find_unknown_variables(given_, None) == [
        "MELDWATCH_QQQ is not a setting of this version",
        "MELDWATCH_WEBHOOK_SECRET is not a setting of this version; did you mean MELDWATCH_WEBHOOK_SECRETS?",
    ]


def test_the_example_file_is_valid() -> None:
    """The example contains only known settings, and changes nothing until it is filled in."""
    example = ROOT / ".env.example"

    assert find_unknown_variables({}, example) == []
    assert load_settings({}, example) == Settings()


def test_every_setting_is_described() -> None:
    """Every setting has a description for the documentation."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
