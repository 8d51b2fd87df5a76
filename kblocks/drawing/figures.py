"""`draw`: blocks, networks and models as figures, in SVG or PNG."""

import importlib
import os
from pathlib import Path
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.common.atomic import whole
from kblocks.drawing.blocks import figure
from kblocks.drawing.canvas import Canvas
from kblocks.drawing.graphs import rows_of_model
from kblocks.drawing.networks import page
from kblocks.drawing.rows import rows_of
from kblocks.networks.architecture import Architecture
from kblocks.plans import ops
from kblocks.plans.cost import walk
from kblocks.plans.geometry import check_input_shape
from kblocks.plans.ops import Op

_PIXELS = 2.0  # pixels of a PNG for each pixel of the SVG


def draw(thing: Any, path: str | os.PathLike[str] | None = None, *, input_shape: Any = None) -> str:
    """Draws a block, a network or a model as papers do, and returns the SVG as text.

    The figure of a block has its branches side by side, a circle where they merge, a box for each
    convolution with kernel, filters and strides, and a frame around repeated parts. The figure of
    a network has its stages with their blocks, output shapes, parameters and shares of the
    multiply-adds, and beside them the inside of one block of each kind.

    Args:
        thing: a block, a Spec, a plan of `kblocks.ops`, an `Architecture`, or a Keras model, in
            which each of Keras' own layers is one box.
        path: a file to write, ending in ".svg" or ".png" (which needs the extra `report`); None
            writes none. A file is written whole or not at all.
        input_shape: (height, width, channels), which shapes and costs need. None takes that of a
            built block or a model; a model accepts no other. Other blocks are then drawn with as
            many input channels as they output, if possible, and networks with three, without
            costs.

    Raises:
        ValueError: if `path` ends otherwise or `thing` does not take `input_shape`.
        TypeError: if `thing` is none of the above.
        ImportError: if `path` ends in ".png" and vl-convert is missing.

    Example:
        >>> svg = kb.draw(kb.BottleneckBlock.Spec(64, strides=2), input_shape=(56, 56, 256))
        >>> "1x1 conv, 256, /2" in svg
        True
    """
    target = None if path is None else Path(path)
    if target is not None and target.suffix not in (".svg", ".png"):
        raise ValueError(f"`path` must end in .svg or .png. Received: path={str(path)!r}")
    if input_shape is not None:
        check_input_shape(input_shape)
        input_shape = tuple(input_shape)
    svg = _canvas(thing, input_shape).svg()
    if target is not None:
        data = svg.encode() if target.suffix == ".svg" else _png(svg)
        with whole(target) as written:
            written.write_bytes(data)
    return svg


def _in_notebook(net: Architecture) -> str | None:
    """The figure of a network; None if it takes another number of channels than three."""
    try:
        return draw(net)
    except ValueError:
        return None


Architecture._repr_svg_ = _in_notebook


def _canvas(thing: Any, input_shape: Any) -> Canvas:
    if isinstance(thing, Architecture):
        rows = rows_of(thing, input_shape)
        return page(thing.name, rows, input_shape, tuple(thing.outputs.values()))
    if isinstance(thing, keras.Model):
        return _canvas_of_model(thing, input_shape)
    if isinstance(thing, (ops.Chain, ops.Merge, *ops.PRIMITIVES.values())):
        return _canvas_of_plan(thing, input_shape)
    if isinstance(thing, Block.Spec):
        spec: Any = thing
        shape = _usual_shape(spec) if input_shape is None else input_shape
        return _canvas_of_plan(spec.plan(shape[-1]), shape, spec._block.__name__)
    if isinstance(thing, Block):
        if input_shape is None and thing.built:
            input_shape = thing._spatial_last(thing.get_build_config()["input_shape"])
        return _canvas(thing.spec, input_shape)
    raise TypeError(
        "`thing` must be a block, a Spec, a plan, an Architecture or a Keras model. "
        f"Received: thing={thing!r}"
    )


def _canvas_of_plan(plan: Op, shape: Any, *titles: str) -> Canvas:
    if shape is not None and None not in shape:
        walk(plan, shape)  # raises if the shape does not fit
    canvas = Canvas()
    figure(plan, shape, *titles).draw(canvas, 0, 0)
    return canvas


def _canvas_of_model(model: keras.Model, input_shape: Any) -> Canvas:
    rows, outputs = rows_of_model(model, input_shape)
    if not rows:
        raise ValueError(f"A model must have layers to be drawn. Received: {model!r}")
    inputs = getattr(model, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else None
    return page(model.name, rows, shape, outputs)


def _usual_shape(spec: Any) -> tuple[Any, ...]:
    """A shape with as many channels as the block outputs: then a shortcut is an identity."""

    def output_of(channels: int) -> int | None:
        try:
            return walk(spec.plan(channels), (None, None, channels))[-1]
        except ValueError:
            return None

    for channels in (64, *range(1, 513)):
        output = output_of(channels)
        if output is not None:
            return (None, None, output if output_of(output) == output else channels)
    return (None, None, 64)


def _png(svg: str) -> bytes:
    try:
        converter = importlib.import_module("vl_convert")
    except ImportError as error:
        raise ImportError("A PNG needs vl-convert: pip install 'kblocks[report]'") from error
    return converter.svg_to_png(svg, scale=_PIXELS)
