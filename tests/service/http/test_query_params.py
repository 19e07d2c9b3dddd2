from datetime import UTC, datetime

import pytest
from starlette.datastructures import QueryParams

from schemas.api_queries import ConnectionQuery, EventQuery, Query, WebhookQuery
from service.errors import InvalidQueryError
from service.http.query_params import parse_query
from tests.service.conftest import Api


def test_defaults() -> None:
    """A page has 100 items, the feed starts at position 0, and there is no long poll."""
    assert EventQuery(limit=100, after=0, wait=0) == parse_query(QueryParams(""), EventQuery)


@pytest.mark.parametrize("limit", ["1", "1000"])
def test_bounds_are_inclusive(limit: str) -> None:
    """The least and the greatest limit are valid."""
    assert int(limit) == parse_query(QueryParams({"limit": limit}), ConnectionQuery).limit


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        *((ConnectionQuery, "limit", value) for value in ("0", "1001", "-1", "", "ten", "1.5", "9" * 5000, "NaN")),
        *((ConnectionQuery, "after", value) for value in ("", "\x00", "x" * 3001)),
        *((ConnectionQuery, "status", value) for value in ("", "A\x00", "x" * 3001)),
        *((EventQuery, "after", value) for value in ("-1", str(2**63), "1e3", "null", "")),
        *((EventQuery, "wait", value) for value in ("-0.1", "30.1", "inf", "nan", "1e999", "")),
        (EventQuery, "type", "connection.exploded"),
        *((WebhookQuery, "state", value) for value in ("", "done", "PENDING")),
        *((WebhookQuery, "after", value) for value in ("-1", "1" * 19, "x", "")),
        *((WebhookQuery, "since", value) for value in ("", "yesterday", "1767323045", "2026-13-01T00:00:00Z", "\x00")),
        (WebhookQuery, "until", "9999-12-31T23:59:59-14:00"),
        (WebhookQuery, "until", "0001-01-01T00:00:00+14:00"),
    ],
)
def test_a_value_out_of_range_is_named(model: type[Query], name: str, value: str) -> None:
    """The error names the parameter; no query reaches the database."""
    with pytest.raises(InvalidQueryError, match=f"^'{name}': "):
        parse_query(QueryParams({name: value}), model)


@pytest.mark.parametrize(
    "text",
    ["2026-01-02T03:04:05Z", "2026-01-02T04:04:05+01:00", "2026-01-02T04:04:05 01:00", "2026-01-02T03:04:05"],
)
def test_times_are_iso(text: str) -> None:
    """With an offset, with an unescaped plus sign, or without an offset, which means UTC."""
    expected = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    assert expected == parse_query(QueryParams({"since": text}), WebhookQuery).since


def test_a_date_is_its_first_moment() -> None:
    """A date without a time is valid."""
    expected = datetime(2026, 1, 2, tzinfo=UTC)

    assert expected == parse_query(QueryParams({"since": "2026-01-02"}), WebhookQuery).since


def test_an_unknown_parameter_is_named_with_the_known_ones() -> None:
    """A typing error in a filter must not return everything."""
    with pytest.raises(InvalidQueryError) as caught:
        parse_query(QueryParams({"stauts": "ACTIVE"}), ConnectionQuery)

    expected = (
        "'stauts' is an unknown parameter. Known: limit, status, customer_id, external_customer_id, institution_id,"
        " after."
    )
    assert expected == str(caught.value)


def test_a_repeated_parameter_is_refused() -> None:
    """Neither of two values for one filter is right."""
    with pytest.raises(InvalidQueryError, match=r"^'status' is given more than once"):
        parse_query(QueryParams([("status", "A"), ("status", "B")]), ConnectionQuery)


def test_a_route_without_parameters_refuses_any() -> None:
    """The error says that there are none."""
    with pytest.raises(InvalidQueryError, match="This route has no parameters"):
        parse_query(QueryParams({"a": "b"}), Query)


def test_an_error_text_is_short() -> None:
    """It does not repeat thousands of unknown names."""
    with pytest.raises(InvalidQueryError) as caught:
        parse_query(QueryParams({f"{n}" * 200: "" for n in range(1000, 3000)}), Query)

    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "path",
    [
        "/api/connections?limit=0",
        "/api/connections?status=%00",
        "/api/connections/c1?verbose=1",
        "/api/events?wait=31",
        "/api/webhooks?since=x",
        "/api/webhooks/e1?%ff=%ff",
        "/api/connections?" + "a=b&" * 5000,
    ],
)
def test_an_invalid_query_is_422(api: Api, path: str) -> None:
    """The response is a problem document."""
    response = api.reader.get(path)

    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


def test_the_token_is_checked_before_the_query(api: Api) -> None:
    """Without a valid token the response reveals nothing about parameters."""
    assert api.anonymous.get("/api/connections?stauts=1").status_code == 401
