"""A run prepared for a report: finite numbers, clean text, and no more than can be drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from kblocks.tuner.records import Objective, Record, Run
from kblocks.tuner.reporting.text import clean, number, score

COSTS = {"macs": "MACs", "params": "parameters", "latency": "latency"}  # and their names in text
OBJECTIVES = 3  # the most that get plots
POINTS = 2000  # the most that one plot draws


@dataclass(frozen=True)
class Shown:
    """A trial as a report shows it."""

    record: Record
    scores: tuple[float, ...]  # one for each objective; empty if any of them is not finite
    values: Mapping[str, Any]  # of the active choices, by their cleaned names
    costs: Mapping[str, float]  # those of macs, params and latency that are positive numbers
    ended: float | None  # seconds since the run's first trial began

    @property
    def number(self) -> int:
        return self.record.number

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """A metric as pairs (epoch, value), without values that are not finite; epochs from 1."""
        history = self.record.history
        values = history.get(metric, ()) if isinstance(history, Mapping) else ()
        values = values if isinstance(values, (list, tuple)) else ()
        found = ((epoch, number(value)) for epoch, value in enumerate(values, 1))
        return [(epoch, value) for epoch, value in found if value is not None]


class View:
    """A run as a report shows it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.objectives = tuple(Objective(clean(o.name, 60), o.direction) for o in run.objectives)
        begins = [trial.started for trial in run.trials if trial.started is not None]
        start = min(begins, default=None)
        self.settings = run.settings if isinstance(run.settings, Mapping) else {}
        self.distributions = {clean(name, 80): one for name, one in run.distributions.items()}
        self.trials = [self._shown(trial, start) for trial in run.trials]
        self.scored = [trial for trial in self.trials if trial.scores]
        self._by_number = {trial.number: trial for trial in self.scored}

    def options_of(self, choice: str) -> list[str]:
        """The texts of a choice's options if trials record them by their positions, else []."""
        options = self.settings.get("options")
        texts = options.get(choice) if isinstance(options, Mapping) else None
        return [clean(text) for text in texts] if isinstance(texts, list) else []

    def named(self, choice: str, value: Any) -> Any:
        """A value of a choice; for "#2" the text of this option."""
        places = {f"#{place}": text for place, text in enumerate(self.options_of(choice))}
        return places.get(value, value) if isinstance(value, str) else value

    @cached_property
    def ranked(self) -> list[Shown]:
        """The scored trials, best first; with several objectives the Pareto front first."""
        return self._of(self.run.ranked())

    @cached_property
    def front(self) -> list[Shown]:
        """The scored trials of the Pareto front."""
        return self._of(self.run.front())

    def _shown(self, record: Record, start: datetime | None) -> Shown:
        scores = tuple(value for value in map(number, record.scores) if value is not None)
        costs = record.costs if isinstance(record.costs, Mapping) else {}
        found = {name: number(costs.get(name)) for name in COSTS}
        return Shown(
            record=record,
            scores=scores if len(scores) == len(record.scores) else (),
            values={clean(n, 80): self.named(n, value) for n, value in record.values.items()},
            costs={name: value for name, value in found.items() if value is not None and value > 0},
            ended=(record.ended - start).total_seconds() if start and record.ended else None,
        )

    def _of(self, records: Iterable[Record]) -> list[Shown]:
        return [self._by_number[one.number] for one in records if one.number in self._by_number]

    @property
    def best(self) -> Shown | None:
        """The best scored trial, or None."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def choices(self) -> list[str]:
        """The names of all choices that were active in a scored trial, in order of appearance."""
        return list(dict.fromkeys(name for trial in self.scored for name in trial.values))

    def scores_of(self, trial: Shown) -> list[str]:
        """A scored trial's objectives as text: "val_accuracy 0.9100"."""
        pairs = zip(self.objectives, trial.scores, strict=True)
        return [f"{objective.name} {score(value)}" for objective, value in pairs]

    def improvements(self, index: int, order: str) -> list[Shown]:
        """The trials, sorted by `order` ("number" or "ended"), that set a new best score."""
        timed = (trial for trial in self.scored if getattr(trial, order) is not None)
        return self._rising(index, sorted(timed, key=lambda trial: getattr(trial, order)))

    def cost_front(self, cost: str) -> list[Shown]:
        """The Pareto front of a cost and the first objective, cheapest trial first."""
        sign = -1 if self.objectives[0].direction == "max" else 1
        priced = (trial for trial in self.scored if cost in trial.costs)
        dearer = sorted(priced, key=lambda t: (t.costs[cost], sign * t.scores[0], t.number))
        return self._rising(0, dearer)

    def _rising(self, index: int, trials: Iterable[Shown]) -> list[Shown]:
        """The trials that are better in an objective than all before them."""
        found: list[Shown] = []
        for trial in trials:
            better = self.objectives[index].better
            if not found or better(trial.scores[index], found[-1].scores[index]):
                found.append(trial)
        return found

    @cached_property
    def drawn(self) -> list[Shown]:
        """The scored trials to draw: all or POINTS: fronts, 100 best, records, an even sample."""
        kept = {trial.number for trial in (*self.front, *self.ranked[:100])}
        for index in range(len(self.objectives)):
            for order in ("number", "ended"):
                kept.update(trial.number for trial in self.improvements(index, order))
        for cost in COSTS:
            kept.update(trial.number for trial in self.cost_front(cost))
        kept = set(sorted(kept)[:POINTS])
        others = [trial for trial in self.scored if trial.number not in kept]
        kept.update(trial.number for trial in spread(others, POINTS - len(kept)))
        return [trial for trial in self.scored if trial.number in kept]


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """All items, or `most` evenly spaced ones if there are more."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
