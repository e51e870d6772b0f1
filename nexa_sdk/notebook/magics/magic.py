"""The magics: a line becomes words, the words an object."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand

from nexa_sdk.errors import CellFailed, NexaError

if TYPE_CHECKING:
    from nexa_sdk.verbs import Session

__all__ = ["NexaMagics"]

_OUT = {"out": {"metavar": "NAME", "help": "give the result this Python name: a cell's first line can't be assigned"}}

_MORE = """\
In a line $name and {expression} are Python's; $$ and {{ stand for themselves, and braces that
hold no expression, as in JSON, stay as they are. Every line returns an object: run = %nexa launch …
%%nexa sweep, preview and launch read YAML from the cell, %%nexa usage executes it here, %%nexa remote on the cluster;
--out NAME names what they return."""


@magics_class
class NexaMagics(Magics):
    """``%nexa`` and ``%%nexa``, and what their lines share."""

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._watched: tuple[object, int] | None = None
        shell.display_formatter.ipython_display_formatter.for_type_by_name("nexa_sdk.run", "Run", self._show_run)

    @cached_property
    def session(self) -> Session:
        """What the lines of this notebook share."""
        from nexa_sdk.verbs import Session

        return Session("%nexa", outputs=_OUT, bind=lambda name, value: self.shell.push({name: value}), execute=self._execute)

    def _execute(self, cell: str) -> None:
        """Execute the Python of a cell, and show its last value, as IPython would."""
        import ast
        from importlib import import_module

        from nexa_sdk.errors import BadUsage

        shell, show = self.shell, import_module("IPython.display").display  # it has no types
        source = shell.transform_cell(cell)
        if shell.should_run_async(cell, transformed_cell=source):
            raise BadUsage("a cell below %%nexa can't await; write `with nexa_sdk.track_usage():` in it, or %nexa usage start above it")
        name = shell.compile.cache(source)
        tree = ast.parse(source, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(shell.compile(tree, name, "exec"), shell.user_ns)  # noqa: S102 - it is the user's cell
        if isinstance(last, ast.Expr):
            value = eval(shell.compile(ast.Expression(last.value), name, "eval"), shell.user_ns)  # noqa: S307
            if value is not None and not source.rstrip().endswith(";"):
                show(value)

    def forget(self) -> None:
        """Take back what was registered beside the magics."""
        self.shell.display_formatter.ipython_display_formatter.pop("nexa_sdk.run.Run", None)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def nexa(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> object:
        """Do what the line says, and return what came of it; ``%nexa -h`` lists the verbs."""
        from nexa_sdk.notebook.magics.expansion import expand, split
        from nexa_sdk.verbs import perform

        session = self.session
        session.namespace = ChainMap(dict(local_ns or {}), self.shell.user_ns)
        session.body = cell
        try:
            words = expand(split(line), session.namespace)
            result = perform(session, words)
        except NexaError as error:
            raise in_one_line(error) from None
        except KeyboardInterrupt as interrupt:
            interrupt._render_traceback_ = lambda: ["\x1b[31mKeyboardInterrupt\x1b[0m"]  # type: ignore[attr-defined]
            raise
        finally:
            session.namespace, session.body = self.shell.user_ns, None
        if words[:1] == ["launch"] and "--watch" in words and result is session.last_run:
            self._watched = result, self.shell.execution_count
        return result

    def _show_run(self, run: Any) -> None:
        """Show nothing for a run that is an output of the same cell already."""
        if self._watched is None or self._watched[0] is not run or self._watched[1] != self.shell.execution_count:
            run._ipython_display_()


def _help() -> str:
    from nexa_sdk.verbs import overview

    return f"{overview('%nexa')}\n\n{_MORE}"


# IPython asks for it when somebody does (%nexa?): the verbs need not be imported before.
NexaMagics.nexa.getdoc = _help  # type: ignore[union-attr]


def in_one_line(error: NexaError) -> NexaError:
    """Let IPython show an error as one line; its class stays, for whoever catches it.

    IPython asks the error itself. Its UsageError would print to stderr alone, and a notebook that
    fails so counts as passed.
    """
    if isinstance(error, CellFailed) and error.traceback:  # it shows the lines of there
        return error.with_traceback(None)
    text = f"\x1b[31m{type(error).__name__}\x1b[0m: {' '.join(str(error).split(chr(10)))}"
    error._render_traceback_ = lambda: [text]  # type: ignore[attr-defined]
    return error.with_traceback(None)
