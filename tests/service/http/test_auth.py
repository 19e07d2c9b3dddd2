import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.testclient import TestClient

from runtime.database import Database
from service.errors import ForbiddenError, InvalidTokenError
from service.feed.notifier import FeedNotifier
from service.http.auth import TokenAuth, caller_name
from tests.service.conftest import ADMIN, READ, Api, AppFactory


def request(*headers: tuple[bytes, bytes], client: tuple[str, int] | None = ("203.0.113.9", 1)) -> Request:
    """Return a request as a server creates it."""
    return Request({"type": "http", "headers": list(headers), "client": client, "method": "GET", "path": "/"})


def request_with_token(token: bytes) -> Request:
    """Return a request with a bearer token."""
    return request((b"authorization", b"Bearer " + token))


AUTH = TokenAuth(read_tokens=[SecretStr("r1"), SecretStr("clé")], admin_tokens=[SecretStr("a1"), SecretStr("a2")])


@pytest.mark.parametrize("token", [b"r1", "clé".encode(), b"a1", b"a2"])
def test_any_token_may_read(token: bytes) -> None:
    """Each of the read tokens and each of the admin tokens reads."""
    AUTH.authorize(request_with_token(token), "read")


@pytest.mark.parametrize("token", [b"secret", b"alice:secret"])
def test_a_token_may_have_a_name(token: bytes) -> None:
    """The caller sends it with or without the name; the audit log has the name."""
    auth, sent = TokenAuth(read_tokens=[], admin_tokens=[SecretStr("alice:secret")]), request_with_token(token)

    auth.authorize(sent, "admin")

    assert caller_name(sent) == "alice"


@pytest.mark.parametrize("token", [b"alice", b"alice:", b":secret", b"secret:alice"])
def test_a_name_is_no_token(token: bytes) -> None:
    """Neither is any other part of a named token."""
    with pytest.raises(InvalidTokenError):
        TokenAuth(read_tokens=[], admin_tokens=[SecretStr("alice:secret")]).authorize(request_with_token(token), "read")


def test_a_token_without_a_name_is_named_by_its_digest() -> None:
    """Two such tokens have different names, and a name reveals nothing of its token."""
    names = set()
    for token in (b"a1", b"a2"):
        sent = request_with_token(token)
        AUTH.authorize(sent, "admin")
        names.add(caller_name(sent))

    assert len(names) == 2
    assert all(name.startswith("token ") and "a1" not in name for name in names)


def test_each_admin_token_is_valid() -> None:
    """Rotation needs two at a time."""
    AUTH.authorize(request_with_token(b"a1"), "admin")
    AUTH.authorize(request_with_token(b"a2"), "admin")


def test_a_read_token_has_no_admin_permission() -> None:
    """A valid token without the permission is a different error than an invalid token."""
    with pytest.raises(ForbiddenError):
        AUTH.authorize(request_with_token(b"r1"), "admin")


def test_a_token_in_both_lists_has_the_admin_permission() -> None:
    """The higher permission counts, whatever the order of the lists."""
    both = TokenAuth(read_tokens=[SecretStr("t")], admin_tokens=[SecretStr("t")])

    both.authorize(request_with_token(b"t"), "admin")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Basic cjE=")],
        [(b"authorization", b"r1")],
        [(b"authorization", b"Bearer r2")],
        [(b"authorization", b"Bearer r1 r1")],
        [(b"authorization", b"Bearer r1,")],
        [(b"authorization", b"Bearer \xff\xfe\x00")],
        [(b"authorization", "Bearer clé".encode("latin-1"))],
        [(b"authorization", b"\xc3\xa9 r1")],
        [(b"authorization", b"Bearer r1"), (b"authorization", b"Bearer r1")],
    ],
)
def test_invalid_tokens_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """A missing, malformed, repeated or unknown token raises the same error."""
    with pytest.raises(InvalidTokenError):
        AUTH.authorize(request(*headers), "read")


def test_the_scheme_is_case_insensitive() -> None:
    """As RFC 9110 requires."""
    AUTH.authorize(request((b"authorization", b"bEARER r1")), "read")


@pytest.mark.parametrize("token", [b"", b"r1", b"None"])
def test_without_token_settings_every_token_is_invalid(token: bytes) -> None:
    """No token in the settings means that no token is valid."""
    with pytest.raises(InvalidTokenError):
        TokenAuth(read_tokens=[], admin_tokens=[]).authorize(request_with_token(token), "read")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_addresses_need_no_token(host: str) -> None:
    """In every notation, for operations with the access level loopback."""
    AUTH.authorize(request(client=(host, 1)), "loopback")


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (("203.0.113.9", 1), []),
        (("::ffff:203.0.113.9", 1), []),
        (("testclient", 1), []),
        (("", 1), []),
        (None, []),
        (("127.0.0.1", 1), [(b"x-forwarded-for", b"203.0.113.9")]),
        (("127.0.0.1", 1), [(b"forwarded", b"for=203.0.113.9")]),
    ],
)
def test_other_addresses_need_a_token(client: tuple[str, int] | None, headers: list[tuple[bytes, bytes]]) -> None:
    """Also if a proxy on this machine forwards the request."""
    with pytest.raises(InvalidTokenError):
        AUTH.authorize(request(*headers, client=client), "loopback")


def test_a_token_replaces_the_loopback_address() -> None:
    """Prometheus on another machine sends a read token."""
    AUTH.authorize(request_with_token(b"r1"), "loopback")


PROTECTED_ROUTES = [
    ("GET", "/api/connections"),
    ("GET", "/api/connections/c1"),
    ("POST", "/api/connections/c1/refresh"),
    ("GET", "/api/events"),
    ("GET", "/api/events/stream"),
    ("GET", "/api/webhooks"),
    ("GET", "/api/webhooks/e1"),
    ("GET", "/api/audit"),
    ("GET", "/api/rejections"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED_ROUTES)
def test_every_route_of_the_api_needs_a_token(api: Api, method: str, path: str) -> None:
    """Without a token the response is 401 with its challenge, whether or not the resource exists."""
    response = api.anonymous.request(method, path)

    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.headers["content-type"] == "application/problem+json"


def test_an_admin_operation_with_a_read_token_is_forbidden(api: Api) -> None:
    """403, not 401: the token is valid."""
    response = api.reader.post("/api/connections/c1/refresh")

    assert (response.status_code, "www-authenticate" in response.headers) == (403, False)


@pytest.mark.parametrize("path", ["/api/connections", "/api/events", "/api/events/stream", "/metrics"])
def test_a_service_without_tokens_refuses_every_token(database: Database, path: str) -> None:
    """Without tokens in the settings, the API is closed."""
    factory = AppFactory(database=database)
    factory.settings = factory.settings.model_copy(update={"read_tokens": (), "admin_tokens": ()})
    client = TestClient(factory.app(FeedNotifier(database=database)))

    statuses = {client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code for token in (READ, ADMIN)}

    assert {401} == statuses
