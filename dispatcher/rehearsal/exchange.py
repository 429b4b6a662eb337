"""What comes in and what goes out, as plain values: requests, answers, problems.

An `Answer` also says in which manner it is to be given, because a handler that breaks off or falls
silent is an answer too. How that is done to a socket is the server's business.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

CallPlaced = Literal["no", "yes", "unknown"]
Manner = Literal["whole", "half", "reset", "hang"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, read to its end."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that lower-case `name`."""
        for known, value in self.headers:
            if known == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and the manner of giving it."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    manner: Manner = "whole"
    hang_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something was not done, and what that means for the call."""

    status: int
    slug: str
    title: str
    detail: str
    call_placed: CallPlaced = "no"
    retryable: bool = False
    retry_after_s: int | None = None
    call_sid: str | None = None

    def answer(self, *, members: bool = True) -> Answer:
        """Return the answer (RFC 9457); without `members` it says nothing about the call."""
        body: dict[str, Any] = {
            "type": f"urn:ringonce:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if members:
            body |= {"call_placed": self.call_placed, "retryable": self.retryable}
            if self.call_sid is not None:
                body["call_sid"] = self.call_sid
        after = self.retry_after_s
        headers = () if after is None else ((b"retry-after", str(after).encode()),)
        return Answer(self.status, _dump(body), b"application/problem+json", headers)


def as_json(body: Any, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """Return a 200 with `body` as JSON."""
    return Answer(200, _dump(body), headers=headers)


def as_text(text: str, *, status: int = 200) -> Answer:
    """Return `text`, as a handler answers that never heard of JSON."""
    return Answer(status, text.encode(), b"text/plain; charset=utf-8")


NO_SUCH_PAGE: Final = as_text("Not Found", status=404)
"""What a web framework says about an address it does not know."""


def _dump(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
