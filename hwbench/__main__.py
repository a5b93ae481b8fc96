"""``python -m hwbench``."""

from __future__ import annotations

import sys

from hwbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
