"""A cell on a real Slurm."""

from __future__ import annotations

import pytest

from nexa_sdk import Cluster
from nexa_sdk.errors import CellFailed


def test_a_cell_with_its_gpu_comes_back_and_is_executed_anew(slurm: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    def launch():
        return slurm.remote(
            "import os\nprint('on', os.environ['SLURMD_NODENAME'])\ngpus = os.environ['CUDA_VISIBLE_DEVICES']\ny = sum(x)",
            inputs={"x": range(5)},
            outputs=["y", "gpus"],
            time="0:05:00",
            gpus=1,
        )

    first = launch()
    found = first.result(timeout=240)
    assert found["y"] == 10
    assert len(found["gpus"].split(",")) == 1
    assert capsys.readouterr().out.startswith("on ")
    second = launch()
    assert second.id != first.id
    assert second.result(timeout=240)["y"] == 10


def test_an_error_and_a_job_that_is_cancelled(slurm: Cluster) -> None:
    failed = slurm.remote("1 / 0", time="0:05:00")
    with pytest.raises(CellFailed, match="ZeroDivisionError: division by zero"):
        failed.result(timeout=240)
    waits = slurm.remote("import time; time.sleep(280)", time="0:05:00")
    waits.cancel()
    with pytest.raises(CellFailed, match="ended before its code did: it is CANCELLED"):
        waits.result(timeout=240)
