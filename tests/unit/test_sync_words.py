"""What a sync reads and writes: its list, rsync's command line and words, patterns, progress."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexa_sdk.errors import ClusterError, InvalidInput
from nexa_sdk.fetching import starts_of
from nexa_sdk.manifest import Manifest, folders_of
from nexa_sdk.notebook.transfer import transfer_text
from nexa_sdk.syncing import display_size
from nexa_sdk.transports import rsync
from nexa_sdk.transports.moving import Item, Moved

NAMES = st.lists(
    st.binary(min_size=1, max_size=8).filter(lambda part: not {0, 47} & set(part) and part not in (b".", b"..")), min_size=1, max_size=3
)


@given(st.sets(NAMES.map(b"/".join)), st.text(max_size=20))
def test_a_list_is_read_as_it_was_written(names: set[bytes], source: str) -> None:
    source = source.encode(errors="replace").decode()
    manifest = Manifest(source, frozenset(names))
    assert Manifest.read(manifest.text.decode("ascii"), where="there") == manifest
    assert manifest.text.startswith(manifest.head.encode() + b"\n")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".nexa-sync/files", "a%00b", "%2e%2e/x"])
def test_a_list_that_names_what_lies_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="which no sync puts there"):
        Manifest.read(f"nexa-sync 1 0\nhere:/x\n{name}\n", where="there")


@pytest.mark.parametrize("text", ["", "nexa-sync 2 0\nhere\n", "nexa-sync 1 0\n", "<html>"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="no list of synced files"):
        Manifest.read(text, where="there")


def test_what_is_gone_and_what_is_in_the_way() -> None:
    known = Manifest("", frozenset([b"a/b/c", b"a/d", b"e", b"f/g", b"h"]))
    assert known.gone([b"a/d", b"h"]) == [b"a/b/c", b"e", b"f/g", b"a/b/", b"f/"]
    assert known.in_the_way([b"a/d", b"h"]) == []
    assert known.in_the_way([b"a", b"e/x", b"h"]) == [b"a/b/c", b"a/d", b"e", b"a/b/", b"a/"]
    assert known.gone(known.names) == []
    assert folders_of([b"a/b/c", b"d"]) == {b"a", b"a/b"}


def test_a_remote_shell_with_spaces_and_quotes_is_started_as_it_is(tmp_path) -> None:
    folder = tmp_path / 'it\'s a "folder" $(x)'
    folder.mkdir()
    program = folder / "shell"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/words"\nexit 3\n')
    program.chmod(0o755)
    (tmp_path / "source").touch()
    argv = ["rsync", "-e", rsync.shell([str(program), "a b", "it's", '"']), str(tmp_path / "source"), "nexa:./"]
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (tmp_path / "words").read_text().splitlines()[:4] == ["a b", "it's", '"', "nexa"]


def test_versions() -> None:
    debian = "rsync  version 3.2.7  protocol version 31\nCopyright"
    assert rsync.is_usable(debian)
    assert rsync.is_exact(debian)
    assert rsync.is_usable("rsync  version 3.1.2  protocol version 31")
    assert not rsync.is_exact("rsync  version 3.1.2  protocol version 31")
    for other in ("", "openrsync: protocol version 29\nrsync version 2.6.9 compatible", "rsync  version 3.0.9  protocol version 30"):
        assert not rsync.is_usable(other)


PRINTED = (
    b">f+++++++++ 1 #hash\n\r              1   0%    0.00kB/s    0:00:00  \r              1   0%    0.00kB/s    0:00:00 (xfr#1, to-chk=8/10)\n"
    b">f+++++++++ 1 back\\slash\\#134#012\n<f.st...... 496610 d/a b\n\r         496610  55%  428.42kB/s    0:00:02  \n"
    b">f..t...... 1 line\\#012break\ncL+++++++++ 9 link\ncd+++++++++ 4096 d/\n.f...p..... 7 mode\ncannot delete non-empty directory: f\n"
)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_what_rsync_prints_is_read_in_pieces_of_any_length(size: int) -> None:
    reader = rsync.Reader()
    events = [event for at in range(0, len(PRINTED), size) for event in reader.feed(PRINTED[at : at + size])]
    assert [event for event in events if isinstance(event, Item)] == [
        Item(b"#hash", 1, is_new=True),
        Item(b"back\\slash\\#012", 1, is_new=True),
        Item(b"d/a b", 496610, is_new=False),
        Item(b"line\nbreak", 1, is_new=False),
        Item(b"link", 0, is_new=True),
        Item(b"mode", 7, is_new=False),
    ]
    assert [event for event in events if isinstance(event, Moved)][-1] == Moved(496610, 0.55, 428.42 * 1024, 2)


def test_a_full_disk_is_explained() -> None:
    said = 'rsync: [receiver] write failed on "/x/y": No space left on device (28)\nrsync error: error in file IO (code 11) at receiver.c(380)\n'
    words = rsync.explain(said)
    assert words.startswith('rsync: [receiver] write failed on "/x/y": No space left on device (28). What arrived is kept')
    assert "Disk quota exceeded (122). What arrived" in rsync.explain("rsync: mkstemp failed: Disk quota exceeded (122)")
    assert rsync.explain("rsync: link_stat failed: Permission denied (13)") == "rsync: link_stat failed: Permission denied (13)"


def test_the_environment_of_rsync_has_no_options_of_the_users() -> None:
    assert rsync.environment({"RSYNC_RSH": "sh", "RSYNC_OLD_ARGS": "1", "PATH": "/bin"}) == {"PATH": "/bin", "LC_ALL": "C"}


@pytest.mark.parametrize(
    ("patterns", "starts"),
    [
        (["checkpoints/**"], ["checkpoints"]),
        (["checkpoints/*/best.pt", "logs/"], ["."]),
        (["/logs/"], ["logs"]),
        (["a/b/c.txt", "a/x*/y"], ["a/b/c.txt", "a"]),
        (["*.pt"], ["."]),
        (["**/x.pt"], ["."]),
        (["a/b", "!a/b/c"], ["a/b"]),
    ],
)
def test_where_a_pattern_is_looked_for(patterns: list[str], starts: list[str]) -> None:
    assert starts_of(patterns) == starts


def test_no_pattern_is_said() -> None:
    with pytest.raises(InvalidInput, match="name what to fetch"):
        starts_of([])


def test_progress_is_said_in_one_line() -> None:
    assert transfer_text("Syncing", Moved(12_345_678, 0.456, 5_600_000.0, 12.4)) == "Syncing: 46%, 12.3 MB, 5.6 MB/s, 0:12 left"
    assert transfer_text("Syncing", Moved(0, 0.0, 0.0, 3725.0)).endswith("1:02:05 left")
    assert [display_size(size) for size in (12, 1200, 3_400_000, 5_000_000_000)] == ["12 bytes", "1.2 kB", "3.4 MB", "5.0 GB"]


def test_the_relay_needs_no_package() -> None:
    from nexa_sdk.transports.ssh.bulk import RELAY

    done = subprocess.run([sys.executable, "-I", "-S", str(RELAY), "99", "nexa", "rsync"], capture_output=True, text=True, check=False)
    assert "Bad file descriptor" in done.stderr
