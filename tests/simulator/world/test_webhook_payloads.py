import json

from simulator.world.new_connection import NewConnection
from simulator.world.vocabulary import HEALTHY
from simulator.world.world import World


def test_a_body_is_compact_and_unescaped(world: World) -> None:
    """Events are JSON without white space and without escaped letters."""
    connection = world.add(HEALTHY, NewConnection(institution_id="Crédit Agricole"))

    body = world.compose_event("BANK_LINKING_ACCOUNTS_UPDATED", connection.id).body

    assert body == json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
    assert "Crédit Agricole".encode() in body


def test_an_event_has_melds_envelope(world: World) -> None:
    """Every event has the envelope and the fields of its connection."""
    connection = world.add()

    webhook = world.compose_event("BANK_LINKING_CONNECTION_COMPLETED", connection.id)

    event = json.loads(webhook.body)
    assert list(event) == ["eventType", "eventId", "timestamp", "accountId", "profileId", "version", "payload"]
    assert (event["eventId"], event["accountId"]) == (webhook.event_id, world.account_id)
    assert set(event["payload"]) == {
        "requestId",
        "customerId",
        "externalCustomerId",
        "connectionId",
        "institutionId",
        "institutionName",
        "serviceProviderDetails",
    }


def test_a_test_event_has_no_connection(world: World) -> None:
    """WEBHOOK_TEST has a request id and nothing else."""
    webhook = world.compose_event("WEBHOOK_TEST")

    assert list(json.loads(webhook.body)["payload"]) == ["requestId"]


def test_a_payload_can_be_overridden(world: World) -> None:
    """The caller can set fields of the payload, and the event id."""
    webhook = world.compose_event("SOMETHING_NEW", None, {"connectionId": "unheard-of"}, event_id="e-1")

    event = json.loads(webhook.body)
    assert (event["eventId"], event["eventType"], event["payload"]["connectionId"]) == (
        "e-1",
        "SOMETHING_NEW",
        "unheard-of",
    )


def test_the_legacy_event_names_its_reason(world: World) -> None:
    """BANK_LINKING_CUSTOMER_ACTION_REQUIRED contains the reason."""
    connection = world.add()
    world.break_connection(connection.id)

    webhook = world.compose_event("BANK_LINKING_CUSTOMER_ACTION_REQUIRED", connection.id)

    assert json.loads(webhook.body)["payload"]["reason"] == "LOGIN_REQUIRED"
