"""Render the script of a job array: plain bash that a careful colleague could have written.

Pure: text in, text out, and nothing on disk is touched. The embedded cluster runs the very same
script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nexa_sdk.scheduling.slurm.bash import quote
from nexa_sdk.scheduling.slurm.budget_guard import begin_within_budget, budget_functions
from nexa_sdk.scheduling.slurm.running import run_packed_trials, run_trial, trials_of_task
from nexa_sdk.scheduling.slurm.trial_words import count_cells

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.sweep import Sweep

__all__ = ["ArrayScript", "are_rows_beside", "render"]

LONGEST_TABLE = 1 << 20  # bytes that bash reads for every task


@dataclass(frozen=True)
class ArrayScript:
    """What a script needs to know besides the sweep and the job.

    Attributes
    ----------
    run, token : str
        The run's id; the array's name, which finds its submission again.
    folder : str
        The run's folder on the cluster.
    first, count : int
        The array's first trial, and how many it has.
    total : int
        How many the run has.
    workdir : str
        Where the program runs.
    python_folder : str, optional
        A folder of programs that comes first on PATH.
    are_rows_beside : bool
        Whether the trials' values lie in files beside the script, not in it.
    beside : str
        Lines that start what runs beside the program; they know ``$run``, ``$job`` and ``$node``.
    has_budget, ends_running : bool
        Whether its tasks look at a budget, and end what runs when that is spent.
    """

    run: str
    token: str
    folder: str
    first: int
    count: int
    total: int
    workdir: str
    python_folder: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    are_rows_beside: bool = False
    beside: str = ""
    has_budget: bool = False
    ends_running: bool = False


def are_rows_beside(sweep: Sweep, job: Job, whole: ArrayScript, *, longest: int) -> bool:
    """Decide whether the values lie beside the scripts of a run: where one script of all trials would be too long.

    Parameters
    ----------
    whole : ArrayScript
        An array of all trials.
    longest : int
        Bytes that a script may have.
    """
    cells = count_cells(sweep)
    if not cells:
        return False
    if 2 * cells > LONGEST_TABLE:  # a value takes two bytes at least
        return True
    size = len(render(sweep, job, whole).encode())
    if size <= min(longest, LONGEST_TABLE):
        return False
    return size > longest or size - len(render(sweep, job, replace(whole, are_rows_beside=True)).encode()) > LONGEST_TABLE


def render(sweep: Sweep, job: Job, array: ArrayScript) -> str:
    """Render the script that runs trials `first` to `first + count - 1` as one job array."""
    if job.trials_per_task > 1:
        running = run_packed_trials(
            job, sweep, array.first, array.count, are_rows_beside=array.are_rows_beside, has_budget=array.has_budget
        )
    else:
        running = run_trial(job, sweep, array.first, array.count, are_rows_beside=array.are_rows_beside)
    sections = [
        _directives(job, array),
        _identity(sweep, job, array),
        *([budget_functions(ends_running=array.ends_running)] if array.has_budget else []),
        _ENDING.replace(_COUNTED, _COUNTED + '  budget_end "$now" || :\n') if array.has_budget else _ENDING,
        *([begin_within_budget(ends_running=array.ends_running)] if array.has_budget else []),
        _surroundings(sweep, job, array),
        *([array.beside] if array.beside else []),  # before there are secrets
        *_secrets(job, array),
        running,
    ]
    return "\n".join(sections)


def _directives(job: Job, array: ArrayScript) -> str:
    throttle = f"%{job.throttle}" if job.throttle else ""
    options: list[tuple[str, str | None]] = [
        ("job-name", array.token),
        ("array", f"0-{job.tasks_of(array.count) - 1}{throttle}"),
        *job.directives(),
        ("output", f"{array.folder.replace('%', '%%')}/logs/%A_%a.log"),
        ("open-mode", "append"),
        ("export", "ALL"),
    ]
    lines = [f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={_directive(value)}" for name, value in options]
    return "#!/bin/bash\n" + "\n".join(lines) + "\n"


def _directive(value: str) -> str:
    # Slurm reads quotes in these lines, and '#' begins a comment.
    return f'"{value}"' if any(c in value for c in " #'") else value


def _identity(sweep: Sweep, job: Job, array: ArrayScript) -> str:
    last = array.first + array.count - 1
    pack = job.trials_per_task
    number = f"$(({array.first} + SLURM_ARRAY_TASK_ID))" if array.first else "$SLURM_ARRAY_TASK_ID"
    of_one_trial = [
        f"export NEXA_TRIAL={number}",
        "export NEXA_RESULTS=$run/results/$job.jsonl  # JSON lines that the program appends",
    ]
    lines = [
        f"# nexa_sdk: trials {array.first} to {last} of {array.total} of the run {array.run}{f', {pack} a task' if pack > 1 else ''}",
        f"run={quote(array.folder)}",
        'job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
        f"export NEXA_RUN={quote(array.run)}",
        *(of_one_trial if pack == 1 else []),
        f"export WANDB_RUN_GROUP={quote(sweep.wandb_group or array.run)}",
        *(['export WANDB_RUN_NAME="$NEXA_RUN-$NEXA_TRIAL"'] if pack == 1 else []),
        f"export WANDB_PROJECT={quote(sweep.wandb_project or sweep.name)}",
    ]
    if sweep.tags:
        lines.append(f"export WANDB_TAGS={quote(','.join(sweep.tags))}")
    if pack > 1:
        lines += ["", trials_of_task(pack, array.first, array.count).rstrip()]
    return "\n".join(lines) + "\n"


# The record is written by rename, so that nobody reads half of one; its name says how far it is.
_ENDING = """\
fail() { echo "nexa: $*" >&2; exit 78; }
[[ -d $run/tasks ]] || fail "the run's folder $run is not visible on $HOSTNAME"

# should this array have been submitted twice, the job that starts first carries its trials
claim=$run/submitted/$SLURM_JOB_NAME.claim
if [[ ! -e $claim ]]; then
  echo "$SLURM_ARRAY_JOB_ID" > "$claim-$job" && ln "$claim-$job" "$claim" 2>/dev/null
  rm -f "$claim-$job"
fi
read -r claimed 2>/dev/null < "$claim" || claimed=$SLURM_ARRAY_JOB_ID
[[ $claimed == "$SLURM_ARRAY_JOB_ID" ]] || fail "job $claimed carries these trials; this is its double"

# one small record a task: <job>_<task>.started, then <job>_<task>.json
started=$(date +%s)
node=${SLURMD_NODENAME:-$HOSTNAME}
begun="{\\"trial\\":$NEXA_TRIAL,\\"restart\\":${SLURM_RESTART_COUNT:-0},\\"node\\":\\"$node\\",\\"start\\":$started"
rm -f "$run/tasks/$job.json"  # of an attempt before a requeue
echo "$begun}" > "$run/tasks/$job.started"
finish() {
  local code=$1 now
  trap '' HUP INT USR1 USR2 TERM # what ends a task signals each of its processes in turn: not what is begun here, too
  now=$(date +%s)
  echo "$begun,\\"end\\":$now,\\"exit\\":$code}" > "$run/tasks/$job.part" &&
    mv -f "$run/tasks/$job.part" "$run/tasks/$job.json" && rm -f "$run/tasks/$job.started" ||
    echo "nexa: could not write $run/tasks/$job.json" >&2
}
trap 'finish $?' EXIT
"""
_COUNTED = '    echo "nexa: could not write $run/tasks/$job.json" >&2\n'


def _surroundings(sweep: Sweep, job: Job, array: ArrayScript) -> str:
    lines: list[str] = []
    if job.modules:
        # A batch shell is no login shell: the function may be missing.
        lines.append("type module >/dev/null 2>&1 || . /etc/profile")
        lines += [f"module load {quote(name)} || fail {quote(f'module load {name} failed')}" for name in job.modules]
    if job.venv:
        lines.append(f". {quote(job.venv.rstrip('/') + '/bin/activate')} || fail {quote(f'there is no virtual environment {job.venv}')}")
    if job.conda:
        lines.append('eval "$(conda shell.bash hook)"')
        lines.append(f"conda activate {quote(job.conda)} || fail {quote(f'conda activate {job.conda} failed')}")
    if array.python_folder:
        lines.append(f"export PATH={quote(array.python_folder)}:$PATH")
    lines += [
        "set -euo pipefail",
        f'cd -- {quote(array.workdir)} || fail {quote(f"the working directory {array.workdir} is missing on")} "$HOSTNAME"',
    ]
    lines += [f"export {name}={quote(value)}" for name, value in {**array.env, **sweep.env, **job.env}.items()]
    if job.pre_commands:
        lines.append("""trap 'echo "nexa: this pre-command failed with exit status $?: $BASH_COMMAND" >&2' ERR""")
        lines += job.pre_commands
        lines.append("trap - ERR")
    return "# what surrounds every trial\n" + "\n".join(lines) + "\n"


_SECRETS = """\
# secrets: a file that only its owner reads, and that goes when the run ends
secrets={secrets}
[[ -r $secrets ]] || fail "the file with the secrets, $secrets, is gone: launch the run again"
. "$secrets"
"""

# The last task to end takes the secrets away; so does whoever sees the run ended. A task that may
# be requeued, or run again by itself, is not known to have ended, and leaves them.
_SECRETS_GO = """\
ended() {
  finish "$1"
  local records=("$run/tasks/${SLURM_ARRAY_JOB_ID}"_*.json)
  ((${#records[@]} < SLURM_ARRAY_TASK_COUNT)) || rm -f "$secrets"
}
trap 'ended $?' EXIT
"""


def _secrets(job: Job, array: ArrayScript) -> list[str]:
    if not job.secrets:
        return []
    # The job's name, not the token of the first attempt: a retry brings its own.
    file = quote(f"{array.folder}/secrets/") + "$SLURM_JOB_NAME"
    return [_SECRETS.format(secrets=file) + ("" if job.requeue or job.retry is not None else _SECRETS_GO)]
