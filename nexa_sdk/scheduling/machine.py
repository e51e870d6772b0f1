"""The half of the embedded scheduler that works on the machine itself: in this process here, over SSH on another.

There it is run as ``python3 -I -S machine.py VERB``, beside ``supervisor.py``: a request comes by stdin,
``<bytes of JSON> <bytes of payload>`` and a line end first, then both; the answer goes to stdout as JSON.
It needs Python 3.6 and the standard library alone. A request that was cut short does nothing.

In a run's folder ``local/`` holds what :mod:`nexa_sdk.scheduling.supervisor` tells of, and

``submit.lock``
    Locked while an array is submitted or given up.
``<token>.void``
    Sendings up to this number came too late: they must not be submitted any more.

In the home of the locks, ``<host>/`` has one file for each core and GPU, and ``last-job-id`` the last one.
"""

import contextlib
import fcntl
import io
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import uuid
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

if __package__:
    from nexa_sdk.scheduling import supervisor
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import supervisor  # type: ignore[import-not-found,no-redef]

__all__ = ["Refused", "cancel", "cores", "find", "gpus", "locked", "poll", "room", "submit", "void", "write"]

KILL_WAIT = 5.0  # seconds between TERM and KILL
START_TIMEOUT = 30.0  # seconds
STARTING = 60.0  # seconds that a supervisor may take to begin
CUT_SHORT = 74  # exit status
PRIVATE = ("secrets/", "code.patch", "cell.py")  # for their owner alone

Request = Dict[str, Any]
Files = Iterable[Tuple[str, bytes]]


class Refused(Exception):
    """A submission that was not accepted; nothing was started.

    Attributes
    ----------
    kind : str
        ``"resources"``, ``"start"``, ``"after"``, ``"folder"``, ``"code"`` or ``"void"``: what it was for.
    """

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


# ---- submitting --------------------------------------------------------------------------------


def submit(request: Request, files: Files) -> str:
    """Lay the files down, start a supervisor, and return the job's id; one that was started before is found.

    Parameters
    ----------
    request : dict
        `folder`, `token`, `send`, `script`, `args`, `tasks` (as sbatch's ``--array`` has them), `numbers`
        (the same as a list), `throttle`, `limit` (seconds), `cpus`, `gpus`, `env`; `home` of the locks;
        `prefix` of the job's id; `node`, what the machine is called; `after`, what comes first; and, or
        None: `keeper`, `code`. `yields`: GPUs on which others compute are left to them.
    files : iterable of (str, bytes)
        By relative path.

    Raises
    ------
    Refused
    """
    folder = request["folder"]
    base = os.path.join(folder, "local", request["token"])
    try:
        with locked(os.path.join(folder, "local", "submit.lock")):
            known = _settled(base)
            if known is not None:
                return known
            if _voided(base) >= request["send"]:
                raise Refused("void", "%s: another process gave this sending up" % request["token"])
            _lay_down(folder, files)
            if request.get("code"):
                _link_code(folder, request["code"])
            return _supervise(request, base)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refused("folder", "the run's folder %s can't be written: %s" % (folder, error)) from error


def _supervise(request: Request, base: str) -> str:
    names = gpus() if request["gpus"] else []
    if request["gpus"] > len(names):
        raise Refused("resources", "a trial asks for %d GPUs, and there are %d" % (request["gpus"], len(names)))
    number = _next_number(request["home"])
    job_id: str = request["prefix"] + number
    locks = os.path.join(request["home"], socket.gethostname())
    os.makedirs(locks, exist_ok=True)
    spec = {
        "token": request["token"],
        "job_id": job_id,
        "number": number,
        "script": request["script"],
        "folder": request["folder"],
        "args": request["args"],
        "tasks": request["numbers"],
        "listed": request["tasks"],
        "after": [_upstream(**entry) for entry in request["after"]],
        "throttle": request["throttle"],
        "limit": request["limit"],
        "kill_wait": KILL_WAIT,
        "cpus": request["cpus"],
        "slots": cores(),
        "gpus": request["gpus"],
        "gpu_names": names,
        "yields": request["yields"],
        "locks": locks,
        "host": socket.gethostname(),
        "node": request["node"] or socket.gethostname(),
        "bash": shutil.which("bash") or "/bin/bash",
        "env": request["env"],
    }
    if request.get("keeper"):
        spec["keeper"] = request["keeper"]
        write(os.path.join(request["folder"], "submitted", request["token"] + ".keeper"), job_id.encode(), 0o644)
    with contextlib.suppress(FileNotFoundError):  # of a submitter that died
        os.unlink(base + ".fifo")
    os.mkfifo(base + ".fifo", 0o600)
    write(base + ".json", json.dumps(spec).encode(), 0o600)
    ready, told = os.pipe()
    try:
        with open(base + ".err", "ab") as errors:
            subprocess.run(
                [sys.executable, "-I", "-S", os.path.abspath(supervisor.__file__), base + ".json", str(told)],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=[told],
                env=dict(request["env"], SLURM_JOB_NAME=request["token"]),
                cwd="/",
                start_new_session=True,
                check=True,
            )
        os.close(told)
        told = -1
        bell = select.poll()  # select() takes no descriptor above 1024, and kernels have them
        bell.register(ready, select.POLLIN)
        if not bell.poll(START_TIMEOUT * 1000) or not os.read(ready, 16):
            with open(base + ".err", errors="replace") as file:
                words = file.read().strip()
            os.unlink(base + ".json")
            supervisor.kill_marked(request["token"])
            raise Refused("start", "the supervisor did not start: %s" % (words or "it said nothing in time"))
    finally:
        os.close(ready)
        if told >= 0:
            os.close(told)
    return job_id


def _next_number(home: str) -> str:
    path = os.path.join(home, "last-job-id")
    with locked(os.path.join(home, "last-job-id.lock")):
        last = 0
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            last = int(file.read())
        write(path, str(last + 1).encode(), 0o600)
    return str(last + 1)


def _upstream(kind: str, job_id: str, folder: str, tasks: List[int]) -> Dict[str, Any]:
    """Say where a supervisor finds what became of an array that comes first."""
    found = _find_spec(folder, job_id, "")
    if found is None:
        named = ":".join(["%s_%d" % (job_id, task) for task in tasks] or [job_id])
        raise Refused("after", "%s:%s can't be waited for: the record of job %s in %s is gone" % (kind, named, job_id, folder))
    return {"base": found[0], "kind": kind, "tasks": tasks}


def find(request: Request) -> Optional[str]:
    """Find a submission whose supervisor has begun: its job's id."""
    job_id, has_begun = _look(os.path.join(request["folder"], "local", request["token"]))
    return job_id if has_begun else None


def void(request: Request) -> Optional[str]:
    """Keep sendings up to a number from being submitted, and return the job's id if one was.

    Raises
    ------
    Refused
        The folder can't be written.
    """
    base = os.path.join(request["folder"], "local", request["token"])
    try:
        with locked(os.path.join(request["folder"], "local", "submit.lock")):
            job_id = _settled(base)
            if job_id is None and _voided(base) < request["send"]:
                write(base + ".void", str(request["send"]).encode(), 0o600)
            return job_id
    except OSError as error:
        raise Refused("folder", "the run's folder %s can't be written: %s" % (request["folder"], error)) from error


def _voided(base: str) -> int:
    with contextlib.suppress(FileNotFoundError), open(base + ".void") as file:
        return int(file.read())
    return 0


def _settled(base: str) -> Optional[str]:
    """Find a submission; one whose submitter died before a supervisor began is undone. submit.lock is held."""
    job_id, has_begun = _look(base, undo=True)
    return job_id if has_begun else None


def _look(base: str, undo: bool = False) -> Tuple[Optional[str], bool]:
    """Return the job id that a supervisor was to begin with, and whether it has begun; `undo` keeps it from beginning."""
    try:
        job_id = str(_read_json(base + ".json")["job_id"])
    except FileNotFoundError:
        return None, False
    with open(base + ".lock", "ab") as lock:
        if not _is_free(lock):
            return job_id, True  # it lives
        has_begun = os.path.exists(base + ".events")
        if undo and not has_begun:  # under its lock: a supervisor that comes late finds it gone, and ends
            os.unlink(base + ".json")
        return job_id, has_begun


def is_supervised(base: str) -> bool:
    """Whether the supervisor of an array lives, as far as this machine can say."""
    try:
        spec = _read_json(base + ".json")
    except FileNotFoundError:
        return False
    if spec["host"] != socket.gethostname():
        return True  # its lock is another machine's: nothing can be said of it from here
    with open(base + ".lock", "ab") as lock:
        return not _is_free(lock)


# ---- watching ----------------------------------------------------------------------------------


def poll(request: Request) -> List[Optional[Dict[str, Any]]]:
    """Read on what supervisors wrote down; what one that died can't is written in its stead.

    Parameters
    ----------
    request : dict
        `arrays`, each with `folder`, `job_id`, `token` (empty if not known) and `offset`; and, as the
        first answer said them, `base` and `host`.

    Returns
    -------
    list
        For each array `events`, the whole lines from `offset` on, and `offset`, where they end; the first
        time `base`, `host`, `node`, `tasks`, and the `cpus` and `gpus` of a task as well. None where there is no trace of it.
    """
    return [_read_array(array) for array in request["arrays"]]


def _read_array(array: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    answer: Dict[str, Any] = {}
    base, host, token = array.get("base"), array.get("host"), array["token"]
    if base is None:
        found = _find_spec(array["folder"], array["job_id"], token)
        if found is None:
            return None
        base, spec = found
        host, token = spec["host"], spec["token"]
        listed = spec.get("listed") or ",".join(map(str, spec["tasks"]))
        answer.update(base=base, host=host, token=token, node=spec.get("node", host), tasks=listed, cpus=spec["cpus"], gpus=spec["gpus"])
    try:
        if host == socket.gethostname():  # else its lock is another machine's: nothing can be said of it from here
            _bury(base, token, array["folder"])
        events, offset = _read_on(base, array["offset"])
    except FileNotFoundError:  # the run's folder went
        return None
    answer.update(events=events, offset=offset)
    return answer


def _read_on(base: str, offset: int) -> Tuple[str, int]:
    try:
        with open(base + ".events", "rb") as file:
            file.seek(offset)
            whole, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        os.stat(base + ".json")  # it has not begun; or is gone
        return "", offset
    return whole.decode(errors="replace"), offset + len(whole) + len(newline)


def _bury(base: str, token: str, folder: str) -> None:
    """Write down as NODE_FAIL what a dead supervisor can't, and end what it left running."""
    if not os.path.exists(base + ".events") and time.time() - os.stat(base + ".json").st_mtime < STARTING:
        return
    with open(base + ".lock", "ab") as lock:
        if not _is_free(lock):
            return  # it lives
        spec = _read_json(base + ".json")
        begun, ended = _read_states(base)
        lost = [task for task in spec["tasks"] if task not in ended]
        if not lost:
            return
        supervisor.kill_marked(token)
        last_seen = os.stat(base + (".events" if os.path.exists(base + ".events") else ".json")).st_mtime
        with open(base + ".events", "ab") as file:
            file.write(b"\n")  # it may have died within a line
            for task in lost:
                reason = "its supervisor died" if task in begun else "its supervisor died before it could start"
                event = {"task": task, "state": "NODE_FAIL", "time": last_seen, "reason": reason}
                file.write(json.dumps(event).encode() + b"\n")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, "secrets", token))


def _read_states(base: str) -> Tuple[Set[int], Set[int]]:
    """Return the tasks that began, and those that ended."""
    begun: Set[int] = set()
    ended: Set[int] = set()
    for line in _read_on(base, 0)[0].split("\n"):
        with contextlib.suppress(ValueError):  # half a line, of a supervisor that died
            event = json.loads(line)
            (begun if event["state"] == "RUNNING" else ended).add(event["task"])
    return begun, ended


def _find_spec(folder: str, job_id: str, token: str) -> Optional[Tuple[str, Dict[str, Any]]]:
    """Find what a job's supervisor was started with: its path without the ending, and what it says."""
    there = os.path.join(folder, "local")
    names = [token + ".json"] if token else []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names += sorted(name for name in os.listdir(there) if name.endswith(".json") and name not in names)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            spec = _read_json(os.path.join(there, name))
            if spec["job_id"] == job_id:
                return os.path.join(there, name[: -len(".json")]), spec
    return None


def cancel(request: Request) -> bool:
    """Tell a supervisor to end tasks: it sends TERM, and KILL after five seconds. Return whether its record is there.

    Parameters
    ----------
    request : dict
        `folder`, `job_id`, `token`, and `tasks`, None for all.
    """
    found = _find_spec(request["folder"], request["job_id"], request["token"])
    if found is None:
        return False
    base = found[0]
    try:
        fifo = os.open(base + ".fifo", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # no supervisor: everything has ended, or died with it
        return True
    try:
        # A pipe takes short lines whole: the list, which may be long, lies in a file.
        listed = "%s.cancel-%s" % (base, uuid.uuid4().hex)
        write(listed, (request["tasks"] or "all").encode(), 0o600)
        os.write(fifo, ("cancel %s\n" % os.path.basename(listed)).encode())
    finally:
        os.close(fifo)
    return True


# ---- what there is -----------------------------------------------------------------------------


def room(request: Request) -> Dict[str, Any]:
    """Say what the machine has, and what of it nobody uses: `cores`, `free_cores`, `gpus`, `free_gpus`.

    Parameters
    ----------
    request : dict
        `home` of the locks.
    """
    locks = os.path.join(request["home"], socket.gethostname())
    names = gpus()
    busy = supervisor.busy_gpus() if names else set()
    return {
        "host": socket.gethostname(),
        "cores": cores(),
        "free_cores": sum(_is_unlocked(os.path.join(locks, "cpu-%d.lock" % k)) for k in range(cores())),
        "gpus": len(names),
        "free_gpus": sum(name not in busy and _is_unlocked(os.path.join(locks, "gpu-%s.lock" % name)) for name in names),
        "in_use": len(busy.intersection(names)),
        "ends_with_login": _ends_with_login(),
    }


def _ends_with_login() -> bool:
    """Whether systemd ends what a login leaves running: logind.conf says so, and nobody told it to let this user's linger."""
    folders = ["/etc/systemd/logind.conf.d", "/run/systemd/logind.conf.d", "/usr/lib/systemd/logind.conf.d"]
    paths = [
        "/etc/systemd/logind.conf",
        *(os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)),
    ]
    for path in paths:
        with contextlib.suppress(OSError), open(path, errors="replace") as file:
            lines = [line.replace(" ", "").strip().lower() for line in file]
            if any(line in ("killuserprocesses=" + word for word in ("yes", "true", "1", "on")) for line in lines):
                return not os.path.exists("/var/lib/systemd/linger/" + pwd.getpwuid(os.getuid()).pw_name)
    return False


def gpus() -> List[str]:
    """Name this machine's NVIDIA GPUs, those that CUDA_VISIBLE_DEVICES leaves visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name != "-1"]
    told = supervisor.nvidia_smi("--query-gpu=index")
    if told is not None:
        return [line.strip() for line in told.splitlines() if line.strip().isdigit()]
    devices = os.listdir("/dev") if os.path.isdir("/dev") else []
    numbers = [name[len("nvidia") :] for name in devices if name.startswith("nvidia")]
    return sorted((number for number in numbers if number.isdigit()), key=int)


def cores() -> int:
    """Count the cores that this process may use: in a container no more than the time that it is given comes to."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed] + [quota // period for quota, period in _cpu_limits()]))


def _cpu_limits() -> Iterator[Tuple[int, int]]:
    """Yield of each control group that this process is in how many microseconds of CPU time it has in how many."""
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        while True:
            if controllers:
                folder = "/sys/fs/cgroup/cpu" + group
                limit = _text(folder + "/cpu.cfs_quota_us").split() + _text(folder + "/cpu.cfs_period_us").split()
            else:
                limit = _text("/sys/fs/cgroup" + group + "/cpu.max").split()
            if len(limit) == 2 and limit[0].isdigit():  # else "max", or -1
                yield int(limit[0]), int(limit[1])
            if group in ("", "/"):  # in a container this is its own group
                break
            group = os.path.dirname(group)


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


# ---- files and locks ---------------------------------------------------------------------------


def _lay_down(folder: str, files: Files) -> None:
    for name in ("logs", "tasks", "results", "submitted", "local"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    for name, content in files:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True, mode=0o700 if name.startswith("secrets/") else 0o777)
        write(path, content, 0o600 if name.startswith(PRIVATE) else 0o644)


def _link_code(folder: str, code: str) -> None:
    """Give a run links of its own to a snapshot of its code."""
    target = os.path.join(folder, "code")
    if os.path.isdir(target):
        return
    if not os.path.isdir(code):
        raise Refused("code", "there is no %s" % code)
    part = "%s.%d.part" % (target, os.getpid())
    try:
        if subprocess.run(["cp", "-al", "--", code, part], stderr=subprocess.DEVNULL, check=False).returncode:
            shutil.rmtree(part, ignore_errors=True)
            subprocess.run(["cp", "-a", "--", code, part], check=True)
        os.chmod(part, 0o700)
        with contextlib.suppress(OSError):  # another machine that shares the folder may have been faster
            os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    os.stat(target)


def write(path: str, content: bytes, mode: int) -> None:
    """Write a file by rename, so that nobody reads half of it."""
    part = path + ".part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(fd, "wb") as file:
        file.write(content)
    os.replace(part, path)


def _read_json(path: str) -> Dict[str, Any]:
    with open(path, "rb") as file:
        return dict(json.loads(file.read().decode()))


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock (flock) on a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_free(lock: IO[bytes]) -> bool:
    """Take a lock if nobody holds it; say whether that went."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_unlocked(path: str) -> bool:
    try:
        with open(path, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


# ---- by stdin and stdout -----------------------------------------------------------------------


def _unpacked(payload: bytes) -> Iterator[Tuple[str, bytes]]:
    if not payload:
        return
    with tarfile.open(fileobj=io.BytesIO(payload)) as archive:
        for entry in archive:
            file = archive.extractfile(entry) if entry.isfile() else None
            if file is not None:
                yield entry.name, file.read()


_VERBS: Dict[str, Callable[[Request, bytes], Any]] = {
    "cancel": lambda request, _: cancel(request),
    "find": lambda request, _: find(request),
    "poll": lambda request, _: poll(request),
    "room": lambda request, _: room(request),
    "submit": lambda request, payload: submit(request, _unpacked(payload)),
    "void": lambda request, _: void(request),
}


def main(argv: Sequence[str]) -> None:
    """Answer one request."""
    source = sys.stdin.buffer
    lengths = source.readline().split()
    size, more = (int(lengths[0]), int(lengths[1])) if len(lengths) == 2 else (1, 0)
    text, payload = source.read(size), source.read(more)
    if len(text) < size or len(payload) < more:
        sys.stderr.write("the request was cut short\n")
        sys.exit(CUT_SHORT)
    try:
        answer = {"answer": _VERBS[argv[1]](json.loads(text.decode()), payload)}
    except Refused as refused:
        answer = {"refused": refused.kind, "words": str(refused)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv)
