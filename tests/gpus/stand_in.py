"""GPUs on machines that have none: a library that answers NVML's interface, compiled when first asked for."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml_stand_in.c")


@cache
def library_folder() -> Path:
    """Return a folder with a ``libnvidia-ml.so.1``; for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = Path(tempfile.mkdtemp(prefix="nx-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", "-o", folder / "libnvidia-ml.so.1", SOURCE], check=True
    )
    return folder
