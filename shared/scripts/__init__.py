"""The scripts, as they are sent to the server: each one's text behind the words it shares."""

from functools import cache
from importlib import resources

from shared import keys
from shared.lifecycle import ENDED, MOVES, WAITING

_ALONE = frozenset({"overdue"})
"""Not about one order: these go without the prelude."""

_MUST_FIT = frozenset({"submit"})
"""A full store refuses these. All others only move what is there, and a full store that could not
write down an answer would forget that somebody's phone rang."""


@cache
def source(name: str) -> str:
    """Return the text of script `name`, ready for the server."""
    shebang = "" if name in _MUST_FIT else "#!lua flags=allow-oom\n"
    body = _read(name)
    return shebang + (body if name in _ALONE else _words() + _read("_order") + body)


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _words() -> str:
    legal = ", ".join(f"{start} = {_set(ends)}" for start, ends in MOVES.items())
    return (
        f"local LEGAL = {{{legal}}}\n"
        f"local ENDED, WAITING = {_set(ENDED)}, {_set(WAITING)}\n"
        f"local STATE_PREFIX, FENCE_PREFIX = '{keys.STATE_PREFIX}', '{keys.FENCE_PREFIX}'\n"
        f"local CALL_PREFIX, MOVES = '{keys.CALL_PREFIX}', '{keys.MOVES}'\n"
    )


def _set(states: frozenset[str]) -> str:
    return "{" + ", ".join(f"{state} = true" for state in sorted(states)) + "}"
