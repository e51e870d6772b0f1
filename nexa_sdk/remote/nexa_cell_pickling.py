"""Pickles values, here and where a cell runs: Python 3.8 or later, and cloudpickle."""

from __future__ import annotations

from types import FunctionType
from typing import Any, BinaryIO

import cloudpickle  # type: ignore[import-untyped, unused-ignore]

__all__ = ["dump"]

PROTOCOL = 5  # from 3.8 on


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    has_code = False

    def reducer_override(self, value: Any) -> Any:
        reduced = super().reducer_override(value)
        if isinstance(value, FunctionType) and reduced is not NotImplemented:
            self.has_code = True  # else it is named by its module
        return reduced


def dump(value: Any, file: BinaryIO) -> bool:
    """Write a value; return whether functions went along as bytecode, which only the same Python 3.x can read."""
    pickler = _Pickler(file, protocol=PROTOCOL)
    pickler.dump(value)
    return pickler.has_code
