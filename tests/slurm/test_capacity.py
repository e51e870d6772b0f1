"""What a real Slurm has, and who waits for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from until import wait_until

from nexa_sdk import Cluster, Sweep
from nexa_sdk.capacity import partition_lines
from nexa_sdk.scheduling.slurm.nodes import read_nodes, read_queue

WAITS = """
    deadline = time.time() + 500
    while not os.path.exists("go") and time.time() < deadline:
        time.sleep(0.05)
"""


def test_gpus_and_cores_that_a_run_takes_are_not_free(slurm: Cluster, program) -> None:
    # other tests' jobs may still be ending
    wait_until(lambda: (nodes := slurm.nodes())["gpus_free"].sum() == 8 and (nodes["cpus_free"] == nodes["cpus"]).all())
    before = slurm.nodes()
    assert before["gpus"].tolist() == [4, 4]
    assert before["gpus_free"].tolist() == [4, 4]
    assert set(before["gpu_type"]) == {"h100"}
    assert (before["cpus_free"] == before["cpus"]).all()
    cores = before["cpus"].sum()
    lines = partition_lines(slurm)
    assert list(lines) == slurm.partitions()
    assert lines["gpu"] == f"{cores} of {cores} cores free · 8 of 8 h100 GPUs free"
    run = slurm.launch(Sweep(program(WAITS), {"x": list(range(12))}), time="0:10:00", gpus=1)
    try:
        deadline = time.monotonic() + 240
        while run.status()["state"].tolist().count("RUNNING") < 8:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        nodes = slurm.nodes()
        assert nodes["gpus_free"].sum() == 0
        assert nodes["cpus_free"].sum() == nodes["cpus"].sum() - 8
        assert (nodes["mem_free"] <= nodes["mem"]).all()
        assert "0 of 8 h100 GPUs free" in partition_lines(slurm)["gpu"]
        mine, all_users = slurm.queue(everyone=False), slurm.queue()
        assert mine.index.tolist() == all_users.index.tolist()
        of_run = mine[mine["run"] == run.id]
        assert of_run["state"].tolist().count("RUNNING") == 8
        waiting = of_run[of_run["state"] == "PENDING"]
        assert waiting.index.tolist() == [f"{run.status()['job'][0].partition('_')[0]}_[8-11]"]
        while slurm.queue().loc[waiting.index[0], "reason"] not in ("(Resources)", "(Priority)"):
            assert time.monotonic() < deadline, slurm.queue()
            time.sleep(0.5)
    finally:
        Path("go").touch()
        run.wait(timeout=240, progress=False)


def test_the_embedded_cluster_is_this_machine(local: Cluster, program) -> None:
    (node,) = local.nodes().to_dict("records")
    assert 0 <= node["cpus_free"] <= node["cpus"]
    assert local.queue().empty


@pytest.mark.parametrize(
    ("line", "free"),
    [
        ("n1|gpu*|mixed|2/14/0/16|64000|8000|gpu:h100:8|gpu:h100:3(IDX:0-2)|", (14, 5, 56000)),
        ("n1|gpu|down*|0/0/16/16|64000|0|gpu:h100:8|gpu:h100:0(IDX:N/A)|", (0, 0, 0)),
        ("n1|gpu|drained|0/16/0/16|64000|0|gpu:8|gpu:0|", (0, 0, 0)),
        ("n1|cpu|idle|0/16/0/16|64000|N/A|(null)|gpu:0|", (16, 0, None)),
        ("n1|a|idle|0/16/0/16|1|0|gpu:a100:2(S:0),gpu:v100:2,shard:8|gpu:a100:1(IDX:0),gpu:v100:0(IDX:N/A),shard:0|", (16, 3, 1)),
    ],
)
def test_lines_of_sinfo(line, free):
    (node,) = read_nodes(f"{line}\n{line.replace('gpu*|', 'other|')}\n")
    assert (node.cpus_free, node.gpus_free, node.mem_free) == free


def test_a_jobs_name_may_hold_anything():
    (job,) = read_queue("7_[3-9]|ada|gpu|PENDING|1|0:00|2:00:00|(Priority)|a|b c\nhalf|\n")
    assert (job.job, job.name, job.reason) == ("7_[3-9]", "a|b c", "(Priority)")
