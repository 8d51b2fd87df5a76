"""Makes `published.json`: what the published implementations hold, count and call their tensors.

    python tests/data/published.py        (torch 2.13, torchvision 0.29, timm 1.0.31,
        efficientnet_pytorch 0.7.1, efficientnet_lite_pytorch 0.1.0; 16 seconds)

For each of our names and each source: the number of tensors and the SHA-256 of their sorted lines
"name [shape]", without batch counters; trainable and running numbers; MACs and outputs of
convolutions and linear layers on one image of `input`; (epsilon, momentum as Keras has it) of the
batch norms. Networks of papers that neither has are written out here. Nothing of kblocks is
imported, and no weight is made.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import efficientnet_lite_pytorch
import efficientnet_pytorch
import timm
import torch
import torchvision
from torch import nn

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
RESNETS += ["wide_resnet50_2", "wide_resnet101_2"]
RESNETS += ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"]
VGGS = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
DENSENETS = [f"densenet{depth}" for depth in (121, 161, 169, 201)]
EFFICIENTNETS = [f"efficientnet_b{n}" for n in range(8)]
SIZES = dict(zip(EFFICIENTNETS, (224, 240, 260, 300, 380, 456, 528, 600), strict=True))
LITES = [f"efficientnet_lite{n}" for n in range(5)]
SIZES |= dict(zip(LITES, (224, 240, 260, 280, 300), strict=True))
SIZES |= {"inception_v3": 299, "inception_v4": 299, "inception_resnet_v2": 299}


def tv(name: str, **own: Any) -> Callable[[], nn.Module]:
    if name in ("googlenet", "inception_v3"):
        own = {"aux_logits": False, "init_weights": False, **own}
    return lambda: torchvision.models.get_model(name, weights=None, **own)


def packaged(package: Any, name: str) -> Callable[[], nn.Module]:
    """Of efficientnet_pytorch or its daughter, which write names with a hyphen."""
    return lambda: package.EfficientNet.from_name(name.replace("_", "-"))


def tm(name: str, **own: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, **own)


class CifarBlock(nn.Module):
    """He et al. 2015, Sec. 4.2: two 3x3 convolutions, a shortcut without parameters."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)

    def forward(self, x: Any) -> Any:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))))


class PreactivatedBottleneck(nn.Module):
    """resnet-1k-layers' `bottleneck`: norms before the convolutions, strides on the first."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        sizes = [(inputs, filters, 1, stride, 0), (filters, filters, 3, 1, 1)]
        sizes += [(filters, 4 * filters, 1, 1, 0)]
        self.convs = nn.ModuleList(nn.Conv2d(*size, bias=False) for size in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(size[0]) for size in sizes)
        projects = inputs != 4 * filters
        shortcut = nn.Conv2d(inputs, 4 * filters, 1, stride, bias=False)
        self.shortcut = shortcut if projects else nn.Identity()

    def forward(self, x: Any) -> Any:
        main = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            main = conv(norm(main))
        return main + self.shortcut(x)


def cifar(block: Any, blocks: int, expansion: int, last_norm: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        parts: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
        parts += [] if last_norm else [nn.BatchNorm2d(16)]
        channels = 16
        for stage, filters in enumerate((16, 32, 64)):
            for i in range(blocks):
                parts.append(block(channels, filters, 2 if stage and i == 0 else 1))
                channels = expansion * filters
        parts += [nn.BatchNorm2d(channels)] if last_norm else []
        parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
        return nn.Sequential(*parts)

    return build


def resnext50_64x4d() -> nn.Module:
    bottleneck = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(bottleneck, [3, 4, 6, 3], groups=64, width_per_group=4)


NETWORKS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "alexnet": {"torchvision": tv("alexnet")},
    **{name: {"torchvision": tv(name), "timm": tm(name)} for name in (*VGGS, *RESNETS, *DENSENETS)},
    **{
        name: {
            "torchvision": tv(name),
            "timm": tm(name),
            "efficientnet_pytorch": packaged(efficientnet_pytorch, name),
        }
        for name in EFFICIENTNETS
    },
    **{
        name: {
            "timm": tm(f"tf_{name}"),
            "efficientnet_pytorch": packaged(efficientnet_lite_pytorch, name),
        }
        for name in LITES
    },
    "resnext50_64x4d": {"torchvision": resnext50_64x4d},
    "resnext101_32x4d": {"timm": tm("resnext101_32x4d")},
    "googlenet": {"torchvision": tv("googlenet")},
    "googlenet+aux": {"torchvision": tv("googlenet", aux_logits=True)},
    "inception_v3": {"torchvision": tv("inception_v3"), "timm": tm("inception_v3")},
    "inception_v3+aux": {
        "torchvision": tv("inception_v3", aux_logits=True),
        "timm": tm("inception_v3", aux_logits=True),
    },
    "inception_v4": {"timm": tm("inception_v4")},
    "inception_resnet_v2": {"timm": tm("inception_resnet_v2")},
    **{f"preresnet{n}": {"timm": tm(f"resnetv2_{n}")} for n in (50, 101, 152)},
    **{name: {"timm": tm(name)} for name in ("tresnet_m", "tresnet_l", "tresnet_xl")},
    "resnet110": {"paper": cifar(CifarBlock, 18, 1, False)},
    "preresnet164": {"paper": cifar(PreactivatedBottleneck, 18, 4, True)},
}


def counted(model: nn.Module, size: int) -> dict[str, int]:
    """MACs and outputs for one image: two run, and in training where auxiliary heads need it."""
    macs = activations = 0

    def count(module: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal macs, activations
        macs += output.numel() * module.weight[0].numel()
        activations += output.numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model.train(any("aux" in name.lower() for name, _ in model.named_children()))
    model(torch.zeros(2, 3, size, size, device="meta"))
    return {"macs": macs // 2, "activations": activations // 2}


def named(shapes: dict[str, list[int]]) -> dict[str, Any]:
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in shapes.items()))
    return {"tensors": len(shapes), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def older(name: str) -> str:
    """As torchvision's files of DenseNets have it; its `_load_state_dict` has this pattern."""
    pattern = r"^(.*denselayer\d+\.(?:norm|relu|conv))([12]\.(?:weight|bias|running_\w+))$"
    return re.sub(pattern, r"\1.\2", name)


def facts(build: Callable[[], nn.Module], size: int) -> dict[str, dict[str, Any]]:
    """By what is added to the source's name: nothing, or " files" where its files differ."""
    with torch.device("meta"):
        model = build()
    counters = "num_batches_tracked"
    state = {n: list(t.shape) for n, t in model.state_dict().items() if not n.endswith(counters)}
    trainable = sum(p.numel() for p in model.parameters())
    running = sum(math.prod(shape) for shape in state.values()) - trainable
    counts: dict[str, Any] = {"trainable": trainable, "running": running, **counted(model, size)}
    counts["input"] = [size, size, 3]
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    counts["norms"] = sorted({(m.eps, round(1 - m.momentum, 9)) for m in norms})
    found = {"": {**counts, **named(state)}}
    if isinstance(model, torchvision.models.DenseNet):
        found[" files"] = {**counts, **named({older(n): shape for n, shape in state.items()})}
    return found


def main() -> None:
    published: dict[str, dict[str, Any]] = {}
    for name, sources in NETWORKS.items():
        size = 32 if "paper" in sources else SIZES.get(name.removesuffix("+aux"), 224)
        rows = published[name] = {}
        for source, build in sources.items():
            rows |= {source + suffix: row for suffix, row in facts(build, size).items()}
    text = json.dumps(published, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
