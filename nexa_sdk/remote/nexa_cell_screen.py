"""What a cell shows where it runs: values, pictures, and what IPython's `display` is given. Python 3.8 or later.

Text goes to the log as it is written. All else becomes a JSON line of a file of its own, which says
how long the log was then.
"""

from __future__ import annotations

import base64
import importlib.abc
import io
import json
import os
import pprint
import sys
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Bundle = tuple[dict[str, Any], dict[str, Any]]

__all__ = ["AfterImport", "Screen"]

# As IPython asks for them.
_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_latex_": "text/latex",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
}
_LIVE = "application/vnd.jupyter.widget-view+json"  # of a widget whose kernel is not there


class Screen:
    """Writes down what is shown."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = open(descriptor, "w", encoding="utf-8", errors="surrogatepass")
        self._shown: list[Any] = []  # figures: one that was shown is not shown again at the end

    def tell(self, kind: str, **record: Any) -> None:
        """Write a line, and where the log was."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # the cell closed it
                stream.flush()
        try:
            at = os.fstat(1).st_size
        except OSError:
            at = 0
        line = json.dumps({"kind": kind, "at": at, **record}, default=_plain)
        self._file.write(line + "\n")
        self._file.flush()

    def show(self, value: Any) -> None:
        """Show a value as a notebook does."""
        data, metadata = self._bundle(value)
        self._show(data, metadata)

    def _show(self, data: dict[str, Any], metadata: dict[str, Any], **record: Any) -> None:
        self.tell("show", data={kind: _sendable(content) for kind, content in data.items()}, metadata=metadata, **record)

    # ---- a value's forms -----------------------------------------------------------------------

    def _bundle(self, value: Any) -> Bundle:
        data: dict[str, Any] = {"text/plain": _text(value)}
        metadata: dict[str, Any] = {}
        if isinstance(value, type):
            return data, metadata
        figure = _class("matplotlib.figure", "Figure")
        if figure is not None and isinstance(value, figure):
            self._shown.append(value)
            return {**data, "image/png": _png(value)}, metadata
        several = getattr(value, "_repr_mimebundle_", None)
        if callable(several):
            found, more = _pair(several(include=None, exclude=None))
            data.update(found or {})
            metadata.update(more)
        for name, kind in _METHODS.items():
            method = getattr(value, name, None)
            if kind not in data and callable(method):
                content, more = _pair(method())
                if content is not None:
                    data[kind] = content
                    if more:
                        metadata[kind] = more
        data.pop(_LIVE, None)
        return data, metadata

    # ---- IPython's functions -------------------------------------------------------------------

    def display(
        self,
        *values: Any,
        raw: bool = False,
        metadata: dict[str, Any] | None = None,
        display_id: Any = None,
        update: bool = False,
        clear: bool = False,
        transient: dict[str, Any] | None = None,
        **_: Any,
    ) -> Any:
        """Show values, as IPython's function of that name."""
        if clear:
            self.clear(wait=True)
        transient = transient or {}
        name = display_id if display_id is not None else transient.get("display_id")
        name = uuid.uuid4().hex if name is True else name
        for value in values:
            if not raw and not isinstance(value, type) and self._by_itself(value):
                continue
            data, more = (dict(value), {}) if raw else self._bundle(value)
            self._show(data, {**more, **(metadata or {})}, id=name, update=update)
        return _Handle(self, name) if display_id is not None else None

    @staticmethod
    def _by_itself(value: Any) -> bool:
        """Let a value show itself that has its own way to, where IPython is there to be shown by."""
        method = getattr(value, "_ipython_display_", None)
        if not callable(method) or callable(getattr(value, "_repr_mimebundle_", None)):
            return False
        try:
            method()
        except (NotImplementedError, ImportError):
            return False
        return True

    def publish(self, data: dict[str, Any], metadata: dict[str, Any] | None = None, *_: Any, **more: Any) -> None:
        """Show what is prepared already, as IPython's ``publish_display_data``."""
        self.display(data, raw=True, metadata=metadata, transient=more.get("transient"), update=bool(more.get("update")))

    def clear(self, wait: bool = False) -> None:
        """Take away what was shown, as IPython's ``clear_output``."""
        self.tell("clear", wait=bool(wait))

    # ---- figures -------------------------------------------------------------------------------

    def figures(self) -> None:
        """Show the open figures of matplotlib, and close them: what ``plt.show()`` does, and the end of the cell."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in list(pyplot.get_fignums()):
            figure = pyplot.figure(number)
            if not any(figure is shown for shown in self._shown):
                self.show(figure)
            pyplot.close(figure)

    # ---- what libraries find -------------------------------------------------------------------

    def take_over(self) -> None:
        """Have matplotlib and IPython show here, as soon as the cell imports them."""
        os.environ.setdefault("MPLBACKEND", "Agg")
        os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
        names = {"display": self.display, "clear_output": self.clear, "publish_display_data": self.publish}
        sys.meta_path.insert(
            0,
            AfterImport(
                {
                    # a function: matplotlib gives it a signature
                    "matplotlib.pyplot": lambda module: setattr(module, "show", lambda *_, **__: self.figures()),
                    "IPython.core.display_functions": lambda module: module.__dict__.update(names),
                }
            ),
        )


class _Handle:
    """What ``display(…, display_id=…)`` returns."""

    def __init__(self, screen: Screen, name: Any) -> None:
        self.display_id = name
        self._screen = screen

    def display(self, value: Any, **how: Any) -> None:
        self._screen.display(value, display_id=self.display_id, **how)

    def update(self, value: Any, **how: Any) -> None:
        self._screen.display(value, display_id=self.display_id, update=True, **how)


class AfterImport(importlib.abc.MetaPathFinder):
    """Does something with a module right after it was imported."""

    def __init__(self, actions: dict[str, Callable[[Any], object]]) -> None:
        self._actions = actions
        for name in list(actions):
            if name in sys.modules:
                actions.pop(name)(sys.modules[name])

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module as the others do, and have it looked at once it is loaded."""
        if name not in self._actions:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self and hasattr(finder, "find_spec") else None
            if spec is not None and spec.loader is not None:
                _add(spec.loader, self._actions.pop(name))
                return spec
        return None


def _add(loader: Any, act: Callable[[Any], object]) -> None:
    """Have something done with a module once its loader has executed it."""
    load = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        load(module)
        act(module)

    loader.exec_module = exec_module


def _class(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _text(value: Any) -> str:
    try:
        if type(value) in (dict, list, tuple, set, frozenset):
            return pprint.pformat(value, width=79, compact=True, sort_dicts=False)
        return repr(value)
    except Exception as error:  # noqa: BLE001  said where the value would stand
        return f"<{type(value).__name__}, whose repr fails: {error}>"


def _pair(found: Any) -> Bundle:
    return found if isinstance(found, tuple) and len(found) == 2 else (found, {})


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight", dpi=figure.dpi)
    return file.getvalue()


def _sendable(content: Any) -> Any:
    return base64.b64encode(content).decode() if isinstance(content, (bytes, bytearray)) else content


def _plain(value: Any) -> Any:
    """Write what JSON has not: numbers and arrays of NumPy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return str(value)
