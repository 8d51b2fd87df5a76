"""python examples/budget_search.py    (about 5 minutes; --short 20 seconds)

Searches under three limits: the most accurate network within them, and how much accuracy still
smaller ones lose. Data: Fashion-MNIST if Debian's package dataset-fashion-mnist is installed, else
and with --short scikit-learn's digits. Run again, the search continues where it ended.
"""

import sys
from pathlib import Path

import altair as alt
from pages import save_png

import kblocks as kb

SHORT = "--short" in sys.argv
FASHION = "/usr/share/datasets/fashion-mnist"
WHOLE = Path(FASHION).is_dir() and not SHORT
FREE = 300  # networks drawn without a budget, to show what the budget forbids
BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#8a94a0"

space = kb.Space(
    kb.resnet,
    classes=10,
    block=kb.choice("basic", "bottleneck"),
    blocks=kb.per_stage(3, kb.choice(1, 2, 3)),
    filters=[kb.choice(8, 16, 24, 32), kb.choice(16, 32, 48, 64), kb.choice(32, 64, 96, 128)],
    kernel_size=kb.per_stage(3, kb.choice(3, 5, (1, 5))),
    strides=[kb.choice(1, 2), 2, 2],
    stem={"filters": kb.choice(8, 16, 32), "kernel_size": 3, "strides": 1, "pool": None},
    head={"pool": kb.choice("avg", "concat")},
)


def main() -> None:
    data = kb.tuner.load(FASHION if WHOLE else "digits", limit=7_500 if WHOLE else 300)
    shape = data.input_shape
    pixels = shape[0] * shape[1]
    budget = kb.Budget(macs=5_000 * pixels, params=100_000, inference_memory=150 * pixels)

    def keeps(net: kb.Architecture) -> bool:
        return not budget.exceeded(net.cost(shape), budget.memory(net, shape))

    anything = space.within(shape)
    free = [anything.build(anything.sample(seed)) for seed in range(FREE)]
    print(f"{budget}: {sum(map(keeps, free))} of {FREE} networks drawn at random keep it")

    tuner = kb.tuner.Tuner(
        kb.tuner.HyperModel(
            space.within(shape, budget),
            recipe=kb.Recipe(learning_rate=kb.real(1e-3, 1e-2, log=True), schedule="cosine"),
            latency=False,
        ),
        "val_accuracy",
        trials=3 if SHORT else 12,
        workers=0 if SHORT else 1,
        seed=1,
        project_name="budget_search_short" if SHORT else "budget_search",
    )
    run = tuner.search(**data.fit_arguments(), epochs=1 if SHORT else 4, batch_size=64)

    trials = sorted(run.completed(), key=lambda trial: (trial.costs["macs"], -trial.scores[0]))
    nets = {trial.number: kb.Architecture.from_json(trial.network) for trial in trials}
    print(f"{len(trials)} trials; over the budget: {len(trials) - sum(map(keeps, nets.values()))}")
    front = []  # the Pareto front of accuracy and multiply-adds
    for trial in trials:
        if not front or trial.scores[0] > front[-1].scores[0]:
            front.append(trial)
            print(f"{trial.costs['macs']:>10,.0f} MACs: validation accuracy {trial.scores[0]:.3f}")

    best = nets[front[-1].number]
    kb.summary(best, shape)
    print(f"maps in memory, one image in float32: {kb.inference_memory(best, shape):,} bytes")
    model = tuner.model_of(front[-1])
    accuracy = model.evaluate(*data.test, verbose=0, return_dict=True)["accuracy"]
    print(f"accuracy on {len(data.test[0]):,} images that the search never saw: {accuracy:.3f}")

    drawn(points(trials), points(front), [net.cost(shape).macs for net in free], budget.macs)
    print("runs/budget_search.png: the trials, their front and the budget")


def points(trials: list[kb.tuner.Record]) -> alt.Data:
    """The trials' multiply-adds and accuracy as data for a chart."""
    found = [{"macs": trial.costs["macs"], "accuracy": trial.scores[0]} for trial in trials]
    return alt.Data(values=found)


def drawn(trials: alt.Data, front: alt.Data, free: list[float], limit: float) -> None:
    """Plots the trials, and below them networks drawn from the same space without a budget."""
    x = alt.X("macs:Q", title="multiply-adds").scale(type="log", nice=False, padding=16)
    x = x.axis(format="~s", grid=False)
    y = alt.Y("accuracy:Q", title="validation accuracy").scale(zero=False).axis(format=".1%")
    budget = alt.Chart(alt.Data(values=[{"macs": limit}])).encode(x)
    dots = alt.Scale(domain=["a trial", "on the front"], range=[BLUE, ORANGE])
    kind = alt.Color("kind:N", title=None, scale=dots, legend=alt.Legend(orient="bottom"))
    search = alt.layer(
        alt.Chart(front).mark_line(interpolate="step-after", color=ORANGE).encode(x, y),
        alt.Chart(trials)
        .transform_calculate(kind="'a trial'")
        .mark_circle(size=90, opacity=0.8)
        .encode(x, y, kind),
        alt.Chart(front)
        .transform_calculate(kind="'on the front'")
        .mark_circle(size=90, opacity=1)
        .encode(x, y, kind),
        budget.mark_rule(strokeDash=[4, 4]),
        budget.mark_text(align="left", dx=6, text="budget").encode(y=alt.value(8)),
        title="Trials under the budget, and their Pareto front",
    ).properties(width=560, height=280)
    rest = alt.layer(
        alt.Chart(alt.Data(values=[{"macs": macs} for macs in free]))
        .mark_tick(color=GREY, opacity=0.6)
        .encode(x),
        budget.mark_rule(strokeDash=[4, 4]),
        title=f"The same space without it: {FREE} networks drawn at random",
    ).properties(width=560, height=24)
    both = alt.vconcat(search, rest).resolve_scale(x="shared")
    save_png(both, "runs/budget_search.png")


if __name__ == "__main__":
    main()
