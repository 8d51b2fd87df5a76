"""Wide ranges and many choices: they sample and repair within a budget, with few networks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

import kblocks as kb
from kblocks.search_space.choices import Searchable
from kblocks.search_space.repair import Repair
from kblocks.search_space.sampling import redrawn
from kblocks.search_space.tree import Point, Tree

INPUT = (8, 8, 3)


class Builder:
    """Counts the networks that are made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, **filters: Any) -> kb.Architecture:
        self.made += 1
        specs = [kb.ConvBlock.Spec(width, kernel_size=1) for width in filters.values()]
        return kb.Architecture(specs, head=kb.Classifier(2))


def one(filters: int, other: int = 1) -> kb.Architecture:
    return kb.Architecture([kb.ConvBlock.Spec(filters)], head=kb.Classifier(2))


def widest(limit: int) -> int:
    """Filters of a 3x3 convolution of 3 channels with batch norm, and 2 classes, by hand."""
    return max(n for n in range(8, 10_000) if 27 * n + 4 * n + 2 * n + 2 <= limit)


# --- wide ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize("high", [1000, 10**7, 2**53, 2**62])
def test_a_wide_range_is_repaired_to_the_largest_that_fits(high: int) -> None:
    calls = []

    def counted(filters: int) -> kb.Architecture:
        calls.append(filters)
        return one(filters)

    free = kb.Space(counted, filters=kb.integer(8, high))
    bounded = free.within(INPUT, kb.Budget(params=6000))
    calls.clear()
    for start in (high, high // 2, 200):
        assert bounded.repair({"filters": start}) == {"filters": widest(6000)}
    assert len(calls) < 50 * math.log2(high)
    assert bounded.repair({"filters": 9}) == {"filters": 9}


@pytest.mark.slow
@pytest.mark.parametrize(("high", "log"), [(10**7, False), (2**62, False), (2**62, True)])
def test_what_the_budget_leaves_of_a_wide_range_is_drawn_from(high: int, log: bool) -> None:
    """Evenly, or evenly in logarithm: a fourth of the samples in each fourth of what is left."""
    free = kb.Space(one, filters=kb.integer(8, high, log=log))
    bounded = free.within(INPUT, kb.Budget(params=6000))
    random = Random(0)
    drawn = [bounded.sample(random)["filters"] for _ in range(120)]
    low, last = 7.5, widest(6000) + 0.5
    share = (lambda n: math.log(n / low) / math.log(last / low)) if log else None
    fourths = Counter(int(4 * (share(n) if share else (n - low) / (last - low))) for n in drawn)
    assert sorted(fourths) == [0, 1, 2, 3]
    assert min(fourths.values()) > 11  # 30 are expected: 4 standard deviations are 19


def test_an_integer_that_no_cost_depends_on_is_drawn_freely_and_never_repaired() -> None:
    free = kb.Space(one, filters=kb.choice(*range(8, 400, 8)), other=kb.integer(1, 2**62))
    bounded = free.within(INPUT, kb.Budget(params=400))
    random = Random(0)
    drawn = [bounded.sample(random) for _ in range(120)]
    assert {values["filters"] for values in drawn} == {8}
    fourths = Counter(4 * values["other"] // (2**62 + 1) for values in drawn)
    assert sorted(fourths) == [0, 1, 2, 3]
    assert min(fourths.values()) > 10
    assert bounded.repair({"filters": 392, "other": 2**61 + 1}) == {
        "filters": 8,
        "other": 2**61 + 1,
    }


@pytest.mark.parametrize(
    ("start", "nearest"), [(0, 4000), (3999, 4000), (4200, 4200), (5001, 5000), (50_000, 5000)]
)
def test_an_integer_of_any_name_is_repaired_either_way(start: int, nearest: int) -> None:
    calls = []

    def measure(point: Point) -> tuple[int, float] | None:
        calls.append(point)
        far = max(4000 - point["size"], point["size"] - 5000, 0)
        return (1, far) if far else None

    tree = Tree({"size": kb.integer(0, 50_000)})
    found = Repair(tree, measure).nearest(tree.read({"size": start}), tree.read({"size": 4500}))
    assert found.values == {"size": nearest}
    assert len(calls) < 150


def test_of_many_options_without_an_order_few_are_tried() -> None:
    calls = []

    def named(kind: str) -> kb.Architecture:
        calls.append(kind)
        return one(int(kind.removeprefix("w")))

    options = [f"w{filters}" for filters in range(8, 3008)]
    free = kb.Space(named, kind=kb.choice(*options))
    bounded = free.within(INPUT, kb.Budget(params=6000))
    calls.clear()
    found = bounded.repair({"kind": "w3007"})
    assert int(str(found["kind"]).removeprefix("w")) <= widest(6000)
    assert len(calls) < 500


# --- drawing again -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        kb.choice("a", "b", "c"),
        kb.integer(3, 40),
        kb.integer(3, 40, step=5),
        kb.integer(1, 900, log=True),
    ],
)
def test_a_share_of_a_position_gives_it_back(kind: Searchable) -> None:
    for position in range(kind.size):  # type: ignore[union-attr]
        shares = [kind.share(position, within) for within in (0.001, 0.5, 0.999)]
        assert [kind.at(share) for share in shares] == [position] * 3
        assert all(0 <= share < 1 for share in shares)


@pytest.mark.parametrize("kind", [kb.real(-2, 5), kb.real(1e-3, 10, log=True)])
def test_a_share_of_a_number_gives_it_back(kind: Searchable) -> None:
    for share in (0.0, 0.25, 0.875):
        assert kind.share(kind.at(share), 0.5) == pytest.approx(share)


FITTING: list[tuple[Tree, Callable[[Point], bool], Callable[[Point], int], int]] = [
    (  # with a hole
        Tree({"a": kb.integer(0, 39)}),
        lambda point: point["a"] < 3 or 11 <= point["a"] < 20,
        lambda point: point["a"],
        12,
    ),
    (
        Tree({"a": kb.integer(0, 19), "b": kb.integer(0, 19)}),
        lambda point: point["a"] * 3 + point["b"] <= 9,
        lambda point: 100 * point["a"] + point["b"],
        22,
    ),
    (  # all at once, as where choices are many
        Tree({f"c{i:02}": kb.choice(0, 1, 2) if i < 2 else kb.choice(i) for i in range(66)}),
        lambda point: point["c00"] + point["c01"] <= 2,
        lambda point: 3 * point["c00"] + point["c01"],
        6,
    ),
]


@pytest.mark.parametrize(("tree", "fits", "place", "count"), FITTING)
def test_what_is_even_over_all_that_fits_stays_so(
    tree: Tree, fits: Any, place: Any, count: int
) -> None:
    """What slice sampling promises (Neal 2003): from an even point to an even point."""
    random = Random(1)
    drawn = []
    while len(drawn) < 100 * count:
        point = tree.draw(random)
        if fits(point):
            drawn.append(redrawn(tree, fits, point, random))
    assert all(map(fits, drawn))
    seen = Counter(map(place, drawn))
    assert len(seen) == count
    squares = sum((number - 100) ** 2 / 100 for number in seen.values())
    assert squares < count - 1 + 4 * math.sqrt(2 * (count - 1))  # chi-square's mean and deviation


# --- many choices --------------------------------------------------------------------------


def test_many_choices_sample_within_a_budget() -> None:
    builder = Builder()
    free = kb.Space(builder, **{f"f{i}": kb.choice(8, 16, 32, 64) for i in range(150)})
    assert builder.made < 100  # each network shows of many options that they work
    bounded = free.within(INPUT, kb.Budget(params=30_000))
    builder.made = 0
    drawn = [bounded.sample(seed) for seed in range(3)]
    assert builder.made < 300 * 3
    for values in drawn:
        assert bounded.build(values).cost(INPUT).params <= 30_000
        assert len(set(values.values())) > 1
    assert drawn[0] != drawn[1] != drawn[2]
    assert bounded.sample(1) == drawn[1]


def test_options_that_never_work_are_found_among_many() -> None:
    def builder(**arguments: Any) -> kb.Architecture:
        if arguments["f7"] == 3:
            raise ValueError("three is never right")
        return one(8)

    with pytest.raises(ValueError, match=r"f7=3: three is never right"):
        kb.Space(builder, **{f"f{i}": kb.choice(1, 2, 3) for i in range(70)})


def test_a_builder_may_fail_for_options_that_do_not_go_together() -> None:
    def builder(a: int, b: int) -> kb.Architecture:
        return one(8 * (a // b))  # ZeroDivisionError or no filters, but for a few

    space = kb.Space(builder, a=kb.choice(4, 6), b=kb.choice(1, 2))
    assert space.size() == 4


@pytest.mark.parametrize("seed", range(4))
def test_of_many_choices_as_few_are_changed_as_can_be(seed: int) -> None:
    """Where what each weighs is known: those that weigh most, until the rest fits."""
    random = Random(seed)
    weights = {f"x{i}": random.randint(1, 50) for i in range(90)}
    tree = Tree({name: kb.choice(0, 1, 2, 3) for name in weights})
    measured = []

    def measure(point: Point) -> tuple[int, float] | None:
        measured.append(1)
        over = sum(weights[name] * place for name, place in point.positions.items()) - limit
        return (1, math.log1p(over)) if over > 0 else None

    start = tree.draw(random)
    parts = {name: weights[name] * place for name, place in start.positions.items()}
    limit = int(sum(parts.values()) * (0.2 + 0.2 * seed))
    found = Repair(tree, measure).nearest(start, tree.default())
    assert measure(found) is None
    assert len(measured) < 6 * len(weights)
    changed = [name for name in weights if found[name] != start[name]]
    spare, fewest = sum(parts.values()) - limit, 0
    for part in sorted(parts.values(), reverse=True):
        if spare <= 0:
            break
        spare, fewest = spare - part, fewest + 1
    assert len(changed) == fewest
    for name in changed:  # no further than needed
        assert found[name] < start[name]
        assert measure(found.moved({name: found[name] + 1})) is not None


def test_many_conditional_choices_sample_and_are_repaired() -> None:
    def builder(parts: dict[str, int]) -> kb.Architecture:
        specs = [kb.ConvBlock.Spec(width, kernel_size=1) for width in parts.values()]
        return kb.Architecture(specs or [kb.ConvBlock.Spec(4)], head=kb.Classifier(2))

    inner = {f"p{i}": kb.choice(4, 8, 16) for i in range(70)}
    free = kb.Space(builder, parts=kb.choice(inner, {"only": kb.choice(300, 4)}, {}))
    bounded = free.within(INPUT, kb.Budget(params=6000))
    random = Random(0)
    for seed in range(6):
        assert bounded.build(bounded.sample(seed)).cost(INPUT).params <= 6000
        repaired = bounded.repair(free.sample(random))
        assert bounded.build(repaired).cost(INPUT).params <= 6000
