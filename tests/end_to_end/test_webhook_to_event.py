import signal
import threading

import pytest

from simulator.world.new_connection import NewConnection
from tests.end_to_end.deployment import Deployment, stop_process
from tests.support.polling import eventually


def test_a_webhook_updates_the_mirror_and_emits_an_event(deployment: Deployment) -> None:
    """On every set-up: a connection is linked, breaks and heals; each change updates the mirror and emits one event."""
    deployment.start_all()
    meld = deployment.meld
    connection = meld.world.start()

    statuses = []
    for act in (meld.world.complete, meld.world.break_connection, meld.world.heal):
        meld.send_webhooks(act(connection.id))
        statuses.append(meld.world.truth(connection.id)["status"])
        eventually(
            lambda: connection.id in deployment.mirror() and deployment.mirror_matches_meld(),
            message="a mirror that matches Meld",
        )

    emitted = [event["data"]["current"]["status"] for event in deployment.events() if "status" in event["type"]]
    assert emitted == statuses
    assert [event["sequence"] for event in deployment.events()] == ["00000001", "00000002", "00000003"]
    eventually(deployment.has_no_pending_webhooks, message="processing of all webhooks")


def test_a_moved_primary_updates_the_member_without_a_webhook(deployment: Deployment) -> None:
    """On every set-up: Meld sends no webhook for the third member, but its row is updated too."""
    deployment.start_all()
    meld = deployment.meld
    customer = NewConnection(external_customer_id="one")
    first = meld.world.add(details=customer)
    second, third = (meld.world.start(customer) for _ in range(2))
    for joining in (second, third):
        meld.send_webhooks(meld.world.complete(joining.id, duplicate_of=first.id))
    eventually(
        lambda: len(deployment.mirror()) == 3 and deployment.mirror_matches_meld(), 20, message="the duplicate group"
    )

    meld.send_webhooks(meld.world.refresh(second.id))

    eventually(lambda: deployment.mirror()[first.id]["primary_duplicate_id"] == second.id, 20)
    eventually(deployment.mirror_matches_meld, 20, message="a mirror that matches Meld")
    roles = {
        event["subject"]: event["data"]["role"]
        for event in deployment.events()
        if event["type"] == "connection.primary_duplicate_moved" and event["data"]["current"] == second.id
    }
    assert roles == {second.id: "became_primary", third.id: "lost_primary", first.id: "followed"}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_processes_shut_down_in_time_with_exit_code_0(deployment: Deployment, signum: signal.Signals) -> None:
    """On every set-up: all processes exit within 10 s with code 0, even during a read of Meld."""
    processes = deployment.start_all()
    meld = deployment.meld
    connection = meld.world.add()
    deployment.script_reads(connection.id, {"hang": True})
    deployment.send_webhook(connection.id)
    eventually(lambda: deployment.count_reads(connection.id) == 1, message="a read in progress")

    codes = []
    stoppers = [
        threading.Thread(target=lambda process=process: codes.append(stop_process(process, signum)))
        for process in processes
    ]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join()

    assert codes == [0] * len(processes)
