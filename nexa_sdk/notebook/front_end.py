"""What the front end of this process can show."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

from nexa_sdk.errors import InvalidInput

__all__ = ["Widgets", "cell", "execution_count", "in_notebook", "widgets"]

Widgets = Literal["no", "core", "all"]


def _shell() -> Any:
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def in_notebook() -> bool:
    """Whether outputs can be updated: a kernel's shell, not a terminal's."""
    return getattr(_shell(), "kernel", None) is not None


def cell() -> str | None:
    """Return the id of the cell that is executed, where the front end tells it."""
    kernel = getattr(_shell(), "kernel", None)
    parent = kernel.get_parent() if kernel is not None else {}
    found = (parent.get("metadata") or {}).get("cellId")
    return str(found) if found is not None else None


def execution_count() -> int:
    """Return the number of the execution under way."""
    return int(getattr(_shell(), "execution_count", 0))


def widgets() -> Widgets:
    """Say which widgets can be shown.

    ``"core"`` are those of ipywidgets alone: VS Code has them built in, and fetches others from the
    internet, where it may. ``$NEXA_WIDGETS`` decides otherwise: ``no``, ``core`` or ``all``.

    Raises
    ------
    InvalidInput
        ``$NEXA_WIDGETS`` is another word.
    """
    if not in_notebook():
        return "no"
    told = os.environ.get("NEXA_WIDGETS", "")
    if told:
        if told not in ("no", "core", "all"):
            raise InvalidInput(f"NEXA_WIDGETS={told!r}: it is no, core or all")
        return told  # type: ignore[return-value]
    if "VSCODE_PID" in os.environ or "VSCODE_CWD" in os.environ:
        return "core"
    if "google.colab" in sys.modules:
        from google.colab import output

        output.enable_custom_widget_manager()
    return "all"
