"""A sandbox: a real Slurm of one machine in a folder, for trying things out and for tests."""

from __future__ import annotations

from nexa_sdk.scheduling.slurm.sandbox.config import SandboxSpec
from nexa_sdk.scheduling.slurm.sandbox.lifecycle import Sandbox
from nexa_sdk.scheduling.slurm.sandbox.programs import PACKAGES, install_hint, missing_programs

__all__ = ["PACKAGES", "Sandbox", "SandboxSpec", "install_hint", "missing_programs"]
