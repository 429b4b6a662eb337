"""Which numbers may be called at all: E.164, real, and nobody's emergency line.

The numbering plans come from Google's libphonenumber (the `phonenumbers` package).
"""

import re
from functools import cache
from typing import Annotated, Final

import phonenumbers
from phonenumbers import PhoneNumberType, shortnumberinfo
from pydantic import AfterValidator, ValidationInfo
from pydantic_core import PydanticCustomError

_E164: Final = re.compile(r"\+[1-9][0-9]{1,14}")

ALREADY_CHECKED: Final = {"number": "checked when the order was taken in"}
"""The context (pydantic's) of reading an order that the ledger has taken in."""

_COSTLY: Final = {
    PhoneNumberType.PREMIUM_RATE: "a premium-rate number",
    PhoneNumberType.SHARED_COST: "a shared-cost number",
}


def callable_number(number: str) -> str:
    """Return `number` unchanged if a call may be placed to it.

    Raises:
        PydanticCustomError: it is not E.164, not in use by any numbering plan, an emergency or
            short number, or one that costs the person who is called or who calls.
    """
    if not _E164.fullmatch(number):
        raise PydanticCustomError(
            "phone_number_format",
            "must be in E.164 form: + and country code, digits only, such as +12025550123",
        )
    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        raise PydanticCustomError(
            "phone_number_unknown", "has no country code that exists; check the digits after +"
        ) from None
    if _is_short_or_emergency(parsed):
        raise PydanticCustomError(
            "phone_number_emergency", "is an emergency or short number, which is never called"
        )
    kind = phonenumbers.number_type(parsed)
    if kind == PhoneNumberType.UNKNOWN:  # which is how is_valid_number finds out, too
        raise PydanticCustomError(
            "phone_number_invalid", "is not a number in use in its country; check the digits"
        )
    costly = _COSTLY.get(kind)
    if costly:
        raise PydanticCustomError(
            "phone_number_costly", "is {kind}, which is never called", {"kind": costly}
        )
    return number


def checked_number(number: str, info: ValidationInfo) -> str:
    """Return `number` if it may be called; in a context of ALREADY_CHECKED if it is E.164 at all.

    Numbering plans are a tenth of all the work on an order, and do not change while it waits.

    Raises:
        PydanticCustomError: as `callable_number` does.
    """
    if info.context is ALREADY_CHECKED and _E164.fullmatch(number):
        return number
    return callable_number(number)


def e164_of(written: str, region: str) -> str:
    """Return a number as people write it in E.164, or as it was if it cannot be read.

    `region` (ISO 3166, such as US) is assumed for a number without a country code.
    """
    try:
        parsed = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return written
    if not phonenumbers.is_possible_number(parsed):
        return written
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def find_numbers(text: str, region: str) -> list[str]:
    """Return the phone numbers a person wrote in `text`, as E.164, in the order they stand there.

    `region` (ISO 3166, such as US) is assumed for a number without a country code.
    """
    matcher = phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.POSSIBLE)
    return [
        phonenumbers.format_number(match.number, phonenumbers.PhoneNumberFormat.E164)
        for match in matcher
    ]


def masked(number: str) -> str:
    """Return `number` with all but its last two digits hidden, for a screen that others may see."""
    return f"{'•' * max(len(number) - 2, 0)}{number[-2:]}"


def _is_short_or_emergency(parsed: phonenumbers.PhoneNumber) -> bool:
    national = phonenumbers.national_significant_number(parsed)
    country = parsed.country_code or 0
    if len(national) > _longest_short_number(country):
        return False  # asking each of the 25 regions of +1 takes as long as all else together
    regions = phonenumbers.region_codes_for_country_code(country)
    return shortnumberinfo.is_valid_short_number(parsed) or any(
        shortnumberinfo.is_emergency_number(national, region) for region in regions
    )


@cache
def _longest_short_number(country: int) -> int:
    """Return how many digits the longest short or emergency number of a country code has."""
    regions = phonenumbers.region_codes_for_country_code(country)
    lengths = [0]
    for region in regions:
        plan = phonenumbers.PhoneMetadata.short_metadata_for_region(region)
        if plan is not None and plan.general_desc is not None:
            lengths.extend(plan.general_desc.possible_length)
    return max(lengths)


PhoneNumber = Annotated[str, AfterValidator(checked_number)]
"""A field that holds a number which may be called."""
