"""Render what a run's tasks do about its budget: they count it themselves, so that nobody need be there.

Of what could hold a budget while no notebook is open, a limit of Slurm's own (GrpTRESMins) needs an
operator, accounting and an association of the run's own, and counts no money; a job that waits
beside the run would have to stay awake, takes a place in the queue, and knows nothing before it is
started. So each task looks when it begins, before each further trial that it carries, and when it
ends: what the run has used is the sum of what its tasks wrote down. Nothing is asked of Slurm for
that, and the embedded cluster runs the same script.

All tasks of a run cost the same, so what is counted are seconds of a task: whole numbers, in the
names of empty files. One listing of a folder tells them all; no file is opened, and none is written
by two tasks. In ``budget/`` lie

``limit``
    The budget, where it is warned of, and the longest task, in seconds of a task; and its name. It
    is replaced as a whole when a retry brings a raised budget.
``<job>_<task>-<attempt>@<start>``
    A task that runs.
``<job>_<task>-<attempt>=<seconds>``
    One that has ended.
``warned``, ``spent``
    When that was first seen: the time, the seconds used, the budget's name.
``cancelled-<job>``
    A task of this job has cancelled what waited.
"""

from __future__ import annotations

__all__ = ["begin_within_budget", "budget_functions"]


_COUNTING = """\
# the budget: what the run's tasks have used stands in the names of the files in budget/, in seconds of
# a task: <job>_<task>-<attempt>=<seconds> of one that has ended, …@<start> of one that runs
budget=$run/budget budget_entry=$run/budget/$job-${SLURM_RESTART_COUNT:-0}
budget_add_up() {
  read -r budget_limit budget_warning budget_longest budget_words < "$budget/limit" || return
  budget_at=$(date +%s)
  # shellcheck disable=SC2012 # the names are its own
  read -r budget_used budget_running < <(ls -f "$budget" | LC_ALL=C awk -F '[=@]' -v now="$budget_at" -v longest="$budget_longest" '
    NF == 2 && $2 ~ /^[0-9]+$/ {
      seconds = $2
      if (index($0, "@")) { running++; seconds = now - $2; if (seconds < 0) seconds = 0; if (seconds > longest + 0) seconds = longest }
      used += seconds
    }
    END { printf "%.0f %d\\n", used, running }')
}
budget_begin() {
  local entry last
  read -r _ _ budget_longest _ < "$budget/limit" || fail "the run's budget, $budget/limit, can't be read on $HOSTNAME"
  for entry in "$budget/$job"-*@*; do # of attempts before a requeue that could not say when they ended
    [[ -e $entry ]] || continue
    last=$((${entry##*@} + budget_longest))
    budget_note "$entry" "$((last < started ? last : started))"
  done
  true > "$budget_entry@$started" || fail "$budget can't be written on $HOSTNAME"
  budget_add_up || fail "the run's budget, $budget/limit, can't be read on $HOSTNAME"
  budget_used=$((budget_used - (budget_at > started ? budget_at - started : 0))) # what this one is about to use is no reason
  if ((budget_used < budget_limit)); then budget_warn; return; fi
  rm -f "$budget_entry@$started"
  budget_stop
  begun+=",\\"stopped\\":\\"not begun: $budget_words is spent\\""
  echo "nexa: not begun: $budget_words is spent" >&2
  exit 75
}
budget_note() { # ENTRY END: an attempt has ended
  local length=$(($2 - ${1##*@}))
  mv -f "$1" "${1%@*}=$((length > 0 ? length : 0))"
}
budget_end() { # END: this one has
  [[ -e $budget_entry@$started ]] || return 0
  budget_note "$budget_entry@$started" "$1"
  budget_add_up || return 0
  if ((budget_used < budget_limit)); then budget_warn; else budget_stop; fi
}
budget_holds() { # whether another trial of this task may begin
  budget_add_up || return 0
  if ((budget_used < budget_limit)); then budget_warn; return; fi
  budget_stop
  begun+=",\\"stopped\\":\\"not begun: $budget_words is spent\\""
  return 1
}
budget_once() { # NAME: whether this is the first to say it
  (set -C; echo "$budget_at $budget_used $budget_words" > "$budget/$1") 2>/dev/null
}
budget_warn() {
  ((budget_used >= budget_warning)) && budget_once warned || return 0
  echo "nexa: $((100 * budget_used / budget_limit)) % of $budget_words are used" >&2
}
"""

_STOP = """\
budget_stop() { # ELSE_WORDS; what starts all the same ends at once
  local file token
  budget_once spent
  budget_once "cancelled-$SLURM_ARRAY_JOB_ID" || return 0
  for file in "$run/submitted/$NEXA_RUN"-*.json; do
    token=${file##*/} token=${token%.json}
    budget_cancel "$token" || echo "nexa: what CANCELLED of $token could not be cancelled" >&2
  done
}
budget_tell() { # TOKEN TASKS: of the embedded cluster
  local list=budget-$job-$1
  [[ -p $run/local/$1.fifo ]] || return 0
  printf '%s\\n%s is spent\\n' "$2" "not begun: $budget_words" > "$run/local/$list" && echo "cancel $list" 1<> "$run/local/$1.fifo"
}
"""

# A name that no other job has is all that is given to scancel.
_CANCEL_WAITING = """\
budget_cancel() { # TOKEN
  if [[ -d $run/local ]]; then budget_tell "$1" pending; else scancel -t PENDING -n "$1"; fi
}
"""

# Not this task: if it is at its end, it has completed.
_CANCEL_ALL = """\
budget_cancel() { # TOKEN
  local itself=''
  [[ $1 != "$SLURM_JOB_NAME" ]] || itself=$SLURM_ARRAY_TASK_ID
  if [[ -d $run/local ]]; then
    budget_tell "$1" "others $itself"
  else
    squeue -h -r -n "$1" -o %F_%K | { grep -vxF "$job" || :; } | xargs -r scancel
  fi
}
"""

# It wakes when the budget may be spent; what began meanwhile has a watch of its own that wakes earlier.
_WATCH = """\
budget_watch() {
  local length
  while budget_add_up; do
    if ((budget_used >= budget_limit)); then
      budget_stop
      if [[ -d $run/local ]]; then budget_tell "$SLURM_JOB_NAME" "$SLURM_ARRAY_TASK_ID"; else scancel "$job"; fi
      return
    fi
    budget_warn
    length=$(((budget_limit - budget_used) / (budget_running ? budget_running : 1)))
    sleep "$((length < 1 ? 1 : length > 60 ? 60 : length))"
  done
}
"""


def budget_functions(*, ends_running: bool) -> str:
    """Render what the rest of a script calls."""
    words = "what waits of the run is cancelled, and what runs is ended" if ends_running else "what waits of the run is cancelled"
    stop = _STOP.replace("ELSE_WORDS", words).replace("CANCELLED", "runs and waits" if ends_running else "waits")
    counting = _COUNTING if ends_running else _COUNTING.replace("budget_running", "_")
    return counting + stop + (_CANCEL_ALL + _WATCH if ends_running else _CANCEL_WAITING)


def begin_within_budget(*, ends_running: bool) -> str:
    """Render what a task does before anything else: it does not begin when the budget is spent."""
    return "budget_begin\n" + ("budget_watch & # ends all that runs when the budget is spent\n" if ends_running else "")
