"""The agent: what a node, a job and its GPUs do, sampled beside the program and written into the run's folder.

One file that travels by itself: any Python from 3.6 on, the standard library alone, nothing of
nexa_sdk. It is never in the program's way: nice 19, no exit code that anybody looks at, its own
mistakes on its own stderr, and it ends with the shell that started it, however that ends.

::

    python3 -IS agent.py follow --every 1 --most 750000 --shell $$ PREFIX   # sample until the shell ends
    python3 -IS agent.py once                                               # one sample, to stdout
    python3 -IS agent.py show FILE                                          # a file of samples, for people

Samples lie in ``PREFIX@<node>.<halvings>.samples``, a line each, and every line stands for itself:

``{…}``
    JSON: the node, its cores and GPUs. It comes first, and again every so often, so that what is
    left of a file can be read.
``a…``
    A sample: a letter that counts the GPUs (A is none, B one, …, as base64 counts), then base64 of the
    fields of `NODE`, and of `GPU` for each GPU. All ones mean unknown.

A file is only ever appended to. One that is full is written anew at half its resolution, two
samples as one, under the next number; then the old one goes. So it has a limit, and always shows
the whole time, with as many samples as a screen has columns or more.

Sources: proc(5); cgroups(7); ``nvml.h`` (NVML API reference, GPM included); the kernel's
Documentation/gpu/amdgpu/thermal.rst and driver-misc.rst.
"""

import binascii
import ctypes
import errno
import glob
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

# ---- the format ----------------------------------------------------------------------------------

# name, struct's letter, unit as a fraction of the natural one, how two samples become one
NODE = (
    ("seconds", "I", 1, "last"),  # since the epoch, by the node's clock, at the sample's end
    ("millis", "H", 1, "last"),
    ("covers", "H", 10, "sum"),  # s that it stands for
    ("cpu", "B", 2, "mean"),  # % of all cores of the node
    ("iowait", "B", 2, "mean"),  # % of all cores of the node: idle, and waiting for a disk
    ("ram", "I", 1, "max"),  # MiB in use on the node, page cache left aside
    ("load", "H", 10, "mean"),  # of the last minute
    ("disk_read", "I", 1, "mean"),  # KiB/s
    ("disk_write", "I", 1, "mean"),
    ("net_received", "I", 1, "mean"),  # KiB/s, InfiniBand included
    ("net_sent", "I", 1, "mean"),
    ("job_cpu", "H", 100, "mean"),  # cores that the job keeps busy
    ("job_ram", "I", 1, "max"),  # MiB of the job, page cache left aside
    ("job_ram_peak", "I", 1, "max"),  # MiB, as the kernel has seen it, page cache included
)
GPU = (
    ("busy", "B", 2, "mean"),  # % of the time in which any kernel ran
    ("copying", "B", 2, "mean"),  # % of the time in which its memory was read or written
    ("sm_active", "B", 2, "mean"),  # %, of NVML's GPM: from Hopper on
    ("sm_occupancy", "B", 2, "mean"),
    ("tensor", "B", 2, "mean"),
    ("dram", "B", 2, "mean"),  # % of its memory's bandwidth
    ("memory", "H", 1 / 16, "max"),  # MiB in use
    ("power", "H", 10, "mean"),  # W
    ("temperature", "B", 1, "max"),  # °C
    ("processes", "B", 1, "max"),
)
# Each is a multiple of three bytes: then base64 needs no padding, and a whole file can be decoded at once.
NODE_STRUCT = struct.Struct("<" + "".join(field[1] for field in NODE))
GPU_STRUCT = struct.Struct("<" + "".join(field[1] for field in GPU))
_LARGEST = {"B": 0xFF, "H": 0xFFFF, "I": 0xFFFFFFFF}

MARK = b"a"  # this format's letter; another format gets another
_COUNTS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # GPUs of a sample, at most 63
HEADER_EVERY = 1000  # lines

Values = List[Optional[float]]
Sample = Tuple[Values, List[Values]]


def encode(sample: Sample) -> bytes:
    """Write a sample as a line."""
    node, gpus = sample
    packed = NODE_STRUCT.pack(*_scaled(NODE, node)) + b"".join(GPU_STRUCT.pack(*_scaled(GPU, gpu)) for gpu in gpus)
    return MARK + _COUNTS[len(gpus) : len(gpus) + 1] + binascii.b2a_base64(packed)


def _scaled(fields: Sequence[Tuple[str, str, float, str]], values: Values) -> List[int]:
    found = []
    for (_, letter, unit, _), value in zip(fields, values):
        largest = _LARGEST[letter]
        found.append(largest if value is None else max(0, min(largest - 1, int(value * unit + 0.5))))
    return found


def decode(line: bytes) -> Sample:
    """Read a line; ValueError where it is none, or half of one."""
    count = _COUNTS.find(line[1:2]) if line[:1] == MARK and line[1:2] else -1
    if count < 0:
        raise ValueError("no sample")
    packed = binascii.a2b_base64(line[2:])
    if len(packed) != NODE_STRUCT.size + count * GPU_STRUCT.size or len(line.rstrip()) != 2 + len(packed) // 3 * 4:
        raise ValueError("half a sample")
    gpus = [GPU_STRUCT.unpack_from(packed, at) for at in range(NODE_STRUCT.size, len(packed), GPU_STRUCT.size)]
    return _natural(NODE, NODE_STRUCT.unpack_from(packed)), [_natural(GPU, gpu) for gpu in gpus]


def _natural(fields: Sequence[Tuple[str, str, float, str]], numbers: Sequence[int]) -> Values:
    return [None if number == _LARGEST[letter] else number / unit for (_, letter, unit, _), number in zip(fields, numbers)]


def merge(first: Sample, second: Sample) -> Sample:
    """Make one sample of two: rates are weighed by what each covers, of amounts the larger stays."""
    weights = (first[0][2] or 0.0, second[0][2] or 0.0)
    node = _merged(NODE, first[0], second[0], weights)
    # Samples of another number of GPUs, after one was lost, say: what is there stays.
    pairs = zip(first[1], second[1]) if len(first[1]) == len(second[1]) else [(gpu, gpu) for gpu in second[1]]
    return node, [_merged(GPU, one, other, weights) for one, other in pairs]


def _merged(fields: Sequence[Tuple[str, str, float, str]], first: Values, second: Values, weights: Tuple[float, float]) -> Values:
    found: Values = []
    total = weights[0] + weights[1]
    for (_, _, _, how), one, other in zip(fields, first, second):
        if one is None or other is None:
            found.append(other if one is None else one)
        elif how == "last":
            found.append(other)
        elif how == "sum":
            found.append(one + other)
        elif how == "max" or not total:
            found.append(max(one, other))
        else:
            found.append((one * weights[0] + other * weights[1]) / total)
    return found


# ---- NVIDIA: the few calls of NVML that are needed ------------------------------------------------


class NvmlMemory(ctypes.Structure):
    """nvmlMemory_v2_t."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class NvmlMemoryOld(ctypes.Structure):
    """nvmlMemory_t, of drivers before 510."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class NvmlUtilization(ctypes.Structure):
    """nvmlUtilization_t."""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class NvmlProcess(ctypes.Structure):
    """nvmlProcessInfo_v2_t."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("usedGpuMemory", ctypes.c_ulonglong),
        ("gpuInstanceId", ctypes.c_uint),
        ("computeInstanceId", ctypes.c_uint),
    ]


class GpmSupport(ctypes.Structure):
    """nvmlGpmSupport_t."""

    _fields_ = [("version", ctypes.c_uint), ("isSupportedDevice", ctypes.c_uint)]


class GpmMetric(ctypes.Structure):
    """nvmlGpmMetric_t."""

    _fields_ = [
        ("metricId", ctypes.c_uint),
        ("nvmlReturn", ctypes.c_uint),
        ("value", ctypes.c_double),
        ("shortName", ctypes.c_char_p),
        ("longName", ctypes.c_char_p),
        ("unit", ctypes.c_char_p),
    ]


# SM active, SM occupancy, any tensor pipe, DRAM bandwidth: NVML_GPM_METRIC_*
GPM_METRICS = (2, 3, 5, 10)


class GpmMetrics(ctypes.Structure):
    """nvmlGpmMetricsGet_t, with room for what some newer NVML may look at: it reads `numMetrics` of them."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("numMetrics", ctypes.c_uint),
        ("sample1", ctypes.c_void_p),
        ("sample2", ctypes.c_void_p),
        ("metrics", GpmMetric * 512),
    ]


_MEMORY_V2 = ctypes.sizeof(NvmlMemory) | 2 << 24
_NOT_AVAILABLE = 2**64 - 1
_PROCESSES_EVERY = 10.0  # s: it is the dearest of the questions


class _NvmlError(Exception):
    """NVML said no; its own words."""


class Nvml:
    """GPUs by libnvidia-ml.so.1, which comes with NVIDIA's driver."""

    name = "nvml"

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libnvidia-ml.so.1")
        self._lib.nvmlErrorString.restype = ctypes.c_char_p
        self._call("nvmlInitWithFlags", ctypes.c_uint(0))
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self._gpus = [_NvmlGpu(self, index) for index in range(count.value)]
        self.devices = [gpu.device for gpu in self._gpus]

    def choose(self, wanted: List[int]) -> None:
        """Look at these devices alone, by their places."""
        self._gpus = [self._gpus[place] for place in wanted]
        self.devices = [gpu.device for gpu in self._gpus]

    def read(self, now: float) -> List[Values]:
        """Return the fields of `GPU` for each device; `now` is a monotonic time."""
        return [gpu.read(now) for gpu in self._gpus]

    def _call(self, name: str, *args: Any) -> None:
        code = getattr(self._lib, name)(*args)
        if code:
            raise _NvmlError("%s: %s" % (name, (self._lib.nvmlErrorString(code) or b"").decode("utf-8", "replace")))


class _NvmlGpu:
    def __init__(self, nvml: Nvml, index: int) -> None:
        self._nvml = nvml
        self._lib = nvml._lib
        self._handle = ctypes.c_void_p()
        nvml._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(self._handle))
        self._memory = NvmlMemory()
        self._memory_old = NvmlMemoryOld()
        self._utilization = NvmlUtilization()
        self._number = ctypes.c_uint()
        self._energy = ctypes.c_ulonglong()
        self._before: Optional[Tuple[float, int]] = None
        self._processes: Optional[float] = None
        self._processes_at = -_PROCESSES_EVERY
        self._failing: Set[str] = set()
        self._gpm = self._begin_gpm()
        memory = self._ask_memory()
        self.device = {
            "index": index,
            "uuid": self._text("nvmlDeviceGetUUID"),
            "name": self._text("nvmlDeviceGetName"),
            "memory": None if memory is None else memory[1],
        }

    def read(self, now: float) -> Values:
        busy: Optional[float] = None
        copying: Optional[float] = None
        if self._ask("nvmlDeviceGetUtilizationRates", ctypes.byref(self._utilization)):
            busy, copying = float(self._utilization.gpu), float(self._utilization.memory)
        memory = self._ask_memory()
        has_temperature = self._ask("nvmlDeviceGetTemperature", ctypes.c_int(0), ctypes.byref(self._number))
        temperature = float(self._number.value) if has_temperature else None
        used = None if memory is None else memory[0]
        return [busy, copying, *self._ask_gpm(), used, self._power(now), temperature, self._count_processes(now)]

    def _power(self, now: float) -> Optional[float]:
        """Return the mean power since the last reading, by the counter of energy; without one, that of now."""
        if self._ask("nvmlDeviceGetTotalEnergyConsumption", ctypes.byref(self._energy)):
            before, self._before = self._before, (now, self._energy.value)
            if before is not None and now > before[0] and self._energy.value >= before[1]:
                return (self._energy.value - before[1]) / 1000.0 / (now - before[0])
        return self._number.value / 1000.0 if self._ask("nvmlDeviceGetPowerUsage", ctypes.byref(self._number)) else None

    def _ask_memory(self) -> Optional[Tuple[float, float]]:
        self._memory.version = _MEMORY_V2
        if self._ask("nvmlDeviceGetMemoryInfo_v2", ctypes.byref(self._memory)):
            return self._memory.used / 1048576.0, self._memory.total / 1048576.0
        if self._ask("nvmlDeviceGetMemoryInfo", ctypes.byref(self._memory_old)):
            return self._memory_old.used / 1048576.0, self._memory_old.total / 1048576.0
        return None

    def _count_processes(self, now: float) -> Optional[float]:
        if now - self._processes_at < _PROCESSES_EVERY:
            return self._processes
        self._processes_at = now
        infos = (NvmlProcess * 64)()
        self._number.value = 64
        name = "nvmlDeviceGetComputeRunningProcesses_v3"
        if not hasattr(self._lib, name):
            name = "nvmlDeviceGetComputeRunningProcesses_v2"
        self._processes = float(self._number.value) if self._ask(name, ctypes.byref(self._number), infos) else None
        return self._processes

    # What the driver doesn't know of, or the card can't tell, is unknown; that a call fails is said once.
    def _ask(self, name: str, *args: Any) -> bool:
        function = getattr(self._lib, name, None)
        code = 13 if function is None else function(self._handle, *args)  # NVML_ERROR_FUNCTION_NOT_FOUND
        if code and name not in self._failing:
            self._failing.add(name)
            if code not in (3, 13):  # NVML_ERROR_NOT_SUPPORTED
                complain("GPU: %s: %s" % (name, (self._lib.nvmlErrorString(code) or b"").decode("utf-8", "replace")))
        return not code

    def _text(self, name: str) -> Optional[str]:
        found = ctypes.create_string_buffer(96)
        return found.value.decode("utf-8", "replace") if self._ask(name, found, ctypes.c_uint(96)) else None

    # ---- GPM: how much of the GPU works, not only whether a kernel runs ----------------------------

    def _begin_gpm(self) -> Optional[List[Any]]:
        support = GpmSupport(1, 0)
        if not self._ask("nvmlGpmQueryDeviceSupport", ctypes.byref(support)) or not support.isSupportedDevice:
            return None
        samples = [ctypes.c_void_p(), ctypes.c_void_p()]
        for sample in samples:
            self._nvml._call("nvmlGpmSampleAlloc", ctypes.byref(sample))
        metrics = GpmMetrics(version=1, numMetrics=len(GPM_METRICS))
        for place, metric in enumerate(GPM_METRICS):
            metrics.metrics[place].metricId = metric
        is_begun = self._ask("nvmlGpmSampleGet", samples[0])
        return [samples, metrics] if is_begun else None

    def _ask_gpm(self) -> Values:
        unknown: Values = [None] * len(GPM_METRICS)
        if self._gpm is None:
            return unknown
        samples, metrics = self._gpm
        if not self._ask("nvmlGpmSampleGet", samples[1]):
            return unknown
        metrics.sample1, metrics.sample2 = samples[0].value, samples[1].value
        samples.reverse()
        if self._lib.nvmlGpmMetricsGet(ctypes.byref(metrics)):
            return unknown
        asked = [metrics.metrics[place] for place in range(len(GPM_METRICS))]
        return [None if metric.nvmlReturn else metric.value for metric in asked]


# ---- NVIDIA without the library, and AMD ----------------------------------------------------------


class NvidiaSmi:
    """GPUs by ``nvidia-smi``, where NVML's library can't be loaded: one process that goes on telling."""

    name = "nvidia-smi"
    _ASKED = "index,uuid,name,memory.total,utilization.gpu,utilization.memory,memory.used,power.draw,temperature.gpu"

    def __init__(self, every: float = 1.0) -> None:
        argv = ["nvidia-smi", "--query-gpu=" + self._ASKED, "--format=csv,noheader,nounits"]
        done = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = done.communicate(timeout=60)
        if done.returncode:
            raise OSError(errno.EIO, (errors or output).decode("utf-8", "replace").strip())
        rows = [self._row(line) for line in output.splitlines()]
        self._rows = {row[0]: row for row in rows if row is not None}
        self._wanted = sorted(self._rows, key=int)
        self._unread = b""
        loop = ["--loop-ms=%d" % max(200, int(every * 1000))]
        self._process = subprocess.Popen(argv + loop, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=end_with_parent)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    @property
    def devices(self) -> List[Dict[str, Any]]:
        rows = [self._rows[index] for index in self._wanted]
        return [{"index": int(row[0]), "uuid": row[1], "name": row[2], "memory": number(row[3])} for row in rows]

    def choose(self, wanted: List[int]) -> None:
        self._wanted = [self._wanted[place] for place in wanted]

    def read(self, now: float) -> List[Values]:
        assert self._process.stdout is not None
        try:
            self._unread += os.read(self._process.stdout.fileno(), 1 << 20)
        except BlockingIOError:
            pass
        lines = self._unread.split(b"\n")
        self._unread = lines.pop()
        for line in lines:
            row = self._row(line)
            if row is not None:
                self._rows[row[0]] = row
        if self._process.poll() is not None:  # what it said last is no news
            return [[None] * len(GPU) for _ in self._wanted]
        found = []
        for index in self._wanted:
            busy, copying, memory, power, temperature = map(number, self._rows[index][4:9])
            found.append([busy, copying, None, None, None, None, memory, power, temperature, None])
        return found

    @staticmethod
    def _row(line: bytes) -> Optional[List[str]]:
        cells = [cell.strip() for cell in line.decode("utf-8", "replace").split(",")]
        return cells if len(cells) == 9 and cells[0].isdigit() else None


class AmdSysfs:
    """AMD's GPUs, as the kernel's amdgpu driver shows them: where AMD's own tools read them, too."""

    name = "amdgpu"

    def __init__(self, root: str = "/sys/class/drm") -> None:
        self._gpus = []
        for path in sorted(glob.glob(root + "/card*/device/gpu_busy_percent"), key=lambda path: int(re.findall(r"card(\d+)/", path)[-1])):
            folder = os.path.dirname(path)
            sensors = glob.glob(folder + "/hwmon/hwmon*")
            self._gpus.append((folder, sensors[0] if sensors else ""))
        if not self._gpus:
            raise OSError(errno.ENODEV, "no AMD GPU")
        self.devices = [self._device(index, folder) for index, (folder, _) in enumerate(self._gpus)]

    @staticmethod
    def _device(index: int, folder: str) -> Dict[str, Any]:
        total = number_in(folder + "/mem_info_vram_total")
        name = read_text(folder + "/product_name").strip() or "AMD " + read_text(folder + "/device").strip()
        return {
            "index": index,
            "uuid": read_text(folder + "/unique_id").strip() or os.path.basename(os.path.realpath(folder)),
            "name": name,
            "memory": None if total is None else total / 1048576.0,
        }

    def choose(self, wanted: List[int]) -> None:
        self._gpus = [self._gpus[place] for place in wanted]
        self.devices = [self.devices[place] for place in wanted]

    def read(self, now: float) -> List[Values]:
        found = []
        for folder, sensor in self._gpus:
            memory = number_in(folder + "/mem_info_vram_used")
            power = number_in(sensor + "/power1_average")  # µW; newer cards have power1_input alone
            power = number_in(sensor + "/power1_input") if power is None else power
            heat = number_in(sensor + "/temp1_input")  # m°C
            used = None if memory is None else memory / 1048576.0
            busy, copying = number_in(folder + "/gpu_busy_percent"), number_in(folder + "/mem_busy_percent")
            watts, degrees = None if power is None else power / 1e6, None if heat is None else heat / 1000.0
            found.append([busy, copying, None, None, None, None, used, watts, degrees, None])
        return found


class AmdSmi:
    """AMD's GPUs by the Python module ``amdsmi``, which ROCm brings."""

    name = "amdsmi"
    FOLDER = "/opt/rocm/share/amd_smi"

    def __init__(self) -> None:
        if os.path.isdir(self.FOLDER):
            sys.path.append(self.FOLDER)
        import amdsmi

        self._smi = amdsmi
        try:
            amdsmi.amdsmi_init()
            self._handles = list(amdsmi.amdsmi_get_processor_handles())
        except amdsmi.AmdSmiException as error:
            raise OSError(errno.ENODEV, str(error)) from error
        if not self._handles:
            raise OSError(errno.ENODEV, "no AMD GPU")
        self.devices = [self._device(index, handle) for index, handle in enumerate(self._handles)]

    def _device(self, index: int, handle: Any) -> Dict[str, Any]:
        asic = self._smi.amdsmi_get_gpu_asic_info(handle)
        return {
            "index": index,
            "uuid": self._smi.amdsmi_get_gpu_device_uuid(handle),
            "name": asic.get("market_name"),
            "memory": number(self._smi.amdsmi_get_gpu_vram_usage(handle).get("vram_total")),
        }

    def choose(self, wanted: List[int]) -> None:
        self._handles = [self._handles[place] for place in wanted]
        self.devices = [self.devices[place] for place in wanted]

    def read(self, now: float) -> List[Values]:
        smi, found = self._smi, []
        for handle in self._handles:
            activity = self._ask(smi.amdsmi_get_gpu_activity, handle)
            memory = self._ask(smi.amdsmi_get_gpu_vram_usage, handle)
            told = self._ask(smi.amdsmi_get_power_info, handle)
            power = number(told.get("average_socket_power"))
            power = number(told.get("current_socket_power")) if power is None else power
            try:
                kinds = smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
                heat = number(smi.amdsmi_get_temp_metric(handle, *kinds))
            except smi.AmdSmiException:
                heat = None
            busy, copying = number(activity.get("gfx_activity")), number(activity.get("umc_activity"))
            found.append([busy, copying, None, None, None, None, number(memory.get("vram_used")), power, heat, None])
        return found

    def _ask(self, question: Any, handle: Any) -> Dict[str, Any]:
        try:
            return question(handle)  # type: ignore[no-any-return]
        except self._smi.AmdSmiException:
            return {}


class NoGpu:
    """A node without GPUs, or none that can be looked at."""

    name = ""
    devices: List[Dict[str, Any]] = []

    def read(self, now: float) -> List[Values]:
        return []


def find_gpus(every: float) -> Any:
    """Return the first source of GPUs that answers, reduced to those of the job."""
    wanted = visible_gpus(os.environ)
    if wanted == []:
        return NoGpu()
    for source in (Nvml, lambda: NvidiaSmi(every), AmdSmi, AmdSysfs):
        try:
            found = source()
        except (OSError, ImportError, AttributeError, KeyError, _NvmlError, subprocess.SubprocessError):
            continue  # not this one: there is no such library, module or program here, or it finds no card
        if found.devices:
            if wanted is not None:
                found.choose(places(wanted, found.devices))
            return found
    return NoGpu()


def visible_gpus(environment: Any) -> Optional[List[str]]:
    """Return the names of the job's GPUs; None where all that can be seen are meant, none where it has none."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        if name in environment:
            return [word.strip() for word in environment[name].split(",") if word.strip() and word.strip() not in ("-1", "NoDevFiles")]
    # A job of a Slurm that was given none must not be told of its neighbours'.
    is_in_slurm = "SLURM_JOB_ID" in environment and environment.get("SLURM_CLUSTER_NAME") != "local"
    return [] if is_in_slurm else None


def places(wanted: List[str], devices: List[Dict[str, Any]]) -> List[int]:
    """Find the job's GPUs among the devices; all of them where a name is not understood (a MIG slice, say)."""
    found = []
    for word in wanted:
        matching = [
            place
            for place, device in enumerate(devices)
            if (word.isdigit() and int(word) == device["index"]) or (not word.isdigit() and str(device["uuid"]).startswith(word))
        ]
        if len(matching) != 1:
            return list(range(len(devices)))
        found += matching
    return found


# ---- the node and the job ------------------------------------------------------------------------


def read_text(path: str) -> str:
    """Return a small file's text; nothing where it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def number(text: Any) -> Optional[float]:
    """Read a number; None for what is none, as nvidia-smi's [N/A]."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def number_in(path: str) -> Optional[float]:
    """Read the number that a file holds."""
    return number(read_text(path).strip())


class _File:
    """A file of /proc that stays open: reading it again costs one call."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def read(self) -> bytes:
        if self._fd < 0:
            return b""
        try:
            return os.pread(self._fd, 1 << 16, 0)
        except OSError:
            return b""


class Node:
    """The whole machine, as /proc has it."""

    def __init__(self) -> None:
        self._stat, self._memory, self._load = _File("/proc/stat"), _File("/proc/meminfo"), _File("/proc/loadavg")
        self._disks, self._net = _File("/proc/diskstats"), _File("/proc/net/dev")
        self._whole_disks = {os.path.basename(path).encode() for path in glob.glob("/sys/block/*") if os.path.exists(path + "/device")}
        links = [path for path in glob.glob("/sys/class/net/*") if os.path.basename(path) != "lo"]
        devices = [path for path in links if os.path.exists(path + "/device")] or links  # a container has no device of its own
        self._links = {os.path.basename(path).encode() for path in devices}
        ports = sorted(glob.glob("/sys/class/infiniband/*/ports/*/counters"))
        self._ports = [(_File(port + "/port_rcv_data"), _File(port + "/port_xmit_data")) for port in ports]
        self._before = self._counters()
        self.ram = self._ram()[1]

    def _counters(self) -> Tuple[List[int], List[float]]:
        times = [int(word) for word in self._stat.read().split(b"\n", 1)[0].split()[1:9]]
        read = written = received = sent = 0.0
        for line in self._disks.read().splitlines():
            words = line.split()
            if len(words) > 9 and words[2] in self._whole_disks:
                read += int(words[5]) / 2.0  # sectors of 512 bytes, on every disk
                written += int(words[9]) / 2.0
        for line in self._net.read().splitlines()[2:]:
            name, _, rest = line.partition(b":")
            words = rest.split()
            if name.strip() in self._links and len(words) > 8:
                received += int(words[0]) / 1024.0
                sent += int(words[8]) / 1024.0
        for incoming, outgoing in self._ports:
            received += (number(incoming.read()) or 0.0) / 256.0  # words of four bytes
            sent += (number(outgoing.read()) or 0.0) / 256.0
        return times, [read, written, received, sent]

    def _ram(self) -> Tuple[Optional[float], Optional[float]]:
        found = {}
        for line in self._memory.read().split(b"\n", 5)[:5]:
            words = line.split()
            if len(words) > 1:
                found[words[0]] = int(words[1]) / 1024.0
        total, free = found.get(b"MemTotal:"), found.get(b"MemAvailable:")
        return (None if total is None or free is None else total - free), total

    def read(self, seconds: float) -> Values:
        """Return `cpu` to `net_sent`, since the last reading."""
        (before, amounts_before), (times, amounts) = self._before, self._counters()
        self._before = (times, amounts)
        spent = [now - then for now, then in zip(times, before)]
        total = sum(spent)
        cpu: Optional[float] = None
        iowait: Optional[float] = None
        if total > 0 and len(spent) > 4:
            iowait = 100.0 * max(0, spent[4]) / total
            cpu = 100.0 * (total - spent[3] - spent[4]) / total
        rates = [max(0.0, now - then) / seconds for now, then in zip(amounts, amounts_before)]  # a disk may have gone
        load = number((self._load.read().split() or [b""])[0])
        return [cpu, iowait, self._ram()[0], load, *rates]


class Cgroup:
    """The job's own control group, of version 2 or 1, as Slurm makes it."""

    def __init__(self, cgroups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> None:
        folders = {}
        for line in read_text(cgroups).splitlines():
            _, controllers, path = line.split(":", 2)
            match = re.match(r"(.*/job_\d+)(/|$)", path)  # of the whole job on this node, not of its batch step alone
            if match:
                for controller in controllers.split(","):
                    folders[controller] = match.group(1)
        unified = os.path.join(root, folders[""].lstrip("/")) if "" in folders else ""
        if unified and os.path.exists(unified + "/memory.current"):
            memory, cpu, names = unified, unified, ("memory.current", "memory.peak", "memory.max")
        elif "memory" in folders:
            memory = os.path.join(root, "memory", folders["memory"].lstrip("/"))
            names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes")
            cpu = os.path.join(root, "cpuacct", folders.get("cpuacct", "").lstrip("/"))
        else:
            raise OSError(errno.ENOENT, "no control group of a job")
        self._used, self._peak = _File(memory + "/" + names[0]), _File(memory + "/" + names[1])
        self._stat = _File(memory + "/memory.stat")
        self._usec, self._nsec = _File(cpu + "/cpu.stat"), _File(cpu + "/cpuacct.usage")
        limit = number_in(memory + "/" + names[2])
        self.limit = limit / 1048576.0 if limit is not None and limit < 1 << 60 else None

    def read(self) -> Tuple[Optional[float], Optional[float], Optional[float]]:
        """Return seconds of CPU so far, MiB in use without page cache, and at most."""
        stat = dict(line.split()[:2] for line in self._stat.read().splitlines() if b" " in line)
        cached = sum(int(stat.get(b"total_" + name, stat.get(name, 0))) for name in (b"active_file", b"inactive_file"))
        used, peak = number(self._used.read()), number(self._peak.read())
        told = re.search(rb"^usage_usec (\d+)", self._usec.read(), re.MULTILINE)
        nanoseconds = number(self._nsec.read())
        cpu = int(told.group(1)) / 1e6 if told else None if nanoseconds is None else nanoseconds / 1e9
        return cpu, None if used is None else max(0.0, used - cached) / 1048576.0, None if peak is None else peak / 1048576.0


class Tree:
    """The shell that started this and all that came of it, where there is no control group of a job."""

    limit = None

    def __init__(self, shell: int) -> None:
        self._shell = shell
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        self._page = os.sysconf("SC_PAGE_SIZE") / 1048576.0
        self._peak = 0.0

    def read(self) -> Tuple[Optional[float], Optional[float], Optional[float]]:
        ticks, ram, waiting, own = 0, 0.0, [self._shell], os.getpid()
        while waiting:
            pid = waiting.pop()
            stat = read_text("/proc/%d/stat" % pid).rpartition(")")[2].split()
            if len(stat) < 22 or pid == own:
                continue
            ticks += sum(int(word) for word in stat[11:15])  # its own, and of children that have ended
            ram += int(stat[21]) * self._page
            for children in glob.glob("/proc/%d/task/*/children" % pid):
                waiting += [int(word) for word in read_text(children).split()]
        if not ram:  # the shell is gone
            return None, None, None
        self._peak = max(self._peak, ram)
        return ticks / self._ticks, ram, self._peak


class NoJob:
    """Nobody's job: a look at the machine."""

    limit = None

    def read(self) -> Tuple[Optional[float], Optional[float], Optional[float]]:
        return None, None, None


class Sampler:
    """Everything together."""

    def __init__(self, every: float, shell: Optional[int] = None) -> None:
        self.gpus = find_gpus(every)
        self.node = Node()
        self.job: Any = NoJob()
        try:
            self.job = Cgroup()
        except OSError:
            if shell is not None:
                self.job = Tree(shell)
        self._cpu = self.job.read()[0]
        self._at = time.monotonic()
        self.gpus.read(self._at)  # counters begin here

    def read(self) -> Sample:
        """Return what happened since the last reading."""
        at, now = time.monotonic(), time.time()
        seconds = max(1e-3, at - self._at)
        cpu, ram, peak = self.job.read()
        cores = None if cpu is None or self._cpu is None else max(0.0, cpu - self._cpu) / seconds
        self._cpu, self._at = cpu, at
        whole = int(now)
        node = [float(whole), (now - whole) * 1000.0, seconds, *self.node.read(seconds), cores, ram, peak]
        return node, self.gpus.read(at)

    def header(self) -> Dict[str, Any]:
        """Say what doesn't change."""
        limit = self.job.limit
        megabytes = number(os.environ.get("SLURM_MEM_PER_NODE"))  # 0 means all
        return {
            "nexa": 1,
            "node": node_name(),
            "cores": count_cores(),
            "ram": self.node.ram,
            "ram_limit": limit if limit is not None else megabytes or None,
            "source": self.gpus.name,
            "gpus": self.gpus.devices,
        }


def node_name() -> str:
    """Return the node's name, as Slurm has it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def count_cores() -> int:
    """Count the cores that the job was given on this node."""
    for name in ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0))


# ---- the file ------------------------------------------------------------------------------------


class Store:
    """The file of samples, which has a limit.

    Parameters
    ----------
    prefix : str
        What its path begins with.
    most : int
        Bytes that it may have.
    """

    def __init__(self, prefix: str, header: Dict[str, Any], most: int) -> None:
        self._prefix = "%s@%s" % (prefix, header["node"].replace("/", "_"))
        self._header, self._most = header, most
        paths = [path for path in glob.glob(glob.escape(self._prefix) + ".*.samples") if path.split(".")[-2].isdigit()]
        there = {int(path.split(".")[-2]): path for path in paths}
        self._halvings = max(there) if there else 0  # of an attempt before a requeue
        for halvings, path in there.items():
            if halvings != self._halvings:  # it was halved, and had not gone yet
                os.unlink(path)
        self._waiting: List[Sample] = []
        self._lines = 0
        self._is_cut = False
        self._open()
        self._begin()

    def _path(self, halvings: int) -> str:
        return "%s.%d.samples" % (self._prefix, halvings)

    def _open(self) -> None:
        self._fd = os.open(self._path(self._halvings), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._fd).st_size
        self._is_cut = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"

    def _begin(self) -> None:
        """Write the header, and compare this clock with that of the file's server: nodes may disagree."""
        self._append(self._header_line())
        os.fsync(self._fd)
        self._header["skew"] = round(time.time() - os.fstat(self._fd).st_mtime, 1)
        if abs(self._header["skew"]) >= 1:
            self._append(self._header_line())

    def _header_line(self) -> bytes:
        return json.dumps(self._header).encode() + b"\n"

    def add(self, sample: Sample) -> None:
        """Keep a sample; after halvings, as one with those that follow."""
        self._waiting.append(sample)
        if len(self._waiting) >= 1 << self._halvings:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        whole = self._waiting[0]
        for sample in self._waiting[1:]:
            whole = merge(whole, sample)
        self._waiting = []
        line = encode(whole)
        if self._size + len(line) > self._most:
            self._halve()
        self._append(line)
        self._lines += 1
        if self._lines % HEADER_EVERY == 0:
            self._append(self._header_line())

    def _append(self, line: bytes) -> None:
        whole = b"\n" + line if self._is_cut else line
        written = os.write(self._fd, whole)
        self._size += written
        self._is_cut = written < len(whole)  # the disk is full: the next one begins on a new line
        if self._is_cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _halve(self) -> None:
        """Write the file anew, two samples as one; the old one goes when the new one is whole."""
        lines = os.pread(self._fd, self._size, 0).splitlines(True)
        kept: List[bytes] = []
        before: Optional[Sample] = None
        header = b""
        self._halvings += 1
        for line in lines:
            if line.startswith(b"{"):
                if line.endswith(b"}\n") and line != header:  # of another attempt; else it is said already
                    header = line
                    kept.append(line)
                continue
            try:
                sample = decode(line)
            except ValueError:  # half a line
                continue
            if before is None:
                before = sample
            else:
                kept.append(encode(merge(before, sample)))
                before = None
        if before is not None:
            kept.append(encode(before))
        old, part = self._path(self._halvings - 1), self._path(self._halvings) + ".part"
        try:
            with open(part, "wb") as file:
                file.writelines(kept)
            os.rename(part, self._path(self._halvings))
        except OSError:
            self._halvings -= 1
            raise
        os.close(self._fd)
        os.unlink(old)
        self._open()


# ---- being beside --------------------------------------------------------------------------------

ENDED = signal.SIGRTMIN  # what the kernel sends when the shell has ended


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send a signal when the parent ends, however it does: prctl(PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)


def complain(words: str) -> None:
    """Write down what went wrong, in the agent's own file."""
    try:
        sys.stderr.write("%s %s\n" % (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), words))
        sys.stderr.flush()
    except OSError:
        pass  # the disk is full: nobody can be told


def leave() -> None:
    """Take the file of mistakes away, if there were none."""
    try:
        path = os.readlink("/proc/self/fd/2")
        if path.endswith(".err") and not os.fstat(2).st_size:
            os.unlink(path)
    except OSError:
        pass  # it is gone, or stays


def follow(prefix: str, every: float, most: int, shell: Optional[int]) -> None:
    """Sample until the shell ends; without one, until TERM comes."""
    os.nice(19)
    os.closerange(3, 4096)  # locks of cores and GPUs, say, which only the program's own processes may hold
    prefix = os.path.abspath(prefix)
    os.chdir("/")
    for unheard in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # for the program
        signal.signal(unheard, signal.SIG_IGN)
    ends = {ENDED}
    if shell is None:
        ends.add(signal.SIGTERM)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the program may take its time to end, and is watched meanwhile
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    if shell is not None:
        end_with_parent(ENDED)
        if os.getppid() != shell:
            return
    sampler = Sampler(every, shell)
    store = Store(prefix, sampler.header(), most)
    due, failing = time.monotonic() + min(every, 1.0), ""
    while True:
        told = signal.sigtimedwait(ends, max(0.0, due - time.monotonic()))
        is_over = told is not None or (shell is not None and os.getppid() != shell)
        try:
            sample = sampler.read()
            if not is_over or (sample[0][2] or 0.0) >= 0.05:
                store.add(sample)
            if is_over:
                store.flush()
            failing = ""
        except OSError as error:  # a full disk, an overrun quota: it may pass
            if str(error) != failing:
                failing = str(error)
                complain("a sample is lost: %s" % failing)
        if is_over:
            leave()
            return
        due += every
        if due < time.monotonic():  # suspended, or the machine was: what was missed is missed
            due = time.monotonic() + every


def once(seconds: float = 0.5) -> None:
    """Write one sample to stdout, as one line: the header, with the sample in it."""
    sampler = Sampler(seconds)
    time.sleep(seconds)
    sample = sampler.read()
    sys.stdout.write(json.dumps(dict(sampler.header(), sample=encode(sample).decode().strip())) + "\n")


def show(path: str) -> None:
    """Print a file of samples as text."""
    with open(path, "rb") as file:
        for line in file:
            try:
                node, gpus = decode(line)
            except ValueError:
                sys.stdout.write(line.decode("utf-8", "replace"))
                continue
            told = dict(zip([field[0] for field in NODE], node))
            words = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(told.pop("seconds") or 0.0))]
            told.pop("millis")
            words += ["%s=%g" % (name, value) for name, value in told.items() if value is not None]
            for place, gpu in enumerate(gpus):
                named = zip([field[0] for field in GPU], gpu)
                words.append("gpu%d[%s]" % (place, " ".join("%s=%g" % (name, value) for name, value in named if value is not None)))
            sys.stdout.write(" ".join(words) + "\n")


def main(argv: List[str]) -> None:
    """Read the words of the command line."""
    options, words = {}, []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("--every", "--most", "--shell"):
            options[word] = rest.pop(0)
        else:
            words.append(word)
    if words == ["once"]:
        once()
    elif len(words) == 2 and words[0] == "show":
        show(words[1])
    elif len(words) == 2 and words[0] == "follow":
        shell = int(options["--shell"]) if "--shell" in options else None
        follow(words[1], float(options.get("--every", "1")), int(options.get("--most", "750000")), shell)
    else:
        sys.exit("usage: agent.py follow [--every SECONDS] [--most BYTES] [--shell PID] PREFIX | once | show FILE")


if __name__ == "__main__":
    main(sys.argv[1:])
