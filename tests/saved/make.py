"""Makes the files of this folder, which later versions must load. Made once, by version 0.1.0:

    python tests/saved/make.py

`blocks.keras` has every exported block, `heads.keras` a network of each task, `fused.keras` what
`kb.fuse` gives; `outputs.npz` has what they put out, for the inputs of `images`.
`networks.json` has a network of each family, and `run/` a search that was stopped in its second
trial.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kblocks as kb

HERE = Path(__file__).parent
FAMILIES = (
    *("alexnet", "vgg11", "vgg16_bn", "googlenet", "inception_v3", "inception_v4"),
    *("inception_resnet_v1", "inception_resnet_v2", "resnet18", "resnet50", "resnet20"),
    *("preresnet50", "wrn28_10", "resnext50_32x4d", "densenet121", "densenet40_12"),
    *("efficientnet_b0", "efficientnet_lite0", "tresnet_m"),
)
HEADS = {
    "classifier": kb.Classifier(4, pool="concat"),
    "localizer": kb.Localizer(4),
    "keypoints": kb.Keypoints(3),
    "segmenter": kb.Segmenter(4),
    "detector": kb.Detector(4),
}


def images(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype("float32")


def set_weights(model: keras.Model) -> None:
    """Other weights than those that layers begin with, the same each time."""
    random = np.random.RandomState(1)
    model.set_weights([random.uniform(0.1, 0.5, np.shape(w)) for w in model.get_weights()])


def network(head: Any) -> kb.Architecture:
    return kb.resnet(
        block="basic", blocks=(1, 1), filters=(4, 8), stem={"filters": 4}, head=head, classes=None
    )


def inputs_of(model: keras.Model) -> list[np.ndarray]:
    return [images((2, *tensor.shape[1:]), seed) for seed, tensor in enumerate(model.inputs)]


def outputs_of(model: keras.Model) -> list[np.ndarray]:
    given = inputs_of(model)
    outputs = model(given if len(given) > 1 else given[0], training=False)
    return [np.asarray(keras.ops.convert_to_numpy(out)) for out in keras.tree.flatten(outputs)]


class Stop(keras.callbacks.Callback):
    """Interrupts the second trial after its second epoch."""

    trials = 0

    def on_train_begin(self, logs: Any = None) -> None:
        Stop.trials += 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if Stop.trials == 2 and epoch == 2:
            raise KeyboardInterrupt


def tuner(directory: Path) -> kb.tuner.Tuner:
    space = kb.Space(
        kb.resnet,
        classes=3,
        block="basic",
        blocks=(1, 1),
        filters=kb.per_stage(2, kb.choice(4, 8)),
        kernel_size=kb.choice(3, (1, 5)),
        stem={"filters": 4, "kernel_size": 3, "strides": 1, "pool": None},
    ).within((8, 8, 1), kb.Budget(macs=200_000))
    hypermodel = kb.tuner.HyperModel(
        space, recipe=kb.Recipe(learning_rate=kb.real(1e-3, 1e-2, log=True))
    )
    return kb.tuner.Tuner(
        hypermodel,
        trials=3,
        workers=0,
        seed=1,
        directory=directory,
        project_name="run",
    )


def search(tuner: kb.tuner.Tuner, *callbacks: Any) -> Any:
    x, y = images((48, 8, 8, 1)), np.arange(48) % 3
    return tuner.search(
        x, y, validation_split=0.25, epochs=4, batch_size=16, callbacks=list(callbacks), verbose=0
    )


def main() -> None:
    sys.path.insert(0, str(HERE.parent))
    from conformance import CASES

    first: dict[Any, Any] = {}
    for case in CASES.values():
        first.setdefault(case.block, case)
    inputs = [keras.Input(case.shape) for case in first.values()]
    parts = [case.layer() for case in first.values()]
    outputs = [layer(tensor) for layer, tensor in zip(parts, inputs, strict=True)]
    flat = keras.Input((6,))
    grouped = keras.Input((6, 6, 4))
    models = {
        "blocks": keras.Model(
            [*inputs, flat, grouped],
            [*outputs, kb.ResidualDense(6)(flat), kb.GroupedConv2D(8, 3, groups=2)(grouped)],
        ),
        "fused": kb.fuse(network(HEADS["classifier"]).model((32, 32, 3))),
    }
    image = keras.Input((32, 32, 3))
    ends = [network(head).model((32, 32, 3), name=name)(image) for name, head in HEADS.items()]
    models["heads"] = keras.Model(image, keras.tree.flatten(ends))
    found = {}
    for name, model in models.items():
        set_weights(model)
        model.save(HERE / f"{name}.keras")
        found |= {f"{name}{i}": output for i, output in enumerate(outputs_of(model))}
    np.savez_compressed(HERE / "outputs.npz", **found)
    nets = {name: kb.architecture(name) for name in FAMILIES}
    nets |= {f"with_{name}": network(head) for name, head in HEADS.items()}
    (HERE / "networks.json").write_text(
        json.dumps(
            {
                name: {"params": net.cost((299, 299, 3)).params, "text": net.to_json()}
                for name, net in nets.items()
            }
        )
    )
    try:
        search(tuner(HERE), Stop())
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
