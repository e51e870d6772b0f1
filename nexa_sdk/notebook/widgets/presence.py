"""Presence: tells when a front end shows a view, so that what is heavy is made only for somebody who sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

__all__ = ["Presence"]


class Presence(anywidget.AnyWidget):
    """A widget that is not seen, and says so when it is shown: an executed notebook has no front end, and hears nothing.

    Parameters
    ----------
    shown : callable
        Called, from whichever thread the kernel has for messages, when a front end shows it for the first time.
    """

    _esm = traitlets.Unicode("""
        export default { render({ model, el }) { el.style.display = "none"; model.send({ shown: true }); } };
    """).tag(sync=True)

    def __init__(self, shown: Callable[[], None]) -> None:
        super().__init__()
        self._shown: Callable[[], None] | None = shown
        self.on_msg(self._heard)

    def _heard(self, widget: Any, content: Any, buffers: Any) -> None:
        shown, self._shown = self._shown, None
        if shown is not None:
            shown()
