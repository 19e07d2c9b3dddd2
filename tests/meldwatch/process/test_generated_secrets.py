"""What a command beside the service may do."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from meldwatch.process.generated_secrets import get_read_token
from runtime.errors import SettingsError
from runtime.settings import Settings
from service.http.auth import TokenAuth
from tests.service.http.test_auth import request_with_token


@pytest.mark.parametrize("token", ["secret", "alice:secret"])
@pytest.mark.parametrize("right", ["read_tokens", "admin_tokens"])
def test_a_command_sends_a_token_that_the_service_knows(token: str, right: str) -> None:
    """Whichever is set, with a name or without."""
    settings = Settings.model_validate({right: [token]})

    sent = get_read_token(settings).get_secret_value().encode()

    TokenAuth(read_tokens=settings.read_tokens, admin_tokens=settings.admin_tokens).authorize(
        request_with_token(sent), "read"
    )


def test_without_a_token_it_says_which_to_set(tmp_path: Path) -> None:
    """None is set, and ``up`` has kept none."""
    settings = Settings(database_url=SecretStr(f"sqlite:///{tmp_path / 'new.db'}"))

    with pytest.raises(SettingsError, match="MELDWATCH_READ_TOKENS"):
        get_read_token(settings)
