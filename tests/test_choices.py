"""Parts of a space beyond single choices: stages, builders, conditions, labels, size, canonical."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from spaces import Recorder, Values, all_points, exact, plain_net, seen_by, trees, with_choices

import kblocks as kb

CIFAR = (32, 32, 3)


def recorded(**arguments: Any) -> kb.Space:
    return kb.Space(Recorder(), **arguments)


# --- fixed parts ---------------------------------------------------------------------------


def test_fixed_parts_take_their_default_and_stay_out_of_the_search() -> None:
    space = recorded(
        a=kb.fixed({"x": kb.choice(3, 5), "y": [kb.integer(2, 9), kb.real(0.5, 1)]}),
        b=kb.choice(kb.fixed([kb.choice(1, 2)]), 7),
        c=kb.choice("k", "l", name="shared"),
        d=kb.fixed(kb.choice("m", "n", name="shared")),
    )
    assert space.names() == ["b", "shared"]
    seen = seen_by(space, {**space.default(), "shared": "l"})
    assert seen == {"a": {"x": 3, "y": [2, 0.5]}, "b": [1], "c": "l", "d": "m"}


def test_a_fixed_builder_takes_the_default_of_its_choice() -> None:
    space = kb.Space(kb.fixed(kb.choice(kb.vgg11, kb.resnet18)), classes=kb.choice(10, 5))
    assert space.names() == ["classes"]
    assert space.build({"classes": 5}) == kb.vgg11(classes=5)


# --- a searched number of stages -----------------------------------------------------------


def test_lists_follow_the_number_of_stages() -> None:
    number = kb.choice(2, 3, 1)
    space = recorded(
        a=kb.per_stage(number, kb.choice("x", "y")), b=kb.per_stage(number, 8, 16, kb.choice(32, 4))
    )
    assert space.names() == ["stages", "a[0]", "a[1]", "a[2]", "b[2]"]
    assert seen_by(space, space.default()) == {"a": ["x", "x"], "b": [8, 16]}
    three = {"stages": 3, "a[0]": "y", "a[1]": "x", "a[2]": "y", "b[2]": 4}
    assert seen_by(space, three) == {"a": ["y", "x", "y"], "b": [8, 16, 4]}
    assert seen_by(space, {"stages": 1, "a[0]": "y"}) == {"a": ["y"], "b": [8]}
    with pytest.raises(ValueError, match=r"must have 'a\[1\]'"):
        space.build({"stages": 2, "a[0]": "x"})
    # 2 for one stage, 4 for two, 8 times two for three.
    assert space.size() == 2 + 4 + 16
    assert len({exact(space.sample(seed)) for seed in range(1500)}) == 22


@pytest.mark.parametrize("build", [kb.resnet, kb.vgg, kb.preresnet, kb.resnext])
def test_families_take_a_searched_number_of_stages(build: Any) -> None:
    number = kb.integer(2, 4, name="depth")
    space = kb.Space(
        build,
        classes=10,
        blocks=kb.per_stage(number, kb.choice(1, 2)),
        filters=kb.per_stage(number, *[kb.choice(32 * 2**i, 64 * 2**i) for i in range(4)]),
        head={"pool": "avg", "hidden": ()},
    ).within(CIFAR, kb.Budget(params=8e6))
    depths = set()
    for seed in range(40):
        values = space.sample(seed)
        net = space.build(values)
        stages = {row.name.split("_")[0] for row in net.rows if row.name.startswith("stage")}
        assert len(stages) == values["depth"]
        assert net.cost(CIFAR).params <= 8e6
        depths.add(values["depth"])
    assert depths == {2, 3, 4}


def test_conditional_choices_within_stages() -> None:
    number = kb.choice(1, 2)
    space = recorded(a=kb.per_stage(number, kb.choice({"k": kb.choice(3, 5)}, 0)))
    # A stage has three points: two kernels, or none.
    assert space.size() == 3 + 9
    values = {"stages": 2, "a[0]": 0, "a[1]": "#0", "a[1]#0.k": 5}
    assert seen_by(space, values) == {"a": [0, {"k": 5}]}
    assert len({exact(space.sample(seed)) for seed in range(600)}) == 12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kb.per_stage(kb.choice(2, 0), 1), "`stages` must be a positive integer"),
        (lambda: kb.per_stage(kb.choice(2, "3"), 1), "`stages` must be a positive integer"),
        (lambda: kb.per_stage(kb.real(1, 2), 1), "`stages` must be a positive integer"),
        (lambda: kb.per_stage(kb.choice(2, 3), 1, 2), "must be one or 3, .* Received: 2 values"),
        (lambda: kb.per_stage(3), "must be one or 3, .* Received: 0 values"),
    ],
)
def test_bad_numbers_of_stages_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_two_numbers_of_stages_without_names_must_be_alike() -> None:
    with pytest.raises(ValueError, match="'stages'"):
        recorded(a=kb.per_stage(kb.choice(1, 2), 0), b=kb.per_stage(kb.choice(1, 3), 0))


# --- blocks, stages and builders as options ------------------------------------------------


def assembled(first: Any, second: Any = None) -> kb.Architecture:
    rows = [part for part in (first, second) if part is not None]
    return kb.Architecture(rows, head=kb.Classifier(2))


def test_blocks_and_whole_stages_are_options_with_names() -> None:
    block = kb.ConvBlock.Spec(8)
    space = kb.Space(
        assembled,
        first=kb.choice(block, kb.ResidualBlock.Spec(8, strides=2)),
        second=kb.choice([block, block], None, [kb.ResidualBlock(4)]),
    )
    assert space.tree.dimensions["first"].kind.labels == (
        "ConvBlock(filters=8)",
        "ResidualBlock(filters=8, strides=(2, 2))",
    )
    values = {"first": "ConvBlock(filters=8)", "second": ["ResidualBlock(filters=4)"]}
    assert space.build(values) == kb.Architecture(
        [block, [kb.ResidualBlock.Spec(4)]], head=kb.Classifier(2)
    )
    assert space.size() == 6


def test_builders_are_options_by_their_names() -> None:
    space = kb.Space(kb.choice(kb.vgg11, kb.resnet18, kb.googlenet), classes=10)
    assert space.names() == ["builder"]
    for name in ("vgg11", "resnet18", "googlenet"):
        assert space.build({"builder": name}) == kb.architecture(name, classes=10)


def test_spaces_are_options_with_choices_of_their_own() -> None:
    vgg = kb.Space(kb.vgg11, padding=kb.choice("symmetric", "same"), classes=1000)
    space = kb.Space(kb.choice(kb.spaces.resnet(), vgg, name="family"), classes=kb.choice(10, 5))
    assert "family#resnet18.filters[0]" not in space.names()
    assert "builder#resnet18.filters[0]" in space.names()
    values = {"family": "vgg11", "builder#vgg11.padding": "same", "classes": 5}
    assert space.build(values) == kb.vgg11(classes=5, padding="same")
    assert space.build(space.default()) == kb.resnet18(classes=10)
    bounded = space.within(CIFAR, kb.Budget(params=2e6))
    families = set()
    for seed in range(60):
        drawn = bounded.sample(seed)
        inner = {name for name in drawn if "#" in name}
        assert all(name.startswith(f"builder#{drawn['family']}.") for name in inner)
        assert bounded.build(drawn).cost(CIFAR).params <= 2e6
        families.add(drawn["family"])
    assert families == {"resnet18"}  # every VGG has a 4,096-wide head of over 16 million


def test_a_space_of_a_space_keeps_its_names_and_replaces_arguments() -> None:
    inner = kb.Space(plain_net, filters=kb.per_stage(2, kb.choice(4, 8)), padding="valid")
    outer = kb.Space(inner, padding=kb.choice("same", "valid"))
    assert outer.names() == ["filters[0]", "filters[1]", "padding"]
    values = {"filters[0]": 8, "filters[1]": 4, "padding": "same"}
    assert outer.build(values) == plain_net([8, 4], padding="same")


def test_conditions_of_inner_spaces_hold_in_outer_ones() -> None:
    inner = kb.Space(
        plain_net,
        filters=kb.per_stage(2, kb.choice(4, 8)),
        where=lambda filters: filters[0] < filters[1],
    )
    for space in (kb.Space(inner), kb.Space(kb.choice(inner, kb.googlenet))):
        drawn = [space.sample(seed) for seed in range(30)]
        pairs = {tuple(v for k, v in d.items() if "filters" in k) for d in drawn}
        assert pairs - {()} == {(4, 8)}


def test_a_space_that_knows_its_input_is_no_builder() -> None:
    inner = kb.Space(plain_net, filters=[kb.choice(4, 8), 4]).within((8, 8, 1))
    for builder in (inner, kb.choice(inner, kb.vgg11)):
        with pytest.raises(ValueError, match=r"before `within`.*Received: a Space within \(8"):
            kb.Space(builder)
    with pytest.raises(TypeError, match=r"a function or a Space. Received: builder='vgg11'"):
        kb.Space(kb.choice(kb.resnet18, "vgg11"))


def test_options_that_are_called_alike_go_by_their_places() -> None:
    space = kb.Space(kb.choice(kb.spaces.resnet(), kb.spaces.resnet(), kb.vgg11))
    kind = space.tree.dimensions["builder"].kind
    assert kind.labels == ("#0", "#1", "vgg11")
    assert "builder#1.filters[0]" in space.names()
    assert recorded(a=kb.choice([1, 2], (1, 2), 3)).tree.dimensions["a"].kind.labels == (
        "#0",
        "#1",
        3,
    )


def test_plain_lists_are_shown_as_what_they_hold() -> None:
    space = recorded(a=kb.choice([2, 2], [3, [4, "x"]], [kb.choice(1, 2)]))
    assert space.default() == {"a": (2, 2)}
    assert seen_by(space, {"a": [3, [4, "x"]]}) == {"a": [3, [4, "x"]]}
    assert seen_by(space, {"a": "#2", "a#2[0]": 2}) == {"a": [2]}


# --- conditions of one's own ---------------------------------------------------------------


def rising() -> kb.Space:
    return kb.Space(
        plain_net,
        filters=kb.per_stage(2, kb.choice(8, 4, 16)),
        kernel_size=kb.choice(3, 5),
        where=lambda filters, kernel_size: filters[0] < filters[1] and kernel_size < filters[0],
    )


def test_where_asks_for_arguments_by_name() -> None:
    for space in (rising(), rising().within((8, 8, 1), kb.Budget(macs=1e5))):
        drawn = [space.sample(seed) for seed in range(60)]
        found = {tuple(values.values()) for values in drawn}
        every = itertools.product((4, 8, 16), (4, 8, 16), (3, 5))
        assert found == {(a, b, k) for a, b, k in every if a < b and k < a}
        start = {"filters[0]": 16, "filters[1]": 4, "kernel_size": 5}
        repaired = space.repair(start)
        assert repaired["filters[0]"] < repaired["filters[1]"]
        assert repaired["kernel_size"] < repaired["filters[0]"]
        assert space.default() == space.repair(space.default())
    assert rising().build(start).rows  # `build` takes values as they are


def test_where_asks_for_the_network() -> None:
    space = kb.Space(
        plain_net,
        filters=kb.per_stage(2, kb.choice(4, 8)),
        where=lambda network: network.cost((8, 8, 1)).params % 3 == 0,
    )
    drawn = {tuple(space.sample(seed).values()) for seed in range(60)}
    every = list(itertools.product((4, 8), (4, 8)))
    wanted = {pair for pair in every if plain_net(pair).cost((8, 8, 1)).params % 3 == 0}
    assert 0 < len(wanted) < len(every)
    assert drawn == wanted


def test_where_may_take_everything() -> None:
    space = kb.Space(
        plain_net, filters=[kb.choice(4, 8), 4], where=lambda **given: given["filters"] == [8, 4]
    )
    assert space.default() == {"filters[0]": 8}


def test_bad_conditions_are_refused() -> None:
    with pytest.raises(TypeError, match=r"asks for 'filterz'.* space \(filters\)"):
        kb.Space(plain_net, filters=(4, 4), where=lambda filterz: True)
    with pytest.raises(TypeError, match=r"`where` must be a function. Received: where=3"):
        kb.Space(plain_net, filters=(4, 4), where=3)
    with pytest.raises(ValueError, match="Nothing was found of which `where` is true"):
        kb.Space(plain_net, filters=(4, kb.choice(4, 8)), where=lambda filters: False)


# --- size and table ------------------------------------------------------------------------


@given(trees)
@settings(max_examples=150, deadline=None)
def test_size_counts_every_point_once(tree: Values) -> None:
    """Against going through all of them: shared names and nested conditions included."""
    points = list(itertools.islice(all_points(tree), 3000))
    if len(points) < 3000:
        size = recorded(**with_choices(tree)).size()
        assert size == len({exact(values) for _, values in points}) == len(points)


def test_a_real_makes_a_space_infinite_only_where_it_can_be_reached() -> None:
    assert recorded(a=kb.choice(1, {"r": kb.real(0, 1)})).size() == math.inf
    assert recorded(a=kb.integer(0, 9), b=kb.fixed(kb.real(0, 1))).size() == 10


def test_large_spaces_are_counted_at_once() -> None:
    head = kb.choice(1, {"k": kb.choice(1, 2, 3)})
    assert recorded(a=kb.per_stage(40, head)).size() == 4**40


def test_describe_prints_each_choice_and_the_size() -> None:
    space = recorded(
        blocks=kb.per_stage(kb.choice(1, 2), kb.integer(1, 9, step=2)),
        head=kb.choice(None, {"rate": kb.choice(0.5, 0.25)}),
        width=kb.integer(8, 64, log=True),
    )
    told: list[str] = []
    space.describe(told.append)
    lines = [line.split() for line in told[0].splitlines()]
    assert lines[0] == ["choice", "options", "only", "where"]
    assert lines[1:-1] == [
        ["stages", "1,", "2"],
        ["blocks[0]", "1", "to", "9", "by", "2"],
        ["blocks[1]", "1", "to", "9", "by", "2", "stages", "is", "2"],
        ["head", "None,", "#1"],
        ["head#1.rate", "0.5,", "0.25", "head", "is", "#1"],
        ["width", "8", "to", "64,", "in", "logarithm"],
    ]
    assert told[0].splitlines()[-1] == "6 choices, 5,130 networks"  # (5 + 25) x (1 + 2) x 57
    recorded(a=kb.real(0, 1)).describe(told.append)
    assert told[1].splitlines()[-1] == "1 choice, infinitely many networks"


def test_describe_says_what_many_choices_mean_for_a_bayesian_search() -> None:
    """`num_initial_points or max(3 * dimensions, 3)` in Keras Tuner's tuners/bayesian.py."""
    told: list[str] = []
    recorded(a=[kb.choice(1, 2) for _ in range(70)]).describe(told.append)
    bayesian, last = told[0].splitlines()[-2:]
    assert "Bayesian search of Keras Tuner draws its first 210 points at random" in bayesian
    assert last == "70 choices, about 10^21 networks"  # 2**70 is 1.2e21


def test_describe_prints(capsys: Any) -> None:
    recorded(a=kb.choice(1, 2)).describe()
    assert capsys.readouterr().out.splitlines()[-1] == "1 choice, 2 networks"


def test_samples_begin_with_the_default_and_bring_no_network_twice() -> None:
    space = kb.Space(plain_net, filters=[kb.choice(4, 8), 4], blocks=[1, kb.choice(2, 1)])
    drawn = list(space.within((8, 8, 1)).samples(0))
    assert drawn[0] == {"filters[0]": 4, "blocks[1]": 2}
    assert len(drawn) == 4
    assert drawn == list(space.within((8, 8, 1)).samples(Random(0)))
