"""The README is true: its tables are what the code says.

python -m tests.test_readme    writes the tables into it
"""

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from shared.settings import Settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PROMISES = ROOT / "tests" / "acceptance" / "test_promises.py"


def test_the_table_of_settings_names_each_setting_with_its_default() -> None:
    assert settings_table() in README.read_text()


def test_the_table_of_magic_numbers_is_the_rehearsal_handlers() -> None:
    assert magic_table() in README.read_text()


def test_the_table_of_promises_names_tests_that_exist() -> None:
    assert promise_table() in README.read_text()


def test_each_of_the_seven_promises_has_a_test() -> None:
    assert sorted({number for number, _ in _promise_tests()}) == [1, 2, 3, 4, 5, 6, 7]


def test_every_file_that_is_linked_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text())
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def settings_table() -> str:
    rows = ["| variable | default | what it decides |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variable = "REDIS_URL" if name == "redis_url" else f"RINGONCE_{name.upper()}"
        default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
        rows.append(f"| `{variable}` | {default} | {field.description} |")
    return "\n".join(rows)


def magic_table() -> str:
    rows = ["| number | name | this number |", "|---|---|---|"]
    rows += [f"| `{magic.number}` | {magic.name} | {magic.sentence} |" for magic in MAGIC_NUMBERS]
    return "\n".join(rows)


def promise_table() -> str:
    rows = ["| | promise, and the test that proves it |", "|---|---|"]
    rows += [f"| {number} | `{test}` |" for number, test in _promise_tests()]
    return "\n".join(rows)


def _promise_tests() -> list[tuple[int, str]]:
    found = re.findall(r"def (test_promise_(\d)_\w+)", PROMISES.read_text())
    return sorted((int(number), test) for test, number in found)


def _write() -> None:
    text = README.read_text()
    for name, table in (
        ("promises", promise_table()),
        ("magic numbers", magic_table()),
        ("settings", settings_table()),
    ):
        marker = f"<!-- {name} -->"
        start, _, rest = text.partition(marker)
        rest = re.sub(r"\A\n*(\|.*\n)*", "", rest)
        text = f"{start}{marker}\n\n{table}\n{rest if rest.startswith(chr(10)) else chr(10) + rest}"
    README.write_text(text)


if __name__ == "__main__":
    _write()
