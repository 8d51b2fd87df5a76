"""Models whose outputs have names, and their targets, which may be fewer: as of auxiliary heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kblocks.heads.task import LOGITS, FunctionLoss

_UNNAMED = (LOGITS, "features")  # what an output is called where nobody gave it a name


@keras.saving.register_keras_serializable("kblocks")
class SharedTargets(keras.Model):
    """A functional model of named outputs, some of which may have a target in common.

    It puts out a dict, of one output a tensor.
    `fit` takes the targets by their own names, or one tensor where there is one target. What
    `compile` is told is for the main outputs: each auxiliary one adds its weight times the loss
    of the main output that it is trained like, and has no metrics. A dict of losses that names
    auxiliary outputs is taken as Keras takes it.

    Attributes:
        targets: the name of each output's target, where it is not the output's own.
        auxiliary: for each auxiliary output the main output that it is trained like, and the
            weight of its loss.
    """

    def share(self, targets: Mapping[str, str], auxiliary: Mapping[str, tuple[str, float]]) -> None:
        """Sets both attributes, past Keras' tracking, which would wrap the dicts."""
        copies = {output: (like, float(weight)) for output, (like, weight) in auxiliary.items()}
        own = {output: targets.get(like, like) for output, (like, _) in copies.items()}
        self.__dict__["targets"] = {**own, **targets}
        self.__dict__["auxiliary"] = copies
        if not isinstance(self.output, Mapping) and targets:
            self.output_names = list(targets)  # Keras calls a lone output as its layer

    def share_with(self, other: SharedTargets) -> None:
        """Sets those of a copy that Keras has made, which has neither."""
        other.share(self._targets(), self._auxiliary())

    def main_outputs(self) -> list[str]:
        """The names of the outputs that are not auxiliary."""
        return [name for name in self._names() if name not in self._auxiliary()]

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        auxiliary = {} if self._is_told_all() else self._auxiliary()
        names = [name for name in self._names() if name not in auxiliary]
        y, y_pred = self._by_output(y), self._predicted(y_pred)
        weights = self._weights_by_output(sample_weight)
        total = super().compute_loss(
            x, self._of(names, y), self._of(names, y_pred), self._of(names, weights), training
        )
        for name, (like, weight) in auxiliary.items():
            loss = self._loss_of(like)
            if loss is not None:
                total = total + weight * loss(y[name], y_pred[name], (weights or {}).get(name))
        return total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        names = self._names() if self._is_told_all() else self.main_outputs()
        y, weights = self._by_output(y), self._weights_by_output(sample_weight)
        given = (self._of(names, one) for one in (y, self._predicted(y_pred), weights))
        return super().compute_metrics(x, *given)

    def get_config(self) -> dict[str, Any]:
        own = {"targets": self._targets(), "auxiliary": self._auxiliary()}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        own = {key: config[key] for key in ("targets", "auxiliary") if key in config}
        rest = {key: value for key, value in config.items() if key not in own}
        model = super().from_config(rest, custom_objects)
        model.share(own.get("targets", {}), own.get("auxiliary", {}))
        return model

    # A clone that Keras makes has neither, and is then trained as any model of several outputs.
    def _targets(self) -> dict[str, str]:
        return self.__dict__.get("targets", {})

    def _auxiliary(self) -> dict[str, tuple[str, float]]:
        return self.__dict__.get("auxiliary", {})

    def _names(self) -> list[str]:
        return list(self.output if isinstance(self.output, Mapping) else self.output_names)

    def _predicted(self, y_pred: Any) -> Any:
        """The outputs by name, of one too."""
        return y_pred if isinstance(y_pred, Mapping) else dict.fromkeys(self._names(), y_pred)

    def _is_told_all(self) -> bool:
        """Whether the losses, or their weights, name auxiliary outputs."""
        named = self.loss if isinstance(self.loss, Mapping) else ()
        return any(name in self._auxiliary() for name in named)

    def _by_output(self, given: Any) -> Any:
        """Targets or weights by output, from one tensor or a dict by target or output."""
        if given is None:
            return None
        targets = {name: self._targets().get(name, name) for name in self._names()}
        if not isinstance(given, Mapping):
            if len(set(targets.values())) > 1:
                raise self._refusal(targets, type(given).__name__)
            return dict.fromkeys(targets, given)
        missing = [t for name, t in targets.items() if name not in given and t not in given]
        if missing or set(given) - {*targets, *targets.values()}:
            raise self._refusal(targets, ", ".join(given))
        return {name: given[name] if name in given else given[t] for name, t in targets.items()}

    def _refusal(self, targets: Mapping[str, str], given: str) -> ValueError:
        self.train_function = self.test_function = None  # else TensorFlow goes on with a half one
        names = ", ".join(dict.fromkeys(targets.values()))
        return ValueError(f"Targets must be a dict of {names}. Received: {given}")

    def _weights_by_output(self, given: Any) -> Any:
        """Sample weights by output; one tensor is for all of them."""
        if given is None or isinstance(given, Mapping):
            return self._by_output(given)
        return dict.fromkeys(self._names(), given)

    def _of(self, names: Iterable[str], values: Any) -> Any:
        """The values of some outputs; one tensor where there is one and no dict of losses."""
        if values is None:
            return None
        chosen = {name: values[name] for name in names}
        if len(chosen) == 1 and not isinstance(self.loss, Mapping):
            return next(iter(chosen.values()))
        return chosen

    def _loss_of(self, output: str) -> Any:
        loss = self.loss.get(output) if isinstance(self.loss, Mapping) else self.loss
        loss = keras.losses.get(loss)
        if loss is None or isinstance(loss, keras.losses.Loss):
            return loss
        return FunctionLoss(loss)


def model_of(
    start: Any,
    outputs: Mapping[str, Any],
    targets: Mapping[str, str],
    auxiliary: Mapping[str, tuple[str, float]],
    name: str,
) -> keras.Model:
    """The model of some outputs; targets and auxiliary outputs as `SharedTargets` has them."""
    alone = next(iter(outputs)) if len(outputs) == 1 else None
    if alone in _UNNAMED:
        return keras.Model(start, outputs[alone], name=name)
    if alone is None:
        model = SharedTargets(start, dict(outputs), name=name)
    else:
        model = SharedTargets(start, outputs[alone], name=name)
        targets = {alone: targets.get(alone, alone)}
    model.share(targets, auxiliary)
    return model


def strip_aux(model: keras.Model) -> keras.Model:
    """The model without its auxiliary outputs, for inference.

    Args:
        model: that `Architecture.model(input_shape, aux=True)` made, trained or not, or such a
            one loaded from a file.

    Returns:
        A functional model of the main outputs, one tensor where there is one. Its layers are
        those of `model`, weights and all; `keras.models.clone_model` and `set_weights` make a
        copy of it.

    Raises:
        ValueError: if the model has no auxiliary outputs.

    Example:
        >>> model = kb.googlenet(10).model((64, 64, 3), aux=True)
        >>> kb.strip_aux(model).output.shape
        (None, 10)
    """
    if not isinstance(model, SharedTargets) or not model._auxiliary():
        raise ValueError(
            "`model` must have auxiliary outputs, as Architecture.model(input_shape, aux=True) "
            f"makes. Received: model={model!r}"
        )
    names = model.main_outputs()
    outputs = {name: model.output[name] for name in names}
    targets = {name: target for name, target in model._targets().items() if name in outputs}
    return model_of(model.inputs[0], outputs, targets, {}, str(model.name))
