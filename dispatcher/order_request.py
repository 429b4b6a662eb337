"""One order, written down in the dialect of one call handler: path, headers and body.

In a profile, `{target_phone_number}` stands for a part of the order; `{gathered_details.when}` for
one detail; `{since}` for a while before it was made; `{secret:NAME}` for a secret of the settings;
`{…|xml}` escapes for TwiML. A value that is one placeholder and nothing else keeps its type. What
an order does not have is left out.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import cached_property, lru_cache
from typing import Any, Final
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from pydantic import SecretStr
from pydantic_core import to_json

from shared.claim import Claimed
from shared.handler_profile import HandlerProfile, UnknownPlaceholder
from shared.order import CallOrder

_PLACEHOLDER: Final = re.compile(r"\{([a-z_:]+(?:\.[^{}|]+|[A-Za-z0-9_]*)?)(\|xml)?\}")
_PARTS: Final = frozenset(CallOrder.model_fields) - {"schema_version"} | {"since"}
_TABLES: Final = frozenset({"gathered_details", "metadata"})
_CLOCKS_MAY_DIFFER: Final = timedelta(minutes=15)
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class WrittenRequest:
    """What goes out."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes


@dataclass(frozen=True)
class Scribe:
    """Writes requests for one handler.

    Raises:
        UnknownPlaceholder: the profile names what neither an order nor the settings have.
    """

    profile: HandlerProfile
    secrets: Mapping[str, SecretStr]

    def order(self, claimed: Claimed) -> WrittenRequest:
        """Return the request that places the order."""
        wanted, parts = self.profile.order, _parts(claimed.order)
        body: dict[str, Any] = {}
        for steps, template in self._fields:
            value = self._filled(template, parts)
            if value is not _ABSENT:
                _put(body, steps, value)
        form = wanted.encoding == "form"
        headers = {
            "content-type": f"application/{'x-www-form-urlencoded' if form else 'json'}",
            **_contract_headers(self.profile, claimed),
            **self._own_headers(parts),
        }
        return WrittenRequest(
            method=wanted.method,
            path=self._path(wanted.path, parts),
            headers=headers,
            content=_form(body).encode() if form else to_json(body),
        )

    def question(self, path: str, order: CallOrder, method: str = "GET") -> WrittenRequest:
        """Return the request that asks at `path` about the order, or for it back."""
        parts = _parts(order)
        return WrittenRequest(method, self._path(path, parts), self._own_headers(parts), b"")

    def __post_init__(self) -> None:
        """Find out now, not in the middle of an attempt, what the profile names in vain."""
        profile = self.profile
        wanted = profile.order
        paths = [
            wanted.path,
            *(part.path for part in (profile.lookup, profile.listing, profile.cancel) if part),
        ]
        named = [*paths, *wanted.fields.values(), *wanted.headers.values()]
        for template in (*named, *(wanted.basic_auth or ())):
            self._filled(template, {part: {} for part in _PARTS})

    @cached_property
    def _fields(self) -> list[tuple[tuple[str, ...], Any]]:
        return [(_steps(pointer), said) for pointer, said in self.profile.order.fields.items()]

    def _own_headers(self, parts: Mapping[str, Any]) -> dict[str, str]:
        headers = {
            name: _one_line(value)
            for name, template in self.profile.order.headers.items()
            if (value := self._filled(template, parts)) is not _ABSENT
        }
        if self.profile.order.basic_auth is not None:
            pair = ":".join(
                str(self._filled(half, parts)) for half in self.profile.order.basic_auth
            )
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers

    def _path(self, template: str, parts: Mapping[str, Any]) -> str:
        return "".join(
            piece if isinstance(piece, str) else quote(_text(self._part(piece, parts)), safe="")
            for piece in _pieces(template)
        )

    def _filled(self, template: Any, parts: Mapping[str, Any]) -> Any:
        if not isinstance(template, str):
            return template
        pieces = _pieces(template)
        if len(pieces) == 1 and isinstance(pieces[0], _Blank):
            return self._part(pieces[0], parts)
        return "".join(
            piece if isinstance(piece, str) else _text(self._part(piece, parts)) for piece in pieces
        )

    def _part(self, blank: "_Blank", parts: Mapping[str, Any]) -> Any:
        value = self._named(blank.name, parts)
        return escape(_text(value)) if blank.escaped else value

    def _named(self, name: str, parts: Mapping[str, Any]) -> Any:
        if name in parts:
            return _ABSENT if parts[name] is None else parts[name]
        if name.startswith("secret:"):
            secret = self.secrets.get(name.removeprefix("secret:"))
            if secret is None:
                variable = f"RINGONCE_HANDLER_SECRETS__{name.removeprefix('secret:').upper()}"
                raise UnknownPlaceholder(f"no secret for {{{name}}}: set {variable}")
            return secret.get_secret_value()
        table, _, member = name.partition(".")
        if table not in parts:
            raise UnknownPlaceholder(f"an order has no {{{name}}}")
        if member and table not in _TABLES:
            raise UnknownPlaceholder(f"{{{table}}} has no parts to name, as in {{{name}}}")
        return parts[table].get(member, _ABSENT)


@dataclass(frozen=True, slots=True)
class _Blank:
    """A placeholder in a template."""

    name: str
    escaped: bool


@lru_cache(maxsize=256)  # a profile's templates are the same for every order
def _pieces(template: str) -> tuple[str | _Blank, ...]:
    """Return what `template` is made of, in order."""
    pieces: list[str | _Blank] = []
    at = 0
    for found in _PLACEHOLDER.finditer(template):
        if found.start() > at:
            pieces.append(template[at : found.start()])
        pieces.append(_Blank(found[1], escaped=found[2] is not None))
        at = found.end()
    if at < len(template):
        pieces.append(template[at:])
    return tuple(pieces)


def _parts(order: CallOrder) -> dict[str, Any]:
    # A call that seems to be older than the order by the handler's clock may still be this one's.
    since = (order.created_at - _CLOCKS_MAY_DIFFER).astimezone(UTC).isoformat(timespec="seconds")
    return order.model_dump(mode="json", exclude={"schema_version"}) | {
        "since": since.replace("+00:00", "Z")
    }


def _contract_headers(profile: HandlerProfile, claimed: Claimed) -> dict[str, str]:
    order_id = claimed.order.order_id
    trace = hashlib.sha256(order_id.encode()).hexdigest()
    span = hashlib.sha256(f"{order_id}/{claimed.token}".encode()).hexdigest()
    return {
        # A quoted string: draft-ietf-httpapi-idempotency-key-header.
        profile.key_header.lower(): f'"{order_id}"',
        "x-order-attempt": str(claimed.attempt),
        "x-order-deadline": claimed.expires_at.isoformat().replace("+00:00", "Z"),
        # W3C Trace Context; the trace is the order, so that it can be found from its id.
        "traceparent": f"00-{trace[:32]}-{span[:16]}-01",
    }


def _one_line(value: Any) -> str:
    """Return a header's value: what a person said may hold line ends, and more."""
    return " ".join(_text(value).split()).encode("ascii", "replace").decode()


def _put(body: dict[str, Any], steps: tuple[str, ...], value: Any) -> None:
    *parents, last = steps
    for parent in parents:
        body = body.setdefault(parent, {})
    body[last] = value


@lru_cache(maxsize=256)
def _steps(pointer: str) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def _form(body: Mapping[str, Any]) -> str:
    return urlencode({name: _text(value) for name, value in body.items()})


def _text(value: Any) -> str:
    if value is _ABSENT:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
