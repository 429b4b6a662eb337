"""The call handler, as we speak to it: one request per attempt, one outcome for whatever happens.

This is the only module from which HTTP goes out. A request is sent once and never by itself
again; redirects are not followed; proxies of the environment are not used. Requests, answers,
timeouts and exceptions are httpx's; its AsyncClient is left out, because all that it would add (a
merge of headers, cookies, authentication, redirects) is the same for every order or unwanted.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Final, Self, cast

import httpx
from pydantic import SecretStr

from dispatcher.enquiry import judge_cancel, judge_listing, judge_lookup
from dispatcher.order_request import Scribe, WrittenRequest
from dispatcher.transport import WitnessTransport
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

LEASE_LEFT_S: Final = 1.0
"""What must be left of the lease when the first byte leaves. What has left is never cut off because
the lease runs out: the answer still tells whether it rang."""


class CallHandler:
    """One call handler, over a pool of connections. Close it, or use it as a context."""

    def __init__(
        self,
        profile: HandlerProfile,
        *,
        connections: int,
        secrets: Mapping[str, SecretStr] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`connections` bounds the requests under way at once; `secrets` fill the profile's.

        Another `transport` must report to httpx's `trace` extension what leaves, as httpx's does.

        Raises:
            UnknownPlaceholder: the profile names what neither an order nor `secrets` has.
        """
        self.profile = profile
        self._scribe = Scribe(profile, secrets or {})
        self._clock = clock
        self._base = httpx.URL(str(profile.url))
        self._transport = transport or _transport(self._base, connections)
        self._standing_headers = _standing_headers(profile, self._base)
        self._place = lru_cache(maxsize=64)(partial(_place, self._base))
        self._timeouts = httpx.Timeout(
            connect=profile.connect_timeout_s,
            write=profile.connect_timeout_s,
            read=profile.read_timeout_s,
            pool=profile.connect_timeout_s,
        ).as_dict()

    async def send(self, claimed: Claimed) -> Outcome:
        """Send the order once, if the lease still covers it, and judge what came of it."""
        try:
            request = self._scribe.order(claimed)
        except Exception as error:  # noqa: BLE001  (nothing has left, whatever went wrong)
            return NotSent(f"it cannot be written down: {type(error).__name__}")
        now = self._clock.monotonic
        watch = WireWatch(
            may_send=lambda: now() + LEASE_LEFT_S < claimed.good_until,
            may_finish=lambda: now() + LEASE_LEFT_S / 2 < claimed.good_until,
            clock=now,
        )
        try:
            async with asyncio.timeout(self.profile.attempt_limit_s):
                status, headers, body = await self._exchange(request, watch)
            evidence = watch.evidence(status=status, excerpt=excerpt(body))
            answer = self.profile.answer
            return judge_answer(status, headers, body, evidence, self._clock.now(), answer)
        except HeldBack as error:
            return _unanswered_if_left(str(error), watch.evidence())
        except TimeoutError:
            evidence = watch.evidence(exception="TimeoutError")
            return _unanswered_if_left("no answer in time", evidence)
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
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
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
        headers = {**self._standing_headers, **request.headers}
        if request.content or request.method not in {"GET", "DELETE"}:
            headers["content-length"] = str(len(request.content))
        asked = httpx.Request(
            request.method,
            self._place(request.path),
            headers=headers,
            # Given `content` it would think about the headers for as long as the request takes.
            stream=httpx.ByteStream(request.content),
            extensions={"trace": watch.watch, "timeout": self._timeouts},
        )
        response = await self._transport.handle_async_request(asked)
        try:
            body = b""
            packed = "content-encoding" in response.headers  # it was asked not to
            plain = cast("httpx.AsyncByteStream", response.stream)
            async for chunk in response.aiter_bytes() if packed else plain:
                body += chunk
                if len(body) > ANSWER_MAX:
                    break
            return response.status_code, response.headers, body
        finally:
            await response.aclose()


def _unanswered_if_left(cause: str, evidence: WireEvidence) -> Outcome:
    return Unanswered(cause, evidence) if evidence.request_left else NotSent(cause, evidence)


def _transport(base: httpx.URL, connections: int) -> httpx.AsyncBaseTransport:
    # Reading the certificates takes longer than a hundred orders.
    trust = httpx.create_ssl_context(trust_env=False) if base.scheme == "https" else None
    return WitnessTransport(connections=connections, keepalive_s=KEEPALIVE_S, ssl_context=trust)


def _standing_headers(profile: HandlerProfile, base: httpx.URL) -> dict[str, str]:
    """Return what goes with every request, unless the profile says otherwise."""
    standing = {
        "host": base.netloc.decode(),
        "accept": "*/*",
        # An answer of a hundred bytes needs no packing, and a packed one may be a bomb.
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "user-agent": f"python-httpx/{httpx.__version__}",
    }
    if base.userinfo:
        pair = f"{base.username}:{base.password}".encode()
        standing["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    own = {name.lower() for name in profile.order.headers}
    if profile.order.basic_auth is not None:
        own.add("authorization")
    return {name: value for name, value in standing.items() if name not in own}


def _place(base: httpx.URL, path: str) -> httpx.URL:
    return base.copy_with(raw_path=base.raw_path.removesuffix(b"/") + httpx.URL(path).raw_path)
