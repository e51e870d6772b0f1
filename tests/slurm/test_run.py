"""The main job on a real Slurm with accounting: the same code, with another cluster's name."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Job, RunFailed, Sweep, attach, runs
from nexa_sdk.errors import JobError, PreflightFailed, RunNotFound, SubmissionRejected
from nexa_sdk.journal import Journal
from nexa_sdk.run import Run

pytestmark = pytest.mark.usefixtures("slurm")


def states(run: Run) -> list[str]:
    return run.status()["state"].tolist()


def raw(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_a_sweep_comes_back_as_one_dataframe(slurm: Cluster, program) -> None:
    code = """
        lr, seed = float(sys.argv[2]), int(sys.argv[4])
        for epoch in range(3):
            with open(os.environ["NEXA_RESULTS"], "a") as f:
                f.write(json.dumps({"epoch": epoch, "loss": lr * seed + epoch, "seed": "reported"}) + "\\n")
        print("gpu", os.environ["CUDA_VISIBLE_DEVICES"])
    """
    sweep = Sweep(program(code), {"lr": [1e-3, 1e-4], "seed": range(3)})
    run = slurm.launch(sweep, time="0:05:00", gpus=1, throttle=4).wait(timeout=240)
    table = run.results()
    assert len(table) == 6
    assert table["lr"].tolist() == [1e-3] * 3 + [1e-4] * 3
    assert table["state"].tolist() == ["COMPLETED"] * 6
    assert table["exit_code"].tolist() == [0] * 6
    assert table["loss"].tolist() == [trial["lr"] * trial["seed"] + 2 for trial in sweep]
    assert table["result.seed"].tolist() == ["reported"] * 6, "a reported key does not hide a parameter"
    assert set(table["node"]) <= {"n1", "n2"}
    every = run.results(every_line=True)
    assert len(every) == 18
    assert every.loc[4, "epoch"].tolist() == [0, 1, 2]
    assert str(run.logs(5)).startswith("gpu ")
    # what sacct has, some seconds later, is what we show
    ask = ("sacct", "-n", "-P", "-X", "-j", run.status()["job"][0].partition("_")[0], "--format=State")
    wait_until(lambda: raw(*ask).split() == ["COMPLETED"] * 6)


def test_what_is_previewed_is_what_is_submitted(slurm: Cluster, program) -> None:
    plan = slurm.plan(Sweep(program("pass"), {"x": ["a b", "$HOME"]}), time="0:05:00")
    previewed = plan.script
    run = plan.submit()
    assert Path(run.folder, "job-0.sbatch").read_text() == previewed
    job = run.status()["job"][0].partition("_")[0]
    raw("scontrol", "write", "batch_script", job, "held-by-slurm.sh")
    assert Path("held-by-slurm.sh").read_text().rstrip("\0") == previewed
    run.wait()


def test_submitting_a_plan_twice_is_one_run(slurm: Cluster, program) -> None:
    plan = slurm.plan(Sweep(program("time.sleep(1)")), time="0:05:00")
    first, second = plan.submit(), plan.submit()
    assert first.id == second.id == plan.id
    assert plan.submit(again=True).id == plan.id
    assert raw("squeue", "-h", "-t", "all", "-n", plan.tokens[0], "-o", "%F").split() == [first.status()["job"][0].partition("_")[0]]
    first.wait()


def test_run_all_launches_nothing_twice(slurm: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    command = program("while not os.path.exists('go'): time.sleep(0.05)")

    def cell(**how: bool) -> Run:
        return slurm.launch(Sweep(command, {"x": [1, 2]}), time="0:05:00", **how)

    run = cell()
    assert cell().id == run.id
    assert "is the same in script and code, and is not finished" in capsys.readouterr().out
    Path("go").touch()
    run.wait()
    assert cell().id == run.id
    assert "is completed. again=True (--again) runs it anew" in capsys.readouterr().out
    Path("train.py").write_text("print('edited')")
    edited = cell()
    assert edited.id != run.id
    assert cell(again=True).id not in (edited.id, run.id)
    edited.wait()


def test_a_failed_run_is_launched_anew(slurm: Cluster, program) -> None:
    command = program("sys.exit(1)")
    run = slurm.launch(Sweep(command), time="0:05:00").wait(check=False)
    again = slurm.launch(Sweep(command), time="0:05:00")
    assert again.id != run.id
    again.wait(check=False)


def test_retry_runs_the_failed_trials_alone_and_keeps_every_attempt(slurm: Cluster, program) -> None:
    code = """
        x = int(sys.argv[2])
        print("attempt of", x)
        if x % 2 and not os.path.exists(f"fixed"): sys.exit(5)
    """
    run = slurm.launch(Sweep(program(code), {"x": range(4)}), time="0:05:00")
    with pytest.raises(RunFailed, match=r"2 of 4 trials.*trial 1 is FAILED with exit code 5") as caught:
        run.wait(timeout=240)
    assert caught.value.run is run
    Path("fixed").touch()
    run.retry().wait(timeout=240)
    attempts = run.attempts()
    assert attempts.loc[1, "state"].tolist() == ["FAILED", "COMPLETED"]
    assert attempts.loc[0, "state"].tolist() == ["COMPLETED"]
    assert len(attempts) == 6
    assert str(run.logs(3, attempt=1)) == str(run.logs(3, attempt=2)) == "attempt of 3\n"
    assert run.results()["x"].tolist() == [0, 1, 2, 3]
    assert attach(run.id).status()["attempt"].tolist() == [1, 2, 1, 2]


def test_exit_codes_are_the_programs_own(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("sys.exit(int(sys.argv[2]))"), {"code": [0, 1, 127, 137, 255]}), time="0:05:00").wait(
        check=False, timeout=240
    )
    assert run.status()["exit_code"].tolist() == [0, 1, 127, 137, 255]
    assert states(run) == ["COMPLETED", *["FAILED"] * 4]


def test_a_program_killed_by_a_signal(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("os.kill(os.getpid(), 9)")), time="0:05:00").wait(check=False, timeout=240)
    assert run.status()["exit_code"].tolist() == [137]


def test_cancel_some_pending_ones_then_all(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("time.sleep(300)"), {"x": range(6)}), time="0:10:00", throttle=2)
    wait_until(lambda: states(run)[:2] == ["RUNNING"] * 2)
    run.cancel([3, 4])
    wait_until(lambda: states(run) == ["RUNNING", "RUNNING", "PENDING", "CANCELLED", "CANCELLED", "PENDING"])
    # Slurm itself remembers nothing of the two
    assert "_3" not in raw("squeue", "-h", "-r", "-t", "all", "-n", f"{run.id}-0", "-o", "%i")
    run.cancel().wait(check=False, timeout=240)
    assert states(run) == ["CANCELLED"] * 6


def test_a_cancel_sends_one_term_and_the_program_may_end_well(slurm: Cluster, program, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"""
        def stop(number, frame):
            with open({str(seen)!r}, "a") as f: print("TERM", file=f)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        for _ in range(3000):
            time.sleep(0.1)
            if os.path.exists({str(seen)!r}): time.sleep(1); break
    """
    run = slurm.launch(Sweep(program(code)), time="0:05:00")
    wait_until(lambda: "ready" in str(run.logs(0)))
    run.cancel().wait(check=False, timeout=240)
    assert states(run) == ["CANCELLED"]
    assert seen.read_text() == "TERM\n"


@pytest.mark.parametrize("trials", [None, [0]])
def test_a_cancelled_program_that_ignores_term_is_killed(slurm: Cluster, program, trials: list[int] | None) -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); open('pid-' + sys.argv[2], 'w').write(str(os.getpid())); time.sleep(300)"
    run = slurm.launch(Sweep(program(code), {"x": [0, 1]}), time="0:10:00", throttle=1)
    wait_until(lambda: Path("pid-0").exists() and Path("pid-0").read_text())
    run.cancel(trials)
    wait_until(lambda: not Path("/proc", Path("pid-0").read_text()).exists())
    run.cancel().wait(check=False, timeout=240)
    assert states(run) == ["CANCELLED"] * 2


def test_a_signal_before_the_limit_reaches_the_program(slurm: Cluster, program) -> None:
    code = """
        signal.signal(signal.SIGUSR1, lambda *_: (print("saved"), sys.exit(0)))
        time.sleep(300)
    """
    run = slurm.launch(Sweep(program(code)), time="0:02:00", signal="USR1@80")
    run.wait(timeout=240)
    assert "saved" in str(run.logs(0))


@pytest.mark.full
def test_a_time_limit_ends_a_trial_as_timeout(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("time.sleep(300)")), time="0:01:00").wait(check=False, timeout=150)
    assert states(run) == ["TIMEOUT"]


def test_another_process_finds_the_run_of_a_killed_one(slurm: Cluster, program) -> None:
    program("time.sleep(3); print('done')")
    code = (
        "import os, signal\nfrom nexa_sdk import *\n"
        f"run = Cluster('sandbox').launch(Sweep([{sys.executable!r}, 'train.py'], {{'x': [1, 2]}}), time='0:05:00')\n"
        "print(run.id, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = attach(done.stdout.strip()[:-2])  # the beginning is enough
    assert found.id in runs().index
    found.wait(timeout=240)
    assert "done" in str(found.logs(1))
    assert runs().loc[found.id, "state"] == "COMPLETED"


def test_a_submission_whose_confirmation_was_lost_is_found_by_its_token(slurm: Cluster, program) -> None:
    plan = slurm.plan(Sweep(program("pass"), {"x": [1, 2]}), time="0:05:00")
    run = plan.submit()
    before = run.status()["job"].tolist()
    Journal().settle(plan.tokens[0], "intent", job_id=None)  # as if the kernel had died before the answer
    again = attach(run.id)
    again.wait(timeout=240)
    assert again.status()["job"].tolist() == before


def test_a_forgotten_job_is_known_by_accounting_and_by_its_records(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("sys.exit(int(sys.argv[2]))"), {"code": [0, 4]}), time="0:05:00")
    wait_until(lambda: len(list(Path(run.folder, "tasks").glob("*.json"))) == 2)
    found = attach(run.id)
    found._scheduler.config()["AccountingStorageType"] = "accounting_storage/none"
    found.wait(check=False, timeout=240)
    assert found.status()["exit_code"].tolist() == [0, 4]
    run.wait(check=False, timeout=240)
    assert attach(run.id).status()["state"].tolist() == ["COMPLETED", "FAILED"]


def test_awaiting_a_run(slurm: Cluster, program) -> None:
    run = slurm.launch(Sweep(program("time.sleep(1)"), {"x": [1, 2]}), time="0:05:00")

    async def main() -> tuple[Run, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.05)

        ticking = asyncio.create_task(tick())
        done = await run
        ticking.cancel()
        return done, ticks

    done, ticks = asyncio.run(main())
    assert done is run
    assert run.is_finished
    assert ticks > 5, "the loop went on meanwhile"


def test_following_a_log_as_it_grows(slurm: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    run = slurm.launch(Sweep(program("for k in range(4): print('line', k, flush=True); time.sleep(0.5)")), time="0:05:00")
    run.logs(0, follow=True)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("line")] == [f"line {k}" for k in range(4)]


def test_following_the_logs_of_several_trials(slurm: Cluster, program, capsys: pytest.CaptureFixture[str]) -> None:
    code = "for k in range(3): print('line', k, 'of', sys.argv[2], flush=True); time.sleep(0.4)\nsys.stdout.write('end')"
    run = slurm.launch(Sweep(program(code), {"x": ["a", "b"]}), time="0:05:00")
    run.logs([0, 1], follow=True)
    told = capsys.readouterr().out.splitlines()
    for trial, name in enumerate("ab"):
        expected = [*(f"{trial} | line {k} of {name}" for k in range(3)), f"{trial} | end"]
        assert [line for line in told if line.startswith(f"{trial} ")] == expected
        assert [line for line in run.logs([0, 1]).splitlines() if line.startswith(f"{trial} ")] == expected


def test_a_throttle_holds_over_several_arrays_and_in_a_retry(slurm: Cluster, program) -> None:
    plan = slurm.plan(Sweep(program("time.sleep(280); sys.exit(1)"), {"a": range(1005)}), time="0:05:00", throttle=2)
    run = plan.submit()
    try:
        wait_until(lambda: states(run).count("RUNNING") == 2)
        shown = raw("squeue", "-h", "-n", plan.tokens[1], "-o", "%E")
        assert f"afterany:{run.status()['job'][0].partition('_')[0]}" in shown
        run.cancel(range(1001))
        wait_until(lambda: states(run).count("RUNNING") == 2 and states(run)[0] == "CANCELLED")
    finally:
        run.cancel()
    wait_until(lambda: states(run) == ["CANCELLED"] * 1005)
    run.retry([0, 1, 2, 3])
    try:
        wait_until(lambda: "RUNNING" in states(run))
        assert raw("squeue", "-h", "-n", f"{run.id}-2", "-o", "%K").split()[0].endswith("%2")
    finally:
        run.cancel()


def test_more_trials_than_an_array_may_have(slurm: Cluster) -> None:
    sweep = Sweep("true", {"a": range(40), "b": range(60)})
    plan = slurm.plan(sweep, time="0:05:00")
    assert [list(chunk) for chunk in plan.arrays] == [[0, 1001], [1001, 1001], [2002, 398]]
    assert [script.count("--array=0-") for script in plan.scripts] == [1, 1, 1]
    assert "NEXA_TRIAL=$((2002 + SLURM_ARRAY_TASK_ID))" in plan.scripts[2]
    run = plan.submit()
    try:
        table = run.status()
        assert len(table) == 2400
        assert table["job"].str.partition("_")[0].nunique() == 3
    finally:
        run.cancel()
    wait_until(lambda: set(states(run)) <= {"CANCELLED", "COMPLETED"})


# ---- any text as a value -----------------------------------------------------------------------

NASTY = [
    "",
    " ",
    "a b",
    "-x",
    "--",
    "$(touch pwned)",
    "`id`",
    "*",
    "~",
    "'",
    '"',
    "\\",
    "\n",
    "a\r\nb",
    "\t",
    "$HOME",
    "!!",
    "#x",
    "{}",
    "\x01",
    "\x7f",
    "é漢字🙂",
    "\u2028",
    "%j %A",
    "a'b\"c$d`e\\f",
]


def random_text(rng: random.Random) -> str:
    return "".join(
        rng.choice([chr(rng.randrange(1, 0xD800)), rng.choice(NASTY), chr(rng.randrange(0xE000, 0x110000))])
        for _ in range(rng.randrange(12))
    )


def test_any_text_reaches_the_program_through_slurm(slurm: Cluster, program) -> None:
    rng = random.Random(20260)
    values = NASTY + [random_text(rng) for _ in range(60 - len(NASTY))]
    code = "with open(os.environ['NEXA_RESULTS'], 'w') as f: f.write(json.dumps({'argv': sys.argv[1:]}) + '\\n')"
    sweep = Sweep(program(code), zipped={"text": values, "again": values[::-1]})
    run = slurm.launch(sweep, time="0:05:00").wait(timeout=240)
    received = run.results()["argv"].tolist()
    assert received == [["--text", a, "--again", b] for a, b in zip(values, values[::-1], strict=True)]
    assert not Path("pwned").exists()


# ---- what is wrong is said before anything is sent -----------------------------------------------


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"partition": "gpuu"}, "partition: there is no partition 'gpuu'; did you mean 'gpu'"),
        ({"partition": "low", "time": "3-00:00:00"}, "walltime: 3-00:00:00 is over the partition's limit of 1-00:00:00"),
        ({"gpus": 1, "gpu_type": "a100"}, "GPUs: there is no GPU type 'a100' here; .*h100"),
        ({"gpus_per_node": 9}, "gpus_per_node=9, but no node has more than 4"),
        ({"workdir": "/no/such/place"}, "working directory: /no/such/place is no directory"),
        ({"venv": "/no/venv"}, "virtual environment: /no/venv has no bin/activate"),
    ],
)
def test_what_can_not_run_is_refused_before_it_is_sent(slurm: Cluster, program, job: dict, words: str) -> None:
    before = set(raw("squeue", "-h", "-t", "all", "-o", "%i").split())
    with pytest.raises(PreflightFailed, match=words):
        slurm.launch(Sweep(program("pass")), **{"time": "0:05:00", **job})
    assert set(raw("squeue", "-h", "-t", "all", "-o", "%i").split()) <= before, "others may be forgotten meanwhile"
    assert runs().empty


@pytest.mark.parametrize(
    ("command", "words"), [("no-such-program", "there is no program 'no-such-program'"), ("python missing.py", "there is no missing.py in")]
)
def test_a_program_that_is_not_there(slurm: Cluster, command: str, words: str) -> None:
    with pytest.raises(PreflightFailed, match=words):
        slurm.launch(Sweep(command), time="0:05:00")


def test_sbatchs_own_words_are_shown_when_it_refuses(slurm: Cluster) -> None:
    with pytest.raises(SubmissionRejected, match="sbatch refused .*Invalid generic resource"):
        slurm.launch(Sweep("true"), time="0:05:00", options={"gres": "nosuch:1"})
    assert runs()["state"].tolist() == ["REJECTED"]
    with pytest.raises(SubmissionRejected, match="unrecognized option"):
        slurm.launch(Sweep("true"), time="0:05:00", options={"no-such-option": True})


def test_a_run_folder_that_can_not_be_written(tmp_path: Path, slurm: Cluster) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SubmissionRejected, match=r"can't be written: .*Choose another with Cluster\(…, runs="):
        Cluster("sandbox", runs=tmp_path / "file").launch(Sweep("true"), time="0:05:00")


def test_a_failing_pre_command_fails_the_trial_and_is_named(slurm: Cluster) -> None:
    run = slurm.launch(Sweep("true"), time="0:05:00", pre_commands=["ls /nowhere-at-all"]).wait(check=False, timeout=240)
    assert run.status()["exit_code"].tolist() == [2]
    assert "this pre-command failed with exit status 2: ls /nowhere-at-all" in str(run.logs(0))


def test_a_run_folder_that_the_nodes_do_not_see(slurm: Cluster) -> None:
    run = slurm.launch(Sweep("true"), time="0:05:00", options={"hold": True})
    Path(run.folder, "tasks").rmdir()
    raw("scontrol", "release", run.status()["job"][0].partition("_")[0])
    run.wait(check=False, timeout=240)
    wait_until(lambda: run.status()["exit_code"].fillna(-1).tolist() == [78])  # accounting is some seconds late
    table = run.status()
    assert table["reason"].tolist() == [f"it left no record: does its node see {run.folder}?"]
    assert "is not visible on" in str(run.logs(0))
    doubts = Cluster("slurm", runs="/tmp/nexa-runs").plan(Sweep("true"), time="0:05:00").preflight().set_index("what")
    assert doubts.loc["run folder", "verdict"] == "warning"


def test_preflight_tells_everything_and_when_it_would_start(slurm: Cluster, program) -> None:
    checks = slurm.plan(Sweep(program("pass")), time="0:05:00", gpus=1).preflight().set_index("what")
    assert (
        checks.loc[["working directory", "program", "script", "partition", "walltime", "GPUs", "expected start"], "verdict"].tolist()
        == ["ok"] * 7
    )
    assert " on n" in checks.loc["expected start", "words"]
    impossible = slurm.plan(Sweep(program("pass")), time="0:05:00", mem="900G").preflight().set_index("what")
    assert "Requested node configuration is not available" in impossible.loc["expected start", "words"]


def test_no_slurm_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    from nexa_sdk.errors import ClusterError

    with pytest.raises(ClusterError, match=r"no Slurm here: .*Cluster\('local'\)"):
        Cluster("slurm").launch(Sweep("/bin/true"), time="0:05:00")


def test_an_unknown_run() -> None:
    with pytest.raises(RunNotFound, match="there is no run 'nobody'"):
        attach("nobody")


# ---- secrets -------------------------------------------------------------------------------------


def test_a_secret_reaches_the_program_and_stands_nowhere_else(
    slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path, capsys
) -> None:
    planted = "planted-5f2c'\"$x"
    monkeypatch.setenv("WANDB_API_KEY", planted)
    Path(".env").write_text('HF_TOKEN="from-dotenv-77aa"\n')
    code = """
        import hashlib
        print(hashlib.sha256(os.environ["WANDB_API_KEY"].encode()).hexdigest(), hashlib.sha256(os.environ["HF_TOKEN"].encode()).hexdigest(), flush=True)
        while not os.path.exists("go"): time.sleep(0.1)
    """
    sweep, job = Sweep(program(code), {"x": range(3)}), Job(time="0:05:00", throttle=2, secrets=["WANDB_API_KEY", "HF_TOKEN"])
    plan = slurm.plan(sweep, job)
    run = plan.submit()
    wait_until(lambda: states(run)[:2] == ["RUNNING"] * 2)
    (secret,) = Path(run.folder, "secrets").iterdir()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    job_id = run.status()["job"][0].partition("_")[0]
    places = [
        plan.script, repr(plan), str(plan._repr_mimebundle_()), repr(job), repr(run), run._repr_html_(), json.dumps(run.plan),
        raw("scontrol", "show", "job", job_id), raw("squeue", "-o", "%all"),
        raw("sacct", "-j", job_id, "-o", "all", "-P"),
        raw("sacct", "-j", job_id, "--batch-script"), raw("sacct", "-j", job_id, "--env-vars"),
        *(raw("scontrol", "write", "batch_script", f"{job_id}_{k}", "-") for k in (0, 1)),
    ]  # fmt: skip
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            places.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
        except OSError:
            continue
    Path("go").touch()
    run.wait(timeout=240)
    import hashlib

    assert str(run.logs(2)).split() == [hashlib.sha256(text.encode()).hexdigest() for text in (planted, "from-dotenv-77aa")]
    wait_until(lambda: not list(Path(run.folder, "secrets").iterdir()))
    places += [path.read_text(errors="replace") for folder in (home, Path(run.folder)) for path in folder.rglob("*") if path.is_file()]
    places.append(capsys.readouterr().out)
    for place in places:
        assert "planted-5f2c" not in place
        assert "from-dotenv" not in place


def test_the_last_task_takes_the_secrets_away_while_nobody_looks(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "planted")
    run = slurm.launch(Sweep(program("time.sleep(float(sys.argv[2]))"), {"x": [0, 1]}), time="0:05:00", secrets=["MY_KEY"])
    wait_until(lambda: len(list(Path(run.folder, "tasks").glob("*.json"))) == 2)
    wait_until(lambda: not list(Path(run.folder, "secrets").iterdir()))


def test_cancelling_pending_trials_takes_the_secrets_away(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "planted")
    run = slurm.launch(Sweep(program("time.sleep(100)"), {"x": [0, 1]}), time="0:05:00", throttle=1, secrets="MY_KEY")
    run.cancel().wait(check=False, timeout=240)
    assert not list(Path(run.folder, "secrets").iterdir())


def test_a_secret_that_is_nowhere(slurm: Cluster) -> None:
    with pytest.raises((JobError, PreflightFailed), match="NO_SUCH_KEY is neither in the environment nor in .env"):
        slurm.launch(Sweep("true"), time="0:05:00", secrets=["NO_SUCH_KEY"])
    assert runs().empty


# ---- surroundings --------------------------------------------------------------------------------


def test_the_notebooks_own_job_does_not_leak(slurm: Cluster, program, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "999",
        "SBATCH_PARTITION": "nosuch",
        "SBATCH_EXPORT": "NONE",
        "SLURM_CLUSTERS": "other",
        "MY_OWN": "leak",
        "SQUEUE_FORMAT": "%i",
    }.items():
        monkeypatch.setenv(name, value)
    run = slurm.launch(Sweep(program("print(json.dumps(dict(os.environ)))")), time="0:05:00").wait(timeout=240)
    seen = json.loads(str(run.logs(0)))
    assert seen["SLURM_JOB_PARTITION"] == "gpu"
    assert seen["SLURM_JOB_ID"] != "999"
    assert "MY_OWN" not in seen
    assert seen["HOME"] == os.environ["HOME"]


def test_every_directive_of_a_job_is_one_that_slurm_takes(slurm: Cluster) -> None:
    job = Job(
        time="1-00:00:00", partition="gpu", nodes=2, ntasks_per_node=2, cpus_per_task=2, gpus_per_node=2, gpu_type="h100", mem="2G",
        throttle=1, nodelist=["n1", "n2"], mail="me@example.org", signal="USR1@60", requeue=False, exclusive=True, options={"nice": 100, "begin": "now+1hour", "spread-job": True},
    )  # fmt: skip
    run = slurm.launch(Sweep("true", {"x": [1, 2]}), job)
    shown = raw("scontrol", "show", "job", run.status()["job"][0].partition("_")[0])
    run.cancel()
    for words in (
        "Partition=gpu",
        "NumNodes=2",
        "TimeLimit=1-00:00:00",
        "CPUs/Task=2",
        "ArrayTaskThrottle=1",
        "Requeue=0",
        "ReqNodeList=n[1-2]",
        "TresPerNode=gres:gpu:h100:2",
        "MinMemoryNode=2G",
    ):
        assert words in shown, shown


def test_a_virtual_environment_and_a_python_of_its_own(slurm: Cluster, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v e n v"], check=True)
    sweep = Sweep(["python", "-c", "import sys; print(sys.prefix)"])
    for job in (Job(time="0:05:00", venv=str(tmp_path / "v e n v")), Job(time="0:05:00", python=str(tmp_path / "v e n v/bin/python"))):
        assert str(slurm.launch(sweep, job).wait(timeout=240).logs(0)).strip() == str(tmp_path / "v e n v")
    assert str(slurm.launch(sweep, time="0:05:00").wait(timeout=240).logs(0)).strip() == sys.prefix


def test_a_hostile_folder(slurm: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "a b'c$(x)#100%é"
    folder.mkdir()
    (folder / "train.py").write_text("import os; print(os.getcwd())")
    run = Cluster("sandbox", runs=folder).launch(Sweep("python train.py"), time="0:05:00", workdir=folder).wait(timeout=240)
    assert str(run.logs(0)).strip() == str(folder)


# ---- without accounting --------------------------------------------------------------------------


def test_without_accounting(forgetful: Cluster, program) -> None:
    run = forgetful.launch(Sweep(program("sys.exit(int(sys.argv[2]))"), {"code": [0, 6]}), time="0:05:00")
    run.wait(check=False, timeout=240)
    assert run.status()["exit_code"].tolist() == [0, 6]
    second = forgetful.launch(Sweep(program("sys.exit(int(sys.argv[2]))"), {"code": [0, 9]}), time="0:05:00")
    wait_until(lambda: not raw("squeue", "-h", "-t", "all", "-n", f"{second.id}-0"), 60)  # gone from memory before anyone looked
    assert attach(second.id).status()["state"].tolist() == ["COMPLETED", "FAILED"]
    assert second.status()["exit_code"].tolist() == [0, 9]
