"""The agent's own file: its format, its limit, its ends, and the Pythons that it runs on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from until import wait_until

from nexa_sdk.monitoring import agent
from nexa_sdk.monitoring.samples import GPU_FIELDS, NODE_FIELDS, SampleReader

AGENT = Path(agent.__file__)
DATA = Path(__file__).parents[1] / "data" / "utilization"


def values(fields):
    largest = {"B": 0xFE, "H": 0xFFFE, "I": 0xFFFFFFFE}
    return st.tuples(
        *(st.none() | st.integers(0, largest[letter]).map(lambda n, unit=unit: n / unit) for _, letter, unit, _ in fields)
    ).map(list)


SAMPLES = st.tuples(values(agent.NODE), st.lists(values(agent.GPU), max_size=3))


def sample(seconds: float, *, covers: float = 1.0, gpus: int = 1, **given) -> agent.Sample:
    node = [given.get(name) for name, *_ in agent.NODE]
    whole = int(seconds)
    node[:3] = [float(whole), (seconds - whole) * 1000, covers]
    return node, [[given.get(name) for name, *_ in agent.GPU] for _ in range(gpus)]


# ---- the format ----------------------------------------------------------------------------------


@given(SAMPLES)
def test_what_is_written_is_read(one):
    assert agent.decode(agent.encode(one)) == (one[0], list(one[1]))


@given(st.lists(SAMPLES, max_size=8), st.randoms())
@settings(deadline=None)
def test_the_reader_reads_the_same_in_any_pieces(samples, chance):
    content = b"".join(agent.encode(one) for one in samples)
    reader = SampleReader()
    while content:
        cut = chance.randint(1, len(content))
        reader.feed(content[:cut])
        content = content[cut:]
    read = [
        [
            {name: float(series.values(name)[place]) for name in NODE_FIELDS},
            [{name: float(series.values(name)[place, gpu]) for name in GPU_FIELDS} for gpu in range(series.gpus)],
        ]
        for series in reader.series
        for place in range(series.count())
    ]
    assert reader.lost == 0
    for (node, gpus), (there, others) in zip(samples, read, strict=True):
        told = dict(zip([name for name, *_ in agent.NODE], node, strict=True))
        assert there == pytest.approx(
            {name: told[name] if told[name] is not None else float("nan") for name in NODE_FIELDS}, nan_ok=True, rel=1e-6
        )
        for gpu, other in zip(gpus, others, strict=True):
            known = dict(zip(GPU_FIELDS, gpu, strict=True))
            assert other == pytest.approx({name: v if v is not None else float("nan") for name, v in known.items()}, nan_ok=True, rel=1e-6)


def test_a_file_that_is_cut_anywhere_is_read_as_far_as_it_goes():
    header = json.dumps(
        {"nexa": 1, "node": "n1", "cores": 4, "gpus": [{"index": 3, "uuid": "GPU-x", "name": "X", "memory": 1024.0}]}
    ).encode()
    lines = [header, *(agent.encode(sample(1000.0 + k, busy=float(k))).rstrip() for k in range(5))]
    content = b"\n".join(lines) + b"\n"
    for cut in range(len(content)):
        reader = SampleReader()
        reader.feed(content[:cut], is_whole=True)
        whole = content[:cut].count(b"\n") - 1
        count = sum(series.count() for series in reader.series)
        assert max(0, whole) <= count <= max(0, whole) + 1  # a line that lacks its end alone is whole
        if cut > len(header):
            assert all(series.devices[0].index == 3 for series in reader.series)
    for cut in range(len(content)):  # without its head
        reader = SampleReader()
        reader.feed(content[cut:], is_whole=True)
        assert sum(series.count() for series in reader.series) == min(
            5, content[cut:].count(b"\na") + (content[cut : cut + 1] == b"a" and content[cut - 1 : cut] == b"\n")
        )


def test_garbage_between_lines_is_left_out_and_counted():
    good = [agent.encode(sample(1000.0 + k, busy=10.0)) for k in range(4)]
    broken = bytearray(good[1])
    broken[20] = ord("!")
    reader = SampleReader()
    reader.feed(good[0] + bytes(broken) + b'\n\0\xff\nzzz\n{half\n{"nexa": 1}\na\n' + good[2] + good[3][:-9] + b"\n" + good[3])
    assert sum(series.count() for series in reader.series) == 3
    assert reader.lost == 7


def test_a_recorded_file_is_still_read():
    reader = SampleReader("7_0")
    reader.feed((DATA / "recorded.samples").read_bytes())
    expected = json.loads((DATA / "recorded.json").read_text())
    (series,) = reader.series
    assert series.count() == expected["count"]
    assert [device.index for device in series.devices] == expected["gpus"]
    for name, told in expected["last"].items():
        assert series.values(name)[-1].tolist() == pytest.approx(told)


@given(SAMPLES, SAMPLES)
def test_two_samples_become_one_between_them(one, other):
    merged = agent.merge(one, other)
    assert merged[0][0] == (other[0][0] if other[0][0] is not None else one[0][0])
    for (_, _, _, how), first, second, both in zip(agent.NODE, one[0], other[0], merged[0], strict=True):
        if first is not None and second is not None and how in ("mean", "max"):
            assert min(first, second) - 1e-6 <= both <= max(first, second) + 1e-6


# ---- the limit -----------------------------------------------------------------------------------

HEADER = {"nexa": 1, "node": "n1", "cores": 4, "ram": 1000.0, "ram_limit": None, "source": "", "gpus": []}


def read(folder: Path) -> list:
    reader = SampleReader()
    (path,) = folder.glob("*.samples")
    reader.feed(path.read_bytes())
    assert reader.lost == 0
    return reader.series


def test_a_full_file_halves_its_resolution_and_keeps_the_whole_time(tmp_path):
    store = agent.Store(str(tmp_path / "7_0"), dict(HEADER), 20_000)
    for k in range(3000):
        store.add(sample(1_000_000.0 + k, gpus=2, busy=50.0, memory=16.0 * (k % 100), cpu=float(k % 2) * 100))
    store.flush()
    (path,) = tmp_path.glob("*.samples")
    assert path.name == "7_0@n1.4.samples"
    assert path.stat().st_size <= 20_000
    (series,) = read(tmp_path)
    assert 80 <= series.count() <= 300
    assert series.covers().sum() == 3000, "no second is lost, and none counted twice"
    assert series.time()[-1] == 1_000_000 + 2999
    assert abs(series.values("cpu").mean() - 50) < 1
    assert (series.values("busy") == 50).all()
    assert series.values("memory").max() == 16 * 99, "a peak stays, however far it is halved"


def test_an_agent_that_begins_again_goes_on_in_the_same_file(tmp_path):
    for begin in (0, 1000):
        store = agent.Store(str(tmp_path / "7_0"), dict(HEADER), 20_000)
        for k in range(700):
            store.add(sample(1_000_000.0 + begin + k, gpus=1))
        store.flush()
    assert sum(series.covers().sum() for series in read(tmp_path)) == 1400


def test_a_line_that_was_cut_by_a_crash_costs_no_other(tmp_path):
    store = agent.Store(str(tmp_path / "7_0"), dict(HEADER), 20_000)
    store.add(sample(1000.0))
    (path,) = tmp_path.glob("*.samples")
    with open(path, "ab") as file:
        file.write(agent.encode(sample(1001.0))[:30])
    agent.Store(str(tmp_path / "7_0"), dict(HEADER), 20_000).add(sample(1002.0))
    reader = SampleReader()
    reader.feed(path.read_bytes())
    assert [list(series.time()) for series in reader.series] == [[1000.0, 1002.0]]
    assert reader.lost == 1


def test_what_a_crash_within_a_halving_leaves_is_cleared(tmp_path):
    for halvings in (0, 1):
        (tmp_path / f"7_0@n1.{halvings}.samples").write_bytes(agent.encode(sample(1000.0)))
    agent.Store(str(tmp_path / "7_0"), dict(HEADER), 20_000)
    assert [path.name for path in tmp_path.glob("7_0*")] == ["7_0@n1.1.samples"]


def test_a_clock_that_differs_from_the_file_servers_is_seen(tmp_path, monkeypatch):
    truth = time.time
    monkeypatch.setattr(agent.time, "time", lambda: truth() + 7200)  # two hours ahead
    store = agent.Store(str(tmp_path / "7_0"), dict(HEADER), 20_000)
    store.add(sample(agent.time.time()))
    (series,) = read(tmp_path)
    assert series.header.skew == pytest.approx(7200, abs=2)
    assert series.time()[0] == pytest.approx(truth(), abs=5)


# ---- beside a program ----------------------------------------------------------------------------


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def shell(tmp_path):
    """Start a shell with an agent beside it, as a job's script does; return both process ids."""
    started = []

    def start(*options: str, python: str = sys.executable) -> tuple[subprocess.Popen, int]:
        script = (
            f'"$1" -IS "$2" follow --every 0.1 --shell $$ {" ".join(options)} "$3" < /dev/null > /dev/null 2> "$3.err" & echo $!; read -r _'
        )
        process = subprocess.Popen(
            ["bash", "-c", script, "job", python, AGENT, tmp_path / "7_0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        started.append((process, pid))
        wait_until(lambda: any(path.stat().st_size > 400 for path in tmp_path.glob("*.samples")))
        return process, pid

    yield start
    for process, pid in started:
        process.kill()
        process.communicate()
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_it_ends_with_the_shell_however_that_ends(shell, tmp_path, end):
    process, pid = shell()
    if end is None:
        process.communicate("end\n")
    else:
        process.send_signal(end)
        process.wait()
    wait_until(lambda: is_gone(pid))
    assert not (tmp_path / "7_0.err").exists(), "there was nothing to complain of"


def test_it_watches_on_while_the_program_takes_its_time_to_end(shell, tmp_path):
    _, pid = shell()
    (path,) = tmp_path.glob("*.samples")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)  # as Slurm sends them to every process of a job
    before = path.stat().st_size
    wait_until(lambda: path.stat().st_size > before + 300)
    assert not is_gone(pid)


def test_it_is_the_nicest_and_holds_no_file_of_the_job(shell, tmp_path):
    _, pid = shell()
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    held = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # one of /proc, read meanwhile
            held.add(os.readlink(path))
    assert {path for path in held if not path.startswith(("/proc/", "/dev/null", "anon_inode"))} == {
        str(tmp_path / "7_0.err"),
        str(next(tmp_path.glob("*.samples"))),
    }


def test_what_goes_wrong_stands_in_its_own_file_and_may_pass(tmp_path):
    # A limit of the size of files stands for a quota: writing fails, the process lives.
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(AGENT.parent)!r})
import agent
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = agent.Store({str(tmp_path / "7_0")!r}, {HEADER!r}, 10**6)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
lost = 0
for k in range(20):
    if k == 10:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        store.add(([1000.0 + k, 0.0, 1.0] + [None] * 11, []))
    except OSError:
        lost += 1
print(lost)
"""
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    reader = SampleReader()
    reader.feed((tmp_path / "7_0@n1.0.samples").read_bytes())
    assert int(done.stdout) > 0
    assert sum(series.count() for series in reader.series) == 20 - int(done.stdout)
    assert [float(series.time()[-1]) for series in reader.series] == [1019.0]


# ---- Pythons -------------------------------------------------------------------------------------


def test_it_needs_no_newer_python_than_36():
    vermin = Path(sys.executable).with_name("vermin")
    found = subprocess.run([vermin, "--target=3.6-", "--no-tips", "--eval-annotations", AGENT], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def other_pythons() -> list[str]:
    """Find the Pythons of this machine: on PATH, and pyenv's."""
    found: dict[str, str] = {}
    names = [f"python3.{minor}" for minor in range(6, 16)]
    paths = [shutil.which(name) for name in [*names, "python3"]]
    for path in [*filter(None, paths), *map(str, Path.home().glob(".pyenv/versions/3.*/bin/python"))]:
        told = subprocess.run([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True)
        if told.returncode == 0:
            found.setdefault(told.stdout.strip(), path)
    return [found[version] for version in sorted(found, key=lambda text: int(text.partition(".")[2]))]


def test_every_python_here_writes_the_same_format(shell, tmp_path):
    for python in other_pythons():
        once = subprocess.run([python, "-IS", AGENT, "once"], capture_output=True, text=True)
        assert once.returncode == 0, (python, once.stderr)
        node, _ = agent.decode(json.loads(once.stdout)["sample"].encode())
        assert node[0] == pytest.approx(time.time(), abs=60)
        process, _ = shell(python=python)
        process.communicate("end\n")
        (path,) = tmp_path.glob("*.samples")
        (series,) = read(tmp_path)
        assert series.count() >= 1
        assert series.header.cores == len(os.sched_getaffinity(0))
        path.unlink()


def test_a_file_of_samples_can_be_shown_as_text(tmp_path):
    path = tmp_path / "x.samples"
    path.write_bytes(b'{"nexa": 1}\n' + agent.encode(sample(0.0, busy=50.0, cpu=12.5)) + b"half")
    shown = subprocess.run([sys.executable, "-IS", AGENT, "show", path], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == ['{"nexa": 1}', "1970-01-01T00:00:00Z covers=1 cpu=12.5 gpu0[busy=50]", "half"]


# ---- the job's own control group -----------------------------------------------------------------


def control_group(tmp_path: Path, cgroups: str, files: dict[str, str]) -> agent.Cgroup:
    (tmp_path / "self").write_text(cgroups)
    for name, content in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return agent.Cgroup(str(tmp_path / "self"), str(tmp_path / "fs"))


MIB = 1 << 20


def test_control_groups_of_version_2_are_read_for_the_whole_job(tmp_path):
    job = "system.slice/slurmstepd.scope/job_42"
    files = {
        "memory.current": f"{900 * MIB}\n",
        "memory.peak": f"{1200 * MIB}\n",
        "memory.max": f"{2048 * MIB}\n",
        "memory.stat": f"anon {500 * MIB}\nactive_file {100 * MIB}\ninactive_file {300 * MIB}\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\n",
    }
    found = control_group(tmp_path, f"0::/{job}/step_batch/user/task_0\n", {f"{job}/{name}": text for name, text in files.items()})
    assert found.read() == (2.5, 500.0, 1200.0)
    assert found.limit == 2048.0


def test_control_groups_of_version_1_are_read_too(tmp_path):
    job = "slurm/uid_1000/job_42"
    cgroups = f"9:memory:/{job}/step_batch/task_0\n4:cpu,cpuacct:/{job}/step_batch/task_0\n0::/\n"
    files = {
        f"memory/{job}/memory.usage_in_bytes": f"{900 * MIB}\n",
        f"memory/{job}/memory.max_usage_in_bytes": f"{1200 * MIB}\n",
        f"memory/{job}/memory.limit_in_bytes": f"{2**63 - 4096}\n",
        f"memory/{job}/memory.stat": f"cache 5\ninactive_file 1\ntotal_active_file {100 * MIB}\ntotal_inactive_file {300 * MIB}\n",
        f"cpuacct/{job}/cpuacct.usage": "2500000000\n",
    }
    found = control_group(tmp_path, cgroups, files)
    assert found.read() == (2.5, 500.0, 1200.0)
    assert found.limit is None


def test_a_control_group_that_is_no_jobs_is_left_alone(tmp_path):
    with pytest.raises(OSError):
        control_group(
            tmp_path, "9:memory:/user.slice\n0::/user.slice/session-1.scope\n", {"user.slice/session-1.scope/memory.current": "1"}
        )


def test_without_one_the_shells_own_processes_are_counted():
    busy = subprocess.Popen(["bash", "-c", f"{sys.executable} -c 'x = bytearray(80 << 20)\nwhile 1: pass' & wait"])
    try:
        tree = agent.Tree(busy.pid)
        wait_until(lambda: (tree.read()[1] or 0) > 80)
        before, at = tree.read()[0], time.monotonic()
        wait_until(lambda: (tree.read()[0] or 0) > (before or 0) + 0.3)
        assert time.monotonic() > at
    finally:
        for pid in Path(f"/proc/{busy.pid}/task/{busy.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        busy.wait()


def test_samples_of_random_lengths_merge_without_losing_time():
    chance = random.Random(1)
    samples = [sample(1000.0 + k, covers=chance.randint(1, 100) / 10) for k in range(16)]
    total = sum(one[0][2] for one in samples)
    while len(samples) > 1:
        samples = [agent.merge(one, other) for one, other in zip(samples[::2], samples[1::2], strict=True)]
    assert samples[0][0][2] == pytest.approx(total)
