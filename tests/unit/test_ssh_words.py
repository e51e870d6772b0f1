"""Addresses, configurations, host keys and commands of SSH, before anything is sent."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import hypothesis
import paramiko
import pytest
from hypothesis import strategies as st

from nexa_sdk import Cluster
from nexa_sdk.errors import ClusterError, HostKeyChanged, HostKeyUnknown, InvalidInput
from nexa_sdk.transports.ssh import config as config_module
from nexa_sdk.transports.ssh import host_keys
from nexa_sdk.transports.ssh.address import Address, read_hosts, write_hosts
from nexa_sdk.transports.ssh.config import SshSettings, resolve
from nexa_sdk.transports.ssh.remote import Started, find_start

# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://login", Address("login")),
        ("login", Address("login")),
        ("ssh://ada@login.example.org:2222", Address("login.example.org", "ada", 2222)),
        ("ada@10.0.0.1", Address("10.0.0.1", "ada")),
        ("ssh://[2001:db8::1]:22", Address("2001:db8::1", port=22)),
        ("ssh://ada@domain@login/", Address("login", "ada@domain")),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert Address.read(text) == address
    assert Address.read(str(address)) == address


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("hosts://gpu1,gpu2", ["gpu1", "gpu2"]),
        ("hosts://ada@gpu1:22,gpu2", ["gpu1", "gpu2"]),
        ("hosts://gpu1,gpu1:2222,ada@gpu1:2222,bob@gpu1", ["gpu1", "gpu1.2222", "gpu1.ada", "gpu1.bob"]),
        ("hosts://[2001:db8::1],10.0.0.1", ["2001-db8--1", "10.0.0.1"]),
    ],
)
def test_addresses_of_several_hosts_name_their_jobs(text: str, names: list[str]) -> None:
    assert list(read_hosts(text)) == names
    assert write_hosts(read_hosts(text)) == text


@pytest.mark.parametrize(
    "text", ["hosts://", "hosts://gpu1,", "hosts://gpu1,gpu1", "hosts://a b", "hosts://-x", "hosts://ada:pw@gpu1", "hosts://$(x)"]
)
def test_addresses_of_several_hosts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read_hosts(text)
    assert "pw" not in str(error.value)


def test_a_list_of_hosts_is_no_host() -> None:
    with pytest.raises(InvalidInput, match=r"\['gpu1', 'gpu2'\] is no host; give each as a text of its own"):
        Cluster.hosts(["gpu1", "gpu2"])  # type: ignore[arg-type]


@pytest.mark.parametrize("runs", ["~ada/runs", "$SCRATCH/runs"])
def test_a_folder_of_runs_that_nobody_looks_up_is_refused(runs: str) -> None:
    for where in ("ssh://login", "hosts://gpu1,gpu2"):
        with pytest.raises(InvalidInput, match="give the whole path"):
            Cluster(where, runs=runs)


@pytest.mark.parametrize(
    "text",
    [
        *("", "ssh://", "ssh://-oProxyCommand=evil", "ssh://a b", "ssh://$(id)", "ssh://a;b", "ssh://a\nb", "ssh://a`b", "ssh://'a'"),
        *("ssh://-l@a", "ssh://a|b@c", "ssh://a:0", "ssh://a:65536", "ssh://a:２２", "ssh://a/b", "ssh://a:22:22", "ssh://ä", "ssh://a&"),
    ],
)
def test_what_is_no_address_is_refused_before_anything_reads_it(text: str) -> None:
    with pytest.raises(InvalidInput):
        Address.read(text)


# ---- configuration -------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(text: str) -> None:
        path = tmp_path / "ssh_config"
        path.write_text(text)
        monkeypatch.setenv("NEXA_SSH_CONFIG", str(path))

    return write


def test_the_configuration_is_read_whole(config, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host login\n  Port 2200\n  HostKeyAlias the-login\n")
    config(
        f"""
Include {tmp_path}/more
Match host login exec "true"
  User ada
Host login
  HostName login.example.org
  ProxyJump jump1,ada@jump2:23
  IdentityFile {tmp_path}/key-%h-%r
  IdentitiesOnly yes
  UserKnownHostsFile {tmp_path}/known1 {tmp_path}/known2
  ConnectTimeout 7
  PasswordAuthentication no
"""
    )
    found = resolve(Address.read("ssh://login"))
    assert (found.hostname, found.port, found.user) == ("login.example.org", 2200, "ada")
    assert found.known_as == "the-login"
    assert found.proxy_jump == "jump1,ada@jump2:23"
    assert found.identity_files == (f"{tmp_path}/key-login.example.org-ada",)
    assert found.identities_only
    assert found.known_hosts[:2] == (tmp_path / "known1", tmp_path / "known2")
    assert found.connect_timeout == 7
    assert found.methods == ("publickey", "keyboard-interactive")
    overridden = resolve(Address.read("ssh://grace@login:22"))
    assert (overridden.user, overridden.port) == ("grace", 22)


def test_a_proxy_command_has_its_tokens_replaced(config) -> None:
    config("Host login\n  HostName real\n  User ada\n  ProxyCommand nc %h %p --user %r --as %n %%\n")
    assert resolve(Address.read("ssh://login:2200")).proxy_command == "nc real 2200 --user ada --as login %"


def test_a_host_name_of_the_configuration_that_a_shell_would_read_is_refused(config) -> None:
    config("Host login\n  HostName $(touch\\ /tmp/x)\n  ProxyCommand nc %h %p\n")
    with pytest.raises((InvalidInput, ClusterError)):
        resolve(Address.read("ssh://login"))


def test_a_configuration_that_takes_too_long_to_read_is_said(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "READING", 0.5)
    config('Match exec "sleep 5"\n  User ada\n')
    with pytest.raises(ClusterError, match=r"did not say within 0\.5 seconds .*Match exec"):
        resolve(Address.read("ssh://login"))


def test_without_openssh_what_is_not_understood_is_an_error(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    config("Host login\n  HostName real\n  Port 2200\n  ProxyJump jump\n  IdentityFile ~/.ssh/other\n")
    found = resolve(Address.read("ssh://ada@login"))
    assert (found.hostname, found.port, found.user, found.proxy_jump) == ("real", 2200, "ada", "jump")
    config("Host login\n  HostName real\nInclude more\n")
    with pytest.raises(ClusterError, match=r"ssh_config, line 3: 'include' is not understood without OpenSSH"):
        resolve(Address.read("ssh://login"))


# ---- host keys -----------------------------------------------------------------------------------

KEY, OTHER = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()


@pytest.fixture
def settings(config, tmp_path: Path) -> SshSettings:
    config(f"Host *\n  HostName 10.0.0.1\n  Port 2200\n  UserKnownHostsFile {tmp_path}/known\n  GlobalKnownHostsFile none\n")
    return resolve(Address.read("ssh://login"))


def line(name: str, key: paramiko.PKey = KEY) -> str:
    return f"{name} {key.get_name()} {key.get_base64()}\n"


def test_a_host_that_is_not_known_shows_its_fingerprint_and_how_to_accept_it(settings: SshSettings) -> None:
    with pytest.raises(HostKeyUnknown, match=r"--accept-fingerprint SHA256:") as caught:
        host_keys.check(settings, KEY)
    assert caught.value.fingerprint == host_keys.fingerprint(KEY) == KEY.fingerprint
    with pytest.raises(InvalidInput, match="nothing was accepted"):
        host_keys.accept(settings, KEY, host_keys.fingerprint(OTHER))
    settings.known_hosts[0].write_text(line("elsewhere").rstrip())  # no line break at its end
    host_keys.accept(settings, KEY, host_keys.fingerprint(KEY))
    host_keys.check(settings, KEY)
    assert settings.known_hosts[0].read_text() == line("elsewhere") + line("[10.0.0.1]:2200")


@pytest.mark.parametrize(
    "name",
    ["[10.0.0.1]:2200", "a,[10.0.0.1]:2200", "[10.0.0.*]:2200", pytest.param(paramiko.HostKeys.hash_host("[10.0.0.1]:2200"), id="hashed")],
)
def test_a_known_host(settings: SshSettings, name: str) -> None:
    settings.known_hosts[0].write_text(f"# comment\n\nnonsense\n{line('other', OTHER)}{line(name)}")
    host_keys.check(settings, KEY)
    with pytest.raises(HostKeyChanged, match="HAS CHANGED"):
        host_keys.check(settings, OTHER)
    with pytest.raises(HostKeyChanged):
        host_keys.accept(settings, OTHER, host_keys.fingerprint(OTHER))
    assert host_keys.known_types(settings) == [KEY.get_name()]


@pytest.mark.parametrize(
    "key", ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "ssh-ed25519 AAAA", "ssh-rsa AAAA", "ssh-ed25519 A", "ecdsa-sha2-nistp256 AAAA"]
)
def test_a_line_that_holds_no_key_is_passed_over(settings: SshSettings, key: str) -> None:
    settings.known_hosts[0].write_text(f"[10.0.0.1]:2200 {key}\n{line('[10.0.0.1]:2200')}")
    host_keys.check(settings, KEY)
    with pytest.raises(HostKeyChanged):
        host_keys.check(settings, OTHER)


@pytest.mark.parametrize("own", ["/dev/null", "none"])
def test_a_key_that_nothing_would_keep_is_not_accepted(config, tmp_path: Path, own: str) -> None:
    config(f"Host *\n  UserKnownHostsFile {own}\n  GlobalKnownHostsFile {tmp_path}/of-all\n")
    with pytest.raises(InvalidInput, match=f"UserKnownHostsFile of login is {own}, which keeps nothing"):
        host_keys.accept(resolve(Address.read("ssh://login")), KEY, host_keys.fingerprint(KEY))
    assert not (tmp_path / "of-all").exists()


@pytest.mark.parametrize("name", ["10.0.0.1", "[10.0.0.1]:22", "*,![10.0.0.1]:2200", "[10.0.0.2]:2200"])
def test_another_host(settings: SshSettings, name: str) -> None:
    settings.known_hosts[0].write_text(line(name))
    with pytest.raises(HostKeyUnknown):
        host_keys.check(settings, KEY)


def test_a_revoked_key_is_refused_though_it_is_known(settings: SshSettings) -> None:
    settings.known_hosts[0].write_text(f"{line('[10.0.0.1]:2200')}@revoked {line('*')}")
    with pytest.raises(HostKeyChanged, match="revoked"):
        host_keys.check(settings, KEY)


# ---- commands ------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
PROGRAM = ["python3", "-c", "import os, sys; print(ascii([sys.argv[1:], os.environ.get('X'), sys.stdin.buffer.read()]))"]


@hypothesis.settings(deadline=None)
@hypothesis.given(argv=st.lists(WORDS, min_size=1, max_size=4), value=WORDS, rest=st.binary(max_size=200), is_long=st.booleans())
def test_any_words_arrive_as_they_are_and_stdin_with_them(argv: list[str], value: str, rest: bytes, is_long: bool) -> None:
    argv = [*argv, "x" * 40_000] if is_long else argv
    started = Started([*PROGRAM, *argv], {"X": value, "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    assert bool(started.stdin) == is_long
    done = subprocess.run(["sh", "-c", started.command], input=started.stdin + rest, capture_output=True, check=True)
    start = find_start(started, done.stdout)
    assert start is not None
    assert eval(done.stdout[start[1] :]) == [argv, value, rest]


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "csh", "tcsh", "fish"])
def test_whichever_login_shell_reads_it(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    for long in ("", "x" * 40_000):
        words = ["it's", "$HOME", "`id`", "a\nb", "!!", "\\", "*", "", long]
        started = Started([*PROGRAM, *words], {"PATH": "/usr/local/bin:/usr/bin:/bin"})
        done = subprocess.run([shell, "-c", started.command], input=started.stdin, capture_output=True, check=True)
        start = find_start(started, done.stdout)
        assert start is not None
        assert eval(done.stdout[start[1] :]) == [words, None, b""]


def test_a_long_command_that_arrived_in_part_is_not_begun(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    started = Started(["touch", str(mark), str(tmp_path / ("x" * 100))] + ["-c"] * 12_000, None)
    for length in range(0, len(started.stdin) - 1, 4001):
        subprocess.run(["sh", "-c", started.command], input=started.stdin[:length], capture_output=True)
        assert not mark.exists()
