"""A Prometheus instead of an agent: a real HTTP server that speaks its API, with recorded answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from nexa_sdk import Cluster
from nexa_sdk.errors import ClusterError, ProfileError, Unreachable
from nexa_sdk.monitoring.frames import frame
from nexa_sdk.monitoring.prometheus import Prometheus, Wanted, expand_nodes
from nexa_sdk.profiles import profiles

BEGIN = 1_700_000_000


def curve(name: str, gpu: int, value: str, *, node: str = "n1.cluster.example", points: int = 5, **labels: str) -> dict:
    metric = {
        "__name__": name,
        "gpu": str(gpu),
        "UUID": f"GPU-{node}-{gpu}",
        "modelName": "NVIDIA H100",
        "Hostname": node,
        "instance": "10.0.0.1:9400",
        **labels,
    }
    return {"metric": metric, "values": [[BEGIN + 15 * k, value] for k in range(1, points + 1)]}


GPUS = [
    curve("DCGM_FI_DEV_GPU_UTIL", 0, "97"),
    curve("DCGM_FI_PROF_SM_ACTIVE", 0, "0.42"),
    curve("DCGM_FI_DEV_FB_USED", 0, "20480"),
    curve("DCGM_FI_DEV_FB_FREE", 0, "60928"),
    curve("DCGM_FI_DEV_FB_RESERVED", 0, "512"),
    curve("DCGM_FI_DEV_POWER_USAGE", 0, "412.5"),
    curve("DCGM_FI_DEV_GPU_UTIL", 1, "0"),
    curve("DCGM_FI_DEV_GPU_TEMP", 1, "NaN"),
    curve("DCGM_FI_DEV_GPU_UTIL", 0, "55", node="n2"),
]
NODES = [{"metric": {"instance": "n1:9100", "field": "cpu"}, "values": [[BEGIN + 15 * k, "12.5"] for k in range(1, 6)]}]


class Server:
    """Speaks ``/api/v1/query_range``."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.answers: list[tuple[int, object]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                server.asked.append({"path": self.path, **{name: values[0] for name, values in form.items()}})
                code, told = server.answers.pop(0) if server.answers else (200, server.result(form["query"][0]))
                body = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @staticmethod
    def result(query: str) -> dict:
        return {"status": "success", "data": {"resultType": "matrix", "result": GPUS if "DCGM" in query else NODES}}


@pytest.fixture
def server() -> Iterator[Server]:
    there = Server()
    yield there
    there.http.shutdown()
    there.http.server_close()


def test_a_tasks_curves_come_by_two_requests(server):
    found = Prometheus(server.address).series([Wanted("7_0", "n1", BEGIN, BEGIN + 100), Wanted("7_1", "n2", BEGIN, BEGIN + 100)])
    assert [asked["path"] for asked in server.asked] == ["/api/v1/query_range"] * 2
    assert 'Hostname=~"(n1|n2)([.].*)?"' in server.asked[0]["query"]
    table = frame(found)
    first = table[(table["task"] == "7_0") & (table["gpu"] == 0)].iloc[0]
    assert (first["gpu_busy"], first["sm_active"], first["gpu_memory"], first["gpu_memory_total"]) == (97, 42, 20480, 81920)
    assert (first["gpu_power"], first["cpu"], first["seconds"]) == (412.5, 12.5, 15)
    other = table[(table["task"] == "7_0") & (table["gpu"] == 1)]
    assert (other["gpu_busy"] == 0).all()
    assert other["gpu_temperature"].isna().all()
    assert set(table[table["task"] == "7_1"]["gpu_busy"]) == {55}


def test_only_the_time_of_the_task_counts(server):
    (one,) = Prometheus(server.address).series([Wanted("7_0", "n1", BEGIN + 20, BEGIN + 50)])
    assert [round(at - BEGIN) for at in one.time()] == [30, 45]


def test_gpus_whose_job_the_exporter_knows_are_that_jobs_alone(server, monkeypatch):
    mine = [curve("DCGM_FI_DEV_GPU_UTIL", 0, "10", hpc_job="7"), curve("DCGM_FI_DEV_GPU_UTIL", 1, "90", hpc_job="8")]
    server.answers = [(200, {"status": "success", "data": {"result": mine}})]
    (one,) = Prometheus(server.address).series([Wanted("7_0", "n1", BEGIN, BEGIN + 100)])
    assert [device.index for device in one.devices] == [0]
    assert set(one.values("cpu")) == {12.5}, "what the node does is known all the same"


def test_each_task_of_an_array_has_the_gpus_of_the_id_that_it_has_alone(server):
    told = [curve("DCGM_FI_DEV_GPU_UTIL", gpu, "50", hpc_job=job) for gpu, job in enumerate(("8", "7", "9"))]
    server.answers = [(200, {"status": "success", "data": {"result": rows}}) for rows in (told, [])]
    wanted = [Wanted(f"7_{task}", "n1", BEGIN, BEGIN + 100) for task in range(3)]
    found = Prometheus(server.address).series(wanted, ids=lambda: {"7_0": "8", "7_1": "7"})
    assert [(one.task, [device.index for device in one.devices]) for one in found] == [("7_0", [0]), ("7_1", [1])]


def test_now_is_the_last_sample_of_every_node(server):
    assert frame(Prometheus(server.address).now()).empty, "recorded long ago: that is not now"
    late = {"metric": GPUS[0]["metric"], "values": [[time.time() - 60, "11"], [time.time() - 30, "22"]]}
    server.answers = [(200, {"status": "success", "data": {"result": [late]}}), (200, {"status": "success", "data": {"result": []}})]
    table = frame(Prometheus(server.address).now())
    assert (table["node"].tolist(), table["gpu_busy"].tolist()) == (["n1"], [22.0])


def test_names_of_nodes_are_taken_literally(server):
    Prometheus(server.address).series([Wanted("7_0", 'a"b\\c.d|e', BEGIN, BEGIN + 100)])
    assert r'Hostname=~"(a\"b\\\\c\\.d\\|e)([.].*)?"' in server.asked[0]["query"]


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (400, {"status": "error", "error": "exceeded maximum resolution of 11,000 points"}, "exceeded maximum resolution"),
        (503, b"busy", "503"),
        (200, b"<html>login</html>", "no Prometheus"),
        (200, {"status": "error", "error": "no"}, "refused"),
        (200, {"status": "success", "data": None}, "no matrix"),
        (200, [], "refused"),
    ],
)
def test_what_is_no_answer_is_said(server, code, body, words):
    server.answers = [(code, body)]
    with pytest.raises(ClusterError, match=words):
        Prometheus(server.address).series([Wanted("7_0", "n1", BEGIN, BEGIN + 100)])


def test_nobody_there():
    with pytest.raises(Unreachable, match="no Prometheus answers at http://127.0.0.1:1"):
        Prometheus("http://127.0.0.1:1").series([Wanted("7_0", "n1", BEGIN, BEGIN + 100)])


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n1", ["n1"]),
        ("n[1-3,7],login", ["n1", "n2", "n3", "n7", "login"]),
        ("gpu-[08-10]-a", ["gpu-08-a", "gpu-09-a", "gpu-10-a"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
        ("", []),
    ],
)
def test_slurms_lists_of_nodes_are_written_out(text, nodes):
    assert expand_nodes(text) == nodes


@pytest.mark.parametrize("address", ["ftp://x", "prom:9090", "http://", "http://u:secret@h", "http://h?x=1"])
def test_an_address_that_is_none_is_refused_with_its_line(tmp_path, address):
    (tmp_path / "work" / "nexa.toml").write_text(f'[clusters.work]\nhost = "slurm"\nprometheus = "{address}"\n')
    with pytest.raises(ProfileError, match="nexa.toml, line 3: prometheus") as refused:
        profiles()
    assert "secret" not in str(refused.value)


def test_a_run_whose_cluster_names_one_is_read_from_there(server, tmp_path, program):
    (tmp_path / "work" / "nexa.toml").write_text(f'[clusters.work]\nhost = "local"\nprometheus = "{server.address}/"\n')
    from nexa_sdk import Sweep

    run = Cluster("work").launch(Sweep(program("pass")), time="0:01:00").wait()
    assert run.utilization().empty
    node = run.status()["node"][0]
    assert f"({node}" in server.asked[0]["query"].replace("\\\\", "")


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_task_that_carries_several_trials_is_asked_about_once(server, tmp_path, program, side_by_side):
    (tmp_path / "work" / "nexa.toml").write_text(f'[clusters.work]\nhost = "local"\nprometheus = "{server.address}/"\n')
    from nexa_sdk import Job, Sweep

    job = Job(time="0:01:00", pack=3, side_by_side=side_by_side)
    run = Cluster("work").launch(Sweep(program("time.sleep(1.2)"), {"x": range(3)}), job).wait()
    now = time.time()
    idle = curve("DCGM_FI_DEV_GPU_UTIL", 0, "0", node=run.attempts()["node"].iloc[0])
    idle["values"] = [[now - 60 + 0.25 * k, "0"] for k in range(480)]
    server.answers = [(200, {"status": "success", "data": {"result": told}}) for told in ([idle], [])]
    assert run.watched.read_on()
    (series,) = run.watched.series()
    assert series.task == run.attempts()["job"].iloc[0]
    assert series.count() >= (4 if side_by_side else 12)


@pytest.mark.parametrize("knows_jobs", [True, False])
def test_gpus_that_may_be_of_others_are_not_said_to_be_idle(server, tmp_path, program, monkeypatch, knows_jobs):
    (tmp_path / "work" / "nexa.toml").write_text(f'[clusters.work]\nhost = "local"\nprometheus = "{server.address}/"\n')
    (tmp_path / "rates.toml").write_text("currency = 'USD'\ngpu_hour = 3600\n")
    monkeypatch.setenv("NEXA_RATES", str(tmp_path / "rates.toml"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("nexa_sdk.monitoring.verdicts.NEVER_FOR", 1.0)
    from nexa_sdk import Sweep

    run = Cluster("work").launch(Sweep(program("time.sleep(2)")), time="0:01:00", gpus=1).wait()
    attempt, now = run.attempts().iloc[0], time.time()
    curves = [curve("DCGM_FI_DEV_GPU_UTIL", gpu, "97" if gpu == 0 else "0", node=attempt["node"]) for gpu in range(8)]
    for one in curves:
        one["values"] = [[now - 60 + 0.25 * k, one["values"][0][1]] for k in range(480)]
    if knows_jobs:
        curves[0]["metric"]["hpc_job"] = attempt["job"]
    answer = [(200, {"status": "success", "data": {"result": told}}) for told in (curves, [])]
    server.answers = [*answer, *answer]
    report = run.cost()
    assert report.gpu_hours > 0
    assert report.idle_gpu_hours == (0 if knows_jobs else None)
    assert any("does not say whose" in note for note in report.notes) != knows_jobs
    assert not [rule for rule in run.verdicts()["rule"] if rule.startswith("gpu-")]
