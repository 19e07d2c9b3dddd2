"""Secrets leave a document here, before it is stored, compared or logged."""

import json
import re
from contextlib import suppress
from typing import Any

from runtime.security.lenient_json import ParseError, clean_text, parse_json

HIDDEN = "***"

# Names of live credentials as providers write them: accessToken (seen, Plaid), access_token, processorTokens,
# clientSecret, apiKey, basicAuth, ... A name is compared without case and punctuation.
_SECRET_NAME = re.compile(
    r"tokens?$|secret|password|passwd|passphrase|passcode|credential|apikey|privatekey|authorization|accesskey"
    r"|signature$|cookie|^pin$|otp$|mfa|^jwt$|bearer|sessionkey|auth2?$|securityanswer|certificate|^pem$"
)
_OPENLY = r"(?:access|processor|public|link|user)-(?:sandbox|development|production)-[\w-]+"
_SCHEME = r"(?:bearer|basic)\s+(?=\S*[\d+/=_.~-])\S{8,}"
_WEB_KEY = r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"
# A credential under an innocent name: Plaid's tokens, bearer values (but no "Basic Bank"), JSON web tokens.
_SECRET_VALUE = re.compile(rf"^(?:{_OPENLY}|{_SCHEME}|{_WEB_KEY})$", re.IGNORECASE)
# The same inside a longer text, and in a URL: who logs in, and what the query is signed with.
_WITHIN = re.compile(
    rf"\b(?:{_OPENLY}|{_SCHEME}|{_WEB_KEY})"
    r"|(?<=://)[^/\s:@]*:[^/\s@]*(?=@)",
    re.IGNORECASE,
)
_QUERY_VALUE = re.compile(r"([?&#;]([\w.-]+)=)([^&\s#;]+)")
_PUNCTUATION = re.compile(r"[^a-z0-9]")


def is_secret_name(name: str) -> bool:
    """Return whether a field of this name holds a credential."""
    return bool(_SECRET_NAME.search(_PUNCTUATION.sub("", name.lower())))


def redact(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a copy of a JSON value without credentials, with every string fit to be stored.

    A credential is removed with its name. Nested deeper than the parser allows does not come here.
    """
    if isinstance(value, dict):
        return {
            clean_text(name): redact(item)
            for name, item in value.items()
            if not (is_secret_name(name) or _is_bare(item))
        }
    if isinstance(value, list):
        return [redact(item) for item in value if not _is_bare(item)]
    return _text(value) if isinstance(value, str) else value


def _is_bare(value: object) -> bool:
    """Return whether a value is a credential and nothing else."""
    return isinstance(value, str) and _SECRET_VALUE.match(value) is not None


def _text(text: str) -> str:
    """Return a text without the credentials in it; one that is JSON is redacted as JSON."""
    if text[:1] in {"{", "["}:
        with suppress(ParseError):
            inner = parse_json(text.encode("utf-8", errors="replace"))
            redacted = redact(inner)
            return json.dumps(redacted) if redacted != inner else clean_text(text)
    hidden = _WITHIN.sub(HIDDEN, text)
    return clean_text(_QUERY_VALUE.sub(_hide_query_value, hidden))


def _hide_query_value(match: re.Match[str]) -> str:
    start, name, _value = match.groups()
    return f"{start}{HIDDEN}" if is_secret_name(name) or name.lower() in {"code", "sig", "key"} else match.group()
