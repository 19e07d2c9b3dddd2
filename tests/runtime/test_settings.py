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
# No part of a message that would be written without any value.
secret_texts = st.text("QXZJ0123456789", min_size=8, max_size=40).map(lambda text: "Q" + text)


def loaded(tmp_path: Path | None = None, env_file: str | None = None, **given: str) -> Settings:
    environ = {PREFIX + name.upper(): value for name, value in given.items()}
    if tmp_path is None or env_file is None:
        return load_settings(environ, None)
    path = tmp_path / ".env"
    path.write_text(env_file)
    return load_settings(environ, path)


def complaint(**given: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(**given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def revealed(value: Any) -> Any:
    return tuple(each.get_secret_value() for each in value) if isinstance(value, tuple) else value.get_secret_value()


def test_nothing_must_be_set() -> None:
    """Without any setting there is a database and a broker inside the process, and an API that stays closed."""
    settings = loaded()

    assert settings == Settings()
    assert (settings.is_sqlite, settings.is_memory_broker) == (True, True)
    assert (settings.read_tokens, settings.admin_tokens, settings.authorization) == ((), (), None)


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    """A value of the environment wins over the file's, and the file's over the default."""
    settings = loaded(tmp_path, "MELDWATCH_PORT=1\nMELDWATCH_HOST=file\n", port="2")

    assert (settings.port, settings.host) == (2, "file")


def test_a_missing_file_is_no_file(tmp_path: Path) -> None:
    """Where there is no ``.env`` the environment stands alone."""
    assert load_settings({}, tmp_path / "none") == Settings()


def test_an_empty_value_is_no_value(tmp_path: Path) -> None:
    """An empty variable leaves the default, as a line without a value does."""
    settings = loaded(tmp_path, "MELDWATCH_PORT=\nMELDWATCH_HOST\n", meld_api_key="", webhook_secrets="")

    assert settings == Settings()


def test_the_file_is_taken_word_for_word(tmp_path: Path) -> None:
    """A secret with a dollar sign in it is not taken for a reference to another variable."""
    settings = loaded(tmp_path, "MELDWATCH_MELD_API_KEY='a$b${HOME}'\n")

    assert settings.meld_api_key == SecretStr("a$b${HOME}")


def test_other_variables_do_no_harm() -> None:
    """What does not bear the prefix, or is no setting, changes nothing."""
    assert load_settings({"PORT": "1", "MELDWATCH_NONSENSE": "1"}, None) == Settings()


@pytest.mark.parametrize("field", list(Settings.model_fields))
def test_every_setting_can_stand_in_a_file(field: str, tmp_path: Path) -> None:
    """Each setting has a form that names a file; the line's end is no part of the value."""
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


def test_a_value_and_a_file_contradict(tmp_path: Path) -> None:
    """A setting that is given in both forms is refused by name."""
    message = complaint(meld_api_key="hidden", meld_api_key_file=str(tmp_path))

    assert message.startswith("MELDWATCH_MELD_API_KEY and MELDWATCH_MELD_API_KEY_FILE are both set")
    assert "hidden" not in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named_by_its_setting(content: bytes | None, tmp_path: Path) -> None:
    """A file that is missing, or holds no text, is told by the setting's name."""
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)

    assert complaint(meld_api_key_file=str(path)).startswith("MELDWATCH_MELD_API_KEY_FILE names a file")


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
def test_several_values(text: str, values: tuple[str, ...]) -> None:
    """A list is comma separated, or JSON where a value has a comma in it."""
    assert revealed(loaded(webhook_secrets=text).webhook_secrets) == values


@pytest.mark.parametrize("text", ['["a"', '["a", 5]', '["a", null]', '[["a"]]', '["a", ""]'])
def test_a_broken_list_is_told(text: str) -> None:
    """A list that is no list of texts is refused by the setting's name."""
    assert complaint(webhook_secrets=text).startswith("MELDWATCH_WEBHOOK_SECRETS ")


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
def test_what_cannot_be_used_is_refused(name: str, value: str) -> None:
    """An unusable value stops the start with one line that names the setting and shows no password."""
    message = complaint(**{name: value})

    assert message.startswith(f"{PREFIX}{name.upper()} ")
    assert "word@" not in message


def test_all_problems_are_told_at_once() -> None:
    """Who has two settings to mend is told of both."""
    message = complaint(port="http", log_format="yaml")

    assert "MELDWATCH_PORT" in message
    assert "MELDWATCH_LOG_FORMAT" in message


@given(secret_texts)
def test_no_message_holds_a_secret(secret: str) -> None:
    """Whatever is wrong with a setting, what was given for it does not appear in the message."""
    wrong = {name: json.dumps([secret, ""]) for name in SECRETS if name.endswith("s")}
    anything_goes = {*SECRETS, "host", "meld_version", "handlers"}
    wrong |= {name: secret for name in Settings.model_fields if name not in anything_goes}

    message = complaint(**wrong)

    assert secret not in message
    assert [name for name in wrong if name.upper() not in message] == []


@given(secret_texts)
def test_no_secret_is_shown(secret: str) -> None:
    """Neither the settings nor what is derived from them show a secret when they are printed."""
    given_ = dict.fromkeys(SECRETS, secret)
    settings = loaded(**given_, database_url=f"postgresql://me:{secret}@h/d", broker_url=f"redis://:{secret}@h")

    assert secret not in f"{settings} {settings!r} {settings.authorization}"
    assert [revealed(getattr(settings, name)) in {secret, (secret,)} for name in SECRETS] == [True] * len(SECRETS)


def test_the_key_is_sent_as_meld_says() -> None:
    """The API key makes a header; an exact header goes before it."""
    by_key, by_header = loaded(meld_api_key="k"), loaded(meld_api_key="k", meld_authorization="Bearer b")

    assert by_key.authorization == SecretStr("BASIC k")
    assert by_header.authorization == SecretStr("Bearer b")


@pytest.mark.parametrize("name", ["meld_api_key", "meld_authorization", "meld_version"])
@given(before=secret_texts, odd=st.characters(exclude_categories=["Cs"]).filter(lambda each: not " " <= each <= "~"))
def test_what_no_header_takes_is_refused(name: str, before: str, odd: str) -> None:
    """A key that was pasted with a line's end or a typographic character in it is refused at the start."""
    message = complaint(**{name: before + odd + "x"})

    assert message.startswith(f"{PREFIX}{name.upper()} has a character in it")
    assert before not in message


def test_the_short_scheme_of_hosters_is_understood() -> None:
    """``postgres://``, as hosters write it, means PostgreSQL."""
    settings = loaded(database_url="postgres://me:pw@h/d")

    assert settings.database_url == SecretStr("postgresql://me:pw@h/d")
    assert not settings.is_sqlite


def test_a_slash_at_the_end_of_melds_address_is_dropped() -> None:
    """Paths are put behind the address without a double slash."""
    assert loaded(meld_api_url="https://api.meld.io//").meld_api_url == "https://api.meld.io"


def test_a_lease_outlives_every_read() -> None:
    """A claim lasts ten seconds longer than a read may."""
    assert loaded(meld_timeout_seconds="3.5").lease_seconds == pytest.approx(13.5)


def test_settings_do_not_change() -> None:
    """What was read at the start stays."""
    with pytest.raises(ValueError, match="frozen"):
        loaded().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("given_", [{}, {"meld_api_url": "https://h"}])
def test_what_a_process_needs_is_asked_for_by_name(given_: dict[str, str]) -> None:
    """A process that lacks a setting says which."""
    with pytest.raises(SettingsError, match="MELDWATCH_MELD_API_KEY is not set"):
        require_settings(loaded(**given_), "database_url", "meld_api_key", "webhook_secrets")


@pytest.mark.parametrize("name", ["meld_api_key", "meld_authorization"])
def test_either_form_of_credentials_will_do(name: str) -> None:
    """Credentials may be a key or a whole header."""
    require_settings(loaded(**{name: "value"}), "meld_api_key")


def test_slips_are_told() -> None:
    """A variable that is no setting is told, with the setting that was probably meant."""
    given_ = {"MELDWATCH_WEBHOOK_SECRET": "x", "MELDWATCH_PORT": "1", "MELDWATCH_QQQ": "x", "MELDWATCH_PORT_FILE": "x"}

    assert find_unknown_variables(given_, None) == [
        "MELDWATCH_QQQ is no setting of this version",
        "MELDWATCH_WEBHOOK_SECRET is no setting of this version; MELDWATCH_WEBHOOK_SECRETS is",
    ]


def test_the_example_is_usable() -> None:
    """The example names only settings there are, and changes nothing until it is filled in."""
    example = ROOT / ".env.example"

    assert find_unknown_variables({}, example) == []
    assert load_settings({}, example) == Settings()


def test_every_setting_is_described() -> None:
    """No setting is without the words that its documentation is made of."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
