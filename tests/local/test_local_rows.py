"""Trials whose values lie beside the script, on the embedded cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexa_sdk import Cluster, Sweep
from nexa_sdk.scheduling.slurm import script

TELL = "with open(os.environ['NEXA_RESULTS'], 'w') as f: f.write(json.dumps({'argv': sys.argv[1:]}) + '\\n')"
NASTY = ["", " ", "a b", "-x", "$(touch pwned)", "`id`", "*", "~", "'", '"', "\\", "\n", "a\r\nb", "\t", "$HOME", "!!", "#x", "\x01", "\x7f", "é漢字🙂", "\u2028", "%j %A", "a'b\"c$d`e\\f"]  # fmt: skip


@pytest.fixture(autouse=True)
def short_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limit, so that a small sweep's values lie beside its script."""
    monkeypatch.setattr(script, "LONGEST_TABLE", 100)


def test_what_is_previewed_is_what_is_laid_down_and_run(local: Cluster, program) -> None:
    rows = [{"text": text, "again": None if k % 3 else text, "on": bool(k % 2)} for k, text in enumerate(NASTY)]
    sweep = Sweep.from_trials(program(TELL), rows)
    plan = local.plan(sweep, time="0:05:00")
    text, files = plan.script, dict(plan.files)
    assert list(files) == ["trials/0.sh"]
    run = plan.submit().wait(timeout=240)
    assert Path(run.folder, "job-0.sbatch").read_text() == text
    assert {path: Path(run.folder, path).read_bytes() for path in files} == files
    assert run.results()["argv"].tolist() == [sweep.argv(k)[2:] for k in range(len(sweep))]
    assert not Path("pwned").exists()
    assert json.loads(Path(run.folder, "plan.json").read_text())["id"] == run.id


def test_a_retry_reads_the_rows_of_the_trials_that_failed(local: Cluster, program, tmp_path: Path) -> None:
    code = f"{TELL}\nsys.exit(sys.argv[1] == '--bad' and not os.path.exists({str(tmp_path / 'mended')!r}))"
    rows = [{"bad": k % 2 == 1, "k": k, "text": "x" * 40} for k in range(4)]
    sweep = Sweep.from_trials(program(code), rows)
    run = local.plan(sweep, time="0:05:00").submit().wait(timeout=240, check=False)
    assert run.status()["state"].tolist() == ["COMPLETED", "FAILED", "COMPLETED", "FAILED"]
    (tmp_path / "mended").touch()
    run.retry().wait(timeout=240)
    assert run.results()["argv"][3] == ["--bad", "--k", "3", "--text", "x" * 40]
