"""What takes half a minute each runs only when it is asked for; what it is about is tested on smaller things too."""

import os

import pytest

LARGE = pytest.mark.skipif("HWBENCH_ALL_MODELS" not in os.environ, reason="HWBENCH_ALL_MODELS=1 runs every model")
