"""What asking about an order in doubt brought. Only the recoverer asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """The handler knows these calls for the order; none means that it will never place one."""

    call_sids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KnownRefused:
    """The handler saw the order and placed no call for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class SendAgain:
    """The handler cannot be asked, but the same key cannot ring twice: sending is asking."""


@dataclass(frozen=True, slots=True)
class CannotTell:
    """The handler is away, or still at work on it."""

    cause: str


Finding = Known | KnownRefused | SendAgain | CannotTell
