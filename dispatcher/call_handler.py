"""The call handler, as we speak to it: one request per attempt, one outcome for whatever happens.

This is the only module from which HTTP goes out. A request is sent once and never by itself
again; redirects are not followed; proxies of the environment are not used.
"""

import asyncio
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Self

import httpx
from anyio.lowlevel import checkpoint
from pydantic import SecretStr

from dispatcher.enquiry import judge_cancel, judge_listing, judge_lookup
from dispatcher.order_request import Scribe, WrittenRequest
from dispatcher.verdict import excerpt, judge_answer, judge_exception
from dispatcher.wire import HeldBack, WireWatch
from shared.claim import Claimed
from shared.clock import SYSTEM_CLOCK, Clock
from shared.finding import CannotTell, Finding
from shared.handler_profile import HandlerProfile
from shared.order import CallOrder
from shared.outcome import NotSent, Outcome, Unanswered, WireEvidence

ANSWER_MAX: Final = 64 * 1024
"""Bytes of an answer that are read; a handler needs a hundred."""

KEEPALIVE_S: Final = 2.0
"""Idle connections are given up before common servers close them (uvicorn: 5 s), because a request
that crosses with the closing is one more order in doubt."""

SETTLE_MARGIN_S: Final = 1.0
"""What is left of the lease when an attempt is cut off, so that its outcome can be written."""


class CallHandler:
    """One call handler, over a pool of connections. Close it, or use it as a context."""

    def __init__(
        self,
        profile: HandlerProfile,
        *,
        connections: int,
        secrets: Mapping[str, SecretStr] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`connections` bounds the requests under way at once; `secrets` fill the profile's.

        Raises:
            UnknownPlaceholder: the profile names what neither an order nor `secrets` has.
        """
        self.profile = profile
        self._scribe = Scribe(profile, secrets or {})
        self._clock = clock
        self._client = httpx.AsyncClient(
            base_url=str(profile.url),
            # An answer of a hundred bytes needs no packing, and a packed one may be a bomb.
            headers={"accept-encoding": "identity"},
            timeout=httpx.Timeout(
                connect=profile.connect_timeout_s,
                write=profile.connect_timeout_s,
                read=profile.read_timeout_s,
                pool=profile.connect_timeout_s,
            ),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=KEEPALIVE_S,
            ),
            # No cookie of one person's order goes with another's.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, claimed: Claimed) -> Outcome:
        """Send the order once, if the lease still covers it, and judge what came of it."""
        try:
            request = self._scribe.order(claimed)
        except Exception as error:  # noqa: BLE001  (nothing has left, whatever went wrong)
            return NotSent(f"it cannot be written down: {type(error).__name__}")
        now, limit_s = self._clock.monotonic, self.profile.attempt_limit_s
        latest_end = claimed.good_until - SETTLE_MARGIN_S
        watch = WireWatch(
            may_send=lambda: now() + self._least_s() < latest_end,
            may_finish=lambda: now() < latest_end,
            clock=now,
        )
        try:
            async with asyncio.timeout(min(limit_s, max(latest_end - now(), 0))):
                status, headers, body = await self._exchange(request, watch)
            evidence = watch.evidence(status=status, excerpt=excerpt(body))
            answer = self.profile.answer
            return judge_answer(status, headers, body, evidence, self._clock.now(), answer)
        except HeldBack as error:
            return _unanswered_if_left(str(error), watch.evidence())
        except TimeoutError:
            evidence = watch.evidence(exception="TimeoutError")
            return _unanswered_if_left("no answer while the lease lasted", evidence)
        except Exception as error:  # noqa: BLE001  (fail closed: judged leaf by leaf, else in doubt)
            return judge_exception(error, watch.evidence(exception=repr(error)[:200]))

    async def look_up(self, order: CallOrder) -> tuple[Finding, WireEvidence]:
        """Ask what became of an order: by its id, else among the calls to its number."""
        if lookup := self.profile.lookup:
            return await self._ask(
                self._scribe.question(lookup.path, order),
                lambda status, body: judge_lookup(status, body, lookup),
            )
        if listing := self.profile.listing:
            return await self._ask(
                self._scribe.question(listing.path, order),
                lambda status, body: judge_listing(status, body, listing, order.order_id),
            )
        return CannotTell("the handler cannot be asked"), WireEvidence()

    async def take_back(self, order: CallOrder) -> tuple[Finding, WireEvidence]:
        """Ask for an order back: Known(()) only if the handler vouches that it will not ring."""
        cancel = self.profile.cancel
        if cancel is None:
            return CannotTell("the handler takes nothing back"), WireEvidence()
        return await self._ask(
            self._scribe.question(cancel.path, order, cancel.method),
            lambda status, body: judge_cancel(status, body, cancel),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        # httpx's transport imports anyio and its backend at the first connection; the first person
        # to be called would wait 70 ms for that.
        await checkpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(
        self, request: WrittenRequest, judge: Callable[[int, bytes], Finding]
    ) -> tuple[Finding, WireEvidence]:
        watch = WireWatch(lambda: True, lambda: True, self._clock.monotonic)
        try:
            async with asyncio.timeout(self.profile.attempt_limit_s):
                status, _, body = await self._exchange(request, watch)
        except Exception as error:  # noqa: BLE001  (asking has no side effect: any failure is "not now")
            evidence = watch.evidence(exception=repr(error)[:200])
            return CannotTell(f"the handler could not be asked: {type(error).__name__}"), evidence
        return judge(status, body), watch.evidence(status=status, excerpt=excerpt(body))

    async def _exchange(
        self, request: WrittenRequest, watch: WireWatch
    ) -> tuple[int, httpx.Headers, bytes]:
        async with self._client.stream(
            request.method,
            request.path,
            headers=request.headers,
            content=request.content,
            extensions={"trace": watch.watch},
        ) as response:
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_MAX:
                    break
            return response.status_code, response.headers, body

    def _least_s(self) -> float:
        """Less lease than this is no lease: the handler could not answer within it."""
        return self.profile.read_timeout_s


def _unanswered_if_left(cause: str, evidence: WireEvidence) -> Outcome:
    return Unanswered(cause, evidence) if evidence.request_left else NotSent(cause, evidence)
