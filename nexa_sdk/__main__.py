"""``python -m nexa_sdk``: the console command."""

import sys

from nexa_sdk.cli import main

if __name__ == "__main__":
    sys.exit(main())
