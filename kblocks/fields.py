"""Re-exports `kblocks.blocks.fields`, the types of arguments, for people who write blocks."""

from kblocks.blocks.fields import *  # noqa: F403
