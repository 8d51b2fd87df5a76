"""The primitives of plans, for those who write blocks: `kblocks.plans.ops`."""

from kblocks.plans.ops import *  # noqa: F403
