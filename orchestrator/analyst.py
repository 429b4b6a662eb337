"""Understanding what the person wants: behind a Protocol, with rules that need no network.

A language model may take the rules' place; the graph sees only `Analyst`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from orchestrator.kinds_of_task import NAME, NUMBER, Kind, kind_of
from orchestrator.spoken_number import HeardNumber, hear_number
from shared.order import DETAIL_MAX

NOTE: Final = "note"
"""The detail that holds what was added later and fits nowhere else."""

_NUMBER_QUESTION: Final = "Which phone number shall I call, with country code?"
_KEY_VALUE: Final = re.compile(r"^\s*[-*]?\s*([A-Za-z][A-Za-z _-]{1,40}?)\s*[:=]\s*(.*\S)\s*$")
_NUMBER_KEYS: Final = frozenset({NUMBER, "number", "phone", "phone_number", "tel", "telephone"})
_ANSWER_LEAD_IN: Final = re.compile(r"^(?:it['’]?s|it is|i['’]?m|for|at)\s+", re.IGNORECASE)
_EMPTY_TALK: Final = re.compile(
    r"(?:\W|\b(?:it|its|is|the|their|his|her|my|number|phone|call|them|at|on|please|and|no|not|use"
    r"|under|ok|okay|yes|sure|instead|s|to|under|here)\b)*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Told:
    """All that is known of a task before the last thing that was said is understood."""

    said: tuple[str, ...]
    """What the person said for this task, in order; the last is new."""
    asked: tuple[str, ...] = ()
    """The details that were asked for just before, if it is an answer."""
    gathered: Mapping[str, str] = field(default_factory=dict)
    number: str | None = None
    user_name: str | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the task needs, what is known of it, and what to do on the line."""

    required_details: tuple[str, ...]
    gathered_details: Mapping[str, str]
    missing_details: tuple[str, ...]
    question: str
    """What to ask the person next; empty if nothing is missing."""
    target_phone_number: str | None
    """E.164, and may be called."""
    final_instructions: str


class Analyst(Protocol):
    """Whoever understands what the person said."""

    async def analyze(self, told: Told) -> Analysis:
        """Return what is known now; the same words bring the same analysis."""
        ...


@dataclass(frozen=True, slots=True)
class RuleAnalyst:
    """Understands by rules and a table. `region` (ISO 3166) is assumed for numbers without code."""

    region: str = "US"

    async def analyze(self, told: Told) -> Analysis:
        """Return what is known now; the same words bring the same analysis."""
        kind = kind_of(told.said[0])
        lines, text = _key_values(re.sub(r"[^\S\n]+", " ", told.said[-1]), kind)
        named_number = lines.pop(NUMBER, None)
        heard = hear_number(text, self.region)
        if named_number is not None:
            heard = self._named(named_number, text)
        new = lines | _found(kind, heard.rest, told, lines)
        complaints = _too_long(new)
        gathered = {**told.gathered, **{name: new[name] for name in new if name not in complaints}}
        if told.user_name and NAME in kind.required:
            gathered.setdefault(NAME.name, told.user_name)
        # A bad number replaces a good one: the person does not want the good one any more.
        number = None if heard.complaint else heard.number or told.number
        if heard.complaint:
            complaints[NUMBER] = heard.complaint
        required = (NUMBER, *(detail.name for detail in kind.required))
        known = {NUMBER} if number else set()
        missing = tuple(name for name in required if name not in known | gathered.keys())
        return Analysis(
            required_details=required,
            gathered_details=gathered,
            missing_details=missing,
            question=_question(kind, missing, complaints),
            target_phone_number=number,
            final_instructions=_instructions(kind, told, gathered, self.region),
        )

    def _named(self, value: str, rest: str) -> HeardNumber:
        """Judge what stands after `number:`; whatever it is, it was meant as one."""
        heard = hear_number(value, self.region)
        if heard.number or heard.complaint:
            return HeardNumber(heard.number, heard.complaint, rest)
        return HeardNumber(None, "is not a phone number; write it as +12025550123", rest)


def _key_values(text: str, kind: Kind) -> tuple[dict[str, str], str]:
    """Return the `name: value` lines whose name is known, and the text without them."""
    names = {detail.name for detail in kind.required + kind.welcome} | {NOTE}
    lines, rest = {}, []
    for line in text.splitlines():
        found = _KEY_VALUE.match(line)
        key = re.sub(r"[\s-]+", "_", found.group(1).lower()) if found else ""
        if found and key in _NUMBER_KEYS:
            lines[NUMBER] = found.group(2)
        elif found and key in names:
            lines[key] = found.group(2)
        else:
            rest.append(line)
    return lines, "\n".join(rest).strip()


def _found(kind: Kind, text: str, told: Told, lines: Mapping[str, str]) -> dict[str, str]:
    """Return the details recognised in `text`, and where to put what is left over."""
    details = kind.required + kind.welcome
    found = {
        detail.name: value
        for detail in details
        if detail.name not in lines and (value := detail.found_in(text)) is not None
    }
    first = len(told.said) == 1
    if first or _EMPTY_TALK.fullmatch(text):
        return found
    open_questions = [d for d in kind.required if d.name in told.asked and d.name not in lines]
    if open_questions and not any(d.name in found for d in open_questions):
        asked = open_questions[0]
        answer = text if asked.verbatim else _ANSWER_LEAD_IN.sub("", text)
        return found | {asked.name: answer} if asked.accepts.fullmatch(answer) else found
    if not open_questions:
        # Nothing that was said is lost: the voice agent hears it in the person's own words.
        earlier = told.gathered.get(NOTE)
        found[NOTE] = f"{earlier}; {text}" if earlier else text
    return found


def _too_long(details: Mapping[str, str]) -> dict[str, str]:
    return {
        name: f"must have at most {DETAIL_MAX} characters"
        for name, value in details.items()
        if len(value) > DETAIL_MAX
    }


def _question(kind: Kind, missing: tuple[str, ...], complaints: Mapping[str, str]) -> str:
    """Return all that is still to be asked, with the rule for what was given and cannot be used."""
    questions = {detail.name: detail.question for detail in kind.required}
    questions[NUMBER] = _NUMBER_QUESTION
    asked = [(name, questions[name]) for name in missing]
    faults = "".join(f"{name}: what you gave {rule}.\n" for name, rule in complaints.items())
    if not asked:
        return ""
    if len(asked) == 1:
        return f"{faults}{asked[0][1]}"
    listed = "\n".join(f"{name}: {question}" for name, question in asked)
    return f"{faults}I still need this; answer each on its own line, as `name: …`.\n{listed}"


def _instructions(kind: Kind, told: Told, gathered: Mapping[str, str], region: str) -> str:
    """Return the paragraph for the voice agent, which opens with what it must say first."""
    behalf = told.user_name or gathered.get(NAME.name) or "a customer"
    whom = re.sub(
        r"^(?:my|our)\b", "their", gathered.get("whom") or "somebody", flags=re.IGNORECASE
    )
    facts = "; ".join(
        f"{name.replace('_', ' ')}: {value}"
        for name, value in gathered.items()
        if name not in {NOTE, "whom"}
    )
    task = hear_number(told.said[0], region).rest
    parts = [
        f"Begin by saying that you are an AI assistant calling on behalf of {behalf}.",
        f"You are calling {whom} to {kind.goal}.",
        f"Details: {facts}." if facts else "",
        f'In the person\'s own words: "{task}".',
        f'Added later, and to be followed first: "{gathered[NOTE]}".' if NOTE in gathered else "",
        "Repeat what was agreed before you end the call, and agree to nothing else.",
    ]
    return " ".join(part for part in parts if part)
