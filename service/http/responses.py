"""HTTP responses of the API: JSON bodies with security headers (nosniff, no-store)."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""Headers of every response: browsers do not guess the media type, and caches do not keep the response."""

JSON_MEDIA_TYPE = "application/json"


def make_response(
    body: BaseModel | bytes,
    *,
    status: int = 200,
    media_type: str = JSON_MEDIA_TYPE,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response with the security headers.

    Args:
        body: A model, which is serialized as JSON, or serialized bytes.
        status: The HTTP status.
        media_type: The media type of the body.
        headers: Further headers.
    """
    content = body if isinstance(body, bytes) else to_json(body)
    return Response(content, status_code=status, media_type=media_type, headers={**SECURITY_HEADERS, **(headers or {})})


def to_json(model: BaseModel) -> bytes:
    """Return a model as JSON."""
    return model.model_dump_json().encode()
