"""What an answer or an exception says about the one question: was a call placed?

The table of answers follows RFC 9110 (statuses, Retry-After), RFC 9457 (problem+json) and what
call handlers were seen to do. Whatever is not surely "no" or surely "yes" is unanswered.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from shared.finding import CannotTell, Finding, Known, KnownRefused
from shared.outcome import Busy, NotSent, Outcome, Placed, Refused, Unanswered, WireEvidence

SID_MAX: Final = 128
EXCERPT_MAX: Final = 300
RETRY_AFTER_MAX_S: Final = 86_400

NEVER_LEFT: Final[dict[type[Exception], bool]] = {
    # True: nothing can have left; False: it may have been acted upon.
    httpx.ConnectError: True,
    httpx.ConnectTimeout: True,
    httpx.PoolTimeout: True,
    httpx.UnsupportedProtocol: True,
    httpx.InvalidURL: True,
    httpx.LocalProtocolError: False,  # ours, but raised half-way through a request too
    httpx.ReadTimeout: False,
    httpx.WriteTimeout: False,
    httpx.ReadError: False,
    httpx.WriteError: False,
    httpx.CloseError: False,
    httpx.RemoteProtocolError: False,
    httpx.ProxyError: False,
    httpx.DecodingError: False,
    httpx.TooManyRedirects: False,
    httpx.HTTPStatusError: False,
    httpx.CookieConflict: False,
    httpx.StreamConsumed: False,
    httpx.StreamClosed: False,
    httpx.ResponseNotRead: False,
    httpx.RequestNotRead: False,
}
"""Every leaf of httpx's exception tree; a test fails when httpx grows a new one."""


def judge_exception(error: Exception, evidence: WireEvidence) -> Outcome:
    """Return NotSent if both witnesses say that nothing left, else Unanswered."""
    cause = type(error).__name__
    if NEVER_LEFT.get(type(error), False) and not evidence.request_left:
        return NotSent(cause, evidence)
    return Unanswered(cause, evidence)


def judge_answer(
    status: int, headers: Mapping[str, str], body: bytes, evidence: WireEvidence, now: datetime
) -> Outcome:
    """Return what a complete answer says. `now` turns a Retry-After date into seconds."""
    said = _json_object(body)
    told = "problem+json" in headers.get("content-type", "")
    if told and (outcome := _judge_problem(status, headers, said, evidence, now)):
        return outcome
    retry_after_s = _retry_after_s(headers.get("retry-after"), now)
    if 200 <= status < 300:
        if sid := _call_sid(said):
            return Placed(sid, evidence)
        return Unanswered(f"{status} without a call_sid", evidence)
    if status == 429 or (status == 503 and retry_after_s is not None):
        return Busy(retry_after_s, f"{status} from the handler", evidence)
    if status == 425:
        return NotSent("425 Too Early", evidence)
    if status in {408, 409} or not 400 <= status < 500:
        # 408: it may have read all of it. 409: another request for this order may be under way.
        return Unanswered(f"{status} from the handler", evidence)
    return Refused(status, _reason(said) or f"{status} from the handler", evidence=evidence)


def judge_lookup(status: int, body: bytes) -> Finding:
    """Return what a complete answer to "what became of this order?" says."""
    if status == 404:
        return Known(())
    if status != 200:
        return CannotTell(f"{status} to a lookup")
    said = _json_object(body)
    if sid := _call_sid(said):
        return Known((sid,))
    if said.get("status") == "refused" and not said.get("call_sid"):
        return KnownRefused(_reason(said) or "refused")
    return CannotTell(f"the handler says {excerpt(body)[:80]!r}")


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer for a person to read, without control characters."""
    text = body[: EXCERPT_MAX * 4].decode(errors="replace")[:EXCERPT_MAX]
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _judge_problem(
    status: int,
    headers: Mapping[str, str],
    said: dict[str, Any],
    evidence: WireEvidence,
    now: datetime,
) -> Outcome | None:
    """Return what `call_placed` and `retryable` say; None if the answer does not carry them."""
    reason = _reason(said) or f"{status} from the handler"
    match said.get("call_placed"):
        case "yes":
            sid = _call_sid(said)
            return Placed(sid, evidence) if sid else Unanswered("placed, without a sid", evidence)
        case "unknown":
            return Unanswered(reason, evidence)
        case "no":
            retry_after_s = _retry_after_s(headers.get("retry-after"), now)
            if status == 429 or retry_after_s is not None:
                return Busy(retry_after_s, reason, evidence)
            if said.get("retryable", status >= 500) is True:
                return NotSent(f"{status}: {reason}", evidence)
            return Refused(status, reason, vouched=True, evidence=evidence)
        case _:
            return None


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _call_sid(said: dict[str, Any]) -> str | None:
    sid = said.get("call_sid")
    if isinstance(sid, str) and 0 < len(sid) <= SID_MAX and sid.isprintable() and sid.strip():
        return sid
    return None


def _reason(said: dict[str, Any]) -> str | None:
    for member in ("detail", "title", "message", "error"):
        if isinstance(text := said.get(member), str) and text:
            return excerpt(text.encode(errors="replace"))
    return None


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110, 10.2.3), or None if there is none to read."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), RETRY_AFTER_MAX_S))
    try:
        wait_s = (parsedate_to_datetime(text) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), float(RETRY_AFTER_MAX_S))
