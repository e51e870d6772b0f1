"""The embedded scheduler's supervisor: one detached process for one array.

Run as ``python -I -S supervisor.py SPEC.json``. It needs the standard library alone, imports nothing
of nexa_sdk, outlives whoever started it, and ends with the array's last task.

Files beside SPEC.json, all named after the array's token:

``.events``
    One JSON line for every change of a task; this process alone writes it while it lives.
``.lock``
    Locked (flock) as long as this process lives: whoever can lock it knows that it died.
``.fifo``
    Takes lines such as ``cancel FILE``: the file beside it holds ``all``, ``pending``, ``others 3``
    for all but that one, or tasks such as ``0-3,7``; and maybe a second line, that says why.

A task gets cores and GPUs by locking a file for each. The task's own processes hold those locks,
so several supervisors share a machine without a daemon, and a crash frees nothing that is in use.
"""

import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Set, Tuple

RETRY_LOCKS = 0.25  # seconds until cores and GPUs that others hold are asked for again
LOOK_UPSTREAM = 0.5  # seconds until what comes first is looked at again
LOOK_BUSY = 5.0  # seconds until it is asked again on which GPUs others compute
NVIDIA_SMI = 20.0  # seconds: without its daemon it wakes the driver up first


def pids_of_session(session: int) -> List[int]:
    """Return the processes of a session."""
    if os.path.isdir("/proc/self"):
        candidates = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    else:  # macOS
        listing = subprocess.run(["ps", "-axo", "pid="], stdout=subprocess.PIPE, check=True).stdout
        candidates = [int(word) for word in listing.split()]
    found = []
    for pid in candidates:
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


def signal_session(session: int, number: int) -> None:
    """Send a signal to every process of a session."""
    for pid in pids_of_session(session):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def kill_marked(token: str) -> None:
    """Kill every process that carries an array's token as SLURM_JOB_NAME, and nobody else's.

    A recorded pid may belong to another program by now; the environment that a process began with
    tells whose it is. Where there is no /proc nothing is killed.
    """
    mark = b"SLURM_JOB_NAME=" + token.encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != os.getpid():
                with open("/proc/%s/environ" % name, "rb") as file:
                    if mark in file.read().split(b"\0"):
                        os.kill(int(name), signal.SIGKILL)


def nvidia_smi(query: str) -> Optional[str]:
    """Ask nvidia-smi; None where there is none, or it has no answer."""
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=NVIDIA_SMI, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def busy_gpus() -> Set[str]:
    """Name the GPUs on which somebody computes, by number and by UUID."""
    told = nvidia_smi("--query-compute-apps=gpu_uuid") or ""
    uuids = {line.strip() for line in told.splitlines() if line.strip()}
    if not uuids:
        return uuids
    pairs = [line.split(",") for line in (nvidia_smi("--query-gpu=index,uuid") or "").splitlines()]
    return uuids.union(pair[0].strip() for pair in pairs if len(pair) == 2 and pair[1].strip() in uuids)


class Task:
    """One running task."""

    def __init__(self, number: int, process: "subprocess.Popen[bytes]") -> None:
        self.number = number
        self.process = process
        self.ending = ""  # the state that it will have once it is gone


class Upstream:
    """An array that comes first, as its own supervisor writes it down."""

    def __init__(self, base: str, kind: str, tasks: List[int]) -> None:
        self.base = base
        self.kind = kind
        with open(base + ".json") as file:
            spec = json.load(file)
        self.job_id: str = spec["job_id"]
        self.is_here = spec["host"] == socket.gethostname()
        self.all = set(spec["tasks"])
        self.tasks = set(tasks) or self.all
        self.ended: Dict[int, str] = {}
        self.offset = 0

    def look(self) -> None:
        """Read on what was written down; what a dead supervisor can't end has failed."""
        self.read_on()
        if len(self.ended) == len(self.all) or not self.is_here:
            return
        with contextlib.suppress(OSError), open(self.base + ".lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self.read_on()  # it may have ended in peace just now
            for task in self.all.difference(self.ended):
                self.ended[task] = "NODE_FAIL"

    def read_on(self) -> None:
        """Read the lines that are new."""
        try:
            with open(self.base + ".events", "rb") as file:
                file.seek(self.offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            self.ended = dict.fromkeys(self.all, "gone, with its run's folder")
            return
        self.offset += len(whole) + len(newline)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # half a line, of a supervisor that died
                event = json.loads(line)
                if event["state"] != "RUNNING":
                    self.ended[event["task"]] = event["state"]

    def verdict(self, number: int) -> Optional[str]:
        """Say whether a task may run: empty if so, None for not yet, else why it never can."""
        meant = self.tasks if self.kind != "aftercorr" else self.tasks.intersection([number])
        if self.kind != "afterany":
            for task in sorted(meant):
                state = self.ended.get(task, "COMPLETED")
                if state != "COMPLETED":
                    return "task %d of job %s, which comes first, is %s" % (task, self.job_id, state)
        return "" if meant.issubset(self.ended) else None


class Supervisor:
    """Starts the tasks of one array, watches them, and writes down what becomes of them."""

    def __init__(self, spec_path: str) -> None:
        with open(spec_path) as file:
            self.spec: Dict[str, Any] = json.load(file)
        self.base = spec_path[: -len(".json")]
        self.upstream = [Upstream(**entry) for entry in self.spec.get("after", [])]
        self.waiting: List[int] = list(self.spec["tasks"]) if self.upstream else []  # for what comes first
        self.pending: List[int] = [] if self.upstream else list(self.spec["tasks"])
        self.look_at = 0.0
        self.running: Dict[int, Task] = {}  # by pid
        self.timers: List[Tuple[float, int, str]] = []  # when, pid, what
        self.blocked_until = 0.0
        self.busy: Set[str] = set()
        self.busy_until = 0.0
        # Locked before there are events: a lock that is free beside them means a death.
        self.lock = os.open(self.base + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        if not self.is_wanted(spec_path):  # its submitter died, and somebody undid the submission meanwhile
            raise SystemExit(0)
        self.events = open(self.base + ".events", "a", buffering=1)

    def is_wanted(self, spec_path: str) -> bool:
        """Whether what it was started for still stands: it may be gone, or another submission's."""
        try:
            with open(spec_path) as file:
                return bool(json.load(file)["job_id"] == self.spec["job_id"])
        except FileNotFoundError:
            return False

    # ---- what it writes down -------------------------------------------------------------------

    def note(self, task: int, state: str, **more: Any) -> None:
        """Write one change of a task."""
        self.events.write(json.dumps({"task": task, "state": state, "time": time.time(), **more}) + "\n")

    # ---- resources -----------------------------------------------------------------------------

    def claim(self, kind: str, names: List[str], count: int) -> Optional[Dict[str, int]]:
        """Lock `count` of the named resources, or none: name to file descriptor."""
        held: Dict[str, int] = {}
        for name in random.sample(names, len(names)) if kind == "cpu" else names:
            if len(held) == count:
                break
            fd = os.open(os.path.join(self.spec["locks"], "%s-%s.lock" % (kind, name)), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                continue
            if kind == "gpu" and self.is_busy(name):
                os.close(fd)
                continue
            held[name] = fd
        if len(held) == count:
            return held
        for fd in held.values():
            os.close(fd)
        return None

    def is_busy(self, gpu: str) -> bool:
        """Whether a GPU is left to others that compute on it: of our own tasks each holds a lock."""
        if not self.spec.get("yields"):
            return False
        if time.monotonic() >= self.busy_until:
            self.busy, self.busy_until = busy_gpus(), time.monotonic() + LOOK_BUSY
        return gpu in self.busy

    # ---- what comes first ----------------------------------------------------------------------

    def look_upstream(self) -> None:
        """Let go what waited long enough, and cancel what can never run."""
        if not self.waiting or time.monotonic() < self.look_at:
            return
        self.look_at = time.monotonic() + LOOK_UPSTREAM
        for upstream in self.upstream:
            upstream.look()
        still = []
        for number in self.waiting:
            verdicts = [upstream.verdict(number) for upstream in self.upstream]
            words = next((words for words in verdicts if words), None)
            if words is not None:
                self.note(number, "CANCELLED", reason=words)
            elif None in verdicts:
                still.append(number)
            else:
                self.pending.append(number)
        self.waiting = still

    # ---- tasks ---------------------------------------------------------------------------------

    def start_some(self) -> None:
        """Start pending tasks as far as the throttle, the cores and the GPUs allow."""
        while self.pending and (not self.spec["throttle"] or len(self.running) < self.spec["throttle"]):
            gpus = self.claim("gpu", self.spec["gpu_names"], self.spec["gpus"])
            if gpus is None:
                break
            cpus = self.claim("cpu", [str(k) for k in range(self.spec["slots"])], self.spec["cpus"])
            if cpus is None:
                for fd in gpus.values():
                    os.close(fd)
                break
            held = [*gpus.values(), *cpus.values()]
            try:
                self.start(self.pending.pop(0), sorted(gpus, key=self.spec["gpu_names"].index), held)
            finally:
                for fd in held:  # the task's processes hold them now
                    os.close(fd)
        else:
            self.blocked_until = 0.0
            return
        self.blocked_until = time.monotonic() + RETRY_LOCKS

    def start(self, number: int, gpus: List[str], held: List[int]) -> None:
        """Start one task."""
        spec = self.spec
        env = dict(spec["env"])
        env.update(
            SLURM_JOB_ID=spec["number"],  # programs take it for a number
            SLURM_JOB_NAME=spec["token"],
            SLURM_ARRAY_JOB_ID=spec["job_id"],
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_ARRAY_TASK_COUNT=str(len(spec["tasks"])),
            SLURM_CPUS_PER_TASK=str(spec["cpus"]),
            SLURM_CLUSTER_NAME="local",
            SLURMD_NODENAME=spec["node"],
        )
        if gpus:
            env.update(CUDA_VISIBLE_DEVICES=",".join(gpus), SLURM_JOB_GPUS=",".join(gpus), SLURM_GPUS_ON_NODE=str(len(gpus)))
        path = os.path.join(spec["folder"], "logs", "%s_%d.log" % (spec["job_id"], number))
        try:
            with open(path, "ab") as log:
                process = subprocess.Popen(
                    [spec["bash"], os.path.join(spec["folder"], spec["script"]), *spec["args"]],
                    env=env,
                    cwd=spec["folder"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=held,
                )
        except OSError as error:
            self.note(number, "FAILED", reason="could not be started: %s" % error)
            return
        self.running[process.pid] = Task(number, process)
        self.note(number, "RUNNING", pid=process.pid, gpus=",".join(gpus))
        if spec["limit"]:
            heapq.heappush(self.timers, (time.monotonic() + spec["limit"], process.pid, "TIMEOUT"))

    def end(self, pid: int, state: str) -> None:
        """Ask a task to end, and see to it that it does."""
        task = self.running.get(pid)
        if task is None or task.ending:
            return
        task.ending = state
        signal_session(pid, signal.SIGCONT)
        signal_session(pid, signal.SIGTERM)  # every process, as Slurm does
        heapq.heappush(self.timers, (time.monotonic() + self.spec["kill_wait"], pid, "KILL"))

    def reap(self) -> None:
        """Write down the tasks that ended."""
        for pid in [pid for pid, task in self.running.items() if task.process.poll() is not None]:
            task = self.running.pop(pid)
            self.busy_until = 0.0
            signal_session(pid, signal.SIGKILL)  # what it left behind, as Slurm does
            code = task.process.returncode
            state = task.ending or ("COMPLETED" if code == 0 else "FAILED")
            self.note(task.number, state, exit=code if code >= 0 else 128 - code)

    def fire(self) -> None:
        """Do what is due."""
        while self.timers and self.timers[0][0] <= time.monotonic():
            _, pid, what = heapq.heappop(self.timers)
            if what == "KILL":
                if pid in self.running:
                    signal_session(pid, signal.SIGKILL)
            else:
                self.end(pid, what)

    def obey(self, line: str) -> None:
        """Follow one line of the control pipe."""
        verb, _, name = line.strip().partition(" ")
        path = os.path.join(os.path.dirname(self.base), name)
        if verb != "cancel" or os.path.basename(name) != name or not os.path.isfile(path):
            sys.stderr.write("not understood: %r\n" % line)
            return
        with open(path) as file:
            which, _, reason = file.read().strip().partition("\n")
        os.unlink(path)
        why = {"reason": reason} if reason else {}
        if which == "all":
            chosen = set(self.spec["tasks"])
        elif which == "pending":
            chosen = set(self.pending).union(self.waiting)
        elif which.startswith("others"):
            chosen = {number for number in self.spec["tasks"] if str(number) != which[7:]}
        else:
            chosen = set()
            for part in which.split(","):
                low, _, high = part.partition("-")
                chosen.update(range(int(low), int(high or low) + 1))
        gone = [number for number in [*self.pending, *self.waiting] if number in chosen]
        self.waiting = [number for number in self.waiting if number not in chosen]
        self.pending = [number for number in self.pending if number not in chosen]
        for number in gone:
            self.note(number, "CANCELLED", **why)
        for pid in [pid for pid, task in self.running.items() if task.number in chosen]:
            self.end(pid, "CANCELLED")

    # ---- the loop ------------------------------------------------------------------------------

    def wait_time(self) -> Optional[float]:
        """Say how long nothing can become due."""
        due = [self.timers[0][0]] if self.timers else []
        if self.blocked_until:
            due.append(self.blocked_until)
        if self.waiting:
            due.append(self.look_at)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def run(self, ready: int) -> None:
        """Work until the last task has ended."""
        fifo = os.open(self.base + ".fifo", os.O_RDWR | os.O_NONBLOCK)
        wake, woken = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with contextlib.suppress(BrokenPipeError):  # who started it died meanwhile; whoever comes back finds it at work
            os.write(ready, b"ready\n")
        os.close(ready)
        unread = b""
        self.look_upstream()
        self.start_some()
        while self.pending or self.running or self.waiting:
            readable, _, _ = select.select([fifo, wake], [], [], self.wait_time())
            if wake in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            if fifo in readable:
                unread += os.read(fifo, 65536)
                *lines, unread = unread.split(b"\n")
                for line in lines:
                    self.obey(line.decode())
            self.reap()
            self.fire()
            self.look_upstream()
            self.start_some()
        keeper = self.spec.get("keeper")
        if keeper:  # runs failed trials again, by the rules of the launch
            subprocess.run(keeper["argv"], env=keeper["env"], cwd="/", stdin=subprocess.DEVNULL, check=False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.spec["folder"], "secrets", self.spec["token"]))
        os.unlink(self.base + ".fifo")


def main() -> None:
    """Detach from the caller, and supervise."""
    spec_path, ready = sys.argv[1], int(sys.argv[2])
    if os.fork():  # so that nobody has to wait for a child that outlives the caller
        os._exit(0)
    os.setsid()
    Supervisor(spec_path).run(ready)


if __name__ == "__main__":
    main()
