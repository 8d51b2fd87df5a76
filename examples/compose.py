"""python examples/compose.py    (about 20 seconds)

Blocks are Keras layers: in the functional API, in Sequential, in `model.fit`.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import kblocks as kb

keras.utils.set_random_seed(1)
digits = load_digits()
images = (digits.images[..., np.newaxis] / 16).astype("float32")

inputs = keras.Input((8, 8, 1))
x = kb.ConvBlock(16, 3)(inputs)
x = kb.ResidualBlock(32, kernel_size=(3, 5), strides=2)(x)
x = kb.BottleneckBlock(16, order="full_preactivation", stochastic_depth=0.1)(x)
x = kb.GlobalConcatPooling2D()(x)
model = keras.Model(inputs, keras.layers.Dense(10)(x))
model.compile(
    keras.optimizers.Adam(3e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(images[:1400], digits.target[:1400], epochs=5, verbose=2)
accuracy = model.evaluate(images[1400:], digits.target[1400:], verbose=0, return_dict=True)
print(f"accuracy on images not seen: {accuracy['accuracy']:.3f}")

kb.draw(model, "runs/compose.svg")
print("runs/compose.svg: the model as it runs")
