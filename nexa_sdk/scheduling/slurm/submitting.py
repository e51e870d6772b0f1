"""Submit an array by sbatch, and find out whether one that got no clear answer was accepted.

What is done on the cluster's side is one short shell script each, over whatever transport. Beside
the run's files, ``submitted/`` holds for each array, by its token:

``<token>``
    The job's id. Whoever submits the same token again gets this, and submits nothing.
``<token>.lock``
    Locked (flock) while a submission is under way, by the shell and by sbatch itself: it holds
    longer than the kernel that started them.
``<token>.begun``
    Sbatch was started; until the id is known nobody but Slurm can say what came of it.
``<token>.void``
    Sendings up to this number came too late: they must not be submitted any more; and since when.
``<token>.claim``
    The job whose tasks carry the array's trials, written by the first that starts; see the script.
"""

from __future__ import annotations

import io
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from nexa_sdk.errors import (
    ClusterNotFound,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    SubmissionRejected,
    SubmissionUnknown,
    SubmissionUnsent,
    SubmissionVoided,
    Unreachable,
)
from nexa_sdk.scheduling.base import Submission, Verdict
from nexa_sdk.transports.base import Completed

if TYPE_CHECKING:
    from nexa_sdk.transports.base import Transport

__all__ = ["disown", "may_be_done", "submit", "void"]

PRIVATE = ("secrets/", "code.patch", "cell.py")  # for their owner alone

# seconds: a controller that is down is waited for by sbatch for 10; a full one (MaxJobCount) for ever
SUBMIT = 60.0

# A script that came through a pipe and was cut short would be submitted and run: so a file first,
# and a look whether it is whole. Exit statuses of its own are above those of sbatch (1 and 255).
_SUBMIT = r"""
folder=$1 script=$2 size=$3 token=$4 send=$5 packed=$6 tasks=$7 code=$8 # sizes in bytes, - for none
shift 8
mkdir -p -- "$folder/submitted" && cd -- "$folder" || exit 73
mark=submitted/$token
arrived=$mark.$$.tar # before the lock: on a line that is cut, what comes by it is waited for for hours
trap 'rm -f "$arrived"' EXIT
trap 'exit 143' HUP INT TERM
if [ "$packed" != - ]; then
  (umask 077 && exec cat > "$arrived") || exit 73
  [ "$(wc -c < "$arrived")" -eq "$packed" ] || { echo "its files arrived cut short" >&2; exit 74; }
fi
true >> "$mark.lock" || exit 73
exec 9> "$mark.lock"
flock -w 30 -E 75 9 2> /dev/null
case $? in 0) ;; 75) exit 75 ;; *) echo "nexa: files can't be locked here" >&2 ;; esac
follow() { # by a keeper, where one was ordered; what came of it stands in the mark beside
  [ "$tasks" = - ] || bash keeper.sbatch follow "$token" "$1" "$script" "$tasks" > /dev/null
}
if [ -s "$mark" ]; then
  follow "$(cat "$mark")"
  cat "$mark"
  exit
fi
void=0
[ ! -e "$mark.void" ] || read -r void since < "$mark.void"
[ "$void" -lt "$send" ] || exit 76
if [ "$packed" != - ]; then tar -xpof "$arrived" || exit 74; fi
if [ "$size" != - ]; then
  [ "$(wc -c < "$script")" -eq "$size" ] || { echo "$script arrived cut short" >&2; exit 74; }
fi
if [ "$code" != - ] && [ ! -d code ]; then
  [ -d "$code" ] || { echo "there is no $code" >&2; exit 77; }
  part=code.$$.part
  cp -al -- "$code" "$part" 2> /dev/null || { rm -rf "$part"; cp -a -- "$code" "$part" || exit 73; }
  chmod 700 "$part" && mv -T "$part" code 2> /dev/null || rm -rf "$part"
  [ -d code ] || exit 73
fi
true > "$mark.begun" || exit 73
id=$("$@") || exit $?
case $id in # else something else spoke first: the job is looked up by its name
  [0-9]*)
    echo "$id" > "$mark.begun" && mv -f "$mark.begun" "$mark"
    follow "$id"
    ;;
esac
echo "$id"
"""
_NO_FOLDER, _NO_FILES, _BUSY, _VOID_ALREADY, _NO_CODE = 73, 74, 75, 76, 77

_VOID = r"""
folder=$1 token=$2 send=$3 known=yes
[ -d "$folder/submitted" ] || known=no
mkdir -p -- "$folder/submitted" && cd -- "$folder" || exit 73
mark=submitted/$token
true >> "$mark.lock" || exit 73
exec 9> "$mark.lock"
flock -w 20 -E 75 9 2> /dev/null
[ $? -ne 75 ] || exit 75
for proof in "$mark" "$mark.claim"; do
  if [ -s "$proof" ]; then echo "submitted $(cat "$proof")"; exit; fi
done
now=$(date +%s) old=0 since=0
[ ! -e "$mark.void" ] || read -r old since < "$mark.void"
if [ "$old" -lt "$send" ]; then # never lowered: another process may have given up a later one
  since=$now
  echo "$send $since" > "$mark.void.part" && mv -f "$mark.void.part" "$mark.void" || exit 73
fi
if [ "$known" = no ] || [ -e "$mark.begun" ]; then echo "begun $((now - since))"; else echo never; fi
"""

# A controller that is killed may lose what it accepted in the last seconds: its state is saved now and then.
_DISOWN = r"""
folder=$1 token=$2 job=$3
cd -- "$folder" || exit 1
mark=submitted/$token
exec 9>> "$mark.lock" || exit 1
flock -w 20 -E 75 9 2> /dev/null
[ $? -ne 75 ] || exit 1
[ ! -e "$mark.claim" ] || exit 1
read -r known < "$mark" || exit 1
[ "$known" = "$job" ] || exit 1
mv -f "$mark" "$mark.begun"
"""

# The words of a "no" that is none, or that may not have been the last (facts of six versions).
_MAYBE = re.compile(r"timed out|Zero Bytes were transmitted|Connection reset|unexpected message|sleeping and retrying")
_NOBODY_THERE = re.compile(r"Unable to contact|connect failure|Munge|authentication|establish a configuration|Connection refused")


def submit(transport: Transport, submission: Submission, environment: Mapping[str, str]) -> str:
    """Lay the files down, submit, and return the job's id; see :meth:`Scheduler.submit`."""
    script = submission.files.get(submission.script)
    options = [f"--{name}" if value is None else f"--{name}={value}" for name, value in _retold(submission)]
    packed = pack(submission.files, script=submission.script)
    argv = [
        *("sh", "-c", _SUBMIT, "nexa-submit", submission.folder, submission.script, str(len(script)) if script is not None else "-"),
        *(submission.token, str(submission.send), str(len(packed)) if packed else "-"),
        submission.tasks if submission.is_kept else "-",
        submission.code or "-",
        *("sbatch", "--parsable", *options, submission.script, *submission.args),
    ]
    try:
        answer = transport.run(argv, env=environment, stdin=packed, timeout=SUBMIT)
    except (CommandTimeout, ConnectionLost) as error:
        raise _unknown(submission.token, str(error)) from error
    except Unreachable as error:
        raise SubmissionUnsent(
            f"{submission.token} was not submitted: {error}. Launch the same again, or run.resume(), once it can be reached"
        ) from error
    if "nexa: files can't be locked here" in answer.stderr:
        warnings.warn(
            f"files in {submission.folder} can't be locked (a file system without locks, or no flock): launch the same from one kernel "
            "at a time, or choose another folder with Cluster(…, runs='/a/folder')",
            stacklevel=2,
        )
    if answer.returncode == 0 and (match := re.match(r"(\d+)[^\n]*\n", answer.stdout)):
        return match[1]
    if answer.returncode == 0:
        raise _unknown(submission.token, f"sbatch printed no job id, but {answer.stdout.strip()!r}")
    raise _refused(submission, answer)


def _refused(submission: Submission, answer: Completed) -> Exception:
    words = answer.stderr.strip() or f"sbatch ended with exit status {answer.returncode} and said nothing"
    if answer.returncode in (_NO_FOLDER, _NO_FILES):
        return SubmissionRejected(
            f"the run's folder {submission.folder} can't be written: {words}. Choose another with Cluster(…, runs='/a/folder')"
        )
    if answer.returncode == _NO_CODE:
        return SubmissionUnsent(f"the code of {submission.token} is not on the cluster any more: {words}. Launch the same again")
    if answer.returncode == _BUSY:
        return _unknown(submission.token, "another process is submitting it, and does not come to an end")
    if answer.returncode == _VOID_ALREADY:
        return SubmissionVoided(f"{submission.token}: another process gave this sending up")
    if answer.returncode == 127:
        return ClusterNotFound(f"there is no sbatch on this machine's PATH: {words}")
    if may_be_done(answer):
        return _unknown(submission.token, words)
    if _NOBODY_THERE.search(words):
        return SubmissionUnsent(
            f"Slurm does not answer, and {submission.token} was not submitted: {words}. "
            "Launch the same again, or run.resume(), once it does"
        )
    return SubmissionRejected(f"sbatch refused {submission.token}, and nothing was submitted: {words}")


def may_be_done(answer: Completed) -> bool:
    """Whether a command of Slurm's that failed may have been heard all the same: it was killed, or waited in vain."""
    return bool(_MAYBE.search(answer.stderr)) or answer.returncode < 0 or 128 < answer.returncode < 255


def _unknown(token: str, words: str) -> SubmissionUnknown:
    return SubmissionUnknown(
        f"nobody can say whether Slurm accepted {token}: {words}. It is not sent again unasked; run.status() looks it up by its name, "
        "and run.resume() sends it once it is sure that it never arrived"
    )


def void(transport: Transport, token: str, folder: str, send: int, environment: Mapping[str, str]) -> Verdict:
    """Keep what is still on its way from being submitted; see :meth:`Scheduler.void`."""
    answer = transport.run(["sh", "-c", _VOID, "nexa-void", folder, token, str(send)], env=environment, timeout=SUBMIT)
    if answer.returncode == _BUSY:
        raise SubmissionUnknown(f"{token} is being submitted by another process right now; ask again in a minute")
    if answer.returncode:
        raise CommandFailed("sh", answer.returncode, f"{folder}: {answer.stderr.strip()}")
    told = re.fullmatch(r"(never|begun (\d+)|submitted (\d+)[^\n]*)\n", answer.stdout)
    if told is None:
        raise CommandFailed("sh", answer.returncode, f"{folder}: it can't be told what became of {token}: {answer.stdout!r}")
    if told[2] is not None:
        return Verdict(None, is_certain=False, age=float(told[2]))
    return Verdict(told[3], is_certain=True)


def disown(transport: Transport, token: str, folder: str, job_id: str, environment: Mapping[str, str]) -> bool:
    """Take back that a token arrived as a job, unless a task of it began; see :meth:`Scheduler.disown`."""
    answer = transport.run(["sh", "-c", _DISOWN, "nexa-disown", folder, token, job_id], env=environment, timeout=SUBMIT)
    return answer.returncode == 0


def _retold(submission: Submission) -> Iterator[tuple[str, str | None]]:
    """Say what sbatch is told otherwise than by the script: the command line wins."""
    job = submission.job
    if submission.is_retry:
        yield "job-name", submission.token
        yield "array", submission.tasks + (f"%{job.throttle}" if job.throttle else "")
    yield from submission.options
    if submission.dependencies:
        yield "dependency", ",".join([*([job.dependency] if job.dependency else []), *map(str, submission.dependencies)])
    if any(dependency.kind != "afterany" for dependency in submission.dependencies):
        yield "kill-on-invalid-dep", "yes"  # else what can never run waits for ever


def pack(files: Mapping[str, bytes], *, script: str) -> bytes:
    """Pack a run's files for its folder, with the folders that its tasks write to; the script comes last."""
    if not files:
        return b""
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        has_secrets = any(name.startswith("secrets/") for name in files)
        for folder in ("logs", "tasks", "results", *(["secrets"] if has_secrets else [])):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o700 if folder == "secrets" else 0o755, int(time.time())
            archive.addfile(entry)
        # The script last: what a broken line has cut short ends before it, and its length is looked at.
        for name in sorted(files, key=lambda name: name == script):
            content = files[name]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600 if name.startswith(PRIVATE) else 0o644, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
