"""Begins a cell where its job has a Python; of any age, that it can say so if it is too old."""

# ruff: noqa: UP031, UP036
import os
import sys

if sys.version_info < (3, 8):
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write(
        "nexa: a remote cell needs Python 3.8 or later, and %s is %s; name another, with --python, --venv, --conda or --module\n"
        % (sys.executable, version)
    )
    sys.exit(78)  # as the script does where something is missing; 1 would be the cell's

folder = os.path.dirname(os.path.abspath(__file__))

from nexa_cell_run import main  # type: ignore[import-not-found]  # noqa: E402  it would be no syntax to an old one

sys.path.remove(folder)  # what the cell imports is not looked for here
sys.exit(main(folder))
