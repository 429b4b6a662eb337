"""The call handler, as we speak to it: POST /order, and one outcome for whatever happens.

This is the only module from which HTTP goes out. A request is sent once and never by itself
again; redirects are not followed; proxies of the environment are not used.
"""

import asyncio
import hashlib
import json
from typing import Any, Final, Self

import httpx
from anyio.lowlevel import checkpoint

from dispatcher.verdict import excerpt, judge_answer, judge_exception, judge_lookup
from dispatcher.wire import HeldBack, WireWatch
from shared.claim import Claimed
from shared.clock import SYSTEM_CLOCK, Clock
from shared.finding import CannotTell, Finding
from shared.handler_profile import HandlerProfile
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
        self, profile: HandlerProfile, *, connections: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`connections` bounds the requests under way at once."""
        self.profile = profile
        self._clock = clock
        self._client = httpx.AsyncClient(
            base_url=str(profile.url),
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
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, claimed: Claimed) -> Outcome:
        """POST the order once, if the lease still covers it, and judge what came of it."""
        now, limit_s = self._clock.monotonic, self.profile.attempt_limit_s
        latest_end = claimed.good_until - SETTLE_MARGIN_S
        watch = WireWatch(lambda: now() + self._least_s() < latest_end, now)
        try:
            async with asyncio.timeout(min(limit_s, max(latest_end - now(), 0))):
                status, headers, body = await self._exchange(
                    "POST", "/order", watch, headers=_headers(claimed), content=_body(claimed)
                )
            evidence = watch.evidence(status=status, excerpt=excerpt(body))
            return judge_answer(status, headers, body, evidence, self._clock.now())
        except HeldBack as error:
            return NotSent(str(error), watch.evidence())
        except TimeoutError:
            evidence = watch.evidence(exception="TimeoutError")
            cause = "no answer while the lease lasted"
            return Unanswered(cause, evidence) if watch.request_left else NotSent(cause, evidence)
        except Exception as error:  # noqa: BLE001  (fail closed: judged leaf by leaf, else in doubt)
            return judge_exception(error, watch.evidence(exception=repr(error)[:200]))

    async def look_up(self, order_id: str) -> tuple[Finding, WireEvidence]:
        """Ask what became of an order: `GET /order/{order_id}`."""
        watch = WireWatch(lambda: True, self._clock.monotonic)
        try:
            async with asyncio.timeout(self.profile.attempt_limit_s):
                status, _, body = await self._exchange("GET", f"/order/{order_id}", watch)
        except Exception as error:  # noqa: BLE001  (asking has no side effect: any failure is "not now")
            evidence = watch.evidence(exception=repr(error)[:200])
            return CannotTell(f"the handler could not be asked: {type(error).__name__}"), evidence
        evidence = watch.evidence(status=status, excerpt=excerpt(body))
        return judge_lookup(status, body), evidence

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

    async def _exchange(
        self, method: str, path: str, watch: WireWatch, **request: Any
    ) -> tuple[int, httpx.Headers, bytes]:
        async with self._client.stream(
            method, path, extensions={"trace": watch.watch}, **request
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


def _headers(claimed: Claimed) -> dict[str, str]:
    order_id = claimed.order.order_id
    trace = hashlib.sha256(order_id.encode()).hexdigest()
    span = hashlib.sha256(f"{order_id}/{claimed.token}".encode()).hexdigest()
    return {
        "content-type": "application/json",
        # A quoted string: draft-ietf-httpapi-idempotency-key-header.
        "idempotency-key": f'"{order_id}"',
        "x-order-attempt": str(claimed.attempt),
        "x-order-deadline": claimed.expires_at.isoformat().replace("+00:00", "Z"),
        # W3C Trace Context; the trace is the order, so that it can be found from its id.
        "traceparent": f"00-{trace[:32]}-{span[:16]}-01",
    }


def _body(claimed: Claimed) -> bytes:
    order = claimed.order.model_dump(
        mode="json",
        include={
            "order_id",
            "target_phone_number",
            "final_instructions",
            "gathered_details",
            "user_name",
            "metadata",
        },
        exclude_none=True,
    )
    return json.dumps(order).encode()
