"""Text for people: one line for each event, timeline item, previewed read and difference that a rebuild found."""

from typing import Any

from meldwatch.cli.output import format_value
from schemas.events import Event
from schemas.rebuild_report import RebuildFinding
from schemas.replays import ReadPreview
from schemas.subscriptions import Delivery
from schemas.timeline import AuditItem, DeliveryItem, EventItem, FieldChange, Read, ReadItem, TimelineItem, WebhookItem

MAX_VALUE_CHARACTERS = 100
"""Longer values are cut."""


def format_event(event: Event) -> str:
    """Return an event as one line."""
    time = event.time.strftime("%H:%M:%S")
    return f"{event.position:>6}  {time}  {_format_event_change(event)}"


def _format_event_change(event: Event) -> str:
    data = event.data
    before, after = (_format_status(data[name]) for name in ("previous", "current"))
    role = f" ({data['role']})" if "role" in data else ""
    trigger = data["cause"]["trigger"]
    return f"{event.type:36} {event.subject}  {before} -> {after}{role}  [{trigger}]"


def format_timeline_item(item: TimelineItem) -> str:
    """Return an item of a timeline as one line, and a line for each field that a read changed."""
    time = item.at.strftime("%Y-%m-%d %H:%M:%S")
    match item:
        case WebhookItem(webhook=webhook):
            error = f": {webhook.error}" if webhook.error else ""
            return f"{time}  webhook  {webhook.type}  {webhook.event_id}  {webhook.state}{error}"
        case EventItem(event=event):
            return f"{time}  event    {_format_event_change(event)}"
        case DeliveryItem(delivery=delivery):
            return f"{time}  delivery {_format_delivery(delivery)}"
        case AuditItem(act=act):
            return f"{time}  act      {act.act}  by {act.who}  {format_value(act.details)}"
        case ReadItem(read=read):
            return f"{time}  read     {_format_read(read)}"


def _format_read(read: Read) -> str:
    lines = [f"{'found' if read.found else 'gone'}  [{read.trigger}]"]
    lines += [f"{'':23}{_format_change(each)}" for each in read.changes]
    if read.unshown_changes:
        lines.append(f"{'':23}and fields that are not shown: {', '.join(read.unshown_changes)}")
    return "\n".join(lines)


def _format_delivery(delivery: Delivery) -> str:
    error = f": {delivery.error}" if delivery.error else ""
    when = f" at {delivery.delivered_at:%Y-%m-%d %H:%M:%S}" if delivery.delivered_at is not None else ""
    times = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    return f"of {delivery.position} to {delivery.subscription_id}  {delivery.state}{when}  {times}{error}"


def format_refetch_preview(preview: ReadPreview) -> str:
    """Return what a read of a connection would change, a line for each change (dry run)."""
    if preview.is_clean:
        return f"{preview.connection_id}  nothing would change"
    if preview.failure is not None:
        return f"{preview.connection_id}  the read would fail, and the mirror would stay unchanged: {preview.failure}"
    lines = [_format_change(each) for each in preview.changes]
    if preview.unshown_changes:
        lines.append(f"and fields that are not shown: {', '.join(preview.unshown_changes)}")
    for event in preview.events:
        values = event.model_dump()
        role = f" ({event.role})" if event.role else ""
        before, after = (_format_status(values[name]) for name in ("previous", "current"))
        lines.append(f"event {event.type}  {before} -> {after}{role}")
    if preview.siblings:
        lines.append(f"group members that would be read too: {', '.join(preview.siblings)}")
    return "\n".join(f"{preview.connection_id}  {line}" for line in lines)


def format_rebuild_finding(finding: RebuildFinding) -> str:
    """Return a difference that a rebuild found as one line."""
    subject = f"{finding.kind} {finding.event_id}" if finding.event_id else finding.kind
    state = "repaired" if finding.is_mended else "can be repaired" if finding.is_mendable else "cannot be repaired"
    return f"{finding.connection_id}  {subject}: {_format_difference(finding)}  [{state}]"


def _format_difference(finding: RebuildFinding) -> str:
    values = finding.model_dump(mode="json")
    stored, expected = _format_short(values["stored"]), _format_short(values["folded"])
    if finding.kind == "history":
        return f"an {finding.field} is missing or corrupt: {stored}"
    if finding.field == "row":
        return f"{expected} is missing" if finding.stored is None else f"{stored} follows from no read"
    return f"{finding.field} is {stored}, should be {expected}"


def _format_change(change: FieldChange) -> str:
    return f"{change.field}: {_format_short(change.before)} -> {_format_short(change.after)}"


def _format_short(value: object) -> str:
    text = format_value(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}..."


def _format_status(value: str | dict[str, Any] | None) -> str:
    if value is None:
        return "(new)"
    if isinstance(value, str):
        return value
    reason = value["status_reason"]
    return f"{value['status']}/{reason}" if reason else str(value["status"])
