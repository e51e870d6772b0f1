"""Talk to Slurm: sbatch, squeue, sacct, scancel, sinfo and scontrol over a transport."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError, ClusterNotFound, CommandFailed, CommandTimeout, SubmissionRejected, SubmissionUnknown
from nexa_sdk.scheduling.base import ArrayHandle, Check, Limits, Scheduler, Submission, TaskStatus
from nexa_sdk.scheduling.environment import for_questions, for_trials
from nexa_sdk.scheduling.slurm import accounting, checks
from nexa_sdk.transports.base import Completed, Transport

if TYPE_CHECKING:
    from nexa_sdk.job import Job

__all__ = ["SlurmScheduler"]

# seconds: a controller that is down is waited for by its own clients for 10, then they give up
ANSWER = 30.0
SUBMIT = 60.0

# Lay the files down, look whether the script is whole, submit it, and leave the job's id beside it.
# A script that came through a pipe and was cut short would be submitted and run: so a file first.
# Exit statuses of its own are above those of sbatch (1 and 255).
_SUBMIT = r"""
folder=$1 script=$2 size=$3 token=$4 packed=$5
shift 5
mkdir -p -- "$folder" && cd -- "$folder" || exit 73
if [ "$packed" = yes ]; then tar -xpof - || exit 74; fi
if [ "$size" != - ]; then
  [ "$(wc -c < "$script")" -eq "$size" ] || { echo "$script arrived cut short" >&2; exit 74; }
fi
id=$("$@" "$script") || exit $?
echo "$id" > "submitted/$token.part" && mv -f "submitted/$token.part" "submitted/$token"
echo "$id"
"""
_NO_FOLDER, _NO_FILES = 73, 74

# The words of a "no" that is none, or that may not have been the last (facts of six versions).
_MAYBE = re.compile(r"timed out|Zero Bytes were transmitted|Connection reset|unexpected message|sleeping and retrying")
_NOBODY_THERE = re.compile(r"Unable to contact|connect failure|Munge|authentication|establish a configuration|Connection refused")


class SlurmScheduler(Scheduler):
    """The Slurm that a machine's commands reach.

    Parameters
    ----------
    transport : Transport
        Where the commands are.
    settings : mapping of str to str
        What else they need in their environment: the sandbox's SLURM_CONF.
    """

    def __init__(self, transport: Transport, settings: Mapping[str, str] | None = None) -> None:
        self.transport = transport
        self.settings = dict(settings or {})
        self._config: dict[str, str] | None = None

    # ---- asking ---------------------------------------------------------------------------------

    def _run(self, *argv: str, timeout: float = ANSWER) -> Completed:
        environment = for_questions({**self.transport.environment(), **self.settings})
        try:
            return self.transport.run(argv, env=environment, timeout=timeout)
        except ClusterNotFound as error:
            raise ClusterNotFound(
                f"no Slurm here: {error}. Work on a machine that has it, or use Cluster('local'), which "
                "needs nothing, or Cluster('sandbox'), a real Slurm of one machine"
            ) from error

    def _ask(self, *argv: str) -> str:
        answer = self._run(*argv)
        if answer.returncode:
            raise CommandFailed(argv[0], answer.returncode, answer.stderr)
        return answer.stdout

    def config(self) -> dict[str, str]:
        """Return what ``scontrol show config`` says; asked once."""
        if self._config is None:
            lines = self._ask("scontrol", "show", "config").splitlines()
            pairs = (line.partition("=") for line in lines)
            self._config = {key.strip(): value.strip() for key, equals, value in pairs if equals}
        return self._config

    def limits(self) -> Limits:
        """Say what is accepted; asked once."""
        return Limits(array_size=int(self.config().get("MaxArraySize", "1001")))

    @property
    def has_accounting(self) -> bool:
        """Whether there is a database that sacct can ask."""
        return self.config().get("AccountingStorageType", "") == "accounting_storage/slurmdbd"

    def partition_table(self) -> dict[str, accounting.Partition]:
        """Return the partitions, as sinfo tells of them now."""
        return accounting.read_partitions(self._ask("sinfo", "-h", "-o", "%P|%a|%l|%D|%G"))

    def partitions(self) -> list[str]:
        """Name the partitions."""
        return list(self.partition_table())

    # ---- submitting -----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        """Lay the files down and submit; see the base class."""
        script = submission.files.get(submission.script)
        retold = [f"--{name}={value}" for name, value in _retold(submission)]
        argv = [
            "sh", "-c", _SUBMIT, "nexa",
            submission.folder, submission.script, str(len(script)) if script is not None else "-", submission.token,
            "yes" if submission.files else "no",
            "sbatch", "--parsable", *retold,
        ]  # fmt: skip
        environment = for_trials({**self.transport.environment(), **self.settings})
        try:
            answer = self.transport.run(argv, env=environment, stdin=pack(submission.files), timeout=SUBMIT)
        except CommandTimeout as error:
            return self._look_up(submission, str(error))
        if answer.returncode == 0 and (match := re.match(r"(\d+)", answer.stdout)):
            return match[1]
        if answer.returncode == 0:
            return self._look_up(submission, f"sbatch printed no job id, but {answer.stdout.strip()!r}")
        return self._refused(submission, answer)

    def _refused(self, submission: Submission, answer: Completed) -> str:
        words = answer.stderr.strip() or f"sbatch ended with exit status {answer.returncode} and said nothing"
        if answer.returncode in (_NO_FOLDER, _NO_FILES):
            raise SubmissionRejected(
                f"the run's folder {submission.folder} can't be written: {words}. Choose another with Cluster(…, runs='/a/folder')"
            )
        if answer.returncode == 127:
            raise ClusterNotFound(f"there is no sbatch on this machine's PATH: {words}")
        if _MAYBE.search(words) or answer.returncode < 0 or 128 < answer.returncode < 255:
            return self._look_up(submission, words)
        if _NOBODY_THERE.search(words):
            raise SubmissionRejected(f"Slurm does not answer, and nothing was submitted: {words}")
        raise SubmissionRejected(f"sbatch refused {submission.token}, and nothing was submitted: {words}")

    def _look_up(self, submission: Submission, words: str) -> str:
        """Find out whether a submission that got no clear answer was accepted."""
        problem = words
        deadline = time.monotonic() + 15  # an accepted job has shown up by then, on every version
        while time.monotonic() < deadline:
            try:
                if (found := self.find(submission.token, submission.folder)) is not None:
                    return found
            except ClusterError as error:
                problem = f"{words}; then {error}"
            time.sleep(1)
        raise SubmissionUnknown(
            f"nobody can say whether Slurm accepted {submission.token}: {problem}. It is not sent again unasked; "
            "run.status() looks it up by its name"
        )

    def find(self, token: str, folder: str) -> str | None:
        """Find a submission by its token: in squeue, in the run's folder, in sacct."""
        answer = self._ask("squeue", "-h", "-t", "all", "-n", token, "-o", "%F")
        if match := re.match(r"(\d+)", answer):
            return match[1]
        noted = self.transport.read(f"{folder}/submitted/{token}").decode()
        if match := re.match(r"(\d+)", noted):
            return match[1]
        if self.has_accounting:
            rows = self._ask("sacct", "-n", "-P", "-X", "--name", token, "-S", "now-7days", "--format=JobID")
            if match := re.match(r"(\d+)", rows):
                return match[1]
        return None

    @property
    def memory(self) -> float | None:
        """Where there is no accounting, a job is forgotten MinJobAge after its end."""
        if self.has_accounting:
            return None
        return float(re.match(r"\d*", self.config().get("MinJobAge", "300"))[0] or 300)  # type: ignore[index]

    # ---- watching -------------------------------------------------------------------------------

    def poll(self, arrays: Sequence[ArrayHandle]) -> dict[str, dict[int, TaskStatus]]:
        """Ask about all arrays at once: one squeue, and one sacct for those that ended."""
        jobs = {array.job_id: array.tasks for array in arrays}
        if not jobs:
            return {}
        answer = self._run("squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", accounting.SQUEUE_FORMAT)
        # Asked for one job alone that it has forgotten, squeue fails; among others it skips it.
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise CommandFailed("squeue", answer.returncode, answer.stderr)
        queued = accounting.read_squeue(answer.stdout)
        # A task that ended some minutes ago is forgotten by squeue while its siblings go on.
        ended = [
            job
            for job, count in jobs.items()
            if len(queued.get(job, {})) < count or any(task.state.is_terminal for task in queued[job].values())
        ]
        accounted: dict[str, accounting.Accounted] = {}
        if ended and self.has_accounting:
            rows = self._run("sacct", "-n", "-P", "-X", "-j", ",".join(ended), f"--format={accounting.SACCT_FIELDS}")
            if rows.returncode == 0:  # while its database is away, what squeue knows has to do
                accounted = accounting.read_sacct(rows.stdout)
        return accounting.merge(jobs, queued, accounted)

    def cancel(self, array: ArrayHandle, tasks: str | None) -> None:
        """End tasks: scancel sends TERM, and KILL after the site's KillWait."""
        target = array.job_id if tasks is None else f"{array.job_id}_[{tasks}]"
        answer = self._run("scancel", target)
        if answer.returncode:
            raise CommandFailed("scancel", answer.returncode, answer.stderr)

    # ---- looking before -------------------------------------------------------------------------

    def checks(self, job: Job, *, folder: str, tasks: int) -> list[Check]:
        """Look at partition, walltime, GPUs and the number of trials."""
        try:
            table = self.partition_table()
        except ClusterNotFound:
            raise
        except ClusterError as error:
            return [Check("Slurm", "error", f"it does not answer: {error}")]
        jobs = int(self.config().get("MaxJobCount", "10000"))
        return [
            *checks.run_folder(folder, is_throw_away=bool(self.settings)),
            *checks.resources(job, table),
            checks.number_of_trials(tasks, self.limits().array_size, jobs),
        ]

    def expected_start(self, script: str) -> Check:
        """Ask ``sbatch --test-only`` (it costs a job id); see the base class."""
        environment = for_trials({**self.transport.environment(), **self.settings})
        try:
            answer = self.transport.run(["sbatch", "--test-only"], env=environment, stdin=script.encode(), timeout=10)
        except CommandTimeout:
            return Check("expected start", "unknown", "Slurm did not say within 10 seconds")
        return checks.expected_start(answer.returncode, answer.stderr)


def _retold(submission: Submission) -> Iterator[tuple[str, str]]:
    """Say what sbatch is told otherwise than by the script: the command line wins."""
    job = submission.job
    if submission.is_retry:
        yield "job-name", submission.token
        yield "array", submission.tasks + (f"%{job.throttle}" if job.throttle else "")
    if submission.after is not None:
        yield "dependency", ",".join(filter(None, [job.dependency, f"afterany:{submission.after}"]))


def pack(files: Mapping[str, bytes]) -> bytes:
    """Pack a run's files for its folder, with the folders that its tasks write to."""
    if not files:
        return b""
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in (
            "logs",
            "tasks",
            "results",
            "submitted",
            *(["secrets"] if any(name.startswith("secrets/") for name in files) else []),
        ):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o700 if folder == "secrets" else 0o755, int(time.time())
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600 if name.startswith("secrets/") else 0o644, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
