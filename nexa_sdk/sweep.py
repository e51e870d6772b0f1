"""Sweep: a command and the parameters to try it with."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from nexa_sdk import passing
from nexa_sdk.errors import SweepError, nearest
from nexa_sdk.space import Predicate, Selection, Space, Trial, axis, sampled, table
from nexa_sdk.values import Scalar, as_scalar, check_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Sweep"]

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
_SHELL_WORDS = re.compile(r"\|\|?|&&?|;|\d?>>?(&\d)?|<|&>")
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
        check_names([*names, *constants])
        how = choose_style(words, [*names, *constants], style)
        check_passing([*names, *constants], how)
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
        rows = list(rows)
        if not rows:
            raise SweepError("from_trials needs at least one trial: the sweep is empty")
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise SweepError(f"trial {number}: {row!r} is no mapping of names to values")
        names = list(dict.fromkeys(key for row in rows for key in row))
        if not names:
            raise SweepError("the trials have no parameters, so all would be the same; give each a seed")
        columns = {key: [row.get(key) for row in rows] for key in names}
        return cls._of(command, Space((table(columns, what="from_trials"),)), **how)

    @classmethod
    def from_frame(cls, command: str | Sequence[str], frame: pd.DataFrame, **how: Any) -> Sweep:
        """Make a sweep with a trial for each row of a DataFrame; a missing value is not passed."""
        if not len(frame) or not len(frame.columns):
            raise SweepError(f"the DataFrame has the shape {frame.shape}: the sweep is empty")
        names = [str(key) for key in frame.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SweepError(f"the DataFrame has columns of the same name: {', '.join(map(repr, twice))}; rename one")
        columns = {
            str(key): [None if missing else value for value, missing in zip(frame[key].tolist(), frame[key].isna(), strict=True)]
            for key in frame.columns
        }
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


def split_command(command: str | Sequence[str]) -> tuple[str, ...]:
    """Split a command into words, as a shell would; no shell reads them."""
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise SweepError(f"command {command!r} can't be split into words: {error}") from error
        meant_for_a_shell = [word for word in words if _SHELL_WORDS.fullmatch(word)]
        if meant_for_a_shell:
            raise SweepError(
                f"command {command!r}: no shell reads it, so {meant_for_a_shell[0]!r} would be an "
                'argument; write ["bash", "-c", "…"] for a shell\'s work, or a list of words if '
                "the argument is meant"
            )
    else:
        if not isinstance(command, Iterable):
            raise SweepError(f"command {command!r}: give text, or a list of words")
        words = [os.fspath(word) if isinstance(word, os.PathLike) else word for word in command]
    for word in words:
        if not isinstance(word, str):
            raise SweepError(f"command {command!r}: the word {word!r} is no text; write it as {str(word)!r}")
        check_text("command", word)
    if not words or not words[0]:
        raise SweepError(f"command {command!r} names no program")
    return tuple(words)


def program_name(words: Sequence[str]) -> str:
    """Name a run after its program: the first script or module among the words."""
    for before, word in zip(("", *words), words, strict=False):
        if before == "-m":
            return _slug(word.rpartition(".")[2])
        if re.fullmatch(r"[^{}\s]+\.(py|sh|bash|jl|R|pl|lua|m)", word):
            return _slug(Path(word).stem)
    return _slug(Path(words[0]).name)


def check_run_name(name: str) -> str:
    """Check a name for runs: a job name holds it, and the token after it."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name):
        raise SweepError(
            f"name {name!r}: give at most 40 letters, digits, '.', '_' and '-', and begin with a "
            f"letter or digit, such as {_slug(str(name))!r}"
        )
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40] or "run"


def check_labels(tags: Sequence[str], group: str | None, project: str | None) -> None:
    """Check what reaches Weights & Biases; a comma would make two tags of one."""
    for what, label in (*(("tag", tag) for tag in tags), ("wandb_group", group), ("wandb_project", project)):
        if what == "tag" and (not isinstance(label, str) or not label or "," in label):
            raise SweepError(f"tags: {label!r}: give text without a comma, a tag each")
        if label is not None and not isinstance(label, str):
            raise SweepError(f"{what}={label!r}: give text")
        check_text(what, label or "")


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


# Slurm and the run set these themselves; a script that set them would mislead srun and sbatch.
def is_reserved(name: str) -> bool:
    """Whether an environment variable belongs to the scheduler or to the run."""
    return name.startswith(("SLURM_", "SBATCH_", "NEXA_"))


def check_env(what: str, env: Mapping[str, str]) -> None:
    """Check environment variables of trials."""
    for key, value in env.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
            raise SweepError(f"{what}: {key!r} is no name of an environment variable")
        if is_reserved(key):
            raise SweepError(f"{what}: {key!r} belongs to the scheduler or to the run; choose another name")
        if re.search(r"(API_?KEY|_TOKEN|SECRET|PASSWORD|SECRET_ACCESS_KEY)$", key, re.IGNORECASE):
            raise SweepError(
                f"{what}: {key!r} looks like a secret, and would stand in the script for others to "
                f"read; use Job(secrets=[{key!r}]), which takes it from the environment or .env"
            )
        if not isinstance(value, str):
            raise SweepError(f"{what}: the value of {key!r} is {value!r}; give text")
        check_text(f"{what} {key!r}", value)
