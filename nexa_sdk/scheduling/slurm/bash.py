"""Words and names of bash: any text reaches a program's argv unchanged."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterable, Sequence

__all__ = ["CONTROL", "array_items", "double_quoted", "number_items", "quote", "variable_names"]

_AT_ONCE = 10_000  # numbers written in one go

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}


def quote(text: str) -> str:
    """Quote one word: bare where that is safe, else in quotes, else ``$'…'`` on one line.

    Control characters are escaped: sbatch refuses a script with a carriage return, and nobody can
    read the others.
    """
    if not CONTROL.search(text):
        return shlex.quote(text)
    return "$'" + "".join(_NAMED.get(c) or (_escape(c) if CONTROL.match(c) else c) for c in text) + "'"


def _escape(character: str) -> str:
    # Byte by byte: \u would depend on the locale of the node.
    return "".join(f"\\x{byte:02x}" if byte > 0x7F else f"\\{byte:03o}" for byte in character.encode())


def double_quoted(expression: str) -> str:
    """Put an expansion between double quotes, so that bash splits nothing."""
    return f'"{expression}"'


def array_items(words: Iterable[str], *, indent: str = "  ", width: int = 96) -> str:
    """Lay out the words of an array: on one line where they fit, else on several."""
    items = list(words)
    one_line = " ".join(items)
    if len(one_line) <= width:
        return f"({one_line})"
    lines: list[str] = []
    line = indent.rstrip("\n")
    for item in items:
        if len(line) + len(item) > width and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += item + " "
    lines.append(line.rstrip())
    return "(\n" + "\n".join(lines) + "\n)"


def number_items(numbers: Sequence[float], *, indent: str = "  ", width: int = 96) -> str:
    """Lay out numbers as :func:`array_items` lays out their reprs, which need no quotes.

    Many are written at once, and no text is kept for each: a million take a third of a second and
    little more memory than the script has bytes.
    """
    if len(numbers) <= width:
        return array_items(map(repr, numbers), indent=indent, width=width)
    laid_out = io.StringIO()
    laid_out.write("(")
    lines = re.compile(rf"(.{{1,{width - len(indent)}}}|\S+) ")  # as many as fit, or one that is longer
    newline = f"\n{indent}"
    rest = ""
    for k in range(0, len(numbers), _AT_ONCE):
        *full, rest = lines.findall(rest + repr(list(numbers[k : k + _AT_ONCE]))[1:-1].replace(",", "") + " ")
        laid_out.write(newline.join(["", *full]))
        rest += " "
    laid_out.write(f"{newline}{rest.rstrip()}\n)")
    return laid_out.getvalue()


# Lower case alone keeps clear of what the environment and bash itself use; these are left.
_TAKEN = frozenset(
    "run node name first trial trials row rows slot slots gpus combination i record logged started begun code pid pids signal "
    "stop events restarts left share before cause claim claimed ended secrets now histchars auto_resume "
    "http_proxy https_proxy ftp_proxy all_proxy no_proxy job attempt "
    "budget budget_entry budget_used budget_running budget_limit budget_warning budget_longest budget_words".split()
)


def variable_names(names: Iterable[str]) -> dict[str, str]:
    """Choose a variable of bash for each parameter: readable, and nobody else's."""
    chosen: dict[str, str] = {}
    for name in names:
        variable = re.sub(r"\W", "_", name, flags=re.ASCII).lower().lstrip("_") or "p"
        if variable[0].isdigit():
            variable = "p" + variable
        while variable in _TAKEN or variable in chosen.values():
            variable += "_"
        chosen[name] = variable
    return chosen
