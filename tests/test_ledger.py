"""The ledger of a search agrees with a plain look at all of its trials, at every moment."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import optuna
import pytest
from optuna.trial import TrialState

from kblocks.tuner.records import FAILURE, RUN, SURPLUS, Objective, Run, read
from kblocks.tuner.storing.ledger import Ledger

ONE = (Objective("val_accuracy", "max"),)
TWO = (Objective("val_accuracy", "max"), Objective("macs", "min"))


def begun(objectives: tuple[Objective, ...]) -> optuna.Study:
    directions = ["maximize" if o.direction == "max" else "minimize" for o in objectives]
    study = optuna.create_study(directions=directions)
    known = [{"name": o.name, "direction": o.direction} for o in objectives]
    study.set_user_attr(RUN, {"objectives": known})
    return study


def completed(run: Run, number: int, scores: tuple[float, ...]) -> Run:
    """The run as it will be when a trial is completed."""
    trials = (
        replace(t, state="completed", scores=scores) if t.number == number else t
        for t in run.trials
    )
    return replace(run, trials=tuple(trials))


def compare(ledger: Ledger, study: optuna.Study, objectives: tuple[Objective, ...]) -> None:
    ledger.look()
    trials = study.get_trials(deepcopy=False)
    counted = [t for t in trials if SURPLUS not in t.user_attrs]
    assert ledger.counted == len(counted)
    assert [t.number for t in ledger.open] == [
        t.number for t in counted if not t.state.is_finished()
    ]
    for trial in trials:
        assert ledger.is_finished(trial.number) == trial.state.is_finished()
        assert ledger.counted_before(trial.number) == sum(t.number < trial.number for t in counted)
    ended = [t for t in counted if t.state.is_finished()]
    failed = [t for t in ended if t.user_attrs.get(FAILURE, {}).get("kind") == "error"]
    found = ledger.errors()
    if len(failed) == len(ended):
        assert found is not None
        assert [t.number for t in found] == [t.number for t in failed]
    else:
        assert found is None
    check_best(ledger.best(3), read(study), objectives)
    for trial in ledger.open:
        scores = tuple(float(trial.number % 5) for _ in objectives)
        then = completed(read(study), trial.number, scores)
        check_best(ledger.best(3, trial.number, scores), then, objectives)
    assert ledger.best(0) == []


def check_best(found: list[int], run: Run, objectives: tuple[Objective, ...]) -> None:
    """The three best come first; with several objectives also all that may come to be of them."""
    assert found[:3] == [record.number for record in run.ranked()[:3]]
    alone = Run("", objectives[:1], {}, tuple(replace(t, scores=t.scores[:1]) for t in run.trials))
    kept = {record.number for record in alone.ranked()[:3]}
    kept |= {record.number for record in run.front()} if len(objectives) > 1 else set()
    assert set(found) == kept


@pytest.mark.parametrize("objectives", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("seed", range(6))
def test_as_a_plain_look(objectives: tuple[Objective, ...], seed: int) -> None:
    """Trials begin and end in any order, in every way; several of equal scores."""
    random = Random(seed)
    study = begun(objectives)
    ledger = Ledger(study, objectives, kept=3)
    running: list[optuna.Trial] = []
    for _ in range(60):
        if not running or random.random() < 0.5:
            running.append(study.ask())
        else:
            trial = running.pop(random.randrange(len(running)))
            match random.choice(["completed", "completed", "error", "diverged", "surplus"]):
                case "completed" if seed:  # with seed 0 nothing ever is
                    study.tell(trial, [float(random.randrange(6)) for _ in objectives])
                case "diverged" if seed > 2:
                    trial.set_user_attr(FAILURE, {"kind": "diverged", "message": ""})
                    study.tell(trial, state=TrialState.PRUNED)
                case "surplus":
                    trial.set_user_attr(SURPLUS, True)
                    study.tell(trial, state=TrialState.FAIL)
                case _:
                    trial.set_user_attr(FAILURE, {"kind": "error", "message": ""})
                    study.tell(trial, state=TrialState.FAIL)
        compare(ledger, study, objectives)
