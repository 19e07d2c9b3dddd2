import signal
import threading

import pytest

from simulator.world.new_connection import NewConnection
from tests.end_to_end.deployment import Deployment, stop_process
from tests.support.polling import eventually


def test_a_webhook_becomes_a_true_mirror_and_an_event(deployment: Deployment) -> None:
    """On every set-up: a connection is linked, breaks and heals; the mirror follows, and each change is told once."""
    deployment.start_all()
    meld = deployment.meld
    connection = meld.world.start()

    statuses = []
    for act in (meld.world.complete, meld.world.break_connection, meld.world.heal):
        meld.send_webhooks(act(connection.id))
        statuses.append(meld.world.truth(connection.id)["status"])
        eventually(lambda: connection.id in deployment.mirror() and deployment.mirror_matches_meld(), message="the true mirror")

    told = [event["data"]["current"]["status"] for event in deployment.events() if "status" in event["type"]]
    assert told == statuses
    assert [event["sequence"] for event in deployment.events()] == ["00000001", "00000002", "00000003"]
    eventually(deployment.has_no_pending_webhooks, message="all webhooks processed")


def test_a_move_of_the_primary_reaches_the_silent_member(deployment: Deployment) -> None:
    """On every set-up: Meld says nothing of the third member, and its row follows all the same."""
    deployment.start_all()
    meld = deployment.meld
    customer = NewConnection(external_customer_id="one")
    first = meld.world.add(details=customer)
    second, third = (meld.world.start(customer) for _ in range(2))
    for joining in (second, third):
        meld.send_webhooks(meld.world.complete(joining.id, duplicate_of=first.id))
    eventually(lambda: len(deployment.mirror()) == 3 and deployment.mirror_matches_meld(), 20, message="the group")

    meld.send_webhooks(meld.world.refresh(second.id))

    eventually(lambda: deployment.mirror()[first.id]["primary_duplicate_id"] == second.id, 20)
    eventually(deployment.mirror_matches_meld, 20, message="the true mirror")
    last = {
        event["subject"]: event["data"]["role"]
        for event in deployment.events()
        if event["type"] == "connection.primary_duplicate_moved" and event["data"]["current"] == second.id
    }
    assert last == {second.id: "became_primary", third.id: "lost_primary", first.id: "followed"}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_processes_end_in_time_and_with_success(deployment: Deployment, signum: signal.Signals) -> None:
    """On every set-up: all processes end within 10 s with exit code 0, also with a read of Meld under way."""
    processes = deployment.start_all()
    meld = deployment.meld
    connection = meld.world.add()
    deployment.script_reads(connection.id, {"hang": True})
    deployment.send_webhook(connection.id)
    eventually(lambda: deployment.reads(connection.id) == 1, message="the read under way")

    codes = []
    enders = [
        threading.Thread(target=lambda process=process: codes.append(stop_process(process, signum))) for process in processes
    ]
    for ender in enders:
        ender.start()
    for ender in enders:
        ender.join()

    assert codes == [0] * len(processes)
