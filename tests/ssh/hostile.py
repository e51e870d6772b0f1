"""Names of files that a shell, rsync or a list would take for something else."""

from __future__ import annotations

HOSTILE = [
    "a b.txt",
    "it's $(touch x) `touch y`.txt",
    "-rf",
    "-e sh",
    "line\nbreak",
    "host:path",
    "#hash",
    ";semicolon",
    "back\\slash\\#012",
    "star*[ab]?",
    "ü.txt",
    b"not-utf8-\xff".decode(errors="surrogateescape"),
]
