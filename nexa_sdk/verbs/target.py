"""What to launch: a file, a Python object, a program with parameters, or a command."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import BadUsage, nearest
from nexa_sdk.verbs.inline import is_parameter, read_parameter
from nexa_sdk.verbs.job_options import read_job_options
from nexa_sdk.verbs.session import Session

if TYPE_CHECKING:
    from nexa_sdk.budget import Budget
    from nexa_sdk.definition import Definition
    from nexa_sdk.job import Job
    from nexa_sdk.plan import Plan
    from nexa_sdk.sweep import Sweep

__all__ = ["budget_of", "job_of", "plan_of"]

_PROGRAMS = {".py": "python", ".sh": "bash"}
_YAML = (".yaml", ".yml")
_KINDS = ("Sweep", "Plan", "Definition")


@dataclass(frozen=True)
class _Target:
    sweep: Sweep
    job: Job | None = None
    cluster: str | None = None
    budget: Budget | None = None


def plan_of(session: Session, args: Namespace) -> Plan:
    """Return the plan that a line means.

    Raises
    ------
    BadUsage
        When the line names nothing to launch, or too much.
    InvalidInput
        When what it names can't be meant.
    """
    from nexa_sdk.plan import Plan

    parameters = [word for word in args.words if _is_parameter(word)]
    others = [word for word in args.words if word not in parameters]
    resources = read_job_options(args)
    named = _named(session, others, args.command)
    if isinstance(named, Plan):
        _refuse(
            "a plan is launched as it is",
            parameters,
            args,
            job=args.job,
            cluster=args.cluster,
            after=args.after,
            after_each=args.after_each,
            budget=args.budget,
            allow_unknown=args.allow_unknown or None,
            **resources,
        )
        return named
    if named is not None:
        _refuse(f"{(others or ['the cell'])[0]} says already what to try", parameters, args)
        target = _target(named)
    else:
        target = _Target(_inline(others, parameters, args))
    job = target.job if args.job is None else job_of(session, args.job)
    where = args.cluster or target.cluster
    cluster = session.find_cluster(where) if where else session.cluster
    after = [session.find_run(word) for word in args.after or ()]
    after_each = session.find_run(args.after_each) if args.after_each else None
    return cluster.plan(
        target.sweep,
        job,
        after=after,
        after_each=after_each,
        budget=budget_of(args) or target.budget,
        allow_unknown=args.allow_unknown,
        **resources,
    )


def budget_of(args: Namespace) -> Budget | None:
    """Read what it may cost."""
    from nexa_sdk.budget import Budget

    if args.budget is None:
        given = [f"--{name.replace('_', '-')}" for name in ("until_spent", "end_running") if getattr(args, name)]
        if given:
            raise BadUsage(f"{given[0]} goes with --budget; give one, as in --budget '50 USD'")
        return None
    return Budget(args.budget, until_spent=args.until_spent, ends_running=args.end_running)


def _is_parameter(word: str) -> bool:
    return is_parameter(word) and not os.path.isfile(word)


def _named(session: Session, words: Sequence[str], command: list[str] | None) -> Sweep | Plan | Definition | None:
    """Return the object or the definition that a line names; None where it names a program."""
    if len(words) > 1:
        raise BadUsage(
            f"{session.prog}: {words[1]!r} is neither NAME=VALUES nor an option; one file, object or program is launched, "
            "and words for the program itself come after --, as in: -- python train.py --flag"
        )
    if session.body is not None:
        if words or command is not None:
            raise BadUsage("the cell says what to launch, and so does the line; give one of them")
        return _load(f"{session.body}\n")
    if command is not None:
        if words:
            raise BadUsage(f"{words[0]!r} and the command after -- are both to be launched; give one of them")
        if not command:
            raise BadUsage("after -- stands no command; write one, as in: -- python train.py")
        return None
    if not words:
        raise BadUsage(
            "nothing is named to launch; give a Python program, a YAML file, or the name of a Sweep, a Plan or a definition "
            f"({session.prog} launch -h says more)"
        )
    word = words[0]
    value = session.namespace.get(word)
    if value is not None and type(value).__module__.startswith("nexa_sdk.") and type(value).__name__ in _KINDS:
        return value  # type: ignore[no-any-return]
    if word.endswith(_YAML):
        return _load(Path(word).expanduser())
    if Path(word).suffix in _PROGRAMS:
        return None
    if word in session.namespace:
        raise BadUsage(f"{word} is no Sweep, Plan or definition, but a {type(value).__name__}")
    names = [name for name, known in session.namespace.items() if type(known).__name__ in _KINDS]
    hint = f"; {nearest(word, names)}" if names else ""
    raise BadUsage(f"there is no Python object {word!r}{hint}, and it is no .py, .sh or .yaml file; any other command goes after --")


def _load(source: Path | str) -> Definition:
    from nexa_sdk.definition import load

    return load(source)


def _target(named: Sweep | Definition) -> _Target:
    from nexa_sdk.sweep import Sweep

    return _Target(named) if isinstance(named, Sweep) else _Target(named.sweep, named.job, named.cluster, named.budget)


def _inline(words: Sequence[str], parameters: Sequence[str], args: Namespace) -> Sweep:
    from nexa_sdk.passing import check_names
    from nexa_sdk.sweep import Sweep

    command = args.command if args.command is not None else [_PROGRAMS[Path(words[0]).suffix], os.path.expanduser(words[0])]
    read = [read_parameter(word) for word in parameters]
    check_names([name for name, _ in read])
    return Sweep(
        command,
        grid={name: values for name, values in read if isinstance(values, (list, range))},
        fixed={name: value for name, value in read if not isinstance(value, (list, range))},
        style=args.style,
        name=args.name,
    )


def job_of(session: Session, name: str) -> Job:
    """Return a Job by its Python name."""
    from nexa_sdk.job import Job

    job = session.namespace.get(name)
    if isinstance(job, Job):
        return job
    known = [other for other, value in session.namespace.items() if isinstance(value, Job)]
    raise BadUsage(f"--job {name}: there is no Job of that name{f'; {nearest(name, known)}' if known else ''}")


def _refuse(why: str, parameters: Sequence[str], args: Namespace, **more: Any) -> None:
    """Refuse what can't go with the object that is named."""
    options = {"style": args.style, "name": args.name, **more}
    given = [word.partition("=")[0] for word in parameters]
    given += [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise BadUsage(f"{why}; leave out {', '.join(given)}")
