import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.testclient import TestClient

from runtime.database import Database
from service.errors import RightError, TokenError
from service.feed.notifier import FeedNotifier
from service.http.auth import TokenAuth, who_of
from tests.service.conftest import ADMIN, READ, Api, Parts


def request(*headers: tuple[bytes, bytes], client: tuple[str, int] | None = ("203.0.113.9", 1)) -> Request:
    """Return a request as a server would hand it over."""
    return Request({"type": "http", "headers": list(headers), "client": client, "method": "GET", "path": "/"})


def bearing(token: bytes) -> Request:
    """Return a request with a token."""
    return request((b"authorization", b"Bearer " + token))


ACCESS = TokenAuth(read_tokens=[SecretStr("r1"), SecretStr("clé")], admin_tokens=[SecretStr("a1"), SecretStr("a2")])


@pytest.mark.parametrize("token", [b"r1", "clé".encode(), b"a1", b"a2"])
def test_any_token_may_read(token: bytes) -> None:
    """Each of the read tokens and each of the admin tokens reads."""
    ACCESS.check(bearing(token), "read")


@pytest.mark.parametrize("token", [b"secret", b"alice:secret"])
def test_a_token_may_bear_a_name(token: bytes) -> None:
    """It is sent with it or without; who acts is known by it."""
    access, asked = TokenAuth(read_tokens=[], admin_tokens=[SecretStr("alice:secret")]), bearing(token)

    access.check(asked, "admin")

    assert who_of(asked) == "alice"


@pytest.mark.parametrize("token", [b"alice", b"alice:", b":secret", b"secret:alice"])
def test_a_name_is_no_token(token: bytes) -> None:
    """Nor is any other part of it."""
    with pytest.raises(TokenError):
        TokenAuth(read_tokens=[], admin_tokens=[SecretStr("alice:secret")]).check(bearing(token), "read")


def test_a_token_without_a_name_is_known_by_its_digest() -> None:
    """So two of them are told apart, and nothing of either is."""
    names = set()
    for token in (b"a1", b"a2"):
        asked = bearing(token)
        ACCESS.check(asked, "admin")
        names.add(who_of(asked))

    assert len(names) == 2
    assert all(name.startswith("token ") and "a1" not in name for name in names)


def test_any_admin_token_may_act() -> None:
    """Rotation needs two at a time."""
    ACCESS.check(bearing(b"a1"), "admin")
    ACCESS.check(bearing(b"a2"), "admin")


def test_a_read_token_may_not_act() -> None:
    """A valid token without the right is told apart from no token."""
    with pytest.raises(RightError):
        ACCESS.check(bearing(b"r1"), "admin")


def test_a_token_in_both_lists_may_act() -> None:
    """The higher right counts, in whichever order the lists are compared."""
    both = TokenAuth(read_tokens=[SecretStr("t")], admin_tokens=[SecretStr("t")])

    both.check(bearing(b"t"), "admin")


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
def test_no_valid_token_is_no_access(headers: list[tuple[bytes, bytes]]) -> None:
    """Missing, malformed, doubled, foreign or not even text: nobody gets in, and nothing breaks."""
    with pytest.raises(TokenError):
        ACCESS.check(request(*headers), "read")


def test_the_scheme_has_no_case() -> None:
    """RFC 9110: the name of the scheme is compared without case."""
    ACCESS.check(request((b"authorization", b"bEARER r1")), "read")


@pytest.mark.parametrize("token", [b"", b"r1", b"None"])
def test_without_tokens_nobody_gets_in(token: bytes) -> None:
    """Nothing configured means closed."""
    with pytest.raises(TokenError):
        TokenAuth(read_tokens=[], admin_tokens=[]).check(bearing(token), "read")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_near(host: str) -> None:
    """Loopback in every notation needs no token where nearness is enough."""
    ACCESS.check(request(client=(host, 1)), "nearness")


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
def test_others_are_not_near(client: tuple[str, int] | None, headers: list[tuple[bytes, bytes]]) -> None:
    """Another machine is not near, nor is one that asks through a proxy on this one."""
    with pytest.raises(TokenError):
        ACCESS.check(request(*headers, client=client), "nearness")


def test_nearness_is_also_met_by_a_token() -> None:
    """Prometheus on another machine reads with a read token."""
    ACCESS.check(bearing(b"r1"), "nearness")


GUARDED = [
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


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_every_route_of_the_api_is_guarded(api: Api, method: str, path: str) -> None:
    """Without a token there is 401 with its challenge, whether or not the thing exists."""
    response = api.anonymous.request(method, path)

    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.headers["content-type"] == "application/problem+json"


def test_acting_with_a_read_token_is_forbidden(api: Api) -> None:
    """403, not 401: the token is known."""
    response = api.reader.post("/api/connections/c1/refresh")

    assert (response.status_code, "www-authenticate" in response.headers) == (403, False)


@pytest.mark.parametrize("path", ["/api/connections", "/api/events", "/api/events/stream", "/metrics"])
def test_a_service_without_tokens_stays_closed(database: Database, path: str) -> None:
    """Nothing configured: every token is wrong."""
    parts = Parts(database=database)
    parts.settings = parts.settings.model_copy(update={"read_tokens": (), "admin_tokens": ()})
    client = TestClient(parts.app(FeedNotifier(database=database)))

    statuses = {client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code for token in (READ, ADMIN)}

    assert {401} == statuses
