"""Log in: by the agent, by keys, by questions that the host asks."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from nexa_sdk.errors import LoginFailed, Unreachable

if TYPE_CHECKING:
    import paramiko

    from nexa_sdk.transports.ssh.config import SshSettings
    from nexa_sdk.transports.ssh.prompting import Ask

__all__ = ["A_PERSON", "Login"]

A_PERSON = 120.0  # seconds to find a one-time code
AN_AGENT = 10.0  # seconds to list its keys
ATTEMPTS = 3  # at a passphrase or a password that is mistyped


class Login:
    """The login at one host. Keys stay decrypted in memory, so that a line that went is renewed unasked; answers do not.

    Attributes
    ----------
    was_asked : bool
        Whether the host asked something that a person had to answer: the next login would ask again.
    """

    def __init__(self, settings: SshSettings, ask: Ask) -> None:
        self._settings = settings
        self._ask = ask
        self._decrypted: dict[str, paramiko.PKey] = {}
        self._agent_words = ""
        self.was_asked = self._was_refused = False

    def into(self, transport: paramiko.Transport) -> None:
        """Log in by whatever the host takes, several factors one after another if it wants them.

        Raises
        ------
        LoginFailed
            The host refused something.
        Unreachable
            The line went, or nobody answered, before anything was refused.
        """
        import paramiko

        user, host = self._settings.user, self._settings.address.host
        self._was_refused, self._agent_words = False, ""
        try:
            transport.auth_none(user)
        except paramiko.BadAuthenticationType as error:
            allowed = list(error.allowed_types)
        except paramiko.SSHException as error:
            raise self._ended("", error) from error
        ways = {"publickey": self._by_key, "keyboard-interactive": self._by_questions, "password": self._by_password}
        tried: list[str] = []
        self.was_asked = False
        while not transport.is_authenticated():
            method = next((name for name in self._settings.methods if name in allowed and name not in tried), None)
            if method is None:
                how = f"tried {', '.join(tried)}" if tried else "nothing was tried"
                raise LoginFailed(f"{host} lets {user} not in: it takes {', '.join(allowed) or 'nothing'}; {how}. {self._advice()}")
            try:
                left = ways[method](transport)
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise self._ended(f" by {method}", error) from error
            if left is None:
                self._was_refused = True
                tried.append(method)
            elif left:  # a further factor
                allowed, tried = list(left), []

    def _ended(self, how: str, error: Exception) -> Unreachable:
        """Say that a login was ended: a host that was cut off or hung is asked again by pollers, too; one that refused us is not."""
        kind = LoginFailed if self._was_refused else Unreachable
        return kind(f"{self._settings.address.host} ended the login of {self._settings.user}{how}: {error}")

    def _advice(self) -> str:
        files = [name for name in self._settings.identity_files if Path(name).is_file()]
        return f"Keys: {', '.join(files) or 'none of ' + ', '.join(self._settings.identity_files)}, and the agent's{self._agent_words}"

    def _by_key(self, transport: paramiko.Transport) -> Sequence[str] | None:
        import paramiko

        for key in self._keys():
            try:
                return transport.auth_publickey(self._settings.user, key)
            except paramiko.AuthenticationException as error:
                if not transport.is_active() or "timeout" in str(error):  # the host says nothing, to another key neither
                    raise
                self._was_refused = True
        return None

    def _keys(self) -> Iterator[paramiko.PKey]:
        """Yield keys: the agent's, those in files, then those that ask for a passphrase."""
        with contextlib.ExitStack() as agent:
            yield from self._keys_of(self._agent_keys(agent))

    def _keys_of(self, agents: Sequence[paramiko.PKey]) -> Iterator[paramiko.PKey]:
        files = [name for name in self._settings.identity_files if Path(name).is_file()]
        # the public key is enough to name one that the agent alone has
        of_files = {public for name in self._settings.identity_files if (public := _public(name))}
        offered: set[bytes] = set()
        for key in agents:
            if not self._settings.identities_only or key.get_base64() in of_files:
                offered.add(key.asbytes())
                yield key
        locked = []
        for name in files:
            loaded, is_locked = self._load(name)
            if is_locked:
                locked.append(name)
            elif loaded is not None and loaded.asbytes() not in offered:
                yield self._with_certificate(loaded)
        for name in locked:
            if any(key.get_base64() == _public(name) for key in agents):
                continue  # the agent has it, and it was refused
            yield self._with_certificate(self._unlock(name))

    def _agent_keys(self, ends: contextlib.ExitStack) -> Sequence[paramiko.PKey]:
        """Return the agent's keys, which sign until its line is closed."""
        import paramiko

        path = self._settings.identity_agent or os.environ.get("SSH_AUTH_SOCK") or "none"
        if path.lower() == "none":
            return ()
        agent = paramiko.agent.AgentSSH()
        line = ends.enter_context(socket.socket(socket.AF_UNIX))
        line.settimeout(AN_AGENT)
        try:
            line.connect(path)
        except OSError:
            return ()
        try:
            agent._connect(line)  # type: ignore[attr-defined]  # its public form knows no time limit, and $SSH_AUTH_SOCK alone
        except (OSError, paramiko.SSHException) as error:  # one that was forwarded, and whose line is dead
            self._agent_words = f"; the agent at {path} is left aside, it does not answer: {error}"
            return ()
        line.settimeout(A_PERSON)  # who may have to touch a key
        return agent.get_keys()

    def _load(self, name: str) -> tuple[paramiko.PKey | None, bool]:
        """Return a file's key, and whether it asks for a passphrase."""
        import paramiko

        if name in self._decrypted:
            return self._decrypted[name], False
        try:
            return _read_key(name, None), False
        except paramiko.PasswordRequiredException:
            return None, True
        except (ValueError, paramiko.SSHException, OSError):  # a kind that only the agent can use, say a hardware key's
            return None, False

    def _unlock(self, name: str) -> paramiko.PKey:
        import paramiko

        for _ in range(ATTEMPTS):
            passphrase = self._ask(f"Passphrase of {name}: ")
            try:
                self._decrypted[name] = _read_key(name, passphrase)
            except (ValueError, paramiko.SSHException):
                continue
            return self._decrypted[name]
        raise LoginFailed(f"none of {ATTEMPTS} passphrases was that of {name}")

    def _with_certificate(self, key: paramiko.PKey) -> paramiko.PKey:
        import paramiko

        for name in self._settings.certificate_files:
            with contextlib.suppress(ValueError, paramiko.SSHException, OSError):  # another key's
                key.load_certificate(name)
        return key

    def _by_questions(self, transport: paramiko.Transport) -> Sequence[str] | None:
        import paramiko

        for _ in range(ATTEMPTS):
            try:
                return self._answer(transport)
            except paramiko.AuthenticationException:
                if not self.was_asked or not transport.is_active():
                    return None
        return None

    def _answer(self, transport: paramiko.Transport) -> Sequence[str]:
        """Answer what the host asks, in the thread that logs in: only there a person can be asked, and paramiko asks in its own."""
        asked: queue.Queue[tuple[str, Sequence[tuple[str, bool]]] | None] = queue.Queue()
        answered: queue.Queue[list[str]] = queue.Queue()

        def hand_over(title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
            asked.put((" ".join(filter(None, (title.strip(), instructions.strip()))), questions))
            return answered.get()

        with ThreadPoolExecutor(1, thread_name_prefix="nexa-ssh-login") as pool:
            future = pool.submit(transport.auth_interactive, self._settings.user, hand_over)
            future.add_done_callback(lambda _: asked.put(None))
            try:
                while (item := asked.get()) is not None:
                    answered.put([self._put(item[0], question.strip(), shown=shown) for question, shown in item[1]])
            except BaseException:
                transport.close()
                answered.put([])
                raise
            return future.result()

    def _put(self, words: str, question: str, *, shown: bool) -> str:
        self.was_asked = True
        return self._ask(f"{self._settings.address.host}: {' '.join(filter(None, (words, question)))} ", shown=shown)

    def _by_password(self, transport: paramiko.Transport) -> Sequence[str] | None:
        import paramiko

        for _ in range(ATTEMPTS):
            self.was_asked = True
            try:
                return transport.auth_password(
                    self._settings.user, self._ask(f"Password of {self._settings.user} at {self._settings.address.host}: "), fallback=False
                )
            except paramiko.AuthenticationException:
                if not transport.is_active():
                    return None
        return None


def _read_key(name: str, passphrase: str | None) -> paramiko.PKey:
    """Read a key of whichever kind, with the certificate that lies beside it."""
    import paramiko

    problem: Exception | None = None
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            key = kind.from_private_key_file(name, passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (ValueError, paramiko.SSHException) as error:  # another kind, or another passphrase
            problem = error
            continue
        if Path(f"{name}-cert.pub").is_file():
            key.load_certificate(f"{name}-cert.pub")
        return key
    assert problem is not None
    raise problem


def _public(name: str) -> str:
    """Return the public key that lies beside a file, or is that file, as base64; nothing where there is none."""
    for path in (f"{name}.pub", name):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            words = Path(path).read_text().split()
            if len(words) > 1 and words[1].startswith("AAAA"):
                return words[1]
    return ""
