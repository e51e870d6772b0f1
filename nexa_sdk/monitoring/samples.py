"""Read what the agent writes: lines of samples, as arrays. Pure; whatever is cut or garbled is left out, and the rest stands."""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from nexa_sdk.monitoring import agent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GPU_FIELDS", "LARGEST_SKEW", "NODE_FIELDS", "Device", "Header", "SampleReader", "Series"]

LARGEST_SKEW = 2.0  # seconds that a node's clock may differ from the file server's before its times are mended

NODE_FIELDS = tuple(name for name, *_ in agent.NODE[3:])
GPU_FIELDS = tuple(name for name, *_ in agent.GPU)
_UNITS = {name: (letter, unit) for name, letter, unit, _ in (*agent.NODE, *agent.GPU)}
_LARGEST = {"B": 0xFF, "H": 0xFFFF, "I": 0xFFFFFFFF}
_NUMPY = {"B": "u1", "H": "<u2", "I": "<u4"}


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes
    ----------
    index : int
        As the node counts it.
    uuid, name : str
    memory : float or None
        MiB that it has.
    """

    index: int
    uuid: str = ""
    name: str = ""
    memory: float | None = None


@dataclass(frozen=True)
class Header:
    """What of a node does not change.

    Attributes
    ----------
    node : str
    cores : int or None
        Cores that the job has there.
    ram, ram_limit : float or None
        MiB of the node, and that the job may use.
    source : str
        What told of the GPUs; empty where there are none.
    devices : tuple of Device
    skew : float
        Seconds that the node's clock is ahead of the file server's.
    """

    node: str = ""
    cores: int | None = None
    ram: float | None = None
    ram_limit: float | None = None
    source: str = ""
    devices: tuple[Device, ...] = ()
    skew: float = 0.0

    @classmethod
    def read(cls, line: bytes) -> Header | None:
        """Read a header line; None for half of one."""
        try:
            told = json.loads(line)
            devices = tuple(
                Device(int(gpu["index"]), str(gpu.get("uuid") or ""), str(gpu.get("name") or ""), _number(gpu.get("memory")))
                for gpu in told["gpus"]
            )
            return cls(
                str(told["node"]),
                int(told["cores"]) if told.get("cores") is not None else None,
                _number(told.get("ram")),
                _number(told.get("ram_limit")),
                str(told.get("source") or ""),
                devices,
                _number(told.get("skew")) or 0.0,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def is_like(self, other: Header) -> bool:
        """Whether both tell of the same machine and GPUs."""
        return (self.node, self.cores, self.devices) == (other.node, other.cores, other.devices)


def _number(given: Any) -> float | None:
    return float(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else None


class Curves(Protocol):
    """The numbers of a series; each from the sample `begin` on."""

    def values(self, name: str, begin: int = 0) -> NDArray[np.float32]: ...
    def time(self, begin: int = 0) -> NDArray[np.float64]: ...
    def covers(self, begin: int = 0) -> NDArray[np.float32]: ...
    def count(self) -> int: ...


@dataclass
class Series:
    """The samples of one task on one node, as long as its GPUs are the same.

    Attributes
    ----------
    task : str
        ``<job>_<task>``; empty for a look at a machine.
    header : Header
    curves : Curves
    gpus : int
        How many GPUs each sample has.
    """

    task: str
    header: Header
    curves: Curves
    gpus: int

    def values(self, name: str, begin: int = 0) -> NDArray[np.float32]:
        """Return a field of :data:`NODE_FIELDS`, ``(n,)``, or of :data:`GPU_FIELDS`, ``(n, GPUs)``, in its natural unit; NaN is unknown."""
        return self.curves.values(name, begin)

    def time(self, begin: int = 0) -> NDArray[np.float64]:
        """Return the ends of the samples, in seconds since the epoch; ``(n,)``."""
        return self.curves.time(begin)

    def covers(self, begin: int = 0) -> NDArray[np.float32]:
        """Return the seconds that each sample stands for; ``(n,)``."""
        return self.curves.covers(begin)

    def count(self) -> int:
        """Return how many samples there are by now."""
        return self.curves.count()

    @property
    def node(self) -> str:
        """The node's name."""
        return self.header.node

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs; counted from 0 where the file's head is lost."""
        known = self.header.devices
        return known if len(known) == self.gpus else tuple(Device(index) for index in range(self.gpus))


@lru_cache(maxsize=32)
def _layout(gpus: int) -> Any:
    import numpy as np

    node = [(name, _NUMPY[letter]) for name, letter, *_ in agent.NODE]
    gpu = np.dtype([(name, _NUMPY[letter]) for name, letter, *_ in agent.GPU])
    return np.dtype([*node, ("gpus", gpu, (gpus,))])


class _Records:
    """Encoded samples of as many GPUs each; room for more is made in time."""

    def __init__(self, gpus: int, header: Header) -> None:
        import numpy as np

        self.header = header
        self._layout = _layout(gpus)
        self._bytes = np.empty(0, np.uint8)
        self._used = 0

    def extend(self, packed: bytes) -> None:
        import numpy as np

        size = self._layout.itemsize
        begin, end = self._used * size, self._used * size + len(packed)
        if end > len(self._bytes):
            # the first piece is all that there is by now, or the one that goes on to grow
            grown = np.empty(max(end + end // 8, 2 * len(self._bytes) if begin else end), np.uint8)
            grown[:begin] = self._bytes[:begin]
            self._bytes = grown
        self._bytes[begin:end] = np.frombuffer(packed, np.uint8)
        self._used = end // size

    def _records(self, begin: int) -> NDArray[Any]:
        size = self._layout.itemsize
        return self._bytes[begin * size : self._used * size].view(self._layout)

    def values(self, name: str, begin: int = 0) -> NDArray[np.float32]:
        import numpy as np

        letter, unit = _UNITS[name]
        used = self._records(begin)
        raw = used["gpus"][name] if name in GPU_FIELDS else used[name]
        found = raw.astype(np.float32)
        if unit != 1:
            found /= np.float32(unit)
        unknown = raw == _LARGEST[letter]
        if unknown.any():
            found[unknown] = np.nan
        return found

    def time(self, begin: int = 0) -> NDArray[np.float64]:
        import numpy as np

        used = self._records(begin)
        skew = self.header.skew if abs(self.header.skew) >= LARGEST_SKEW else 0.0
        return used["seconds"].astype(np.float64) + used["millis"] / 1000.0 - skew

    def covers(self, begin: int = 0) -> NDArray[np.float32]:
        return self.values("covers", begin)

    def count(self) -> int:
        return self._used


@dataclass
class SampleReader:
    """Reads one file of samples, as it grows.

    Attributes
    ----------
    task : str
    series : list of Series
    lost : int
        Lines that were no samples: cut, or garbled.
    """

    task: str = ""
    series: list[Series] = field(default_factory=list)
    lost: int = 0
    _rest: bytes = b""
    _header: Header = Header()
    _records: _Records | None = None
    _length: int = 0  # of a line, and what it begins with
    _begins: bytes = b""

    def feed(self, content: bytes, *, is_whole: bool = False) -> None:
        """Read on; the last line waits for its end, unless this is all there will be."""
        if self._rest:
            content = self._rest + content
        if is_whole and not content.endswith(b"\n"):
            content += b"\n"
        at = 0
        while True:
            if self._length and (lines := self._count_alike(content, at)):
                self._take(content, at, lines)
                at += lines * (self._length + 1)
            end = content.find(b"\n", at)
            if end < 0:
                break
            self._look(content[at:end])
            at = end + 1
        self._rest = content[at:]

    def _count_alike(self, content: bytes, at: int) -> int:
        """Count the lines from here on that have the length and the beginning of the last one."""
        import numpy as np

        step = self._length + 1
        if content[at : at + 2] != self._begins:
            return 0
        found = np.frombuffer(content, np.uint8, count=(len(content) - at) // step * step, offset=at).reshape(-1, step)
        is_other = (found[:, self._length] != 10) | (found[:, 0] != self._begins[0]) | (found[:, 1] != self._begins[1])
        return int(is_other.argmax()) if is_other.any() else len(found)

    def _look(self, line: bytes) -> None:
        """Read a line that is no sample like the ones before."""
        if line.startswith(b"{"):
            header = Header.read(line)
            if header is None:
                self.lost += 1
                return
            if self._records is not None and header.is_like(self._header):
                self._records.header = self._header = header
            else:
                self._header, self._records, self._length, self._begins = header, None, 0, b""
            return
        try:
            _, gpus = agent.decode(line)
        except ValueError:
            self.lost += bool(line)
            return
        self._begin(len(gpus), line)
        self._take(line + b"\n", 0, 1)

    def _begin(self, gpus: int, line: bytes) -> None:
        if self._records is None or self._begins != line[:2]:
            self._records = _Records(gpus, self._header)
            self.series.append(Series(self.task, self._header, self._records, gpus))
        self._length, self._begins = len(line), line[:2]

    def _take(self, content: bytes, at: int, lines: int) -> None:
        """Take lines of the same length, all at once."""
        import numpy as np

        assert self._records is not None
        step = self._length + 1
        found = np.frombuffer(content, np.uint8, count=lines * step, offset=at).reshape(-1, step)
        size = (self._length - 2) // 4 * 3
        try:
            packed = binascii.a2b_base64(found[:, 2 : self._length].tobytes())
        except binascii.Error:
            packed = b""
        if len(packed) != lines * size:  # some character is none of base64's
            packed = b"".join(self._packed(content[begin : begin + self._length]) for begin in range(at, at + lines * step, step))
        self._records.extend(packed)

    def _packed(self, line: bytes) -> bytes:
        try:
            agent.decode(line)
        except ValueError:
            self.lost += 1
            return b""
        return binascii.a2b_base64(line[2:])
