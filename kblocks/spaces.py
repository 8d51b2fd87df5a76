"""Ready search spaces, one a family; the default point of each is a published network.

`kblocks.spaces.resnet("resnet50", classes=10).within((64, 64, 3), kblocks.Budget(macs=1e9))`
"""

from kblocks.families.alexnet import space as alexnet
from kblocks.families.densenet import space as densenet
from kblocks.families.efficientnet import space as efficientnet
from kblocks.families.preresnet import space as preresnet
from kblocks.families.resnet import space as resnet
from kblocks.families.resnext import space as resnext
from kblocks.families.tresnet import space as tresnet
from kblocks.families.vgg import space as vgg

__all__ = [
    "alexnet",
    "densenet",
    "efficientnet",
    "preresnet",
    "resnet",
    "resnext",
    "tresnet",
    "vgg",
]
