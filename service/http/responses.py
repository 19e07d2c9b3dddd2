"""Reply: how every answer of the API leaves."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""What every answer bears: it is what it says it is, and nobody in between keeps it."""

JSON = "application/json"


def reply(
    body: BaseModel | bytes, *, status: int = 200, media_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response with a body: a shape, or bytes that are ready to be sent."""
    content = body if isinstance(body, bytes) else dump(body)
    return Response(content, status_code=status, media_type=media_type, headers={**SAFE, **(headers or {})})


def dump(shape: BaseModel) -> bytes:
    """Return a shape as JSON."""
    return shape.model_dump_json().encode()
