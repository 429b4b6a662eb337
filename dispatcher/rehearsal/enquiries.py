"""What anybody may ask afterwards: what became of an order, which calls went where, who rang.

They read; nothing here rings.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qs

from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.exchange import Answer, Problem, as_json
from dispatcher.rehearsal.order_request import is_e164

Unrung = Literal["in-progress", "refused"]

_NEVER_SEEN: Final = Problem(404, "never-seen", "Never seen", "No order of that id came here.")
_ALWAYS: Final = datetime.min.replace(tzinfo=UTC)


def look_up(carrier: Carrier, unrung: Mapping[str, Unrung], order_id: str) -> Answer | Problem:
    """Say what became of an order: the carrier knows who rang, `unrung` the rest."""
    ring = carrier.first_ring(order_id)
    found: dict[str, Any]
    if ring is not None:
        found = {
            "order_id": order_id,
            "call_sid": ring.call_sid,
            "status": "placed",
            "call_status": ring.call_status,
            "at": ring.at.isoformat(),
        }
    elif (status := unrung.get(order_id)) is not None:
        found = {"order_id": order_id, "call_sid": None, "status": status}
    else:
        return _NEVER_SEEN
    return as_json(found)


def list_calls(carrier: Carrier, query: str) -> Answer | Problem:
    """List the calls to one destination since a moment, oldest first."""
    # A plus sign that nobody escaped arrives as a space; neither value has spaces of its own.
    asked = {name: values[0].replace(" ", "+") for name, values in parse_qs(query).items()}
    to, since = asked.get("to", ""), _moment(asked.get("since"))
    if not is_e164(to):
        return _invalid("to must be an E.164 number.")
    if since is None:
        return _invalid("since must be an RFC 3339 time.")
    return as_json(
        [
            {"order_id": r.order_id, "call_sid": r.call_sid, "to": to, "at": r.at.isoformat()}
            for r in carrier.rung_at(to)
            if r.at >= since
        ]
    )


def count_rings(carrier: Carrier, order_id: str) -> Answer:
    """Say how often an order rang; none is an answer too."""
    sids = carrier.call_sids(order_id)
    return as_json({"order_id": order_id, "rings": len(sids), "call_sids": sids})


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return _ALWAYS
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment


def _invalid(detail: str) -> Problem:
    return Problem(422, "invalid-query", "Invalid query", detail)
