"""Ready spaces for small images, which the published stems would shrink at once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kblocks.families.published_choices import pooled_stages
from kblocks.search_space.choices import choice, per_stage

_SMALL = 64  # pixels; up to this side length images count as small


def for_size(family: str, input_shape: Sequence[int]) -> Mapping[str, Any]:
    """Arguments that adapt a family's ready space to images of at most 64 pixels a side."""
    height, width, _ = input_shape
    if max(height, width) > _SMALL:
        return {}
    filters = choice(32, 16, 64)
    match family:
        case "resnet" | "preresnet" | "resnext" | "densenet":
            return {"stem": {"filters": filters, "kernel_size": 3, "strides": 1, "pool": None}}
        case "xception":
            kernel = {"kernel_size": 3, "padding": "same"}
            return {"stem": [{"filters": filters, **kernel}, {"filters": choice(64, 32), **kernel}]}
        case "efficientnet":
            return {"stem": {"filters": filters, "strides": 1}}
        case "tresnet":
            return {"stem": {"filters": filters, "block_size": choice(1, 2)}}
        case "alexnet":
            stem = {"kernel_size": choice(3, 5), "strides": 1, "padding": "same"}
            return {"stem": {"filters": filters, **stem, "pool": choice("max", None)}}
        case "vgg":  # each of its stages halves the map
            stages = min(5, int(math.log2(min(height, width))))
            widths = [
                choice(*dict.fromkeys(min(n * 2**stage, 512) for n in (32, 16, 64)))
                for stage in range(stages)
            ]
            return {
                "blocks": per_stage(stages, choice(1, 2)),
                "filters": widths,
                "kernel_size": per_stage(stages, choice(3, 5)),
                **pooled_stages(["max"] * stages, size=2),
            }
    return {}
