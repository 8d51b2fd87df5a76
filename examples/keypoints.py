"""python examples/keypoints.py    (about 2 minutes; --short 15 seconds)

Finds the three corners of a triangle as the soft-argmax of three heatmaps.
"""

import sys

import keras
from shapes import draw_cross, enlarged, save_page, scenes

import kblocks as kb

SHORT = "--short" in sys.argv
SIZE = 64
CORNERS = ("top", "left", "right")
COLOURS = ((255, 255, 255), (0, 255, 255), (255, 0, 255))
keras.utils.set_random_seed(1)
train = scenes(200 if SHORT else 3000, kinds=(2,), seed=1)
test = scenes(40 if SHORT else 500, kinds=(2,), seed=2)

net = kb.Architecture(
    [
        kb.ConvBlock.Spec(16, pool="max"),
        kb.ConvBlock.Spec(32, pool="max"),
        kb.ResidualBlock.Spec(64, strides=2),
        kb.ResidualBlock.Spec(64, strides=2),
    ],
    # A corner counts as found within two pixels of 64.
    head=kb.Keypoints(3, stride=4, filters=32, tolerance=2 / SIZE),
    name="corners",
)
places = train.corners[:, 0], test.corners[:, 0]
net.head.check(places[0])
print(net.cost((SIZE, SIZE, 3)))

epochs = 1 if SHORT else 12
model = net.model((SIZE, SIZE, 3))
steps = epochs * (len(train.images) // 32 + 1)
rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
model.compile(keras.optimizers.Adam(rate), **net.head.training())
model.fit(train.images, places[0], batch_size=32, epochs=epochs, verbose=2)
found = model.evaluate(test.images, places[1], verbose=0, return_dict=True)
pixels = found["distance"] * SIZE
print(f"within 2 pixels {found['within']:.3f}, mean distance {pixels:.2f} pixels")

predicted = model.predict(test.images[:12], verbose=0)
canvases = [enlarged(image) for image in test.images[:12]]
for canvas, corners in zip(canvases, predicted, strict=True):
    for corner, colour in zip(corners, COLOURS, strict=True):
        draw_cross(canvas, corner, colour)
save_page(canvases, "runs/keypoints.png", dict(zip(CORNERS, COLOURS, strict=True)))
print("runs/keypoints.png: white the top, cyan the left, pink the right corner")
