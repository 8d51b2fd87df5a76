"""python examples/tf_data_pipeline.py    (about 2 minutes; --short 20 seconds)

A team's TensorFlow pipeline, from image files to a saved model, with a kblocks network in place of
their own: only the line that makes the model changes. The files are PNGs of Fashion-MNIST if
Debian's package dataset-fashion-mnist is installed, else and with --short of scikit-learn's digits.
One class has fewer images than the others.
"""

import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import altair as alt
import keras
import numpy as np
import tensorflow as tf
from pages import save_png

import kblocks as kb

SHORT = "--short" in sys.argv
FASHION = "/usr/share/datasets/fashion-mnist"
WHOLE = Path(FASHION).is_dir() and not SHORT
SIZE = (28, 28) if WHOLE else (8, 8)
RARE = 6  # Fashion-MNIST's shirts
EPOCHS = 2 if SHORT else 10


# --- what the team has -------------------------------------------------------------------


def write_files(folder: Path) -> None:
    """Writes train/, validation/ and test/, each with one folder for each class."""
    data = kb.tuner.load(FASHION if WHOLE else "digits", limit=7_500 if WHOLE else None)
    most = {"train": 60 if SHORT else None, "validation": 20 if SHORT else None}
    for part, (images, labels) in data.parts().items():
        for kind in range(data.classes):
            own = np.flatnonzero(labels == kind)[: most.get(part)]
            if kind == RARE and part == "train":
                own = own[: len(own) // 4]
            (folder / part / str(kind)).mkdir(parents=True)
            for row in own:
                keras.utils.save_img(folder / part / str(kind) / f"{row}.png", images[row] * 255)


def scale(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(image, tf.float32) / 255, label


def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves an image by up to two pixels; flips clothes, but not digits."""
    padded = tf.pad(image, ((2, 2), (2, 2), (0, 0)))
    image = tf.image.random_crop(padded, (*SIZE, 1))
    return (tf.image.random_flip_left_right(image) if WHOLE else image), label


def pipeline(folder: Path, training: bool = False) -> tf.data.Dataset:
    files = keras.utils.image_dataset_from_directory(
        folder, color_mode="grayscale", image_size=SIZE, batch_size=None, shuffle=False, verbose=0
    )
    images = files.map(scale, tf.data.AUTOTUNE).cache()
    if training:
        images = images.shuffle(20_000, seed=1).map(augment, tf.data.AUTOTUNE)
    return images.batch(64).prefetch(tf.data.AUTOTUNE)


def class_weights(folder: Path) -> dict[int, float]:
    """Weights that make all classes count equally in total."""
    counts = {int(own.name): len(list(own.iterdir())) for own in sorted(folder.iterdir())}
    return {kind: sum(counts.values()) / len(counts) / count for kind, count in counts.items()}


def their_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((*SIZE, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


class EpochTimes(keras.callbacks.Callback):
    """Measures the seconds of each epoch, validation included."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def train(model: keras.Model, images: Path, kept: Path) -> tuple[keras.callbacks.History, float]:
    """The team's training, which saves its best model to the file `kept`."""
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    times = EpochTimes()
    history = model.fit(
        pipeline(images / "train", training=True),
        validation_data=pipeline(images / "validation"),
        epochs=EPOCHS,
        class_weight=class_weights(images / "train"),
        callbacks=[
            keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=2),
            keras.callbacks.ModelCheckpoint(kept, save_best_only=True),
            times,
        ],
        verbose=2,
    )
    return history, statistics.median(times.seconds[1:])  # the first one traces and fills the cache


# --- the one change ----------------------------------------------------------------------


def our_network() -> kb.Architecture:
    """As many multiply-adds as the team's model has."""
    norm = kb.Norm("batch", momentum=0.9)  # an epoch here has few steps for the moving averages
    return kb.Architecture(
        [
            kb.ConvBlock.Spec(24, pool="max", normalization=norm),
            kb.ResidualBlock.Spec(24, normalization=norm),
            kb.ResidualBlock.Spec(56, strides=2, normalization=norm),
        ],
        head=kb.Classifier(10, pool="concat", dropout=0.3),
        name="ours",
    )


def multiply_adds(model: keras.Model) -> int:
    """Of one image in the convolutions and dense layers of the team's model."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return sum(math.prod((*one.kernel.shape, *one.output.shape[1:-1])) for one in layers)


def main() -> None:
    curves = []
    macs = [multiply_adds(their_model()), our_network().cost((*SIZE, 1)).macs]
    print("multiply-adds: their model {:,}, kblocks {:,}".format(*macs))
    makers = {"their model": their_model, "kblocks": lambda: our_network().model((*SIZE, 1))}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        write_files(images)
        for name, make in makers.items():
            keras.utils.set_random_seed(1)
            model = make()
            kept = images / f"{name}.keras"
            history, seconds = train(model, images, kept)
            test = pipeline(images / "test")
            loaded = keras.models.load_model(kept)
            accuracy = loaded.evaluate(test, verbose=0, return_dict=True)["accuracy"]
            apart = np.abs(loaded.predict(test, verbose=0) - model.predict(test, verbose=0)).max()
            print(
                f"{name}: test accuracy {accuracy:.3f}, {model.count_params():,} parameters, "
                f"{seconds:.1f} s an epoch, loaded and trained model apart by {apart:.0e}"
            )
            curves += [
                {"model": name, "epoch": epoch, "accuracy": value}
                for epoch, value in enumerate(history.history["val_accuracy"], 1)
            ]
    lines = alt.Chart(alt.Data(values=curves)).mark_line(point=True)
    chart = lines.encode(
        alt.X("epoch:O").axis(labelAngle=0),
        alt.Y("accuracy:Q", title="validation accuracy").scale(zero=False).axis(format=".0%"),
        alt.Color("model:N", title=None).scale(range=["#2f6db3", "#d9822b"]),
    ).properties(width=520, height=260, title="One pipeline, one fit, two models")
    save_png(chart, "runs/tf_data_pipeline.png")
    print("runs/tf_data_pipeline.png: the accuracy of both by epoch")


if __name__ == "__main__":
    main()
