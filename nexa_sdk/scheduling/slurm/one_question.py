"""Ask squeue, and sacct for what has ended meanwhile, in one command: over a far line each costs a round trip or two."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nexa_sdk.scheduling.slurm.accounting import SACCT_FIELDS, SQUEUE_FORMAT
from nexa_sdk.states import State
from nexa_sdk.tasks import format_tasks
from nexa_sdk.transports.base import Completed

__all__ = ["Answered", "ask"]

# On stdin what accounting has told already, a line for each job: "17 0-4,9". What the queue then shows
# as ended and is not among it, is asked of sacct by name, or the whole job where it is much.
_ASK = r"""
jobs=$1 few=$2 whole=$3 ended=$4 queue=$5
export names=$6 fields=$7
{
  cat
  echo nexa-queue
  squeue -h -r -t all -j "$jobs" ${names:+-n "$names"} -o "$queue"
  echo "nexa-squeue $?"
} | awk -F '|' -v few="$few" -v ask="$whole" -v ended="^($ended)$" '
  !queued && $0 == "nexa-queue" { queued = 1; next }
  !queued {
    split($0, word, " ")
    count = split(word[2], range, ",")
    for (i = 1; i <= count; i++) {
      last = split(range[i], end, "-")
      for (task = end[1] + 0; task <= end[last] + 0; task++) told[word[1] "_" task] = 1
    }
    next
  }
  /^nexa-squeue / { print; failed = $0 != "nexa-squeue 0"; next }
  { print }
  $3 ~ ended && $1 ~ /^[0-9]+$/ && $2 ~ /^[0-9]+$/ && !(($1 "_" $2) in told) {
    lacking[$1]++
    if (lacking[$1] <= few) named[$1] = named[$1] "," $1 "_" $2
  }
  END {
    for (job in lacking) ask = ask (lacking[job] > few ? "," job : named[job])
    sub(/^,/, "", ask)
    if (failed || ask == "") exit
    print "nexa-asked " ask
    fflush()
    code = system("sacct -n -P -X -D -j " ask " ${names:+--name \"$names\"} --format=\"$fields\"")
    print "nexa-sacct " code
  }'
"""
_ENDED = "|".join(state.value for state in State if state.is_terminal)


@dataclass(frozen=True)
class Answered:
    """What both said.

    Attributes
    ----------
    queue : Completed
        What squeue answered.
    asked : frozenset of str
        The jobs and tasks that sacct was asked for.
    rows : str or None
        What it answered; None where it failed, or was not asked.
    """

    queue: Completed
    asked: frozenset[str] = frozenset()
    rows: str | None = None


def ask(
    run: Callable[..., Completed],
    jobs: Sequence[str],
    *,
    names: str,
    told: Mapping[str, Collection[int]],
    whole: Sequence[str],
    few: int,
) -> Answered:
    """Ask after jobs.

    Parameters
    ----------
    run : callable
        Runs a command, given its words and ``stdin``.
    names : str
        The only names that they may have, with commas between; empty for any.
    told : mapping of str to collection of int
        The tasks of each job whose end is known from accounting.
    whole : sequence of str
        Jobs of which accounting is to tell all again.
    few : int
        The most tasks of a job that are asked for by name.
    """
    known = "".join(f"{job} {format_tasks(sorted(tasks))}\n" for job, tasks in told.items() if tasks)
    answer = run(
        *("sh", "-c", _ASK, "nexa-ask", ",".join(jobs), str(few), ",".join(whole), _ENDED, SQUEUE_FORMAT, names, SACCT_FIELDS),
        stdin=known.encode(),
    )
    return read(answer)


def read(answer: Completed) -> Answered:
    """Take an answer apart."""
    queue, mark, rest = f"\n{answer.stdout}".rpartition("\nnexa-squeue ")
    if not mark:  # neither a shell nor awk there, or the answer was cut
        return Answered(Completed(answer.returncode or 1, "", answer.stderr or "squeue said nothing"))
    code, _, rest = rest.partition("\n")
    queued = Completed(int(code), queue[1:] + "\n" * bool(queue[1:]), answer.stderr)
    match = re.fullmatch(r"nexa-asked (\S+)\n(.*\n)?nexa-sacct (\d+)\n", rest, re.DOTALL)
    if match is None:
        return Answered(queued)
    return Answered(queued, frozenset(match[1].split(",")), (match[2] or "") if match[3] == "0" else None)
