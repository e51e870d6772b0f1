"""How parameters reach a program: the words and variables of one trial.

The generated script says the same in bash (:mod:`nexa_sdk.scheduling.slurm.script`); a test holds
the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexa_sdk.errors import SweepError
from nexa_sdk.values import Scalar, text_of

if TYPE_CHECKING:
    from nexa_sdk.space import Trial
    from nexa_sdk.sweep import Sweep

__all__ = ["argv", "environment", "flag", "pieces"]


def flag(name: str) -> str:
    """Name the flag of a parameter: ``learning_rate`` → ``--learning-rate``."""
    return "--" + name.replace("_", "-")


def argv(sweep: Sweep, trial: Trial) -> list[str]:
    """Return the words that a trial runs, as the program receives them."""
    if sweep.style == "template":
        return ["".join(literal + (text_of(trial[name]) if name else "") for literal, name in pieces(word)) for word in sweep.command]
    words = list(sweep.command)
    if sweep.style == "hydra":
        words += [f"{name}={text_of(value)}" for name, value in trial.items()]
    elif sweep.style == "flags":
        for name, value in trial.items():
            words += as_flag(name, value)
    return words


def as_flag(name: str, value: Scalar) -> list[str]:
    """Return a parameter's words: a true boolean is a bare flag, a false one and None nothing."""
    if value is None or value is False:
        return []
    return [flag(name)] if value is True else [flag(name), text_of(value)]


def environment(sweep: Sweep, trial: Trial) -> dict[str, str]:
    """Return the variables that a trial's program receives its parameters in; None sets none."""
    if sweep.style != "env":
        return {}
    return {name: text_of(value) for name, value in trial.items() if value is not None}


def pieces(word: str) -> list[tuple[str, str | None]]:
    """Split a template's word into literals, each followed by a parameter's name or None."""
    from nexa_sdk.sweep import PLACEHOLDER

    found: list[tuple[str, str | None]] = []
    literal, end = "", 0
    for match in PLACEHOLDER.finditer(word):
        literal += word[end : match.start()]
        end = match.end()
        if match[1]:
            found.append((literal, match[1]))
            literal = ""
        else:
            literal += match[0][0]
    return [*found, (literal + word[end:], None)]


def check_kinds(sweep: Sweep) -> None:
    """Refuse values that the style can't tell apart or can't leave out.

    Raises
    ------
    SweepError
        For flags that are now bare and now carry a value, and for None in a template.
    """
    for factor in sweep.space.factors:
        for name, values in factor.columns.items():
            if isinstance(values, range):
                continue
            kinds = set(map(type, values))
            if sweep.style == "flags" and bool in kinds and kinds - {bool, type(None)}:
                raise SweepError(
                    f"parameter {name!r} mixes booleans and other values; as a flag a boolean is bare "
                    "and the others are not: write the booleans as text, or use style='hydra'"
                )
            if sweep.style == "template" and type(None) in kinds:
                raise SweepError(f"parameter {name!r} has a None, which a template can't leave out; give it a value")
    if sweep.style == "template" and None in sweep.fixed.values():
        raise SweepError("a fixed parameter is None, which a template can't leave out; give it a value")
