"""A DataFrame that can be sorted and filtered, by itables; as plain HTML where only core widgets are."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import ipywidgets

from nexa_sdk import display
from nexa_sdk.notebook import front_end

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table_widget"]

MOST_PLAIN = 200  # rows of plain HTML


def table_widget(frame: pd.DataFrame) -> ipywidgets.Widget:
    """Return a widget that shows a DataFrame; all its text is escaped."""
    shown = frame.reset_index()
    for name in shown.columns:
        if shown[name].dtype.kind == "m":
            shown[name] = shown[name].map(_clock)
    if front_end.widgets() != "all":
        rows = [[_plain(value) for value in row] for row in shown.head(MOST_PLAIN).itertuples(index=False)]
        more = len(shown) - len(rows)
        return ipywidgets.HTML(
            display.titled_table("", [str(name) for name in shown.columns], rows, more=f"… and {more:,} more" if more else "")
        )
    return _table_class()(
        shown,
        showIndex=False,
        classes="display compact nowrap",
        allow_html=False,
        scrollX=True,
        lengthMenu=[10, 25, 100, 500],
        maxBytes="2MB",
    )


@cache
def _table_class() -> Any:
    """Return itables' widget with its script as text: of a path anywidget would hold every table, with its rows, for ever."""
    from itables.widget import ITable

    return type("Table", (ITable,), {"_esm": str(ITable._esm), "_css": str(ITable._css)})


def _clock(value: Any) -> str:
    seconds = value.total_seconds()
    return "" if seconds != seconds else f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"  # noqa: PLR0124  NaN


def _plain(value: Any) -> Any:
    import pandas as pd

    return "" if value is None or value is pd.NA or (isinstance(value, float) and value != value) else value  # noqa: PLR0124  NaN
