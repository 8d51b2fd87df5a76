"""Ready search spaces, one a family, each with a published network as its default point.

`kblocks.spaces.resnet("resnet50", classes=10).within((64, 64, 3), kblocks.Budget(macs=1e9))`
"""

from kblocks.families.alexnets import space as alexnet
from kblocks.families.densenets import space as densenet
from kblocks.families.efficientnets import space as efficientnet
from kblocks.families.googlenets import space as googlenet
from kblocks.families.inception_resnets import space as inception_resnet
from kblocks.families.inceptions_v3 import space as inception_v3
from kblocks.families.inceptions_v4 import space as inception_v4
from kblocks.families.preresnets import space as preresnet
from kblocks.families.resnets import space as resnet
from kblocks.families.resnexts import space as resnext
from kblocks.families.tresnets import space as tresnet
from kblocks.families.vggs import space as vgg
from kblocks.families.xceptions import space as xception

__all__ = [
    "alexnet",
    "densenet",
    "efficientnet",
    "googlenet",
    "inception_resnet",
    "inception_v3",
    "inception_v4",
    "preresnet",
    "resnet",
    "resnext",
    "tresnet",
    "vgg",
    "xception",
]
