"""How thorough a run is: KBLOCKS_THOROUGH=1 asks for all cases of the large tables, for hours."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("KBLOCKS_THOROUGH"))
