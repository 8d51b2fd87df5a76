"""python examples/segment.py    (about 2 minutes; --short 15 seconds)

Finds a class for each pixel from scores at four strides, which are resized to the image's size.
"""

import sys

import keras
import numpy as np
from shapes import COLOURS, KINDS, enlarged, save_page, scenes

import kblocks as kb

SHORT = "--short" in sys.argv
keras.utils.set_random_seed(1)
train = scenes(100 if SHORT else 1500, most=3, seed=1)
test = scenes(40 if SHORT else 300, most=3, seed=2)

net = kb.Architecture(
    [
        ("stem", kb.ConvBlock.Spec(16, strides=2)),
        ("stage1", kb.ResidualBlock.Spec(16)),
        ("stage2", kb.ResidualBlock.Spec(32, strides=2)),
        ("stage3", kb.ResidualBlock.Spec(64, strides=2)),
        ("stage4", kb.ResidualBlock.Spec(64, strides=2)),
    ],
    head=kb.Segmenter(1 + len(KINDS), stride=2),
    name="segmenter",
)
net.head.check(train.masks)
print(net.cost((64, 64, 3)))

epochs = 1 if SHORT else 14
model = net.model((64, 64, 3))
steps = epochs * (len(train.images) // 16 + 1)
rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
model.compile(keras.optimizers.Adam(rate), **net.head.training())
model.fit(train.images, train.masks, batch_size=16, epochs=epochs, verbose=2)
found = model.evaluate(test.images, test.masks, verbose=0, return_dict=True)
print(f"mean IoU {found['mean_iou']:.3f}")

classes = np.argmax(model.predict(test.images[:12], verbose=0), -1)
paint = np.concatenate([np.zeros((1, 3)), COLOURS[:3] / 255])
canvases = [enlarged(image) for image in test.images[:6]]
canvases += [enlarged(paint[test.masks[i]]) for i in range(6)]
canvases += [enlarged(paint[classes[i]]) for i in range(6)]
rows = {"from top to bottom: images, true masks, masks found": None}
save_page(canvases, "runs/segment.png", {**dict(zip(KINDS, COLOURS, strict=False)), **rows})
print("runs/segment.png: images, the truth (red circles, green squares, blue triangles), the found")
