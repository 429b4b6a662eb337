"""Orders from a file: CSV or JSON lines, all good or none taken.

An order without an id gets the one that belongs to (this file's content, its line). So a file that
is submitted again, after a crash or by mistake, rings nobody again.
"""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from shared.order import CallOrder, complaints, order_id_from
from shared.phone_number import e164_of

DETAIL_PREFIX: Final = "detail."
COMPLAINTS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Complaint:
    """One fault of a file."""

    line: int
    field: str
    rule: str


class BadFile(Exception):
    """The file holds orders that cannot be taken; nothing of it is."""

    def __init__(self, complaints: list[Complaint]) -> None:
        self.complaints = complaints
        super().__init__(f"{len(complaints)} faults")


def read_orders(
    content: str, *, now: datetime, lifetime_s: float, region: str
) -> dict[int, CallOrder]:
    """Return {line: order} for `content`, JSON lines if it begins with a brace, else CSV.

    Orders that name no times are made `now` and live for `lifetime_s` seconds. A number without a
    country code is one of `region`.

    Raises:
        BadFile: with every fault, up to 20.
    """
    content_digest = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()
    times = {
        "created_at": now.isoformat(),
        "expires_at": (now + timedelta(seconds=lifetime_s)).isoformat(),
    }
    orders: dict[int, CallOrder] = {}
    faults: list[Complaint] = []
    first_line_of: dict[str, int] = {}
    for line, row in _rows(content):
        if isinstance(row, str):
            faults.append(Complaint(line, "order", row))
        else:
            wish = times | {"order_id": order_id_from(content_digest, str(line))} | row
            if isinstance(number := wish.get("target_phone_number"), str):
                wish["target_phone_number"] = e164_of(number, region)
            try:
                order = CallOrder.model_validate(wish)
            except ValidationError as error:
                faults += [Complaint(line, **fault) for fault in complaints(error)]
            else:
                orders[line] = order
                earlier = first_line_of.setdefault(order.order_id, line)
                if earlier != line:
                    rule = f"is the order_id of line {earlier} too"
                    faults.append(Complaint(line, "order_id", rule))
        if len(faults) >= COMPLAINTS_MAX:
            break
    if not orders and not faults:
        faults.append(Complaint(1, "file", "holds no order"))
    if faults:
        raise BadFile(faults)
    return orders


def _rows(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, fields), or (line, what is wrong with it)."""
    if content.lstrip().startswith("{"):
        for number, text in enumerate(content.splitlines(), start=1):
            if text.strip():
                yield number, _json_row(text)
        return
    reader = csv.DictReader(io.StringIO(content, newline=""))
    try:
        for fields in reader:
            yield reader.line_num, _csv_row(fields)
    except csv.Error as error:
        yield reader.line_num, f"is not CSV: {error}"


def _json_row(text: str) -> dict[str, Any] | str:
    try:
        row = from_json(text)  # refuses what nests deeper than 200 levels
    except ValueError as error:
        return f"is not JSON: {error}"
    return row if isinstance(row, dict) else "is not a JSON object"


def _csv_row(fields: dict[str | Any, Any]) -> dict[str, Any] | str:
    if None in fields:
        return "has more cells than there are columns"
    row: dict[str, Any] = {}
    for name, cell in fields.items():
        if cell is None or cell == "":
            continue
        if name.startswith(DETAIL_PREFIX):
            row.setdefault("gathered_details", {})[name.removeprefix(DETAIL_PREFIX)] = cell
        else:
            row[name] = cell
    return row
