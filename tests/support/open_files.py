"""Files with the inputs and outputs of the released YuNet, SFace and AuraFace, whose answers are known.

The layouts are those of OpenCV's face_detect.cpp and face_recognize.cpp, and of the files themselves: YuNet 2023mar takes
[1, 3, 640, 640], 2026may any size; SFace takes "data" and begins with (x - 127.5) * 0.0078125; ArcFace's kind takes -1..1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def save_yunet(path: Path, size: int | None) -> Path:
    """A detector that reads faces off the picture: each px at the middle of a cell whose blue is above 200 is one.

    A pixel (blue, green, red) at column 4, row 4 of a cell of 8 px says: a face around it, whose side is green px and whose
    score is red / 255. Landmarks lie at fixed shares of the side. All in the convolution's own numbers, so that decoding is needed.

    size: of the fixed input; None for any.
    """
    nodes, outputs, weights = [], [], []

    def constant(name, value):
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    for stride in STRIDES:
        # One px of each cell, that at its middle: a convolution of stride `stride` with a single weight.
        kernel = np.zeros((3, 3, stride, stride), np.float32)
        for channel in range(3):
            kernel[channel, channel, stride // 2, stride // 2] = 1
        read = add("Conv", ["input", constant(f"k{stride}", kernel)], f"read{stride}", strides=[stride, stride])
        rows = add("Transpose", [read], f"t{stride}", perm=[0, 2, 3, 1])
        cells = add("Reshape", [rows, constant(f"s{stride}", np.array([1, -1, 3], np.int64))], f"c{stride}")
        blue, green, red = (
            add("Gather", [cells, constant(f"i{stride}{n}", np.array([n], np.int64))], f"g{stride}{n}", axis=2)
            for n in range(3)
        )
        # Only the stride whose faces these are: 8 below 64 px, 16 below 160, 32 above.
        low, high = {8: (0.0, 63.5), 16: (63.5, 159.5), 32: (159.5, 1e9)}[stride]
        mine = add(
            "And",
            [
                add("Greater", [green, constant(f"l{stride}", np.float32(low))], f"gl{stride}"),
                add("Less", [green, constant(f"h{stride}", np.float32(high))], f"gh{stride}"),
            ],
            f"and{stride}",
        )
        seen = add("Greater", [blue, constant(f"b{stride}", np.float32(200))], f"gb{stride}")
        score = add("Mul", [red, constant(f"r{stride}", np.float32(1 / 255))], f"score{stride}")
        kept = add(
            "Where",
            [add("And", [mine, seen], f"both{stride}"), score, constant(f"z{stride}", np.float32(0))],
            f"kept{stride}",
        )
        add("Identity", [kept], f"cls_{stride}")
        add("Mul", [kept, constant(f"one{stride}", np.float32(1))], f"obj_{stride}")
        # The center lies at the middle of the cell, the size is a logarithm of strides.
        half = constant(f"half{stride}", np.float32(0.5))
        zero = add("Mul", [green, constant(f"zero{stride}", np.float32(0))], f"zeros{stride}")
        middle = add("Add", [zero, half], f"middle{stride}")
        share = add("Mul", [green, constant(f"by{stride}", np.float32(1 / stride))], f"share{stride}")
        floor = add("Max", [share, constant(f"tiny{stride}", np.float32(1e-3))], f"floor{stride}")
        side = add("Log", [floor], f"side{stride}")
        add("Concat", [middle, middle, side, side], f"bbox_{stride}", axis=2)
        parts = []
        for n, (x, y) in enumerate(POINTS):
            for axis, value in (("x", x), ("y", y)):
                moved = add("Mul", [share, constant(f"p{stride}{n}{axis}", np.float32(value))], f"m{stride}{n}{axis}")
                parts.append(add("Add", [moved, half], f"q{stride}{n}{axis}"))
        add("Concat", parts, f"kps_{stride}", axis=2)
    for kind, width in WIDTHS.items():
        for stride in STRIDES:
            cells_there = (size // stride) ** 2 if size else None
            outputs.append(
                helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, [1, cells_there, width])
            )
    shape = [1, 3, size, size] if size else [1, 3, "height", "width"]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
    return _save(path, nodes, [given], outputs, weights)


POINTS = ((-0.2, -0.15), (0.2, -0.15), (0.0, 0.05), (-0.15, 0.25), (0.15, 0.25))
"""Landmarks of every face, in sides from its center, in the order of OpenCV's: the eye on the left of the picture first."""


def draw_face(picture: np.ndarray, x: int, y: int, side: int, score: int = 250) -> None:
    """Write a face into a picture uint8 RGB [H, W, 3]; the cell that holds x, y says so for all strides."""
    for stride in STRIDES:
        column, row = x // stride * stride + stride // 2, y // stride * stride + stride // 2
        picture[row, column] = (score, side, 255)


def save_recognizer(path: Path, width: int, normalizes: bool = False, given: str = "input.1") -> Path:
    """A recognizer [1, 3, 112, 112] -> [1, width] of random numbers; `normalizes` as SFace does, with its names."""
    generator = np.random.default_rng(width)
    nodes, weights = [], []
    last = given
    if normalizes:
        weights += [
            numpy_helper.from_array(np.float32(127.5), "scalar_op1"),
            numpy_helper.from_array(np.float32(0.0078125), "scalar_op2"),
        ]
        nodes += [
            helper.make_node("Sub", [last, "scalar_op1"], ["_minusscalar0"], name="_minusscalar0"),
            helper.make_node("Mul", ["_minusscalar0", "scalar_op2"], ["_mulscalar0"], name="_mulscalar0"),
        ]
        last = "_mulscalar0"
    kernel = generator.standard_normal((width, 3, 14, 14)).astype(np.float32) / 25
    nodes.append(helper.make_node("AveragePool", [last], ["small"], name="Pool_0", kernel_shape=[8, 8], strides=[8, 8]))
    weights.append(numpy_helper.from_array(kernel, "kernel"))
    nodes.append(helper.make_node("Conv", ["small", "kernel"], ["seen"], name="Conv_0"))
    nodes.append(helper.make_node("Flatten", ["seen"], ["fc1"], name="Flatten_1"))
    inputs = [helper.make_tensor_value_info(given, TensorProto.FLOAT, [1, 3, 112, 112])]
    outputs = [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, width])]
    return _save(path, nodes, inputs, outputs, weights)


def _save(path, nodes, inputs, outputs, weights):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def save_scrfd(path: Path, outputs: int) -> Path:
    """An SCRFD of any size with random weights: scores of all strides, then boxes, then with 9 or 15 outputs landmarks."""
    generator = np.random.default_rng(outputs)
    levels, places = (3, 2) if outputs in (6, 9) else (5, 1)
    nodes, weights = [], []
    found: dict[str, list[str]] = {"score": [], "bbox": [], "kps": []}
    widths = {"score": 1, "bbox": 4} | ({"kps": 10} if outputs in (9, 15) else {})
    for level in range(levels):
        stride = 8 * 2**level
        pool = helper.make_node(
            "AveragePool", ["input.1"], [f"pool{level}"], kernel_shape=[stride] * 2, strides=[stride] * 2
        )
        nodes.append(pool)
        for kind, width in widths.items():
            kernel = generator.standard_normal((width * places, 3, 1, 1)).astype(np.float32)
            # Averages of noise are near 0: larger weights for large cells, so that each stride sees something.
            weights.append(
                numpy_helper.from_array(kernel * (4 if kind != "bbox" else 0.1) * stride / 8, f"{kind}w{level}")
            )
            offset = np.full(width * places, {"score": -1.5, "bbox": 2.0, "kps": 0.0}[kind], np.float32)
            weights.append(numpy_helper.from_array(offset, f"{kind}b{level}"))
            weights.append(numpy_helper.from_array(np.array([-1, width], np.int64), f"{kind}s{level}"))
            last = f"{kind}_{level}"
            nodes.append(helper.make_node("Conv", [f"pool{level}", f"{kind}w{level}", f"{kind}b{level}"], [f"c{last}"]))
            nodes.append(helper.make_node("Transpose", [f"c{last}"], [f"t{last}"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"t{last}", f"{kind}s{level}"], [f"r{last}"]))
            nodes.append(
                helper.make_node({"score": "Sigmoid", "bbox": "Abs"}.get(kind, "Identity"), [f"r{last}"], [last])
            )
            found[kind].append(last)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, widths[kind]])
        for kind in widths
        for name in found[kind]
    ]
    given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "height", "width"])
    return _save(path, nodes, [given], infos, weights)
