"""A machine behind SSH, with its commands and files."""

from __future__ import annotations

import contextlib
import io
import select
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nexa_sdk.errors import ClusterNotFound, CommandFailed, CommandTimeout, ConnectionLost
from nexa_sdk.transports.base import MOST_AT_ONCE, Completed, Transport
from nexa_sdk.transports.ssh.remote import Started, find_start

if TYPE_CHECKING:
    import paramiko

    from nexa_sdk.transports.ssh.connection import Connection

__all__ = ["SshTransport"]

QUESTION = 60.0  # seconds for what only reads
STARTING = 5.0  # seconds that a command which is interrupted has to say which process it is
AT_ONCE = 1 << 16  # bytes that a session takes without being read from
_EXEC = 98  # SSH_MSG_CHANNEL_REQUEST

# Names by stdin, those that are there as a tar: one command for any number of files.
_READ_MANY = """
cd -- "$1" 2> /dev/null || exit 0
while IFS= read -r name; do if [ -f "./$name" ]; then printf './%s\\n' "$name"; fi; done | tar -czf - -T -
[ $? -le 1 ] # 1: a file grew meanwhile
"""

_END = 'kill -TERM -- "-$1" && sleep 1 && kill -KILL -- "-$1"'

_LIST = """cd -- "$1" 2> /dev/null || exit 0; for name in * .[!.]*; do [ ! -e "$name" ] || printf '%s\\0' "$name"; done"""

_READ = """[ ! -e "$1" ] || exec tail -c "+$2" -- "$1" """

# On stdin an offset and a path a line. However many files there are, one stat finds those that have grown.
# mawk, Debian's own, writes numbers beyond 2 GiB as 2.2e+09 unless it is told how.
_READ_ON = r"""
most=$1 mark=$2 asked=$(cat)
{
  printf '%s\n' "$asked"
  printf '%s\n' "$asked" | cut -d ' ' -f 2- | tr '\n' '\0' | xargs -0 stat -L -c '%s %n' -- 2> /dev/null
} | awk -v most="$most" '
  { n = $1 + 0; path = substr($0, length($1) + 2) }
  !(path in from) { from[path] = n; next }
  n > from[path] { printf "%.0f %.0f %s\n", from[path] + 1, (n - from[path] < most ? n - from[path] : most), path }
' | while read -r first count path; do
  printf '\n%s %s\n' "$mark" "$path"
  tail -c "+$first" -- "$path" | head -c "$count"
done
"""

# The environment of a login, where the cluster's commands are on PATH; a batch session's may lack them.
_LOGIN = r"""
if ! command -v sbatch > /dev/null 2>&1; then
  if type module > /dev/null 2>&1; then module load slurm > /dev/null 2>&1 || :; fi
  for folder in /opt/slurm/bin /usr/local/slurm/bin /usr/slurm/bin /opt/slurm/current/bin /usr/local/bin; do
    if ! command -v sbatch > /dev/null 2>&1 && [ -x "$folder/sbatch" ]; then PATH=$PATH:$folder; fi
  done
fi
export PATH
printf 'nexa-environment\n'
exec env -0
"""


class SshTransport(Transport):
    """The machine at the other end of a connection."""

    is_here = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.host = connection.settings.address.host
        self._environment: dict[str, str] | None = None
        self._asking = threading.Lock()

    # ---- commands ------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command to its end; see the base class."""
        code, output, errors = self._run(argv, env=env, stdin=stdin, timeout=timeout)
        answer = Completed(code, output.decode(errors="replace"), errors.decode(errors="replace"))
        if code == 127 and answer.stderr.startswith("env:"):
            raise ClusterNotFound(f"there is no program {argv[0]!r} on the PATH of {self.host}")
        return answer

    def _run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes = b"", timeout: float = QUESTION
    ) -> tuple[int, bytes, bytes]:
        """Run a command to its end, in the session's own environment unless `env` is given: exit status, stdout, stderr."""
        import paramiko

        started = Started(argv, env)
        output, errors = bytearray(), bytearray()
        channel = None
        try:
            with self.connection.session(timeout=timeout) as channel:
                deadline = time.monotonic() + timeout  # not before: a person may take a minute to find a one-time code
                try:
                    self._begin(channel, started, stdin)
                    for is_error, piece in self._pieces(channel, deadline):
                        (errors if is_error else output).extend(piece)
                except KeyboardInterrupt:
                    self._hear_start(channel, started, output)
                    raise
                # The exit status may be here before the last of what was printed: without the host's EOF that is cut.
                is_whole = channel.eof_received and channel.exit_status_ready()
                code = channel.recv_exit_status() if is_whole else -1
        except TimeoutError:
            self._give_up(channel, started, bytes(output))
            raise CommandTimeout(f"{argv[0]} on {self.host} did not answer within {timeout:g} seconds") from None
        except (paramiko.SSHException, EOFError, ConnectionError):
            code = -1
        except BaseException:  # Ctrl-C: leave nothing behind
            self._give_up(channel, started, bytes(output))
            raise
        if code == -1:
            raise ConnectionLost(f"the connection to {self.host} was lost while {argv[0]} ran there: it may go on, or have been done")
        start = find_start(started, bytes(output))
        if start is None:
            words = errors.decode(errors="replace").strip() or output.decode(errors="replace").strip()
            raise ClusterNotFound(f"{self.host} runs no commands, or has no bash: {words or f'exit status {code}'}")
        return code, bytes(output[start[1] :]), bytes(errors)

    def _begin(self, channel: paramiko.Channel, started: Started, stdin: bytes = b"") -> None:
        """Ask for the command and send its stdin in one go: waiting for the answer in between costs a round trip."""
        import paramiko

        request = paramiko.Message()
        request.add_byte(bytes([_EXEC]))
        request.add_int(channel.remote_chanid)
        request.add_string("exec")
        request.add_boolean(True)
        request.add_string(started.command)
        channel.transport._send_user_message(request)  # type: ignore[union-attr]  # exec_command() waits
        content = started.stdin + stdin
        if len(content) <= AT_ONCE:
            self._send(channel, content)
        else:
            threading.Thread(target=self._send, args=(channel, content), name="nexa-ssh-send", daemon=True).start()

    @staticmethod
    def _send(channel: paramiko.Channel, content: bytes) -> None:
        with contextlib.suppress(OSError, EOFError):  # it ended before it had read all, or the line went: seen by who reads
            view = memoryview(content)
            while view:
                view = view[channel.send(view[: 1 << 15]) :]  # type: ignore[arg-type]
            channel.shutdown_write()

    @staticmethod
    def _pieces(channel: paramiko.Channel, deadline: float) -> Iterator[tuple[bool, bytes]]:
        """Yield what a command prints, and whether it is on stderr, until it has ended or the line has."""
        bell = select.poll()
        bell.register(channel.fileno(), select.POLLIN)
        while True:
            if channel.recv_ready():
                yield False, channel.recv(1 << 17)
            elif channel.recv_stderr_ready():
                yield True, channel.recv_stderr(1 << 17)
            elif channel.closed:  # the host has closed it: until then it counts as open there
                if not channel.recv_ready() and not channel.recv_stderr_ready():
                    return
            else:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if channel.eof_received:  # the bell rings for ever then
                    time.sleep(0.001)
                else:
                    bell.poll(min(left, 1.0) * 1000)

    def _hear_start(self, channel: paramiko.Channel, started: Started, output: bytearray) -> None:
        """Hear which process a command is that was interrupted on its way there; once its session is closed nobody says it."""
        with contextlib.suppress(TimeoutError, OSError, EOFError):
            deadline = time.monotonic() + STARTING
            while find_start(started, bytes(output)) is None:
                is_error, piece = next(self._pieces(channel, deadline), (True, b""))
                if not piece:  # it is over
                    return
                output.extend(b"" if is_error else piece)

    def _give_up(self, channel: paramiko.Channel | None, started: Started, output: bytes) -> None:
        """End a command that took too long or was interrupted, as far as the host still answers; its own session is closed by now."""
        start = find_start(started, output)
        transport = channel.transport if channel is not None else None
        if transport is None or not transport.is_active() or not self.connection.check(transport) or start is None:
            return
        with contextlib.suppress(Exception), self.connection.session(timeout=5) as other:
            # sshd gives each command a session of its own: its process id is that of the group
            self._begin(other, Started(["bash", "--norc", "-c", _END, "nexa-end", str(start[0])], None))
            for _ in self._pieces(other, time.monotonic() + 5):
                pass

    def environment(self) -> dict[str, str]:
        """Return the environment of a login there; asked once."""
        with self._asking:
            if self._environment is None:
                told = self._ask(["bash", "-lc", _LOGIN]).decode(errors="surrogateescape")
                _, found, variables = told.partition("nexa-environment\n")
                if not found:
                    raise ClusterNotFound(f"a login shell on {self.host} ends before it tells its environment: look at its profile files")
                self._environment = dict(line.split("=", 1) for line in variables.split("\0") if "=" in line)
            return dict(self._environment)

    def _ask(self, argv: Sequence[str], *, stdin: bytes = b"") -> bytes:
        code, output, errors = self._run(argv, stdin=stdin)
        if code:
            raise CommandFailed(argv[0], code, f"{self.host}: {errors.decode(errors='replace')}")
        return output

    def for_bulk(self) -> SshTransport:
        """Return it over a further connection, if that takes no person; see the base class."""
        return SshTransport(self.connection.renew())

    # ---- files ---------------------------------------------------------------------------------

    def read(self, path: str, *, offset: int = 0) -> bytes:
        """Return a file from `offset` on; see the base class."""
        return self._ask(["sh", "-c", _READ, "nexa-read", path, str(offset + 1)])

    def read_on(self, offsets: Mapping[str, int]) -> dict[str, bytes]:
        """Return what files have beyond an offset, however many, in one command; see the base class."""
        if not offsets:
            return {}
        mark = uuid.uuid4().hex
        asked = "".join(f"{offset} {path}\n" for path, offset in offsets.items()).encode()
        told = self._ask(["sh", "-c", _READ_ON, "nexa-read", str(MOST_AT_ONCE), mark], stdin=asked)
        pieces = (piece.partition(b"\n") for piece in told.split(f"\n{mark} ".encode())[1:])
        return {path.decode(): content for path, _, content in pieces if content}

    def read_many(self, folder: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of the named files that are there."""
        if not names:
            return {}
        packed = self._ask(["sh", "-c", _READ_MANY, "nexa-read", folder], stdin="".join(f"{name}\n" for name in names).encode())
        if not packed:
            return {}
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            return {entry.name.removeprefix("./"): file.read() for entry in archive if (file := archive.extractfile(entry)) is not None}

    def list(self, folder: str) -> list[str]:
        """Name what lies in a folder; see the base class."""
        told = self._ask(["sh", "-c", _LIST, "nexa-list", folder])
        return [name.decode(errors="surrogateescape") for name in told.split(b"\0") if name]

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; one that is not there is no error."""
        if paths:
            self._ask(["xargs", "-0", "rm", "-f", "--"], stdin="\0".join(paths).encode())
