"""Sweep: a command and the parameters to try it with."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from nexa_sdk import passing
from nexa_sdk.command_line import check_run_name, program_name, split_command
from nexa_sdk.errors import SweepError
from nexa_sdk.passing import Style
from nexa_sdk.space import Predicate, Selection, Space, Trial, axis, by_column, sampled, table
from nexa_sdk.values import Scalar, as_scalar
from nexa_sdk.variables import check_env, check_labels

if TYPE_CHECKING:
    import pandas as pd

    from nexa_sdk.notebook.views.sweep import SweepView

__all__ = ["Sweep"]

MAX_TABLE = 10**6  # rows of a DataFrame that nobody asked for in so many words
_SHOWN = 5


class Sweep:
    """A command and the parameters to try it with. A value: nothing in it changes.

    Parameters
    ----------
    command : str or sequence of str
        The program and its arguments. Text is split as a shell splits words, and no shell reads
        it: for pipes and redirections write ``["bash", "-c", "…"]``.
    grid : mapping of name to values, optional
        Every combination is a trial; the last parameter varies fastest.
    zipped : mapping of name to values, optional
        Lists of one length that vary together.
    sample : mapping of name to distribution, optional
        `n` rows are drawn: ``uniform``, ``loguniform``, ``randint``, ``normal``, ``choice`` of
        :mod:`nexa_sdk.distributions`, a list to choose from, or SciPy's frozen distributions.
    fixed : mapping of name to value, optional
        The same for every trial.
    n, seed : int
        How many rows `sample` draws, and from which seed. The seed is 0 unless told otherwise,
        so that a cell that runs again means the same trials.
    where : callable, optional
        Called with a trial's parameters as a dict; the trial stays if it returns true.
    style : {'flags', 'hydra', 'env', 'template'}, optional
        How parameters reach the program: as flags (``--learning-rate 0.001``; a true boolean a
        bare flag, a false one and None nothing), as Hydra's ``key=value``, as environment
        variables, or where the command says ``{name}``. Unless given: a template where the
        command holds a parameter's ``{name}``, else flags.
    name : str, optional
        What runs are called; unless given, the program's name.
    tags : sequence of str, optional
        Labels; they reach the program as WANDB_TAGS.
    env : mapping of str to str, optional
        Environment variables of every trial.
    wandb_group, wandb_project : str, optional
        WANDB_RUN_GROUP (unless given, the run's id) and WANDB_PROJECT of every trial.

    Raises
    ------
    SweepError
        For an empty sweep, a parameter given twice, a name that the style can't pass on, a value
        that is no scalar.

    Examples
    --------
    >>> sweep = Sweep("python train.py", grid={"lr": [1e-3, 1e-4], "seed": range(3)})
    >>> len(sweep), sweep[4], sweep.argv(4)
    (6, {'lr': 0.0001, 'seed': 1}, ['python', 'train.py', '--lr', '0.0001', '--seed', '1'])
    """

    __slots__ = ("command", "env", "fixed", "name", "selection", "style", "tags", "wandb_group", "wandb_project")

    command: tuple[str, ...]
    fixed: Mapping[str, Scalar]
    style: Style
    name: str
    tags: tuple[str, ...]
    env: Mapping[str, str]
    wandb_group: str | None
    wandb_project: str | None
    selection: Selection

    def __init__(
        self,
        command: str | Sequence[str],
        grid: Mapping[str, Any] | None = None,
        *,
        zipped: Mapping[str, Any] | None = None,
        sample: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Any] | None = None,
        n: int | None = None,
        seed: int = 0,
        where: Predicate | None = None,
        style: Style | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        wandb_group: str | None = None,
        wandb_project: str | None = None,
    ) -> None:
        for what, given in (("grid", grid), ("zipped", zipped), ("sample", sample), ("fixed", fixed)):
            if given is not None and not isinstance(given, Mapping):
                raise SweepError(f"{what}={given!r} is no mapping; give names and their values, as in {{'lr': [0.1, 0.01]}}")
        factors = [axis(key, values) for key, values in (grid or {}).items()]
        if zipped:
            factors.append(table(zipped, what="zipped="))
        if sample:
            if n is None or n < 1:
                raise SweepError(f"sample= needs n=, the number of trials to draw; it is {n!r}")
            factors.append(sampled(sample, n, seed))
        elif n is not None:
            raise SweepError(f"n={n} goes with sample=; to draw from a grid use sweep.sample({n})")
        self._build(
            command=command,
            selection=Selection(Space(tuple(factors)), where),
            fixed=fixed,
            style=style,
            name=name,
            tags=tags,
            env=env,
            wandb_group=wandb_group,
            wandb_project=wandb_project,
        )

    def _build(
        self,
        *,
        command: str | Sequence[str],
        selection: Selection,
        fixed: Mapping[str, Any] | None = None,
        style: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        wandb_group: str | None = None,
        wandb_project: str | None = None,
    ) -> None:
        if selection.where is not None and not callable(selection.where):
            raise SweepError(f"where={selection.where!r} is no function; write where=lambda trial: trial['lr'] < 0.1")
        words = split_command(command)
        constants = {key: as_scalar(key, value) for key, value in (fixed or {}).items()}
        names = [key for factor in selection.space.factors for key in factor.columns]
        passing.check_names([*names, *constants])
        how = passing.choose_style(words, [*names, *constants], style)
        passing.check_passing([*names, *constants], how)
        given_env = dict(env or {})
        check_env("env", given_env)
        labels = (tags,) if isinstance(tags, str) else tuple(tags)
        check_labels(labels, wandb_group, wandb_project)
        freeze = object.__setattr__
        freeze(self, "command", words)
        freeze(self, "selection", replace(selection, fixed=constants))
        freeze(self, "fixed", constants)
        freeze(self, "style", how)
        freeze(self, "name", program_name(words) if name is None else check_run_name(name))
        freeze(self, "tags", labels)
        freeze(self, "env", given_env)
        freeze(self, "wandb_group", wandb_group)
        freeze(self, "wandb_project", wandb_project)
        passing.check_kinds(self)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Sweep does not change; make another one to set {name}")

    def __reduce__(self) -> tuple[Any, ...]:  # copying and pickling would set attributes
        return partial(Sweep.from_parts, **{slot: getattr(self, slot) for slot in self.__slots__}), ()

    # ---- other ways to say what to try ---------------------------------------------------------

    @classmethod
    def from_trials(cls, command: str | Sequence[str], rows: Sequence[Mapping[str, Any]], **how: Any) -> Sweep:
        """Make a sweep of explicit trials, one mapping each.

        A parameter that a row lacks, or has as None, is not passed to that trial. Further
        keywords are those of :class:`Sweep` but `grid`, `zipped` and `sample`.
        """
        columns = by_column(list(rows))
        return cls._of(command, Space((table(columns, what="from_trials"),)), **how)

    @classmethod
    def from_frame(cls, command: str | Sequence[str], frame: pd.DataFrame, **how: Any) -> Sweep:
        """Make a sweep with a trial for each row of a DataFrame; a missing value is not passed."""
        if not len(frame) or not len(frame.columns):
            raise SweepError(f"the DataFrame has the shape {frame.shape}: the sweep is empty")
        names = [str(key) for key in frame.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SweepError(f"the DataFrame has columns of the same name: {', '.join(map(repr, twice))}; rename one")
        columns = {name: _without_missing(frame[key]) for name, key in zip(names, frame.columns, strict=True)}
        return cls._of(command, Space((table(columns, what="from_frame"),)), **how)

    @classmethod
    def from_yaml(cls, source: str | os.PathLike[str]) -> Sweep:
        """Read the ``sweep:`` and ``launcher:`` of a YAML definition, from a path or from text.

        See :mod:`nexa_sdk.definition` for the schema; :func:`nexa_sdk.definition.load` returns
        its job as well.
        """
        from nexa_sdk.definition import load

        return load(source).sweep

    @classmethod
    def _of(cls, command: str | Sequence[str], space: Space, *, where: Predicate | None = None, **how: Any) -> Sweep:
        return cls.from_parts(command=command, selection=Selection(space, where), **how)

    @classmethod
    def from_parts(cls, **parts: Any) -> Sweep:
        """Make a sweep of a selection that is made already; the other parts as the constructor has them."""
        made = object.__new__(cls)
        made._build(**parts)
        return made

    def sample(self, n: int, *, seed: int = 0) -> Sweep:
        """Return a sweep of `n` different trials drawn from this one, in their order."""
        if n < 1:
            raise SweepError(f"sample({n}): the sweep would be empty")
        return self._only(self.selection.draw(n, seed))

    def _only(self, numbers: Sequence[int]) -> Sweep:
        made = object.__new__(Sweep)
        for slot in self.__slots__:
            object.__setattr__(made, slot, getattr(self, slot))
        object.__setattr__(made, "selection", Selection(self.space, only=numbers))
        return made

    # ---- a sequence of trials ------------------------------------------------------------------

    @property
    def space(self) -> Space:
        """All combinations, `where` and `sample` left aside."""
        return self.selection.space

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters, in the order in which they reach the program."""
        swept = (key for factor in self.space.factors for key in factor.columns)
        return (*swept, *self.fixed)

    def __len__(self) -> int:
        if self.selection.is_everything and self.space.size > sys.maxsize:
            raise SweepError(f"{self.space.size:,} trials are more than can be counted; draw some with sweep.sample(n)")
        return len(self.selection.numbers)

    @overload
    def __getitem__(self, i: int) -> Trial: ...
    @overload
    def __getitem__(self, i: slice) -> list[Trial]: ...
    def __getitem__(self, i: int | slice) -> Trial | list[Trial]:
        if isinstance(i, slice):
            return [self._trial(number) for number in self.selection.numbers[i]]
        return self._trial(self.selection.numbers[i])

    def __iter__(self) -> Iterator[Trial]:
        return map(self._trial, self.selection.numbers)

    def _trial(self, number: int) -> Trial:
        return {**self.space.combination(number), **self.fixed}

    def argv(self, i: int) -> list[str]:
        """Return the words that trial `i` runs, as the program receives them."""
        return passing.argv(self, self[i])

    def trials(self, first: int | None = None) -> pd.DataFrame:
        """Return the trials as a DataFrame: a row each, the parameters as columns.

        Parameters
        ----------
        first : int, optional
            Only so many, from the first on; these need no time however large the sweep is.

        Raises
        ------
        SweepError
            For more than 10⁶ rows, unless `first` asks for them.
        """
        import pandas as pd

        if first is None and self.selection.is_everything and self.space.size > MAX_TABLE:
            raise SweepError(
                f"a table of {self.space.size:,} trials would fill the memory; "
                "ask for some: trials(first=1000), or sweep.sample(1000).trials()"
            )
        numbers = self.selection.numbers if first is None else self.selection.first(first)
        index = pd.RangeIndex(len(numbers), name="trial")
        columns: dict[str, Any] = {}
        for factor, stride in zip(self.space.factors, self.space.strides, strict=True):
            rows = [number // stride % factor.size for number in numbers]
            for key, values in factor.columns.items():
                columns[key] = [values[row] for row in rows]
        columns.update({key: [value] * len(numbers) for key, value in self.fixed.items()})
        return pd.DataFrame(columns, index=index)

    # ---- how it shows itself -------------------------------------------------------------------

    def _size_text(self) -> str:
        if self.selection.where is not None and "numbers" not in self.selection.__dict__:
            return f"some of {self.space.size:,} trials"  # counting may take seconds: not in a repr
        count = self.selection.size
        return f"{count:,} trial" + ("s" if count != 1 else "")

    def edit(self) -> SweepView:
        """Open it in a form, to be changed, previewed and launched; see :func:`nexa_sdk.ui.sweep`."""
        from nexa_sdk import ui

        return ui.sweep(self)

    def __repr__(self) -> str:
        return f"<Sweep {shlex.join(self.command)!r}: {self._size_text()} of {', '.join(self.parameters) or 'no parameters'}>"

    def _repr_html_(self) -> str:
        from nexa_sdk import display

        return display.titled_table(
            f"Sweep · {self._size_text()} · {shlex.join(self.command)}",
            ["trial", *self.parameters],
            [[number, *trial.values()] for number, trial in enumerate(self._preview())],
            more="…" if self._has_more() else "",
        )

    def _preview(self) -> list[Trial]:
        if self.selection.where is not None and "numbers" not in self.selection.__dict__:
            return []
        return [self._trial(number) for number in self.selection.numbers[:_SHOWN]]

    def _has_more(self) -> bool:
        return self.selection.where is not None or self.selection.size > _SHOWN


def _without_missing(series: Any) -> list[Any]:
    values: list[Any] = series.tolist()
    missing = series.isna()
    if not missing.any():
        return values
    return [None if is_missing else value for value, is_missing in zip(values, missing.tolist(), strict=True)]
