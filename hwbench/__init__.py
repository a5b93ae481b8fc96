"""hwbench: give it a model and a device; it measures, and shows the evidence.

Importing this package loads neither torch nor a runtime.
"""

from __future__ import annotations

__version__ = "0.1.0"
