"""What an answer or an exception says about the one question: was a call placed?

The table of answers follows RFC 9110 (statuses, Retry-After), RFC 9457 (problem+json) and what
call handlers were seen to do. Whatever is not surely "no" or surely "yes" is unanswered.
"""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final

import httpx
from jsonpointer import JsonPointer
from pydantic_core import from_json

from shared.handler_profile import Answer, Predicate, Rule
from shared.outcome import Busy, NotSent, Outcome, Placed, Refused, Unanswered, WireEvidence

CONTRACT_ANSWER: Final = Answer()
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
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    evidence: WireEvidence,
    now: datetime,
    answer: Answer = CONTRACT_ANSWER,
) -> Outcome:
    """Return what a complete answer says to one who knows how this handler speaks (`answer`).

    The handler's own rules go first, then problem+json's members, then the general table. `now`
    turns a Retry-After date into seconds.
    """
    said = as_json(body)
    reason = _reason(said) or f"{status} from the handler"
    sid = call_sid(said, answer.call_sid)
    wait_s = _asked_to_wait_s(headers, said, answer, now)
    rule = next((rule for rule in answer.rules if _fits(rule, status, said, body)), None)
    if rule is not None:
        return _as_ruled(rule, status, reason, wait_s, evidence)
    told = "problem+json" in headers.get("content-type", "").lower()
    if told and answer.trust_problem_members:
        outcome = _judge_problem(status, said, sid, reason, wait_s, evidence)
        if outcome is not None:
            return outcome
    if 200 <= status < 300:
        if sid:
            return Placed(sid, evidence)
        return Unanswered(f"{status} without a call_sid", evidence)
    if sid:
        return Unanswered(f"{status}, but it names a call", evidence)
    if status == 429 or (status == 503 and wait_s is not None):
        return Busy(wait_s, f"{status} from the handler", evidence)
    if status == 425:
        return NotSent("425 Too Early", evidence)
    if status in {408, 409} or not 400 <= status < 500:
        # 408: it may have read all of it. 409: another request for this order may be under way.
        return Unanswered(f"{status} from the handler", evidence)
    return Refused(status, reason, evidence=evidence)


def holds(predicate: Predicate, said: Any, body: bytes) -> bool:
    """Say whether `predicate` holds of an answer's body."""
    found = body.decode(errors="replace")
    if predicate.pointer is not None:
        found = at(said, predicate.pointer)
        if found is None:
            return False
    if predicate.equals is not None and found != predicate.equals:
        return False
    return predicate.contains is None or predicate.contains.lower() in str(found).lower()


def as_json(body: bytes) -> Any:
    """Return what a body says in JSON, None if it says nothing or is nested out of reason."""
    try:
        return from_json(body)
    except ValueError:
        return None


def at(said: Any, pointer: str) -> Any:
    """Return what stands at a JSON pointer, None if there is nothing."""
    return _parsed(pointer).resolve(said, None) if isinstance(said, dict | list) else None


def call_sid(said: Any, pointer: str) -> str | None:
    """Return the call's sid if one stands there that can be one."""
    sid = at(said, pointer)
    if isinstance(sid, str) and 0 < len(sid) <= SID_MAX and sid.isprintable() and sid.strip():
        return sid
    return None


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer for a person to read, without control characters."""
    text = body[: EXCERPT_MAX * 4].decode(errors="replace")[:EXCERPT_MAX]
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)


_parsed = lru_cache(maxsize=128)(JsonPointer)  # a profile names the same few for every answer


def _fits(rule: Rule, status: int, said: Any, body: bytes) -> bool:
    if rule.status and status not in rule.status:
        return False
    return rule.body is None or holds(rule.body, said, body)


def _as_ruled(
    rule: Rule, status: int, reason: str, wait_s: float | None, evidence: WireEvidence
) -> Outcome:
    match rule.outcome:
        case "refused":
            return Refused(status, reason, evidence=evidence)
        case "busy":
            return Busy(wait_s, reason, evidence)
        case "not_sent":
            return NotSent(reason, evidence)
        case "unanswered":
            return Unanswered(reason, evidence)


def _judge_problem(
    status: int,
    said: Any,
    sid: str | None,
    reason: str,
    wait_s: float | None,
    evidence: WireEvidence,
) -> Outcome | None:
    """Return what `call_placed` and `retryable` say; None if the answer does not carry them."""
    match at(said, "/call_placed"):
        case "yes":
            return Placed(sid, evidence) if sid else Unanswered("placed, without a sid", evidence)
        case "unknown":
            return Unanswered(reason, evidence)
        case "no" if sid is not None or 200 <= status < 300:
            return Unanswered("it says that no call was placed, and acts otherwise", evidence)
        case "no":
            if status == 429 or wait_s is not None:
                return Busy(wait_s, reason, evidence)
            retryable = at(said, "/retryable")
            if retryable is True or (retryable is None and status >= 500):
                return NotSent(f"{status}: {reason}", evidence)
            return Refused(status, reason, vouched=True, evidence=evidence)
        case None:
            return None
        case _:
            return Unanswered("call_placed is neither yes, no nor unknown", evidence)


def _asked_to_wait_s(
    headers: Mapping[str, str], said: Any, answer: Answer, now: datetime
) -> float | None:
    told = None if answer.retry_after is None else at(said, answer.retry_after)
    return _retry_after_s(headers.get("retry-after") if told is None else str(told), now)


def _reason(said: Any) -> str | None:
    if isinstance(said, dict):
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
