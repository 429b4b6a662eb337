"""Reads the order out of a request, or says which part of it is wrong.

It shares no code with the dispatcher's own order on purpose: a second reader notices what the first
one and its author took for granted.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from dispatcher.rehearsal.exchange import Problem, Request

_ORDER_ID: Final = re.compile(r"[!-~]{1,255}")
_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")

_REQUIRED: Final = {
    "order_id": str,
    "target_phone_number": str,
    "final_instructions": str,
    "gathered_details": dict,
}
_OPTIONAL: Final = {"user_name": str, "callback_url": str, "metadata": dict}
_IN_WORDS: Final = {str: "a string", dict: "an object"}


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What the handler needs of a valid order."""

    order_id: str
    number: str
    digest: str
    """Equal for equal bodies, whatever the order of their members."""
    key: str | None
    attempt: int | None


def read_order(request: Request) -> OrderRequest | Problem:
    """Return the order, or the problem to answer with."""
    if not _is_json(request.header(b"content-type")):
        return Problem(415, "no-json", "Unsupported media type", "Send application/json.")
    try:
        body = json.loads(request.body, parse_constant=_reject)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        return Problem(400, "broken-json", "Bad request", "The body is nested too deep.")
    except ValueError:  # broken syntax, broken UTF-8, a number of thousands of digits
        return Problem(400, "broken-json", "Bad request", "The body is not JSON.")
    if not isinstance(body, dict):
        return Problem(400, "broken-json", "Bad request", "The body is not a JSON object.")
    if wrong := _first_wrong(body):
        return Problem(422, "invalid-order", "Invalid order", wrong)
    return OrderRequest(
        order_id=body["order_id"],
        number=body["target_phone_number"],
        digest=digest,
        key=_unquoted(request.header(b"idempotency-key")),
        attempt=_counted(request.header(b"x-order-attempt")),
    )


def is_e164(text: str) -> bool:
    """Say whether `text` has the shape of an international number."""
    return _E164.fullmatch(text) is not None


def _first_wrong(body: dict[str, Any]) -> str | None:
    for name, kind in _REQUIRED.items():
        if name not in body:
            return f"{name} is missing."
        if not isinstance(body[name], kind):
            return f"{name} must be {_IN_WORDS[kind]}."
    for name, kind in _OPTIONAL.items():
        if body.get(name) is not None and not isinstance(body[name], kind):
            return f"{name} must be {_IN_WORDS[kind]} or absent."
    if not _ORDER_ID.fullmatch(body["order_id"]):
        return "order_id must be 1 to 255 printable ASCII characters without spaces."
    if not is_e164(body["target_phone_number"]):
        return "target_phone_number must be an E.164 number."
    if not body["final_instructions"].strip():
        return "final_instructions must not be empty."
    return None


def _is_json(content_type: bytes | None) -> bool:
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    return kind == b"application/json" or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    )


def _unquoted(header: bytes | None) -> str | None:
    key = (header or b"").decode("latin-1").strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    return key or None


def _counted(header: bytes | None) -> int | None:
    if header is None or not header.isdigit() or len(header) > 9:
        return None
    return int(header)


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
