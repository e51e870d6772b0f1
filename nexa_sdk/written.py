"""Sweeps as JSON, for ``plan.json`` and the journal: whoever reads it runs exactly the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nexa_sdk.space import Factor, Selection, Space
from nexa_sdk.sweep import Sweep
from nexa_sdk.values import Scalar, WrittenFloat, WrittenInt, parse_scalar

__all__ = ["read_sweep", "to_json", "write_sweep"]


def to_json(written: dict[str, Any], *, depth: int = 2) -> str:
    """Write JSON for people and for a million rows: a line for each key down to a depth, and what is below on it.

    Python's own ``indent=`` gives every element of a list a line, and takes five times as long.
    """
    if depth == 0 or not isinstance(written, dict) or not written:
        return json.dumps(written)
    indent = " " * (3 - depth)
    lines = ",\n".join(f"{indent}{json.dumps(key)}: {to_json(value, depth=depth - 1)}" for key, value in written.items())
    return f"{{\n{lines}\n{indent[1:]}}}"


def write_sweep(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep as JSON's values; a predicate is written as the trials that it left."""
    selection = sweep.selection
    return {
        "command": list(sweep.command),
        "style": sweep.style,
        "name": sweep.name,
        "factors": [{name: _write_column(values) for name, values in factor.columns.items()} for factor in sweep.space.factors],
        "only": None if selection.is_everything else list(selection.numbers),
        "fixed": {name: _write(value) for name, value in sweep.fixed.items()},
        "tags": list(sweep.tags),
        "env": dict(sweep.env),
        "wandb_group": sweep.wandb_group,
        "wandb_project": sweep.wandb_project,
    }


def read_sweep(written: dict[str, Any]) -> Sweep:
    """Return the sweep that :func:`write_sweep` wrote."""
    factors = tuple(Factor({name: _read_column(values) for name, values in columns.items()}) for columns in written["factors"])
    return Sweep.from_parts(
        command=written["command"],
        selection=Selection(Space(factors), only=written["only"]),
        fixed={name: _read(value) for name, value in written["fixed"].items()},
        style=written["style"],
        name=written["name"],
        tags=written["tags"],
        env=written["env"],
        wandb_group=written["wandb_group"],
        wandb_project=written["wandb_project"],
    )


def _write_column(values: Sequence[Scalar]) -> Any:
    if isinstance(values, range):
        return {"range": [values.start, values.stop, values.step]}
    if {WrittenInt, WrittenFloat}.isdisjoint(map(type, values)):
        return values
    return [_write(value) for value in values]


def _read_column(values: Any) -> Sequence[Scalar]:
    if isinstance(values, dict):
        return range(*values["range"])
    return [_read(value) for value in values] if any(type(value) is dict for value in values) else values


def _write(value: Scalar) -> Any:
    return {"written": value.text} if isinstance(value, (WrittenInt, WrittenFloat)) else value


def _read(value: Any) -> Scalar:
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]
    text: str = value["written"]
    return parse_scalar({"inf": ".inf", "-inf": "-.inf", "+inf": "+.inf", "nan": ".nan"}.get(text, text))
