"""The phone number in what a person said, judged by the rules of `shared/phone_number.py`."""

import re
from dataclasses import dataclass
from typing import Final

import phonenumbers
from pydantic_core import PydanticCustomError

from shared.phone_number import callable_number, find_numbers

_DIGITS: Final = re.compile(r"\+?\(?\d[\d\s().\-/]*\d")
_MEANT: Final = re.compile(
    r"(?i:call|dial|ring|phone|number|tel|at|use|it['’]?s|^)[\s:.]*(?:(?i:is|to|be)\s+)?"
    r"(?!\d{4}-\d\d-\d\d)(\+\d[\d ().-]*|\d{3}[\d ().-]*)(?!\d*[:/h]\d)"
)
_NEAR: Final = 60
"""Letters before a number in which its lead-in is looked for: a longer one is a person's words."""
_LEAD_IN: Final = re.compile(
    r"(?:[\s,;:(]|\b(?:at|on|under|via|number|tel|phone)\b)*\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class HeardNumber:
    """What was heard of a number: a good one, or the rule that a bad one breaks, or neither."""

    number: str | None
    complaint: str | None
    rest: str
    """What was said besides the number."""


def hear_number(text: str, region: str) -> HeardNumber:
    """Return the first number in `text` that may be called, E.164, or why none may be.

    `region` (ISO 3166, such as US) is assumed for a number without a country code.
    """
    text = re.sub(r"[^\S\n]+", " ", text)
    found = find_numbers(text, region) or _attempts(text, region)
    complaint = None
    for number in found:
        try:
            return HeardNumber(callable_number(number), None, _without(text, number))
        except PydanticCustomError as fault:
            complaint = complaint or fault.message()
    rest = text
    for number in found:
        rest = _without(rest, number)
    return HeardNumber(None, complaint, rest)


def _attempts(text: str, region: str) -> list[str]:
    """Return what was meant as a number but has not the length of one, such as 911."""
    attempts = []
    for meant in _MEANT.finditer(text):
        try:
            parsed = phonenumbers.parse(meant.group(1), region)
        except phonenumbers.NumberParseException:
            attempts.append(re.sub(r"[^+\d]", "", meant.group(1)))
            continue
        attempts.append(phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164))
    return attempts


def _without(text: str, number: str) -> str:
    """Return `text` without the place where `number` stands, however it is written there."""
    for run in _DIGITS.finditer(text):
        digits = re.sub(r"\D", "", run.group()).lstrip("0")
        if len(digits) > 2 and number.endswith(digits):
            far, near = text[: run.start()][:-_NEAR], text[: run.start()][-_NEAR:]
            before = far + _LEAD_IN.sub("", near)
            return f"{before} {text[run.end() :].lstrip(' )')}".strip()
    return text
