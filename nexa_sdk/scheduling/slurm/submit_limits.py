"""How many tasks a user may have in the queue, from what sacctmgr and squeue say. Pure.

Slurm counts tasks, not arrays. Over a limit of an association or a QOS sbatch refuses; over
MaxJobCount, or at it, sbatch waits without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nexa_sdk.scheduling.base import Check
from nexa_sdk.states import State

__all__ = ["ASSOCIATION_FIELDS", "QOS_FIELDS", "QUEUE_FORMAT", "Queue", "SubmitLimit", "check", "read_limits", "read_queue"]

# The user's own row has the limits that it inherits; GrpSubmit is counted where it is set.
ASSOCIATION_FIELDS = "User,Account,Partition,DefaultQOS,MaxSubmit,GrpSubmit"
QOS_FIELDS = "Name,MaxSubmitPU,MaxSubmitPA,GrpSubmit"
QUEUE_FORMAT = "%u|%a|%q|%T"

Queue = Counter[tuple[str, str, str, bool]]  # tasks by user, account, QOS, and whether they have not ended


@dataclass(frozen=True)
class SubmitLimit:
    """A limit on the tasks in the queue.

    Attributes
    ----------
    name, whose : str
        ``MaxSubmitJobs``, and whose it is: ``of account ml``.
    most : int
        So many tasks at most.
    user, account, qos : str, optional
        Whose tasks are counted; None means everybody's.
    counts_ended : bool
        Whether those count that have ended and are not forgotten.
    """

    name: str
    whose: str
    most: int
    user: str | None = None
    account: str | None = None
    qos: str | None = None
    counts_ended: bool = False

    @classmethod
    def of_controller(cls, job_count: int) -> SubmitLimit:
        """Return the limit that MaxJobCount means: one less than it says."""
        return cls("MaxJobCount", "of the controller", job_count - 1, counts_ended=True)

    def held(self, queue: Queue) -> int:
        """Count the tasks that the queue has of it."""
        return sum(
            count
            for (user, account, qos, is_live), count in queue.items()
            if (is_live or self.counts_ended) and self.user in (None, user) and self.account in (None, account) and self.qos in (None, qos)
        )

    @property
    def holder(self) -> str:
        """Say whose tasks are in the queue."""
        if self.counts_ended:
            return "that the controller holds for everybody"
        return "that you have queued" if self.user is not None else f"that all of {self.whose.removeprefix('of ')} has queued"


def read_queue(text: str) -> Queue:
    """Read ``squeue -h -r -t all -o QUEUE_FORMAT``."""
    queue: Queue = Counter()
    for line, count in Counter(text.splitlines()).items():
        fields = line.split("|")
        if len(fields) == 4:
            queue[fields[0], fields[1], fields[2], not State.read(fields[3]).is_terminal] += count
    return queue


def read_limits(
    *, user: str, default_account: str, associations: str, qos: str, account: str | None, partition: str | None, chosen_qos: str | None
) -> list[SubmitLimit]:
    """Find the limits that hold for a job.

    Parameters
    ----------
    associations : str
        What ``sacctmgr -n -P show assoc`` says of the user's rows and of their accounts', with ASSOCIATION_FIELDS.
    qos : str
        What ``sacctmgr -n -P show qos`` says, with QOS_FIELDS.
    account, partition, chosen_qos : str, optional
        What the job asks for.
    """
    used = account or default_account
    rows = [row for row in _rows(associations, 6) if row[1] == used]
    own = [row for row in rows if row[0] == user and row[2] in ("", *(partition or "").split(","))]
    own.sort(key=lambda row: row[2] == "")  # one for the partition goes before one for all
    found: list[SubmitLimit] = []
    for row in own[:1]:
        found += _limit("MaxSubmitJobs", f"of account {used}", row[4], user=user, account=used)
        found += _limit("GrpSubmitJobs", f"of user {user} in account {used}", row[5], user=user, account=used)
    for row in rows:
        if row[0] == "":
            found += _limit("GrpSubmitJobs", f"of account {used}", row[5], account=used)
    name = chosen_qos or next((row[3] for row in own if row[3]), "normal")
    for row in _rows(qos, 4):
        if row[0] == name:
            found += _limit("MaxSubmitJobsPerUser", f"of QOS {name}", row[1], user=user, qos=name)
            found += _limit("MaxSubmitJobsPerAccount", f"of account {used} in QOS {name}", row[2], account=used, qos=name)
            found += _limit("GrpSubmitJobs", f"of QOS {name}", row[3], qos=name)
    return found


def _rows(text: str, fields: int) -> Iterable[list[str]]:
    rows = (line.split("|") for line in text.splitlines())
    return [row for row in rows if len(row) == fields]


def _limit(name: str, whose: str, most: str, **of: str) -> list[SubmitLimit]:
    return [SubmitLimit(name, whose, int(most), **of)] if most.isdecimal() else []  # type: ignore[arg-type]


def check(tasks: int, pack: int, limits: Sequence[SubmitLimit], queue: Queue) -> Check | None:
    """Say which limit tasks are over, with the arithmetic and what would fit; None where they fit."""
    rooms: Mapping[SubmitLimit, int] = {limit: limit.most - limit.held(queue) for limit in limits}
    if not rooms:
        return None
    limit = min(rooms, key=lambda limit: rooms[limit])
    room, held = rooms[limit], limit.held(queue)
    if tasks <= room:
        return None
    what = f"tasks of {pack} trials" if pack > 1 else "tasks"
    most = f"{limit.name}={limit.most:,}" if not limit.counts_ended else f"{limit.name}={limit.most + 1:,} allows, which is {limit.most:,}"
    sums = (
        f"{tasks:,} {what} + {held:,} {limit.holder} are more than {most} {limit.whose}"
        if held
        else (f"{tasks:,} {what} are more than {most} {limit.whose}")
    )
    if room < 1:
        return Check("tasks", "error", f"{sums}: there is no room; launch it when some of these have ended")
    packed = -(-tasks * pack // room)
    advice = (
        f"pack={packed} puts {packed} trials into a task and makes them {-(-tasks * pack // packed):,}, and time= is then that of "
        f"all trials of a task; rolling={_round(room)} submits that many at a time"
    )
    return Check("tasks", "error", f"{sums}; {advice}")


def _round(room: int) -> int:
    """Round down to one digit and noughts: others submit, too."""
    scale: int = 10 ** (len(str(room)) - 1)
    return room // scale * scale
