"""Tables that tests fill, a row for each kind of fault, and that stand at the end of a session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

__all__ = ["lines", "note_row"]


def note_row(item: pytest.Item, table: str, kind: str, numbers: Mapping[str, float]) -> None:
    """Note numbers for the row of a kind; they travel with the test's report, whichever process ran it."""
    item.user_properties.append(("row", {"table": table, "kind": kind, **{name: float(value) for name, value in numbers.items()}}))


def lines(reports: Iterable[pytest.TestReport]) -> dict[str, list[str]]:
    """Sum up what was noted: the lines of each table."""
    noted = [value for report in reports if report.when == "call" for name, value in report.user_properties if name == "row"]
    found: dict[str, list[str]] = {}
    for table in dict.fromkeys(row["table"] for row in noted):
        rows = [row for row in noted if row["table"] == table]
        columns = [name for name in rows[0] if name not in ("table", "kind")]
        found[table] = [_line("fault", ["points", *columns])]
        for kind in dict.fromkeys(row["kind"] for row in rows):
            of = [row for row in rows if row["kind"] == kind]
            found[table].append(_line(kind, [len(of), *(round(sum(row[name] for row in of)) for name in columns)]))
    return found


def _line(kind: str, values: Iterable[Any]) -> str:
    return f"{kind:34} " + " ".join(f"{value:>9}" for value in values)
