"""The scripts, as they are sent to the server: each one's text between the words it shares."""

from functools import cache
from importlib import resources

from shared import keys
from shared.lifecycle import ENDED, MOVES, WAITING

_MUST_FIT = frozenset({"submit"})
"""A full store refuses these. All others only move what is there, and a full store that could not
write down an answer would forget that somebody's phone rang."""


@cache
def source(name: str) -> str:
    """Return the text of script `name`, ready for the server."""
    flags = "" if name in _MUST_FIT else "#!lua flags=allow-oom\n"
    return (
        f"{flags}{_words()}{_read('_order')}"
        f"local function act()\n{_read(name)}end\n"
        "local done, answer = pcall(act)\n"
        "if done then keep() end\n"
        "flush()\n"
        "if not done then return error(answer) end\n"
        "return answer\n"
    )


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _words() -> str:
    legal = ", ".join(f"{start} = {_set(ends)}" for start, ends in MOVES.items())
    return (
        f"local LEGAL = {{{legal}}}\n"
        f"local ENDED, WAITING = {_set(ENDED)}, {_set(WAITING)}\n"
        f"local KEY = {_table(keys.SHARED)}\n"
        f"local PREFIX = {_table(keys.PREFIXES)}\n"
    )


def _set(states: frozenset[str]) -> str:
    return "{" + ", ".join(f"{state} = true" for state in sorted(states)) + "}"


def _table(names: dict[str, str]) -> str:
    return "{" + ", ".join(f"{name} = '{key}'" for name, key in names.items()) + "}"
