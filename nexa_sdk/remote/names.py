"""Which names a cell defines and which it needs, read from its code; nothing is executed."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["CellNames", "names_of"]

# With these it can't be told which names there will be.
_DYNAMIC = frozenset({"exec", "eval", "globals", "locals", "vars", "get_ipython"})
_OWN = frozenset({"display", "get_ipython", "__name__", "__file__", "__doc__", "__builtins__"})


@dataclass(frozen=True)
class CellNames:
    """The names of a cell.

    Attributes
    ----------
    defined : frozenset of str
        What it assigns, imports or defines at its top level.
    needed : frozenset of str
        What it uses and neither it nor Python defines.
    is_open : bool
        Whether it may define further ones: by ``import *`` or ``exec``.
    """

    defined: frozenset[str]
    needed: frozenset[str]
    is_open: bool


def names_of(code: str) -> CellNames:
    """Read the names of a cell.

    Raises
    ------
    SyntaxError
    """
    top = symtable.symtable(code, "<cell>", "exec")
    defined, used = set[str](), set[str]()
    for table in _tables(top):
        for symbol in table.get_symbols():
            is_global = table is top or symbol.is_global()
            if is_global and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()):
                defined.add(symbol.get_name())
            if is_global and symbol.is_referenced():
                used.add(symbol.get_name())
    has_star = any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(ast.parse(code)))
    needed = used - defined - _OWN - set(dir(builtins))
    return CellNames(frozenset(defined), frozenset(needed), is_open=has_star or bool(used & _DYNAMIC))


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)
