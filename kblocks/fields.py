"""Types of arguments, for those who write blocks: `kblocks.blocks.fields`."""

from kblocks.blocks.fields import *  # noqa: F403
