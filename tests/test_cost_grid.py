"""The static cost over the arguments of every exported block and every family."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conformance import exported_layers
from counting import as_count, counted
from family_grids import FAMILIES, INPUTS
from grids import BLOCKS, WITHOUT_COST, covering
from tiers import THOROUGH

import kblocks as kb

# --- blocks ------------------------------------------------------------------------------

each_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)


def points(block: Any, strength: int) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Specs and inputs that fit each other and hold all sets of `strength` values."""

    def made(values: dict[str, Any]) -> tuple[Any, tuple[int, ...]]:
        arguments = dict(values)
        shape = arguments.pop("input")
        return block.Spec(**arguments), shape

    def fits(values: dict[str, Any]) -> bool:
        try:
            spec, shape = made(values)
            spec.cost(shape)
        except ValueError:
            return False
        return True

    axes, inputs = BLOCKS[block]
    return map(made, covering({**axes, "input": inputs}, strength, fits))


def check(spec: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    assert as_count(spec.cost(shape)) == counted(spec.layer(), x), (spec, shape)


def test_every_exported_block_and_argument_is_in_the_grid() -> None:
    assert set(BLOCKS) == {*exported_layers(), kb.ResidualDense}
    for block, (axes, _) in BLOCKS.items():
        fields = {field.name for field in dataclasses.fields(block.Spec)}
        assert set(axes) == fields - WITHOUT_COST, block


@pytest.mark.thin(4)
@each_block
def test_every_value_of_every_argument(block: Any) -> None:
    """Each value of the grid fits with some others, and its cost is what the layer does."""
    axes, inputs = BLOCKS[block]
    found = list(points(block, 1))
    for name, values in axes.items():
        normalised = {getattr(spec, name) for spec, _ in found}
        assert len(normalised) == len(values), name
    assert {shape for _, shape in found} == set(inputs)
    for spec, shape in found:
        check(spec, shape)


@pytest.mark.slow
@each_block
def test_every_pair_of_values(block: Any) -> None:
    for spec, shape in points(block, 2):
        check(spec, shape)


@pytest.mark.slow
@each_block
def test_all_kernels_strides_and_paddings(block: Any) -> None:
    axes, inputs = BLOCKS[block]
    first = {name: values[0] for name, values in axes.items()}
    spatial = [name for name in ("kernel_size", "strides", "padding") if name in axes]
    for values in list(itertools.product(*(axes[name] for name in spatial)))[
        :: 1 if THOROUGH else 5
    ]:
        try:
            spec = block.Spec(**{**first, **dict(zip(spatial, values, strict=True))})
        except ValueError:  # no symmetric padding of even kernels, kernels of other branches
            continue
        for shape in inputs:
            check(spec, shape)


# --- families ----------------------------------------------------------------------------

each_family = pytest.mark.parametrize("family", FAMILIES)


def networks(family: str, strength: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Arguments with an input that fit each other, and their network."""

    def made(values: dict[str, Any]) -> Any:
        return getattr(kb, family)(7, **{n: v for n, v in values.items() if n != "input"})

    def fits(values: dict[str, Any]) -> bool:
        try:
            made(values).cost(values["input"], aux=True)
        except (TypeError, ValueError):
            return False
        return True

    for values in covering({**FAMILIES[family], "input": INPUTS}, strength, fits):
        yield values, made(values)


def check_network(net: kb.Architecture, shape: tuple[int, ...], arguments: Any) -> None:
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    found = counted(net.model(shape, aux=True), x)
    assert as_count(net.cost(shape, aux=True)) == found, arguments


def test_every_family_and_argument_is_in_the_grid() -> None:
    assert set(FAMILIES) == set(kb.spaces.__all__)
    for family, axes in FAMILIES.items():
        signature = inspect.signature(getattr(kb, family)).parameters.values()
        named = {p.name for p in signature if p.kind is not p.VAR_KEYWORD}
        assert set(axes) >= named - {"classes", "name"}, family


@pytest.mark.thin(6)
@each_family
def test_every_value_of_a_familys_arguments(family: str) -> None:
    """Each value of the grid fits with some others, and the cost is that of the built model."""
    found = list(networks(family, 1))
    for name, values in FAMILIES[family].items():
        assert len({repr(arguments[name]) for arguments, _ in found}) == len(values), name
    for arguments, net in found:
        check_network(net, arguments["input"], arguments)


@pytest.mark.slow
@each_family
def test_every_pair_of_values_of_a_familys_arguments(family: str) -> None:
    for arguments, net in networks(family, 2):
        check_network(net, arguments["input"], arguments)
