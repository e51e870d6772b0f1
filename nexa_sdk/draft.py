"""Draft: a sweep while it is being written, as texts; it says what each becomes, or what is wrong with it.

A form is a face of it. Whatever a draft holds, a few lines of Python say as well: `Draft.python`
writes them, and `Draft.yaml` a definition.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nexa_sdk import display, distributions
from nexa_sdk.budget import Budget
from nexa_sdk.errors import InvalidInput, JobError, SweepError
from nexa_sdk.sweep import Sweep
from nexa_sdk.verbs.inline import join_values, read_parameter

if TYPE_CHECKING:
    from nexa_sdk.job import Job

__all__ = ["KINDS", "Draft", "DraftError", "Parameter"]

FEW, MOST = 50, 10**6  # trials that are drawn to see what is wrong, and at most
MOST_IN_RANGE = 10**9
MOST_NUMBER = 1e300  # of a limit: what is worked out with it stays finite
MOST_STEPS = 10_000  # of a range that is written out, and to choose from
MOST_WRITTEN = 1000  # explicit trials of a sweep that is written down

KINDS = {
    "values": "1e-3, 1e-4; or 0..9, both ends included",
    "zipped": "a, b, c: they go side by side with those of other zipped ones",
    "fixed": "one value, the same in every trial",
    "range": "first, last, how many",
    "log range": "first, last, how many",
    "uniform": "low, high",
    "loguniform": "low, high",
    "randint": "low, high, both included",
    "normal": "mean, deviation",
    "choice": "a, b, c",
}
"""How a parameter gets its values, and what is written for it."""

_DRAWN = {
    "uniform": distributions.uniform,
    "loguniform": distributions.loguniform,
    "randint": distributions.randint,
    "normal": distributions.normal,
}


class DraftError(InvalidInput):
    """Fields of a draft can't be meant.

    Attributes
    ----------
    problems : dict of str to str
        What is wrong, by field: ``command``, ``parameter 0``, ``time``, …
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {words}" for field, words in problems.items()))
        self.problems = dict(problems)


@dataclass(frozen=True)
class Parameter:
    """A parameter as it is written: its name, one of :data:`KINDS`, and the text of its values."""

    name: str
    kind: str = "values"
    text: str = ""

    def read(self) -> Any:
        """Return what the text means: a list, one value, or a distribution.

        Raises
        ------
        InvalidInput
        """
        if self.kind in ("values", "zipped", "fixed", "choice"):
            _, found = read_parameter(f"x={_without_spaces(self.text)}")
            if isinstance(found, range):  # stays one, however long
                if found.stop - found.start > MOST_IN_RANGE:
                    raise SweepError(f"{self.text.strip()} are more than {MOST_IN_RANGE:,} values; write fewer")
                values: Sequence[Any] = found
            else:
                values = [_plain(value) for value in found] if isinstance(found, list) else [_plain(found)]
            if self.kind == "fixed":
                if len(values) != 1:
                    raise SweepError(f"{self.text!r} are {len(values):,} values; write one, or choose another kind")
                return values[0]
            if values == [""]:
                raise SweepError(f"it has no values; write {KINDS[self.kind]}")
            if self.kind == "choice":
                if len(values) > MOST_STEPS:
                    raise SweepError(f"{self.text.strip()} are {len(values):,} values to choose from; randint draws from a long range")
                return distributions.choice(tuple(values))
            return values
        numbers = self._numbers(3 if self.kind.endswith("range") else 2)
        if self.kind in _DRAWN:
            return _DRAWN[self.kind](*numbers)
        return _steps(*numbers, is_log=self.kind == "log range")

    def _numbers(self, count: int) -> list[Any]:
        words = [word.strip() for word in self.text.split(",")]
        try:
            numbers = [_number(word) for word in words]
        except ValueError:
            raise SweepError(f"{self.text!r} are no numbers; write {KINDS[self.kind]}") from None
        if not all(abs(number) < MOST_NUMBER for number in numbers):  # NaN neither
            raise SweepError(f"{self.text!r} are no finite numbers; write {KINDS[self.kind]}")
        if self.kind == "randint" and not all(isinstance(number, int) for number in numbers):
            raise SweepError(f"{self.text!r} are no whole numbers, of which randint draws; uniform draws others")
        if len(numbers) != count:
            raise SweepError(f"{self.text!r} are {len(numbers)} numbers; write {KINDS[self.kind]}")
        return numbers

    def python(self) -> str:
        """Write its values as Python."""
        if self.kind in _DRAWN or self.kind == "choice":
            words = ", ".join(map(repr, self._numbers(2))) if self.kind in _DRAWN else _listed(self.read().options)
            return f"{self.kind}({words})"
        return _listed(self.read())

    def yaml(self) -> str:
        """Write its values as YAML's flow style."""
        if self.kind in _DRAWN or self.kind == "choice":
            return f"{{{self.kind}: {_yaml(self._numbers(2) if self.kind in _DRAWN else self.read().options)}}}"
        return _yaml(self.read())


@dataclass(frozen=True)
class Draft:
    """What has been written so far.

    Attributes
    ----------
    cluster, command, style, name, n, seed, where, budget : str
        Texts; an empty one leaves its field open. `where` is a Python expression of the parameters:
        ``lr * batch < 1``.
    parameters : sequence of Parameter
    job : mapping of str to str
        Fields of :class:`nexa_sdk.Job`, as they are written.
    env : str
        ``NAME=value``, a line each.
    """

    cluster: str = "local"
    command: str = ""
    style: str = ""
    name: str = ""
    parameters: Sequence[Parameter] = ()
    n: str = ""
    seed: str = ""
    where: str = ""
    job: Mapping[str, str] = field(default_factory=dict)
    env: str = ""
    budget: str = ""

    @classmethod
    def of(cls, sweep: Sweep) -> Draft:
        """Write a sweep down as a draft.

        Raises
        ------
        InvalidInput
            What is kept by a function can't be written in it, nor what was drawn from a sweep.
        """
        selection = sweep.selection
        tables = [factor for factor in selection.space.factors if factor.drawn is None and len(factor.columns) > 1]
        drawn = [factor.drawn for factor in selection.space.factors if factor.drawn is not None]
        dists = [dist for found, _, _ in drawn for dist in found.values()]
        if (
            selection.where is not None
            or selection.only is not None
            or len(tables) > 1
            or any(table.size > MOST_WRITTEN for table in tables)
            or any(type(dist).__name__ not in KINDS for dist in dists)
        ):
            raise InvalidInput(
                f"{sweep!r} holds trials that were chosen by a function, drawn from a sweep or from SciPy, or {MOST_WRITTEN} explicit ones "
                "and more: that can't be written in a form; write it there from the start: nexa_sdk.ui.sweep()"
            )
        parameters = []
        for factor in selection.space.factors:
            if factor.drawn is not None:
                parameters += [Parameter(name, type(dist).__name__, _written_draw(dist)) for name, dist in factor.drawn[0].items()]
            else:
                kind = "zipped" if len(factor.columns) > 1 else "values"
                parameters += [Parameter(name, kind, _written(values)) for name, values in factor.columns.items()]
        parameters += [Parameter(name, "fixed", _written([value])) for name, value in sweep.fixed.items()]
        return cls(
            command=shlex.join(sweep.command),
            style=sweep.style if sweep.style != "flags" else "",
            name=sweep.name,
            parameters=parameters,
            n=str(drawn[0][1]) if drawn else "",
            seed=str(drawn[0][2]) if drawn else "",
            env="\n".join(f"{key}={value}" for key, value in sweep.env.items()),
        )

    # ---- what it means -------------------------------------------------------------------------

    def problems(self) -> dict[str, str]:
        """Say what is wrong, by field; nothing is asked."""
        found: dict[str, str] = {}
        for read in (lambda: self._checked, self.job_object, self.budget_object):
            try:
                read()
            except DraftError as error:
                found |= error.problems
        return found

    def sweep(self) -> Sweep:
        """Return the sweep.

        Raises
        ------
        DraftError
        """
        return self._sweep

    def count(self) -> int | None:
        """Count the trials, without drawing them; None where a condition has to be asked for each.

        Raises
        ------
        DraftError
        """
        checked = self._checked
        if self.where.strip():
            return None
        n = int(self.n.strip() or 0)
        return len(checked) * n // min(n, FEW) if n else len(checked)

    @property
    def is_cheap(self) -> bool:
        """Whether its trials are made at once: no condition is asked for each, and few are drawn; it has no problems."""
        return not self.where.strip() and int(self.n.strip() or 0) <= MOST_WRITTEN

    @cached_property
    def _sweep(self) -> Sweep:
        return self._checked if int(self.n.strip() or 0) <= FEW else self._made(MOST)

    @cached_property
    def _checked(self) -> Sweep:
        """The sweep with a few of the trials that are drawn: it says what is wrong, at once."""
        return self._made(FEW)

    def _made(self, most: int) -> Sweep:
        problems: dict[str, str] = {}
        parts: dict[str, dict[str, Any]] = {"grid": {}, "zipped": {}, "fixed": {}, "sample": {}}
        for place, parameter in enumerate(self.parameters):
            if not parameter.name.strip():
                problems[f"parameter {place}"] = "it has no name"
                continue
            if any(parameter.name in part for part in parts.values()):
                problems[f"parameter {place}"] = f"{parameter.name!r} is there already; give it once"
                continue
            try:
                parts[_part(parameter.kind)][parameter.name] = parameter.read()
            except InvalidInput as error:
                problems[f"parameter {place}"] = str(error)
        options: dict[str, Any] = {}
        for key in ("n", "seed"):
            text = getattr(self, key).strip()
            if text and not re.fullmatch(r"-?[0-9]+", text):
                problems[key] = f"{text!r} is no whole number"
            elif text and key == "n" and (len(text) > len(str(MOST)) or not 1 <= int(text) <= MOST):
                problems[key] = f"{text} trials can't be drawn: give a number from 1 to {MOST:,}"
            elif text and (parts["sample"] or key == "n"):
                options[key] = min(int(text), most) if key == "n" else int(text)
        if parts["sample"] and "n" not in options and "n" not in problems:
            problems["n"] = "parameters are drawn: say how many trials to draw"
        if not self.command.strip():
            problems["command"] = "nothing is said to run; write a command, as in python train.py"
        try:
            predicate = self._predicate()
        except DraftError as error:
            problems |= error.problems
        if problems:
            raise DraftError(problems)
        try:
            return Sweep(
                self.command,
                parts["grid"],
                zipped=parts["zipped"] or None,
                sample=parts["sample"] or None,
                fixed=parts["fixed"] or None,
                where=predicate,
                style=self.style or None,  # type: ignore[arg-type]
                name=self.name.strip() or None,
                **options,
            )
        except InvalidInput as error:
            raise DraftError({self._field_of(str(error)): str(error)}) from None

    def _field_of(self, complaint: str) -> str:
        """Return the field that a complaint of the sweep is about."""
        first = complaint.partition("=")[0].split(" ")[0]
        if first == "name":
            return first
        for place, parameter in enumerate(self.parameters):
            if f"{parameter.name!r}" in complaint:
                return f"parameter {place}"
        if first == "zipped":  # of different lengths: the last of them is marked
            return f"parameter {max(place for place, parameter in enumerate(self.parameters) if parameter.kind == 'zipped')}"
        return first if first in ("n", "seed", "where", "style", "name") else "command"

    def _predicate(self) -> Any:
        if not self.where.strip():
            return None
        source = f"lambda trial: {self._condition()}"
        return eval(compile(source, "<where>", "eval"), {})  # noqa: S307 - it is the user's own expression

    def _condition(self) -> str:
        """Write the condition with each parameter looked up in its trial."""
        try:
            tree = ast.parse(self.where.strip(), mode="eval")
        except (SyntaxError, ValueError) as error:
            raise DraftError({"where": f"{self.where!r} is no expression: {error.args[0]}; write one, as in lr * batch < 1"}) from None
        names = [parameter.name for parameter in self.parameters]
        return ast.unparse(ast.fix_missing_locations(_InTrial(names).visit(tree)))

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the job that are given."""
        fields = {name: _field_value(name, text.strip()) for name, text in self.job.items() if text.strip()}
        env = {}
        for line in filter(None, map(str.strip, self.env.splitlines())):
            key, equals, value = line.partition("=")
            if not equals:
                raise DraftError({"env": "a line is NAME=value; a value that must stay secret belongs into secrets, by its name"})
            env[key.strip()] = value
        return fields | ({"env": env} if env else {})

    def job_object(self) -> Job:
        """Return the job.

        Raises
        ------
        DraftError
        """
        from nexa_sdk.job import Job

        fields = self.job_fields()
        try:
            return Job(**fields)
        except JobError as whole:
            problems = {}
            for name, value in fields.items():  # each alone, to find whose it is
                try:
                    Job(**{name: value})
                except JobError as error:
                    problems[name] = str(error).removeprefix(f"{name}: ")
            raise DraftError(problems or {"job": str(whole)}) from None

    def budget_object(self) -> Budget | None:
        """Return the budget.

        Raises
        ------
        DraftError
        """
        try:
            return Budget.read(self.budget.strip() or None)
        except InvalidInput as error:
            raise DraftError({"budget": str(error)}) from None

    # ---- what else says it ---------------------------------------------------------------------

    def python(self) -> str:
        """Write the lines of Python that do the same.

        Raises
        ------
        DraftError
        """
        self.sweep()
        drawn = sorted({parameter.kind for parameter in self.parameters if _part(parameter.kind) == "sample"})
        parts = [repr(self.command)]
        for part in ("grid", "zipped", "sample", "fixed"):
            given = [parameter for parameter in self.parameters if _part(parameter.kind) == part]
            if given:
                parts.append(f"{part}={{{', '.join(f'{parameter.name!r}: {parameter.python()}' for parameter in given)}}}")
        if drawn:
            parts += [f"{key}={int(text)}" for key in ("n", "seed") if (text := getattr(self, key).strip())]
        if self.where.strip():
            parts.append(f"where=lambda trial: {self._condition()}")
        parts += [f"{key}={text!r}" for key, text in (("style", self.style), ("name", self.name.strip())) if text]
        fields = self.job_fields()
        if self.budget.strip():
            fields["budget"] = self.budget.strip()
        resources = "".join(f", {name}={value!r}" for name, value in fields.items())
        return (
            f"from nexa_sdk import {', '.join(['Cluster', 'Sweep', *drawn])}\n\n"
            f"sweep = Sweep({_wrapped(parts)})\n"
            f"run = Cluster({self.cluster!r}).launch(sweep{resources})\n"
        )

    def yaml(self) -> str:
        """Write a definition that means the same.

        Raises
        ------
        DraftError
            A condition can't be written there.
        """
        self.sweep()
        if self.where.strip():
            raise DraftError({"where": "a condition can't stand in YAML; the Python has it"})
        top = [*([f"name: {_yaml(self.name.strip())}"] if self.name.strip() else []), f"cluster: {_yaml(self.cluster)}"]
        if self.budget.strip():
            top.append(f"budget: {_yaml(self.budget.strip())}")
        fields = self.job_fields()
        if fields:
            top.append("job:")
            for name, value in fields.items():
                if isinstance(value, dict):
                    top += [f"  {name}:", *(f"    {key}: {_yaml(str(text))}" for key, text in value.items())]
                else:
                    top.append(f"  {name}: {_yaml(value)}")
        top += ["sweep:", f"  base_args: {_yaml(self.command)}"]
        if self.style:
            top.append(f"  style: {self.style}")
        if any(_part(parameter.kind) == "sample" for parameter in self.parameters):
            top += [f"  {key}: {int(text)}" for key in ("n", "seed") if (text := getattr(self, key).strip())]
        # those that are drawn are one factor, and come last, as in Python
        ordered = sorted(self.parameters, key=lambda parameter: _part(parameter.kind) == "sample")
        for block, kinds in (("parameters", set(KINDS) - {"zipped"}), ("zipped", {"zipped"})):
            lines = [f"    {_yaml(parameter.name)}: {parameter.yaml()}" for parameter in ordered if parameter.kind in kinds]
            top += [f"  {block}:", *lines] if lines else []
        return "\n".join(top) + "\n"


class _InTrial(ast.NodeTransformer):
    """Looks parameters up in the trial."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {re.sub(r"\W", "_", name): name for name in names}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self._names:
            return node
        return ast.Subscript(ast.Name("trial", ast.Load()), ast.Constant(self._names[node.id]), ast.Load())


def _written(values: Sequence[Any]) -> str:
    """Write values so that they are read again."""
    if isinstance(values, range) and values.step == 1:
        return f"{values[0]}..{values[-1]}"
    return ", ".join(join_values([display.cell_text(value) if value is not None else "null"]) for value in values)


def _written_draw(dist: Any) -> str:
    return _written(dist.options) if isinstance(dist, distributions.choice) else ", ".join(repr(value) for value in vars(dist).values())


def _part(kind: str) -> str:
    return kind if kind in ("fixed", "zipped") else "sample" if kind in _DRAWN or kind == "choice" else "grid"


def _without_spaces(text: str) -> str:
    """Take the spaces around commas away, as one writes them in a form."""
    return re.sub(r"(?<!\\),\s+", ",", text.strip())


def _plain(value: Any) -> Any:
    """Return a number as Python's own: how it was written is not kept, so that Python and YAML say the same."""
    if isinstance(value, bool) or value is None:
        return value
    return float(value) if isinstance(value, float) else int(value) if isinstance(value, int) else value


def _number(word: str) -> int | float:
    return int(word) if re.fullmatch(r"[-+]?[0-9]+", word) else float(word)


def _steps(first: float, last: float, count: float, *, is_log: bool) -> list[Any]:
    if not isinstance(count, int) or not 1 <= count <= MOST_STEPS:
        raise SweepError(f"{count!r} steps: give a whole number from 1 to {MOST_STEPS:,}")
    if is_log and (first <= 0 or last <= 0):
        raise SweepError(f"a log range lies above 0, and this is from {first} to {last}")
    if count == 1:
        return [first]
    found: list[Any] = []
    for k in range(count):
        share = k / (count - 1)
        value = first * (last / first) ** share if is_log else first + (last - first) * share
        rounded = float(f"{value:.6g}")
        is_whole = not is_log and isinstance(first, int) and isinstance(last, int) and rounded.is_integer() and abs(rounded) < 1e6
        found.append(int(rounded) if is_whole else rounded)
    return found


def _field_value(name: str, text: str) -> Any:
    from nexa_sdk.job import Job

    if name in ("modules", "secrets", "pre_commands"):
        return [word for word in map(str.strip, text.split("\n" if name == "pre_commands" else ",")) if word]
    if text in ("true", "false") and name in Job.model_fields:
        return text == "true"
    if re.fullmatch(r"[0-9]+", text) and name not in ("time", "mem"):
        return int(text)
    return text


def _listed(found: Any) -> str:
    if isinstance(found, tuple) or (isinstance(found, range) and len(found) <= 2):
        found = list(found)
    if isinstance(found, range) and found[0] == 0:
        return f"range({len(found)})"
    if isinstance(found, list) and len(found) > 2 and all(type(value) is int for value in found):
        step = found[1] - found[0]
        if step > 0 and found == list(range(found[0], found[-1] + 1, step)):
            ends = f"{found[0]}, {found[-1] + 1}" if found[0] else str(found[-1] + 1)
            return f"range({ends})" if step == 1 else f"range({found[0]}, {found[-1] + 1}, {step})"
    return repr(found)


def _wrapped(parts: Sequence[str]) -> str:
    """Write arguments on one line, or on a line each where that is long."""
    whole = ", ".join(parts)
    return whole if len(whole) < 80 else "\n    " + ",\n    ".join(parts) + ",\n"


_PLAIN_YAML = re.compile(r"[A-Za-z_/][\w./ @+-]*(?<! )")
_OTHER_YAML = {"null", "true", "false", "yes", "no", "on", "off"}


def _yaml(value: Any) -> str:
    """Write a scalar so that YAML 1.2's core schema reads the same."""
    if isinstance(value, str):
        if _PLAIN_YAML.fullmatch(value) and value.lower() not in _OTHER_YAML:
            return value
        import json

        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, range) and len(value) > FEW:
        return f"{{range: [{value.start}, {value.stop}]}}"
    if isinstance(value, (list, tuple, range)):
        return f"[{', '.join(map(_yaml, value))}]"
    return repr(value)
