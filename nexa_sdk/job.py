"""Job: the resources and surroundings of every trial."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from nexa_sdk.errors import InvalidInput, JobError, nearest
from nexa_sdk.retry import Retry
from nexa_sdk.values import check_text
from nexa_sdk.variables import check_env, is_reserved
from nexa_sdk.walltime import format_walltime, parse_walltime

__all__ = ["Job", "problems"]


def _whole(value: Any) -> Any:
    # NumPy's integers are no int; a boolean is one, and is not meant.
    return operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


Count = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=1)]


def _joined(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _words(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _path_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _in_directive(text: str) -> str:
    # An #SBATCH line ends at a newline, and Slurm reads quotes and backslashes in it.
    if not text or not text.isprintable() or re.search(r'["\\]', text):
        raise ValueError(f"{text!r} can't stand in an #SBATCH line; give text without line breaks, double quotes and backslashes")
    return text


def _plain(text: str) -> str:
    if " " in text:
        raise ValueError(f"{text!r} can't stand in an #SBATCH line; give text without blanks")
    return _in_directive(text)


def _argument(text: str) -> str:
    check_text("it", text)
    return text


def _arguments(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_argument, texts))


def _path_argument(path: Path) -> Path:
    check_text("it", str(path))
    return path


def _option(value: Any) -> Any:
    if not isinstance(value, (str, bool, int)):
        raise ValueError(f"{value!r} is no value of an option; give text, an integer, or True for an option without a value")
    return value


def _seconds(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, (int, float)) or not LEAST_SECONDS <= value <= MOST_SECONDS:
        raise ValueError(f"{value!r} is no time between two samples; give True, or seconds from {LEAST_SECONDS:g} to {MOST_SECONDS:g}")
    return value


LEAST_SECONDS, MOST_SECONDS = 0.1, 600.0  # between two samples of what a node does

Word = Annotated[str, BeforeValidator(_joined), Field(strict=True)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
PathText = Annotated[str, BeforeValidator(_path_text), AfterValidator(_argument)]

_OWN_OPTIONS = {
    "array": "the sweep's size makes the array; throttle= limits how many run at once",
    "job-name": "the job's name is the mark that finds a submission again; name the sweep",
    "output": "logs lie in the run's folder; run.logs(trial) shows them",
    "error": "logs lie in the run's folder; run.logs(trial) shows them",
    "open-mode": "logs are appended to, so that an earlier attempt's stay",
    "export": "trials get a small clean environment; use env=, modules= or venv=",
    "export-file": "trials get a small clean environment; use env=, modules= or venv=",
    "chdir": "use workdir=",
    "parsable": "the plan submits itself",
    "test-only": "plan.preflight() asks it",
    "wait": "run.wait() waits",
    "wrap": "the plan's script is submitted",
    "time": "use time=",
    "mail-user": "use mail=",
    "clusters": "choose the cluster by Cluster(…)",
}


class Job(BaseModel):
    """The resources and surroundings of every trial. A value: nothing in it changes.

    Parameters
    ----------
    time : str or timedelta, optional
        The walltime of a task: ``"2:00:00"``, ``"1-12:00:00"``, ``"90m"``. A bare number is
        refused: Slurm would read minutes.
    partition, account, qos, constraint, reservation, licenses, dependency : str, optional
        As ``sbatch`` has them. What can never run because of its dependency is cancelled, unless
        `options` has ``kill-on-invalid-dep``. For another run use ``plan(…, after=run)``.
    nodes, ntasks_per_node, cpus_per_task : int, optional
        As ``sbatch`` has them.
    gpus, gpus_per_node, gpus_per_task : int, optional
        GPUs of a task, in one of Slurm's three ways to count them.
    gpu_type : str, optional
        Which GPUs, as the cluster calls them: ``"h100"``.
    mem : str, optional
        Memory of a node for a trial, with its unit: ``"16G"``.
    canary : bool
        The first trial goes ahead alone; the others wait until it has completed, and are cancelled
        if it has not. What fails at once everywhere so fails once.
    throttle : int, optional
        At most so many tasks at once; a task carries one trial, or `pack` of them.
    pack : int, optional
        So many trials in each task, one after another: `time` is then that of all of them. A
        cluster takes a limited number of tasks, and each has to be scheduled. Every trial has its
        own state, log, exit code and results; one that fails keeps no other from running.
    side_by_side : bool
        The trials of a task run all at once, each with an equal share of the task's GPUs.
    retry : "by-cause" or Retry, optional
        Run again by itself what did not complete, with more memory, more time or on another node,
        as its cause demands: also while the notebook is closed. See :class:`nexa_sdk.Retry`.
    rolling : int, optional
        Have at most so many tasks in Slurm's queue at once; when one part has ended the next is
        submitted, also while the notebook is closed. For sites that limit how many one may submit.
    nodelist, exclude : str or list of str, optional
        Nodes to use, nodes to avoid.
    mail : str, optional
        An address; Slurm writes to it when the array ends or fails.
    signal : str, optional
        ``"USR1@60"``: this signal so many seconds before the limit. It reaches the program.
    requeue : bool, optional
        Whether Slurm may start a trial again after a preemption or a lost node. Unless given,
        the site decides; with `secrets` it may not.
    exclusive : bool
        Whether a trial has its node for itself.
    telemetry : bool or float, optional
        Watch what each node, the job and its GPUs do: every second, or every so many. A small agent
        beside the program, where nodes have a python3; see :meth:`nexa_sdk.Run.utilization`.
    options : mapping of str to str, int or bool
        Further options of ``sbatch``, by their long names: ``{"switches": 1, "spread-job": True}``.
    workdir : path, optional
        Where the program runs; unless given, the current directory at launch. A task whose node
        lacks it fails and says so (Slurm alone would run it in /tmp).
    modules : sequence of str
        For ``module load``.
    venv, conda, python : str or path, optional
        One of: a virtual environment's folder, a conda environment's name or folder, a Python
        whose folder comes first on PATH. Unless one is given, and no module is, a cluster on this
        machine uses the Python that plans.
    pre_commands : sequence of str
        Lines of bash that run before the program; one that fails ends the trial.
    env : mapping of str to str
        Environment variables.
    secrets : sequence of str
        Names of variables, such as ``"WANDB_API_KEY"``, whose values are taken at launch from the
        environment or from ``.env``. They travel in a file of mode 0600 in the run's folder, which
        goes when the run ends, and stand nowhere else.

    Raises
    ------
    JobError
        With a line for each field that can't be meant.

    Notes
    -----
    The environment of a trial is what ``sbatch`` passes on with ``--export=ALL`` from a small clean
    one: HOME, USER, LOGNAME, SHELL, PATH, the locale, the time zone and the module system's
    variables. Nothing else of the notebook's environment reaches a trial, and neither SLURM_* nor
    SBATCH_* of a job that Jupyter itself may run in. Unlike ``--export=NONE`` this leaves ``srun``
    inside the trial as it is, and asks no login shell on the node. A trial begins with no module
    loaded, whichever are loaded here: name them in `modules`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    time: timedelta | Literal["UNLIMITED"] | None = None
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Annotated[str, AfterValidator(_in_directive)] | None = None
    reservation: Word | None = None
    licenses: Word | None = None
    dependency: Word | None = None
    nodes: Count | None = None
    ntasks_per_node: Count | None = None
    cpus_per_task: Count | None = None
    gpus: Count | None = None
    gpus_per_node: Count | None = None
    gpus_per_task: Count | None = None
    gpu_type: Word | None = None
    mem: str | None = None
    canary: bool = False
    throttle: Count | None = None
    pack: Count | None = None
    side_by_side: bool = False
    retry: Annotated[Retry | None, BeforeValidator(Retry.read)] = None
    rolling: Count | None = None
    nodelist: Word | None = None
    exclude: Word | None = None
    mail: Word | None = None
    signal: str | None = None
    requeue: bool | None = None
    exclusive: bool = False
    telemetry: Annotated[bool | float | None, BeforeValidator(_seconds)] = None
    options: dict[str, Annotated[str | bool | int, BeforeValidator(_option)]] = Field(default_factory=dict)
    workdir: Annotated[Path, AfterValidator(_path_argument)] | None = None
    modules: Words = ()
    venv: PathText | None = None
    conda: PathText | None = None
    python: PathText | None = None
    pre_commands: Annotated[Words, AfterValidator(_arguments)] = ()
    env: dict[str, str] = Field(default_factory=dict)
    secrets: Words = ()

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            lines = [f"{place or 'Job'}: {what}" for place, what in problems(error, type(self))]
            raise JobError("; ".join(lines)) from None

    @field_validator("time", mode="before")
    @classmethod
    def _read_time(cls, given: Any) -> Any:
        if given is None:
            return None
        length = parse_walltime(given)
        return "UNLIMITED" if length is None else length

    @field_validator("partition", "account", "qos", "reservation", "licenses", "dependency", "gpu_type", "nodelist", "exclude", "mail")
    @classmethod
    def _check_word(cls, text: str | None) -> str | None:
        return text if text is None else _plain(text)

    @field_validator("mem", mode="before")
    @classmethod
    def _check_mem(cls, given: Any) -> Any:
        if given is None:
            return None
        if (isinstance(given, int) and not isinstance(given, bool)) or (isinstance(given, str) and given.isdecimal()):
            raise ValueError(f"{given!r} is ambiguous: Slurm would read megabytes; write '{given}G' or '{given}M'")
        match = re.fullmatch(r"([0-9]+)\s*([KMGT])(i?B)?", given, re.IGNORECASE) if isinstance(given, str) else None
        if not match:
            raise ValueError(f"{given!r} is no amount of memory; write '16G', '500M'")
        return match[1] + match[2].upper()

    @field_validator("signal")
    @classmethod
    def _check_signal(cls, given: str | None) -> str | None:
        if given is not None and not re.fullmatch(r"((R|B|RB|BR):)?[A-Z0-9]+(@[0-9]+)?", given):
            raise ValueError(f"{given!r} is no signal; write 'USR1@60', seconds before the limit")
        return given

    @field_validator("options")
    @classmethod
    def _check_options(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name, value in given.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
                raise ValueError(f"{name!r} is no long option of sbatch; write it without dashes before it, as in 'switches'")
            if name in _OWN_OPTIONS:
                raise ValueError(f"{name!r} can't be passed through: {_OWN_OPTIONS[name]}")
            if name == "gres" and "gpu" in str(value):
                raise ValueError(f"'gres': {value!r} asks for GPUs; use gpus=, gpus_per_node= or gpus_per_task=, and gpu_type=")
            if name.replace("-", "_") in cls.model_fields:
                raise ValueError(f"{name!r} has a field of its own: use {name.replace('-', '_')}=")
            if isinstance(value, str) and value:
                _in_directive(value)
        return given

    @field_validator("modules")
    @classmethod
    def _check_modules(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            _plain(name)
        return given

    @field_validator("env")
    @classmethod
    def _check_env(cls, given: dict[str, str]) -> dict[str, str]:
        check_env("env", given)
        return given

    @field_validator("secrets")
    @classmethod
    def _check_secrets(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                # What stands there may be the secret itself: it is not shown.
                before = name.partition("=")[0]
                what = f"{before!r} with a value behind it" if "=" in name and re.fullmatch(r"[A-Z][A-Z0-9_]*", before) else "one of them"
                raise ValueError(
                    f"{what} is no name of an environment variable; give names alone, as in secrets=['WANDB_API_KEY']: "
                    "the values are taken from the environment or .env"
                )
            if is_reserved(name):
                raise ValueError(f"{name!r} belongs to the scheduler or to the run")
        return given

    @model_validator(mode="after")
    def _check_together(self) -> Job:
        counted = [name for name in ("gpus", "gpus_per_node", "gpus_per_task") if getattr(self, name) is not None]
        if len(counted) > 1:
            raise ValueError(f"{' and '.join(counted)} count the same GPUs; give one")
        if self.gpu_type is not None and not counted:
            raise ValueError(f"gpu_type={self.gpu_type!r} needs a number; add gpus=1")
        pythons = [name for name in ("venv", "conda", "python") if getattr(self, name) is not None]
        if len(pythons) > 1:
            raise ValueError(f"{' and '.join(pythons)} each choose a Python; give one")
        if self.canary and "?" in (self.dependency or ""):
            raise ValueError(f"canary=True can't go with dependency={self.dependency!r}: Slurm joins 'and' with no 'or'; leave one out")
        if self.side_by_side:
            self._check_side_by_side()
        if self.canary and (self.retry is not None or self.rolling is not None):
            raise ValueError("canary=True can't go with retry= or rolling=: the others are cancelled when the canary fails; leave one out")
        if self.retry is not None and self.trials_per_task > 1:
            raise ValueError(f"retry= and pack={self.pack}: packed trials are run again on demand alone; run.retry(by='cause') does it")
        if self.rolling is not None and self.canary:
            raise ValueError("rolling= can't go with canary=True: what is submitted later would not wait for it; leave one out")
        if self.rolling is not None and self.rolling < self._least_rolling:
            raise ValueError(
                f"rolling={self.rolling} leaves no room for two parts and what looks after them; give {self._least_rolling} or more"
            )
        return self

    def _check_side_by_side(self) -> None:
        if self.pack is None:
            raise ValueError("side_by_side=True needs pack=, the number of trials that share a task")
        if (self.nodes or 1) > 1:
            raise ValueError(f"side_by_side=True shares one node's GPUs, and nodes={self.nodes}; leave nodes out, or side_by_side")
        if self.gpu_count % self.pack:
            raise ValueError(
                f"pack={self.pack} trials side by side can't share {self.gpu_count} GPU{'s' if self.gpu_count > 1 else ''} evenly; "
                f"give a task {-(-self.gpu_count // self.pack) * self.pack} GPUs, or another pack"
            )

    @field_serializer("retry")
    def _write_retry(self, value: Retry | None) -> dict[str, Any] | None:
        return None if value is None else value.written()

    @field_serializer("time")
    def _write_time(self, value: timedelta | str | None) -> str | None:
        return None if value is None else format_walltime(self.limit)

    # ---- what others ask of it -----------------------------------------------------------------

    @property
    def gpu_count(self) -> int:
        """GPUs of one task, over all its nodes."""
        tasks = (self.nodes or 1) * (self.ntasks_per_node or 1)
        return self.gpus or (self.gpus_per_node or 0) * (self.nodes or 1) or (self.gpus_per_task or 0) * tasks

    @property
    def cpu_count(self) -> int:
        """Cores of one task, over all its nodes."""
        return (self.cpus_per_task or 1) * (self.ntasks_per_node or 1) * (self.nodes or 1)

    @property
    def trials_per_task(self) -> int:
        """How many trials a task carries at most."""
        return self.pack or 1

    def tasks_of(self, trials: int) -> int:
        """How many tasks so many trials of one array need."""
        return -(-trials // self.trials_per_task)

    @property
    def sampled_every(self) -> float | None:
        """Seconds between two samples of what its nodes do; None where nobody watches."""
        return 1.0 if self.telemetry is True else float(self.telemetry) if self.telemetry else None

    @property
    def is_kept(self) -> bool:
        """Whether something is to be done when an array has ended, though nobody is there."""
        return self.retry is not None or self.rolling is not None

    @property
    def _least_rolling(self) -> int:
        return 2 * (1 + self._keepers_of_a_part)

    @property
    def _keepers_of_a_part(self) -> int:
        # One at work while the one of the next array waits; and one for each cause of a retry.
        return 2 if self.retry is None else 6

    @property
    def rolling_tasks(self) -> int | None:
        """How many tasks a part of a rolling submission has: two are in the queue at once, with what looks after them."""
        return None if self.rolling is None else self.rolling // 2 - self._keepers_of_a_part

    @property
    def limit(self) -> timedelta | None:
        """The walltime; None where none is set, or none is wanted."""
        return self.time if isinstance(self.time, timedelta) else None

    def given(self) -> dict[str, Any]:
        """Return the fields that were set."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def changed(self, options: Mapping[str, Any]) -> Self:
        """Return it with other values of some fields, checked like the first."""
        return type(self)(**{**self.given(), **options}) if options else self

    def directives(self) -> list[tuple[str, str | None]]:
        """Return the options of ``sbatch`` that these resources mean, by their long names."""
        of_type = f"{self.gpu_type}:" if self.gpu_type else ""
        found: list[tuple[str, str | None]] = []
        for name in (
            "partition",
            "account",
            "qos",
            "constraint",
            "reservation",
            "licenses",
            "dependency",
            "nodes",
            "ntasks_per_node",
            "cpus_per_task",
        ):
            if (value := getattr(self, name)) is not None:
                found.append((name.replace("_", "-"), str(value)))
            if name == "dependency" and value is not None and "kill-on-invalid-dep" not in self.options:
                found.append(("kill-on-invalid-dep", "yes"))  # else what can never run waits for ever
        for name in ("gpus", "gpus_per_node", "gpus_per_task"):
            if (count := getattr(self, name)) is not None:
                found.append((name.replace("_", "-"), f"{of_type}{count}"))
                if name == "gpus_per_task" and self.ntasks_per_node is None:
                    found.append(("ntasks", str(self.nodes or 1)))  # sbatch counts tasks only if told how many
        for name in ("mem", "nodelist", "exclude"):
            if (value := getattr(self, name)) is not None:
                found.append((name, value))
        if self.time is not None:
            found.append(("time", format_walltime(self.limit)))
        if self.mail is not None:
            found += [("mail-user", self.mail), ("mail-type", "END,FAIL")]
        if self.signal is not None:
            # Without B: only steps that srun started get it, and a trial is none.
            found.append(("signal", self.signal if ":" in self.signal else f"B:{self.signal}"))
        if self.requeue is not None or self.secrets:
            found.append(("requeue" if self.requeue else "no-requeue", None))
        if self.exclusive:
            found.append(("exclusive", None))
        for name, value in self.options.items():
            if value is not False:
                found.append((name, None if value is True else str(value)))
        return found

    def __repr__(self) -> str:
        given = self.given()
        if "time" in given and given["time"] is not None:
            given["time"] = format_walltime(self.limit)
        if given.get("workdir") is not None:
            given["workdir"] = str(given["workdir"])
        return f"Job({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    __str__ = __repr__


def problems(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """Say each of pydantic's complaints in words: the field, and what is wrong with its value."""
    found = []
    for detail in error.errors(include_url=False):
        place = ".".join(str(part) for part in detail["loc"] if not str(part).startswith(("function-", "constrained-")))
        cause = detail.get("ctx", {}).get("error")
        if detail["type"] == "extra_forbidden":
            what = f"no such field; {nearest(str(detail['loc'][-1]), model.model_fields)}"
        elif isinstance(cause, (InvalidInput, ValueError)):
            what = str(cause)
        else:
            what = detail["msg"][0].lower() + detail["msg"][1:]
            if not {"env", "secrets"}.intersection(detail["loc"]):  # what stands there may be a secret
                what += f", not {detail['input']!r}"
        found.append((place, what))
    return found
