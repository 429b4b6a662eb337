"""Who may know whom. The rooms meet in `shared`, and each foreign library has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("orchestrator", "dispatcher", "shared")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

DOORS = {
    # what is imported: the only places that may
    "dispatcher": ("dispatcher/", "ringonce.py"),
    "orchestrator": ("orchestrator/", "ringonce.py"),
    "aiohttp": ("dispatcher/transport.py", "dispatcher/witness.py"),
    "arq": ("shared/envelope.py", "dispatcher/worker.py"),
    "httpx": ("dispatcher/call_handler.py", "dispatcher/transport.py", "dispatcher/verdict.py"),
    "langgraph": ("orchestrator/",),
    "time": ("shared/clock.py",),
    "dotenv": ("shared/settings.py",),
    "pydantic_settings": ("shared/settings.py",),
    "pickle": (),
}
USES = {
    # what is used: the only places that may
    "datetime.now": ("shared/clock.py",),
    "datetime.utcnow": (),
    "date.today": (),
    "os.environ": ("shared/settings.py",),
    "os.getenv": ("shared/settings.py",),
}
EMPTY_NAMES = {"manager", "helper", "helpers", "util", "utils", "service", "base", "common", "misc"}
LONGEST = 300


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ".".join(ast.unparse(node).split(".")[-2:])


@pytest.mark.parametrize("path", [*MODULES, ROOT / "ringonce.py"], ids=place)
def test_each_module_keeps_to_its_room(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {name.partition(".")[0] for name in imported(tree)}
    uses = {*used(tree), *imported(tree)}
    trespassing = [name for name in names & DOORS.keys() if not at(path, DOORS[name])]
    trespassing += [name for name in uses & USES.keys() if not at(path, USES[name])]
    assert not trespassing


def at(path: Path, doors: tuple[str, ...]) -> bool:
    return any(place(path).startswith(door) for door in doors)


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_each_module_has_a_name_that_says_what_it_does_and_a_size_to_match(path: Path):
    words = set(path.stem.split("_"))
    assert not words & EMPTY_NAMES or place(path) == "orchestrator/workflow_manager.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_every_module_opens_by_saying_what_it_is_for():
    silent = [place(p) for p in MODULES if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert not silent


def test_the_doors_are_where_they_are_said_to_be():
    doors = [door for places in (*DOORS.values(), *USES.values()) for door in places]
    assert [door for door in doors if not (ROOT / door).exists()] == []
