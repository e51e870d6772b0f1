"""Send a cell into its run's folder, before it is submitted."""

from __future__ import annotations

import io
import tarfile
import time
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterError, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexa_sdk.transports.base import Transport

__all__ = ["send_cell"]

MUCH = 1 << 20  # bytes, that had better hold up no question
TRANSFER = 7200.0  # seconds
ATTEMPTS = 3

# Whole or not at all: a name is given by rename, once all has arrived.
_TAKE = r"""
folder=$1 size=$2
mkdir -p -- "$folder" && cd -- "$folder" || exit 73
umask 077
part=cell.$$.part
trap 'rm -rf "$part"' EXIT
trap 'exit 143' HUP INT TERM
mkdir "$part" && cat > "$part/arrived.tar" || exit 73
[ "$(wc -c < "$part/arrived.tar")" -eq "$size" ] || { echo "the cell arrived cut short" >&2; exit 74; }
tar -xf "$part/arrived.tar" -C "$part" && rm -f "$part/arrived.tar" || exit 73
mv -T "$part" cell 2> /dev/null || [ -d cell ] || exit 73
"""


def send_cell(files: Mapping[str, bytes], transport: Transport, folder: str) -> None:
    """Lay a cell into its run's folder, readable by its owner alone; a line that goes meanwhile is tried again.

    Raises
    ------
    ClusterError
    """
    packed = _pack(files)
    way = transport.for_bulk() if len(packed) > MUCH else transport
    environment = transport.bare_environment()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            argv = ["sh", "-c", _TAKE, "nexa-cell", folder, str(len(packed))]
            answer = way.run(argv, env=environment, stdin=packed, timeout=TRANSFER)
        except ClusterError as error:
            if not error.may_pass or attempt == ATTEMPTS:
                raise
            time.sleep(attempt)
            way = transport.for_bulk() if way is not transport else transport
        else:
            if answer.returncode:
                raise CommandFailed("sh", answer.returncode, f"the cell can't be stored in {folder}: {answer.stderr.strip()}")
            return


def _pack(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
