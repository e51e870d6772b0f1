"""``%nexa`` and ``%%nexa``: what ``%load_ext nexa_sdk`` adds to an IPython.

Only IPython is imported here; all else waits for the first line that needs it.
"""

from __future__ import annotations

from typing import Any

from nexa_sdk.notebook.magics.hook import add_completion, remove_completion
from nexa_sdk.notebook.magics.magic import NexaMagics

__all__ = ["NexaMagics", "load", "unload"]


def load(ip: Any) -> None:
    """Add the magics and their completion; once more is no harm, and keeps the session."""
    before = ip.magics_manager.registry.get(NexaMagics.__name__)
    magics = NexaMagics(ip)
    if isinstance(before, NexaMagics) and "session" in before.__dict__:
        magics.session = before.session
    ip.register_magics(magics)
    add_completion(ip, magics)


def unload(ip: Any) -> None:
    """Take them away again."""
    remove_completion(ip)
    for kind in ("line", "cell"):
        ip.magics_manager.magics[kind].pop("nexa", None)
    magics = ip.magics_manager.registry.pop(NexaMagics.__name__, None)
    if isinstance(magics, NexaMagics):
        magics.forget()
