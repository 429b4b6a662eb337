"""What the handler says when it is asked about an order, instead of given one."""

from dispatcher.verdict import as_json, at, call_sid, excerpt, holds
from shared.finding import CannotTell, Finding, Known, KnownRefused
from shared.handler_profile import Cancel, Listing, Lookup


def judge_lookup(status: int, body: bytes, lookup: Lookup) -> Finding:
    """Return what a complete answer to "what became of this order?" says."""
    if status == 404:
        return Known(())
    if status != 200:
        return CannotTell(f"{status} to a lookup")
    said = as_json(body)
    if sid := call_sid(said, lookup.call_sid):
        return Known((sid,))
    if holds(lookup.refused, said, body) and not at(said, lookup.call_sid):
        return KnownRefused(str(at(said, "/detail") or "refused")[:300])
    return CannotTell(f"the handler says {excerpt(body)[:160]!r}")


def judge_cancel(status: int, body: bytes, cancel: Cancel) -> Finding:
    """Return whether the handler vouches that no call was or will be placed for the order."""
    if 200 <= status < 300 and holds(cancel.cancelled, as_json(body), body):
        return Known(())
    return CannotTell(f"{status} to a wish to have it back")


def judge_listing(status: int, body: bytes, listing: Listing, order_id: str) -> Finding:
    """Return which of the listed calls can be this order's.

    A call that names another order is not; one that names none may be.
    """
    said = as_json(body)
    items = said if listing.items is None else at(said, listing.items)
    if status != 200 or not isinstance(items, list):
        return CannotTell(f"{status} to a listing, without a list")
    sids = []
    for item in items:
        named = None if listing.order_id is None else at(item, listing.order_id)
        if named not in (None, order_id):
            continue
        sid = call_sid(item, listing.call_sid)
        if sid is None:
            return CannotTell("a listed call has no sid")
        sids.append(sid)
    return Known(tuple(sids))
