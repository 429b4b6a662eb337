"""What the rules understand of what people say."""

import time

import pytest

from orchestrator.analyst import Analysis, RuleAnalyst, Told
from orchestrator.words import asks_how_it_stands, says_no, says_stop, says_yes
from shared.order import DETAIL_MAX


async def understand(*said: str, user_name: str | None = None) -> Analysis:
    """Hear a task and the answers to whatever is missing, one after the other."""
    analyst = RuleAnalyst("US")
    heard = await analyst.analyze(Told(said[:1], user_name=user_name))
    for end in range(2, len(said) + 1):
        heard = await analyst.analyze(
            Told(
                said[:end],
                asked=heard.missing_details,
                gathered=heard.gathered_details,
                number=heard.target_phone_number,
                user_name=user_name,
            )
        )
    return heard


async def test_a_complete_pizza_order_asks_nothing():
    heard = await understand("Order a large pepperoni pizza from Luigi's at +1 202 555 0123")
    assert heard.missing_details == ()
    assert heard.question == ""
    assert heard.target_phone_number == "+12025550123"
    assert heard.gathered_details == {"items": "a large pepperoni pizza", "whom": "Luigi's"}
    assert "a large pepperoni pizza" in heard.final_instructions
    assert "+1" not in heard.final_instructions


async def test_a_table_needs_a_name_and_takes_the_known_one():
    wish = "Book a table for four at Chez Nous tomorrow at 19:30, (202) 555-0123"
    unknown = await understand(wish)
    assert unknown.missing_details == ("name",)
    known = await understand(wish, user_name="Alice Stone")
    assert known.missing_details == ()
    assert known.gathered_details == {
        "party_size": "four",
        "whom": "Chez Nous",
        "date": "tomorrow",
        "time": "19:30",
        "name": "Alice Stone",
    }


async def test_an_appointment_is_understood_in_one_sentence():
    heard = await understand(
        "Make an appointment for a haircut at Salon Rita on Friday at 3 pm in the name of Bob "
        "Stone, +1 415 555 0100"
    )
    assert heard.missing_details == ()
    assert heard.gathered_details == {
        "occasion": "a haircut",
        "whom": "Salon Rita",
        "date": "Friday",
        "time": "3 pm",
        "name": "Bob Stone",
    }


async def test_call_my_dentist_asks_for_the_number_and_what_to_say():
    heard = await understand("call my dentist")
    assert heard.missing_details == ("target_phone_number", "message")
    assert "target_phone_number" in heard.question
    assert "message" in heard.question


async def test_everything_missing_may_be_answered_in_one_turn_by_name():
    heard = await understand(
        "call my dentist", "number: (202) 555-0123\nmessage: I will be ten minutes late"
    )
    assert heard.missing_details == ()
    assert heard.gathered_details["message"] == "I will be ten minutes late"


async def test_an_answer_without_a_name_goes_to_what_was_asked_first():
    heard = await understand("call my dentist", "I am going to be late", "+1 202 555 0123")
    assert heard.missing_details == ()
    assert heard.gathered_details["message"] == "I am going to be late"
    assert "note" not in heard.gathered_details


async def test_a_bare_answer_that_cannot_be_the_detail_is_asked_for_again():
    wish = "Book a table at Chez Nous tomorrow at 19:30, (202) 555-0123"
    heard = await understand(wish, "as usual", user_name="Alice")
    assert heard.missing_details == ("party_size",)
    heard = await understand(wish, "as usual", "we are 5", user_name="Alice")
    assert heard.missing_details == ()


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        ("911", "emergency or short number"),
        ("112", "emergency or short number"),
        ("12345", "short number"),
        ("+1 555 123 4567", "not a number in use"),
        ("+1 900 555 0123", "never called"),
        ("+999 123 456 789", "no country code that exists"),
    ],
)
async def test_a_number_that_cannot_be_called_is_asked_for_again_with_the_rule(number, rule):
    heard = await understand(f"Order soup from Luigi's, call {number}")
    assert heard.target_phone_number is None
    assert heard.missing_details == ("target_phone_number",)
    assert rule in heard.question


async def test_a_named_number_that_is_none_is_answered_with_the_form_it_must_have():
    heard = await understand("Order soup", "number: my usual place")
    assert heard.missing_details == ("target_phone_number",)
    assert "not a phone number" in heard.question


async def test_a_time_is_not_taken_for_a_number():
    heard = await understand("Book a table for 4 at Chez Nous on 2031-12-24 at 19:30")
    assert heard.question.count("what you gave") == 0
    assert heard.gathered_details["date"] == "2031-12-24"


async def test_a_correction_replaces_what_it_names_and_is_otherwise_kept_word_for_word():
    wish = "Order a large pizza from Luigi's at +1 202 555 0123"
    heard = await understand(wish, "make it a small one", "and no olives")
    assert heard.gathered_details["note"] == "make it a small one; and no olives"
    assert "make it a small one; and no olives" in heard.final_instructions
    heard = await understand(wish, "items: a small pizza")
    assert heard.gathered_details["items"] == "a small pizza"
    heard = await understand(wish, "no, the number is +1 415 555 0100")
    assert heard.target_phone_number == "+14155550100"
    assert "note" not in heard.gathered_details


async def test_a_correction_to_a_bad_number_does_not_leave_the_old_one_standing():
    heard = await understand("Order soup at +1 202 555 0123", "no, call 911")
    assert heard.target_phone_number is None
    assert heard.missing_details == ("target_phone_number",)


async def test_a_detail_that_is_too_long_is_asked_for_again_with_the_rule():
    heard = await understand("call +1 202 555 0123", "x" * (DETAIL_MAX + 1))
    assert heard.missing_details == ("message",)
    assert f"at most {DETAIL_MAX} characters" in heard.question


async def test_the_voice_agent_says_first_that_it_is_an_ai_and_for_whom():
    wish = "Order a pizza at +1 202 555 0123"
    named = await understand(wish, user_name="Alice")
    assert named.final_instructions.startswith(
        "Begin by saying that you are an AI assistant calling on behalf of Alice."
    )
    assert "an AI assistant" in (await understand(wish)).final_instructions


@pytest.mark.parametrize(
    "noise",
    [
        "",
        " ",
        "?",
        "order",
        "🍕" * 50,
        "9" * 10_000,
        " " * 10_000,
        "order " * 1_600,
        "1(" * 5_000,
        "call " * 2_000,
        "+" * 10_000,
        "tomorrow at " * 800,
        "order" + " " * 9_000 + "x",
        "a: b\n" * 2_000,
        "from A of " * 1_000,
        "\n" * 10_000,
        "at," * 3_000 + " +1 202 555 0123",
    ],
)
async def test_no_text_however_odd_takes_long_or_breaks_it(noise):
    began = time.process_time()
    await understand(noise, noise)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "text", ["yes", "Y", "Yes, please!", "ok", "go ahead", "ja", "Sure, do it.", "that's right"]
)
def test_yes_is_understood(text):
    assert says_yes(text)
    assert not says_no(text)


@pytest.mark.parametrize(
    "text", ["no", "N", "No, thanks.", "cancel", "stop it", "don't", "ok, cancel the order", "nein"]
)
def test_no_is_understood(text):
    assert says_no(text)
    assert not says_yes(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes, but make it small",
        "no, make it two",
        "yes no",
        "please",
        "it",
        "yes " * 30,
        "yes " * 30 + "but not now",
        "cancel my subscription",
        "not yes",
    ],
)
def test_anything_more_than_a_yes_is_not_a_yes(text):
    assert not says_yes(text)
    assert not says_stop(text)


def test_a_bare_no_answers_a_question_but_stop_takes_the_task_back():
    assert says_stop("please stop")
    assert says_stop("never mind")
    assert not says_stop("no")


@pytest.mark.parametrize("text", ["how is it?", "status", "Any news?", "did it ring?", "?", ""])
def test_asking_how_it_stands_is_understood(text):
    assert asks_how_it_stands(text)


@pytest.mark.parametrize("text", ["order a pizza", "is Luigi's open? call them", "newspaper"])
def test_a_new_task_is_not_taken_for_asking(text):
    assert not asks_how_it_stands(text)
