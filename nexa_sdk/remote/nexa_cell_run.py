"""Runs a cell where its job has a Python: inputs in, code, outputs out. Python 3.8 or later."""

from __future__ import annotations

import ast
import asyncio
import builtins
import importlib
import inspect
import json
import linecache
import os
import pickle
import socket
import subprocess
import sys
import traceback
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from nexa_cell_screen import Screen  # type: ignore[import-not-found]

NAME = "<cell>"
HERE = os.path.dirname(os.path.abspath(__file__))


class Problem(Exception):
    """What keeps a cell from running, or its outputs from being written, in words."""


def main(folder: str) -> int:
    """Run the cell of a folder, write down how it ended, and return the exit status."""
    job = os.path.basename(os.environ["NEXA_RESULTS"])[: -len(".jsonl")]
    screen = Screen(os.path.join(folder, job + ".shown"))
    with open(os.path.join(folder, "cell.json"), encoding="utf-8") as file:
        told = json.load(file)
    python = {"python": list(sys.version_info[:3]), "executable": sys.executable, "host": socket.gethostname()}
    screen.tell("begin", **python)
    with open(os.path.join(folder, "cell.py"), encoding="utf-8") as file:
        source = file.read()
    cell = ModuleType("__main__")
    screen.take_over()
    error: dict[str, Any] | None = None
    outputs: dict[str, Any] = {}
    try:
        load(cell.__dict__, folder, told, python)
        builtins.display = screen.display  # type: ignore[attr-defined]
        builtins.get_ipython = lambda: shell(cell)  # type: ignore[attr-defined]
        sys.modules["__main__"] = cell
        try:
            execute(source, cell, screen)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        finally:
            screen.figures()
        outputs = save(cell.__dict__, folder, job, told)
    except Problem as problem:
        error = {"type": "", "words": str(problem), "traceback": []}
    except BaseException as raised:  # noqa: BLE001  told where somebody waits
        error = described(raised)
    screen.tell("end", outputs=outputs, error=error, **python)
    return 0 if error is None else 1


# ---- inputs --------------------------------------------------------------------------------------


def load(namespace: dict[str, Any], folder: str, told: dict[str, Any], python: dict[str, Any]) -> None:
    """Give the cell its inputs, and the modules that it names."""
    where = f"{sys.executable} (Python {_dotted(python['python'])}, on {python['host']})"
    for name, about in told["inputs"].items():
        if about["has_code"] and told["python"][:2] != python["python"][:2]:
            raise Problem(
                f"{name} holds functions as bytecode of the notebook's Python {_dotted(told['python'])}, which {where} can't run: name "
                f"a Python {_dotted(told['python'][:2])} with --python, --venv, --conda or --module, or define them in the cell or a module"
            )
    if told["inputs"]:
        pickling(folder)
    for name in told["inputs"]:
        try:
            with open(os.path.join(folder, "in", name + ".pickle"), "rb") as file:
                namespace[name] = pickle.load(file)  # noqa: S301  the user's own
        except Exception as error:
            raise Problem(f"{name} can't be unpickled by {where}: {type(error).__name__}: {error}") from error
    for name, module in told["modules"].items():
        try:
            namespace[name] = importlib.import_module(module)
        except Exception as error:
            raise Problem(f"{name} is the module {module}, which {where} can't import: {type(error).__name__}: {error}") from error


def pickling(folder: str) -> Any:
    """Import what pickles, and the notebook's cloudpickle, which came along."""
    if "nexa_cell_pickling" not in sys.modules:
        sys.path.insert(0, folder)
        try:
            importlib.import_module("nexa_cell_pickling")
        except Exception as error:
            version = _dotted(sys.version_info[:3])
            raise Problem(f"the notebook's cloudpickle does not run on Python {version}: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(folder)
    return sys.modules["nexa_cell_pickling"]


def _dotted(version: Any) -> str:
    return ".".join(map(str, version))


# ---- the code ------------------------------------------------------------------------------------


def execute(source: str, cell: ModuleType, screen: Any) -> None:
    """Execute the code, and show the value of its last expression."""
    linecache.cache[NAME] = (len(source), None, source.splitlines(True), NAME)
    tree = ast.parse(source, NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    loop: list[asyncio.AbstractEventLoop] = []

    def run(code: Any) -> Any:
        value = eval(code, cell.__dict__)  # noqa: S307
        if not code.co_flags & inspect.CO_COROUTINE:
            return value
        loop.extend([] if loop else [asyncio.new_event_loop()])
        return loop[0].run_until_complete(value)

    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    run(compile(tree, NAME, "exec", flags, dont_inherit=True))
    if isinstance(last, ast.Expr):
        value = run(compile(ast.Expression(last.value), NAME, "eval", flags, dont_inherit=True))
        if value is not None and not source.rstrip().endswith(";"):
            screen.show(value)


def described(error: BaseException) -> dict[str, Any]:
    """Write an error down: its type, its words and the lines of its traceback, without what is ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(HERE):
        trace = trace.tb_next
    lines = "".join(traceback.format_exception(type(error), error, trace)).splitlines()
    frames = [frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == NAME]
    line = frames[-1] if frames else error.lineno if isinstance(error, SyntaxError) and error.filename == NAME else None
    return {"type": type(error).__name__, "words": str(error), "traceback": lines, "line": line}


def shell(cell: ModuleType) -> Any:
    """Return the IPython that ``!`` and ``%`` ask, or what knows ``!`` alone where there is none."""
    try:
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config
    except ImportError:
        return Shell(None)
    config = Config({"HistoryManager": {"enabled": False}})
    return Shell(InteractiveShell.instance(config=config, user_module=cell, user_ns=cell.__dict__))


class Shell:
    """What ``get_ipython()`` returns in a cell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def run_line_magic(self, name: str, line: str, *rest: Any, **more: Any) -> Any:
        if name == "matplotlib":  # pictures come back anyhow
            return None
        if self._shell is None:
            raise ImportError(f"%{name} needs IPython, which {sys.executable} has not")
        return self._shell.run_line_magic(name, line)

    def system(self, command: str) -> None:
        sys.stdout.flush()
        subprocess.run(command, shell=True, check=False)  # noqa: S602  the user's own words

    def getoutput(self, command: str, *_: Any, **__: Any) -> list[str]:
        return subprocess.run(command, shell=True, check=False, stdout=subprocess.PIPE).stdout.decode(errors="replace").splitlines()  # noqa: S602

    def __getattr__(self, name: str) -> Any:
        if self._shell is None:
            raise ImportError(f"get_ipython().{name} needs IPython, which {sys.executable} has not")
        return getattr(self._shell, name)


# ---- outputs -------------------------------------------------------------------------------------


def save(namespace: dict[str, Any], folder: str, job: str, told: dict[str, Any]) -> dict[str, Any]:
    """Write the outputs, each by rename; return their sizes in bytes, and whether they hold bytecode."""
    missing = [name for name in told["outputs"] if name not in namespace]
    if missing:
        known = [name for name in namespace if not name.startswith("_") and name not in told["modules"]]
        near = get_close_matches(missing[0], known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else "it defines " + (", ".join(sorted(known)) or "nothing")
        raise Problem(f"the cell ended without defining {missing[0]!r}: {hint}")
    found: dict[str, Any] = {}
    if told["outputs"]:
        dump = pickling(folder).dump
        os.makedirs(os.path.join(folder, "outputs"), mode=0o700, exist_ok=True)
    for name in told["outputs"]:
        path = os.path.join(folder, "outputs", f"{job}.{name}.pickle")
        try:
            with open(os.open(path + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                has_code = dump(namespace[name], file)
            os.replace(path + ".part", path)
        except Exception as error:
            raise Problem(f"the output {name} can't be pickled: {type(error).__name__}: {error}") from error
        found[name] = {"size": os.path.getsize(path), "has_code": has_code}
    return found
