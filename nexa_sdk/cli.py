"""The console command ``nexa``: the verbs of ``%nexa``, for a terminal and for scripts.

Exit status: 0; 1 when something failed, or trials that were watched did; 2 for a line that can't be
meant; 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import BadUsage, NexaError
from nexa_sdk.verbs import Help, Session, find, overview, perform

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["main"]

_FORMATS: Mapping[str, Mapping[str, Any]] = {
    "csv": {"action": "store_true", "help": "write the table as CSV"},
    "json": {"action": "store_true", "help": "write the table as JSON lines, an object for each row"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says, and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of ASCII shows an é as it can
    try:
        status = _run(words)
        sys.stdout.flush()
    except BadUsage as error:
        return _fail(error, 2)
    except NexaError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `nexa runs | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _fail(error: NexaError, status: int) -> int:
    print(f"nexa: {' '.join(str(error).splitlines())}", file=sys.stderr)
    return status


def _run(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        from nexa_sdk import __version__

        print(f"nexa {__version__}")
        return 0
    if not words:
        print(overview("nexa"), file=sys.stderr)
        return 2
    is_table = not words[0].startswith("-") and words[0] != "help" and find(words[0]).is_table
    session = _Console("nexa", outputs=_FORMATS if is_table else {})
    result = perform(session, words)
    if not session.is_shown:
        _show(words[0], result, session.form)
    return _status(result) if session.is_shown or words[0] == "watch" else 0


class _Console(Session):
    """A session of one line; it learns in which form the line wants its result."""

    form = ""
    is_shown = False

    def keep(self, args: Namespace, result: object) -> None:
        self.form = next((form for form in _FORMATS if getattr(args, form, False)), "")
        self.is_shown = getattr(args, "watch", False)


def _status(result: object) -> int:
    """Say whether all trials completed that were watched to their end."""
    from nexa_sdk.run import Run
    from nexa_sdk.states import State

    run = result if isinstance(result, Run) else getattr(result, "run", None)
    return 1 if isinstance(run, Run) and set(run.counts()) != {State.COMPLETED} else 0


def _show(verb: str, result: Any, form: str) -> None:
    """Print what a verb returned."""
    text = _exports(result) if verb in ("connect", "sandbox") else None
    if text is not None:
        print(text)
    elif result is None or type(result).__name__ in ("RunView", "UtilizationView"):
        return
    elif type(result).__name__ == "DataFrame":
        _show_table(result, form)
    elif type(result).__name__ == "CostReport":
        _show_cost(result, form)
    elif type(result).__name__ == "Plan":
        from nexa_sdk.display import plan_text

        print(plan_text(result))
    elif isinstance(result, str) and not isinstance(result, Help):
        sys.stdout.write(result)
    else:
        print(repr(result))


def _show_table(table: Any, form: str) -> None:
    """Print a DataFrame whole."""
    if form == "csv":
        sys.stdout.write(table.to_csv())
    elif form == "json":
        sys.stdout.write(table.reset_index().to_json(orient="records", lines=True, date_format="iso", default_handler=str))
    elif table.empty:
        print("Nothing yet.", file=sys.stderr)
    else:
        print(table.to_string(na_rep=""))


def _show_cost(report: Any, form: str) -> None:
    """Print a cost: what is to be said of it and its small table, or all of its charges in a form."""
    if form:
        _show_table(report.to_frame().set_index("ResourceId"), form)
        return
    from nexa_sdk.display import text_table

    print("\n".join([report.title, *text_table(*report.shown()), "", *report.summary]))


def _exports(result: Any) -> str | None:
    """Return what makes a shell mean a cluster, for ``eval "$(nexa connect sandbox)"``; None where there is no such thing."""
    if type(result).__name__ == "SandboxState":
        if not result.is_up:
            return None
        return "\n".join([*(f"# {line}" for line in repr(result).splitlines()), *_lines(result.environment)])
    if type(result).__name__ == "Cluster":
        return "\n".join([f"# {result!r}", *_lines({"NEXA_CLUSTER": result.name, "NEXA_RUNS": result.runs_folder})])
    return None


def _lines(environment: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
