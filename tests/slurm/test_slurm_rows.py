"""Trials whose values lie beside the script, on a real Slurm."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from test_run import NASTY, random_text

from nexa_sdk import Cluster, Sweep
from nexa_sdk.scheduling.slurm import script

TELL = "with open(os.environ['NEXA_RESULTS'], 'w') as f: f.write(json.dumps({'argv': sys.argv[1:]}) + '\\n')"


@pytest.fixture(autouse=True)
def short_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limit, so that a small sweep's values lie beside its script."""
    monkeypatch.setattr(script, "LONGEST_TABLE", 100)


def test_any_text_beside_the_script_reaches_the_program_through_slurm(slurm: Cluster, program) -> None:
    rng = random.Random(20261)
    texts = NASTY + [random_text(rng) for _ in range(50 - len(NASTY))]
    rows = [{"text": text, "again": None if k % 3 == 0 else texts[-k], "on": k % 2 == 0} for k, text in enumerate(texts)]
    sweep = Sweep.from_trials(program(TELL), rows)
    plan = slurm.plan(sweep, time="0:05:00")
    text, files = plan.script, dict(plan.files)
    assert files
    run = plan.submit().wait(timeout=240)
    assert Path(run.folder, "job-0.sbatch").read_text() == text
    assert {path: Path(run.folder, path).read_bytes() for path in files} == files
    assert run.results()["argv"].tolist() == [sweep.argv(k)[2:] for k in range(len(sweep))]
    assert not Path("pwned").exists()


def test_rows_serve_several_arrays_and_a_retry(slurm: Cluster, program, tmp_path: Path) -> None:
    code = f"{TELL}\nsys.exit(sys.argv[2] == '7' and not os.path.exists({str(tmp_path / 'mended')!r}))"
    sweep = Sweep.from_trials(program(code), [{"k": k, "text": "it's " * 40} for k in range(12)])
    plan = slurm.plan(sweep, time="0:05:00")
    plan.arrays.size = 5
    run = plan.submit()
    run.wait(timeout=240, check=False)
    assert run.status()["state"].tolist() == ["COMPLETED"] * 7 + ["FAILED"] + ["COMPLETED"] * 4
    (tmp_path / "mended").touch()
    run.retry().wait(timeout=240)
    assert run.results()["argv"].tolist() == [sweep.argv(k)[2:] for k in range(12)]
