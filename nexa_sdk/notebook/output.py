"""Output: what a cell showed, updated from any thread by its display id, so that its last state is saved."""

from __future__ import annotations

from typing import Any

__all__ = ["Output"]


class Output:
    """One output of a cell that can be updated from any thread."""

    def __init__(self) -> None:
        self._handle: Any = None

    @property
    def is_shown(self) -> bool:
        """Whether there is anything to update."""
        return self._handle is not None

    def show(self, bundle: dict[str, Any]) -> None:
        """Show a bundle of MIME types in the cell that is executed; or, later, in its place.

        Parameters
        ----------
        bundle : dict
            ``{"text/html": …, "text/plain": …}``.
        """
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)
