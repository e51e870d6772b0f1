"""Render the keeper: a small job that waits for the end of an array, and then does what was ordered at the launch.

It runs failed trials again by the rules of :class:`nexa_sdk.retry.Retry`, and of a rolling
submission it sends the next array: on the cluster, in bash, so that no notebook need be open. All
that it decides by was worked out at the launch and stands in it.

In ``submitted/``, beside the marks of a submission (see :mod:`.submitting`), it keeps for an array
``<token>.keeper``
    The job's id of its keeper, or how that was refused.
``<token>.json``
    An array that a keeper submits: for the journal, which learns of it later. Written before.
``<token>.kept``
    The keeper is done: ``TASKS|WORDS``, a line for each group of tasks that did not complete.
``<token>.stop``
    Tasks that were cancelled, and are not run again: ``all``, or ``0-3,7``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexa_sdk.retry import AT_ONCE, EVERYWHERE, KILLED, LINES, MARKED, Cause, Ladder, Retry
from nexa_sdk.scheduling.slurm.bash import array_items, quote

if TYPE_CHECKING:
    from nexa_sdk.job import Job

__all__ = ["KeeperScript", "render_keeper"]


@dataclass(frozen=True, kw_only=True)
class KeeperScript:
    """What a keeper needs to know besides the job.

    Attributes
    ----------
    run, folder : str
    counts : sequence of int
        How many tasks each array of the launch has, and how many the last.
    arrays : int
        How many arrays those are.
    rules : Retry, optional
    ladder : Ladder
    is_rolling : bool
    """

    run: str
    folder: str
    arrays: int
    counts: tuple[int, int]
    rules: Retry | None
    ladder: Ladder
    is_rolling: bool = False


def render_keeper(job: Job, keeper: KeeperScript) -> str:
    """Render ``keeper.sbatch``."""
    rules, ladder = keeper.rules, keeper.ladder
    kept = {"account": job.account, "qos": job.qos, "partition": job.partition, "reservation": job.reservation}
    if rules is not None and rules.partition is not None:
        kept["partition"] = rules.partition
    options = [
        ("job-name", f"{keeper.run}-keeper"),
        *((name, value) for name, value in kept.items() if value is not None),
        ("ntasks", "1"),
        ("mem", "100M"),
        ("time", "00:30:00"),
        ("requeue", None),
        ("output", f"{keeper.folder.replace('%', '%%')}/logs/keeper-%j.log"),
        ("open-mode", "append"),
        ("export", "ALL"),
    ]
    lines = [f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={_directive(value)}" for name, value in options]
    times = [rules.times(cause) if rules is not None else 0 for cause in Cause]
    again = ["--dependency="] if job.dependency else []  # it was met when the array ran; its jobs may be forgotten by now
    settings = [
        f"# nexa_sdk: looks after the arrays of the run {keeper.run}, each when it has ended",
        f"run={quote(keeper.folder)}",
        f"run_id={quote(keeper.run)}",
        f"arrays={keeper.arrays} size={keeper.counts[0]} last_size={keeper.counts[1]}  # of the launch",
        f"rolling={'yes' if keeper.is_rolling else 'no'}",
        f"throttle={quote(f'%{job.throttle}' if job.throttle else '')}",
        f"always={_words(again)}  # options of every array",
        "",
        "# how often trials are run again, and with what the first, second, … time",
        f"causes={_words(list(Cause))}",
        f"letters={_words([cause.letter for cause in Cause])}",
        f"times={_words(map(str, times))}",
        f"memory={_words(ladder.memory)} memory_end={quote(ladder.memory_end)}",
        f"walltime={_words(ladder.time)} walltime_end={quote(ladder.time_end)}",
        f"exclude={quote(ladder.exclude)} may_exclude={ladder.may_exclude}",
        f"marked={quote(MARKED)}",
    ]
    body = (
        _BODY.replace("LINES", str(LINES))
        .replace("AT_ONCE", f"{AT_ONCE:g}")
        .replace("KILLED", str(KILLED))
        .replace("EVERYWHERE", EVERYWHERE)
    )
    return "#!/bin/bash\n" + "\n".join(lines) + "\n\n" + "\n".join(settings) + "\n" + body


def _directive(value: str) -> str:
    return f'"{value}"' if any(c in value for c in " #'") else value


def _words(words: Sequence[str] | map[str]) -> str:
    return array_items(quote(str(word)) for word in words)


_BODY = r"""
cd -- "$run" || exit 78

# 0-3,7 to 0 1 2 3 7, and back
unfold() {
  local part
  for part in ${1//,/ }; do seq "${part%-*}" "${part#*-}"; done
}
fold() {
  local folded='' start='' last='' task
  for task in "$@" ''; do
    if [[ -n $last && -n $task ]] && ((task == last + 1)); then last=$task; continue; fi
    if [[ -n $last ]]; then folded+=,$start; [[ $start == "$last" ]] || folded+=-$last; fi
    start=$task last=$task
  done
  echo "${folded#,}"
}

# ---- submitting -----------------------------------------------------------------------------------

# find a job by its name; fails when Slurm does not answer for five minutes
named() {
  local n rows
  for ((n = 0; n < 30; n++)); do
    if rows=$(squeue -h -t all -n "$1" -o %F); then echo "${rows%%$'\n'*}"; return 0; fi
    sleep 10
  done
  return 1
}

# follow TOKEN JOB SCRIPT TASKS [EXCLUDED]: submit the keeper of an array
follow() {
  local mark=submitted/$1.keeper id
  [[ ! -s $mark ]] || return 0
  if id=$(sbatch --parsable --job-name="$1-keeper" --dependency="afterany:$2" keeper.sbatch keep "$@" 2> "$mark.part"); then
    echo "$id" > "$mark.part"
  else
    echo "refused: $(tr '\n' ' ' < "$mark.part")" > "$mark.part"
  fi
  mv -f "$mark.part" "$mark"
}

# send TOKEN SCRIPT TASKS EXCLUDED OPTION...: submit an array exactly once, and its keeper
send() {
  local token=$1 script=$2 tasks=$3 excluded=$4 mark=submitted/$1 n id
  shift 4
  words=
  exec 9>> "$mark.lock"
  flock -w 60 9 || { words='it is being submitted by somebody else'; return 1; }
  for ((n = 0; n < 3; n++)); do
    [[ ! -s $mark ]] || break
    if [[ -e $mark.void ]]; then words='it was given up, or cancelled, before it was submitted'; break; fi
    if [[ ! -e $mark.begun ]]; then
      true > "$mark.begun"
      id=$(sbatch --parsable --job-name="$token" --array="$tasks$throttle" "${always[@]}" "$@" "$script" 2> "$mark.words")
      if [[ $id == [0-9]* ]]; then
        echo "${id%%;*}" > "$mark.begun" && mv -f "$mark.begun" "$mark" && rm -f "$mark.words"
        break
      fi
      words=$(tr '\n' ' ' < "$mark.words")
    fi
    sleep 16 # what Slurm accepted without an answer is in its queue by then
    id=$(named "$token") || { words="nobody can say whether Slurm accepted it: $words"; break; }
    if [[ -n $id ]]; then echo "$id" > "$mark.begun" && mv -f "$mark.begun" "$mark"; break; fi
    rm -f "$mark.begun"
  done
  exec 9>&-
  [[ -s $mark ]] || return 1
  follow "$token" "$(< "$mark")" "$script" "$tasks" "$excluded"
}

# ---- what became of the tasks ---------------------------------------------------------------------

state=() code=() node=()
is_live() { [[ $1 =~ ^(PENDING|RUNNING|SUSPENDED|COMPLETING|CONFIGURING|REQUEUE|RESIZING|SIGNALING|STAGE_OUT|STOPPED|SPECIAL|RESV) ]]; }

# ask Slurm until it knows of every task; accounting is some seconds late, and of some it knows nothing
look() {
  local n patience=6 rows id task word exit where live missing answered
  for ((n = 0; n < 60; n++)); do
    ((n == 0)) || sleep 3
    state=() code=() node=() live=no missing=no answered=yes
    rows=$(sacct -n -P -X -j "$job" --format=JobID,State,ExitCode,NodeList 2> /dev/null)
    while IFS='|' read -r id word exit where; do
      word=${word%% *} word=${word%+} task=${id#*_}
      if [[ ! $task =~ ^[0-9]+$ || $id != *_* || $exit != *:* ]] || is_live "$word"; then continue; fi
      state[task]=$word node[task]=$where code[task]=${exit%:*}
      [[ ${exit#*:} == 0 ]] || code[task]=$((128 + ${exit#*:}))
    done <<< "$rows"
    rows=$(squeue -h -r -t all -j "$job" -o '%K|%T|%N' 2>&1) || [[ $rows == *'Invalid job id'* ]] || answered=no
    while IFS='|' read -r task word where; do
      [[ $task =~ ^[0-9]+$ ]] || continue
      if is_live "$word"; then live=yes state[task]=$word; continue; fi
      [[ -n ${state[task]-} ]] || state[task]=$word node[task]=$where
    done <<< "$rows"
    for task in $(unfold "$tasks"); do [[ -n ${state[task]-} ]] || missing=yes; done
    [[ $answered == yes ]] || continue
    if [[ $live == no && $missing == no ]]; then return; fi
    [[ $live == yes ]] || ((--patience)) || return
  done
}

# why a task did not complete, by its state, its own record and the end of its log; and whether that was at once
cause_of() {
  local word=${state[$1]-} exit=${code[$1]-} begun='' end='' record='' line
  { read -r record < "tasks/${job}_$1.json"; } 2> /dev/null
  if [[ $record =~ \"exit\":([0-9]+) ]]; then exit=${BASH_REMATCH[1]}; fi
  if [[ $record =~ \"start\":([0-9]+) ]]; then begun=${BASH_REMATCH[1]}; fi
  if [[ $record =~ \"end\":([0-9]+) ]]; then end=${BASH_REMATCH[1]}; fi
  if [[ $record == *'"stopped":'* ]]; then cause=CANCELLED at_once=no; return 0; fi # the budget was spent
  at_once=no
  if [[ -n $begun && -n $end ]] && ((end - begun < AT_ONCE)); then at_once=yes; fi
  if [[ -z $word ]]; then # Slurm knows nothing of it any more, or never said
    case $exit in 0) cause=COMPLETED ;; ?*) cause=FAILED ;; *) cause=UNKNOWN ;; esac
  else
    cause=${word/BOOT_FAIL/NODE_FAIL}
  fi
  [[ $cause == FAILED || $cause == UNKNOWN ]] || return 0
  line=$(tail -n LINES -- "logs/${job}_$1.log" 2> /dev/null | grep -aE "$marked" | tail -n 1)
  case $line in
    *'exceeded memory limit'* | *oom[-_]kill* | *'Out Of Memory'*) cause=OUT_OF_MEMORY ;;
    *'DUE TO TIME LIMIT'*) cause=TIMEOUT ;;
    *'DUE TO NODE FAILURE'*) cause=NODE_FAIL ;;
    *'DUE TO PREEMPTION'*) cause=PREEMPTED ;;
    *) if [[ $word == FAILED && $exit == KILLED ]]; then cause=OUT_OF_MEMORY; fi ;;
  esac
}

# sort the tasks by cause into groups[cause]; a task that was cancelled is in none
sort_out() {
  local task n completed=no ended=0 failed=0 stopped=''
  groups=('' '' '' '' '') lost=''
  [[ ! -e submitted/$token.stop ]] || stopped=" $(unfold "$(paste -sd, "submitted/$token.stop")" | tr '\n' ' ') "
  for task in $(unfold "$tasks"); do
    cause_of "$task"
    [[ $cause != CANCELLED && $cause != UNKNOWN ]] || continue # cancelled while it was pending, a task leaves no trace
    ((ended += 1))
    if [[ $cause == COMPLETED ]]; then completed=yes; continue; fi
    [[ $cause != FAILED || $at_once != yes ]] || ((failed += 1))
    [[ $stopped != *" $task "* ]] || continue
    for n in "${!causes[@]}"; do [[ ${causes[n]} != "$cause" ]] || groups[n]+=" $task"; done
    [[ $cause != NODE_FAIL || -z ${node[task]-} ]] || lost+=" ${node[task]}"
  done
  everywhere=no
  if [[ $completed == no ]] && ((failed == ended && ended > 1)); then everywhere=yes; fi
}

# ---- what is done about it ------------------------------------------------------------------------

note() { echo "$1|$2" | tee -a "submitted/$token.kept.part"; }

# again N: run the tasks of a cause again, with what the rules give them the next time, or say why not
again() {
  local cause=${causes[$1]} new=$token${letters[$1]} did=('' '' '' '' '') n letter list name where options=() json='' what='as it is'
  # the letters behind the number say what the trials were run again for before
  for n in "${!letters[@]}"; do letter=${token##*-} did[n]=${letter//[^${letters[n]}]/}; done
  # shellcheck disable=SC2086
  list=$(fold ${groups[$1]})
  local done_for=${#did[$1]} excluded_now=$excluded
  if ((done_for >= ${times[$1]})); then
    what='not run again, unless the rules say so'
    ((done_for == 0)) || what="run again $done_for times for it already"
    note "$list" "$cause: $what"
    return
  fi
  if [[ $cause == OUT_OF_MEMORY ]] && ((done_for >= ${#memory[@]})); then note "$list" "$cause: $memory_end"; return; fi
  if [[ $cause == TIMEOUT ]] && ((done_for >= ${#walltime[@]})); then note "$list" "$cause: $walltime_end"; return; fi
  did[$1]+=${letters[$1]}
  if ((${#did[0]})); then name=${memory[${#did[0]} - 1]} options+=("--mem=$name") json+=",\"mem\":\"$name\""; fi
  [[ $cause != OUT_OF_MEMORY ]] || what="mem $name"
  if ((${#did[1]})); then name=${walltime[${#did[1]} - 1]} options+=("--time=$name") json+=",\"time\":\"$name\""; fi
  [[ $cause != TIMEOUT ]] || what="time $name"
  if [[ $cause == NODE_FAIL ]]; then
    [[ -n $excluded_now ]] || excluded_now=$exclude
    for where in $lost; do [[ ,$excluded_now, == *",$where,"* ]] || excluded_now+=,$where; done
    excluded_now=${excluded_now#,} name=${excluded_now//[^,]/}
    if ((${#name} >= may_exclude)); then excluded_now=$excluded; else what="not on $excluded_now"; fi
  fi
  if [[ -n $excluded_now ]]; then options+=("--exclude=$excluded_now") json+=",\"exclude\":\"$excluded_now\""; fi
  if [[ -n $throttle && -n $before ]]; then options+=("--dependency=afterany:$before"); fi # one after another
  if [[ -e secrets/$token ]]; then cp -p "secrets/$token" "secrets/$new"; fi
  if [[ ! -e submitted/$new.json ]]; then
    printf '{"token":"%s","script":"%s","tasks":"%s","cause":"%s","at":%s,"options":{%s}}\n' \
      "$new" "$script" "$list" "$cause" "$(date +%s)" "${json#,}" > "submitted/$new.json.part"
    mv -f "submitted/$new.json.part" "submitted/$new.json"
  fi
  if send "$new" "$script" "$list" "$excluded_now" "${options[@]}"; then
    before=$(< "submitted/$new")
    note "$list" "$cause: run again as job $before: $what"
    return
  fi
  note "$list" "$cause: could not be run again ($what): $words"
  [[ -e submitted/$new.begun ]] || rm -f "submitted/$new.json" "secrets/$new"
}

# top_up: of a rolling submission, send the array after the next, once this one and all that came of it have ended
top_up() {
  local number=${token##*-} next after mark options=()
  number=${number%%[a-z]*} next=$((number + 2))
  for mark in "submitted/$run_id-$number"[a-z]*.json; do
    [[ ! -e $mark || -e ${mark%.json}.kept ]] || return 0
  done
  while [[ -e submitted/$run_id-$next.void ]]; do ((next += 2)); done # cancelled before its turn
  ((next < arrays)) || return 0
  after=submitted/$run_id-$((next - 1))
  if [[ -n $throttle && -s $after ]]; then options=("--dependency=afterany:$(< "$after")"); fi
  roll "$next" "${options[@]}" || echo "array $next could not be submitted: $words"
}

# roll NUMBER OPTION...: submit an array of the launch
roll() {
  local number=$1 count=$size
  shift
  ((number + 1 < arrays)) || count=$last_size
  send "$run_id-$number" "job-$number.sbatch" "0-$((count - 1))" '' "$@"
}

# keep TOKEN JOB SCRIPT TASKS [EXCLUDED]: what the job itself does, when the array has ended
keep() {
  local name n before=''
  token=$1 job=$2 script=$3 tasks=$4 excluded=${5-}
  for name in "${!SLURM_@}"; do [[ $name == SLURM_CONF ]] || unset "$name"; done # what it submits is not of this job
  exec 8>> "submitted/$token.lock"
  flock 8
  if [[ ! -e submitted/$token.kept ]]; then
    : > "submitted/$token.kept.part"
    look
    for n in "${state[@]}"; do
      if is_live "$n"; then # a task was requeued meanwhile: wait for it again
        rm -f "submitted/$token.keeper" && follow "$@"
        return
      fi
    done
    sort_out
    for n in "${!causes[@]}"; do
      [[ -n ${groups[n]} ]] || continue
      if [[ $everywhere == yes ]]; then
        # shellcheck disable=SC2086
        note "$(fold ${groups[n]})" "${causes[n]}: EVERYWHERE"
      else
        again "$n"
      fi
    done
    mv -f "submitted/$token.kept.part" "submitted/$token.kept"
    rm -f "secrets/$token"
  fi
  [[ $rolling == no ]] || top_up
}

# stop TOKEN TASKS: these tasks are not run again; "all" ends the keeper as well
stop() {
  if [[ $2 == all ]]; then
    scancel -n "$1-keeper" || return
  else
    echo "$2" >> "submitted/$1.stop"
  fi
  exec 8>> "submitted/$1.lock"
  flock -w 60 8 || return 75
  if [[ $2 == all && ! -e submitted/$1.kept ]]; then echo 'all|cancelled: not run again' > "submitted/$1.kept"; fi
}

# anew TOKEN JOB SCRIPT TASKS [EXCLUDED]: submit a keeper again that was lost
anew() {
  rm -f "submitted/$1.keeper"
  follow "$@"
  [[ $(< "submitted/$1.keeper") == [0-9]* ]] || { cat "submitted/$1.keeper" >&2; return 1; }
}

case ${1-} in
  keep | follow | stop | anew | roll) "$@" ;;
  *) : ;; # sourced, to look at the functions
esac
"""
