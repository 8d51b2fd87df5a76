"""python benchmarks/search_table.py [--runs 100] [--systems NAME ...]    (20 minutes on one core)

Plays searches against recorded trainings: how far from the best network of the table is the one
that a search would deliver, after so many CPU seconds? `search_table_record.py` records the table
`search_table/table.json.gz`; `--pack` makes it of the recorder's files.

A search draws networks of the table alone. A training costs the seconds that TensorFlow takes on a
CPU, by a fit to measured networks; the accuracies are recorded ones, of a seed that is drawn anew
for each training. The network with the best validation accuracy is delivered. Its regret is the
best test accuracy of the table (mean over the seeds of the full schedule) less its own: that of the
weights which the search has, or, "anew", its mean after the full schedule.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import optuna
from search_table_record import BATCH, FULL, MIDDLE, SHORT, TRAIN, VALIDATION, written

from kblocks.tuner.choosing.expected import slopes, standing

TABLE = Path(__file__).parent / "search_table" / "table.json.gz"
KINDS = ("plain", "edge")
MARKS = (30, 60, 120, 240, 480)  # CPU seconds
MANY = 50  # networks of each kind, from which on both are compared
RUNGS = (("short", SHORT), ("middle", MIDDLE), ("full", FULL))


# --- the table -----------------------------------------------------------------------------


@dataclass
class Network:
    """A network of the table.

    Attributes:
        values: its point, by the names of the choices.
        kind: "plain", drawn from the points that fit the wide budget, or "edge": drawn anywhere
            and repaired to the tight one.
        scores: by schedule and seed, validation and test accuracy at every epoch or rung.
        seconds: to begin a trial, and of an epoch with its validation.
    """

    id: int
    values: dict[str, Any]
    kind: str
    macs: int
    params: int
    activations: int
    layers: int
    scores: dict[str, list[list[list[float]]]] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def final(self) -> float:
        """Test accuracy after the full schedule, a mean over the seeds."""
        return float(np.mean([run[-1][1] for run in self.scores["full"]]))


def pack(trainings: list[Path], times: Path) -> None:
    """Writes the table of the recorder's files; of networks that have a full schedule."""
    found: dict[int, dict[str, Any]] = {}
    for path in trainings:
        for line in written(path):
            schedule, seed, scores = (line.pop(name) for name in ("schedule", "seed", "scores"))
            line.pop("wall")
            own = found.setdefault(line["id"], {**line, "scores": {}})
            own["scores"].setdefault(schedule, {})[seed] = scores
    whole = []
    for one in sorted(found.values(), key=lambda one: one["id"]):
        if "full" in one["scores"]:
            one["scores"] = {k: [v[s] for s in sorted(v)] for k, v in one["scores"].items()}
            whole.append(one)
    names = "macs", "activations", "layers", "begin", "step", "image"
    measured = [{name: line[name] for name in names} for line in written(times)]
    text = json.dumps({"networks": whole, "times": measured}, separators=(",", ":"))
    TABLE.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(whole)} networks, {TABLE.stat().st_size:,} bytes")


def table() -> list[Network]:
    """The networks of the table, with their seconds from a fit to the measured ones."""
    read = json.loads(gzip.decompress(TABLE.read_bytes()))
    networks = [Network(**one) for one in read["networks"]]
    times = read["times"]

    def features(one: Any) -> list[float]:
        get = one.get if isinstance(one, dict) else partial(getattr, one)
        return [1.0, get("layers"), get("macs") / 1e6, get("activations") / 1e4]

    seen = np.array([features(one) for one in times])
    parts = {}
    for name in ("begin", "step", "image"):
        truth = np.array([one[name] for one in times])
        weights = np.linalg.lstsq(seen / truth[:, None], np.ones(len(truth)), rcond=None)[0]
        parts[name] = np.maximum([np.dot(features(n), weights) for n in networks], truth.min())
    epochs = TRAIN // BATCH * parts["step"] + VALIDATION * parts["image"]
    for network, begin, epoch in zip(networks, parts["begin"], epochs, strict=True):
        network.seconds = float(begin), float(epoch)
    return networks


# --- a search ------------------------------------------------------------------------------


class OverError(Exception):
    """The time of a search is over."""


@dataclass
class Search:
    """One simulated search.

    Attributes:
        networks: those that fit the budget and that nothing has trained yet.
        default: the first point of a search of kblocks.
        trace: seconds, and the two test accuracies of what would be delivered from then on.
    """

    networks: list[Network]
    chance: Random
    limit: float
    default: Network | None
    clock: float = 0.0
    best: float = -1.0
    trials: int = 0
    trace: list[tuple[float, float, float]] = field(default_factory=list)

    def spend(self, seconds: float) -> None:
        self.clock += seconds
        if self.clock > self.limit:
            raise OverError

    def take(self, network: Network) -> Network:
        """Begins a trial: the network is no longer among those to draw."""
        self.networks.remove(network)
        self.trials += 1
        self.spend(network.seconds[0])
        return network

    def any(self, kinds: tuple[str, ...] = KINDS) -> Network:
        """A random network; the search is over where none is left."""
        if not (able := [one for one in self.networks if one.kind in kinds]):
            raise OverError
        return self.chance.choice(able)

    def epochs(self, network: Network, schedule: str = "full") -> Iterator[float]:
        """Trains, and yields the validation accuracy of each epoch."""
        runs = network.scores[schedule]
        for accuracy, test in runs[self.chance.randrange(len(runs))]:
            self.spend(network.seconds[1])
            self.told(network, accuracy, test)
            yield accuracy

    def told(self, network: Network, accuracy: float, test: float | None) -> None:
        """Notes what would be delivered now; `test` is None where only validation is recorded."""
        if accuracy > self.best:
            self.best = accuracy
            self.trace.append((self.clock, accuracy if test is None else test, network.final))

    def train(self, network: Network, schedule: str = "full") -> float:
        """Trains; returns the best validation accuracy."""
        return max(self.epochs(self.take(network), schedule))


System = Callable[[Search], None]
Draw = Callable[[Search], Network]


def plainly(draw: Draw, default: bool = True) -> System:
    """Trains what `draw` draws with the full schedule; the default first."""

    def run(search: Search) -> None:
        if default and search.default:
            search.train(search.default)
        while search.networks:
            search.train(draw(search))

    return run


def most(count: int, every: int = 0, by: str = "macs", kinds: tuple[str, ...] = KINDS) -> Draw:
    """The candidate with the most multiply-adds; each `every`-th trial a plain one."""

    def draw(search: Search) -> Network:
        if every and search.trials % every == every - 1:
            return search.any()
        drawn = [search.any(kinds) for _ in range(count)]
        return max(drawn, key=lambda one: getattr(one, by))

    return draw


def edge(share: float) -> Draw:
    """This share of the trials from the points that were drawn anywhere and repaired."""
    return lambda s: s.any(KINDS[s.chance.random() < share :][:1])


# --- samplers that learn -------------------------------------------------------------------


class Learned:
    """An Optuna sampler over the table: what it draws becomes the nearest network left."""

    def __init__(self, search: Search, startup: int, pruner: Any = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=startup,
                multivariate=True,
                group=True,
                seed=search.chance.randrange(2**31),
            )
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        names = search.networks[0].values
        self.options = {
            name: sorted({one.values[name] for one in search.networks}, key=str) for name in names
        }
        self.kinds = {
            name: optuna.distributions.CategoricalDistribution(options)
            for name, options in self.options.items()
        }

    def draw(self, search: Search, kinds: tuple[str, ...] = KINDS) -> Network:
        """The network that is nearest to what the sampler draws."""
        trial = self.study.ask(self.kinds)
        drawn = trial.params
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

        def far(one: Network) -> tuple[float, float]:
            return sum(one.values[n] != v for n, v in drawn.items()), search.chance.random()

        return min((one for one in search.networks if one.kind in kinds), key=far)

    def tell(self, network: Network, accuracy: float) -> None:
        """Tells the sampler how a network did."""
        self.study.add_trial(
            optuna.create_trial(params=network.values, distributions=self.kinds, value=accuracy)
        )


def tpe(startup: int, pick: int = 1, first: Draw | None = None, every: int = 0) -> System:
    """TPE after so many trials, which `first` draws; then the largest of `pick` draws of it."""
    first = first or most(1)

    def run(search: Search) -> None:
        learned = Learned(search, startup)
        network = search.default
        while search.networks:
            if network is None:
                if search.trials < startup:
                    network = first(search)
                elif every and search.trials % every == 0:
                    network = search.any()
                else:
                    drawn = [learned.draw(search) for _ in range(pick)]
                    network = max(drawn, key=lambda one: one.macs)
            learned.tell(network, search.train(network))
            network = None

    return run


def pruned(make: Callable[[], Any], startup: int = 10) -> System:
    """TPE with a pruner of Optuna that reads each epoch of the full schedule."""

    def run(search: Search) -> None:
        learned = Learned(search, startup)
        study = optuna.create_study(
            direction="maximize", pruner=make(), sampler=optuna.samplers.RandomSampler(seed=0)
        )
        network = search.default or search.any()
        while search.networks:
            search.take(network)
            trial, best, is_pruned = study.ask(), 0.0, False
            for epoch, accuracy in enumerate(search.epochs(network)):
                best = max(best, accuracy)
                trial.report(accuracy, epoch)
                if epoch < FULL - 1 and trial.should_prune():
                    is_pruned = True
                    break
            state = optuna.trial.TrialState.PRUNED if is_pruned else None
            study.tell(trial, None if is_pruned else best, state=state)
            if not is_pruned:
                learned.tell(network, best)
            if not search.networks:
                return
            few = search.trials < startup
            network = search.any() if few else learned.draw(search)

    return run


def linear(startup: int, count: int, first: Draw) -> System:
    """Of `count` random candidates the one of which a linear model of the trials expects most.

    Each fourth trial after the first `startup` is a plain one.
    """

    def run(search: Search) -> None:
        options = {(name, one.values[name]) for one in search.networks for name in one.values}

        def numbers(one: Network) -> list[float]:
            return [*(one.values[n] == v for n, v in options), np.log(one.macs)]

        seen: list[Network] = []
        found: list[float] = []
        network = search.default
        while search.networks:
            if network is None and (len(seen) < startup or search.trials % 4 == 0):
                network = first(search) if len(seen) < startup else search.any()
            elif network is None:
                drawn = search.chance.sample(search.networks, min(count, len(search.networks)))
                own = slopes(np.array([numbers(one) for one in seen]), standing(found))
                network = max(drawn, key=lambda one: float(own @ numbers(one)))
            seen.append(network)
            found.append(search.train(network))
            network = None

    return run


# --- rungs ---------------------------------------------------------------------------------


def rungs(draw: Draw, way: str, share: float = 0.5, default: bool = True) -> System:
    """Asynchronous successive halving: the best `share` of a rung goes on to the next one.

    Args:
        way: "retrained" with the next schedule from fresh weights; or "restarted", "branched": with
            the weights it has, as the recorder's functions of that name do.
    """

    def score(search: Search, network: Network, rung: int) -> float:
        if way == "retrained":
            return max(search.epochs(network, RUNGS[rung][0]))
        length, before = RUNGS[rung][1], RUNGS[rung - 1][1] if rung else 0
        begin = before if way == "restarted" else 0.75 * before
        search.spend(network.seconds[1] * (length - begin))
        accuracy, test = network.scores[way][0][rung]
        search.told(network, accuracy, test)
        return accuracy

    def run(search: Search) -> None:
        found: list[list[tuple[float, Network]]] = [[] for _ in RUNGS]
        gone: list[set[int]] = [set() for _ in RUNGS]
        first = search.default if default else None
        while search.networks:
            rung, network = 0, None
            for low in reversed(range(len(RUNGS) - 1)):
                ranked = sorted(found[low], key=lambda pair: -pair[0])
                able = [one for _, one in ranked[: int(share * len(ranked))]]
                waiting = [one for one in able if one.id not in gone[low]]
                if waiting:
                    rung, network = low + 1, waiting[0]
                    gone[low].add(network.id)
                    search.spend(network.seconds[0])
                    break
            if network is None:
                network, first = search.take(first or draw(search)), None
            found[rung].append((score(search, network, rung), network))

    return run


def keras_hyperband(search: Search) -> None:
    """Keras Tuner's Hyperband oracle (factor 2); the next round goes on with the same weights."""
    import tempfile

    import keras_tuner

    hp = keras_tuner.HyperParameters()
    for name in search.networks[0].values:
        hp.Choice(name, [str(v) for v in sorted({str(n.values[name]) for n in search.networks})])
    oracle = keras_tuner.oracles.HyperbandOracle(
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_epochs=FULL,
        factor=2,
        hyperband_iterations=100,
        hyperparameters=hp,
        seed=search.chance.randrange(2**31),
    )
    silent = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, silent:
        oracle._set_project_dir(folder, "p")
        networks: dict[str, Network] = {}
        lengths = [length for _, length in RUNGS]
        while search.networks:
            trial = oracle.create_trial("tuner0")
            asked = trial.hyperparameters.values
            length, before = asked["tuner/epochs"], asked["tuner/initial_epoch"]
            if before:
                network = networks[asked["tuner/trial_id"]]
                search.spend(network.seconds[0])
            else:
                network = search.take(search.any())
            networks[trial.trial_id] = network
            search.spend(network.seconds[1] * (length - before))
            rung = lengths.index(min(lengths, key=lambda one: abs(one - length)))
            if before:
                accuracy, test = network.scores["restarted"][0][rung]
            else:
                runs = network.scores[RUNGS[rung][0]]
                accuracy, test = runs[search.chance.randrange(len(runs))][-1]
            search.told(network, accuracy, test)
            oracle.update_trial(trial.trial_id, {"val_accuracy": accuracy})
            trial.status = "COMPLETED"
            oracle.end_trial(trial)


def has_all(network: Network) -> bool:
    """Whether every schedule of a network is recorded, which rungs need."""
    return len(network.scores) == 5


SYSTEMS: dict[str, System] = {
    "random": plainly(most(1)),
    "random, no default (Keras Tuner's Bayesian: 42 of these first)": plainly(most(1), False),
    "TPE after 10 (ours until now)": tpe(10),
    "TPE after 4": tpe(4),
    "TPE after 10, median pruner": pruned(lambda: optuna.pruners.MedianPruner()),
    "TPE after 10, Optuna's Hyperband": pruned(
        lambda: optuna.pruners.HyperbandPruner(min_resource=2, max_resource=8, reduction_factor=2)
    ),
    "Keras Tuner's Hyperband": keras_hyperband,
    "most MACs of 2": plainly(most(2)),
    "most MACs of 3": plainly(most(3)),
    "most MACs of 4": plainly(most(4)),
    "most MACs of 3, every 3rd plain": plainly(most(3, every=3)),
    "most MACs of 4, every 3rd plain": plainly(most(4, every=3)),
    "most MACs of 3, every 4th plain": plainly(most(3, every=4)),
    "most MACs of 4, every 4th plain": plainly(most(4, every=4)),
    "most parameters of 3": plainly(most(3, by="params")),
    "most activations of 3": plainly(most(3, by="activations")),
    "most MACs of 3, every 4th plain, TPE after 10": tpe(10, first=most(3, every=4)),
    "most MACs of 3, TPE after 10": tpe(10, first=most(3)),
    "most MACs of 3, TPE after 4": tpe(4, first=most(3)),
    "most MACs of 3, also of TPE's after 10": tpe(10, 3, most(3)),
    "linear model after 4, first most MACs of 3 (ours)": linear(4, 20, most(3)),
    "rungs, retrained": rungs(most(1), "retrained"),
    "rungs, restarted": rungs(most(1), "restarted"),
    "rungs, branched": rungs(most(1), "branched"),
    "rungs, restarted, most MACs of 3": rungs(most(3), "restarted"),
    "rungs, branched, most MACs of 3": rungs(most(3), "branched"),
}
IN_RUNGS = {name for name in SYSTEMS if "rungs" in name or "Keras Tuner's Hyperband" in name}
BESIDE_RUNGS = ("random", "most MACs of 3")
EDGE: dict[str, System] = {
    "half drawn anywhere and repaired": plainly(edge(0.52)),
    "half repaired, most MACs of 3": plainly(most(3)),
}


# --- the comparison ------------------------------------------------------------------------


def play(system: System, networks: list[Network], run: int, limit: float) -> Search:
    """One search, up to the limit of seconds."""
    default = next((one for one in networks if one.id == 0), None)
    search = Search(list(networks), Random(run), limit, default)
    with contextlib.suppress(OverError):
        system(search)
    return search


def at(search: Search, seconds: float, which: int) -> float:
    """The test accuracy that a search delivers at a time; a tenth before its first epoch ends."""
    return next((one[which] for one in reversed(search.trace) if one[0] <= seconds), 0.1)


def compare(budget: float, networks: list[Network], runs: int, names: list[str]) -> None:
    """Prints the table of one budget."""
    fit = [one for one in networks if one.macs <= budget]
    edges = sum(one.kind == "edge" for one in fit)
    systems = {**SYSTEMS, **(EDGE if edges >= MANY <= len(fit) - edges else {})}
    best = max(one.final for one in fit)
    finals = {one.id: one.final for one in fit}
    place = sum(final > finals.get(0, 0.0) for final in finals.values()) + 1
    default = f"{finals[0]:.4f} (place {place})" if 0 in finals else "not recorded yet"
    print(
        f"\nWithin {budget / 1e6:g} million multiply-adds: {len(fit)} networks, the best "
        f"{best:.4f}, the median {np.median(list(finals.values())):.4f}, the default {default}\n"
    )
    print("Regret in percentage points as delivered, median (quartiles); last: trained anew\n")
    marks = "".join(f" {mark} s |" for mark in MARKS)
    print(f"| search |{marks} {MARKS[-1]} s, anew | trials |\n|---|" + "---|" * (len(MARKS) + 2))
    whole = sum(map(has_all, fit)) == len(fit)
    for name, system in systems.items():
        if (names and name not in names) or not (whole or name not in IN_RUNGS):
            continue
        played = [play(system, fit, run, MARKS[-1]) for run in range(runs)]
        cells = []
        for mark, which in [*((mark, 1) for mark in MARKS), (MARKS[-1], 2)]:
            lost = [100 * (best - at(one, mark, which)) for one in played]
            low, middle, high = np.percentile(lost, [25, 50, 75])
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        trials = np.median([one.trials for one in played])
        print(f"| {name} | " + " | ".join(cells) + f" | {trials:.0f} |", flush=True)


def confirming(networks: list[Network], runs: int) -> None:
    """Prints what training the best three anew before the choice wins, and what it could buy."""
    able = [one for one in networks if len(one.scores["full"]) == 2]
    best = max(one.final for one in able)

    def validation(network: Network, seed: int) -> float:
        return network.scores["full"][seed][-1][0]

    def lost(chosen: Network) -> float:
        return 100 * (best - chosen.final)

    print("\nMean regret in percentage points, anew\n")
    print("| trials | best of them | best three trained anew | as many trials more |")
    print("|---|---|---|---|")
    for trials in (4, 8, 16):
        found = []
        for run in range(runs):
            chance = Random(run)
            seed, drawn = chance.randrange(2), chance.sample(able, trials + 3)
            ranked = [
                sorted(part, key=lambda one: -validation(one, seed))
                for part in (drawn[:trials], drawn)
            ]
            again = max(ranked[0][:3], key=lambda one: sum(validation(one, s) for s in (0, 1)))
            found.append([lost(one) for one in (ranked[0][0], again, ranked[1][0])])
        cells = " | ".join(f"{mean:.2f}" for mean in np.mean(found, axis=0))
        print(f"| {trials} | {cells} |")


def main() -> None:
    """Prints the comparison at a tight and at a wide budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--systems", nargs="*", default=[])
    parser.add_argument("--budgets", type=float, nargs="*", default=[12e6])
    parser.add_argument("--confirm", action="store_true", help="only `confirming`")
    parser.add_argument("--pack", type=Path, nargs="*", help="files of the recorder, times last")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.pack:
        pack(options.pack[:-1], options.pack[-1])
        return
    networks = table()
    if options.confirm:
        confirming(networks, options.runs)
        return
    for budget in options.budgets:
        compare(budget, networks, options.runs, options.systems)
        whole = [one for one in networks if has_all(one)]
        if len(whole) < len(networks):  # for the rungs
            names = [name for name in SYSTEMS if name in IN_RUNGS or name in BESIDE_RUNGS]
            compare(budget, whole, options.runs, options.systems or names)


if __name__ == "__main__":
    main()
