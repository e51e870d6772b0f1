"""What parameters a program takes, read from its source: nothing of it is executed.

Seen are argparse's ``add_argument``, click's ``option``, typer's functions, and the config that
``hydra.main`` names. What is worked out while the program runs is not seen.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ProgramParameter", "program_of", "read_parameters"]

LARGEST = 2_000_000  # bytes of a source that are read
_NOTHING = object()


@dataclass(frozen=True)
class ProgramParameter:
    """A parameter of a program.

    Attributes
    ----------
    name : str
        As it stands in a sweep: ``lr`` for ``--lr``, ``optim.lr`` for Hydra's.
    default : object
        None where there is none, or where it is not written out.
    kind : str
        The name of its type, as far as it is said: ``float``, ``int``, ``str``, ``bool``.
    choices : tuple
    help : str
    style : {'flags', 'hydra'}
        How it reaches the program.
    """

    name: str
    default: Any = None
    kind: str = ""
    choices: tuple[Any, ...] = ()
    help: str = ""
    style: str = "flags"


def program_of(command: str) -> Path | None:
    """Return the Python file that a command runs, if it is here."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is still open
        return None
    found = next((Path(word).expanduser() for word in words if word.endswith(".py")), None)
    return found if found is not None and found.is_file() else None


def read_parameters(program: Path) -> list[ProgramParameter]:
    """Return the parameters of a Python program, in the order of its source; none of one that can't be read."""
    try:
        if program.stat().st_size > LARGEST:
            return []
        tree = ast.parse(program.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    found: dict[str, ProgramParameter] = {}
    for parameter in [*_of_argparse(tree), *_of_functions(tree), *_of_hydra(tree, program.parent)]:
        found.setdefault(parameter.name, parameter)
    return list(found.values())


def _of_argparse(tree: ast.AST) -> Iterator[ProgramParameter]:
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"):
            continue
        flags = [word for word in map(_literal, call.args) if isinstance(word, str)]
        name = next((word.lstrip("-") for word in flags if word.startswith("--")), None)
        given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        action = _literal(given.get("action"))
        if name is None or action in ("help", "version"):
            continue
        is_switch = action in ("store_true", "store_false")
        yield _made(
            name, given, kind="bool" if is_switch else _type(given.get("type")), default=False if action == "store_true" else _NOTHING
        )


def _of_functions(tree: ast.AST) -> Iterator[ProgramParameter]:
    """Read click's decorators, and the parameters of functions that typer runs."""
    runs = {
        ast.unparse(call.args[0])
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and call.args and ast.unparse(call.func) == "typer.run"
    }
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        decorators = [one for one in function.decorator_list if isinstance(one, ast.Call)]
        for call in decorators:
            if ast.unparse(call.func) in ("click.option", "option"):
                flags = [word for word in map(_literal, call.args) if isinstance(word, str) and word.startswith("--")]
                given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
                if flags:
                    is_switch = _literal(given.get("is_flag")) is True or "/" in flags[0]
                    yield _made(flags[0].lstrip("-").partition("/")[0], given, kind="bool" if is_switch else _type(given.get("type")))
        if function.name in runs or any(ast.unparse(call.func).endswith((".command", ".callback")) for call in decorators):
            yield from _of_typer(function)


def _of_typer(function: ast.FunctionDef) -> Iterator[ProgramParameter]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    positional = function.args.defaults
    defaults = [*[None] * (len(function.args.args) - len(positional)), *positional, *function.args.kw_defaults]
    for argument, default in zip(arguments, defaults, strict=True):
        if default is None:  # without one it is an argument, and no option
            continue
        kind = _type(argument.annotation)
        name = argument.arg.replace("_", "-")
        if isinstance(default, ast.Call) and ast.unparse(default.func) in ("typer.Option", "Option"):
            given = {keyword.arg: keyword.value for keyword in default.keywords if keyword.arg}
            yield _made(name, given, kind=kind, default=_literal(default.args[0]) if default.args else _NOTHING)
        elif not isinstance(default, ast.Call):
            yield _made(name, {}, kind=kind, default=_literal(default))


def _of_hydra(tree: ast.AST, folder: Path) -> Iterator[ProgramParameter]:
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ("hydra.main", "main")):
            continue
        given = {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg}
        place, name = given.get("config_path"), given.get("config_name")
        if not isinstance(name, str):
            continue
        path = folder / (place if isinstance(place, str) else ".") / (name if name.endswith(".yaml") else f"{name}.yaml")
        yield from _of_config(path)


def _of_config(path: Path) -> Iterator[ProgramParameter]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except (OSError, YAMLError, ValueError):
        return
    yield from _leaves(content, "")


def _leaves(content: Any, at: str) -> Iterator[ProgramParameter]:
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if at == "" and key in ("defaults", "hydra"):
            continue
        name = f"{at}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}.")
        elif not isinstance(value, list):
            yield ProgramParameter(name, value, type(value).__name__ if value is not None else "", style="hydra")


def _made(name: str, given: dict[str, ast.expr], *, kind: str, default: Any = _NOTHING) -> ProgramParameter:
    shown = _literal(given.get("default")) if default is _NOTHING else default
    choices = _literal(given.get("choices"))
    told = _literal(given.get("help"))
    if not kind and shown is not None:
        kind = type(shown).__name__
    return ProgramParameter(
        name, shown, kind, tuple(choices) if isinstance(choices, (list, tuple)) else (), told if isinstance(told, str) else ""
    )


def _literal(node: ast.expr | None) -> Any:
    """Return a value that is written out; None for any other."""
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None


def _type(node: ast.expr | None) -> str:
    """Name a type that is one of Python's own; None in ``float | None`` says nothing."""
    words = ast.unparse(node) if node is not None else ""
    return next((name for name in ("float", "int", "bool", "str") if name in words.replace("Optional", "").split("[")[0].split(" |")), "")
