"""A line's words, and the Python in them: ``$name`` and ``{expression}``, word by word.

IPython's own expansion works on the whole line, and one unknown name or one JSON brace silently
cancels all of it.
"""

from __future__ import annotations

import ast
import builtins
import re
import shlex
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from nexa_sdk.errors import BadUsage, nearest

__all__ = ["expand", "split"]

_NAME = re.compile(r"\$\$|\$([A-Za-z_]\w*)")
_CONVERSIONS: Mapping[str, Callable[[object], str]] = {"!r": repr, "!s": str, "!a": ascii}
_FORMAT = re.compile(r"(?P<head>.+?)(?P<conversion>![rsa])?(?P<spec>:[^\s{}][^{}]*)?", re.DOTALL)


def split(line: str) -> list[str]:
    """Split a line as a shell splits words.

    Braces that hold an expression are one piece, whatever stands in them: ``lr={cfg["lr"]}``. What
    comes after a ``#`` at the beginning of a word is left out.

    Raises
    ------
    BadUsage
        For a quote that is not closed.
    """
    pieces: list[str] = []
    at, quote = 0, ""
    while at < len(line):
        letter, width = line[at], 1
        if letter == "\\" and quote != "'":
            width = 2
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (at == 0 or line[at - 1].isspace()):
            break
        elif line.startswith("{{", at):
            width = 2
        elif letter == "{" and (end := _end_of_expression(line, at)) is not None:
            pieces.append(shlex.quote(line[at:end]))
            at = end
            continue
        pieces.append(line[at : at + width])
        at += width
    try:
        return shlex.split("".join(pieces))
    except ValueError as error:
        problem = str(error).lower()
        raise BadUsage(f"the line can't be split into words: {problem}; close the quote, or write \\' for an apostrophe") from None


def expand(words: Sequence[str], namespace: Mapping[str, Any]) -> list[str]:
    r"""Put Python's values into words.

    ``$name`` and ``{expression}`` become text: a number as Python writes it, a list or a range its
    values with commas between. A word that is all ``$name`` of an object of nexa_sdk becomes that
    name. ``$$`` is a dollar sign and ``{{…}}`` braces. Braces without an expression stay, and in a
    command after ``--`` so does ``{lr}`` where the line has ``lr=…``: it is the parameter's place.

    Raises
    ------
    BadUsage
        For a name that is not defined, and an expression that fails.
    """
    at = list(words).index("--") if "--" in words else len(words)
    parameters = {word.partition("=")[0] for word in words[:at] if "=" in word}
    before = [_expand(word, namespace, ()) for word in words[:at]]
    return before + [_expand(word, namespace, parameters) for word in words[at:]]


def _expand(word: str, namespace: Mapping[str, Any], places: Collection[str]) -> str:
    if (whole := _NAME.fullmatch(word)) and whole[1] in namespace and _is_ours(namespace[whole[1]]):
        return whole[1]
    parts: list[str] = []
    at = doubled = 0
    while at < len(word):
        if word.startswith("{{", at) or (doubled and word.startswith("}}", at)):
            doubled += 1 if word[at] == "{" else -1
            parts.append(word[at])
            at += 2
        elif word[at] == "{" and (end := _end_of_expression(word, at)) is not None:
            inside = word[at + 1 : end - 1]
            parts.append(word[at:end] if inside.strip() in places else _evaluated(inside, namespace))
            at = end
        elif match := _NAME.match(word, at):
            parts.append("$" if match[1] is None else _named(match[1], namespace))
            at = match.end()
        else:
            parts.append(word[at])
            at += 1
    return "".join(parts)


def _end_of_expression(text: str, start: int) -> int | None:
    """Find the brace that makes an expression of what began at `start`; None where nothing does."""
    end = text.find("}", start)
    while end >= 0:
        if _read(text[start + 1 : end]) is not None:
            return end + 1
        end = text.find("}", end + 1)
    return None


def _read(inside: str) -> tuple[ast.Expression, str, str] | None:
    """Read an expression, its conversion and its format; None where there is none.

    A format needs something to format: ``{"a":1}`` is JSON, ``{lr:.3g}`` is not.
    """
    if (tree := _parsed(inside)) is not None:
        return tree, "", ""
    match = _FORMAT.fullmatch(inside)
    tree = _parsed(match["head"]) if match is not None else None
    if match is None or tree is None or isinstance(tree.body, ast.Constant):
        return None
    return tree, match["conversion"] or "", (match["spec"] or "")[1:]


def _parsed(text: str) -> ast.Expression | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None


def _named(name: str, namespace: Mapping[str, Any]) -> str:
    if name not in namespace:
        raise _undefined(f"${name}", name, namespace, f"$${name}")
    return _text(f"${name}", namespace[name])


def _evaluated(inside: str, namespace: Mapping[str, Any]) -> str:
    read = _read(inside)
    assert read is not None
    tree, conversion, spec = read
    known = {**namespace, "__builtins__": builtins}  # one dict: a comprehension sees no other locals
    try:
        value = eval(compile(tree, "<%nexa>", "eval"), known)  # noqa: S307 - the user's own expression
        if conversion:
            value = _CONVERSIONS[conversion](value)
        return format(value, spec) if spec else _text(f"{{{inside}}}", value)
    except NameError as error:
        raise _undefined(f"{{{inside}}}", str(error.name), namespace, f"{{{{{inside}}}}}") from None
    except BadUsage:
        raise
    except Exception as error:
        raise BadUsage(f"{{{inside}}} can't be worked out: {type(error).__name__}: {error}") from error


def _undefined(what: str, name: str, namespace: Mapping[str, Any], doubled: str) -> BadUsage:
    hint = nearest(name, [known for known in namespace if not known.startswith("_")])
    near = f" ({hint})" if hint.startswith("did you mean") else ""  # all known ones would be too many
    return BadUsage(f"{what}: there is no Python name {name!r}{near}; define it first, or write {doubled} for the text itself")


def _is_ours(value: object) -> bool:
    return type(value).__module__.split(".")[0] == "nexa_sdk" and not isinstance(value, (str, int, float))


def _text(what: str, value: Any) -> str:
    """Write a value as text."""
    from nexa_sdk.values import text_of
    from nexa_sdk.verbs.inline import join_values

    if value is None or isinstance(value, (str, bool, int, float)):
        return text_of(value)
    if hasattr(value, "tolist"):  # NumPy's and pandas' own, arrays as well as single numbers
        return _text(what, value.tolist())
    if isinstance(value, (list, tuple, range)):
        return join_values([_text(what, item) for item in value])
    if _is_ours(value):
        if type(value).__name__ in ("Run", "Plan"):
            return str(value.id)
        raise BadUsage(f"{what} is a {type(value).__name__}, and no text; give it a name, and write the name")
    return str(value)
