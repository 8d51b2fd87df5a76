"""python examples/localise.py    (about 3 minutes; --short 15 seconds)

A network with two outputs, trained together, finds the kind and the box of an image's one shape.
"""

import sys

import keras
import numpy as np
from shapes import KINDS, draw_boxes, enlarged, save_page, scenes

import kblocks as kb

SHORT = "--short" in sys.argv
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
keras.utils.set_random_seed(1)
train, test = scenes(300 if SHORT else 9000, seed=1), scenes(60 if SHORT else 500, seed=2)


def targets(made):
    """The targets of `kb.Localizer`, in the form that its docstring gives."""
    return {"class": made.objects[:, 0, 0], "box": made.objects[:, 0, 1:]}


net = kb.Architecture(
    [
        kb.ConvBlock.Spec(32, 5, strides=2),
        kb.ResidualBlock.Spec(32, strides=2),
        kb.ResidualBlock.Spec(64, strides=2),
        kb.ResidualBlock.Spec(64),
        kb.ConvBlock.Spec(16, 1),  # few channels, as the head has a weight for every pixel
    ],
    head=kb.Localizer(
        len(KINDS), box_weight=2.0, classifier={"hidden": (32,)}, regressor={"hidden": (64,)}
    ),
    name="localiser",
)
net.head.check(targets(train))
print(net.cost((64, 64, 3)))

epochs = 1 if SHORT else 12
model = net.model((64, 64, 3))
steps = epochs * (len(train.images) // 32 + 1)
rate = keras.optimizers.schedules.CosineDecay(1.5e-3, steps)
model.compile(keras.optimizers.Adam(rate), **net.head.training())
model.fit(train.images, targets(train), batch_size=32, epochs=epochs, verbose=2)
found = model.evaluate(test.images, targets(test), verbose=0, return_dict=True)
print(f"accuracy {found['class_accuracy']:.3f}, mean IoU {found['box_iou']:.3f}")

predicted = model.predict(test.images[:12], verbose=0)
canvases = [enlarged(image) for image in test.images[:12]]
kinds = np.argmax(predicted["class"], -1)
for canvas, kind, box, truth in zip(
    canvases, kinds, predicted["box"], targets(test)["box"], strict=False
):
    draw_boxes(canvas, [truth, box], [BLACK, WHITE], ["", KINDS[kind]])
save_page(canvases, "runs/localise.png", {"found": WHITE, "true": BLACK})
print("runs/localise.png: white what was found, black the truth")
