"""Pack a cell: its code, the chosen inputs as pickles, and what runs it there."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import Any

from nexa_sdk.errors import InvalidInput, nearest
from nexa_sdk.remote.names import names_of

__all__ = ["STARTER", "Input", "PackedCell", "pack_cell", "read_names", "size_text"]

STARTER = 'import os, sys; sys.path.insert(0, os.environ["NEXA_RESULTS"].rpartition("/results/")[0] + "/cell"); import nexa_cell'
_THERE = ("nexa_cell.py", "nexa_cell_pickling.py", "nexa_cell_run.py", "nexa_cell_screen.py")


@dataclass(frozen=True)
class Input:
    """A value that goes along.

    Attributes
    ----------
    pickled : bytes
    has_code : bool
        Whether it holds functions as bytecode, which only the same Python 3.x can run.
    """

    pickled: bytes
    has_code: bool


@dataclass(frozen=True)
class PackedCell:
    """A cell that is ready to go.

    Attributes
    ----------
    code : str
        Python, as it is executed.
    inputs : dict of str to Input
        By name.
    modules : dict of str to str
        Modules that it uses by these names, and that are imported there.
    outputs : tuple of str
        The names of what comes back.
    """

    code: str
    inputs: Mapping[str, Input]
    modules: Mapping[str, str]
    outputs: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What two cells share that do the same with the same."""
        told = [self.code, self.outputs, dict(self.modules)]
        given = [[name, hashlib.sha256(value.pickled).hexdigest()] for name, value in self.inputs.items()]
        return hashlib.sha256(json.dumps([told, given]).encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return sum(len(value.pickled) for value in self.inputs.values())

    def written(self) -> dict[str, Any]:
        """Return what ``plan.json`` and the cell itself are told of it."""
        return {
            "inputs": {name: {"size": len(value.pickled), "has_code": value.has_code} for name, value in self.inputs.items()},
            "modules": dict(self.modules),
            "outputs": list(self.outputs),
            "python": list(sys.version_info[:3]),
        }

    def files(self) -> dict[str, bytes]:
        """Return what lies in the folder ``cell`` of the run's, by relative path."""
        here = Path(__file__).parent
        found = {name: (here / name).read_bytes() for name in _THERE}
        if self.inputs or self.outputs:
            import cloudpickle  # type: ignore[import-untyped, unused-ignore]

            folder = Path(cloudpickle.__file__).parent
            found |= {f"cloudpickle/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
        found |= {f"in/{name}.pickle": value.pickled for name, value in self.inputs.items()}
        return {**found, "cell.py": self.code.encode(), "cell.json": json.dumps(self.written()).encode()}

    @property
    def words(self) -> str:
        """Say what goes along, with sizes: ``x 12.3 MB, y 80 kB``."""
        return ", ".join(f"{name} {size_text(len(value.pickled))}" for name, value in self.inputs.items())


def pack_cell(
    code: str, *, inputs: Mapping[str, Any], outputs: Sequence[str] = (), namespace: Mapping[str, Any] | None = None, first_line: int = 1
) -> PackedCell:
    """Pack a cell.

    Parameters
    ----------
    code : str
        As a notebook's cell has it, with ``!`` and ``%`` where one likes.
    inputs : mapping
        Values by name. A module is imported there rather than pickled.
    outputs : sequence of str
        Names that it defines.
    namespace : mapping, optional
        Where it comes from: modules that it uses are imported there too, and any other value that it uses
        and that is not given is an error.
    first_line : int
        The line of a notebook's cell that the code begins with: tracebacks count from there.

    Raises
    ------
    InvalidInput
        The code is no Python, lacks an input or defines no such output, or a value can't be pickled.
    """
    python = _python(code, first_line)
    names = names_of(python)
    for name in (*inputs, *outputs):
        check_name(name)
    known = namespace or {}
    values = {name: value for name, value in inputs.items() if not isinstance(value, ModuleType)}
    modules = {name: value.__name__ for name, value in inputs.items() if isinstance(value, ModuleType)}
    lacking = sorted(name for name in names.needed if name in known and name not in inputs)
    modules |= {name: known[name].__name__ for name in lacking if isinstance(known[name], ModuleType)}
    values_lacking = [name for name in lacking if name not in modules]
    if values_lacking:
        given = ",".join([*inputs, *values_lacking])
        raise InvalidInput(
            f"the cell uses {', '.join(values_lacking)}, which it does not define: only what is named goes along. Name it (-i {given}), or "
            "define it in the cell. Nothing was sent"
        )
    unknown = [name for name in outputs if name not in names.defined and name not in values]
    if unknown and not names.is_open:
        raise InvalidInput(f"the cell does not define {unknown[0]!r}; {nearest(unknown[0], names.defined)}. Nothing was sent")
    return PackedCell(python, {name: _pickled(name, value) for name, value in values.items()}, modules, tuple(dict.fromkeys(outputs)))


def read_names(texts: Iterable[str]) -> list[str]:
    """Read names with commas between them: ``x,y``.

    Raises
    ------
    InvalidInput
        For what is no name.
    """
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        check_name(name)
    return list(dict.fromkeys(names))


def check_name(name: object) -> None:
    """Refuse what is no name of Python."""
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        raise InvalidInput(f"{name!r} is no Python name; give names alone, with commas between them")


def size_text(size: int) -> str:
    """Write bytes as a person reads them."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.3g} {unit}"
    return f"{size} bytes"


def _python(code: str, first_line: int) -> str:
    """Return a cell's code as Python, whose lines have the numbers that they have in the notebook."""
    text = "\n" * (first_line - 1) + code.rstrip() + "\n"
    try:
        ast.parse(text)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        changed: str = TransformerManager().transform_cell(code.rstrip() + "\n")  # type: ignore[no-untyped-call]
        text = "\n" * (first_line - 1) + changed
    try:
        compile(text, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        shown = f": {error.text.strip()}" if error.text else ""
        raise InvalidInput(f"line {error.lineno} of the cell is no Python: {error.msg}{shown}. Nothing was sent") from None
    return text


def _pickled(name: str, value: Any) -> Input:
    from nexa_sdk.remote.nexa_cell_pickling import dump

    file = io.BytesIO()
    try:
        has_code = dump(value, file)
    except Exception as error:
        raise InvalidInput(
            f"{name}, of type {type(value).__name__}, can't be pickled: {error}. Make it in the cell instead. Nothing was sent"
        ) from error
    return Input(file.getvalue(), has_code)
