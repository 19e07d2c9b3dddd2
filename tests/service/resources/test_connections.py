import pytest

from schemas.tables import ReadRequestRow
from tests.service.conftest import Api
from tests.support import row_factory


def test_a_connection_has_the_fields_of_the_contract(api: Api) -> None:
    """All fields of the contract are present, times end in Z, and Meld's raw answer is not sent."""
    details = {"serviceProvider": "PLAID", "n": 1.5}
    row_factory.store(
        api.database,
        row_factory.connection(
            "c1",
            customer_id="cust",
            external_customer_id="ext",
            institution_id="inst",
            institution_name="Bank",
            status_reason="NONE",
            primary_duplicate_id="c2",
            duplicate_ids=["c2", "c0"],
            service_provider="PLAID",
            service_provider_details=details,
            created_at=row_factory.TIME,
            sequence=3,
        ),
    )

    response = api.reader.get("/api/connections/c1")

    expected = {
        "id": "c1",
        "account_id": "acct",
        "customer_id": "cust",
        "external_customer_id": "ext",
        "institution_id": "inst",
        "institution_name": "Bank",
        "status": "ACTIVE",
        "status_reason": "NONE",
        "primary_duplicate_id": "c2",
        "duplicate_ids": ["c2", "c0"],
        "products": ["BALANCES"],
        "optional_products": [],
        "regions": ["US"],
        "service_provider": "PLAID",
        "service_provider_details": details,
        "created_at": "2026-01-02T03:04:05.678901Z",
        "aggregated_at": None,
        "observed_at": "2026-01-02T03:04:05.678901Z",
        "checked_at": "2026-01-02T03:04:05.678901Z",
        "sequence": 3,
    }
    assert expected == response.json()


def test_pages_follow_the_cursor_without_gap_or_repeat(api: Api) -> None:
    """Ordered by id in bytes, each once; the last page has no cursor."""
    ids = ["B", "a", "Z", "é", "c", "b"]
    row_factory.store(api.database, *(row_factory.connection(id_) for id_ in ids))

    seen, cursor, pages = [], None, 0
    while True:
        page = api.reader.get("/api/connections", params={"limit": 2, **({"after": cursor} if cursor else {})}).json()
        seen += [connection["id"] for connection in page["connections"]]
        cursor, pages = page["next"], pages + 1
        if cursor is None:
            break

    assert (sorted(ids), 3) == (seen, pages)


@pytest.mark.parametrize("name", ["status", "customer_id", "external_customer_id", "institution_id"])
def test_filters_match_exactly(api: Api, name: str) -> None:
    """Each filter keeps the items with exactly its value."""
    row_factory.store(
        api.database, row_factory.connection("c1", **{name: "x"}), row_factory.connection("c2", **{name: "X"})
    )

    page = api.reader.get("/api/connections", params={name: "x"}).json()

    assert ([connection["id"] for connection in page["connections"]], page["next"]) == (["c1"], None)


def test_filters_and_cursor_combine(api: Api) -> None:
    """A filter holds on every page."""
    row_factory.store(
        api.database, *(row_factory.connection(f"c{n}", status="ACTIVE" if n % 2 else "OTHER") for n in range(8))
    )

    page = api.reader.get("/api/connections", params={"status": "ACTIVE", "limit": 2, "after": "c1"}).json()

    assert ([connection["id"] for connection in page["connections"]], page["next"]) == (["c3", "c5"], "c5")


def test_an_unknown_connection_is_404(api: Api) -> None:
    """A connection that the mirror lacks is 404, and the error names its id."""
    response = api.reader.get("/api/connections/nobody")

    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert "'nobody'" in response.json()["detail"]


def test_refresh_requests_a_read_and_notifies(api: Api) -> None:
    """The requested read is committed before a worker is notified."""
    row_factory.store(api.database, row_factory.connection("c1"))

    response = api.admin.post("/api/connections/c1/refresh")

    with api.database.read() as session:
        read_request = session.get_one(ReadRequestRow, "c1")
    assert (response.status_code, response.json()) == (202, {"connection_id": "c1", "state": "requested"})
    assert (read_request.requested, read_request.completed, read_request.trigger, api.notified) == (
        1,
        0,
        "operator",
        ["c1"],
    )


def test_a_connection_that_only_a_webhook_named_can_be_refreshed(api: Api) -> None:
    """A connection that was never read, but has a read request, can be refreshed."""
    row_factory.store(api.database, row_factory.read_request("c9", requested=1, due_at=row_factory.TIME))

    response = api.admin.post("/api/connections/c9/refresh")

    assert (response.status_code, api.notified) == (202, ["c9"])


def test_refresh_of_an_unknown_connection_is_404_and_writes_nothing(api: Api) -> None:
    """An unknown id creates no read request."""
    response = api.admin.post("/api/connections/nobody/refresh")

    with api.database.read() as session:
        read_request = session.get(ReadRequestRow, "nobody")
    assert (response.status_code, read_request, api.notified) == (404, None, [])


@pytest.mark.parametrize("id_", ["%00", "a%00b", "x" * 5000, "%ff%fe", "%F0%9F%A6%86", "'%20or%201=1--", "%E2%80%AE"])
@pytest.mark.parametrize("path", ["/api/connections/{}", "/api/connections/{}/refresh"])
def test_any_text_in_the_path_is_an_unknown_connection(api: Api, path: str, id_: str) -> None:
    """The response is 404 on both databases."""
    method = "POST" if path.endswith("refresh") else "GET"

    response = api.admin.request(method, path.format(id_))

    assert response.status_code == 404
