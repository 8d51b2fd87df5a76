"""Random arguments over the whole documented domain: see `fuzzing.py` and `fuzz_checks.py`.

A hundred cases of blocks and some of the others; with KBLOCKS_THOROUGH=1 thousands, which take
hours. A finding is told with its smallest case, which `Children.run` runs again; once mended it
belongs into `MENDED`.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from fuzzing import Case, Children
from tiers import THOROUGH

# By kind, the number of cases and of thorough runs.
NUMBERS = {"block": (120, 5000), "family": (18, 600), "head": (20, 600), "space": (8, 60)}
SEED = 20261127

_RUN: Case = {
    "batch": 1,
    "dtype": "float32",
    "data_format": "channels_last",
    "training": False,
    "unknown": False,
    "saves": False,
    "behind": None,
    "trains": False,
    "objects": 1,
}


def block(name: str, shape: tuple[int, ...], arguments: Case, **run: Any) -> Case:
    return {**_RUN, "kind": "block", "name": name, "shape": shape, "arguments": arguments, **run}


def family(name: str, shape: tuple[int, ...], arguments: Case, **run: Any) -> Case:
    return {**_RUN, "kind": "family", "name": name, "shape": shape, "arguments": arguments, **run}


def head(made: Any, shape: tuple[int, ...] = (16, 16, 3), **run: Any) -> Case:
    own = {"kind": "head", "name": "", "arguments": {}, "head": made, "shape": shape}
    return {**_RUN, **own, **run}


# By what was wrong: a smallest case that once failed.
_POOLS = {"pool_count_padding": True, "pool_ceil_mode": True, "padding": "valid"}
MENDED: dict[str, Case] = {
    "tanh behind batch norm in a graph": block(
        "ConvBlock", (4, 4, 3), {"filters": 2, "activation": "tanh"}
    ),
    "mish behind batch norm in a graph": block(
        "ConvBlock", (4, 4, 3), {"filters": 2, "activation": "mish"}
    ),
    "kernel gradient of 1x1 with strides 2": block(
        "ResidualBlock", (20, 20, 8), {"filters": 12, "strides": 2}, batch=3
    ),
    "auxiliary heads where they are not asked for": family(
        "inception_v3", (90, 90, 1), {"blocks": (1, 1, 1), "width": 0.08}
    ),
    "a fused model that ends in dropout": block(
        "SpaceToDepthStem", (2, 1, 4), {"filters": 1}, saves=True, behind="Dropout"
    ),
    "a dict of one head": head({"z": ("Classifier", {"classes": 2})}, trains=True),
    "average pools in ceil mode that count padding": block(
        "InceptionBlock",
        (3, 3, 1),
        {"branches": ("avg",), "kernel_size": 2, "strides": 2, **_POOLS},
    ),
    "a space that does not pickle": {
        "kind": "space",
        "name": "alexnet",
        "arguments": {},
        "classes": 2,
        "shape": (64, 64, 3),
        "macs": None,
        "seed": 0,
    },
    "one value for all stages, and the same for each": family(
        "resnet", (16, 16, 1), {"blocks": (1,), "filters": 2, "order": "full_preactivation"}
    ),
    "a canonical form with a dict in it": head(("DetectionMap", {"classes": 2})),
}


# --- the fuzzer itself, without a child --------------------------------------------------


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_cases_are_plain_data_and_the_same_for_a_seed(kind: str) -> None:
    cases = fuzzing.drawn(kind, 8, first=3)
    assert [ast.literal_eval(repr(case)) for case in cases] == cases
    assert fuzzing.drawn(kind, 8, first=3) == cases
    assert fuzzing.drawn(kind, 8, first=4) != cases


def test_every_argument_has_values() -> None:
    """A new block, family or head is fuzzed; a new type of argument must be told to the fuzzer."""
    for name, made in fuzzing.blocks().items():
        assert set(fuzzing.strategies_of(made)[0]) == set(made.Spec._checks), name
    for name in fuzzing.families():
        assert fuzzing.drawn_one(fuzzing.family_cases(name), 0)["name"] == name
    assert {"Detector", "Classifier", "Localizer"} <= set(fuzzing.heads())
    assert all(fuzzing.head_strategies(name) for name in fuzzing.heads())


ECHO = """
import os, sys, time
for line in sys.stdin:
    case = eval(line)
    if case["arguments"].get("depth", 1) > 4:
        os.kill(os.getpid(), 11)
    if case["name"] == "slow":
        time.sleep(60)
    print({"outcome": "works"}, flush=True)
"""


def test_a_child_that_dies_is_a_finding_with_its_smallest_case(tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    children = Children(tmp_path, script=script)
    cases = [
        block("a", (8, 8, 3), {"filters": 3}),
        block("b", (8, 9, 3), {"filters": 3, "depth": 9}, batch=4),
        block("c", (8, 8, 3), {"filters": 3}),
    ]
    try:
        outcomes, findings = fuzzing.fuzz(cases, children, told=lambda text: None)
    finally:
        children.close()
    assert outcomes == {"works": 2, "found": 1}
    assert [found["why"] for found in findings] == ["the process ended: -11"]
    assert findings[0]["least"] == block("b", (1, 1, 1), {"depth": 5})


def test_a_child_that_hangs_is_a_finding(tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    children = Children(tmp_path, limit=2, script=script)
    try:
        assert children.run(block("slow", (1, 1, 1), {}))["where"] == "time"
        assert children.run(block("a", (1, 1, 1), {})) == {"outcome": "works"}
        assert ast.literal_eval((tmp_path / "case.txt").read_text())["name"] == "a"
    finally:
        children.close()


# --- cases in child processes ------------------------------------------------------------


@pytest.mark.slow
def test_what_was_mended_stays_so(tmp_path: Path) -> None:
    children = Children(tmp_path)
    try:
        found = {name: children.run(case) for name, case in MENDED.items()}
    finally:
        children.close()
    assert {name: told for name, told in found.items() if told["outcome"] != "works"} == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_random_cases(kind: str, tmp_path: Path) -> None:
    cases = fuzzing.drawn(kind, NUMBERS[kind][THOROUGH], SEED)
    children = Children(tmp_path)
    try:
        outcomes, findings = fuzzing.fuzz(cases, children)
    finally:
        children.close()
    assert [(found["where"], found["why"], found["least"]) for found in findings] == []
    assert outcomes["works"] >= len(cases) // 4  # else most cases would be refused
