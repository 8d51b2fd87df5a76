"""`SharedTargets`: a model with named outputs, several of which may share one target."""

import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import keras

from kblocks.common.overriding import override
from kblocks.heads.task import LOGITS, FunctionLoss, takes_probabilities, tasks_of

_UNNAMED = (LOGITS, "features")  # default names of outputs


@keras.saving.register_keras_serializable("kblocks")
class SharedTargets(keras.Model):
    """A functional model with named outputs, several of which may share one target.

    The model returns a dict of outputs, or a tensor if there is only one. `fit` takes a dict of
    targets by target name, or one tensor if there is only one target. `compile` sets losses,
    metrics and weights of the main outputs; each auxiliary output adds its weight times the loss
    of a main output, and has no metrics. A dict of losses that names auxiliary outputs works as
    in Keras.

    Attributes:
        targets: the name of the target of each output for which it is not the output's own name.
        auxiliary: for each auxiliary output the main output whose loss it uses, and the weight of
            that loss.
    """

    # A clone made by Keras has empty ones, and trains like any model with several outputs.
    targets: Mapping[str, str] = MappingProxyType({})
    auxiliary: Mapping[str, tuple[str, float]] = MappingProxyType({})

    def share(self, targets: Mapping[str, str], auxiliary: Mapping[str, tuple[str, float]]) -> None:
        """Sets both attributes without Keras' tracking, which would wrap the dicts."""
        copies = {output: (like, float(weight)) for output, (like, weight) in auxiliary.items()}
        own = {output: targets.get(like, like) for output, (like, _) in copies.items()}
        self.__dict__["targets"] = {**own, **targets}
        self.__dict__["auxiliary"] = copies
        if not isinstance(self.output, Mapping) and targets:
            self.output_names = list(targets)  # Keras names a single output after its layer

    def main_outputs(self) -> list[str]:
        """The names of the outputs that are not auxiliary."""
        return [name for name in self._names() if name not in self.auxiliary]

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        auxiliary = {} if self._trains_auxiliary_directly() else self.auxiliary
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
        names = self._names() if self._trains_auxiliary_directly() else self.main_outputs()
        y, weights = self._by_output(y), self._weights_by_output(sample_weight)
        given = (self._of(names, one) for one in (y, self._predicted(y_pred), weights))
        return super().compute_metrics(x, *given)

    def get_config(self) -> dict[str, Any]:
        own = {"targets": dict(self.targets), "auxiliary": dict(self.auxiliary)}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        rest = dict(config)
        targets, auxiliary = rest.pop("targets", {}), rest.pop("auxiliary", {})
        model = super().from_config(rest, custom_objects)
        model.share(targets, auxiliary)
        return model

    def _names(self) -> list[str]:
        return list(self.output if isinstance(self.output, Mapping) else self.output_names)

    def _predicted(self, y_pred: Any) -> Any:
        """The outputs as a dict by name, also of a single output."""
        return y_pred if isinstance(y_pred, Mapping) else dict.fromkeys(self._names(), y_pred)

    def _trains_auxiliary_directly(self) -> bool:
        """Whether `compile` got a dict of losses that names auxiliary outputs."""
        named = self.loss if isinstance(self.loss, Mapping) else ()
        return any(name in self.auxiliary for name in named)

    def _by_output(self, given: Any) -> Any:
        """Targets or weights by output name, from one tensor or a dict by target or output name."""
        if given is None:
            return None
        targets = {name: self.targets.get(name, name) for name in self._names()}
        if not isinstance(given, Mapping):
            if len(set(targets.values())) > 1:
                raise self._refusal(targets, type(given).__name__)
            return dict.fromkeys(targets, given)
        missing = [t for name, t in targets.items() if name not in given and t not in given]
        if missing or set(given) - {*targets, *targets.values()}:
            raise self._refusal(targets, ", ".join(given))
        return {name: given[name] if name in given else given[t] for name, t in targets.items()}

    def _refusal(self, targets: Mapping[str, str], given: str) -> ValueError:
        self.train_function = self.test_function = None  # else TensorFlow uses a half-traced one
        names = ", ".join(dict.fromkeys(targets.values()))
        return ValueError(f"Targets must be a dict of {names}. Received: {given}")

    def _weights_by_output(self, given: Any) -> Any:
        """Sample weights by output name; one tensor applies to all outputs."""
        if given is None or isinstance(given, Mapping):
            return self._by_output(given)
        return dict.fromkeys(self._names(), given)

    def _of(self, names: Iterable[str], values: Any) -> Any:
        """The values of the named outputs; a tensor for a single name unless `loss` is a dict."""
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
    """A model with these outputs, whose `compile` warns of a loss that expects probabilities."""
    alone = next(iter(outputs)) if len(outputs) == 1 else None
    if alone in _UNNAMED:
        model = keras.Model(start, outputs[alone], name=name)
    else:
        model = SharedTargets(start, outputs[alone] if alone else dict(outputs), name=name)
        model.share({alone: targets.get(alone, alone)} if alone else targets, auxiliary)
    override(model, "compile", _compile)
    return model


def _compile(
    model: Any, plain: Any, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any
) -> None:
    plain(optimizer, loss, *args, **kwargs)
    tasks = tasks_of(model)
    losses: Any = dict.fromkeys(tasks, loss)
    if isinstance(loss, Mapping) and len(tasks) > 1:
        losses = loss
    elif isinstance(loss, (Mapping, list, tuple)):
        each = loss.values() if isinstance(loss, Mapping) else loss
        losses = dict(zip(tasks, each, strict=False))
    for name, task in tasks.items():
        if task.gives_logits and takes_probabilities(losses.get(name)):
            warnings.warn(
                f"The output {name!r} of {model.name} is logits, and its loss expects "
                "probabilities, so that it trains badly. Make the loss with from_logits=True, or "
                'the model with net.model(..., classifier_activation="softmax"). '
                f"Received: loss={loss!r}",
                stacklevel=3,
            )


def strip_aux(model: keras.Model) -> keras.Model:
    """The model without its auxiliary outputs, for inference.

    Args:
        model: a model from `Architecture.model(input_shape, aux=True)`, trained or not, or one
            loaded from a file.

    Returns:
        A functional model of the main outputs: a tensor, or a dict if there are several. It shares
        layers and weights with `model`; `keras.models.clone_model` and `set_weights` make an
        independent copy.

    Raises:
        ValueError: if the model has no auxiliary outputs.

    Example:
        >>> model = kb.googlenet(10).model((64, 64, 3), aux=True)
        >>> kb.strip_aux(model).output.shape
        (None, 10)
    """
    if not isinstance(model, SharedTargets) or not model.auxiliary:
        raise ValueError(
            "`model` must have auxiliary outputs, as Architecture.model(input_shape, aux=True) "
            f"makes. Received: model={model!r}"
        )
    names = model.main_outputs()
    outputs = {name: model.output[name] for name in names}
    targets = {name: target for name, target in model.targets.items() if name in outputs}
    return model_of(model.inputs[0], outputs, targets, {}, str(model.name))
