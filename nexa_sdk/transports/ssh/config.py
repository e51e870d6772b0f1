"""What ``~/.ssh/config`` says of a host, resolved by ``ssh -G``; by paramiko where there is no OpenSSH."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nexa_sdk.errors import ClusterError, InvalidInput
from nexa_sdk.transports.ssh.address import Address

__all__ = ["SshSettings", "config_options", "resolve"]


@dataclass(frozen=True)
class SshSettings:
    """How to reach one host. StrictHostKeyChecking is the one thing that is not followed: it is always strict.

    Attributes
    ----------
    address : Address
        As it was asked for.
    hostname, port, user
        What it comes to.
    host_key_alias : str, optional
        Under which name its key stands in the known hosts.
    known_hosts : tuple of Path
        Files with the keys of known hosts, the user's own first.
    own_known_hosts : Path, optional
        The one that a key which is accepted is written to.
    identity_files : tuple of str
    identities_only : bool
        Whether of the agent's keys only those of `identity_files` are offered.
    identity_agent : str, optional
        The agent's socket; "none" is that no agent is asked.
    proxy_jump, proxy_command : str, optional
    methods : tuple of str
        Ways to log in, in the order in which they are tried.
    connect_timeout : float
        Seconds.
    algorithms : tuple
        Those that are allowed, by kind: ``ciphers``, ``digests``, ``kex``, ``key_types``.
    """

    address: Address
    hostname: str
    port: int
    user: str
    host_key_alias: str | None
    known_hosts: tuple[Path, ...]
    own_known_hosts: Path | None
    identity_files: tuple[str, ...]
    identities_only: bool
    identity_agent: str | None
    proxy_jump: str | None
    proxy_command: str | None
    methods: tuple[str, ...]
    connect_timeout: float
    certificate_files: tuple[str, ...]
    address_family: str
    bind_address: str | None
    algorithms: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def known_as(self) -> str:
        """Return the host as known_hosts files write it."""
        if self.host_key_alias:  # it stands for the port, too
            return self.host_key_alias
        return self.hostname if self.port == 22 else f"[{self.hostname}]:{self.port}"


CONNECT = 15.0  # seconds, unless ConnectTimeout says otherwise
READING = 30.0  # seconds that ssh may take to read its configuration: it runs what Match exec names
METHODS = ("publickey", "keyboard-interactive", "password")


def config_options() -> list[str]:
    """Return the options that name another configuration than ``~/.ssh/config``: ``$NEXA_SSH_CONFIG``."""
    path = os.environ.get("NEXA_SSH_CONFIG")
    return ["-F", os.path.expanduser(path)] if path else []


def resolve(address: Address) -> SshSettings:
    """Find out how to reach a host.

    Raises
    ------
    InvalidInput
        Its name or its user, as the configuration has them, can't be meant.
    ClusterError
        The configuration can't be read.
    """
    options = _ask_openssh(address) if shutil.which("ssh") else _ask_paramiko(address)
    return _settings(address, options)


def _ask_openssh(address: Address) -> dict[str, list[str]]:
    argv = ["ssh", *config_options(), "-G"]
    argv += ["-l", address.user] if address.user else []
    argv += ["-p", str(address.port)] if address.port else []
    argv += ["--", address.host]
    try:
        answer = subprocess.run(
            argv, capture_output=True, encoding="utf-8", errors="surrogateescape", stdin=subprocess.DEVNULL, timeout=READING, check=False
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"ssh did not say within {READING:g} seconds what its configuration has for {address.host}: look at its lines Match exec"
        ) from None
    if answer.returncode:
        raise ClusterError(f"ssh can't make sense of its configuration for {address.host}: {answer.stderr.strip()}")
    found: dict[str, list[str]] = {}
    for line in answer.stdout.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return found


# What paramiko's reader of the configuration, and we, do understand.
_UNDERSTOOD = frozenset(
    "host match hostname port user identityfile identitiesonly identityagent proxyjump proxycommand hostkeyalias userknownhostsfile"
    " globalknownhostsfile connecttimeout preferredauthentications pubkeyauthentication passwordauthentication"
    " kbdinteractiveauthentication addressfamily bindaddress stricthostkeychecking serveraliveinterval serveralivecountmax"
    " controlmaster controlpath controlpersist forwardagent forwardx11 forwardx11trusted compression loglevel tcpkeepalive"
    " addkeystoagent hashknownhosts visualhostkey usekeychain ignoreunknown checkhostip sendenv setenv requesttty".split()
)


def _ask_paramiko(address: Address) -> dict[str, list[str]]:
    import paramiko

    path = Path(os.environ.get("NEXA_SSH_CONFIG") or Path.home() / ".ssh" / "config").expanduser()
    text = path.read_text() if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), 1):
        word = re.split(r"[\s=]", line.strip(), maxsplit=1)[0].lower()
        if word and not word.startswith("#") and word not in _UNDERSTOOD:
            raise ClusterError(
                f"{path}, line {number}: {word!r} is not understood without OpenSSH. "
                "Install its client, so that ssh reads its own configuration"
            )
    known = paramiko.SSHConfig.from_text(text).lookup(address.host)
    found = {name: list(value) if isinstance(value, list) else [str(value)] for name, value in known.items()}
    found["user"] = [address.user or (found.get("user") or [os.environ.get("USER") or Path.home().name])[0]]
    if address.port:
        found["port"] = [str(address.port)]
    default = [f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ed25519")]
    return {"identityfile": default, "userknownhostsfile": ["~/.ssh/known_hosts"], **found}


def _settings(address: Address, options: Mapping[str, list[str]]) -> SshSettings:
    def first(name: str, default: str = "") -> str:
        return options.get(name, [default])[0]

    def unless_none(name: str) -> str | None:
        value = first(name, "none")
        return None if value.lower() == "none" else value

    # ssh warns of what no host's name has, for a shell may read it in a ProxyCommand; here it is refused.
    reached = Address.read(f"{first('user')}@[{first('hostname', address.host)}]:{first('port', '22')}")
    assert reached.user is not None
    assert reached.port is not None
    own, of_all = (
        [Path(name).expanduser() for name in " ".join(options.get(option, [])).split() if name.lower() != "none"]
        for option in ("userknownhostsfile", "globalknownhostsfile")
    )
    timeout = unless_none("connecttimeout")
    agent = first("identityagent") or None
    return SshSettings(
        address=address,
        hostname=reached.host,
        port=reached.port,
        user=reached.user,
        host_key_alias=first("hostkeyalias") or None,
        known_hosts=(*own, *of_all),
        own_known_hosts=own[0] if own else None,
        identity_files=tuple(_expand(name, reached, address) for name in options.get("identityfile", []) if name.lower() != "none"),
        identities_only=first("identitiesonly") == "yes",
        identity_agent=agent if agent is None or agent.lower() == "none" else _agent(agent, reached, address),
        proxy_jump=unless_none("proxyjump"),
        proxy_command=_proxy_command(unless_none("proxycommand"), reached, address),
        methods=_methods(first),
        connect_timeout=float(timeout) if timeout and timeout.isdecimal() and int(timeout) else CONNECT,
        certificate_files=tuple(_expand(name, reached, address) for name in options.get("certificatefile", [])),
        address_family=first("addressfamily", "any"),
        bind_address=unless_none("bindaddress"),
        algorithms=tuple(
            (ours, tuple(first(theirs).split(",")))
            for ours, theirs in (("ciphers", "ciphers"), ("digests", "macs"), ("kex", "kexalgorithms"), ("key_types", "hostkeyalgorithms"))
            if first(theirs)
        ),
    )


def _methods(first: Callable[..., str]) -> tuple[str, ...]:
    asked = [name for name in first("preferredauthentications").split(",") if name] or list(METHODS)
    switches = {
        "publickey": "pubkeyauthentication",
        "keyboard-interactive": "kbdinteractiveauthentication",
        "password": "passwordauthentication",
    }
    return tuple(name for name in asked if name in switches and first(switches[name], "yes") not in ("no", "false"))


def _expand(text: str, reached: Address, address: Address) -> str:
    """Replace the tokens of ssh_config(5) that can stand in a path or a command."""
    tokens = {
        "%": "%",
        "h": reached.host,
        "n": address.host,
        "p": str(reached.port),
        "r": str(reached.user),
        "d": str(Path.home()),
        "u": os.environ.get("USER", ""),
    }

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in tokens:
            raise InvalidInput(f"{text!r} in the configuration of {address.host}: %{match[1]} is not understood")
        return tokens[match[1]]

    return os.path.expanduser(re.sub(r"%(.)", replaced, text))


def _agent(text: str, reached: Address, address: Address) -> str:
    if text == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "none")
    return os.environ.get(text[1:], "none") if text.startswith("$") else _expand(text, reached, address)


def _proxy_command(text: str | None, reached: Address, address: Address) -> str | None:
    return None if text is None else _expand(text, reached, address)
