"""Where nexa_sdk keeps its things."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["clusters_file", "home", "rates_file", "runs_folder", "sandbox_folder"]


def home() -> Path:
    """Return the folder of the journal, of runs and of the sandbox: ``$NEXA_HOME``, else ``~/.nexa``."""
    return Path(os.environ.get("NEXA_HOME") or Path.home() / ".nexa").absolute()


def runs_folder() -> Path:
    """Return where runs lie unless a cluster says otherwise: ``$NEXA_RUNS``, else ``runs`` in the home."""
    return Path(os.environ.get("NEXA_RUNS") or home() / "runs").absolute()


def clusters_file() -> Path:
    """Return the user's file of clusters: ``$NEXA_CONFIG``, else ``nexa/clusters.toml`` in ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get("NEXA_CONFIG") or config / "nexa" / "clusters.toml").expanduser().absolute()


def rates_file() -> Path:
    """Return the user's file of prices: ``$NEXA_RATES``, else ``nexa/rates.toml`` in ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get("NEXA_RATES") or config / "nexa" / "rates.toml").expanduser().absolute()


def sandbox_folder() -> Path:
    """Return where ``Cluster("sandbox")`` lives: ``$NEXA_SANDBOX``, else ``sandbox`` in the home."""
    return Path(os.environ.get("NEXA_SANDBOX") or home() / "sandbox").absolute()
