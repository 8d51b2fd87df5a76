"""python examples/detect.py    (about 2 minutes; --short 15 seconds)

An anchor-free detector on two levels finds all shapes of an image, their kinds and boxes.
"""

import sys

import keras
from shapes import KINDS, draw_boxes, enlarged, save_page, scenes

import kblocks as kb

SHORT = "--short" in sys.argv
COLOURS = ((255, 0, 255), (255, 255, 255), (0, 255, 255))
keras.utils.set_random_seed(1)
train = scenes(100 if SHORT else 2500, most=3, seed=1)
test = scenes(40 if SHORT else 300, most=3, seed=2)

net = kb.Architecture(
    [
        kb.ConvBlock.Spec(16, pool="max"),
        kb.ResidualBlock.Spec(32, strides=2),
        kb.ResidualBlock.Spec(64, strides=2),
    ],
    head=kb.Detector(len(KINDS), strides=(4, 8), largest=5, filters=48),
    name="detector",
)
net.head.check(train.objects)
print(net.cost((64, 64, 3)))

epochs = 1 if SHORT else 14
model = net.model((64, 64, 3))
steps = epochs * (len(train.images) // 16 + 1)
rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
model.compile(keras.optimizers.Adam(rate), **net.head.training())
model.fit(train.images, train.objects, batch_size=16, epochs=epochs, verbose=2)  # one y, two maps
predicted = model.predict(test.images, verbose=0)
precision = kb.mean_average_precision(kb.detections(predicted, score=0.05), test.objects)
print(f"mAP50 {precision:.3f}")

canvases = [enlarged(image) for image in test.images[:12]]
for canvas, found in zip(canvases, kb.detections(predicted, score=0.4), strict=False):
    kinds = list(found.classes)
    draw_boxes(canvas, found.boxes, [COLOURS[k] for k in kinds], [KINDS[k] for k in kinds])
save_page(canvases, "runs/detect.png", dict(zip(KINDS, COLOURS, strict=True)))
print("runs/detect.png: every shape found, with its kind")
