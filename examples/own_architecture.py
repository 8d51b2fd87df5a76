"""python examples/own_architecture.py    (about 5 seconds)

Your own block in your own architecture: its cost, its stages, its JSON, its model.
"""

import kblocks as kb
from kblocks.fields import Count
from kblocks.ops import Activation, Chain, Conv, Merge, Norm, Op


class FireBlock(kb.Block):
    """Squeezes to few channels, expands with two kernels (Iandola et al. 2016, arXiv:1602.07360).

    Args:
        squeeze: channels after the squeeze.
        filters: output channels, half of them by each kernel.
    """

    squeeze: Count
    filters: Count

    def plan(self, channels: int) -> Op:
        half = self.filters // 2
        return Chain(
            *(Conv(self.squeeze, use_bias=False), Norm(), Activation("relu")),
            Merge("concat", narrow=Conv(half), wide=Conv(half, (3, 3))),
            Activation("relu"),
        )


net = kb.Architecture(
    [
        ("stem", kb.ConvBlock.Spec(32, 3, 2, pool="max")),
        [FireBlock.Spec(16, 64), FireBlock.Spec(16, 64)],
        [FireBlock.Spec(32, 128), FireBlock.Spec(32, 128)],
    ],
    head=kb.Classifier(10, pool="concat", dropout=0.2),
    name="fire",
)

for stage, cost in net.stages((64, 64, 3)):
    print(f"{stage:8} {cost.output_shape!s:14} {cost.params:>8,} parameters {cost.macs:>12,} MACs")
print(f"all      {net.cost((64, 64, 3))}")

again = kb.Architecture.from_json(net.to_json())
assert again == net
model = again.model((64, 64, 3))
assert model.count_params() == net.cost((64, 64, 3)).params
model.summary(expand_nested=True)

kb.draw(net, "runs/own_architecture.svg", input_shape=(64, 64, 3))
print("runs/own_architecture.svg: its stages and its block")
