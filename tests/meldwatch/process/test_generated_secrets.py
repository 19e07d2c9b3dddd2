"""The read token that commands beside the service use."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from meldwatch.process.generated_secrets import get_read_token
from runtime.errors import SettingsError
from runtime.settings import Settings
from service.http.auth import TokenAuth
from tests.service.http.test_auth import request_with_token


@pytest.mark.parametrize("token", ["secret", "alice:secret"])
@pytest.mark.parametrize("setting", ["read_tokens", "admin_tokens"])
def test_a_command_sends_a_token_that_the_service_accepts(token: str, setting: str) -> None:
    """Of either setting, with or without a name."""
    settings = Settings.model_validate({setting: [token]})

    sent = get_read_token(settings).get_secret_value().encode()

    TokenAuth(read_tokens=settings.read_tokens, admin_tokens=settings.admin_tokens).authorize(
        request_with_token(sent), "read"
    )


def test_a_missing_token_is_reported(tmp_path: Path) -> None:
    """Neither a setting nor a generated token exists."""
    settings = Settings(database_url=SecretStr(f"sqlite:///{tmp_path / 'new.db'}"))

    with pytest.raises(SettingsError, match="MELDWATCH_READ_TOKENS"):
        get_read_token(settings)
