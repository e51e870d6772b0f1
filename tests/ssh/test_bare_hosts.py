"""Bare machines without a scheduler: two real hosts, each with its own disk, processes and sshd."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Hosts, HostSpec
from until import wait_until

from nexa_sdk import Budget, Cluster, Run, Sweep, attach
from nexa_sdk.errors import (
    BudgetExceeded,
    ClusterError,
    ClusterNotFound,
    InvalidInput,
    JobError,
    PreflightFailed,
    SubmissionRejected,
    Unreachable,
)
from nexa_sdk.journal import Journal

# Two commands ask it: which GPUs there are, and on which somebody computes.
NVIDIA_SMI = """#!/bin/sh
case $1 in
  --query-gpu=index) seq 0 $(({count} - 1)) ;;
  --query-gpu=index,uuid) for k in $(seq 0 $(({count} - 1))); do echo "$k, GPU-$k"; done ;;
  --query-compute-apps=gpu_uuid) cat /root/computing 2> /dev/null || : ;;
  *) exit 9 ;;
esac
"""
HOSTILE = ["", " ", "a b", "it's", '"$(touch /root/x)"', "`id`", "-rf", "a\nb", "$HOME", "*", "ü😀", "a\\b", "!!"]


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask every half second, although nothing changes: these tests wait for questions."""
    monkeypatch.setattr("nexa_sdk.scheduling.watcher.GROWTH", 1.0)


@pytest.fixture
def two(ssh: Path, hosts: Hosts, tmp_path: Path) -> Iterator[Cluster]:
    """Return gpu1 and gpu2 as one cluster, with nothing left on them; the project is one small program."""
    yield Cluster.hosts("gpu1", "gpu2")
    for name in ("gpu1", "gpu2"):
        hosts[name].restore()
        kill_run(hosts[name], "supervisor.py")
    if (tmp_path / "home/journal.sqlite").exists():
        for record in Journal(tmp_path / "home/journal.sqlite").runs():
            for name in ("gpu1", "gpu2"):
                kill_run(hosts[name], record.folder)
    for name in ("gpu1", "gpu2"):
        hosts[name].enter("sh", "-c", "rm -rf /root/.nexa /root/bin /root/computing /root/marks /etc/profile.d/test.sh /root/x")


def kill_run(host: Host, folder: str) -> None:
    for pid, line in host.processes().items():
        if folder in line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def give_gpus(host: Host, count: int, *, computing: tuple[int, ...] = ()) -> None:
    """Let a host's nvidia-smi tell of GPUs, and of strangers who compute on some."""
    for folder in ("bin", "marks"):
        host.path(f"/root/{folder}").mkdir(exist_ok=True)
    program = host.path("/root/bin/nvidia-smi")
    program.write_text(NVIDIA_SMI.format(count=count))
    program.chmod(0o755)
    host.path("/root/computing").write_text("".join(f"GPU-{k}\n" for k in computing))
    (host.folder / "etc/profile.d/test.sh").write_text("PATH=$PATH:/root/bin\n")


def states(run: Run) -> list[str]:
    return run.status()["state"].tolist()


def until_go(hosts: Hosts) -> Sweep:
    """Return four trials that each run until there is a file /root/marks/go on their host."""
    for name in ("gpu1", "gpu2"):
        hosts[name].enter("mkdir", "-p", "/root/marks")
    return Sweep(["sh", "-c", "echo begun; until [ -e /root/marks/go ]; do sleep 0.1; done"], {"n": range(4)}, style="env")


def go(host: Host) -> None:
    host.enter("touch", "/root/marks/go")


# ---- where trials go -------------------------------------------------------------------------------


def test_trials_are_spread_over_free_gpus_and_never_share_one(two: Cluster, hosts: Hosts) -> None:
    give_gpus(hosts["gpu1"], 2, computing=(0,))
    give_gpus(hosts["gpu2"], 2)
    checks = two.plan(Sweep("true"), gpus=1, time="0:05:00").preflight().set_index("what")
    assert "2 tasks at once, 1 of them now; others compute on 1 of its GPUs" in checks.loc["gpu1", "words"]
    assert "2 tasks at once, 2 of them now" in checks.loc["gpu2", "words"]
    alone = 'mkdir "/root/marks/$CUDA_VISIBLE_DEVICES" && echo "GPU $CUDA_VISIBLE_DEVICES" && sleep 0.3 && rmdir "/root/marks/$CUDA_VISIBLE_DEVICES"'
    run = two.launch(Sweep(["sh", "-c", alone], {"n": range(7)}, style="env"), gpus=1, time="0:05:00")
    run.wait(timeout=240, progress=False)
    table = run.status()
    assert Counter(table["node"]) == {"gpu1": 3, "gpu2": 4}, "three can start at once; what is left is halved"
    used = {(node, str(run.logs(trial))) for trial, node in table["node"].items()}
    assert {words for node, words in used if node == "gpu1"} == {"GPU 1\n"}, "GPU 0 is left to those who compute on it"
    assert {words for node, words in used if node == "gpu2"} <= {"GPU 0\n", "GPU 1\n"}


def test_what_fits_nowhere_is_said_with_numbers_before_anything_is_sent(two: Cluster, hosts: Hosts) -> None:
    give_gpus(hosts["gpu1"], 2)
    give_gpus(hosts["gpu2"], 1)
    cores = f"{os.cpu_count()} cores"
    words = f"a trial asks for 4 GPUs and 1 core, and no host has that: gpu1 has 2 GPUs and {cores}, gpu2 has 1 GPU and {cores}"
    with pytest.raises(PreflightFailed, match=words):
        two.launch(Sweep("true"), gpus=4, time="0:05:00")
    with pytest.raises(PreflightFailed, match=words):
        two.plan(Sweep("true"), gpus=4, time="0:05:00").submit(check=False)
    run = two.launch(Sweep("true", {"n": range(3)}), gpus=2, time="0:05:00").wait(timeout=240, progress=False)
    assert set(run.status()["node"]) == {"gpu1"}, "where only one has room, it gets all"
    assert not hosts["gpu2"].path(run.folder).exists()


def test_a_throttle_is_divided(two: Cluster, hosts: Hosts) -> None:
    run = two.launch(until_go(hosts), throttle=2, time="0:05:00")
    wait_until(lambda: Counter(states(run)) == {"RUNNING": 2, "PENDING": 2})
    assert Counter(run.status().query("state == 'RUNNING'")["node"]) == {"gpu1": 1, "gpu2": 1}
    run.cancel().wait(check=False, progress=False)
    alone = two.launch(until_go(hosts), throttle=1, time="0:05:00", again=True)
    wait_until(lambda: Counter(states(alone)) == {"RUNNING": 1, "PENDING": 3})
    assert {attempt.array.nodes for attempt in alone.last_known} == {"gpu1"}
    alone.cancel()


def test_nodelist_and_exclude_choose_hosts(two: Cluster) -> None:
    for options, node in (({"nodelist": "gpu2"}, "gpu2"), ({"exclude": ["gpu2"]}, "gpu1")):
        run = two.launch(Sweep("true", {"n": range(3)}), time="0:05:00", **options).wait(timeout=240, progress=False)
        assert set(run.status()["node"]) == {node}
    with pytest.raises(JobError, match="nodelist='gpu3' is none of these hosts; did you mean 'gpu"):
        two.plan(Sweep("true"), nodelist="gpu3")
    with pytest.raises(JobError, match="leave none of gpu1, gpu2"):
        two.plan(Sweep("true"), exclude="gpu1,gpu2")


# ---- what comes of them ----------------------------------------------------------------------------


def test_results_logs_code_and_any_text_from_both(two: Cluster, program, hosts: Hosts) -> None:
    code = "with open(os.environ['NEXA_RESULTS'], 'w') as f: f.write(json.dumps({'got': sys.argv[2], 'host': os.uname().nodename}) + '\\n')\nprint(sys.argv[2:])"
    _, script = program(code)
    run = two.launch(Sweep(["python3", script], {"text": HOSTILE}), time="0:05:00").wait(timeout=240, progress=False)
    table = run.results()
    assert table["got"].tolist() == HOSTILE
    assert table["host"].tolist() == table["node"].tolist()
    assert set(table["node"]) == {"gpu1", "gpu2"}
    for trial, text in enumerate(HOSTILE):
        assert str(run.logs(trial)) == f"{[text]}\n"
    for name in ("gpu1", "gpu2"):
        assert not hosts[name].path("/root/x").exists()
        assert hosts[name].path(f"{run.folder}/code/{script}").read_text() == Path(script).read_text()
        assert oct(hosts[name].path("/root/.nexa/tools").stat().st_mode)[-3:] == "700"


def test_a_log_is_followed(two: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    run = two.launch(Sweep(["sh", "-c", "for k in 1 2 3; do echo $k; sleep 0.4; done"], {"n": range(2)}, style="env"), time="0:05:00")
    run.logs(1, follow=True)
    assert capsys.readouterr().out == "1\n2\n3\n"


def test_logs_of_both_are_followed_while_one_is_away(two: Cluster, hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    words = "for k in 1 2 3 4 5 6; do echo $k; sleep 0.5; done"
    run = two.launch(Sweep(["sh", "-c", words], {"n": range(2)}, style="env"), time="0:05:00", workdir="/root")
    wait_until(lambda: states(run) == ["RUNNING"] * 2)
    hosts["gpu2"].kill_sshd(everything=True)
    back = threading.Timer(6, hosts["gpu2"].start_sshd)
    back.start()
    run.logs([0, 1], follow=True)
    back.join()
    told = capsys.readouterr()
    for trial in (0, 1):
        assert [line for line in told.out.splitlines() if line.startswith(f"{trial} |")] == [f"{trial} | {k}" for k in range(1, 7)]
    assert "gpu2" in told.err


def test_packed_trials_are_spread_by_whole_tasks(two: Cluster) -> None:
    count = ["sh", "-c", 'echo "{\\"n\\": $n}" > "$NEXA_RESULTS"; [ "$n" -ne 4 ] || exit 3']
    run = two.launch(Sweep(count, {"n": range(11)}, style="env"), pack=2, time="0:05:00").wait(timeout=240, check=False, progress=False)
    table = run.results()
    assert table["result.n"].tolist() == list(range(11))
    assert Counter(table["state"]) == {"COMPLETED": 10, "FAILED": 1}
    assert set(table["node"]) == {"gpu1", "gpu2"}
    run.retry().wait(timeout=240, check=False, progress=False)
    assert run.status()["attempt"].tolist() == [1] * 4 + [2] + [1] * 6


def test_secrets_reach_both_and_stay_nowhere(two: Cluster, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "s3cr3t")
    for name in ("gpu1", "gpu2"):
        hosts[name].enter("mkdir", "-p", "/root/marks")
    words = 'test "${#TOKEN_OF_TEST}" = 6 && until [ -e /root/marks/go ]; do sleep 0.1; done'
    run = two.launch(Sweep(["sh", "-c", words], {"n": range(2)}, style="env"), secrets=["TOKEN_OF_TEST"], time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"] * 2)
    for name in ("gpu1", "gpu2"):
        (secret,) = hosts[name].path(f"{run.folder}/secrets").iterdir()
        assert oct(secret.stat().st_mode)[-3:] == "600"
        assert oct(secret.parent.stat().st_mode)[-3:] == "700"
        assert not [line for line in hosts[name].processes().values() if "s3cr3t" in line]
        go(hosts[name])
    run.wait(timeout=240, progress=False)
    for name in ("gpu1", "gpu2"):
        assert b"s3cr3t" not in subprocess.run(["grep", "-r", "s3cr3t", hosts[name].path("/root")], capture_output=True).stdout


def test_cancelling_one_and_all(two: Cluster, hosts: Hosts) -> None:
    run = two.launch(until_go(hosts), time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"] * 4)
    run.cancel(3)
    wait_until(lambda: states(run) == ["RUNNING"] * 3 + ["CANCELLED"])
    run.cancel().wait(timeout=240, check=False, progress=False)
    assert states(run) == ["CANCELLED"] * 4
    for name in ("gpu1", "gpu2"):
        wait_until(lambda host=hosts[name]: not [line for line in host.processes().values() if run.folder in line])


def test_failed_trials_are_run_again_also_by_their_cause(two: Cluster) -> None:
    words = 'test -e "$NEXA_RUN.$NEXA_TRIAL" || { touch "$NEXA_RUN.$NEXA_TRIAL"; exit $((NEXA_TRIAL % 2)); }'
    run = two.launch(Sweep(["sh", "-c", words], {"n": range(4)}, style="env"), time="0:05:00", workdir="/root").wait(
        240, check=False, progress=False
    )
    assert states(run) == ["COMPLETED", "FAILED"] * 2
    run.retry(by="cause")
    assert run.retry_plan()["cause"].tolist() == ["FAILED", "FAILED"]
    run.retry(1).wait(timeout=240, check=False, progress=False)
    assert run.status()["attempt"].tolist()[:2] == [1, 2]


# ---- nobody is there -------------------------------------------------------------------------------


def test_a_run_survives_its_kernel_and_the_sshds_and_is_found_again(two: Cluster, hosts: Hosts) -> None:
    until_go(hosts)
    code = """
import os, signal
from nexa_sdk import *
words = "echo begun; until [ -e /root/marks/go ]; do sleep 0.1; done; echo ended"
run = Cluster("hosts://gpu1,gpu2").launch(Sweep(["sh", "-c", words], {"n": range(4)}, style="env"), time="0:05:00")
print(run.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = attach(done.stdout.split()[-1])
    assert run.cluster == "hosts://gpu1,gpu2"
    wait_until(lambda: states(run) == ["RUNNING"] * 4)
    for name in ("gpu1", "gpu2"):
        hosts[name].kill_sshd(everything=True)
        go(hosts[name])
    time.sleep(0.5)
    for name in ("gpu1", "gpu2"):
        hosts[name].start_sshd()
    run.wait(timeout=240, progress=False)
    assert [str(run.logs(trial)) for trial in range(4)] == ["begun\nended\n"] * 4
    assert two.launch(run.sweep, run.job).id == run.id, "the same is launched once"


def test_another_laptop_finds_it_by_its_folders(two: Cluster, hosts: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = two.launch(until_go(hosts), time="0:05:00")
    monkeypatch.setenv("NEXA_HOME", str(tmp_path / "other"))
    found = attach(run.id[:-3], cluster="hosts://gpu1,gpu2")
    assert found.id == run.id
    wait_until(lambda: states(found) == ["RUNNING"] * 4)
    found.cancel().wait(timeout=240, check=False, progress=False)
    assert states(found) == ["CANCELLED"] * 4


def test_a_host_that_lost_power_has_failed_and_its_trials_run_on_the_other(two: Cluster, hosts: Hosts) -> None:
    run = two.launch(until_go(hosts), time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"] * 4)
    hosts["gpu2"].reboot()
    wait_until(lambda: Counter(states(run)) == {"RUNNING": 2, "NODE_FAIL": 2})
    assert run.status().query("state == 'NODE_FAIL'")["reason"].tolist() == ["its supervisor died"] * 2
    run.retry(by="cause")
    assert set(run.status()["node"]) <= {"gpu1", ""}, "not on gpu2 once more"
    go(hosts["gpu1"])
    run.wait(timeout=240, progress=False)
    assert run.status()["attempt"].tolist() == [1, 1, 2, 2]


# ---- a host is away --------------------------------------------------------------------------------


def test_a_host_that_is_away_at_the_launch_is_said_and_can_be_left_out(two: Cluster, hosts: Hosts, home: Path) -> None:
    hosts["gpu2"].kill_sshd(everything=True)
    sweep = Sweep("true", {"n": range(2)})
    with pytest.raises(Unreachable, match=r"(?s)gpu2 .*To leave it out: exclude='gpu2', or Cluster\.hosts\('gpu1'\)"):
        two.launch(sweep, time="0:05:00")
    assert not Journal(home / "journal.sqlite").runs()
    assert not hosts["gpu1"].path("/root/.nexa/runs").exists() or not list(hosts["gpu1"].path("/root/.nexa/runs").glob("*-*"))
    run = two.launch(sweep, time="0:05:00", exclude="gpu2").wait(timeout=240, progress=False)
    assert set(run.status()["node"]) == {"gpu1"}


def test_a_host_that_goes_keeps_its_last_state_and_the_others_are_shown(two: Cluster, hosts: Hosts) -> None:
    run = two.launch(until_go(hosts), time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"] * 4)
    hosts["gpu2"].kill_sshd(everything=True)
    for name in ("gpu1", "gpu2"):
        go(hosts[name])
    wait_until(lambda: states(run) == ["COMPLETED"] * 2 + ["RUNNING"] * 2)
    reasons = run.status()["reason"].tolist()
    assert reasons[:2] == ["", ""]
    assert all(re.fullmatch(r"gpu2 not reachable since \d\d:\d\d", reason) for reason in reasons[2:]), reasons
    with pytest.warns(UserWarning, match=r"results of 2 trials are not here: .*gpu2"):
        assert len(run.results()) == 4
    with pytest.raises(ClusterError, match="gpu2"):
        run.logs(3)
    assert "UNKNOWN" not in states(attach(run.id))[:2]
    hosts["gpu2"].start_sshd()
    run.wait(timeout=240, progress=False)
    assert states(run) == ["COMPLETED"] * 4
    assert run.status()["reason"].tolist() == [""] * 4


def test_who_attaches_while_a_host_is_away_sees_the_others(two: Cluster, hosts: Hosts) -> None:
    run = two.launch(until_go(hosts), time="0:05:00")
    code = f"from nexa_sdk import *; print(attach({run.id!r}).status()[['state', 'reason']].to_json(orient='values'))"
    hosts["gpu2"].kill_sshd(everything=True)
    wait_until(lambda: states(run)[:2] == ["RUNNING"] * 2)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [state for state, _ in rows] == ["RUNNING", "RUNNING", "UNKNOWN", "UNKNOWN"]
    assert "gpu2 not reachable since" in rows[3][1]
    hosts["gpu2"].start_sshd()
    run.cancel()


def test_all_away_is_an_error_and_changes_nothing(two: Cluster, hosts: Hosts) -> None:
    run = two.launch(until_go(hosts), time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"] * 4)
    for name in ("gpu1", "gpu2"):
        hosts[name].kill_sshd(everything=True)
    with pytest.raises(ClusterError, match=r"gpu\d"):
        run.status()
    assert [str(attempt.status.state) for attempt in run.last_known] == ["RUNNING"] * 4
    for name in ("gpu1", "gpu2"):
        hosts[name].start_sshd()
        go(hosts[name])
    run.wait(timeout=240, progress=False)


def test_a_cut_cable_holds_up_nobody(two: Cluster, hosts: Hosts) -> None:
    run = two.launch(until_go(hosts), time="0:05:00")
    wait_until(lambda: states(run) == ["RUNNING"] * 4)
    hosts["gpu2"].cut()
    go(hosts["gpu1"])
    wait_until(lambda: states(run)[:2] == ["COMPLETED"] * 2, 120)
    hosts["gpu2"].heal()
    go(hosts["gpu2"])
    run.wait(timeout=240, progress=False)


def test_an_array_whose_host_is_away_is_sent_by_resuming(two: Cluster, hosts: Hosts) -> None:
    plan = two.plan(Sweep("true", {"n": range(4)}), time="0:05:00", workdir="/root")
    scheduler = two.scheduler
    place = scheduler.place

    def place_and_lose(*args, **options):
        placed = place(*args, **options)
        hosts["gpu2"].kill_sshd(everything=True)
        return placed

    scheduler.place = place_and_lose  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match=r"gpu2"):
        plan.submit()
    hosts["gpu2"].start_sshd()
    run = plan.submit()
    run.wait(timeout=240, progress=False)
    assert states(run) == ["COMPLETED"] * 4
    assert Counter(run.status()["node"]) == {"gpu1": 2, "gpu2": 2}
    assert run.status()["attempt"].tolist() == [1] * 4


def test_what_one_refuses_is_taken_back_from_the_other(two: Cluster, hosts: Hosts, home: Path) -> None:
    hosts["gpu2"].enter("sh", "-c", "mkdir -p /root/.nexa && touch /root/.nexa/runs")
    sweep = Sweep(["sleep", "300"], {"n": range(2)}, style="env")
    with pytest.raises(SubmissionRejected, match=r"gpu2 refused .* can't be written: .* Choose another with Cluster\.hosts"):
        two.launch(sweep, time="0:05:00", workdir="/root")
    (record,) = Journal(home / "journal.sqlite").runs()
    wait_until(lambda: states(attach(record.id)) == ["CANCELLED"] * 2)
    assert "never submitted: gpu2 refused" in attach(record.id).status()["reason"][1]
    wait_until(lambda: not [line for line in hosts["gpu1"].processes().values() if "sleep 300" in line])


# ---- what hosts are like -----------------------------------------------------------------------------


def test_a_shared_folder_of_runs_holds_both(two: Cluster, hosts: Hosts, program) -> None:
    shared = Path(f"/srv/nexa-test-{os.getpid()}")  # the hosts' root file system is this machine's
    try:
        _, script = program("print(os.uname().nodename)")
        run = Cluster.hosts("gpu1", "gpu2", runs=shared).launch(Sweep(["python3", script], {"n": range(6)}), time="0:05:00")
        run.wait(timeout=240, progress=False)
        nodes = run.status()["node"].tolist()
        assert set(nodes) == {"gpu1", "gpu2"}
        assert [str(run.logs(trial)) for trial in range(6)] == [f"{node}\n" for node in nodes]
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def test_a_budget_is_held_by_what_could_be_spent(two: Cluster, tmp_path: Path) -> None:
    rates = tmp_path / "config" / "nexa" / "rates.toml"
    rates.parent.mkdir(parents=True, exist_ok=True)
    rates.write_text("currency = 'USD'\ncpu_hour = 3600\n")  # a dollar a second
    sweep = Sweep(["sh", "-c", "[ $x != 1 ] || [ -e /root/marks/mended ]"], {"x": range(4)}, style="env")
    with pytest.raises(InvalidInput, match="its machines share no folder"):
        two.plan(sweep, time="0:00:10", workdir="/root", budget=Budget("30 USD", until_spent=True))
    with pytest.raises(BudgetExceeded, match=r"it could cost 40 USD \(4 tasks × 00:00:10 × 3600 USD an hour\), and its budget is 30 USD"):
        two.launch(sweep, time="0:00:10", workdir="/root", budget="30 USD")
    plan = two.plan(sweep, time="0:00:10", workdir="/root", budget="45 USD")
    assert "budget" not in plan.script
    run = plan.submit().wait(timeout=240, check=False, progress=False)
    assert run.budget() is None
    with pytest.raises(BudgetExceeded, match=r"45 USD used or under way, and 1 task × 00:00:10 .*, and its budget is 45 USD"):
        run.retry()
    run.retry(budget="55 USD").wait(timeout=240, check=False, progress=False)
    assert len(run.attempts()) == 5


def test_homes_that_differ_need_one_folder_by_name(two: Cluster, hosts: Hosts) -> None:
    (hosts["gpu2"].folder / "etc/profile.d/test.sh").write_text("export HOME=/root/other\nmkdir -p /root/other\n")
    with pytest.raises(InvalidInput, match=r"the home of gpu1 is /root, and that of gpu2 is /root/other: give .* runs="):
        two.launch(Sweep("true"), time="0:05:00", workdir="/root")
    there = Cluster.hosts("gpu1", "gpu2", runs="/root/.nexa/here")
    run = there.launch(Sweep("true", {"n": range(2)}), time="0:05:00", workdir="/root").wait(timeout=240, progress=False)
    assert set(run.status()["node"]) == {"gpu1", "gpu2"}


def test_a_host_without_python_says_what_it_needs(all_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_hosts.add(HostSpec(name="plain", without_python=True))
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(all_hosts.write_client(tmp_path / "ssh")))
    with pytest.raises(ClusterNotFound, match=r"plain has no python3: a bare machine needs Python 3\.6 or later .*, bash and tar"):
        Cluster.hosts("gpu1", "plain").launch(Sweep("true"), time="0:05:00")


def test_a_host_that_asks_for_a_code_is_logged_in_to_once(
    guarded: Host, two: Cluster, all_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXA_SSH_CONFIG", str(all_hosts.write_client(tmp_path / "ssh")))
    monkeypatch.setattr("nexa_sdk.transports.ssh.prompting._in_kernel", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _: "123456")
    before = guarded.codes_asked
    run = Cluster.hosts("gpu1", "guarded").launch(Sweep("true", {"n": range(4)}), time="0:05:00", workdir="/root")
    run.wait(timeout=240, progress=False)
    assert set(run.status()["node"]) == {"gpu1", "guarded"}
    assert guarded.codes_asked == before + 1


def test_a_host_that_ends_what_a_login_leaves_running_is_said(two: Cluster, hosts: Hosts) -> None:
    folder = hosts["gpu2"].path("/run/systemd/logind.conf.d")
    folder.mkdir(parents=True)
    (folder / "site.conf").write_text("[Login]\nKillUserProcesses = yes\n")
    checks = two.plan(Sweep("true"), time="0:05:00", workdir="/root").preflight().set_index("what")
    assert checks.loc["gpu1", "verdict"] == "ok"
    assert "loginctl enable-linger" in checks.loc["gpu2", "words"]
    shutil.rmtree(folder)


def test_one_host_alone_can_wait_and_go_ahead(ssh: Path, two: Cluster) -> None:
    one = Cluster.hosts("gpu1")
    run = one.launch(Sweep("true", {"n": range(3)}), canary=True, time="0:05:00", workdir="/root")
    later = one.launch(Sweep(["echo", "later"]), after=run, time="0:05:00", workdir="/root")
    later.wait(timeout=240, progress=False)
    assert states(run) == ["COMPLETED"] * 3
    failing = one.launch(Sweep("false", {"n": range(3)}), canary=True, time="0:05:00", workdir="/root").wait(
        240, check=False, progress=False
    )
    assert states(failing) == ["FAILED", "CANCELLED", "CANCELLED"]


def test_what_nobody_could_see_to_is_refused(two: Cluster) -> None:
    run = two.launch(Sweep("true"), time="0:05:00", workdir="/root")
    with pytest.raises(JobError, match=r"retry= needs somebody who stays awake .* run\.retry\(by='cause'\)"):
        two.plan(Sweep("true"), retry="by-cause")
    with pytest.raises(JobError, match="rolling= needs somebody"):
        two.plan(Sweep("true"), rolling=20)
    with pytest.raises(JobError, match="canary=True: no host knows"):
        two.plan(Sweep("true"), canary=True)
    with pytest.raises(JobError, match="after=: no host knows"):
        two.plan(Sweep("true"), after=run)
    with pytest.raises(JobError, match="nodes=2: a task of bare machines runs on one of them"):
        two.plan(Sweep("true"), nodes=2)
    with pytest.raises(InvalidInput, match="gpu1 is given twice"):
        Cluster.hosts("gpu1", "gpu1")
    with pytest.raises(InvalidInput, match="leaves a host out"):
        Cluster.hosts()


def test_hosts_of_a_profile(two: Cluster, tmp_path: Path) -> None:
    Path("nexa.toml").write_text('[clusters.lab]\nhosts = ["gpu1", "root@gpu2:22"]\n[clusters.lab.job]\ntime = "0:05:00"\n')
    lab = Cluster("lab")
    assert lab.url == "hosts://gpu1,root@gpu2:22"
    run = lab.launch(Sweep("true", {"n": range(2)}), workdir="/root").wait(timeout=240, progress=False)
    assert set(run.status()["node"]) == {"gpu1", "gpu2"}
    assert states(attach(run.id)) == ["COMPLETED"] * 2
    done = subprocess.run([sys.executable, "-m", "nexa_sdk", "connect", "hosts://gpu1,gpu2"], capture_output=True, text=True)
    assert "hosts://gpu1,gpu2: bare machines" in done.stdout, done.stderr
    with pytest.raises(InvalidInput, match="several hosts, and each has a key of its own"):
        Cluster.trust("hosts://gpu1,gpu2", "SHA256:x")


# ---- code and files, by hand ---------------------------------------------------------------------


def test_syncing_to_all_and_fetching_from_each(two: Cluster, hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "synced"
    project.mkdir()
    (project / "tool.sh").write_text("mkdir -p out; hostname > out/$n.txt\n")
    monkeypatch.chdir(project)
    table = two.sync(destination="/root/.nexa/work", dry_run=True)
    assert sorted(zip(table["host"], table["action"], table["path"], strict=True)) == [
        (name, "add", "tool.sh") for name in ("gpu1", "gpu2")
    ]
    with pytest.raises(InvalidInput, match="lies in the folder of runs"):
        Cluster.hosts("gpu1", "gpu2", runs="/root/scratch").sync(destination="/root/scratch/synced", progress=False)
    synced = two.sync(destination="/root/.nexa/work", progress=False)
    assert (synced.sent, synced.files, synced.cluster) == (2, 2, two.url)
    run = two.launch(Sweep("sh tool.sh", {"n": range(8)}, style="env"), time="0:05:00", workdir="/root/.nexa/work")
    run.wait(timeout=240, progress=False)
    found = run.fetch("out/*.txt", to=tmp_path / "back", progress=False)
    assert len(found) == 8
    for path in found:
        assert path.read_text().strip() == path.relative_to(tmp_path / "back").parts[0], "each has a folder of its own"
    with pytest.raises(InvalidInput, match=r"no file in .* matches 'none/\*'"):
        run.fetch("none/*", to=tmp_path / "back", progress=False)
