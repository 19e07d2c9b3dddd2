"""Redaction: removes credentials from JSON documents and texts before they are stored, compared or logged."""

import json
import re
from contextlib import suppress
from typing import Any

from runtime.security.lenient_json import ParseError, clean_text, parse_json

HIDDEN = "***"

# Field names of credentials as providers write them: accessToken (seen, Plaid), access_token, processorTokens,
# clientSecret, apiKey, basicAuth, ... Names are compared without case and punctuation.
_SECRET_NAME = re.compile(
    r"tokens?$|secret|password|passwd|passphrase|passcode|credential|apikey|privatekey|authorization|accesskey"
    r"|signature$|cookie|^pin$|otp$|mfa|^jwt$|bearer|sessionkey|auth2?$|securityanswer|certificate|^pem$"
)
_PLAID_VALUE = r"(?:access|processor|public|link|user)-(?:sandbox|development|production)-[\w-]+"
_AUTH_SCHEME = r"(?:bearer|basic)\s+(?=\S*[\d+/=_.~-])\S{8,}"
_JWT = r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"
# Credentials under any other name: Plaid's tokens, bearer values (but not "Basic Bank"), JSON web tokens.
_SECRET_VALUE = re.compile(rf"^(?:{_PLAID_VALUE}|{_AUTH_SCHEME}|{_JWT})$", re.IGNORECASE)
# The same inside a longer text, and user and password in a URL.
_SECRET_IN_TEXT = re.compile(
    rf"\b(?:{_PLAID_VALUE}|{_AUTH_SCHEME}|{_JWT})"
    r"|(?<=://)[^/\s:@]*:[^/\s@]*(?=@)",
    re.IGNORECASE,
)
_QUERY_VALUE = re.compile(r"([?&#;]([\w.-]+)=)([^&\s#;]+)")
_PUNCTUATION = re.compile(r"[^a-z0-9]")


def is_secret_name(name: str) -> bool:
    """Return whether a field of this name contains a credential."""
    return bool(_SECRET_NAME.search(_PUNCTUATION.sub("", name.lower())))


def redact(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a copy of a JSON value without credentials, and with strings that databases can store.

    A credential is removed with its field. The value must not be nested deeper than ``parse_json`` allows.
    """
    if isinstance(value, dict):
        return {
            clean_text(name): redact(item)
            for name, item in value.items()
            if not (is_secret_name(name) or _is_credential(item))
        }
    if isinstance(value, list):
        return [redact(item) for item in value if not _is_credential(item)]
    return _redact_text(value) if isinstance(value, str) else value


def _is_credential(value: object) -> bool:
    """Return whether a value is a text that consists of a credential only."""
    return isinstance(value, str) and _SECRET_VALUE.match(value) is not None


def _redact_text(text: str) -> str:
    """Return a text without credentials. A text that is JSON is redacted as JSON."""
    if text[:1] in {"{", "["}:
        with suppress(ParseError):
            inner = parse_json(text.encode("utf-8", errors="replace"))
            redacted = redact(inner)
            return json.dumps(redacted) if redacted != inner else clean_text(text)
    hidden = _SECRET_IN_TEXT.sub(HIDDEN, text)
    return clean_text(_QUERY_VALUE.sub(_hide_query_value, hidden))


def _hide_query_value(match: re.Match[str]) -> str:
    start, name, _value = match.groups()
    return f"{start}{HIDDEN}" if is_secret_name(name) or name.lower() in {"code", "sig", "key"} else match.group()
