"""The sandbox is a real Slurm: every test here starts one, in a folder that is removed again."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nexa_sdk.errors import SandboxError
from nexa_sdk.scheduling.slurm.sandbox import PACKAGES, Sandbox, SandboxSpec, install_hint, missing_programs
from nexa_sdk.scheduling.slurm.sandbox.config import loopback_address

if missing_programs():
    pytest.skip(f"{', '.join(missing_programs())} not installed: {install_hint()}", allow_module_level=True)

LIGHT = SandboxSpec(accounting=False, nodes=1, gpus_per_node=0, kill_wait=1)
REPOSITORY = Path(__file__).parents[2]
IMPORTING = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
LOOPBACK = loopback_address(socket.gethostname().partition(".")[0])
needs_loopback = pytest.mark.skipif(
    LOOPBACK != "127.0.0.1", reason="this machine's name does not resolve to 127.0.0.1, and Slurm listens on what it resolves to"
)


@pytest.fixture
def make() -> Iterator[Callable[[], Sandbox]]:
    """Give sandboxes in short folders of their own; whatever runs in them is ended afterwards."""
    sandboxes: list[Sandbox] = []

    def sandbox() -> Sandbox:
        sandboxes.append(Sandbox(tempfile.mkdtemp(dir="/tmp", prefix="nx-")))
        return sandboxes[-1]

    yield sandbox
    for each in sandboxes:
        remove(each)


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    """Give one sandbox with accounting to all tests that leave it as it was."""
    sandbox = Sandbox(tempfile.mkdtemp(dir="/tmp", prefix="nx-"))
    try:
        sandbox.start()
        yield sandbox
    finally:
        remove(sandbox)


def remove(sandbox: Sandbox) -> None:
    try:
        if sandbox.status():
            sandbox.destroy()
    finally:
        shutil.rmtree(sandbox.folder, ignore_errors=True)
    assert left_running(sandbox) == []


def ask(sandbox: Sandbox, *command: str) -> str:
    environment = {**os.environ, **sandbox.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def eventually(condition: Callable[[], bool], *, seconds: float = 240) -> bool:
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds


def environment_of(pid: int | str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def left_running(sandbox: Sandbox) -> list[str]:
    """Name every process, whatever it is, that was started with this sandbox's SLURM_CONF."""
    setting = f"SLURM_CONF={sandbox.folder}/etc/slurm.conf"
    pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return list(filter(None, (name_of(pid) for pid in pids if setting in environment_of(pid))))


def name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has ended
        return ""


def in_python(code: str, *arguments: str, under: Sequence[str] = (), python: str = sys.executable) -> subprocess.Popen[str]:
    command = [*under, python, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, env=IMPORTING, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def python_for(user: Sequence[str], path: str) -> str | None:
    """Return a Python's path if that user can run it and read this package with it."""
    code = "import sys; assert sys.version_info >= (3, 11); import nexa_sdk.scheduling.slurm.sandbox"
    done = subprocess.run([*user, path, "-c", code], env=IMPORTING, cwd="/", capture_output=True, check=False)
    return path if done.returncode == 0 else None


def listening_addresses(pid: int) -> list[str]:
    """Return the addresses of a process's listening TCP sockets, in the kernel's own hexadecimal writing."""
    inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [row.split() for file in ("tcp", "tcp6") for row in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


# -- what it does --------------------------------------------------------------------------------------------


def test_runs_an_array_on_make_believe_gpus_and_accounts_for_it(shared: Sandbox) -> None:
    output = shared.folder / "tmp" / "%a.out"
    job = "--wrap=echo gpu=$CUDA_VISIBLE_DEVICES"
    array = ask(shared, "sbatch", "--parsable", "--array=0-2", "--gres=gpu:h100:1", f"--output={output}", job)

    def rows() -> list[str]:
        return ask(shared, "sacct", "-n", "-P", "-X", f"--jobs={array}", "--format=State,AllocTRES").splitlines()

    assert eventually(lambda: sum("COMPLETED" in row and "gres/gpu:h100=1" in row for row in rows()) == 3), rows()
    texts = [(shared.folder / "tmp" / f"{task}.out").read_text() for task in range(3)]
    assert all(re.fullmatch(r"gpu=[0-3]\n", text) for text in texts), texts


def test_has_the_partitions_and_what_was_claimed(shared: Sandbox) -> None:
    lines = ask(shared, "sinfo", "-h", "-o", "%P %l %D %c %m %G").splitlines()
    assert lines == [
        "gpu* infinite 2 16 64000 gpu:h100:4",
        "low 1-00:00:00 2 16 64000 gpu:h100:4",
        "lowrq 1-00:00:00 2 16 64000 gpu:h100:4",
    ]


def test_start_leaves_what_runs(shared: Sandbox) -> None:
    before = shared.status()
    shared.start()
    assert shared.status() == before
    assert shared.is_up


@needs_loopback
def test_listens_on_loopback_addresses_only(shared: Sandbox) -> None:
    addresses = {name: listening_addresses(pid) for name, pid in shared.status().items() if pid}
    listeners = {name for name, found in addresses.items() if found}
    assert listeners == {"slurmdbd", "slurmctld", "slurmd-n1", "slurmd-n2"}
    # the kernel writes 127.0.0.1 as 0100007F
    assert all(address.endswith("7F") and len(address) == 8 for found in addresses.values() for address in found)


@pytest.mark.parametrize("daemon", ["munged", "mariadb", "slurmdbd", "slurmctld", "slurmd-n1"])
def test_each_daemon_goes_down_and_comes_up(shared: Sandbox, daemon: str) -> None:
    before = shared.status()
    shared.down(daemon)
    assert shared.status() == {**before, daemon: None}
    assert not shared.is_up
    shared.up(daemon)
    assert shared.is_up
    assert shared.status()[daemon] != before[daemon]
    assert "UP" in ask(shared, "scontrol", "ping")
    assert ask(shared, "sacctmgr", "-n", "-P", "list", "cluster", "format=Cluster") == "sandbox"


def test_a_frozen_controller_does_not_answer_until_it_is_thawed(shared: Sandbox) -> None:
    shared.freeze("slurmctld")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["scontrol", "ping"], env={**os.environ, **shared.environment}, capture_output=True, timeout=1, check=False)
        assert shared.is_up
    finally:
        shared.thaw("slurmctld")
    assert "UP" in ask(shared, "scontrol", "ping")


def test_an_unknown_daemon_is_answered_with_the_nearest(shared: Sandbox) -> None:
    with pytest.raises(SandboxError, match="did you mean 'slurmctld'"):
        shared.down("slurmctl")


# -- starting and stopping -----------------------------------------------------------------------------------


def test_comes_back_with_its_state(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    sandbox.start(SandboxSpec(nodes=1))
    ask(sandbox, "srun", "true")
    sandbox.stop()
    assert set(sandbox.status().values()) == {None}
    assert left_running(sandbox) == []
    sandbox.start(SandboxSpec(nodes=7))
    assert set(sandbox.status()) == {"munged", "mariadb", "slurmdbd", "slurmctld", "slurmd-n1"}
    assert ask(sandbox, "sbatch", "--parsable", "--output=/dev/null", "--wrap=true") == "2"
    assert eventually(lambda: ask(sandbox, "sacct", "-n", "-P", "-X", "--jobs=1", "--format=State") == "COMPLETED")


@pytest.mark.parametrize("auth", ["munge", pytest.param("none", marks=needs_loopback)])
def test_without_accounting(make: Callable[[], Sandbox], auth: str) -> None:
    sandbox = make()
    sandbox.start(SandboxSpec(accounting=False, nodes=1, auth=auth))  # type: ignore[arg-type]
    assert set(sandbox.status()) - {"munged"} == {"slurmctld", "slurmd-n1"}
    assert ask(sandbox, "srun", "--gpus-per-node=2", "printenv", "CUDA_VISIBLE_DEVICES") == "0,1"


def test_two_processes_that_start_it_at_once_get_one_cluster(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    code = """
        import sys
        from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec
        sandbox = Sandbox(sys.argv[1])
        sandbox.start(SandboxSpec(accounting=False, nodes=1))
        print(sandbox.status())
    """
    # Each ends, and its output with it, although the daemons stay: they hold none of its pipes.
    starters = [in_python(code, str(sandbox.folder)) for _ in range(2)]
    first, second = (starter.communicate(timeout=400)[0] for starter in starters)
    assert first == second == f"{sandbox.status()}\n"
    assert sorted(name for name in left_running(sandbox) if name in ("munged", "slurmd")) == ["munged", "slurmd"]


def test_inherits_nothing_of_the_callers_jobs_and_secrets(make: Callable[[], Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CLUSTERS", "SBATCH_PARTITION", "SINFO_PARTITION", "MY_API_KEY"):
        monkeypatch.setenv(name, "inherited")
    sandbox = make()
    sandbox.start(LIGHT)
    for name, pid in sandbox.status().items():
        assert pid is not None
        assert not [entry for entry in environment_of(pid) if entry.endswith("=inherited")], name


def test_stop_ends_jobs_that_will_not_end(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    sandbox.start(LIGHT)
    stubborn = "trap '' TERM; setsid sleep 600 & while :; do sleep 1; done"
    job = ask(sandbox, "sbatch", "--parsable", "--output=/dev/null", f"--wrap={stubborn}")
    assert eventually(lambda: ask(sandbox, "squeue", "-h", "-j", job, "-o", "%t") == "R")
    assert eventually(lambda: left_running(sandbox).count("sleep") == 2)
    sandbox.freeze("slurmctld")
    sandbox.stop()
    assert left_running(sandbox) == []


def test_a_pid_file_that_names_somebody_elses_process_counts_for_nothing(make: Callable[[], Sandbox]) -> None:
    one, other = make(), make()
    one.start(LIGHT)
    other.start(LIGHT)
    theirs = other.status()["slurmctld"]
    one.down("slurmctld")
    (one.folder / "run" / "slurmctld.pid").write_text(f"{theirs}\n")
    assert one.status()["slurmctld"] is None
    one.stop()
    assert other.status()["slurmctld"] == theirs


def test_a_daemon_that_was_killed_comes_back(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    sandbox.start(LIGHT)
    for pid in sandbox.status().values():
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: set(sandbox.status().values()) == {None})
    sandbox.start()
    assert ask(sandbox, "srun", "hostname")


def test_takes_other_ports_where_its_own_are_taken(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    sandbox.start(LIGHT)
    port = int(ask(sandbox, "scontrol", "show", "config").partition("SlurmctldPort")[2].split()[1])
    sandbox.stop()
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        somebody.bind(("127.0.0.1", port))
        somebody.listen()
        sandbox.start()
        assert ask(sandbox, "srun", "hostname")


def test_destroy_removes_a_sandbox_and_nothing_else(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    with pytest.raises(SandboxError, match="there is no sandbox"):
        sandbox.destroy()
    assert sandbox.folder.exists()
    sandbox.start(LIGHT)
    sandbox.destroy()
    assert not sandbox.folder.exists()
    assert sandbox.status() == {}
    assert left_running(sandbox) == []


# -- what can't be ---------------------------------------------------------------------------------------------


def test_a_failed_start_says_why_leaves_nothing_running_and_can_be_mended(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    with pytest.raises(SandboxError, match=r"(?s)slurmctld.*failed.*NoSuchWord"):
        sandbox.start(SandboxSpec(accounting=False, nodes=1, extra=("NoSuchWord=1",)))
    assert left_running(sandbox) == []
    sandbox.start(LIGHT)
    assert sandbox.is_up


def test_a_start_that_was_killed_is_begun_anew(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    starter = in_python("import sys; from nexa_sdk.scheduling.slurm.sandbox import *; Sandbox(sys.argv[1]).start()", str(sandbox.folder))
    assert eventually(lambda: bool(sandbox.status()))
    starter.kill()
    starter.communicate()
    sandbox.start(LIGHT)
    assert set(sandbox.status()) == {"munged", "slurmctld", "slurmd-n1"}
    assert eventually(lambda: not [name for name in left_running(sandbox) if name.startswith(("mariadb", "mysql", "slurmdbd"))])


def test_missing_programs_are_named_with_what_installs_them(make: Callable[[], Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    missing = missing_programs()
    if "sbatch" not in missing:
        pytest.skip("this machine has Slurm's commands in /usr/sbin or /sbin too")
    with pytest.raises(SandboxError, match=r"sbatch, .*Install what is missing: sudo apt-get install") as caught:
        make().start()
    assert all(package in str(caught.value) for package in PACKAGES)
    assert "sacctmgr" in missing_programs()
    assert "sacctmgr" not in missing_programs(SandboxSpec(accounting=False))


def test_a_path_too_long_for_unix_sockets_is_refused() -> None:
    with pytest.raises(SandboxError, match="at most 80"):
        Sandbox("/tmp/" + "x" * 76).start()


def test_a_path_that_slurm_conf_can_not_hold_is_refused() -> None:
    with pytest.raises(SandboxError, match="can't be written"):
        Sandbox("/tmp/with space").start()


def test_a_folder_of_somebody_elses_files_is_left_alone(make: Callable[[], Sandbox]) -> None:
    sandbox = make()
    (sandbox.folder / "thesis.tex").write_text("")
    with pytest.raises(SandboxError, match="not empty"):
        sandbox.start(LIGHT)
    assert [path.name for path in sandbox.folder.iterdir()] == ["thesis.tex"]


def test_a_user_without_a_name_is_refused(make: Callable[[], Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 123_456_789)
    with pytest.raises(SandboxError, match="123456789 has no name"):
        make().start(LIGHT)


def test_a_machine_without_any_network_is_told_so(make: Callable[[], Sandbox]) -> None:
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("taking the network from a process takes root")
    code = "import sys; from nexa_sdk.scheduling.slurm.sandbox import *; Sandbox(sys.argv[1]).start()"
    output = in_python(code, str(make().folder), under=("unshare", "--net")).communicate(timeout=240)[0]
    assert "SandboxError: this machine has no network but its loopback" in output


# -- other users and other machines ----------------------------------------------------------------------------


def test_an_ordinary_user_without_capabilities_runs_one(make: Callable[[], Sandbox]) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed")
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("there is no user nobody")
    sandbox = make()
    os.chown(sandbox.folder, nobody.pw_uid, nobody.pw_gid)
    identity = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    package = make().folder  # the checkout may lie where nobody may not go
    package.chmod(0o755)
    shutil.copytree(REPOSITORY / "nexa_sdk", package / "nexa_sdk", ignore=shutil.ignore_patterns("__pycache__"))  # others may be writing it
    user = (*identity, "--bounding-set=-all", "--no-new-privs", "env", f"HOME={sandbox.folder}", f"PYTHONPATH={package}")
    python = next(filter(None, (python_for(user, path) for path in (sys.executable, "/usr/bin/python3"))), None)
    if python is None:
        pytest.skip("nobody may run neither this Python nor one of 3.11 or later in /usr/bin")
    code = """
        import os, subprocess, sys
        from nexa_sdk.scheduling.slurm.sandbox import Sandbox
        sandbox = Sandbox(sys.argv[1])
        sandbox.start()
        def ask(*command):
            return subprocess.check_output(command, env={**os.environ, **sandbox.environment}, text=True)
        print(ask("srun", "--gpus-per-node=1", "sh", "-c", "id -un; grep CapBnd /proc/self/status; echo $CUDA_VISIBLE_DEVICES"))
        sandbox.stop()
        print(sandbox.status())
    """
    starter = in_python(code, str(sandbox.folder), under=user, python=python)
    output = starter.communicate(timeout=240)[0]
    assert starter.returncode == 0, output
    assert output.split()[:4] == ["nobody", "CapBnd:", "0000000000000000", "0"]
    assert left_running(sandbox) == []


@pytest.mark.parametrize("address", ["127.0.1.1", "192.0.2.2"])
def test_whatever_the_machines_name_resolves_to(make: Callable[[], Sandbox], tmp_path: Path, address: str) -> None:
    """Debian's installer writes 127.0.1.1 into /etc/hosts, Docker the container's own address."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("giving a process another /etc/hosts takes root")
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
    sandbox = make()
    code = """
        import os, subprocess, sys
        from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec
        subprocess.check_call(["mount", "--bind", sys.argv[2], "/etc/hosts"])
        sandbox = Sandbox(sys.argv[1])
        sandbox.start(SandboxSpec(accounting=False, nodes=1))
        print(subprocess.check_output(["srun", "hostname"], env={**os.environ, **sandbox.environment}, text=True))
        sandbox.stop()
    """
    starter = in_python(code, str(sandbox.folder), str(hosts), under=("unshare", "--mount"))
    output = starter.communicate(timeout=400)[0]
    assert starter.returncode == 0, output
    assert output.strip() == socket.gethostname()
