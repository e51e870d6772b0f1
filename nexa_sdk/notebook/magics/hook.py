"""How IPython comes to ask for the completion of ``%nexa`` lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexa_sdk.notebook.magics.magic import NexaMagics

__all__ = ["add_completion", "add_hook", "remove_completion"]

# A line up to the cursor: `%nexa …`, `%%nexa …`, `x = %nexa …`.
_LINE = re.compile(r"^\s*(?:[^=%'\"#]+=\s*)?%{1,2}nexa\s+(?P<rest>.*)$")
_ADDED = "_nexa_matcher"

Find = Callable[[str], tuple[str, list[str]] | None]


def add_completion(ip: Any, magics: NexaMagics) -> None:
    """Let an IPython complete ``%nexa`` lines.

    The matchers of version 2 are marked provisional; where they are gone the old hook does, which
    does not see ``x = %nexa …``.
    """
    remove_completion(ip)

    def find(line: str, cell: str = "") -> tuple[str, list[str]] | None:
        match = _LINE.match(line)
        if match is None:
            return None
        from nexa_sdk.notebook.magics.completion import complete

        return complete(match["rest"], magics.session, ip.user_ns, cell=cell)

    try:
        from IPython.core.completer import SimpleCompletion, context_matcher

        matchers = ip.Completer.custom_matchers
    except (ImportError, AttributeError):
        add_hook(ip, find)
        return

    @context_matcher(identifier="nexa_sdk", priority=100)  # type: ignore[untyped-decorator, unused-ignore]
    def nexa_matcher(context: Any) -> dict[str, Any]:
        found = find(context.text_until_cursor, context.full_text.partition("\n")[2])
        if found is None:
            return {"completions": [], "suppress": False}
        piece, words = found
        completions = [SimpleCompletion(word, type="nexa") for word in words]
        return {"completions": completions, "matched_fragment": piece, "ordered": True, "suppress": True}

    matchers.append(nexa_matcher)
    setattr(ip, _ADDED, nexa_matcher)


def remove_completion(ip: Any) -> None:
    """Take the completion away again."""
    matcher = getattr(ip, _ADDED, None)
    if matcher is not None:
        ip.Completer.custom_matchers.remove(matcher)
        delattr(ip, _ADDED)


def add_hook(ip: Any, find: Find) -> None:
    """Complete by IPython's older way."""

    def offer(_: Any, event: Any) -> list[str]:
        piece, words = find(event.text_until_cursor) or ("", [])
        replaced = len(piece) - len(event.symbol)  # the hook's words replace the symbol, which may be a part of the piece
        return [word[max(0, replaced) :] for word in words]

    ip.set_hook("complete_command", offer, re_key=r"%{1,2}nexa")
