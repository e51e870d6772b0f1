"""Sweeps written down as YAML: what to try, how to start it, and with which resources.

::

    name: lr-study                      # what runs are called; else the program's name
    cluster: local                      # where; else the one that is connected
    budget: 50 USD                      # what it may cost; or {amount: 50 USD, until_spent: true, ends_running: true}
    job:                                # the fields of nexa_sdk.Job
      time: 2:00:00
      gpus_per_node: 2
      secrets: [WANDB_API_KEY]
    launcher:                           # how the program is started; see Launcher
      type: torchrun
      script: train.py
    sweep:                              # what to try; see SweepDefinition
      base_args: [--epochs, 10]
      parameters:                     # one or several values each
        lr: [1e-3, 1e-4]                # an axis of the grid
        seed: {range: [0, 3]}           # 0, 1, 2
        optimizer: adamw                # one value: the same in every trial
      overrides: [weight_decay=0.10]    # the same, as a command line has it
      tags: [baseline]
      wandb_group: lr-study
      env: {OMP_NUM_THREADS: 4}

Without ``launcher:``, `base_args` is the whole command: ``base_args: python train.py``.

Plain scalars are those of YAML 1.2's core schema: ``1e-3`` is a number, and is passed on as
``1e-3``; ``2:00:00``, ``on`` and ``yes`` are text. Anchors, aliases and merge keys (``<<``) work.
Where a field holds text (`env`, `tags`, `base_args`…), a number there is the text that was written.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from nexa_sdk import distributions
from nexa_sdk.budget import Budget
from nexa_sdk.command_line import split_command
from nexa_sdk.errors import DefinitionError, InvalidInput, SweepError, nearest
from nexa_sdk.job import Count, Job, Words, problems
from nexa_sdk.passing import Style
from nexa_sdk.sweep import Sweep
from nexa_sdk.values import Scalar, parse_scalar
from nexa_sdk.yaml_lines import Document

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Definition", "Launcher", "SweepDefinition", "build", "load"]


# ---- what a parameter may be ---------------------------------------------------------------------

_DRAWS: dict[str, tuple[Any, str]] = {
    "choice": (distributions.choice, "[a, b, …]"),
    "loguniform": (distributions.loguniform, "[low, high]"),
    "normal": (distributions.normal, "[mean, deviation]"),
    "randint": (distributions.randint, "[low, high], integers"),
    "uniform": (distributions.uniform, "[low, high]"),
}


def _is_drawn(parameter: Any) -> bool:
    return hasattr(parameter, "draw") or hasattr(parameter, "rvs")


def _parameter(given: Any) -> Any:
    """Read ``{range: …}`` and draws such as ``{uniform: [0, 1]}``; anything else stays as it is."""
    if given is None:
        raise ValueError("it has no value; write a list, [1, 2], or one value ([null] where null is meant)")
    if not isinstance(given, Mapping):
        return given
    kinds = ("range", *_DRAWS)
    if len(given) != 1:
        keys = ", ".join(map(repr, given)) or "nothing"
        raise ValueError(f"a mapping says one of {', '.join(kinds)}, as in {{uniform: [0, 1]}}; this has {keys}")
    ((kind, details),) = given.items()
    if kind == "range":
        return _range(details)
    if kind not in _DRAWS:
        raise ValueError(f"{kind!r} is no way to give values; {nearest(str(kind), kinds)}")
    distribution, form = _DRAWS[kind]
    if kind == "choice":
        if not isinstance(details, (list, tuple)):
            raise ValueError(f"{kind} takes {form}, not {details!r}")
        return distribution(tuple(details))
    number = int if kind == "randint" else float
    if not isinstance(details, (list, tuple)) or len(details) != 2 or not all(_is_number(x, number) for x in details):
        raise ValueError(f"{kind} takes {form}, not {details!r}")
    return distribution(*map(number, details))  # how a bound is written says nothing about what is drawn


def _range(details: Any) -> range:
    bounds = details if isinstance(details, (list, tuple)) else [details]
    if not 1 <= len(bounds) <= 3 or not all(_is_number(x, int) for x in bounds) or (len(bounds) == 3 and bounds[2] == 0):
        raise ValueError(f"range takes integers, [start, stop] or [start, stop, step], the stop left out, not {details!r}")
    return range(*map(int, bounds))


def _is_number(given: Any, number: type) -> bool:
    return isinstance(given, (int, number)) and not isinstance(given, bool)


def _split(given: Any) -> Any:
    if isinstance(given, str):
        return split_command(given) if given.strip() else ()
    return given


def _settings(given: Any) -> Any:
    return ",".join(f"{key}={value}" for key, value in given.items()) if isinstance(given, Mapping) else given


Arguments = Annotated[tuple[str, ...], BeforeValidator(_split)]
Parameter = Annotated[Any, BeforeValidator(_parameter)]


# ---- the schema ----------------------------------------------------------------------------------

_PROCESSES = ("gpu", "cpu", "auto")
_RENDEZVOUS = ("rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_conf")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            lines = [f"{place or type(self).__name__}: {what}" for place, what in problems(error, type(self))]
            raise DefinitionError("; ".join(lines)) from None


class SweepDefinition(_Section):
    """The ``sweep:`` of a definition: the parameters to search. A value.

    Parameters
    ----------
    base_args : sequence of str, or str
        Arguments of every trial, before its parameters; without a launcher the whole command,
        its program first. Text is split as a shell splits words, and no shell reads it.
    parameters : mapping of name to values
        A list is an axis of the grid, and the last varies fastest; one value is the same in every
        trial; ``{range: [start, stop, step]}`` leaves out the stop, as Python's does. Draws are
        ``{uniform: [low, high]}``, ``{loguniform: [low, high]}``, ``{randint: [low, high]}`` (both
        included), ``{normal: [mean, deviation]}`` and ``{choice: [a, b, …]}``; they need `n`.
    zipped : mapping of name to values
        Lists of one length that vary together.
    overrides : sequence of str
        ``key=value``, the same in every trial; ``key=`` is the empty text.
    n, seed : int
        How many rows the draws give, and from which seed.
    style : {'flags', 'hydra', 'env', 'template'}, optional
        How parameters reach the program; see :class:`nexa_sdk.Sweep`.
    name : str, optional
        What runs are called.
    tags : sequence of str
        WANDB_TAGS of every trial.
    wandb_group, wandb_project : str, optional
        WANDB_RUN_GROUP and WANDB_PROJECT of every trial.
    env : mapping of str to str
        Environment variables of every trial.

    Raises
    ------
    DefinitionError
        With each field that can't be meant.
    """

    base_args: Arguments = ()
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    zipped: dict[str, Parameter] = Field(default_factory=dict)
    overrides: Words = ()
    n: Count | None = None
    seed: Annotated[int, Field(strict=True)] = 0
    style: Style | None = None
    name: str | None = None
    tags: Words = ()
    wandb_group: str | None = None
    wandb_project: str | None = None
    env: dict[str, str] = Field(default_factory=dict)

    @field_validator("zipped")
    @classmethod
    def _check_zipped(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name, values in given.items():
            if _is_drawn(values):
                raise ValueError(f"{name!r} is drawn, and draws vary together already; move it to parameters")
        return given

    @field_validator("overrides")
    @classmethod
    def _check_overrides(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for override in given:
            if not override.partition("=")[0] or "=" not in override:
                raise ValueError(f"{override!r} is no override; write key=value")
        return given

    @model_validator(mode="after")
    def _check_draws(self) -> Self:
        drawn = [name for name, values in self.parameters.items() if _is_drawn(values)]
        if drawn and self.n is None:
            raise ValueError(f"{drawn[0]!r} is drawn; add n, the number of rows to draw, as in n: 20")
        if self.n is not None and not drawn:
            raise ValueError(f"n={self.n} goes with draws, such as {{uniform: [0, 1]}}, and no parameter is drawn")
        return self


class Launcher(_Section):
    """The ``launcher:`` of a definition: how the program of every trial is started. A value.

    Parameters
    ----------
    type : {'python', 'torchrun'}
        ``python script`` or ``torchrun script``, each found on the trial's PATH.
    script, module : str
        What is started: one of a script's path and a module's name.
    extra_args : sequence of str, or str
        python: arguments of the script, before `base_args`. torchrun: torchrun's own options.
    nproc_per_node : int or {'gpu', 'cpu', 'auto'}, optional
        torchrun's processes; unless given, as many as the job has GPUs on its node, and one
        where it has none.
    nnodes : int, optional
        1: distributed training over several nodes is not there yet.
    rdzv_backend, rdzv_endpoint, rdzv_id, rdzv_conf : str, optional
        torchrun's rendezvous; unless one of them is given, ``--standalone`` finds a free port, so
        that trials on one node don't meet each other.

    Raises
    ------
    DefinitionError
        With each field that can't be meant.

    Examples
    --------
    >>> Launcher(type="torchrun", script="train.py").command(["--epochs", "10"], gpus=2)
    ['torchrun', '--standalone', '--nproc-per-node=2', 'train.py', '--epochs', '10']
    """

    type: Literal["python", "torchrun"] = "python"
    script: str | None = None
    module: str | None = None
    extra_args: Arguments = ()
    nproc_per_node: Count | Literal["gpu", "cpu", "auto"] | None = None
    nnodes: Count | None = None
    rdzv_backend: str | None = None
    rdzv_endpoint: str | None = None
    rdzv_id: str | None = None
    rdzv_conf: Annotated[str | None, BeforeValidator(_settings)] = None

    @field_validator("nnodes", mode="before")
    @classmethod
    def _check_nodes(cls, given: Any) -> Any:
        if (isinstance(given, int) and given > 1) or (isinstance(given, str) and re.fullmatch(r"\d+:\d+", given)):
            raise ValueError(f"{given}: distributed training over several nodes is not there yet; use one node (nnodes: 1)")
        return given

    @field_validator("nproc_per_node", mode="before")
    @classmethod
    def _check_processes(cls, given: Any) -> Any:
        if given is None or given in _PROCESSES or (_is_number(given, int) and given > 0):
            return given
        raise ValueError(f"{given!r} is no number of processes; give an integer from 1 on, or one of {', '.join(_PROCESSES)}")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.script is None) == (self.module is None):
            raise ValueError("give one of script and module" + (", not both" if self.script is not None else ": what shall be started"))
        if not (self.script or self.module):
            raise ValueError("script and module must not be empty")
        foreign = [name for name in ("nproc_per_node", *_RENDEZVOUS) if getattr(self, name) is not None]
        if self.type == "python" and foreign:
            raise ValueError(f"{foreign[0]} is an option of torchrun; write type: torchrun, or leave it out")
        return self

    def command(self, base_args: Words = (), *, gpus: int = 0) -> list[str]:
        """Return the words that start the program.

        Parameters
        ----------
        base_args : sequence of str
            The program's arguments.
        gpus : int
            GPUs of a trial on its node: torchrun's processes, unless `nproc_per_node` is given.
        """
        program = [self.script] if self.script is not None else ["-m", str(self.module)]
        if self.type == "python":
            return ["python", *program, *self.extra_args, *base_args]
        rendezvous = [f"--{name.replace('_', '-')}={value}" for name in _RENDEZVOUS if (value := getattr(self, name)) is not None]
        return [
            "torchrun",
            *(["--nnodes=1", *rendezvous] if rendezvous else ["--standalone"]),
            f"--nproc-per-node={self.nproc_per_node or gpus or 1}",
            *self.extra_args,
            *program,
            *base_args,
        ]


class _Terms(_Section):
    amount: str
    until_spent: bool = False
    ends_running: bool = False


def _budget(document: Document) -> Budget | None:
    """Read ``budget: 50 USD``, or a mapping that says more."""
    if document.keys(("budget",)):
        terms = document.validate(_Terms, ("budget",))
        return Budget(terms.amount, until_spent=terms.until_spent, ends_running=terms.ends_running)
    return Budget.read(document.validate(_File, ()).budget)


class _File(_Section):
    name: str | None = None
    cluster: str | None = None
    budget: Any = None
    job: Any = None
    launcher: Any = None
    sweep: Any = None


@dataclass(frozen=True)
class Definition:
    """What a YAML definition means.

    Attributes
    ----------
    sweep : Sweep
    job : Job
    cluster : str or None
        The cluster's name, where it says one.
    budget : Budget or None
        What it may cost, where it says it.
    """

    sweep: Sweep
    job: Job
    cluster: str | None
    budget: Budget | None = None

    def __len__(self) -> int:
        return len(self.sweep)

    def trials(self, first: int | None = None) -> pd.DataFrame:
        """Return the trials as a DataFrame; see :meth:`Sweep.trials`."""
        return self.sweep.trials(first)

    def __repr__(self) -> str:
        return f"<Definition: {self.sweep!r} with {self.job!r}{f' on {self.cluster}' if self.cluster else ''}>"

    def _repr_html_(self) -> str:
        on = f" on {self.cluster}" if self.cluster else ""
        return f"<div>{self.sweep._repr_html_()}<div>{html.escape(f'{self.job!r}{on}')}</div></div>"


# ---- from the schema to a sweep ------------------------------------------------------------------


def build(sweep: SweepDefinition, launcher: Launcher | None, job: Job) -> Sweep:
    """Make the sweep that a definition's sections mean.

    Raises
    ------
    DefinitionError
        Without a command, and for torchrun on several nodes.
    SweepError
        As :class:`nexa_sdk.Sweep` raises it.
    """
    if launcher is not None and launcher.type == "torchrun" and (job.nodes or 1) > 1:
        raise DefinitionError(f"job.nodes: {job.nodes}: distributed training over several nodes is not there yet; use one node")
    if launcher is None and not sweep.base_args:
        raise DefinitionError(
            "there is no command: give launcher: (type: python, script: train.py), or sweep.base_args: [python, train.py]"
        )
    grid: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, given in sweep.parameters.items():
        part = sample if _is_drawn(given) else fixed if isinstance(given, Scalar | os.PathLike) else grid
        part[name] = given
    for override in sweep.overrides:
        name, _, text = override.partition("=")
        if name in fixed:
            raise SweepError(f"parameter {name!r} is given twice; give it once, in parameters or in overrides")
        fixed[name] = parse_scalar(text) if text else ""
    return Sweep(
        sweep.base_args if launcher is None else launcher.command(sweep.base_args, gpus=_gpus_on_a_node(job)),
        grid=grid,
        zipped=sweep.zipped,
        sample=sample,
        fixed=fixed,
        n=sweep.n,
        seed=sweep.seed,
        style=sweep.style,
        name=sweep.name,
        tags=sweep.tags,
        env=sweep.env,
        wandb_group=sweep.wandb_group,
        wandb_project=sweep.wandb_project,
    )


def _gpus_on_a_node(job: Job) -> int:
    """Count the GPUs that a trial has on its node: its task's, or its share of them."""
    sharing = job.trials_per_task if job.side_by_side else 1
    return job.gpu_count // (job.nodes or 1) // sharing


def load(source: str | os.PathLike[str]) -> Definition:
    """Read a YAML definition.

    Parameters
    ----------
    source : path or str
        A file, or the text itself. A str is a path if it is one line that ends with ``.yaml`` or
        ``.yml`` or that names an existing file.

    Raises
    ------
    DefinitionError
        With the line, and the nearest known name for an unknown one.
    """
    path = _path(source)
    try:
        return _define(_read(path) if path is not None else str(source))
    except DefinitionError as error:
        if path is None:
            raise
        raise _in_file(error, path) from None


def _path(source: str | os.PathLike[str]) -> Path | None:
    if not isinstance(source, str):
        return Path(source)
    is_path = "\n" not in source and (source.endswith((".yaml", ".yml")) or os.path.isfile(source))
    return Path(source) if is_path else None


def _in_file(error: DefinitionError, path: Path) -> DefinitionError:
    named = DefinitionError(f"{path}: {error}")
    named.line = error.line
    return named


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise DefinitionError(f"it can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DefinitionError(f"it is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def _define(text: str) -> Definition:
    document = Document(text)
    top = document.validate(_File, ())
    if "sweep" not in document.keys(()):
        raise DefinitionError(
            "there is no sweep: section; write what to try, as in sweep: {base_args: python train.py, parameters: {lr: [1e-3, 1e-4]}}"
        )
    job = document.validate(Job, ("job",))
    sweep = document.validate(SweepDefinition, ("sweep",))
    launcher = None if top.launcher is None else document.validate(Launcher, ("launcher",))
    if top.name is not None and sweep.name is not None:
        raise DefinitionError("name is given twice, here and in sweep:; give it once", line=document.line(("name",)))
    if top.name is not None:
        sweep = sweep.model_copy(update={"name": top.name})
    try:
        budget = _budget(document)
    except DefinitionError:
        raise
    except InvalidInput as error:
        raise DefinitionError(str(error), line=document.line(("budget",))) from None
    try:
        return Definition(build(sweep, launcher, job), job, top.cluster, budget)
    except InvalidInput as error:
        raise DefinitionError(str(error), line=document.line_of(str(error))) from None
