import pytest
from starlette.testclient import TestClient

from runtime.database import Database
from service.feed.notifier import FeedNotifier
from tests.service.conftest import READ, Api, AppFactory
from tests.support import row_factory


@pytest.mark.parametrize("path", ["/", "/api", "/nothing", "/api/connections/", "/healthz/", "//api/connections"])
def test_an_unknown_route_is_404(api: Api, path: str) -> None:
    """The response is a problem document, not a redirect."""
    response = api.admin.get(path, follow_redirects=False)

    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/connections", {"GET", "HEAD"}),
        ("GET", "/api/connections/c1/refresh", {"POST"}),
        ("DELETE", "/healthz", {"GET", "HEAD"}),
        ("GET", "/webhooks/meld", {"POST"}),
        ("OPTIONS", "/api/events", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_405(api: Api, method: str, path: str, allowed: set[str]) -> None:
    """The response is a problem document; Allow lists the methods."""
    response = api.admin.request(method, path)

    assert (response.status_code, response.headers["content-type"]) == (405, "application/problem+json")
    assert allowed == set(response.headers["allow"].split(", "))


def test_the_webhook_route_passes_requests_unchanged(api: Api) -> None:
    """The endpoint gets the raw body and query, and its response is sent unchanged."""
    response = api.anonymous.post("/webhooks/meld?a=%00&a=2", content=b"\x00\xff{")

    assert (response.status_code, response.content) == (200, b"\x00\xff{a=%00&a=2")
    assert {"content-length"} == set(response.headers)


def test_head_is_get_without_a_body(api: Api) -> None:
    """HEAD needs the same token and has the same status."""
    assert (api.reader.head("/api/connections").status_code, api.anonymous.head("/api/events").status_code) == (
        200,
        401,
    )


@pytest.mark.parametrize("path", ["/api/connections", "/api/events", "/api/webhooks", "/healthz", "/openapi.json"])
def test_responses_have_the_security_headers(api: Api, path: str) -> None:
    """The headers nosniff and no-store, and the media type."""
    headers = api.reader.get(path).headers

    expected = ("nosniff", "no-store", "application/json")
    assert expected == tuple(headers[name] for name in ("x-content-type-options", "cache-control", "content-type"))


@pytest.mark.parametrize("path", ["/api/connections", "/api/events", "/api/webhooks/e1"])
def test_an_unreachable_database_is_503(unreachable_database: Database, path: str) -> None:
    """With Retry-After."""
    client = TestClient(AppFactory(database=unreachable_database).app(FeedNotifier(database=unreachable_database)))

    response = client.get(path, headers={"Authorization": f"Bearer {READ}"})

    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def test_no_route_returns_webhook_contents(api: Api) -> None:
    """No response has the raw body, the signature or Meld's whole document."""
    row_factory.store(api.database, row_factory.webhook("e1"), row_factory.connection("c1"), row_factory.event(1))

    paths = ["/api/webhooks", "/api/webhooks/e1", "/api/connections", "/api/connections/c1", "/api/events", "/metrics"]
    texts = [api.admin.get(path).text for path in paths]

    assert not any(mark in text for text in texts for mark in ("marker-of", "document-of-meld"))
