"""Secrets leave a document here, before it is stored, compared or logged."""

import re
from typing import Any

from runtime.parse import clean

# Names of live credentials as providers write them: accessToken (seen, Plaid), access_token, processorToken,
# clientSecret, apiKey, ... A name is compared without case and punctuation.
_SECRET_NAME = re.compile(
    r"token$|secret|password|passwd|passphrase|credential|apikey|privatekey|authorization|accesskey"
    r"|signature$|cookie|^pin$|mfa|^jwt$|bearer|sessionkey"
)
# A credential under an innocent name: Plaid's tokens, bearer values (but no "Basic Bank"), JSON web tokens.
_SECRET_VALUE = re.compile(
    r"^(?:(?:access|processor|public|link|user)-(?:sandbox|development|production)-\S+"
    r"|(?:bearer|basic)\s+(?=\S*[\d+/=_.~-])\S{8,}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*)$",
    re.IGNORECASE,
)
_PUNCTUATION = re.compile(r"[^a-z0-9]")


def is_secret(name: str) -> bool:
    """Return whether a field of this name holds a credential."""
    return bool(_SECRET_NAME.search(_PUNCTUATION.sub("", name.lower())))


def redact(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a copy of a JSON value without credentials, with every string fit to be stored.

    A credential is removed with its name. Nested deeper than the parser allows does not come here.
    """
    if isinstance(value, dict):
        return {
            clean(name): redact(item)
            for name, item in value.items()
            if not is_secret(name) and not (isinstance(item, str) and _SECRET_VALUE.match(item))
        }
    if isinstance(value, list):
        return [redact(item) for item in value if not (isinstance(item, str) and _SECRET_VALUE.match(item))]
    return clean(value) if isinstance(value, str) else value
