"""An order is checked once, here; whatever holds one holds a valid one."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.order import CallOrder, complaints, mint_order_id, order_id_from

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
SECRET = "+12025550143"
ABSENT = object()


def wish(**fields: Any) -> dict[str, Any]:
    given = {
        "order_id": "ord_0123456789",
        "target_phone_number": "+12025550123",
        "final_instructions": "Order a large pepperoni pizza.",
        "gathered_details": {"size": "large", "pieces": 2, "price": 12.5, "vegan": False},
        "user_name": "Ada",
        "owner": "ada@example.com",
        "thread_id": "thread-1",
        "created_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
        "metadata": {"campaign": "friday"},
    } | fields
    return {name: value for name, value in given.items() if value is not ABSENT}


BAD_INPUT: dict[str, tuple[dict[str, Any], str, str]] = {
    # what is wrong with it: (the fields, the field that is named, the rule that is named)
    "not a number": ({"target_phone_number": "Luigi"}, "target_phone_number", "E.164"),
    "national form": ({"target_phone_number": "4155550142"}, "target_phone_number", "E.164"),
    "with separators": ({"target_phone_number": "+1 202 555 0123"}, "target_phone_number", "E.164"),
    "with an extension": (
        {"target_phone_number": "+12025550123;7"},
        "target_phone_number",
        "E.164",
    ),
    "foreign digits": ({"target_phone_number": "+١٢٠٢٥٥٥٠١٢٣"}, "target_phone_number", "E.164"),
    "no such country": ({"target_phone_number": "+9991234567"}, "target_phone_number", "country"),
    "US emergency": ({"target_phone_number": "+1911"}, "target_phone_number", "emergency"),
    "German emergency": ({"target_phone_number": "+49112"}, "target_phone_number", "emergency"),
    "British emergency": ({"target_phone_number": "+44999"}, "target_phone_number", "emergency"),
    "short code": ({"target_phone_number": "+122395"}, "target_phone_number", "short"),
    "too short": ({"target_phone_number": "+120255501"}, "target_phone_number", "not a number in"),
    "not in use": ({"target_phone_number": "+15555550123"}, "target_phone_number", "not a number"),
    "premium": ({"target_phone_number": "+19005550100"}, "target_phone_number", "premium-rate"),
    "shared cost": ({"target_phone_number": "+4918012345"}, "target_phone_number", "shared-cost"),
    "number missing": ({"target_phone_number": ABSENT}, "target_phone_number", "required"),
    "number as integer": ({"target_phone_number": 12025550123}, "target_phone_number", "string"),
    "no instructions": ({"final_instructions": ABSENT}, "final_instructions", "required"),
    "blank instructions": ({"final_instructions": " \n "}, "final_instructions", "at least 1"),
    "1 MB of instructions": ({"final_instructions": "x" * 2**20}, "final_instructions", "8000"),
    "a bell": ({"final_instructions": "ring\x07ring"}, "final_instructions", "U+0007"),
    "a null": ({"final_instructions": "ring\x00ring"}, "final_instructions", "U+0000"),
    "a C1 control": ({"final_instructions": "ring\x85ring"}, "final_instructions", "U+0085"),
    "a lone surrogate": ({"final_instructions": "ring\ud800"}, "final_instructions", "unicode"),
    "a control in the name": ({"user_name": "Ada\x1b[2J"}, "user_name", "U+001B"),
    "an endless name": ({"user_name": "a" * 101}, "user_name", "at most 100"),
    "too many details": (
        {"gathered_details": {f"detail {n}": "x" for n in range(51)}},
        "gathered_details",
        "at most 50",
    ),
    "an endless detail": (
        {"gathered_details": {"size": "x" * 1001}},
        "gathered_details.size",
        "at most 1000",
    ),
    "an endless detail of digits": (
        {"gathered_details": {"size": "0" * 1001}},
        "gathered_details.size",
        "at most 1000",
    ),
    "an infinite detail": (
        {"gathered_details": {"size": float("inf")}},
        "gathered_details.size",
        "finite",
    ),
    "a nested detail": (
        {"gathered_details": {"size": {"of": SECRET}}},
        "gathered_details",
        "string",
    ),
    "a nameless detail": ({"gathered_details": {"": "x"}}, "gathered_details", "at least 1"),
    "metadata that are no text": ({"metadata": {"n": 1}}, "metadata.n", "string"),
    "unknown field": ({"taget_phone_number": SECRET}, "taget_phone_number", "not a field"),
    "unknown version": ({"schema_version": 2}, "schema_version", "Input should be 1"),
    "an id with a space": ({"order_id": "ord 0123456789"}, "order_id", "pattern"),
    "an id with a line end": ({"order_id": "ord_0123456789\n\n/x"}, "order_id", "pattern"),
    "a short id": ({"order_id": "ord_1"}, "order_id", "pattern"),
    "an id that is a path": ({"order_id": "../../etc/passwd"}, "order_id", "pattern"),
    "an owner with a colon first": ({"owner": ":ada"}, "owner", "pattern"),
    "a time without a zone": ({"expires_at": datetime(2030, 1, 2)}, "expires_at", "timezone"),  # noqa: DTZ001
    "no time at all": ({"created_at": "soon"}, "created_at", "datetime"),
    "deadline at creation": ({"expires_at": NOW}, "order", "expires_at must be later"),
    "deadline before creation": (
        {"expires_at": NOW - timedelta(seconds=1)},
        "order",
        "expires_at must be later than created_at",
    ),
}


@pytest.mark.parametrize("fault", BAD_INPUT)
def test_bad_input_is_refused_by_field_and_rule_without_repeating_it(fault: str):
    fields, field, rule = BAD_INPUT[fault]
    with pytest.raises(ValidationError) as refused:
        CallOrder.model_validate(wish(**fields))

    told = complaints(refused.value)
    assert any(one["field"].startswith(field) and rule in one["rule"] for one in told), told
    for value in fields.values():
        if isinstance(value, str) and len(value.strip()) > 2:
            assert value.strip() not in json.dumps(told, ensure_ascii=False)
            assert value.strip() not in str(refused.value)
    assert SECRET not in json.dumps(told)
    assert SECRET not in str(refused.value)


def test_every_fault_is_named_at_once():
    with pytest.raises(ValidationError) as refused:
        CallOrder.model_validate(wish(target_phone_number="1", user_name="\x00", owner=""))
    fields = {one["field"] for one in complaints(refused.value)}
    assert fields == {"target_phone_number", "user_name", "owner"}


@pytest.mark.parametrize(
    "number",
    [
        "+12025550123",
        "+14155550100",
        "+18005550199",
        "+4930123456",
        "+442079460000",
        "+390612345678",
    ],
)
def test_numbers_that_may_be_called_are_taken_as_they_are(number: str):
    assert CallOrder.model_validate(wish(target_phone_number=number)).target_phone_number == number


def test_an_order_cannot_be_changed():
    order = CallOrder.model_validate(wish())
    with pytest.raises(ValidationError, match="frozen"):
        order.target_phone_number = "+14155550100"  # type: ignore[misc]


def test_an_order_printed_by_accident_names_itself_and_nobody_else():
    order = CallOrder.model_validate(wish())
    for printed in (repr(order), str(order), f"{[order]}"):
        assert "ord_0123456789" in printed
        for private in ("2025550123", "pepperoni", "large", "Ada"):
            assert private not in printed


OTHERWISE: dict[str, Any] = {
    "order_id": "ord_9876543210",
    "target_phone_number": "+14155550100",
    "final_instructions": "Order a small pepperoni pizza.",
    "gathered_details": {"size": "small", "pieces": 2, "price": 12.5, "vegan": False},
    "user_name": None,
    "owner": "eve@example.com",
    "thread_id": "thread-2",
    "metadata": {},
}
TIMES = {"created_at", "expires_at"}


def test_the_digest_does_not_notice_times():
    later = {"created_at": NOW + timedelta(days=1), "expires_at": NOW + timedelta(days=2)}
    first, again = CallOrder.model_validate(wish()), CallOrder.model_validate(wish(**later))
    assert first.digest() == again.digest()


def test_the_digest_notices_every_other_field():
    assert OTHERWISE.keys() | TIMES | {"schema_version"} == set(CallOrder.model_fields)
    digests = {CallOrder.model_validate(wish()).digest()}
    digests |= {
        CallOrder.model_validate(wish(**{field: value})).digest()
        for field, value in OTHERWISE.items()
    }
    assert len(digests) == len(OTHERWISE) + 1


def test_the_digest_does_not_notice_the_order_of_details():
    turned = dict(reversed(wish()["gathered_details"].items()))
    assert (
        CallOrder.model_validate(wish(gathered_details=turned)).digest()
        == CallOrder.model_validate(wish()).digest()
    )


def test_the_destination_depends_on_owner_and_number_only():
    here = CallOrder.model_validate(wish()).destination()
    for field, value in OTHERWISE.items():
        there = CallOrder.model_validate(wish(**{field: value})).destination()
        assert (there != here) == (field in {"owner", "target_phone_number"}), field


def test_the_destination_does_not_show_the_number():
    assert "2025550123" not in CallOrder.model_validate(wish()).destination()


def test_the_same_parts_get_the_same_id_for_all_time():
    assert order_id_from("thread-1", "turn-7") == "ord_92f210f75d23b06a6f099320ae8c1df5"


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_other_parts_get_another_id(parts: list[str], others: list[str]):
    parts, others = ([part.replace("\0", "") for part in both] for both in (parts, others))
    same = order_id_from(*parts) == order_id_from(*others)
    assert same == (parts == others)


def test_both_ways_of_naming_an_order_make_ids_an_order_accepts():
    for order_id in (mint_order_id(), order_id_from("a", "b")):
        assert CallOrder.model_validate(wish(order_id=order_id)).order_id == order_id


def test_no_two_orders_are_minted_alike():
    assert len({mint_order_id() for _ in range(1000)}) == 1000


names = st.text(min_size=1, max_size=64)
texts = st.text(max_size=200)
zones = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))]
)
wishes = st.fixed_dictionaries(
    {
        "order_id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{7,63}", fullmatch=True),
        "target_phone_number": st.sampled_from(["+12025550123", "+14155550100", "+4930123456"]),
        "final_instructions": st.text(min_size=1),
        "created_at": st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=zones),  # noqa: DTZ001
        "expires_at": st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=zones),  # noqa: DTZ001
    },
    optional={
        "gathered_details": st.dictionaries(
            names, texts | st.integers() | st.floats() | st.booleans(), max_size=5
        ),
        "user_name": st.none() | names,
        "owner": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}", fullmatch=True),
        "thread_id": st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:@-]*", fullmatch=True),
        "metadata": st.dictionaries(names, texts, max_size=5),
    },
)


@given(wishes)
def test_any_accepted_order_comes_back_from_json_as_it_went(fields: dict[str, Any]):
    try:
        order = CallOrder.model_validate(fields)
    except ValidationError:
        return
    again = CallOrder.model_validate_json(order.model_dump_json())
    assert again == order
    assert again.digest() == order.digest()
    assert again.destination() == order.destination()
    assert not re.search(r"[\x00-\x08\x7f-\x9f]", order.final_instructions)
    order.model_dump_json().encode()  # what the store is given is text that it can be given


@given(st.from_regex(r"\+?[0-9]{1,16}", fullmatch=True))
def test_no_number_that_is_accepted_is_an_emergency_or_costly_one(number: str):
    try:
        taken = CallOrder.model_validate(wish(target_phone_number=number)).target_phone_number
    except ValidationError:
        return
    assert re.fullmatch(r"\+[1-9][0-9]{6,14}", taken)
    assert not taken.startswith(("+1900", "+1976"))
