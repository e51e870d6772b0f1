"""What goes wrong on a real Slurm: interrupts, crashes, refusals, and answers that are not clear."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from until import wait_until

from nexa_sdk import Cluster, Job, Sweep, attach, runs
from nexa_sdk.errors import InvalidInput, PreflightFailed, SubmissionRejected
from nexa_sdk.journal import Journal
from nexa_sdk.plan import Plan
from nexa_sdk.run import Run


def states(run: Run) -> list[str]:
    return run.status()["state"].tolist()


def raw(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def jobs_named(token: str) -> list[str]:
    """Return the jobs of that name, as Slurm itself has them: one line each, however many tasks."""
    return sorted(set(raw("squeue", "-h", "-t", "all", "-n", token, "-o", "%F").split()))


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a script around the real sbatch, ``$sbatch``, on PATH; what only asks is passed through."""
    path, real = tmp_path / "bin" / "sbatch", shutil.which("sbatch")
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    def wrap(lines: str) -> None:
        asks = 'case " $* " in *" --test-only "*) exec "$sbatch" "$@";; esac'
        path.write_text(f"#!/bin/bash\nsbatch={real}\n{asks}\n{lines}\n")
        path.chmod(0o755)

    return wrap


def child(code: str) -> subprocess.Popen[str]:
    """Start a Python that has a run to launch; it hears SIGINT whatever this process inherited."""
    begin = "import os, signal, sys\nfrom nexa_sdk import *\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.Popen([sys.executable, "-c", begin + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_files_that_cannot_be_locked_are_said(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = tmp_path / "bin" / "flock"
    flock.parent.mkdir()
    flock.write_text("#!/bin/sh\necho 'flock: 9: No locks available' >&2\nexit 71\n")
    flock.chmod(0o755)
    monkeypatch.setenv("PATH", f"{flock.parent}:{os.environ['PATH']}")
    with pytest.warns(UserWarning, match="can't be locked"):
        run = slurm.launch(Sweep(["true"]), time="0:05:00")
    run.wait(timeout=240, progress=False)


# ---- the program is stopped, or ended, by others -------------------------------------------------


def test_a_suspended_program_goes_on_and_its_exit_code_is_its_own(slurm: Cluster, program) -> None:
    code = """
        print(os.getpid(), flush=True)
        while not os.path.exists("go"): time.sleep(0.05)
        print("done")
        sys.exit(3)
    """
    run = slurm.launch(Sweep(program(code), {"by": ["a signal", "scontrol"]}), time="0:05:00")
    wait_until(lambda: all(str(run.logs(trial)).strip().isdecimal() for trial in (0, 1)))
    pids = [int(str(run.logs(trial))) for trial in (0, 1)]
    job = run.status()["job"][1]

    os.kill(pids[0], signal.SIGSTOP)
    raw("scontrol", "suspend", job)
    wait_until(lambda: all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" for pid in pids))
    assert states(run) == ["RUNNING", "SUSPENDED"]
    os.kill(pids[0], signal.SIGCONT)
    raw("scontrol", "resume", job)
    Path("go").touch()

    run.wait(check=False, timeout=240)
    assert states(run) == ["FAILED", "FAILED"]
    assert run.status()["exit_code"].tolist() == [3, 3]
    assert [str(run.logs(trial)) for trial in (0, 1)] == [f"{pid}\ndone\n" for pid in pids]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Return a cluster of its own that forgets a task 3 seconds after its end; its accounting does not."""
    from nexa_sdk.scheduling.slurm.sandbox import Sandbox, SandboxSpec, install_hint, missing_programs

    if missing_programs():
        pytest.skip(f"no Slurm here; get it by: {install_hint()}")
    folder = Path(tempfile.mkdtemp(prefix="nx-", dir="/tmp"))
    box = Sandbox(folder / "box")
    try:
        box.start(SandboxSpec(nodes=1, gpus_per_node=0, min_job_age=3))
        monkeypatch.setenv("NEXA_SANDBOX", str(box.folder))
        for name, value in box.environment.items():
            monkeypatch.setenv(name, value)
        yield Cluster("sandbox")
    finally:
        box.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def test_what_squeue_forgot_stays_as_accounting_has_it_while_other_trials_run(forgetful: Cluster, program) -> None:
    # Asked to end, it ends in an exit code of its own: its record alone would say FAILED.
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True)\nwhile True: time.sleep(0.1)"
    run = forgetful.launch(Sweep(program(code), {"x": range(4)}), time="0:10:00", throttle=2)
    wait_until(lambda: "ready" in str(run.logs(0)) and "ready" in str(run.logs(1)))
    job = run.status()["job"][0].partition("_")[0]
    raw("scancel", f"{job}_0")  # somebody, not us
    wait_until(lambda: states(run) == ["CANCELLED", "RUNNING", "RUNNING", "PENDING"])
    wait_until(lambda: "0" not in raw("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%K").split(), 60)
    assert states(run) == states(attach(run.id)) == ["CANCELLED", "RUNNING", "RUNNING", "PENDING"]
    run.cancel().wait(check=False, timeout=240)
    assert states(run) == ["CANCELLED"] * 4


# ---- the submission gets no clear answer -----------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param('echo "Welcome to HPC: 80% of your quota is used"; exec "$sbatch" "$@"', id="a banner before it"),
        pytest.param('"$sbatch" "$@" >/dev/null; kill -9 $$', id="killed before it"),
    ],
)
def test_a_submission_whose_answer_is_not_clear_is_found(slurm: Cluster, program, sbatch, answer: str) -> None:
    sbatch(answer)
    plan = slurm.plan(Sweep(program("print('ran')")), time="0:05:00")
    run = plan.submit()
    assert len(jobs_named(plan.tokens[0])) == 1
    run.wait(timeout=240)
    assert str(run.logs(0)) == "ran\n"
    assert run.status()["job"].tolist() == [f"{jobs_named(plan.tokens[0])[0]}_0"]


def test_ctrl_c_in_a_submission_is_heard_when_all_is_submitted(slurm: Cluster, sbatch, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.touch()
    sbatch(f'echo one more >> {begun}; sleep 0.5; exec "$sbatch" "$@"')
    launching = child(
        "plan = Cluster('sandbox').plan(Sweep('true', {'a': range(50), 'b': range(50)}), time='0:05:00', throttle=1)\n"
        "print(plan.id, flush=True)\nplan.submit()\nprint('submitted')\n"
    )
    for count in (1, 2):  # who is impatient presses it again
        wait_until(lambda count=count: len(begun.read_text().splitlines()) >= count)
        launching.send_signal(signal.SIGINT)
    said, errors = launching.communicate(timeout=240)
    assert launching.returncode != 0
    assert "KeyboardInterrupt" in errors.splitlines()[-1]
    run_id, *rest = said.splitlines()
    assert "submitted" not in rest
    run = attach(run_id)
    try:
        tokens = [array.token for array in Journal().arrays(run_id)]
        assert [len(jobs_named(token)) for token in tokens] == [1, 1, 1]
        assert [array.outcome for array in Journal().arrays(run_id)] == ["submitted"] * 3
        found = states(run)
        assert len(found) == 2500
        assert "UNKNOWN" not in found
    finally:
        run.cancel()


def test_a_crash_before_sbatch_leaves_a_run_that_never_was(slurm: Cluster, program, sbatch, tmp_path: Path) -> None:
    who = tmp_path / "pid"
    sbatch(f'kill -9 "$(cat {who})"; exit 1')
    sweep, job = Sweep(program("print('ran')"), {"x": [1, 2]}), Job(time="0:05:00")
    crashed = child(
        f"open({str(who)!r}, 'w').write(str(os.getpid()))\n"
        f"Cluster('sandbox').launch(Sweep([{sys.executable!r}, 'train.py'], {{'x': [1, 2]}}), time='0:05:00')\n"
    )
    crashed.communicate(timeout=240)
    assert crashed.returncode == -signal.SIGKILL
    (lost,) = runs().index
    assert states(attach(lost)) == ["UNKNOWN", "UNKNOWN"], "as far as anybody can say, it may yet arrive"

    with sqlite3.connect(Journal().path) as journal:
        journal.execute("UPDATE arrays SET at = at - 200")  # time passes
    journal.close()
    assert states(attach(lost)) == ["UNKNOWN", "UNKNOWN"], "sbatch had begun: the queue is to be asked a while longer"
    wait_until(lambda: states(attach(lost)) == ["CANCELLED", "CANCELLED"])
    assert all("never submitted" in reason for reason in attach(lost).status()["reason"])
    assert jobs_named(f"{lost}-0") == []

    sbatch('exec "$sbatch" "$@"')
    run = slurm.launch(sweep, job)
    assert run.id == lost, "the launch that was cut short is made whole"
    run.wait(timeout=240)
    assert str(run.logs(1)) == "ran\n"
    assert len(jobs_named(f"{lost}-0")) == 1


# ---- the submission is refused ---------------------------------------------------------------------


def test_a_refused_plan_leaves_no_secret_and_stays_refused(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "planted-5f2c")
    plan = slurm.plan(Sweep("true"), time="0:05:00", options={"gres": "nosuch:1"}, secrets=["MY_KEY"])
    for _ in range(2):
        with pytest.raises(SubmissionRejected, match="Invalid generic resource"):
            plan.submit()
        assert not [path for path in Path(plan.folder).rglob("*") if path.is_file() and b"planted-5f2c" in path.read_bytes()]
        assert not list(Path(plan.folder).rglob("secrets/*"))
    with pytest.raises(InvalidInput, match="never submitted"):
        attach(plan.id).retry()
    assert jobs_named(plan.tokens[0]) == []


def refused(plan: Plan) -> str:
    """Return the words of the errors for which a plan is not sent; nothing of it is."""
    before = set(raw("squeue", "-h", "-t", "all", "-o", "%i").split())
    checks = plan.preflight()
    with pytest.raises(PreflightFailed):
        plan.submit()
    assert set(raw("squeue", "-h", "-t", "all", "-o", "%i").split()) <= before, "others may be forgotten meanwhile"
    assert runs().empty
    errors = checks[checks["verdict"] == "error"]
    return "; ".join(f"{what}: {words}" for what, words in zip(errors["what"], errors["words"], strict=True))


def test_more_trials_than_slurm_takes_jobs_is_refused_before_it_is_sent(slurm: Cluster) -> None:
    # Of what other tests left in the queue some may be forgotten any moment: the numbers leave room for that.
    held = len(raw("squeue", "-h", "-r", "-t", "all", "-o", "%i").split())
    slurm.scheduler.config()["MaxJobCount"] = str(held + 1010)  # type: ignore[attr-defined]
    words = refused(slurm.plan(Sweep("true", {"x": range(held + 1500)}), time="0:05:00"))
    assert words.startswith(f"tasks: {held + 1500:,} tasks ")
    assert f"MaxJobCount={held + 1010:,}" in words
    assert "pack=" in words
    few = slurm.plan(Sweep("true", {"x": range(50)}), time="0:05:00").preflight()
    assert "error" not in few["verdict"].tolist()
    packed = slurm.plan(Sweep("true", {"x": range(1500)}), time="0:05:00", pack=2).preflight()
    assert "error" not in packed["verdict"].tolist()
    assert "750 of 2 trials in 1 array" in "\n".join(packed["words"])


def test_more_nodes_than_the_partition_has_are_refused_before_they_are_sent(slurm: Cluster) -> None:
    words = refused(slurm.plan(Sweep("true"), time="0:05:00", nodes=50))
    assert "50" in words
    assert "2" in words.partition(":")[2]


# ---- secrets and values ------------------------------------------------------------------------------


def test_a_retry_gets_the_secret_and_leaves_none(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "planted")
    code = "print('the key is', os.environ['MY_KEY']); sys.exit(not os.path.exists('fixed'))"
    run = slurm.launch(Sweep(program(code), {"x": [1, 2]}), time="0:05:00", secrets=["MY_KEY"]).wait(check=False, timeout=240)
    assert states(run) == ["FAILED", "FAILED"]
    Path("fixed").touch()
    run.retry([1]).wait(check=False, timeout=240)
    assert states(run) == ["FAILED", "COMPLETED"]
    assert str(run.logs(1, attempt=2)) == "the key is planted\n"
    wait_until(lambda: not list(Path(run.folder, "secrets").iterdir()))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    ["", " ", "-x", "--", "a b", "$(touch x)", "`id`", "*", "?", "~", "'", '"', "\\", "\n", "\r\n", "a'b\"c", "$HOME", "!!", "#", "{}", "\x01\x7f", "\x1b[0m", "é", "漢字", "\u2028", "%A", "[a]", "=", "\t", "&", ";", "|"]
)  # fmt: skip


@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXT, min_size=40, max_size=40))
def test_any_text_reaches_the_program_through_slurm(slurm: Cluster, program, texts: list[str]) -> None:
    code = "with open(os.environ['NEXA_RESULTS'], 'w') as f: f.write(json.dumps({'argv': sys.argv[1:]}) + '\\n')"
    python, script = program(code)
    sweep = Sweep([python, "-I", "-S", script], zipped={"text": texts})
    run = slurm.launch(sweep, time="0:05:00", again=True).wait(timeout=240)
    assert run.results()["argv"].tolist() == [["--text", text] for text in texts]
    assert json.loads(Path(run.folder, "plan.json").read_text())["id"] == run.id
