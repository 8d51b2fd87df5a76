"""python examples/phone.py    (about 1 minute; --short 15 seconds)

A classifier for a phone: trains it, folds batch normalisations, writes LiteRT files in float32 and
int8, and runs both in LiteRT's interpreter on images that neither training nor calibration saw.
Data: Fashion-MNIST if Debian's package dataset-fashion-mnist is installed, else and with --short
scikit-learn's digits.
"""

import importlib.util
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw
from shapes import enlarged, save_page

import kblocks as kb

SHORT = "--short" in sys.argv
FASHION = "/usr/share/datasets/fashion-mnist"
WHOLE = Path(FASHION).is_dir() and not SHORT
CLOTHES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
# MobileNet-v2's form of the block: int8 suits a bounded activation and no gate.
PLAIN = {"expansion": 4, "activation": "relu6", "squeeze_ratio": None}
GREEN, RED = (20, 130, 60), (200, 40, 40)


def interpreter(file: Path) -> Any:
    """LiteRT's interpreter, from its own package if that is installed, else from TensorFlow."""
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_path=str(file))
    return tf.lite.Interpreter(model_path=str(file))


def run_on_phone(file: Path, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Runs the images one by one; returns their logits and the median seconds of one."""
    lite = interpreter(file)
    lite.allocate_tensors()
    taken, given = lite.get_input_details()[0]["index"], lite.get_output_details()[0]["index"]
    logits, seconds = [], []
    for image in images:
        start = time.perf_counter()
        lite.set_tensor(taken, image[np.newaxis])
        lite.invoke()
        logits.append(lite.get_tensor(given)[0])
        seconds.append(time.perf_counter() - start)
    return np.array(logits), statistics.median(seconds)


def card(image: np.ndarray, *lines: tuple[str, tuple[int, int, int]]) -> np.ndarray:
    """An image with lines of text below it."""
    canvas = Image.new("RGB", (168, 168 + 17 * len(lines) + 4), "white")
    large = enlarged(np.repeat(image, 3, -1), 168 // len(image))
    canvas.paste(Image.fromarray(large))
    brush = ImageDraw.Draw(canvas)
    for row, (words, colour) in enumerate(lines):
        brush.text((2, 170 + 17 * row), words, fill=colour, font_size=13)
    return np.array(canvas)


keras.utils.set_random_seed(1)
data = kb.tuner.load(FASHION if WHOLE else "digits", limit=10_000 if WHOLE else None)
images, labels = (part[:2000] for part in data.test)
shape = data.input_shape

net = kb.Architecture(
    [
        kb.ConvBlock.Spec(16),
        kb.MBConvBlock.Spec(24, 3, strides=2, **PLAIN),
        kb.MBConvBlock.Spec(40, 3, strides=2, **PLAIN),
        kb.MBConvBlock.Spec(40, 3, **PLAIN),
    ],
    head=kb.Classifier(data.classes),
    name="phone",
)
model = net.model(shape)
recipe = kb.Recipe(learning_rate=3e-3, schedule="cosine")
recipe.compile(model)
epochs = 2 if SHORT else 8
model.fit(*data.train, batch_size=64, epochs=epochs, verbose=2, callbacks=recipe.callbacks(epochs))

folded = kb.fuse(model)
runs = Path("runs")
files = {
    "float32": kb.export(folded, runs / "phone.tflite"),
    "int8": kb.export(folded, runs / "phone_int8.tflite", representative=data.train[0][:300]),
}
kept = kb.export(model, runs / "phone.keras")
logits = {"Keras": model.predict(images, verbose=0)}
seconds = {"Keras": kb.latency(model)}
for name, file in files.items():
    logits[name], seconds[name] = run_on_phone(file, images)

print(f"{net.cost(shape).params:,} parameters, {net.cost(shape).macs:,} multiply-adds")
print(f"{'':8} {'file':>9} {'maps':>9} {'accuracy':>9} {'as Keras':>9} {'one image':>10}")
answers = {name: found.argmax(-1) for name, found in logits.items()}
for name, file in {"Keras": kept, **files}.items():
    maps = kb.inference_memory(net, shape, itemsize=1 if name == "int8" else 4)
    print(
        f"{name:8} {file.stat().st_size / 1e3:6.0f} kB {maps / 1e3:6.1f} kB "
        f"{np.mean(answers[name] == labels):9.3f} "
        f"{np.mean(answers[name] == answers['Keras']):9.3f} {seconds[name] * 1e3:7.3f} ms"
    )

shares = {name: np.array(keras.ops.softmax(logits[name])) for name in files}
moved = np.abs(shares["float32"] - shares["int8"]).max(-1)
names = CLOTHES if WHOLE else [str(kind) for kind in range(data.classes)]
cards = []
for row in np.argsort(-moved)[:12]:
    lines = [(f"is: {names[labels[row]]}", (0, 0, 0))]
    for name in files:
        kind = answers[name][row]
        words = f"{name}: {names[kind]} {shares[name][row, kind]:.0%}"
        lines.append((words, GREEN if kind == labels[row] else RED))
    cards.append(card(images[row], *lines))
save_page(cards, "runs/phone.png", {"right": GREEN, "wrong": RED})
print("runs/phone.png: the twelve images on which int8 moved the answer most")
