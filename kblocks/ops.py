"""Re-exports `kblocks.plans.ops`, the primitives of plans, for people who write blocks."""

from kblocks.plans.ops import *  # noqa: F403
