"""Every Python with this folder on its path begins with `light`, those that Ray starts as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import light  # noqa: F401
