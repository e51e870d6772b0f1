"""One connection to a host, shared by everybody in this process: opened when first needed, opened again when it dies."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nexa_sdk.errors import ClusterError, LoginFailed, Unreachable
from nexa_sdk.transports.ssh import host_keys
from nexa_sdk.transports.ssh.address import Address
from nexa_sdk.transports.ssh.config import SshSettings, resolve
from nexa_sdk.transports.ssh.login import A_PERSON, Login
from nexa_sdk.transports.ssh.prompting import Ask, ask
from nexa_sdk.transports.ssh.proxy_command import ProxyCommand

if TYPE_CHECKING:
    import paramiko

__all__ = ["Connection", "connection"]

SESSIONS = 10  # at once: sshd's MaxSessions unless its administrators chose another
KEEPALIVE = 15  # seconds
UNANSWERED = 10_000  # milliseconds after which what was sent and never acknowledged means a dead line (TCP_USER_TIMEOUT)
ALIVE = 5.0  # seconds that a living sshd has to answer a question about nothing
FORBIDDEN = 1  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED
SLEPT = 5.0  # seconds of a suspended machine after which a line is not trusted


def suspended() -> float:
    """Return the seconds that this machine has slept since it was started."""
    if not hasattr(time, "CLOCK_BOOTTIME"):  # macOS: its monotonic clock stands still, and nothing else tells
        return time.time() - time.monotonic()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Connection:
    """A connection to one host.

    Parameters
    ----------
    settings : SshSettings
    ask : callable
        Asks the user for a passphrase or a one-time code.
    suspended : callable
        Says how long this machine has slept.

    Attributes
    ----------
    logins : int
        How often it was logged in.
    """

    def __init__(self, settings: SshSettings, *, ask: Ask = ask, suspended: Callable[[], float] = suspended) -> None:
        self.settings = settings
        self.logins = 0
        self._login = Login(settings, ask)
        self._suspended = suspended
        self._lost_at: float | None = None
        self._refused = ""  # what the host said when it let nobody in
        self.forget()

    def forget(self) -> None:
        """Begin anew, without a word to the host; see :func:`_in_a_child`."""
        self._lock = threading.RLock()  # of opening
        self._free = threading.BoundedSemaphore(SESSIONS)
        self._transport: paramiko.Transport | None = None
        self._slept = 0.0
        self._failed: tuple[float, Unreachable] | None = None  # when nobody was there last, and why
        self._is_opening = False

    # ---- the line ------------------------------------------------------------------------------

    def open(self) -> paramiko.Transport:
        """Return the open transport; it is opened if need be.

        Raises
        ------
        Unreachable
            And its kinds: :class:`LoginFailed`, :class:`HostKeyUnknown`, :class:`HostKeyChanged`.
        """
        came = time.monotonic()
        with self._lock:
            if self._transport is not None and self._suspended() - self._slept > SLEPT:
                self._slept = self._suspended()
                self.check(self._transport)
            if self._transport is None or not self._transport.is_active():
                self._drop()
                if self._refused and threading.current_thread() is not threading.main_thread():
                    # A host locks out who knocks in vain too often: a person's next cell asks it again, no poller does.
                    raise LoginFailed(self._refused)
                if self._failed is not None and self._failed[0] >= came:  # who waited here has waited for that
                    raise self._failed[1].with_traceback(None)
                if self._is_opening:  # by this very thread
                    host = self.settings.address.host
                    raise ClusterError(f"the way to {host} leads through {host} itself: mend ProxyJump in the configuration of SSH")
                self._is_opening = True
                try:
                    self._transport = self._opened()
                except LoginFailed as error:
                    self._refused = str(error)
                    raise
                except Unreachable as error:
                    self._lost_at = self._lost_at or time.time()
                    if type(error) is Unreachable:
                        since = time.strftime("%H:%M:%S", time.localtime(self._lost_at))
                        problem = Unreachable(f"{self.settings.address.host} is not reachable since {since}: {error}")
                        self._failed = (time.monotonic(), problem)
                        raise problem from error
                    raise
                finally:
                    self._is_opening = False
                self._slept = self._suspended()
                self._lost_at, self._refused = None, ""
                self.logins += 1
            return self._transport

    def shown_key(self) -> paramiko.PKey:
        """Return the key that the host shows; nobody logs in."""
        with self._greeted() as transport:
            key = transport.get_remote_server_key()
            transport.close()
        return key

    def _opened(self) -> paramiko.Transport:
        with self._greeted() as transport:
            host_keys.check(self.settings, transport.get_remote_server_key())
            transport.auth_timeout = A_PERSON
            self._login.into(transport)
            transport.set_keepalive(KEEPALIVE)
        return transport

    @contextlib.contextmanager
    def _greeted(self) -> Iterator[paramiko.Transport]:
        """Reach the host and agree on how to talk; what fails until the block ends closes the line."""
        import paramiko

        host, settings = self.settings.address.host, self.settings
        line = transport = None
        try:
            line = self._line()
            if isinstance(line, socket.socket) and line.family in (socket.AF_INET, socket.AF_INET6):
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a command
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED)
            transport = paramiko.Transport(line)
            transport.banner_timeout = transport.auth_timeout = settings.connect_timeout
            self._allow(transport)
            transport.start_client(timeout=settings.connect_timeout)
            yield transport
        except ClusterError:
            self._close(transport, line)
            raise
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._close(transport, line)
            raise Unreachable(f"no SSH at {host} ({settings.hostname}, port {settings.port}): {error or type(error).__name__}") from error
        except BaseException:
            self._close(transport, line)
            raise

    @staticmethod
    def _close(*lines: Any) -> None:
        for line in lines:
            if line is not None:
                with contextlib.suppress(OSError, EOFError):
                    line.close()

    def _allow(self, transport: paramiko.Transport) -> None:
        """Restrict the algorithms to those of the configuration, and ask for a key of a kind that is known."""
        options = transport.get_security_options()
        for name, wanted in self.settings.algorithms:
            there = getattr(options, name)
            chosen = tuple(word for word in wanted if word in there)
            if not chosen:
                raise Unreachable(
                    f"the configuration of {self.settings.address.host} allows {', '.join(wanted)} alone as {name}; none is known here"
                )
            setattr(options, name, chosen)
        known = host_keys.known_types(self.settings)
        if "ssh-rsa" in known:
            known[:0] = ["rsa-sha2-512", "rsa-sha2-256"]
        options.key_types = tuple(sorted(options.key_types, key=lambda name: name not in known))

    def _line(self) -> Any:
        """Return what reaches the host's port: a socket, one to a command, or a channel through another host."""
        settings = self.settings
        if settings.proxy_command is not None:
            return ProxyCommand(settings.proxy_command)
        if settings.proxy_jump is not None:
            return self._through(settings.proxy_jump.split(","))
        families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
        problem: Exception | None = None
        try:
            found = socket.getaddrinfo(
                settings.hostname, settings.port, families.get(settings.address_family, socket.AF_UNSPEC), socket.SOCK_STREAM
            )
        except OSError as error:
            raise Unreachable(f"there is no host {settings.hostname!r}: {error}") from error
        for family, kind, protocol, _, address in found:
            line = socket.socket(family, kind, protocol)
            try:
                line.settimeout(settings.connect_timeout)
                if settings.bind_address:
                    line.bind((settings.bind_address, 0))
                line.connect(address)
                line.settimeout(None)
            except OSError as error:
                line.close()
                problem = error
            else:
                return line
        raise Unreachable(f"{settings.hostname}, port {settings.port}: {problem}") from problem

    def _through(self, jumps: list[str]) -> paramiko.Channel:
        hop = resolve(Address.read(jumps[-1]))
        if jumps[:-1]:  # the first is reached as its own configuration says
            hop = replace(hop, proxy_jump=",".join(jumps[:-1]), proxy_command=None)
        return connection(hop).reach(self.settings.hostname, self.settings.port, timeout=self.settings.connect_timeout)

    def reach(self, host: str, port: int, *, timeout: float) -> paramiko.Channel:
        """Return a line through this host to another; one of ours that turns out to be dead is opened again.

        Raises
        ------
        Unreachable
        """
        import paramiko

        for is_last in (False, True):
            transport = self.open()
            try:
                return transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=timeout)
            except (paramiko.SSHException, EOFError, OSError) as error:
                if is_last or isinstance(error, paramiko.ChannelException) or self.check(transport):
                    why = error or type(error).__name__
                    raise Unreachable(f"{self.settings.address.host} does not reach {host}, port {port}: {why}") from error
        raise AssertionError

    # ---- sessions ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def session(self, *, timeout: float) -> Iterator[paramiko.Channel]:
        """Give a session; at most ten are open at once, and who comes later waits.

        A line that turns out to be dead before anything was sent is opened again.

        Raises
        ------
        Unreachable
        """
        import paramiko

        if not self._free.acquire(timeout=timeout):
            raise Unreachable(f"{self.settings.address.host}: all {SESSIONS} sessions were busy for {timeout:g} seconds")
        try:
            channel = self._channel(timeout)
            try:
                yield channel
            finally:
                with contextlib.suppress(EOFError, OSError, paramiko.SSHException):  # the line may be dead
                    channel.close()
        finally:
            self._free.release()

    def _channel(self, timeout: float) -> paramiko.Channel:
        import paramiko

        deadline, broken = time.monotonic() + timeout, 0
        while True:
            transport = self.open()
            try:
                return _session_of(transport, min(timeout, self.settings.connect_timeout))
            except (paramiko.SSHException, EOFError, OSError) as error:
                # Refused: its administrators allow fewer, or one is only being closed. Else the line may be dead.
                is_alive = transport.is_active() and (isinstance(error, paramiko.ChannelException) or self.check(transport))
                broken += not is_alive
                if getattr(error, "code", None) == FORBIDDEN or broken > 1 or time.monotonic() > deadline:
                    raise Unreachable(f"{self.settings.address.host} opens no session: {error or type(error).__name__}") from error
                time.sleep(0.02)

    def check(self, transport: paramiko.Transport) -> bool:
        """Ask the host about nothing; a line on which nobody answers is closed."""
        answered = threading.Event()

        def question() -> None:
            with contextlib.suppress(Exception):
                transport.global_request("keepalive@openssh.com", wait=True)
                if transport.is_active():
                    answered.set()

        threading.Thread(target=question, name="nexa-ssh-alive", daemon=True).start()
        if answered.wait(ALIVE):
            return True
        transport.close()
        return False

    def renew(self) -> Connection:
        """Return a further connection to the same host, for bulk data, if it takes no person to log in again; else this one."""
        if self._login.was_asked:
            return self
        further = connection(self.settings, purpose="bulk")
        further._login = self._login  # with the keys whose passphrases were asked for
        return further

    def close(self) -> None:
        """Close it; the next question opens it again."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it has to say is in our errors

_connections: dict[tuple[SshSettings, str], Connection] = {}
_registry = threading.Lock()


def _session_of(transport: paramiko.Transport, timeout: float) -> paramiko.Channel:
    """Open a session; one that is interrupted on its way is closed when it is there, for its host counts it."""
    if threading.current_thread() is not threading.main_thread():  # no other is interrupted
        return transport.open_session(timeout=timeout)
    opened: Future[paramiko.Channel] = Future()

    def ask_for_it() -> None:
        try:
            opened.set_result(transport.open_session(timeout=timeout))
        except BaseException as error:  # noqa: BLE001  who waits gets it
            opened.set_exception(error)

    threading.Thread(target=ask_for_it, name="nexa-session", daemon=True).start()
    try:
        return opened.result()
    except KeyboardInterrupt:
        opened.add_done_callback(lambda done: None if done.exception() else done.result().close())
        raise


def connection(settings: SshSettings, *, purpose: str = "control") -> Connection:
    """Return this process's connection to a host."""
    key = (settings, purpose)
    with _registry:
        if key not in _connections:
            _connections[key] = Connection(settings)
        return _connections[key]


def _close_all() -> None:
    for known in list(_connections.values()):
        known.close()


_inherited: list[Any] = []  # of the parent: kept, for what paramiko does when they are collected is said to the host


def _in_a_child() -> None:
    """Leave the lines to the process that was forked: their sockets are shared, and whatever is said on them breaks them."""
    global _registry  # noqa: PLW0603  # it may have been held by a thread that there is not here
    _registry = threading.Lock()
    for known in _connections.values():
        transport = known._transport
        if transport is not None:
            _inherited.append(transport)
            if isinstance(transport.sock, socket.socket):
                transport.sock.close()  # this process's end alone
        known.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_in_a_child)
