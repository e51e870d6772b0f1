"""The words of a trial in bash: what its program is called with, whichever trial a task carries.

The values stand in bash arrays in the script, or beside it (:mod:`nexa_sdk.scheduling.slurm.rows`).
:mod:`nexa_sdk.passing` says the same in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nexa_sdk.passing import flag, pieces
from nexa_sdk.scheduling.slurm import rows
from nexa_sdk.scheduling.slurm.bash import array_items, double_quoted, number_items, quote, variable_names
from nexa_sdk.values import Scalar, text_of

if TYPE_CHECKING:
    from nexa_sdk.sweep import Sweep

__all__ = ["TrialWords", "count_cells", "trial_words"]

LONGEST_LISTED_RANGE = 64  # a longer range is computed, so that the script stays short
LARGEST_INTEGER = 2**63 - 1  # bash counts no further
SAME = object()


@dataclass(frozen=True)
class TrialWords:
    """Lines of bash that find a trial's words.

    Attributes
    ----------
    places : list of str
        What is the same for every trial: which combinations are meant, where not all are.
    tables : list of str
        The arrays of values, which are the same, too.
    index : list of str
        What finds the trial's place in them.
    words : list of str
        What makes the array ``trial`` of its words.
    """

    places: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    index: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


def trial_words(sweep: Sweep, first: int, count: int, *, place: str, are_rows_beside: bool) -> TrialWords:
    """Render the words of the trials `first` to `first + count - 1`.

    Parameters
    ----------
    place : str
        What expands to a trial's place among these: the array's task, say.
    are_rows_beside : bool
        Whether the values lie beside the script.
    """
    variables = variable_names(_swept(sweep))
    expressions: dict[str, _Expression] = {}
    made = TrialWords()
    if are_rows_beside:
        made.index.extend(rows.reading(variables.values()))
        for factor in sweep.space.factors:
            expressions.update({name: _in_row(variables[name], values) for name, values in factor.columns.items()})
    else:
        _in_arrays(sweep, first, count, place, variables, expressions, made)
    for name, value in sweep.fixed.items():
        expressions[name] = _Expression.constant(value)
    made.words.extend(_words(sweep, expressions))
    return made


def count_cells(sweep: Sweep) -> int:
    """Count the values that the scripts of a sweep list, over all its arrays."""
    chosen = None if sweep.selection.is_everything else sweep.selection.numbers
    if _is_table(sweep):
        columns = [values for factor in sweep.space.factors for values in factor.columns.values()]
        if chosen is None:
            return sum(len(values) for values in columns if not _is_computed(values))
        return len(chosen) * len(columns)
    return len(chosen or ()) + sum(
        len(values) for factor in sweep.space.factors for values in factor.columns.values() if not _is_computed(values)
    )


def _swept(sweep: Sweep) -> list[str]:
    return [name for factor in sweep.space.factors for name in factor.columns]


def _is_table(sweep: Sweep) -> bool:
    """Whether each array has a row for each of its trials: of one factor, and of what bash could not count."""
    is_too_large = not sweep.selection.is_everything and sweep.space.size > LARGEST_INTEGER
    return len(sweep.space.factors) == 1 or is_too_large


# ---- the values ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Expression:
    """A parameter's value in bash. Of a trial that lacks it, its variable is unset.

    `word` expands to it. Where a trial may lack it, `given` is a condition that holds when it does
    not, and `word_or_null` expands to null when it does. Where all values are booleans, `is_true`
    is a condition as well.
    """

    word: str
    given: str | None = None
    word_or_null: str = ""
    is_true: str | None = None
    value: object = SAME

    @classmethod
    def constant(cls, value: Scalar) -> _Expression:
        return cls(quote(text_of(value)), value=value)

    @classmethod
    def of(cls, variable: str, kinds: set[type]) -> _Expression:
        """Expand a variable whose values are of these kinds."""
        plain = f"${variable}" if variable.isidentifier() else f"${{{variable}}}"
        are_booleans = bool in kinds and kinds <= {bool, type(None)}
        if type(None) not in kinds:
            return cls(double_quoted(plain), is_true=f"[[ {plain} == true ]]" if are_booleans else None)
        return cls(
            double_quoted(plain),
            given=f"[[ ${{{variable}+given}} ]]",
            word_or_null=double_quoted(f"${{{variable}-null}}"),
            is_true=f"[[ ${{{variable}-}} == true ]]" if are_booleans else None,
        )


def _in_row(variable: str, values: Sequence[Scalar]) -> _Expression:
    return _Expression.of(variable, _kinds(values))


def _kinds(values: Sequence[Scalar]) -> set[type]:
    return {int} if isinstance(values, range) else set(map(type, values))


def _in_arrays(
    sweep: Sweep,
    first: int,
    count: int,
    place: str,
    variables: Mapping[str, str],
    expressions: dict[str, _Expression],
    made: TrialWords,
) -> None:
    chosen = None if sweep.selection.is_everything else sweep.selection.numbers[first : first + count]
    is_table = _is_table(sweep)
    if is_table:
        made.index.append(f"i={place}")
    elif chosen is not None:
        made.places.extend(["# which of all combinations these are", f"combination={array_items(map(str, chosen))}"])
        made.index.append(f"i=$((combination[{_bare(place)}]))")
    elif variables:
        made.index.append("i=$NEXA_TRIAL")
    for factor, stride in zip(sweep.space.factors, sweep.space.strides, strict=True):
        listed: Sequence[int] | None = None
        if is_table and chosen is None:
            listed = range(first, first + count)
        elif is_table and chosen is not None:
            listed = [number // stride % factor.size for number in chosen]
        index = "i" if is_table else _index(stride, factor.size)
        for name, values in factor.columns.items():
            expression, definition = _column(variables[name], values, listed, index)
            expressions[name] = expression
            if definition:
                made.tables.append(definition)


def _bare(place: str) -> str:
    """Write an expansion as arithmetic has it."""
    return place.removeprefix("$((").removesuffix("))").removeprefix("$")


def _index(stride: int, size: int) -> str:
    if size == 1:
        return "0"
    return f"i % {size}" if stride == 1 else f"i / {stride} % {size}"


def _column(variable: str, values: Sequence[Scalar], listed: Sequence[int] | None, index: str) -> tuple[_Expression, str | None]:
    """Return a column's expression, and the array that it reads."""
    if isinstance(values, range) and _is_computed(values, listed):
        offset = values.start + (values.step * listed[0] if listed is not None else 0)
        position = index if values.step == 1 else f"{values.step} * ({index})"
        return _Expression(double_quoted(f"$(({offset} + {position}))")), None
    chosen = _listed(values, listed)
    kinds = _kinds(chosen)
    expression = _Expression.of(f"{variable}[{index}]", kinds)
    if kinds <= {int, float}:
        return expression, f"{variable}={number_items(chosen)}"  # type: ignore[arg-type]
    if type(None) in kinds:
        items = [f"[{k}]={quote(text_of(value))}" for k, value in enumerate(chosen) if value is not None]
    else:
        items = [quote(text_of(value)) for value in chosen]
    return expression, f"{variable}={array_items(items)}"


def _is_computed(values: Sequence[Scalar], listed: Sequence[int] | None = None) -> bool:
    if not isinstance(values, range) or not (listed is None or isinstance(listed, range)):
        return False
    return len(values) > LONGEST_LISTED_RANGE and max(abs(values[0]), abs(values[-1])) <= LARGEST_INTEGER


def _listed(values: Sequence[Scalar], listed: Sequence[int] | None) -> Sequence[Scalar]:
    if listed is None or listed == range(len(values)):
        return values
    return values[listed.start : listed.stop] if isinstance(listed, range) else [values[row] for row in listed]


# ---- the words -----------------------------------------------------------------------------------


def _words(sweep: Sweep, expressions: Mapping[str, _Expression]) -> list[str]:
    """Return the lines that build the words of a trial."""
    command = [quote(word) for word in sweep.command]
    if sweep.style == "template":
        return [f"trial={array_items([_template_word(word, expressions) for word in sweep.command])}"]
    parts: list[tuple[str | None, list[str]]] = [(None, command)]
    if sweep.style == "env":
        parts = [(None, ["env"])]
    for name, expression in expressions.items():
        parts.append(_passed(sweep.style, name, expression))
    if sweep.style == "env":
        parts.append((None, command))
    lines: list[str] = []
    pending: list[str] = []
    for condition, words in parts:
        if condition is None:
            pending += words
            continue
        lines.append(_append(lines, pending))
        pending = []
        lines.append(f"if {condition}; then trial+=({' '.join(words)}); fi")
    if pending:
        lines.append(_append(lines, pending))
    return [line for line in lines if line]


def _append(lines: Sequence[str], words: list[str]) -> str:
    if not words:
        return ""
    return f"trial{'+=' if any(lines) else '='}{array_items(words)}"


def _passed(style: str, name: str, expression: _Expression) -> tuple[str | None, list[str]]:
    """Return a parameter's words in a style, and the condition under which they are passed."""
    constant = expression.value is not SAME
    if style == "flags":
        if constant and (expression.value is None or expression.value is False):
            return None, []
        if expression.value is True:
            return None, [flag(name)]
        if expression.is_true is not None:
            return expression.is_true, [flag(name)]
        return expression.given, [flag(name), expression.word]
    if style == "env" and constant and expression.value is None:
        return None, []
    key = f"{name}="
    bare = all(c.isalnum() or c in "_./@:+-=" for c in key)
    word = (key if bare else quote(key)) + expression.word
    if expression.given is None:
        return None, [word]
    if style == "hydra":  # a key without a value would be an error of Hydra's; null is its None
        return None, [(key if bare else quote(key)) + expression.word_or_null]
    return expression.given, [word]


def _template_word(word: str, expressions: Mapping[str, _Expression]) -> str:
    parts = []
    for literal, name in pieces(word):
        if literal or name is None:
            parts.append(quote(literal) if literal else "")
        if name is not None:
            parts.append(expressions[name].word)
    return "".join(parts) or "''"
