"""The kinds of task a call is made for: what each needs to know, and how that is recognised.

A table, read across. The first kind whose words stand in the task is taken; the last fits all.
"""

import re
from dataclasses import dataclass
from typing import Final

NUMBER: Final = "target_phone_number"
"""The one detail every task needs; it is judged, not only recognised."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing the person on the line will want to know."""

    name: str
    question: str
    found_by: tuple[re.Pattern[str], ...] = ()
    """Tried in turn; the first group is the detail."""
    accepts: re.Pattern[str] = re.compile(r".*\S.*", re.DOTALL)
    """What a bare answer to the question must look like."""
    verbatim: bool = False
    """Whether a bare answer is taken word for word, "I'm" and "it's" included."""

    def found_in(self, text: str) -> str | None:
        """Return this detail as `text` gives it, or None."""
        for pattern in self.found_by:
            if found := pattern.search(text):
                return found.group(1).strip(" ,.;")
        return None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task."""

    name: str
    recognised_by: re.Pattern[str]
    goal: str
    required: tuple[Detail, ...]
    welcome: tuple[Detail, ...] = ()
    """Taken if it is said, never asked for."""


def kind_of(task: str) -> Kind:
    """Return the kind that `task`, in the person's words, is of."""
    return next(kind for kind in KINDS if kind.recognised_by.search(task))


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


_COUNT: Final = (
    r"(\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
    r"(?!\s*(?::|\d|h\b|[ap]\.?m\b|o'?clock))"
)
_DAY: Final = (
    r"today|tonight|(?:the day after )?tomorrow(?: (?:morning|noon|afternoon|evening|night))?"
    r"|(?:(?:next|this) )?(?:mon|tues|wednes|thurs|fri|satur|sun)day"
    r"(?: (?:morning|afternoon|evening|night))?"
    r"|\d{4}-\d\d-\d\d|(?:0?[1-9]|[12]\d|3[01])[./](?:0?[1-9]|1[0-2])\b(?:[./]?\d{2,4})?"
)
_MONTH: Final = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*"
_CAPITAL: Final = r"[A-Z][\w'’&-]*"
_NAME: Final = rf"({_CAPITAL}(?:\s+(?:(?:of|the|and|de|la|le|du|da|di|von|van)\s+)?{_CAPITAL})*)"

DATE: Final = Detail(
    "date",
    "For which day?",
    (
        _words(rf"\b({_DAY})"),
        _words(rf"\b(\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}|{_MONTH} \d{{1,2}}(?:\w\w)?)\b"),
    ),
)
TIME: Final = Detail(
    "time",
    "At what time?",
    (
        _words(r"\b((?:[01]?\d|2[0-3])[:h][0-5]\d(?:\s*[ap]\.?m\b)?)"),
        _words(r"\b((?:1[0-2]|0?[1-9])\s*[ap]\.?m\b|\d{1,2}\s*o['’]?clock|noon|midday|midnight)"),
    ),
)
NAME: Final = Detail(
    "name",
    "In whose name?",
    (
        re.compile(
            r"(?i:\b(?:name is|(?:in|under|with)(?: the| my)? name(?: of)?|on behalf of)\s+)"
            + _NAME
        ),
    ),
)
WHOM: Final = Detail(
    "whom",
    "Whom shall I call?",
    (
        re.compile(rf"\b(?i:from|at|with)\s+{_NAME}"),
        _words(r"\b(?:call|ring|phone|dial|contact|ask|tell)\s+((?:my|our|the)\s+[\w'’-]+)"),
        re.compile(rf"\b(?i:call|ring|phone|dial|contact|ask|tell)\s+{_NAME}"),
    ),
)
ITEMS: Final = Detail(
    "items",
    "What shall be ordered?",
    tuple(
        _words(
            rf"\b{verb}\s+((?!at\b|from\b|for\b|with\b|to\b).+?)"
            r"(?=\s+(?:from|at|by calling|for (?:delivery|pick-?up))\b|,?\s*(?:from|at)\b|[.;\n]|$)"
        )
        for verb in ("order", "get me", "buy", r"(?:would like|want)(?: to (?:have|eat))?")
    ),
)
DELIVERY: Final = Detail(
    "delivery", "Picked up, or delivered to where?", (_words(r"\b(pick[- ]?up|deliver[^,.;\n]*)"),)
)
PARTY: Final = Detail(
    "party_size",
    "For how many people?",
    (
        _words(rf"\b(?:table|reservation|party|booking)\s+(?:for|of)\s+{_COUNT}\b"),
        _words(rf"\b{_COUNT}\s+(?:people|persons|guests|adults|of us)\b"),
        _words(rf"\bfor\s+{_COUNT}\b(?=\s+(?:at|on|in|tomorrow|today|tonight)\b|\s*[,.]|\s*$)"),
    ),
    accepts=_words(rf".*\b{_COUNT}\b.*"),
)
OCCASION: Final = Detail(
    "occasion",
    "What is the appointment for?",
    (
        _words(
            rf"\bappointment\s+(?:for|about)\s+(?!(?:{_DAY})\b|\d)(.+?)"
            rf"(?=\s+(?:at|with|on|from|in the name)\b|\s+(?:{_DAY})|[,.;\n]|$)"
        ),
        _words(r"\b(haircut|check-?up|cleaning|consultation|vaccination|massage|inspection)\b"),
    ),
)
MESSAGE: Final = Detail(
    "message",
    "What shall I say or ask on the phone?",
    (
        _words(
            r"\b((?:tell|ask|say|let|remind|inform|invite|thank|wish|congratulate|find out|check"
            r"|cancel|whether)\b.+)"
        ),
    ),
    verbatim=True,
)

KINDS: Final = (
    Kind(
        "book_table",
        _words(r"\b(?:book|reserve|get|need|want)\b.*\btable\b|\breserv(?:e|ation)\b"),
        "book a table",
        (PARTY, DATE, TIME, NAME),
        (WHOM,),
    ),
    Kind(
        "make_appointment",
        _words(r"\bappointment\b"),
        "make an appointment",
        (OCCASION, DATE, TIME, NAME),
        (WHOM,),
    ),
    Kind(
        "order_food",
        _words(
            r"\b(?:order|get me|buy)\b(?!\s+(?:status|number))|\b(?:pizza|take-?away|takeout)\b"
        ),
        "place an order",
        (ITEMS,),
        (WHOM, NAME, DELIVERY, DATE, TIME),
    ),
    Kind("message", _words(r""), "pass on a message or ask a question", (MESSAGE,), (WHOM, NAME)),
)
