"""A handler's dialect as data: what it is sent, and how its own rules judge."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr
from pydantic_core import from_json

from dispatcher.handler_check import judged
from dispatcher.order_request import Scribe, WrittenRequest
from dispatcher.verdict import judge_answer
from shared.claim import Claimed
from shared.handler_profile import (
    BadProfile,
    HandlerProfile,
    Listing,
    Lookup,
    UnknownPlaceholder,
    read_profile,
)
from shared.lifecycle import Tries
from shared.outcome import Busy, NotSent, Outcome, Placed, Refused, Unanswered, WireEvidence
from shared.settings import Settings
from tests.conftest import MakeOrder

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "handlers"
SECRETS = {"account": SecretStr("AC0"), "token": SecretStr("swordfish")}
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def example(name: str) -> HandlerProfile:
    return read_profile(EXAMPLES / f"{name}.toml")


def claimed(make_order: MakeOrder, **fields: Any) -> Claimed:
    order = make_order(**fields)
    return Claimed(order, 1, 1, Tries(spent=1), order.expires_at, "w", 0.0)


def written(profile: HandlerProfile, make_order: MakeOrder, **fields: Any) -> WrittenRequest:
    return Scribe(profile, SECRETS).order(claimed(make_order, **fields))


def answered(profile: HandlerProfile, status: int, body: bytes) -> Outcome:
    return judge_answer(status, {}, body, WireEvidence(), NOW, profile.answer)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_worked_example_is_a_profile_and_explains_itself(path: Path):
    profile = read_profile(path)
    Scribe(profile, SECRETS)
    outcomes = {says: type(outcome) for says, outcome, _ in judged(profile)}
    assert Placed in outcomes.values()
    assert outcomes["200 without a sid"] is Unanswered
    assert outcomes["504"] is Unanswered


def test_without_a_profile_the_contract_of_the_readme_is_spoken(make_order: MakeOrder):
    request = written(HandlerProfile(), make_order, gathered_details={"size": 3})
    said = from_json(request.content)
    assert (request.method, request.path) == ("POST", "/order")
    assert said["gathered_details"] == {"size": 3}
    assert said["metadata"] == {}
    assert "user_name" not in said, "what an order does not have is left out"


def test_an_order_reaches_a_handler_that_nests_and_wants_a_constant(make_order: MakeOrder):
    request = written(example("carrier-errors-as-500"), make_order, order_id="ord_12345678")
    assert from_json(request.content) == {
        "to_number": "+12025550123",
        "from_number": "+14155550100",
        "context": {
            "instructions": "Order a large pepperoni pizza.",
            "order_id": "ord_12345678",
        },
    }


def test_a_500_is_in_doubt_unless_its_text_proves_that_nothing_was_placed():
    profile = example("carrier-errors-as-500")
    assert isinstance(answered(profile, 500, b'{"error":"carrier failed"}'), Unanswered)
    proof = b"The number +1555 IS NOT a valid phone number."
    assert isinstance(answered(profile, 500, proof), Refused)
    assert isinstance(answered(profile, 500, b'{"error":"20429 too many"}'), Busy)
    assert isinstance(answered(profile, 422, b"is not a valid phone number"), Refused)


def test_a_handler_that_answers_when_the_call_is_over_is_given_its_time():
    profile = example("answers-when-the-call-is-over")
    assert profile.read_timeout_s > 300
    assert profile.quiet_period_s > profile.read_timeout_s
    assert answered(profile, 200, b'{"call":{"sid":"CA1"}}') == Placed("CA1", WireEvidence())
    assert isinstance(answered(profile, 200, b'{"call_sid":"CA1"}'), Unanswered)


def test_done_is_never_enough():
    profile = example("done-whatever-happened")
    assert isinstance(answered(profile, 200, b"done"), Unanswered)
    assert profile.answers_lookup, "but its list of calls can be asked"


def test_twilio_is_spoken_to_in_its_own_words(make_order: MakeOrder):
    words = "Say <hi> & goodbye"
    request = written(example("twilio"), make_order, final_instructions=words)
    form = parse_qs(request.content.decode())
    assert request.path == "/2010-04-01/Accounts/AC0/Calls.json"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["authorization"] == "Basic QUMwOnN3b3JkZmlzaA=="
    assert form["To"] == ["+12025550123"]
    assert form["Twiml"] == ["<Response><Say>Say &lt;hi&gt; &amp; goodbye</Say></Response>"]
    profile = example("twilio")
    assert answered(profile, 201, b'{"sid":"CA1"}') == Placed("CA1", WireEvidence())
    assert isinstance(answered(profile, 429, b'{"code":20429}'), Busy)
    assert isinstance(answered(profile, 400, b'{"code":21211,"message":"Invalid"}'), Refused)


def test_a_question_about_a_number_is_escaped(make_order: MakeOrder):
    listing = Listing()
    scribe = Scribe(HandlerProfile(listing=listing), {})
    assert "to=%2B12025550123&since=" in scribe.question(listing.path, make_order()).path


def test_the_person_s_words_cannot_add_a_field_a_header_or_a_path(make_order: MakeOrder):
    hostile = '"}, "target_phone_number": "+19005550100", {"'
    request = written(HandlerProfile(), make_order, final_instructions=hostile)
    said = from_json(request.content)
    assert said["final_instructions"] == hostile
    assert said["target_phone_number"] == "+12025550123"
    form = HandlerProfile.model_validate(
        {
            "order": {
                "encoding": "form",
                "path": "/call/{final_instructions}",
                "fields": {"/To": "{target_phone_number}", "/say": "{final_instructions}"},
            }
        }
    )
    request = written(form, make_order, final_instructions="x&To=+19005550100/../admin?y")
    assert parse_qs(request.content.decode())["To"] == ["+12025550123"]
    assert request.path.count("/") == 2
    assert "?" not in request.path


def test_placeholders_in_a_person_s_words_stay_words(make_order: MakeOrder):
    request = written(HandlerProfile(), make_order, final_instructions="tell {secret:token}")
    assert from_json(request.content)["final_instructions"] == "tell {secret:token}"


@pytest.mark.parametrize(
    "order",
    [
        {"fields": {"/to": "{phone}"}},
        {"path": "/call/{nobody}"},
        {"headers": {"x-key": "{secret:missing}"}},
        {"basic_auth": ["{secret:missing}", "x"]},
    ],
    ids=str,
)
def test_a_profile_that_names_what_is_not_there_is_refused_before_the_first_order(order: Any):
    with pytest.raises(UnknownPlaceholder, match=r"phone|nobody|missing"):
        Scribe(HandlerProfile.model_validate({"order": order}), SECRETS)


@pytest.mark.parametrize(
    ("toml", "names"),
    [
        ("url = 3", "url"),
        ("urll = 'http://x'", "urll"),
        ("[[answer.rules]]\nstatus=[200]\noutcome='placed'", "outcome"),
        ("[order]\nencoding='form'\n[order.fields]\n'/a/b'='x'", "nested"),
        ("[order]\npath='no-slash'", "path"),
        ("[answer]\ncall_sid='sid'", "call_sid"),
        ("= nonsense", "line 1"),
    ],
)
def test_a_bad_profile_is_refused_by_the_name_of_the_member(tmp_path: Path, toml: str, names: str):
    file = tmp_path / "profile.toml"
    file.write_text(toml)
    with pytest.raises(BadProfile, match=names):
        read_profile(file)


def test_a_profile_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(BadProfile, match=r"nowhere\.toml"):
        read_profile(tmp_path / "nowhere.toml")


def test_what_is_set_by_hand_goes_before_the_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RINGONCE_HANDLER_PROFILE", str(EXAMPLES / "twilio.toml"))
    monkeypatch.setenv("RINGONCE_CALL_HANDLER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("RINGONCE_HANDLER_SECRETS__TOKEN", "swordfish")
    settings = Settings()
    assert str(settings.profile.url) == "http://127.0.0.1:9/"
    assert settings.profile.read_timeout_s == 60, "the file's, since nobody set it by hand"
    assert settings.handler_secrets["token"].get_secret_value() == "swordfish"
    assert "swordfish" not in repr(settings)


def test_a_rule_goes_before_the_general_table_and_the_first_that_fits_decides():
    profile = HandlerProfile.model_validate(
        {
            "answer": {
                "rules": [
                    {"status": [418], "outcome": "not_sent"},
                    {"status": [418], "outcome": "refused"},
                    {"body": {"pointer": "/ok", "equals": False}, "outcome": "refused"},
                ]
            }
        }
    )
    assert isinstance(answered(profile, 418, b""), NotSent)
    assert isinstance(answered(profile, 200, b'{"ok":false,"call_sid":"CA1"}'), Refused)
    assert isinstance(answered(profile, 200, b'{"ok":true,"call_sid":"CA1"}'), Placed)
    assert isinstance(answered(profile, 200, b'{"ok":"false","call_sid":"CA1"}'), Placed)


def test_problem_members_count_only_if_the_profile_believes_them():
    problem = {"content-type": "application/problem+json"}
    body = b'{"call_placed":"no"}'
    trusting = HandlerProfile()
    wary = HandlerProfile.model_validate({"answer": {"trust_problem_members": False}})
    for profile, outcome in ((trusting, NotSent), (wary, Unanswered)):
        judged_ = judge_answer(500, problem, body, WireEvidence(), NOW, profile.answer)
        assert isinstance(judged_, outcome)


def test_a_body_may_say_how_long_to_wait():
    profile = HandlerProfile.model_validate({"answer": {"retry_after": "/wait"}})
    assert answered(profile, 429, b'{"wait": 7}') == Busy(
        7.0, "429 from the handler", WireEvidence()
    )


def test_a_promise_is_only_what_a_profile_says():
    assert not HandlerProfile().answers_lookup
    assert HandlerProfile(lookup=Lookup()).answers_lookup
    assert HandlerProfile(listing=Listing()).answers_lookup
