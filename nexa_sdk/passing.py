"""How parameters reach a program: the words and variables of one trial.

The generated script says the same in bash (:mod:`nexa_sdk.scheduling.slurm.script`); a test holds
the two together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from nexa_sdk.errors import SweepError, nearest
from nexa_sdk.values import Scalar, text_of
from nexa_sdk.variables import is_reserved

if TYPE_CHECKING:
    from nexa_sdk.space import Trial
    from nexa_sdk.sweep import Sweep

__all__ = ["Style", "argv", "check_kinds", "check_names", "check_passing", "choose_style", "environment", "flag", "pieces"]

Style = Literal["flags", "hydra", "env", "template"]
STYLES = ("flags", "hydra", "env", "template")

# {lr} in a command's word; doubled braces stand for themselves, as in str.format.
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.-]*)\}")
_NAMES = {
    "flags": (re.compile(r"[A-Za-z_][\w.-]*"), "letters, digits, '_', '-' and '.', without dashes before it"),
    "hydra": (re.compile(r"(\+{0,2}|~)[A-Za-z_][\w./@:-]*"), "a Hydra override's key, as in 'optimizer.lr' or '+seed'"),
    "env": (re.compile(r"[A-Za-z_]\w*", re.ASCII), "letters, digits and '_', as the shell's variables have"),
    "template": (re.compile(r"[A-Za-z_][\w.-]*"), "letters, digits, '_', '-' and '.'"),
}


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


def check_names(names: Sequence[str]) -> None:
    """Refuse a parameter that is given twice."""
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str):
            raise SweepError(f"parameter {name!r} is no text")
        if name in seen:
            raise SweepError(f"parameter {name!r} is given twice; give it once, swept or fixed")
        seen.add(name)


def choose_style(words: Sequence[str], names: Sequence[str], style: str | None) -> str:
    """Choose how parameters reach the program, and check a template's placeholders."""
    if style is not None and style not in STYLES:
        raise SweepError(f"style {style!r}: {nearest(str(style), STYLES)}")
    if style not in (None, "template"):
        return style
    placed = {m[1] for word in words for m in PLACEHOLDER.finditer(word) if m[1]}
    if style is None and not placed:
        return "flags"
    unknown = sorted(placed - set(names))
    if unknown:
        known = nearest(unknown[0], names) if names else "the sweep has none"
        raise SweepError(
            f"the command says {{{unknown[0]}}}, which is no parameter: {known} "
            "(write {{ and }} for braces that are meant, or style='flags')"
        )
    unplaced = [name for name in names if name not in placed]
    if unplaced:
        raise SweepError(f"parameter {unplaced[0]!r} stands nowhere in the command's template; write {{{unplaced[0]}}} where it belongs")
    return "template"


def check_passing(names: Sequence[str], style: str) -> None:
    """Refuse a name that the style can't pass on, and two that would be one flag."""
    pattern, meant = _NAMES[style]
    flags: dict[str, str] = {}
    for name in names:
        if not pattern.fullmatch(name):
            raise SweepError(f"parameter {name!r} can't be passed as {style}: a name is {meant}")
        if style == "flags":
            other = flags.setdefault(name.replace("_", "-"), name)
            if other != name:
                raise SweepError(f"parameters {other!r} and {name!r} are one flag, --{name.replace('_', '-')}")
        if style == "env" and is_reserved(name):
            raise SweepError(f"parameter {name!r}: SLURM_*, SBATCH_* and NEXA_* belong to the scheduler and to the run")
