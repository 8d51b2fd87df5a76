"""What `kblocks list` and the help texts show, kept in `architectures.json`.

It is computed by `python -m kblocks.command.listing`, which writes the file again. The command
reads it, because importing Keras and counting a hundred networks takes seconds.
"""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kblocks.networks.architecture import Architecture

FILE = Path(__file__).with_name("architectures.json")
# Published input sizes of networks for which kblocks has no weights: Szegedy et al.
# (arXiv:1602.07261, Fig. 10), Chollet (arXiv:1610.02357, Fig. 5), and Tan & Le (arXiv:1905.11946;
# from the table in their code).
_EFFICIENTNETS = (224, 240, 260, 300, 380, 456, 528, 600)
_SIDES = {"inception_resnet_v1": 299, "xception": 299}
_SIDES |= {f"efficientnet_b{i}": side for i, side in enumerate(_EFFICIENTNETS)}
_CIFAR, _IMAGENET = 32, 224


@functools.cache
def listing() -> dict[str, Any]:
    """The file's content, as `computed` makes it."""
    return json.loads(FILE.read_text(encoding="utf-8"))


FAMILIES: tuple[str, ...] = tuple(listing()["spaces"])  # those that have a ready space


def computed() -> dict[str, Any]:
    """The families that have a ready space, and what is shown of each published architecture."""
    from kblocks.families import ready_spaces
    from kblocks.networks.catalog import architecture, by_family

    shown = {}
    for family, names in by_family().items():
        for name in names:
            net = architecture(name)
            weights = [one.name for one in net.weights]
            if weights:
                weights[0] += f" ({net.weights[0].source})"
            about = {"family": family, "weights": ", ".join(weights)}
            shown[name] = {**about, **staged(net, native_input(net))}
    return {"spaces": list(ready_spaces.__all__), "architectures": shown}


def staged(net: "Architecture", input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Input and output shape, parameters and MACs of a network and of each of its stages."""
    total = net.cost(input_shape)
    costs = net.stages(input_shape)
    stages = [[name, cost.output_shape, cost.params, cost.macs] for name, cost in costs]
    whole = {"output": total.output_shape, "params": total.params, "macs": total.macs}
    return {"input": input_shape, **whole, "stages": stages}


def native_input(net: "Architecture") -> tuple[int, int, int]:
    """(height, width, channels) of the images for which a network was published."""
    if net.weights:
        side = net.weights[0].size
    else:
        ten = getattr(net.rows[-1].spec, "classes", None) == 10
        side = _SIDES.get(net.name, _CIFAR if ten else _IMAGENET)
    return side, side, 3


if __name__ == "__main__":
    from kblocks.common.atomic import whole

    found = computed()
    lines = [f"  {json.dumps(n)}: {json.dumps(a)}" for n, a in found["architectures"].items()]
    text = f'{{"spaces": {json.dumps(found["spaces"])}, "architectures": {{\n'
    with whole(FILE) as path:
        path.write_text(text + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
