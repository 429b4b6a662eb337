"""`ringonce handler check`: what a call handler will be sent, and what we make of its answers.

Nothing is ordered. The handler is asked one thing: what became of an order that nobody sent.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import HttpUrl, SecretStr, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.call_handler import CallHandler
from dispatcher.order_request import Scribe, WrittenRequest
from dispatcher.verdict import judge_answer
from shared.claim import Claimed
from shared.clock import SYSTEM_CLOCK
from shared.finding import Finding, Known
from shared.handler_profile import HandlerProfile, Lookup, read_profile
from shared.lifecycle import Policy, Tries, decide
from shared.order import CallOrder, mint_order_id
from shared.outcome import Outcome, WireEvidence
from shared.settings import read_settings

handler = typer.Typer(no_args_is_help=True, help="Look at a call handler before you trust it.")


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer that handlers give."""

    says: str
    status: int
    body: bytes = b""
    headers: Mapping[str, str] | None = None


_PROBLEM: Final = {"content-type": "application/problem+json"}
SAMPLES: Final = (
    Sample("200 without a sid", 200, b"done"),
    Sample("307 redirect", 307),
    Sample("400", 400),
    Sample("401", 401),
    Sample("404", 404),
    Sample("408", 408),
    Sample("409", 409),
    Sample("422", 422),
    Sample("425", 425),
    Sample("429, Retry-After: 5", 429, headers={"retry-after": "5"}),
    Sample("500", 500),
    Sample("500, call_placed: no", 500, b'{"call_placed":"no"}', _PROBLEM),
    Sample("502", 502),
    Sample("503", 503),
    Sample("503, Retry-After: 5", 503, headers={"retry-after": "5"}),
    Sample("504", 504),
)


@handler.callback()
def _handler() -> None:
    """Look at a call handler before you trust it."""


@handler.command()
def check(
    what: Annotated[str, typer.Argument(metavar="URL|PROFILE", help="An address or a TOML file.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what a handler will be sent, what it promises, and how each answer will be judged.

    Exit code 0: it answers and nothing contradicts the profile; 1: it does not; 2: a bad profile.
    """
    settings = read_settings()
    profile = _profile(what)
    secrets = _StandIns(settings.handler_secrets)
    request = Scribe(profile, secrets).order(_sample_claim())
    found = asyncio.run(_asked(profile, secrets))
    troubles = [*_contradictions(profile, found), *_warnings(profile), *secrets.missing()]
    if as_json:
        print(json.dumps(_as_json(profile, request, found, troubles)))
    else:
        _show(Console(highlight=False), profile, request, found, troubles)
    raise typer.Exit(1 if _contradictions(profile, found) else 0)


def judged(profile: HandlerProfile) -> list[tuple[str, Outcome, str]]:
    """Return (answer, outcome, what follows) for every answer in the book, and for none."""
    rows = []
    samples = [_placed_sample(profile), *_ruled_samples(profile), *SAMPLES]
    for sample in samples:
        outcome = judge_answer(
            sample.status,
            sample.headers or {},
            sample.body,
            WireEvidence(),
            SYSTEM_CLOCK.now(),
            profile.answer,
        )
        decision = decide(outcome, Tries(spent=1), Policy(), profile, 0.5)
        waits = "" if decision.wait_s is None else f", looked at again after {decision.wait_s:g} s"
        rows.append((sample.says, outcome, f"{decision.to}{waits}"))
    return rows


class _StandIns(dict[str, SecretStr]):
    """Secrets to look at a profile with: one that is not set shows its own name."""

    def __init__(self, given: Mapping[str, SecretStr]) -> None:
        super().__init__(given)
        self._missed: set[str] = set()

    def get(self, name: str, default: object = None) -> SecretStr:  # noqa: ARG002  (dict's signature)
        if name not in self:
            self._missed.add(name)
            return SecretStr(f"<{name}>")
        return self[name]

    def missing(self) -> list[str]:
        """Return what to set before a worker is started."""
        return [f"set RINGONCE_HANDLER_SECRETS__{name.upper()}" for name in sorted(self._missed)]


@dataclass(frozen=True, slots=True)
class Found:
    """What the handler said when it was asked about an order that nobody sent."""

    finding: Finding
    evidence: WireEvidence


async def _asked(profile: HandlerProfile, secrets: Mapping[str, SecretStr]) -> Found:
    read_s = min(profile.read_timeout_s, 10.0)
    # Also one that promises no lookup is asked, only to see it answer.
    lookup = profile.lookup if profile.answers_lookup else Lookup()
    asked = profile.model_copy(update={"read_timeout_s": read_s, "lookup": lookup})
    async with CallHandler(asked, connections=1, secrets=secrets) as handler_:
        return Found(*await handler_.look_up(_sample_claim().order))


def _contradictions(profile: HandlerProfile, found: Found) -> list[str]:
    if found.evidence.status is None:
        return [f"it does not answer: {found.evidence.exception}"]
    if profile.answers_lookup and found.finding != Known(()):
        told = f"it did not say that it never saw it ({found.evidence.status})"
        return [f"asked about an order that nobody sent, {told}: its lookup cannot be believed"]
    return []


def _warnings(profile: HandlerProfile) -> list[str]:
    told = []
    if profile.answers_lookup and profile.quiet_period_s <= profile.read_timeout_s:
        told.append("quiet_period_s is not longer than read_timeout_s: it may still be at work")
    if profile.read_timeout_s < 30:
        told.append("read_timeout_s is short: a handler that accepts later is in doubt each time")
    if not profile.answers_lookup and not profile.honours_idempotency_key:
        told.append("it promises nothing: each unanswered order waits for a person")
    return told


def _profile(what: str) -> HandlerProfile:
    if not what.startswith(("http://", "https://")):
        return read_profile(Path(what))
    try:
        return HandlerProfile(name="by address", url=TypeAdapter(HttpUrl).validate_python(what))
    except ValidationError as error:
        raise typer.BadParameter(f"{what}: {error.errors()[0]['msg']}") from None


def _sample_claim() -> Claimed:
    now = SYSTEM_CLOCK.now()
    order = CallOrder(
        order_id=mint_order_id(),
        target_phone_number="+12025550123",
        final_instructions="Order a large pepperoni pizza.",
        gathered_details={"item": "a large pepperoni pizza"},
        user_name="Sam",
        created_at=now,
        expires_at=now + timedelta(hours=1),
    )
    return Claimed(
        order=order,
        token=1,
        attempt=1,
        tries=Tries(spent=1),
        expires_at=order.expires_at,
        worker="check",
        good_until=0,
    )


def _placed_sample(profile: HandlerProfile) -> Sample:
    body: Any = "CA0123"
    for part in reversed(profile.answer.call_sid.split("/")[1:]):
        body = {part: body}
    return Sample(f"200 {json.dumps(body)}", 200, json.dumps(body).encode())


def _ruled_samples(profile: HandlerProfile) -> list[Sample]:
    samples = []
    for rule in profile.answer.rules:
        status = min(rule.status, default=500)
        body: Any = ""
        told = ""
        if rule.body is not None:
            body = rule.body.equals if rule.body.equals is not None else rule.body.contains
            told = f", {rule.body.pointer or 'body'} {body!r}"
            for part in reversed((rule.body.pointer or "").split("/")[1:]):
                body = {part: body}
        raw = body if isinstance(body, str) else json.dumps(body)
        samples.append(Sample(f"{status}{told} (rule)", status, raw.encode()))
    return samples


def _show(
    console: Console,
    profile: HandlerProfile,
    request: WrittenRequest,
    found: Found,
    troubles: list[str],
) -> None:
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("profile", profile.name)
    facts.add_row("address", str(profile.url))
    answered = found.evidence.status is not None
    facts.add_row("answers", f"yes, in {found.evidence.took_ms:g} ms" if answered else "no")
    facts.add_row("promises", ", ".join(_promises(profile)) or "nothing")
    facts.add_row(
        "waits",
        f"connect {profile.connect_timeout_s:g} s, read "
        f"{profile.read_timeout_s:g} s, quiet period {profile.quiet_period_s:g} s",
    )
    console.print(facts)
    console.print(f"\n{request.method} {request.path}", style="bold")
    for name, value in request.headers.items():
        shown = "…" if name.lower() == "authorization" else value
        console.print(Text(f"{name}: {shown}"))
    console.print(Text(f"\n{request.content.decode()}\n"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("answer", "judged", "the order is"):
        table.add_column(column, overflow="fold")
    for says, outcome, follows in judged(profile):
        table.add_row(says, type(outcome).__name__, follows)
    console.print(table)
    for trouble in troubles:
        console.print(Text(f"! {trouble}", style="yellow"))


def _promises(profile: HandlerProfile) -> list[str]:
    promises = []
    if profile.honours_idempotency_key:
        promises.append(f"the same {profile.key_header} rings once")
    if profile.lookup is not None:
        promises.append(f"GET {profile.lookup.path} tells what became of an order")
    if profile.listing is not None:
        promises.append(f"GET {profile.listing.path} lists calls")
    return promises


def _as_json(
    profile: HandlerProfile, request: WrittenRequest, found: Found, troubles: list[str]
) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "url": str(profile.url),
        "answers": found.evidence.status is not None,
        "request": {"method": request.method, "path": request.path},
        "judged": [
            {"answer": says, "outcome": type(outcome).__name__, "follows": follows}
            for says, outcome, follows in judged(profile)
        ],
        "troubles": troubles,
    }
