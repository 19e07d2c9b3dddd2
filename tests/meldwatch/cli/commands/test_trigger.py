"""The command ``trigger``."""

from tests.end_to_end.deployment import Deployment
from tests.meldwatch.cli.command_helpers import read_json_lines
from tests.support.polling import eventually


def test_a_triggered_webhook_causes_a_read(served: Deployment) -> None:
    """``trigger`` signs as Meld does: the webhook is stored and the connection is read again."""
    (id_,) = served.mirror()
    reads = served.count_reads(id_)

    ended = served.run("trigger", "BANK_LINKING_ACCOUNTS_UPDATED", "--connection", id_, "--event-id", "e1")

    assert (ended.returncode, ended.stdout.strip()) == (0, f"{served.url}/webhooks/meld answered 200")
    eventually(lambda: served.count_reads(id_) == reads + 1, message="the read")
    assert read_json_lines(served.run("webhooks", "show", "e1", "--json"))[0]["connection_id"] == id_
