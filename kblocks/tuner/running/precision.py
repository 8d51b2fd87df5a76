"""One precision for all trials of a search: decided before the first, and kept in the study."""

from __future__ import annotations

from typing import Any

import keras
import optuna

from kblocks.training.precision import POLICIES, faster
from kblocks.tuner.hypermodel import named
from kblocks.tuner.records import PRECISION, RUN
from kblocks.tuner.running.fitting import Fit
from kblocks.tuner.running.search import Search
from kblocks.tuner.storing import interrupts
from kblocks.tuner.storing.identity import ChangedError
from kblocks.tuner.storing.patience import PatientStorage
from kblocks.tuner.terminal import log


def settle(storage: PatientStorage, study: optuna.Study, precision: str | None) -> None:
    """Notes the precision that the user has named, before the first trial.

    Raises:
        ChangedError: if it is not that of the trials so far, or of a search that is joined.
    """
    if precision in (None, "auto"):
        return
    policy = POLICIES[precision]
    known = study.user_attrs.get(PRECISION) or _of_trials(study)
    if not known and "precision" not in study.user_attrs.get(RUN, {}):
        known = _of_keras()  # its other processes may be about to begin
    known = known or _kept(storage, study, {"policy": policy})
    if known["policy"] != policy:
        raise ChangedError(
            f"`precision` must stay what it was in the trials so far, {known['policy']!r}, so that "
            f"they can be compared. Received: precision={precision!r}"
        )


def agreed(search: Search, fit: Fit) -> str | None:
    """The dtype policy of all trials; None leaves it to Keras' setting.

    Of several processes that find none in the study and measure, the first one's result holds.

    Raises:
        RuntimeError: if Keras does not know the policy that another process has recorded.
    """
    study = search.study
    wanted = study.user_attrs.get(RUN, {}).get("precision")  # also if this process joins it
    known = study.user_attrs.get(PRECISION)
    if known is None and wanted is None:
        return None
    if known is None:
        new = {"policy": POLICIES[wanted]} if wanted in POLICIES else None
        new = _of_trials(study) or new or _measured(search.tuner, fit)
        known = _kept(search.storage, study, new)
    try:
        keras.dtype_policies.get(known["policy"])
    except (TypeError, ValueError) as error:
        raise RuntimeError(
            f"The search computes in {known['policy']!r}, which Keras {keras.__version__} does not "
            "have: this process cannot join it"
        ) from error
    return str(known["policy"])


def _of_trials(study: optuna.Study) -> dict[str, Any]:
    """The policy of the trials of a search that was begun without a precision; {} before any."""
    return _of_keras() if study.get_trials(deepcopy=False) else {}


def _of_keras() -> dict[str, Any]:
    return {"policy": keras.config.dtype_policy().name}


def _kept(storage: PatientStorage, study: optuna.Study, new: dict[str, Any]) -> Any:
    return storage.once(storage.get_study_id_from_name(study.study_name), PRECISION, new)


def _measured(tuner: Any, fit: Fit) -> dict[str, Any]:
    """The faster policy for the network of the default point."""

    def make() -> Any:
        hp = tuner.asking(lambda name, distribution, default: default)
        tuner.hypermodel.declare_hyperparameters(hp)
        return tuner.build(hp)

    try:
        policy, ratio = faster(make, _batch_size(fit))
    except Exception as error:  # a HyperModel may fail at its first point, or need other images
        interrupts.check(error)
        log.warning("precision='auto' stays at float32, no step could be tried: %s", error)
        return {"policy": "float32"}
    return {"policy": policy, "ratio": round(ratio, 3)}


def _batch_size(fit: Fit) -> int:
    given = named(*fit)
    shapes = keras.tree.flatten(getattr(given.get("x"), "element_spec", None))
    size = shapes[0].shape[0] if shapes and len(getattr(shapes[0], "shape", ())) else None
    return given.get("batch_size") or getattr(given.get("x"), "batch_size", None) or size or 32
