"""What a task does once its surroundings stand: run its trial, or each of those it is packed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexa_sdk.scheduling.slurm.trial_words import TrialWords, trial_words

if TYPE_CHECKING:
    from nexa_sdk.job import Job
    from nexa_sdk.sweep import Sweep

__all__ = ["run_packed_trials", "run_trial", "trials_of_task"]

FORWARDED = ("HUP", "INT", "USR1", "USR2")

_ALONE = """\
# run it, pass signals on, and end with its exit code
type -P "${{trial[0]}}" >/dev/null || fail "there is no program ${{trial[0]}} on $HOSTNAME (PATH=$PATH)"
pid='' signal=''
forward() {{ signal=$1; [[ -z $pid ]] || kill -s "$1" "$pid" 2>/dev/null || :; }}
{traps}
(trap - INT QUIT; exec "${{trial[@]}}") & # else bash would have the program ignore SIGINT
pid=$! code=0
until
  signal='' before=$code code=0
  wait "$pid" || code=$?
  [[ -z $signal ]] # else a signal ended the wait, not the program
do :; done
((code >= 0)) || code=$before # it ended in that very moment, and bash lost its exit code
exit "$code"
"""

# A retry brings numbers as arguments; they are this array's, as its tables are.
_NUMBERS = """\
# the trials of this task: {pack} of those that a retry names, else the next {pack}
trials=()
if (($#)); then
  trials=("${{@:SLURM_ARRAY_TASK_ID * {pack} + 1:{pack}}}")
else
  for ((i = {offset}SLURM_ARRAY_TASK_ID * {pack}; i < {end} && ${{#trials[@]}} < {pack}; i++)); do trials+=("$i"); done
fi
((${{#trials[@]}})) || {{ echo "nexa: there is no trial for task $SLURM_ARRAY_TASK_ID" >&2; exit 78; }}
export NEXA_TRIAL=${{trials[0]}}
set -- # a module's or an environment's own scripts are not to read these
"""

_SHARES = """\
# each trial gets its share of the task's GPUs
IFS=, read -ra gpus <<< "${{CUDA_VISIBLE_DEVICES-}}"
share=$((${{#gpus[@]}} / {pack}))
((share && share * {pack} == ${{#gpus[@]}})) || fail "{pack} trials can't share the GPUs ${{CUDA_VISIBLE_DEVICES-}} evenly"
"""

# A trial is watched by a process of its own. That notes its end at once, while others still run,
# and whatever goes wrong in it is that trial's alone.
_PACKED = """\
# {how}: each has a log, a state, an exit code and results of its own
events=$run/tasks/$job.trials
pids=() signal='' stop=''
forward() {{
  local pid
  signal=$1
  for pid in $(jobs -rp); do
    [[ " ${{pids[*]-}} " != *" $pid "* ]] || kill -s "$1" "$pid" 2>/dev/null || :
  done
}}
pass_on() {{ {traps}; }}
await() {{ # the end of a process, whose exit code is then in $ended
  local before
  ended=0
  until
    signal='' before=$ended ended=0
    wait "$1" || ended=$?
    [[ -z $signal ]] # else a signal ended the wait, not the process
  do :; done
  ((ended >= 0)) || ended=$before # it ended in that very moment, and bash lost its exit code
}}
run_trial() {{ # a slot's number, and its trial's
  local begun name=$job-$1 cause=''
  pids=()
  pass_on
  exec >> "$run/logs/$name.log" 2>&1
  export NEXA_TRIAL=$2 NEXA_RESULTS=$run/results/$name.jsonl WANDB_RUN_NAME="$NEXA_RUN-$2"
{shares}  begun="{{\\"slot\\":$1,\\"trial\\":$2,\\"restart\\":${{SLURM_RESTART_COUNT:-0}},\\"node\\":\\"$node\\",\\"start\\":$(date +%s)"
  echo "$begun}}" >> "$events"
  (
    trap - INT QUIT # else bash would have the program ignore SIGINT
    choose
    type -P "${{trial[0]}}" >/dev/null || fail "there is no program ${{trial[0]}} on $HOSTNAME (PATH=$PATH)"
    exec "${{trial[@]}}"
  ) &
  pids=("$!")
  await "$!"
  [[ -z $stop || $ended == 0 ]] || cause=',"ended_by_task":true' # TERM came: of a cancel, a time limit, a preemption
  trap '' HUP INT USR1 USR2 TERM # a late one would end date
  echo "$begun,\\"end\\":$(date +%s),\\"exit\\":$ended$cause}}" >> "$events"
  exit "$ended"
}}
pass_on
restarts=${{SLURM_RESTART_COUNT:-0}} code=0 left=0
((restarts == 0)) || echo >> "$events" # the line before may have been cut short
for slot in "${{!trials[@]}}"; do
  if ((restarts)) && grep -q "^{{\\"slot\\":$slot,.*\\"exit\\":0}}\\$" "$events"; then continue; fi # it ended well before
  if [[ -n $stop ]]; then left=143; break; fi
{budget}  run_trial "$slot" "${{trials[slot]}}" &
{begun}done
{ends}exit "$((code ? code : left))" # of the first that failed; 143 if TERM came before all had begun{spent}
"""

_ONE_AFTER_ANOTHER = """\
  pids=("$!")
  await "$!"
  ((code)) || code=$ended
"""

_ALL_AT_ONCE = """\
for pid in ${pids[@]+"${pids[@]}"}; do
  await "$pid"
  ((code)) || code=$ended
done
"""


def run_trial(job: Job, sweep: Sweep, first: int, count: int, *, are_rows_beside: bool) -> str:
    """Render what a task does that carries one trial."""
    made = trial_words(sweep, first, count, place="$SLURM_ARRAY_TASK_ID", are_rows_beside=are_rows_beside)
    chosen = "\n".join([f"# one trial a task{_note(sweep, are_rows_beside)}", *made.places, *made.index, *made.tables, *made.words])
    term = "trap signal=TERM TERM # every process of the task gets it anyway"
    traps = _traps(job, term, "trap 'forward TERM' TERM", last="\n")
    return f"{chosen}\n\n{_ALONE.format(traps=traps)}"


def trials_of_task(pack: int, first: int, count: int) -> str:
    """Render what finds the numbers of a packed task's trials."""
    return _NUMBERS.format(pack=pack, offset=f"{first} + " if first else "", end=first + count)


def run_packed_trials(job: Job, sweep: Sweep, first: int, count: int, *, are_rows_beside: bool, has_budget: bool = False) -> str:
    """Render what a task does that carries several trials."""
    pack = job.trials_per_task
    place = f"$((NEXA_TRIAL - {first}))" if first else "$NEXA_TRIAL"
    made = trial_words(sweep, first, count, place=place, are_rows_beside=are_rows_beside)
    shares = job.side_by_side and job.gpu_count > 0
    running = _PACKED.format(
        how="all at once" if job.side_by_side else "one after another",
        traps=_traps(job, "trap 'signal=TERM stop=yes' TERM", "trap 'stop=yes; forward TERM' TERM", last="; "),
        shares='  CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpus[*]:$1 * share:share}")\n  export CUDA_VISIBLE_DEVICES\n' if shares else "",
        budget="  if ! budget_holds; then left=75; break; fi\n" if has_budget and not job.side_by_side else "",
        begun='  pids+=("$!")\n' if job.side_by_side else _ONE_AFTER_ANOTHER,
        ends=_ALL_AT_ONCE if job.side_by_side else "",
        spent=", 75 if the budget was spent" if has_budget and not job.side_by_side else "",
    )
    return "\n".join([_choose(pack, made, _note(sweep, are_rows_beside)), *([_SHARES.format(pack=pack)] if shares else []), running])


def _choose(pack: int, made: TrialWords, note: str) -> str:
    body = "\n".join([*made.index, *made.words]).replace("\n", "\n  ")
    return "\n".join([f"# up to {pack} trials a task{note}", *made.places, *made.tables, "choose() {", f"  {body}", "}"]) + "\n"


def _note(sweep: Sweep, are_rows_beside: bool) -> str:
    if are_rows_beside:
        return ": a trial's row lies beside this script"
    return "; the last parameter varies fastest" if len(sweep.space.factors) > 1 else ""


def _traps(job: Job, term: str, term_asked_for: str, *, last: str) -> str:
    # Every process of a task gets TERM anyway: passed on as well, it would come twice, and break a
    # graceful shutdown. One that was asked for by --signal=B:TERM comes to this shell alone.
    is_term_asked_for = job.signal is not None and "TERM" in job.signal
    traps = "; ".join(f"trap 'forward {name}' {name}" for name in FORWARDED)
    return f"{traps}; {term_asked_for}" if is_term_asked_for else f"{traps}{last}{term}"
