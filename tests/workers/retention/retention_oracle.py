"""Retention oracle for property-based tests: random rows of all ages and states, and the rules in plain Python."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from hypothesis import strategies as st
from sqlmodel import SQLModel

from runtime.database import Database
from runtime.metrics import Metrics
from runtime.settings import Settings
from schemas import tables
from tests.support import row_factory
from tests.support.scripted_meld import document
from workers.retention.prune import Prune

IDS = ("a", "b", "c")
AGES = st.sampled_from([0.5, 9.5, 16.5, 17.5, 29.5, 40.5, 99.5, 200.5, 400.5])
"""In days; none is near a cutoff."""

RETENTION_DAYS = st.sampled_from([0, 10, 17, 30, 100, 365, 36525])
STEPS = ("pending", "processed", "ignored", "failed", "failed and processed")


@dataclass
class StoredRows:
    """All stored rows."""

    webhooks: list[dict[str, Any]]
    read_requests: dict[str, str]
    mirror: dict[str, str]
    observations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]
    rejections: list[float]
    now: datetime = field(init=False)

    def rows(self, now: datetime) -> Iterator[SQLModel]:
        """Yield all table rows; their ages count back from ``now``."""
        self.now = now
        for number, webhook in enumerate(self.webhooks, start=1):
            yield self._webhook(number, webhook)
        for id_, state in self.read_requests.items():
            columns = {"idle": {}, "pending": {"requested": 1}, "dead": {"requested": 1, "failed_at": now}}[state]
            yield row_factory.read_request(id_, **columns)
        for id_, status in self.mirror.items():
            yield row_factory.connection(id_, status=status)
        for number, observation in enumerate(self.observations, start=1):
            yield self._observation(number, **observation)
        for number, event in enumerate(self.events, start=1):
            yield self._event(number, **event)
        for number, delivery in enumerate(self.deliveries, start=1):
            yield self._delivery(number, **delivery)
        for number, age in enumerate(self.rejections, start=1):
            at = self.at(age)
            yield tables.RejectionRow(
                id=number,
                digest=f"{number}",
                reason="r",
                first_at=at,
                received_at=at,
                size=0,
                headers={},
                body=b"",
                is_likely=True,
            )

    def at(self, age: float | None) -> datetime | None:
        """Return the time this many days ago."""
        return None if age is None else self.now - timedelta(days=age)

    def _webhook(self, number: int, webhook: dict[str, Any]) -> tables.WebhookRow:
        step, age = webhook["step"], self.at(webhook["stepped"])
        return row_factory.webhook(
            f"w{number}",
            id=number,
            connection_id=webhook["connection_id"],
            hint_status=webhook["hint"],
            received_at=self.at(webhook["received"]),
            delivered_at=self.at(min(webhook["received"], webhook["delivered"])),
            processed_at=age if "processed" in step else None,
            ignored_at=age if step == "ignored" else None,
            failed_at=age if "failed" in step else None,
            emptied_at=age if webhook["emptied"] else None,
            encrypted_with="key",
        )

    def _observation(self, number: int, connection_id: str, age: float, status: str) -> tables.ObservationRow:
        at = self.at(age)
        return tables.ObservationRow(
            id=number, connection_id=connection_id, account_id="acct", generation=number, trigger="clock",
            webhook_event_ids=[], began_at=at, ended_at=at, found=True, digest=f"{number}",
            document=document(connection_id, status),
        )  # fmt: skip

    def _event(
        self, position: int, connection_id: str, age: float, observation_id: int, rebuilt: Any
    ) -> tables.EventRow:
        event = row_factory.event(position, connection_id, time=self.at(age), observation_id=observation_id)
        if rebuilt is not None:
            at = self.at(rebuilt) if isinstance(rebuilt, float) else None
            event.data["cause"]["rebuilt_at"] = at.isoformat().replace("+00:00", "Z") if at else rebuilt
        return event

    def _delivery(self, number: int, *, position: int, state: str, age: float, **owed_to: Any) -> tables.DeliveryRow:
        return tables.DeliveryRow(
            id=number, connection_id="a", position=position, event_id=f"event-{position}", type="t",
            created_at=self.at(age + 1), outcomes=[], **owed_to,
            delivered_at=self.at(age) if state == "delivered" else None,
            dead_at=self.at(age) if state == "dead" else None,
        )  # fmt: skip

    # The oracle

    def find_removable(self, settings: Settings) -> dict[str, set[int]]:
        """Return the keys of the removable rows, by kind."""
        known = max(17, (settings.webhook_max_age_seconds + settings.webhook_max_skew_seconds) / 86400)
        removable: dict[str, set[int]] = {"webhooks": set(), "bodies": set(), "failures": set(), "dead": set()}
        for number, webhook in enumerate(self.webhooks, start=1):
            if (kind := self._kind_of(webhook, settings, known)) is not None:
                removable[kind].add(number)
        removable["deliveries"] = set()
        for number, delivery in enumerate(self.deliveries, start=1):
            if delivery["state"] == "delivered" and delivery["age"] > settings.retain_deliveries_days:
                removable["deliveries"].add(number)
            if delivery["state"] == "dead" and delivery["age"] > settings.retain_failures_days:
                removable["dead"].add(number)
        removable["observations"] = set(self._old_observations(settings))
        removable["events"] = set(self._old_events(settings, removable["dead"]))
        removable["rejections"] = {
            number for number, age in enumerate(self.rejections, start=1) if age > settings.retain_rejections_days
        }
        return removable

    def _kind_of(self, webhook: dict[str, Any], settings: Settings, known: float) -> str | None:
        last = min(webhook["received"], webhook["delivered"])
        is_evidence = (
            webhook["hint"] == "DELETED"
            and webhook["connection_id"] is not None
            and self.mirror.get(webhook["connection_id"]) != "DELETED"
        )
        if webhook["step"] == "pending":
            return None
        if webhook["step"] == "failed":
            is_pending = self.read_requests.get(webhook["connection_id"]) == "pending"
            is_old = webhook["stepped"] > settings.retain_failures_days and last > known
            return "failures" if is_old and not is_pending and not is_evidence else None
        if last > max(known, settings.retain_webhooks_days) and not is_evidence:
            return "webhooks"
        is_full = not webhook["emptied"]
        return "bodies" if is_full and webhook["received"] > settings.retain_bodies_days else None

    def _old_observations(self, settings: Settings) -> Iterator[int]:
        for id_ in IDS:
            mine = [(n, each) for n, each in enumerate(self.observations, start=1) if each["connection_id"] == id_]
            for number, observation in mine[:-1]:
                if observation["age"] <= settings.retain_observations_days:
                    break
                yield number

    def _old_events(self, settings: Settings, dead: set[int]) -> Iterator[int]:
        undelivered = {
            delivery["position"]
            for number, delivery in enumerate(self.deliveries, start=1)
            if delivery["state"] != "delivered" and number not in dead
        }
        for id_ in IDS:
            mine = [(n, each) for n, each in enumerate(self.events, start=1) if each["connection_id"] == id_]
            mine.sort(key=lambda each: (each[1]["observation_id"], each[0]))
            for _, group in groupby(mine, key=lambda each: each[1]["observation_id"]):
                events = list(group)
                if any(n in undelivered or _age(each) <= settings.retain_events_days for n, each in events):
                    break
                yield from (n for n, _ in events)


def make_prune(database: Database, retention: Settings | None = None, **wiring: Any) -> Prune:
    """Return a prune job as a process would make it, but without pauses."""
    usual: dict[str, Any] = {"holder": "me", "wait": lambda _seconds: False, "metrics": Metrics()}
    return Prune(database=database, settings=retention or Settings(), **{**usual, **wiring})


def _age(event: dict[str, Any]) -> float:
    return min(event["age"], event["rebuilt"]) if isinstance(event["rebuilt"], float) else event["age"]


def _events(observations: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(
        st.fixed_dictionaries(
            {
                "connection_id": st.sampled_from(IDS),
                "age": AGES,
                "observation_id": st.integers(1, max(observations, 1)),
                "rebuilt": st.one_of(st.none(), st.none(), AGES, st.sampled_from(["soon", 7])),
            }
        ),
        max_size=8,
    )


@st.composite
def stored_rows(draw: st.DrawFn) -> StoredRows:
    """Return random rows of every table."""
    webhook = st.fixed_dictionaries(
        {
            "connection_id": st.sampled_from([None, *IDS]),
            "hint": st.sampled_from([None, "ACTIVE", "DELETED"]),
            "received": AGES,
            "delivered": AGES,
            "step": st.sampled_from(STEPS),
            "stepped": AGES,
            "emptied": st.booleans(),
        }
    )
    observation = st.fixed_dictionaries(
        {"connection_id": st.sampled_from(IDS), "age": AGES, "status": st.sampled_from(["ACTIVE", "NEW"])}
    )
    observations = draw(st.lists(observation, max_size=6))
    events = draw(_events(len(observations)))
    return StoredRows(
        webhooks=draw(st.lists(webhook, max_size=10)),
        read_requests=draw(st.dictionaries(st.sampled_from(IDS), st.sampled_from(["idle", "pending", "dead"]))),
        mirror=draw(st.dictionaries(st.sampled_from(IDS), st.sampled_from(["ACTIVE", "DELETED"]))),
        observations=observations,
        events=events,
        deliveries=draw(_deliveries(len(events))),
        rejections=draw(st.lists(AGES, max_size=4)),
    )


def _deliveries(events: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    if not events:
        return st.just([])
    delivery = st.fixed_dictionaries(
        {
            "position": st.integers(1, events),
            "subscription_id": st.sampled_from(["s1", "s2"]),
            "state": st.sampled_from(["pending", "delivered", "delivered", "dead"]),
            "age": AGES,
            "replay_id": st.sampled_from([None, "r1"]),
        }
    )
    return st.lists(
        delivery, max_size=8, unique_by=lambda each: (each["position"], each["subscription_id"], each["replay_id"])
    )


def retentions() -> st.SearchStrategy[Settings]:
    """Return random retention settings."""
    names = ("webhooks", "bodies", "failures", "observations", "events", "deliveries", "rejections")
    days = st.fixed_dictionaries({f"retain_{name}_days": RETENTION_DAYS for name in names})
    return st.builds(
        lambda days, age: Settings.model_validate({**days, "webhook_max_age_seconds": age}),
        days,
        st.sampled_from([345600, 30 * 86400]),
    )
