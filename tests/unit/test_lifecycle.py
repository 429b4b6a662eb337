"""What to make of an outcome is pure: whatever may come, these hold."""

from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.finding import CannotTell, Finding, Known, KnownRefused, SendAgain
from shared.handler_profile import HandlerProfile, Lookup
from shared.lifecycle import (
    ENDED,
    MOVES,
    NEEDS_A_PERSON,
    WAITING,
    Decision,
    OrderState,
    Policy,
    Tries,
    decide,
    decide_doubt,
    decide_lost_lease,
    decide_overdue,
)
from shared.outcome import Busy, NotSent, Outcome, Placed, Refused, Unanswered

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

S = OrderState

seconds = st.floats(0.01, 600)
policies = st.builds(
    Policy,
    max_attempts=st.integers(1, 50),
    backoff_base_s=seconds,
    backoff_cap_s=seconds,
    busy_default_s=seconds,
    max_deaths=st.integers(1, 5),
)
handlers = st.builds(
    HandlerProfile,
    honours_idempotency_key=st.booleans(),
    lookup=st.sampled_from([None, Lookup()]),
    quiet_period_s=seconds,
)
bare_handlers = st.builds(HandlerProfile, quiet_period_s=seconds)
counts = st.integers(0, 60)
tries = st.builds(Tries, spent=counts, unanswered=counts, deaths=counts)
jitters = st.floats(0, 1, exclude_max=True)
placed = st.builds(Placed, st.just("CA1"))
refused = st.builds(Refused, st.integers(400, 499), st.text(), vouched=st.booleans())
busy = st.builds(Busy, st.none() | st.floats(0, 86_400), st.text())
not_sent = st.builds(NotSent, st.text())
unanswered = st.builds(Unanswered, st.text())
outcomes = st.one_of(placed, refused, busy, not_sent, unanswered)
findings = st.one_of(
    st.builds(Known, st.lists(st.text(min_size=1), max_size=3).map(tuple)),
    st.builds(KnownRefused, st.text()),
    st.builds(SendAgain),
    st.builds(CannotTell, st.text()),
)
any_outcome = given(outcome=outcomes, t=tries, policy=policies, handler=handlers, jitter=jitters)
any_finding = given(finding=findings, t=tries, policy=policies, handler=handlers, jitter=jitters)


@given(policies, st.integers(1, 10_000), jitters)
def test_the_backoff_is_full_jitter_and_never_longer_than_its_cap(
    policy: Policy, attempt: int, jitter: float
):
    longest = min(policy.backoff_cap_s, policy.backoff_base_s * 2.0 ** min(attempt - 1, 100))
    assert 0 <= policy.backoff_s(attempt, jitter) <= longest
    assert policy.backoff_s(attempt, 0) == 0


@given(policies, st.integers(1, 100), jitters)
def test_the_backoff_never_grows_shorter(policy: Policy, attempt: int, jitter: float):
    assert policy.backoff_s(attempt, jitter) <= policy.backoff_s(attempt + 1, jitter)


def test_the_first_waits_double_until_the_cap():
    policy = Policy(backoff_base_s=1, backoff_cap_s=5)
    assert [policy.backoff_s(attempt, 0.5) for attempt in (1, 2, 3, 4)] == [0.5, 1, 2, 2.5]


@any_outcome
def test_every_decision_on_an_outcome_is_a_legal_move(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    assert decide(outcome, t, policy, handler, jitter).to in MOVES[S.SENDING]


@any_finding
def test_every_decision_on_a_doubt_is_a_legal_move_or_stays(
    finding: Finding, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    to = decide_doubt(finding, t, policy, handler, jitter).to
    assert to is S.IN_DOUBT or to in MOVES[S.IN_DOUBT]


@any_outcome
def test_the_same_arguments_make_the_same_decision(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    first = decide(outcome, t, policy, handler, jitter)
    assert decide(outcome, t, policy, handler, jitter) == first


@given(busy, tries, policies, handlers, jitters)
def test_a_busy_handler_never_costs_an_attempt(
    outcome: Busy, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide(outcome, t, policy, handler, jitter)
    asked = policy.busy_default_s if outcome.retry_after_s is None else outcome.retry_after_s
    assert decision.to is S.RETRYABLE
    assert not decision.spends_attempt
    assert decision.wait_s is not None
    assert asked <= decision.wait_s <= asked + policy.busy_default_s


@given(st.one_of(placed, refused, not_sent, unanswered), tries, policies, handlers, jitters)
def test_every_other_outcome_costs_one(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    assert decide(outcome, t, policy, handler, jitter).spends_attempt


@given(unanswered, tries, policies, handlers, jitters)
def test_an_unanswered_attempt_is_in_doubt_and_nothing_else(
    outcome: Unanswered, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    assert decide(outcome, t, policy, handler, jitter).to is S.IN_DOUBT


@given(outcomes, tries, policies, bare_handlers, jitters)
def test_a_handler_that_promises_nothing_leaves_every_doubt_to_a_person(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    for decision in (
        decide(outcome, t, policy, handler, jitter),
        decide_doubt(CannotTell("cannot be asked"), t, policy, handler, jitter),
        decide_lost_lease(policy, handler),
        decide_overdue(handler),
    ):
        assert decision.to is not S.IN_DOUBT or decision.wait_s is None


@given(policies, handlers)
def test_a_lost_lease_is_in_doubt_and_asked_about_if_the_handler_lets_us(
    policy: Policy, handler: HandlerProfile
):
    decision = decide_lost_lease(policy, handler)
    assert (decision.to, decision.rule) == (S.IN_DOUBT, "lease_ran_out")
    if handler.answers_lookup:
        assert decision.wait_s == handler.quiet_period_s
    elif handler.honours_idempotency_key:
        assert decision.wait_s == policy.backoff_base_s
    else:
        assert decision.wait_s is None


@given(handlers)
def test_what_may_not_ring_any_more_is_never_sent_to_find_out(handler: HandlerProfile):
    decision = decide_overdue(handler)
    assert decision.to is S.IN_DOUBT
    assert decision.wait_s == (handler.quiet_period_s if handler.answers_lookup else None)


@given(outcomes, tries, policies, handlers, jitters)
def test_a_lookup_is_never_believed_before_the_quiet_period(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide(outcome, t, policy, handler, jitter)
    if decision.to is S.IN_DOUBT and handler.answers_lookup:
        assert decision.wait_s == handler.quiet_period_s


@any_outcome
def test_a_refusal_after_an_unanswered_attempt_proves_nothing_about_it(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide(outcome, t, policy, handler, jitter)
    if decision.to is S.REFUSED:
        assert isinstance(outcome, Refused)
        assert not t.unanswered or (outcome.vouched and handler.honours_idempotency_key)
    elif isinstance(outcome, Refused):
        assert t.unanswered
        assert decision.to is S.IN_DOUBT


@any_outcome
def test_no_order_dies_of_its_outcomes_while_an_attempt_is_unanswered(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide(outcome, t, policy, handler, jitter)
    if decision.to is S.DEAD:
        assert t.unanswered == 0
        assert t.spent >= policy.max_attempts


@any_finding
def test_no_order_dies_in_doubt_but_of_killing_its_workers(
    finding: Finding, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide_doubt(finding, t, policy, handler, jitter)
    if decision.to is S.DEAD and not decision.clears_doubt and t.unanswered:
        assert decision.rule == "poison"
        assert t.deaths >= policy.max_deaths


@any_finding
def test_a_doubt_is_cleared_only_by_the_handlers_own_word(
    finding: Finding, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide_doubt(finding, t, policy, handler, jitter)
    if decision.clears_doubt:
        assert isinstance(finding, KnownRefused) or finding == Known(())
    if isinstance(finding, CannotTell):
        assert decision.to is S.IN_DOUBT


@any_finding
def test_what_killed_its_workers_is_never_sent_again(
    finding: Finding, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide_doubt(finding, t, policy, handler, jitter)
    assert decision.to is not S.RETRYABLE or t.deaths < policy.max_deaths


@any_outcome
def test_what_is_tried_again_says_when(
    outcome: Outcome, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide(outcome, t, policy, handler, jitter)
    if decision.to is S.RETRYABLE:
        assert decision.wait_s is not None
        assert decision.wait_s >= 0


@given(placed, tries, policies, handlers, jitters)
def test_a_named_call_is_placed_whatever_went_before(
    outcome: Placed, t: Tries, policy: Policy, handler: HandlerProfile, jitter: float
):
    decision = decide(outcome, t, policy, handler, jitter)
    assert (decision.to, decision.call_sid) == (S.PLACED, "CA1")


POLICY = Policy(max_attempts=3, max_deaths=2)
BARE = HandlerProfile()
KEYED = HandlerProfile(honours_idempotency_key=True)
ASKED = HandlerProfile(lookup=Lookup(), quiet_period_s=120)
VOUCHED = Refused(400, "no", vouched=True)
FIRST, LAST = Tries(spent=1), Tries(spent=3)
AFTER_UNANSWERED = Tries(spent=2, unanswered=1)
LAST_AFTER_UNANSWERED = Tries(spent=3, unanswered=1)

OUTCOMES: list[tuple[Outcome, Tries, HandlerProfile, OrderState, str]] = [
    (Placed("CA1"), FIRST, BARE, S.PLACED, "placed"),
    (Refused(400, "no"), FIRST, BARE, S.REFUSED, "refused"),
    (Refused(400, "no"), AFTER_UNANSWERED, BARE, S.IN_DOUBT, "refused_after_unanswered"),
    (Refused(400, "no"), AFTER_UNANSWERED, KEYED, S.IN_DOUBT, "refused_after_unanswered"),
    (VOUCHED, AFTER_UNANSWERED, KEYED, S.REFUSED, "refused"),
    (VOUCHED, AFTER_UNANSWERED, BARE, S.IN_DOUBT, "refused_after_unanswered"),
    (Busy(None, "429"), LAST, BARE, S.RETRYABLE, "busy"),
    (NotSent("ConnectError"), FIRST, BARE, S.RETRYABLE, "not_sent"),
    (NotSent("ConnectError"), LAST, BARE, S.DEAD, "none_left"),
    (NotSent("425"), LAST_AFTER_UNANSWERED, KEYED, S.IN_DOUBT, "none_left_after_unanswered"),
    (Unanswered("ReadTimeout"), FIRST, BARE, S.IN_DOUBT, "unanswered"),
    (Unanswered("ReadTimeout"), LAST, KEYED, S.IN_DOUBT, "unanswered"),
]  # fmt: skip

FINDINGS: list[tuple[Finding, Tries, OrderState, str]] = [
    (Known(("CA1",)), Tries(spent=9, unanswered=1, deaths=9), S.PLACED, "found_placed"),
    (Known(()), AFTER_UNANSWERED, S.RETRYABLE, "found_unplaced"),
    (Known(()), LAST_AFTER_UNANSWERED, S.DEAD, "none_left"),
    (Known(()), Tries(spent=1, unanswered=1, deaths=2), S.DEAD, "poison"),
    (Known(("CA1", "CA2")), FIRST, S.IN_DOUBT, "found_several"),
    (KnownRefused("busy tone"), AFTER_UNANSWERED, S.REFUSED, "found_refused"),
    (SendAgain(), AFTER_UNANSWERED, S.RETRYABLE, "same_key_again"),
    (SendAgain(), Tries(spent=1, unanswered=1, deaths=2), S.DEAD, "poison"),
    (CannotTell("away"), AFTER_UNANSWERED, S.IN_DOUBT, "cannot_tell"),
]


@pytest.mark.parametrize(("outcome", "t", "handler", "to", "rule"), OUTCOMES)
def test_each_outcome_has_its_rule(
    outcome: Outcome, t: Tries, handler: HandlerProfile, to: OrderState, rule: str
):
    decision = decide(outcome, t, POLICY, handler, 0.5)
    assert (decision.to, decision.rule) == (to, rule)


@pytest.mark.parametrize(("finding", "t", "to", "rule"), FINDINGS)
def test_each_finding_has_its_rule(finding: Finding, t: Tries, to: OrderState, rule: str):
    decision = decide_doubt(finding, t, POLICY, ASKED, 0.5)
    assert (decision.to, decision.rule) == (to, rule)


def test_the_tables_leave_no_outcome_and_no_finding_out():
    assert {type(row[0]) for row in OUTCOMES} == set(get_args(Outcome))
    assert {type(row[0]) for row in FINDINGS} == set(get_args(Finding))


def test_what_is_no_outcome_is_never_judged():
    with pytest.raises(AssertionError):
        decide("placed", FIRST, POLICY, BARE, 0.5)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        decide_doubt("placed", FIRST, POLICY, BARE, 0.5)  # type: ignore[arg-type]


def test_the_last_unanswered_attempt_of_a_keyed_handler_waits_for_a_person():
    def wait(t: Tries) -> float | None:
        return decide(Unanswered("ReadTimeout"), t, POLICY, KEYED, 0.5).wait_s

    assert wait(FIRST) == POLICY.backoff_s(1, 0.5)
    assert wait(LAST) is None


def test_ended_states_have_no_moves_but_dead_which_a_person_may_requeue():
    assert {state for state, moves in MOVES.items() if not moves} == ENDED - {S.DEAD}
    assert MOVES[S.DEAD] == {S.QUEUED}


def test_every_state_is_in_the_table_and_can_be_reached_and_left_as_it_should():
    assert MOVES.keys() == set(S)
    assert frozenset().union(*MOVES.values()) == set(S)
    assert not WAITING & ENDED
    assert set(S) == WAITING | ENDED | {S.SENDING, S.IN_DOUBT}
    assert set(S) - WAITING - {S.SENDING} - NEEDS_A_PERSON == ENDED - {S.DEAD}


def test_only_what_waits_can_be_sent_and_only_what_waits_can_be_taken_back():
    assert {state for state, moves in MOVES.items() if S.SENDING in moves} == WAITING
    assert {state for state, moves in MOVES.items() if S.EXPIRED in moves} == WAITING
    # A wish to have it back that came too late to be sure is minded as soon as it is sure.
    open_ones = WAITING | {S.SENDING, S.IN_DOUBT}
    assert {state for state, moves in MOVES.items() if S.CANCELLED in moves} == open_ones


def test_a_decision_cannot_be_changed():
    with pytest.raises(AttributeError):
        Decision(S.PLACED, "placed", "").to = S.DEAD  # type: ignore[misc]
