"""How the agent reads GPUs: NVML's interface on a stand-in library, judged by NVIDIA's own Python binding; and where there is none."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nexa_sdk.monitoring import agent

sys.path[:0] = [str(Path(__file__).parents[1] / "gpus")]

from stand_in import library_folder  # noqa: E402

pynvml = pytest.importorskip("pynvml")
AGENT = Path(agent.__file__)


def environment(**given: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(library_folder()), **given}


def once(env: dict[str, str]) -> tuple[dict, dict, list[dict], str]:
    """Take one sample; return header, node, GPUs, and what was complained of."""
    done = subprocess.run([sys.executable, "-IS", AGENT, "once"], env=env, capture_output=True, text=True, check=True)
    header = json.loads(done.stdout)
    node, gpus = agent.decode(header["sample"].encode())
    names = [name for name, *_ in agent.GPU]
    return (
        header,
        dict(zip([name for name, *_ in agent.NODE], node, strict=True)),
        [dict(zip(names, gpu, strict=True)) for gpu in gpus],
        done.stderr,
    )


# ---- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (agent.NvmlMemory, pynvml.c_nvmlMemory_v2_t),
        (agent.NvmlMemoryOld, pynvml.c_nvmlMemory_t),
        (agent.NvmlUtilization, pynvml.c_nvmlUtilization_t),
        (agent.NvmlProcess, pynvml.c_nvmlProcessInfo_v2_t),
        (agent.GpmSupport, pynvml.c_nvmlGpmSupport_t),
    ],
)
def test_structures_are_those_of_nvidias_own_binding(ours, theirs):
    assert ctypes.sizeof(ours) == ctypes.sizeof(theirs)
    for (name, *_), (other, *_) in zip(ours._fields_, theirs._fields_, strict=True):
        assert name == other
        assert (getattr(ours, name).offset, getattr(ours, name).size) == (getattr(theirs, other).offset, getattr(theirs, other).size)


def test_gpms_metrics_lie_where_nvidias_own_binding_has_them():
    assert ctypes.sizeof(agent.GpmMetric) == ctypes.sizeof(pynvml.c_nvmlGpmMetric_t)
    assert agent.GpmMetric.value.offset == pynvml.c_nvmlGpmMetric_t.value.offset
    assert agent.GpmMetrics.metrics.offset == pynvml.c_nvmlGpmMetricsGet_t.metrics.offset
    assert ctypes.sizeof(agent.GpmMetrics) >= ctypes.sizeof(pynvml.c_nvmlGpmMetricsGet_t)
    assert agent.GPM_METRICS == (
        pynvml.NVML_GPM_METRIC_SM_UTIL,
        pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
        pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
        pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    )
    assert pynvml.nvmlMemory_v2 == agent._MEMORY_V2


def test_every_function_that_is_called_is_known_to_nvidias_own_binding():
    import re

    names = set(re.findall(r'"(nvml[A-Z]\w+)"', AGENT.read_text()))
    known = Path(pynvml.__file__).read_text()
    assert len(names) >= 14
    assert [name for name in sorted(names) if f'"{name}"' not in known] == []


NVIDIAS = """
import json, time, pynvml as n
n.nvmlInit()
found = []
for index in range(n.nvmlDeviceGetCount()):
    gpu = n.nvmlDeviceGetHandleByIndex(index)
    first, second = n.nvmlGpmSampleAlloc(), n.nvmlGpmSampleAlloc()
    n.nvmlGpmSampleGet(gpu, first)
    energy, at = n.nvmlDeviceGetTotalEnergyConsumption(gpu), time.monotonic()
    time.sleep(0.2)
    n.nvmlGpmSampleGet(gpu, second)
    spent, seconds = n.nvmlDeviceGetTotalEnergyConsumption(gpu) - energy, time.monotonic() - at
    asked = n.c_nvmlGpmMetricsGet_t(version=n.NVML_GPM_METRICS_GET_VERSION, numMetrics=4, sample1=first, sample2=second)
    for place, metric in enumerate((2, 3, 5, 10)):
        asked.metrics[place].metricId = metric
    n.nvmlGpmMetricsGet(asked)
    values = [asked.metrics[place].value for place in range(4)]
    found.append({
        "uuid": n.nvmlDeviceGetUUID(gpu), "name": n.nvmlDeviceGetName(gpu),
        "total": n.nvmlDeviceGetMemoryInfo(gpu, version=n.nvmlMemory_v2).total / 2**20,
        "busy": n.nvmlDeviceGetUtilizationRates(gpu).gpu, "copying": n.nvmlDeviceGetUtilizationRates(gpu).memory,
        "sm_active": values[0], "sm_occupancy": values[1], "tensor": values[2], "dram": values[3],
        "memory": n.nvmlDeviceGetMemoryInfo(gpu, version=n.nvmlMemory_v2).used / 2**20,
        "power": spent / 1000 / seconds,
        "temperature": n.nvmlDeviceGetTemperature(gpu, n.NVML_TEMPERATURE_GPU),
        "processes": len(n.nvmlDeviceGetComputeRunningProcesses(gpu)),
    })
print(json.dumps(found))
"""


def test_it_reads_what_nvidias_own_binding_reads_from_the_same_library():
    env = environment(STAND_IN_BUSY="98,0,50,7", STAND_IN_GPUS="4")
    theirs = json.loads(subprocess.run([sys.executable, "-c", NVIDIAS], env=env, capture_output=True, text=True, check=True).stdout)
    header, _, gpus, complaints = once(env)
    assert header["source"] == "nvml"
    assert complaints == ""
    for device, gpu, expected in zip(header["gpus"], gpus, theirs, strict=True):
        assert (device["uuid"], device["name"], device["memory"]) == (expected["uuid"], expected["name"], expected["total"])
        power, told = gpu.pop("power"), expected.pop("power")
        assert power == pytest.approx(told, rel=0.2)  # of two spans of time, a part of a second each
        assert gpu == pytest.approx({name: value for name, value in expected.items() if name in gpu}, abs=0.5)


# ---- what not every card or driver knows ---------------------------------------------------------


def test_before_hopper_saturation_is_unknown_and_the_rest_is_there():
    _, _, gpus, complaints = once(environment(STAND_IN_GPM="0", STAND_IN_GPUS="1"))
    assert [gpus[0][name] for name in ("sm_active", "sm_occupancy", "tensor", "dram")] == [None] * 4
    assert (gpus[0]["busy"], gpus[0]["memory"]) == (90, 2048)
    assert complaints == "", "what a card can't tell is no mistake"


def test_an_old_driver_tells_power_of_the_moment_and_memory_with_what_it_keeps():
    _, _, gpus, complaints = once(environment(STAND_IN_OLD="1", STAND_IN_GPUS="1"))
    assert gpus[0]["power"] == pytest.approx(70 + 6 * 90 + 1)
    assert gpus[0]["memory"] == 2048 + 512
    assert complaints == ""


def test_a_gpu_that_is_lost_is_unknown_said_once_and_costs_no_other():
    _, _, gpus, complaints = once(environment(STAND_IN_LOST="1", STAND_IN_GPUS="3"))
    assert [gpu["busy"] for gpu in gpus] == [90, None, 90]
    assert "GPU is lost" in complaints
    assert complaints.count("nvmlDeviceGetUtilizationRates") == 1


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-00000000-0000-0000-0000-000000000003"}, [3]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, [0, 1, 2, 3]),  # of which card it is a slice can't be told
        ({"CUDA_VISIBLE_DEVICES": "9"}, [0, 1, 2, 3]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ({"SLURM_JOB_ID": "7"}, []),  # a neighbour's GPUs are none of ours
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "1"}, [1]),
        ({"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "local"}, [0, 1, 2, 3]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_it_looks_at_the_jobs_own_gpus(env, expected):
    header, _, gpus, _ = once(environment(STAND_IN_GPUS="4", **env))
    assert [device["index"] for device in header["gpus"]] == expected
    assert [gpu["memory"] for gpu in gpus] == [1024 * (2 + index) for index in expected]


# ---- where there is no NVML ----------------------------------------------------------------------


@pytest.fixture
def smi(tmp_path):
    """Put an nvidia-smi on PATH that prints what the real one prints for the very options that the agent gives."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    fields = "index,uuid,name,memory.total,utilization.gpu,utilization.memory,memory.used,power.draw,temperature.gpu"
    program.write_text(
        textwrap.dedent(f"""\
        #!/bin/sh
        [ "$1 $2" = "--query-gpu={fields} --format=csv,noheader,nounits" ] || exit 9
        tell() {{
          echo "0, GPU-a, NVIDIA A100, 40960, $1, 3, 1024, 61.25, 31"
          echo "1, GPU-b, NVIDIA A100, 40960, [N/A], 0, 0, [Not Supported], 30"
        }}
        case "${{3-}}" in
        "") tell 10 ;;
        --loop-ms=*) while tell 77; do sleep 0.05; done ;;
        *) exit 9 ;;
        esac
        """)
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def test_nvidia_smi_tells_where_the_library_is_missing(smi):
    header, _, gpus, _ = once(smi)
    assert header["source"] == "nvidia-smi"
    assert [(device["index"], device["uuid"], device["memory"]) for device in header["gpus"]] == [
        (0, "GPU-a", 40960.0),
        (1, "GPU-b", 40960.0),
    ]
    assert (gpus[0]["busy"], gpus[0]["memory"], gpus[0]["power"], gpus[0]["temperature"]) == (77, 1024, 61.3, 31)
    assert (gpus[1]["busy"], gpus[1]["power"], gpus[1]["temperature"]) == (None, None, 30)


def test_an_nvidia_smi_that_fails_leaves_the_rest(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it couldn'\\''t communicate with the NVIDIA driver.'\nexit 9\n")
    program.chmod(0o755)
    header, node, gpus, _ = once({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (header["source"], gpus) == ("", [])
    assert node["ram"] > 0


def test_amds_gpus_are_read_where_the_kernel_shows_them(tmp_path):
    card = tmp_path / "card1" / "device"
    sensor = card / "hwmon" / "hwmon3"
    sensor.mkdir(parents=True)
    files = {
        "gpu_busy_percent": "64",
        "mem_busy_percent": "12",
        "mem_info_vram_used": str(3 << 30),
        "mem_info_vram_total": str(64 << 30),
        "unique_id": "a1b2",
        "device": "0x740f",
        "hwmon/hwmon3/power1_average": "215000000",
        "hwmon/hwmon3/temp1_input": "48000",
    }
    for name, text in files.items():
        (card / name).write_text(text + "\n")
    (tmp_path / "card0" / "device").mkdir(parents=True)  # a display adapter of another make
    found = agent.AmdSysfs(str(tmp_path))
    assert found.devices == [{"index": 0, "uuid": "a1b2", "name": "AMD 0x740f", "memory": 65536.0}]
    assert found.read(0.0) == [[64.0, 12.0, None, None, None, None, 3072.0, 215.0, 48.0, None]]
    with pytest.raises(OSError):
        agent.AmdSysfs(str(tmp_path / "nowhere"))


AMDSMI = """
class AmdSmiException(Exception): pass
class AmdSmiTemperatureType: HOTSPOT = 1
class AmdSmiTemperatureMetric: CURRENT = 0
def amdsmi_init(): pass
def amdsmi_get_processor_handles(): return ["a", "b"]
def amdsmi_get_gpu_asic_info(handle): return {"market_name": "AMD Instinct MI300X"}
def amdsmi_get_gpu_device_uuid(handle): return "uuid-" + handle
def amdsmi_get_gpu_vram_usage(handle): return {"vram_total": 196592, "vram_used": 283}
def amdsmi_get_gpu_activity(handle):
    if handle == "b": raise AmdSmiException("busy")
    return {"gfx_activity": 41, "umc_activity": 2, "mm_activity": "N/A"}
def amdsmi_get_power_info(handle): return {"current_socket_power": 141, "average_socket_power": "N/A"}
def amdsmi_get_temp_metric(handle, sensor, metric): return 37
"""


def test_amds_own_module_tells_where_it_is_there(tmp_path, monkeypatch):
    (tmp_path / "amdsmi.py").write_text(AMDSMI)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    found = agent.AmdSmi()
    assert found.devices[1] == {"index": 1, "uuid": "uuid-b", "name": "AMD Instinct MI300X", "memory": 196592.0}
    assert found.read(0.0) == [
        [41.0, 2.0, None, None, None, None, 283.0, 141.0, 37.0, None],
        [None, None, None, None, None, None, 283.0, 141.0, 37.0, None],
    ]
    monkeypatch.delitem(sys.modules, "amdsmi")
