"""Render the script of a job array: plain bash that a careful colleague could have written.

Pure: text in, text out, and nothing on disk is touched. The embedded cluster runs the very same
script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nexa_sdk.passing import flag, pieces
from nexa_sdk.scheduling.slurm.bash import array_items, double_quoted, number_items, quote, variable_names
from nexa_sdk.values import Scalar, text_of

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.sweep import Sweep

__all__ = ["ArrayScript", "render"]

LONGEST_LISTED_RANGE = 64  # a longer range is computed, so that the script stays short
LARGEST_INTEGER = 2**63 - 1  # bash counts no further
SAME = object()


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


def render(sweep: Sweep, job: Job, array: ArrayScript) -> str:
    """Render the script that runs trials `first` to `first + count - 1` as one job array."""
    sections = [
        _directives(job, array),
        _identity(sweep, array),
        _ENDING,
        _surroundings(sweep, job, array),
        *_secrets(job, array),
        _trial(sweep, array),
        _running(job),
    ]
    return "\n".join(sections)


def _directives(job: Job, array: ArrayScript) -> str:
    throttle = f"%{job.throttle}" if job.throttle else ""
    options: list[tuple[str, str | None]] = [
        ("job-name", array.token),
        ("array", f"0-{array.count - 1}{throttle}"),
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


def _identity(sweep: Sweep, array: ArrayScript) -> str:
    last = array.first + array.count - 1
    number = f"$(({array.first} + SLURM_ARRAY_TASK_ID))" if array.first else "$SLURM_ARRAY_TASK_ID"
    lines = [
        f"# nexa_sdk: trials {array.first} to {last} of {array.total} of the run {array.run}",
        f"run={quote(array.folder)}",
        'job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
        f"export NEXA_RUN={quote(array.run)}",
        f"export NEXA_TRIAL={number}",
        "export NEXA_RESULTS=$run/results/$job.jsonl  # JSON lines that the program appends",
        f"export WANDB_RUN_GROUP={quote(sweep.wandb_group or array.run)}",
        'export WANDB_RUN_NAME="$NEXA_RUN-$NEXA_TRIAL"',
        f"export WANDB_PROJECT={quote(sweep.wandb_project or sweep.name)}",
    ]
    if sweep.tags:
        lines.append(f"export WANDB_TAGS={quote(','.join(sweep.tags))}")
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
  now=$(date +%s)
  echo "$begun,\\"end\\":$now,\\"exit\\":$code}" > "$run/tasks/$job.part" &&
    mv -f "$run/tasks/$job.part" "$run/tasks/$job.json" && rm -f "$run/tasks/$job.started" ||
    echo "nexa: could not write $run/tasks/$job.json" >&2
}
trap 'finish $?' EXIT
"""


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
# be requeued is not known to have ended, and leaves them.
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
    return [_SECRETS.format(secrets=file) + ("" if job.requeue else _SECRETS_GO)]


def _trial(sweep: Sweep, array: ArrayScript) -> str:
    swept = [name for factor in sweep.space.factors for name in factor.columns]
    variables = variable_names(swept)
    lines = ["# one trial a task" + ("; the last parameter varies fastest" if len(sweep.space.factors) > 1 else "")]
    chosen = None if sweep.selection.is_everything else sweep.selection.numbers[array.first : array.first + array.count]
    # One factor is a table of this array's rows; so is what bash could not count.
    is_table = len(sweep.space.factors) == 1 or (chosen is not None and sweep.space.size > LARGEST_INTEGER)
    if is_table:
        lines.append("i=$SLURM_ARRAY_TASK_ID")
    elif chosen is not None:
        lines.append("# which of all combinations these are")
        lines.append(f"combination={array_items(map(str, chosen))}")
        lines.append("i=$((combination[SLURM_ARRAY_TASK_ID]))")
    elif swept:
        lines.append("i=$NEXA_TRIAL")

    expressions: dict[str, _Expression] = {}
    for factor, stride in zip(sweep.space.factors, sweep.space.strides, strict=True):
        rows: Sequence[int] | None = None
        if is_table and chosen is None:
            rows = range(array.first, array.first + array.count)
        elif is_table and chosen is not None:
            rows = [number // stride % factor.size for number in chosen]
        index = "i" if is_table else _index(stride, factor.size)
        for name, values in factor.columns.items():
            expression, definition = _column(variables[name], values, rows, index)
            expressions[name] = expression
            if definition:
                lines.append(definition)
    for name, value in sweep.fixed.items():
        expressions[name] = _Expression.constant(value)
    lines += _words(sweep, expressions)
    return "\n".join(lines) + "\n"


def _index(stride: int, size: int) -> str:
    if size == 1:
        return "0"
    return f"i % {size}" if stride == 1 else f"i / {stride} % {size}"


@dataclass(frozen=True)
class _Expression:
    """A parameter's value in bash.

    `word` expands to it; `given`, where there is one, is a condition that holds when the trial has
    it; `is_switch` says that all values are booleans.
    """

    word: str
    given: str | None = None
    is_switch: bool = False
    value: object = SAME

    @classmethod
    def constant(cls, value: Scalar) -> _Expression:
        return cls(quote(text_of(value)), is_switch=isinstance(value, bool), value=value)


def _column(variable: str, values: Sequence[Scalar], rows: Sequence[int] | None, index: str) -> tuple[_Expression, str | None]:
    """Return a column's expression, and the array that it reads."""
    if isinstance(values, range) and _is_computed(values, rows):
        offset = values.start + (values.step * rows[0] if rows is not None else 0)
        position = index if values.step == 1 else f"{values.step} * ({index})"
        return _Expression(double_quoted(f"$(({offset} + {position}))")), None
    chosen = _rows(values, rows)
    element = f"{variable}[{index}]"
    kinds = set(map(type, chosen)) if not isinstance(chosen, range) else {int}
    if kinds <= {int, float}:
        return _Expression(double_quoted(f"${{{element}}}")), f"{variable}={number_items(chosen)}"  # type: ignore[arg-type]
    is_switch = bool in kinds and kinds <= {bool, type(None)}
    if type(None) in kinds and not is_switch:
        items = [f"[{k}]={quote(text_of(value))}" for k, value in enumerate(chosen) if value is not None]
        given: str | None = f"[[ ${{{element}+given}} ]]"
    else:
        items = [quote(text_of(value)) for value in chosen]
        given = f"[[ ${{{element}}} == true ]]" if is_switch else None
    expression = _Expression(double_quoted(f"${{{element}}}"), given, is_switch)
    return expression, f"{variable}={array_items(items)}"


def _is_computed(values: range, rows: Sequence[int] | None) -> bool:
    is_regular = rows is None or isinstance(rows, range)
    return is_regular and len(values) > LONGEST_LISTED_RANGE and max(abs(values[0]), abs(values[-1])) <= LARGEST_INTEGER


def _rows(values: Sequence[Scalar], rows: Sequence[int] | None) -> Sequence[Scalar]:
    if rows is None or rows == range(len(values)):
        return values
    return values[rows.start : rows.stop] if isinstance(rows, range) else [values[row] for row in rows]


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
        words = [flag(name)] if expression.is_switch else [flag(name), expression.word]
        return expression.given, words
    if style == "env" and constant and expression.value is None:
        return None, []
    key = f"{name}="
    bare = all(c.isalnum() or c in "_./@:+-=" for c in key)
    word = (key if bare else quote(key)) + expression.word
    if expression.is_switch or expression.given is None:
        return None, [word]
    if style == "hydra":  # a key without a value would be an error of Hydra's; null is its None
        return None, [(key if bare else quote(key)) + expression.word.replace("}", "-null}", 1)]
    return expression.given, [word]


def _template_word(word: str, expressions: Mapping[str, _Expression]) -> str:
    parts = []
    for literal, name in pieces(word):
        if literal or name is None:
            parts.append(quote(literal) if literal else "")
        if name is not None:
            parts.append(expressions[name].word)
    return "".join(parts) or "''"


_RUNNING = """\
# run it, pass signals on, and end with its exit code
type -P "${{trial[0]}}" >/dev/null || fail "there is no program ${{trial[0]}} on $HOSTNAME (PATH=$PATH)"
pid='' signal=''
forward() {{ signal=$1; [[ -z $pid ]] || kill -s "$1" "$pid" 2>/dev/null || :; }}
{traps}
(trap - INT QUIT; exec "${{trial[@]}}") & # else bash would have the program ignore SIGINT
pid=$!
until
  signal='' code=0
  wait "$pid" || code=$?
  [[ -z $signal ]] # else a signal ended the wait, not the program
do :; done
exit "$code"
"""


def _running(job: Job) -> str:
    forwarded = ["HUP", "INT", "USR1", "USR2"]
    # Every process of a task gets TERM anyway: passed on as well, it would come twice, and break a
    # graceful shutdown. One that was asked for by --signal=B:TERM comes to this shell alone.
    if job.signal is not None and "TERM" in job.signal:
        forwarded.append("TERM")
    traps = "; ".join(f"trap 'forward {name}' {name}" for name in forwarded)
    return _RUNNING.format(
        traps=traps if "TERM" in forwarded else f"{traps}\ntrap signal=TERM TERM # every process of the task gets it anyway"
    )
