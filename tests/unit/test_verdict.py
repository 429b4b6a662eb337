"""What an answer or an exception says about the one question: was a call placed?"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.enquiry import judge_lookup
from dispatcher.verdict import (
    EXCERPT_MAX,
    NEVER_LEFT,
    RETRY_AFTER_MAX_S,
    SID_MAX,
    excerpt,
    judge_answer,
    judge_exception,
)
from shared.finding import CannotTell, Finding, Known, KnownRefused
from shared.handler_profile import Lookup
from shared.outcome import Busy, NotSent, Outcome, Placed, Refused, Unanswered, WireEvidence

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
NOTHING_LEFT = WireEvidence(connected=False, request_left=False)
IT_LEFT = WireEvidence(connected=True, request_left=True)
SID = "CA" + "0" * 32
HOSTILE_SIDS = [
    "",
    "   ",
    "C" * (SID_MAX + 1),
    "CA\x00",
    "CA\nDEAD",
    "CA\x1b[2J",
    "\ud800",
    "CA\u202e",
    7,
    1.5,
    True,
    None,
    ["CA1"],
    {"sid": "CA1"},
]
HOSTILE_BODIES = [
    b"",
    b"done",
    b"null",
    b'"CA1"',
    b'["CA1"]',
    b"[" * 10_000,
    b'{"call_sid":' + b"[" * 10_000,
    b'{"call_sid":' + b'{"a":' * 10_000,
    b'{"call_sid": "CA1"',
    b'{"call_sid": "CA1"} and more',
    b'{"call_sid": "\xff\xfe"}',
    b"\xff\xfe\x00\x00",
    b"\x00" * 100,
    b'{"call_sid": ' + b"9" * 5_000 + b"}",
    "{'call_sid': 'CA1'}".encode("utf-16"),
]


def answered(status: int, body: Any = b"", **headers: str) -> Outcome:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return judge_answer(status, told, content, IT_LEFT, NOW)


def problem(status: int, body: Any, **headers: str) -> Outcome:
    return answered(status, body, content_type="application/problem+json", **headers)


# Exceptions


def leaves(root: type[Exception]) -> Iterator[type[Exception]]:
    children = [child for child in root.__subclasses__() if child.__module__.startswith("httpx")]
    if not children:
        yield root
    for child in children:
        yield from leaves(child)


def httpx_leaves() -> set[type[Exception]]:
    roots: tuple[type[Exception], ...] = (
        httpx.HTTPError,
        httpx.InvalidURL,
        httpx.StreamError,
        httpx.CookieConflict,
    )
    return {leaf for root in roots for leaf in leaves(root)}


def test_every_leaf_of_httpx_exceptions_is_judged():
    missing = {leaf.__name__ for leaf in httpx_leaves() if leaf not in NEVER_LEFT}
    assert not missing, f"httpx has new leaves; judge them in NEVER_LEFT: {sorted(missing)}"


def test_nothing_is_judged_that_httpx_never_raises():
    assert set(NEVER_LEFT) == httpx_leaves()


def test_no_exception_escapes_the_four_trees_that_are_walked():
    exported = {
        thing
        for thing in vars(httpx).values()
        if isinstance(thing, type) and issubclass(thing, Exception)
    }
    known = {ancestor for leaf in httpx_leaves() for ancestor in leaf.__mro__}
    assert exported <= known


NOT_SENT: list[type[Exception]] = [
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
]


def raised(leaf: type[Exception]) -> Exception:
    return leaf.__new__(leaf)  # whatever its constructor asks for


def named(leaf: type[Exception]) -> str:
    return leaf.__name__


@pytest.mark.parametrize("leaf", NOT_SENT, ids=named)
def test_what_cannot_have_left_is_not_sent(leaf: type[Exception]):
    assert judge_exception(raised(leaf), NOTHING_LEFT) == NotSent(leaf.__name__, NOTHING_LEFT)


MAY_HAVE_RUNG = sorted(httpx_leaves().difference(NOT_SENT), key=named)


@pytest.mark.parametrize("leaf", MAY_HAVE_RUNG, ids=named)
def test_what_may_have_been_acted_upon_is_unanswered(leaf: type[Exception]):
    assert judge_exception(raised(leaf), IT_LEFT) == Unanswered(leaf.__name__, IT_LEFT)


@pytest.mark.parametrize("leaf", NOT_SENT, ids=named)
def test_a_harmless_name_is_not_believed_when_bytes_left(leaf: type[Exception]):
    assert isinstance(judge_exception(raised(leaf), IT_LEFT), Unanswered)


@pytest.mark.parametrize("leaf", [httpx.ReadError, httpx.ReadTimeout, httpx.ProxyError], ids=named)
def test_clean_evidence_is_not_believed_when_the_name_says_otherwise(leaf: type[Exception]):
    assert isinstance(judge_exception(raised(leaf), NOTHING_LEFT), Unanswered)


class Unheard(httpx.ConnectError):
    """A leaf httpx might grow: kin to a harmless one, and yet not judged."""


@pytest.mark.parametrize("error", [Unheard("?"), RuntimeError("?"), OSError(), KeyError("?")])
@pytest.mark.parametrize("evidence", [NOTHING_LEFT, IT_LEFT])
def test_an_unknown_exception_is_unanswered(error: Exception, evidence: WireEvidence):
    assert isinstance(judge_exception(error, evidence), Unanswered)


# Answers


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_success_that_names_the_call_is_placed(status: int):
    said = {"status": "Call initiated", "call_sid": SID}
    assert answered(status, said) == Placed(SID, IT_LEFT)


@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("body", [b"", b"done", b'{"status": "Call initiated"}'])
def test_a_success_without_a_sid_is_unanswered(status: int, body: bytes):
    assert isinstance(answered(status, body), Unanswered)


@pytest.mark.parametrize("status", [300, 301, 307, 308, 408, 409, 500, 501, 502, 503, 504, 599])
def test_a_status_that_may_come_after_the_ring_is_unanswered(status: int):
    assert isinstance(answered(status, {"error": "?"}), Unanswered)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 415, 422, 451])
def test_a_client_error_is_refused_but_speaks_for_this_attempt_only(status: int):
    outcome = answered(status, {"detail": "No such number."})
    assert outcome == Refused(status, "No such number.", vouched=False, evidence=IT_LEFT)


def test_a_refusal_without_words_still_has_a_reason():
    assert answered(404) == Refused(404, "404 from the handler", evidence=IT_LEFT)


def test_too_early_is_not_sent():
    assert isinstance(answered(425), NotSent)


def test_too_many_requests_is_busy_with_or_without_a_time():
    assert answered(429) == Busy(None, "429 from the handler", IT_LEFT)
    assert answered(429, retry_after="7") == Busy(7.0, "429 from the handler", IT_LEFT)


def test_unavailable_is_busy_only_if_it_says_when_to_come_back():
    assert answered(503, retry_after="7") == Busy(7.0, "503 from the handler", IT_LEFT)
    assert isinstance(answered(503), Unanswered)
    assert isinstance(answered(503, retry_after="soon"), Unanswered)


@pytest.mark.parametrize("status", [400, 409, 422, 500, 502, 503])
def test_a_problem_that_says_unknown_is_unanswered_whatever_its_status(status: int):
    outcome = problem(status, {"detail": "It broke.", "call_placed": "unknown"}, retry_after="1")
    assert outcome == Unanswered("It broke.", IT_LEFT)


def test_a_problem_that_says_yes_and_names_the_call_is_placed():
    assert problem(500, {"call_placed": "yes", "call_sid": SID}) == Placed(SID, IT_LEFT)


@pytest.mark.parametrize("sid", [None, "", 7, "\x00"])
def test_a_problem_that_says_yes_without_a_name_is_unanswered(sid: Any):
    assert isinstance(problem(422, {"call_placed": "yes", "call_sid": sid}), Unanswered)


def test_a_problem_that_says_no_vouches_for_earlier_attempts_too():
    outcome = problem(422, {"detail": "Never.", "call_placed": "no", "retryable": False})
    assert outcome == Refused(422, "Never.", vouched=True, evidence=IT_LEFT)


@pytest.mark.parametrize(
    ("status", "members", "kind"),
    [
        (500, {}, NotSent),
        (500, {"retryable": True}, NotSent),
        (500, {"retryable": False}, Refused),
        (422, {}, Refused),
        (422, {"retryable": True}, NotSent),
        (422, {"retryable": "true"}, Refused),
        (429, {"retryable": True}, Busy),
    ],
)
def test_a_problem_that_says_no_is_tried_again_as_it_says(
    status: int, members: dict[str, Any], kind: type[Outcome]
):
    assert isinstance(problem(status, {"call_placed": "no", **members}), kind)


def test_a_problem_that_does_not_say_is_judged_by_its_status():
    for silent in ({}, {"call_placed": None}):
        assert isinstance(problem(500, silent), Unanswered)
        assert isinstance(problem(404, silent), Refused)


@pytest.mark.parametrize("placed", ["", "NO", "Yes", "maybe", True, False, 0, ["no"], {"no": 1}])
def test_a_problem_that_says_what_nobody_understands_is_unanswered(placed: Any):
    assert isinstance(problem(404, {"call_placed": placed}), Unanswered)


@pytest.mark.parametrize("status", [404, 422, 429, 500, 503])
def test_an_answer_that_names_a_call_is_never_taken_for_a_no(status: int):
    assert isinstance(answered(status, {"call_sid": SID}), Unanswered)
    assert isinstance(problem(status, {"call_placed": "no", "call_sid": SID}), Unanswered)


def test_members_of_a_problem_count_only_in_a_problem():
    assert isinstance(answered(500, {"call_placed": "no"}), Unanswered)


# Hostile answers


@pytest.mark.parametrize("body", HOSTILE_BODIES, ids=lambda body: repr(body[:20]))
def test_a_hostile_body_never_names_a_call(body: bytes):
    assert isinstance(answered(200, body), Unanswered)
    assert isinstance(problem(500, body), Unanswered)
    assert isinstance(answered(422, body), Refused)


@pytest.mark.parametrize("sid", HOSTILE_SIDS, ids=lambda sid: repr(sid)[:20])
def test_a_hostile_sid_names_no_call(sid: Any):
    assert isinstance(answered(200, {"call_sid": sid}), Unanswered)


def test_the_longest_sid_still_names_a_call():
    assert isinstance(answered(200, {"call_sid": "C" * SID_MAX}), Placed)


@pytest.mark.parametrize("reason", ["\ud800", "\x1b[2J\x00", "x" * 100_000, "\u202e"])
def test_a_hostile_reason_can_be_written_down_and_read(reason: str):
    outcome = answered(422, {"detail": reason})
    assert isinstance(outcome, Refused)
    assert outcome.reason.encode()
    assert outcome.reason.isprintable()
    assert len(outcome.reason) <= EXCERPT_MAX


def test_an_excerpt_is_short_and_printable():
    told = excerpt(b"\x1b[31m\xff\x00" + b"A" * 100_000)
    assert told.isprintable()
    assert len(told) == EXCERPT_MAX


# Retry-After (RFC 9110, 10.2.3)


def retry_after(value: str) -> float | None:
    outcome = answered(429, retry_after=value)
    assert isinstance(outcome, Busy)
    return outcome.retry_after_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 3 ", 3.0),
        ("99999999999999", RETRY_AFTER_MAX_S),
        ("9" * 5_000, RETRY_AFTER_MAX_S),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX_S),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_within_a_day(value: str, seconds: float):
    assert retry_after(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-5",
        "+3",
        "3.5",
        "²",
        "٣",
        "0x10",
        "1e9",
        "Fri, 31 Dec 2027",
        "Fri, 31 Dec 2027 23:59:59 -0000",
        "Fri, 31 Dec 2027 23:59:59 +99999999999999999999",
        "Fri, 99999999999999999999 Dec 2027 23:59:59 GMT",
        "Fri, 31 Dec 2027 99:99:99 GMT",
    ],
)
def test_a_retry_after_that_cannot_be_read_is_none(value: str):
    assert retry_after(value) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
SAID = st.dictionaries(
    st.sampled_from(["call_sid", "detail", "title", "status", "call_placed", "retryable"]),
    JSON_VALUES | st.sampled_from(["yes", "no", "unknown", "refused", "placed"]),
)


@given(
    status=st.integers(200, 599),
    body=st.binary() | SAID.map(lambda said: json.dumps(said).encode()),
    after=st.text() | st.just("Fri, 31 Dec 2027 23:59:59 +9999"),
    kind=st.sampled_from(["application/json", "application/problem+json", "text/html"]),
)
@example(422, b'{"detail": "\\ud800"}', "", "application/json")
def test_no_answer_whatever_breaks_the_judging(status: int, body: bytes, after: str, kind: str):
    headers = {"content-type": kind, "retry-after": after}
    outcome = judge_answer(status, headers, body, IT_LEFT, NOW)
    match outcome:
        case Placed(sid):
            assert sid.isprintable()
        case Busy(wait_s):
            assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S
        case Refused(_, reason) | NotSent(reason) | Unanswered(reason):
            assert reason.encode()


# Lookups


def looked_up(status: int, body: Any) -> Finding:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge_lookup(status, content, Lookup())


def test_a_lookup_that_names_the_call_knows_it():
    assert looked_up(200, {"call_sid": SID}) == Known((SID,))


def test_a_lookup_that_never_saw_the_order_knows_that_no_call_belongs_to_it():
    assert looked_up(404, b"whatever") == Known(())


def test_a_lookup_may_say_that_the_order_was_refused():
    said = {"call_sid": None, "status": "refused", "detail": "Blocked.\x00"}
    finding = looked_up(200, said)
    assert isinstance(finding, KnownRefused)
    assert finding.reason.encode().startswith(b"Blocked.")


@pytest.mark.parametrize("status", [201, 204, 301, 400, 401, 403, 410, 429, 500, 502, 503])
def test_a_lookup_of_another_status_cannot_tell(status: int):
    assert isinstance(looked_up(status, {"call_sid": SID}), CannotTell)


@pytest.mark.parametrize("body", HOSTILE_BODIES, ids=lambda body: repr(body[:20]))
def test_a_hostile_lookup_cannot_tell(body: bytes):
    assert isinstance(looked_up(200, body), CannotTell)


@pytest.mark.parametrize("sid", HOSTILE_SIDS, ids=lambda sid: repr(sid)[:20])
def test_a_hostile_sid_in_a_lookup_cannot_tell(sid: Any):
    assert isinstance(looked_up(200, {"call_sid": sid}), CannotTell)


def test_an_order_that_is_still_at_work_cannot_be_told():
    said = {"call_sid": None, "status": "in-progress"}
    assert isinstance(looked_up(200, said), CannotTell)


def test_a_refusal_that_carries_a_call_cannot_be_told():
    said = {"call_sid": "C" * 1_000, "status": "refused"}
    assert isinstance(looked_up(200, said), CannotTell)
