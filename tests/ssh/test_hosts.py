"""The hosts are what the other tests here take them for: each feature and each fault, by way of OpenSSH's client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen

import pytest
from hosts import Degraded, Host, Hosts, missing, reap
from until import wait_until

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Run = Callable[..., CompletedProcess[str]]
NAMES = ("login", "gpu1", "gpu2", "jump")


@pytest.fixture
def run(ssh: Path) -> Run:
    """Run a command on a host by OpenSSH's client, which can ask nobody."""

    def run(host: str, command: str, *options: str, **more) -> CompletedProcess[str]:
        words = ["ssh", "-F", str(ssh), *options, "-o", "BatchMode=yes", host, command]
        return subprocess.run(words, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=240, **more)

    return run


def _open(config: Path, host: str, command: str, *options: str) -> Popen[str]:
    """Open a connection that stays, and wait for the first line."""
    words = ["ssh", "-F", str(config), "-o", "BatchMode=yes", *options, host, f"echo begun; {command}"]
    process = Popen(words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    return process


def test_each_host_is_logged_in_to_by_its_name(run: Run) -> None:
    for name in NAMES:
        done = run(name, "hostname; whoami")
        assert (done.returncode, done.stdout) == (0, f"{name}\nroot\n"), done.stderr


def test_hosts_reach_each_other_by_name(run: Run) -> None:
    assert "SSH-2.0" in run("gpu1", "exec 3<>/dev/tcp/gpu2/22; head -1 <&3").stdout


def test_hosts_leave_nothing_behind() -> None:
    with Hosts("a", "b", "c") as hosts:
        folder = hosts.folder
    assert not folder.exists()


def test_the_client_cannot_read_what_the_host_has(hosts: Hosts, run: Run) -> None:
    for folder in ("/root", "/home", "/tmp", "/var/tmp", "/run", "/dev/shm", "/var/log"):
        path = Path(folder) / "only-there"
        assert run("gpu1", f"echo yes > {path}").returncode == 0
        assert not path.exists()
        assert hosts["gpu1"].path(str(path)).read_text() == "yes\n"
        assert run("gpu2", f"test -e {path}").returncode == 1
        assert run("gpu1", f"rm {path}").returncode == 0


def test_the_host_cannot_see_the_clients_processes(hosts: Hosts, run: Run) -> None:
    assert len(run("gpu1", "echo /proc/[0-9]*").stdout.split()) <= len(hosts["gpu1"].processes()) + 3


def test_what_is_orphaned_is_reaped(hosts: Hosts, run: Run) -> None:
    run("gpu1", "(setsid sleep 0.1 &) >/dev/null 2>&1 </dev/null")
    wait_until(lambda: "" not in hosts["gpu1"].processes().values())


def test_an_unknown_host_key_is_refused(ssh: Path, run: Run) -> None:
    (ssh.parent / "known_hosts").write_text("")
    done = run("gpu1", "true", "-o", "StrictHostKeyChecking=yes")
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_another_host_key_is_refused(ssh: Path, hosts: Hosts, run: Run) -> None:
    known = ssh.parent / "known_hosts"
    known.write_text(known.read_text().replace(hosts["gpu1"].host_key, hosts["gpu2"].host_key))
    done = run("gpu1", "true")
    assert done.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_only_the_key_logs_in(run: Run, tmp_path: Path) -> None:
    done = run("gpu1", "true", "-o", "IdentityFile=none", "-i", str(tmp_path / "none"), "-o", "PubkeyAuthentication=no")
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_each_test_has_a_configuration_of_its_own(ssh: Path, hosts: Hosts) -> None:
    assert os.environ["NEXA_SSH_CONFIG"] == str(ssh)
    assert ssh.parent != hosts.folder
    assert "Host gpu1" in ssh.read_text()


def test_one_connection_takes_ten_sessions_and_no_more(ssh: Path, run: Run, tmp_path: Path) -> None:
    shared = ("-o", f"ControlPath={tmp_path}/c")
    master = _open(ssh, "gpu1", "cat", "-M", *shared)
    sessions = [_open(ssh, "gpu1", "cat", *shared) for _ in range(9)]
    try:
        refused = run("gpu1", "true", "-v", *shared)
        assert "Session open refused by peer" in refused.stderr or "session request failed" in refused.stderr.lower()
    finally:
        for process in (*sessions, master):
            process.communicate("")


def test_a_cut_cable_is_silence_and_an_open_connection_survives_it(ssh: Path, hosts: Hosts, run: Run) -> None:
    process = _open(ssh, "gpu1", "cat")
    hosts["gpu1"].cut()
    assert run("gpu1", "true", "-o", "ConnectTimeout=1").returncode == 255
    assert run("gpu2", "true").returncode == 0
    assert process.poll() is None
    hosts["gpu1"].heal()
    assert run("gpu1", "true").returncode == 0
    assert process.communicate("still here\n", timeout=120)[0] == "still here\n"


def test_a_hung_host_accepts_and_does_not_answer(ssh: Path, hosts: Hosts, run: Run) -> None:
    process = _open(ssh, "gpu1", "cat", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2")
    patient = _open(ssh, "gpu1", "cat")
    hosts["gpu1"].hang()
    assert "banner exchange" in run("gpu1", "true", "-o", "ConnectTimeout=1").stderr
    assert "not responding" in process.communicate(timeout=120)[0]
    hosts["gpu1"].unhang()
    assert run("gpu1", "true").returncode == 0
    assert patient.communicate("still here\n", timeout=120)[0] == "still here\n"


def test_without_its_listener_open_connections_go_on(ssh: Path, hosts: Hosts, run: Run) -> None:
    process = _open(ssh, "gpu1", "cat")
    hosts["gpu1"].kill_sshd()
    assert "Connection refused" in run("gpu1", "true").stderr
    assert process.communicate("still here\n", timeout=120)[0] == "still here\n"
    hosts["gpu1"].start_sshd()
    assert run("gpu1", "true").returncode == 0


def test_without_any_sshd_connections_end(ssh: Path, hosts: Hosts) -> None:
    process = _open(ssh, "gpu1", "cat")
    hosts["gpu1"].kill_sshd(everything=True)
    process.communicate(timeout=120)
    assert process.returncode == 255


def test_a_reboot_keeps_disk_and_key_and_says_nothing_to_connections(ssh: Path, hosts: Hosts, run: Run) -> None:
    run("gpu1", "echo kept > /root/kept; echo lost > /tmp/lost")
    process = _open(ssh, "gpu1", "cat")
    before = hosts["gpu1"].pid
    hosts["gpu1"].reboot()
    assert hosts["gpu1"].pid != before
    done = run("gpu1", "cat /root/kept; ls /tmp; rm /root/kept")
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr
    time.sleep(0.5)
    assert process.poll() is None
    process.communicate("anyone?\n", timeout=120)
    assert process.returncode == 255


def test_a_small_disk_is_soon_full(hosts: Hosts, run: Run) -> None:
    hosts["gpu1"].small_disk("/root/small", "1m")
    done = run("gpu1", "head -c 2000000 /dev/zero > /root/small/file")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    hosts["gpu1"].restore()
    assert run("gpu1", "ls /root/small").stdout == ""


def test_a_bad_line_takes_longer_and_open_connections_survive_it(ssh: Path, hosts: Hosts) -> None:
    process = _open(ssh, "gpu1", "cat")
    assert process.stdin
    assert process.stdout

    def echo() -> float:
        begun = time.monotonic()
        process.stdin.write("line\n")
        process.stdin.flush()
        assert process.stdout.readline() == "line\n"
        return time.monotonic() - begun

    echo()
    assert min(echo() for _ in range(20)) < 0.2
    with Degraded(hosts["gpu1"], delay=0.1):
        assert min(echo() for _ in range(3)) > 0.2
    assert min(echo() for _ in range(20)) < 0.2
    with Degraded(hosts["gpu1"], loss=0.1):
        for _ in range(20):
            echo()
    process.communicate("")


def test_a_second_factor_is_asked_for(guarded: Host, run: Run, tmp_path: Path) -> None:
    refused = run("guarded", "true")
    assert refused.returncode == 255
    assert "Permission denied (keyboard-interactive)" in refused.stderr
    helper = tmp_path / "answer"
    helper.write_text('#!/bin/sh\necho "$1" >> "$0.asked"\necho "$CODE"\n')
    helper.chmod(0o755)
    asking = {**os.environ, "SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    before = guarded.codes_asked
    once = ("-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=1")
    assert run("guarded", "true", *once, env={**asking, "CODE": "654321"}).returncode == 255
    done = run("guarded", "hostname", *once, env={**asking, "CODE": "123456"})
    assert (done.returncode, done.stdout) == (0, "guarded\n"), done.stderr
    assert guarded.codes_asked == before + 2
    assert (tmp_path / "answer.asked").read_text().count("Your one-time code, please.") == 2


def test_a_host_behind_another_is_reached_through_it(inner: Host, hosts: Hosts, run: Run) -> None:
    done = run("inner", "hostname; echo $SSH_CLIENT")
    assert done.stdout.startswith(f"inner\n{hosts['jump'].ip} "), done.stderr
    hosts["jump"].cut()
    assert run("inner", "true", "-o", "ConnectTimeout=2").returncode == 255


def test_rsync_copies_there_and_back(ssh: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("content")
    by = ["rsync", "-a", "-e", f"ssh -F {ssh}"]
    subprocess.run([*by, f"{tmp_path}/there/", "gpu1:/root/copy/"], check=True)
    subprocess.run([*by, "gpu1:/root/copy/", f"{tmp_path}/back/"], check=True)
    assert (tmp_path / "back" / "file").read_text() == "content"
    run("gpu1", "rm -r /root/copy")


def test_slurm_works_in_login_shells_and_in_them_alone(slurm_login: Host, run: Run) -> None:
    done = run(
        "login", "bash -lc 'sbatch --gpus=1 --wait --output=/root/out --wrap=\"hostname; echo \\$CUDA_VISIBLE_DEVICES\" && cat /root/out'"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("login\n0\n")
    assert run("login", "squeue").returncode != 0


def test_slurm_comes_back_after_a_reboot(slurm_login: Host, run: Run) -> None:
    run("login", "bash -lc 'sbatch --wait --job-name=before --wrap true'")
    told = "bash -lc 'sacct --format=jobname%30 --noheader'"
    deadline = time.monotonic() + 240
    while "before" not in run("login", told).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    time.sleep(3)  # the sandbox's database writes to disk once a second
    slurm_login.reboot()
    assert "before" in run("login", told).stdout
    assert run("login", "bash -lc 'sbatch --wait --wrap true'").returncode == 0


def test_a_bare_host_has_no_python_and_slurm_where_a_login_shell_finds_it(bare: Host, run: Run) -> None:
    assert run("bare", "python3 --version").returncode == 127
    assert run("bare", "sbatch --version").returncode == 127
    assert run("bare", "bash -lc 'command -v sbatch'").stdout == "/opt/slurm/bin/sbatch\n"
    done = run("bare", "bash -lc 'sbatch --wait --output=/root/out --wrap hostname && cat /root/out'")
    assert done.stdout.endswith("\nbare\n"), done.stderr


def test_a_killed_session_leaves_no_process_and_the_next_removes_the_rest() -> None:
    code = "import sys; from hosts import Hosts; h = Hosts('a').__enter__(); print(h.name, h['a'].pid, flush=True); sys.stdin.read()"
    setting = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[2])))}
    with Popen([sys.executable, "-c", code], env=setting, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        name, pid = other.stdout.readline().split()
        reap()
        assert Path("/tmp", name).exists()  # it lives: nothing of it is touched
        assert Path("/proc", pid).exists()
        other.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 240
    while Path("/proc", pid).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reap()
    assert not Path("/tmp", name).exists()
    assert name not in subprocess.run(["ip", "netns"], text=True, capture_output=True, check=True).stdout
    assert name not in subprocess.run(["ip", "link"], text=True, capture_output=True, check=True).stdout


def test_two_rigs_at_once_have_networks_of_their_own(hosts: Hosts) -> None:
    with Hosts("other") as others:
        assert others.subnet != hosts.subnet
        assert others["other"].answers()
    assert hosts["gpu1"].answers()
