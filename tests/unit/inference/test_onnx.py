"""ONNX files that are not ours: one line each, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rad_lightning.common.errors import UserError
from rad_lightning.data.splits import file_hashes
from rad_lightning.inference import onnx as backend
from rad_lightning.inference.detector import Detector
from support import rewrite
from unit.inference.test_detector import GREY, METADATA

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
helper, types = onnx.helper, onnx.TensorProto
FLOAT, INT64, BOOL = types.FLOAT, types.INT64, types.BOOL


def constant(name: str, value: Any, kind: type = np.float32) -> Any:
    return onnx.numpy_helper.from_array(np.array(value, kind), name)


def exported(file: Path, nodes: list[Any], *constants: Any, image: str = "images") -> Path:
    """A model of ``nodes`` with the output ``score``, and the facts beside it."""
    takes = [helper.make_tensor_value_info(image, FLOAT, ["batch", 3, 16, 24])]
    gives = [onnx.ValueInfoProto(name="score")]
    gives[0].type.tensor_type.elem_type = FLOAT
    graph = helper.make_graph(nodes, "g", takes, gives, initializer=list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, file)
    facts = {"detector": METADATA.as_dict(), "sha256": file_hashes([file])[0]}
    rewrite(file.with_name(f"{file.name}.json"), facts)
    return file


def node(kind: str, *inputs: str, output: str = "score", **settings: Any) -> Any:
    return helper.make_node(kind, list(inputs), [output], **settings)


MEAN = node("ReduceMean", "images", "axes", keepdims=0)
AXES = constant("axes", [1, 2, 3], np.int64)


def endless() -> list[Any]:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "more", output="again"), node("Add", "x", "one", output="y")],
        "body",
        [info("i", INT64, []), info("more", BOOL, []), info("x", FLOAT, [1])],
        [info("again", BOOL, []), info("y", FLOAT, [1])],
    )
    return [node("Loop", "", "true", "one", body=body)]


def test_a_model_of_anybody_that_answers_like_a_detector_is_one(tmp_path: Path) -> None:
    (found,) = Detector.load(exported(tmp_path / "d.onnx", [MEAN], AXES)).predict(GREY)
    assert found.score == pytest.approx(128) and found.map is None


def test_a_model_that_answers_nan_gives_no_verdict(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", "images", "axes", output="mean", keepdims=0)]
    nodes.append(node("Mul", "mean", "nan"))
    file = exported(tmp_path / "d.onnx", nodes, AXES, constant("nan", np.nan))
    with pytest.raises(UserError, match="answers nan, which is no verdict"):
        Detector.load(file).predict(GREY)


def test_models_that_answer_otherwise_are_one_line(tmp_path: Path) -> None:
    whole = node("ReduceMean", "images", keepdims=0)
    size = constant("size", [8 * 2**30], np.int64)  # 32 GiB
    true, one = constant("true", True, np.bool_), constant("one", [1])
    for nodes, constants, line in (
        ([whole], (), "not a detector's network: it answers float32 ()"),
        ([node("Identity", "images")], (), "not a detector's network: it answers float32 (1, 3"),
        ([node("ConstantOfShape", "size")], (size,), "cannot be run"),
        ([node("Reshape", "images", "shape")], (constant("shape", [7], np.int64),), "cannot be"),
    ):
        file = exported(tmp_path / "d.onnx", nodes, *constants)
        with pytest.raises(UserError) as caught:
            Detector.load(file)
        told = str(caught.value)
        assert told.startswith(f"{file}: ") and line in told and "\n" not in told
    assert true and one


def test_a_model_that_never_ends_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backend, "SECONDS", 0.2)
    true, one = constant("true", True, np.bool_), constant("one", [1])
    file = exported(tmp_path / "d.onnx", endless(), true, one)
    with pytest.raises(UserError, match="did not come to an end"):
        Detector.load(file)
    assert not capfd.readouterr().err  # onnxruntime prints nothing of its own


def test_a_model_of_other_inputs_is_one_line(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", "picture", "axes", keepdims=0)]
    file = exported(tmp_path / "d.onnx", nodes, AXES, image="picture")
    with pytest.raises(UserError, match="not an exported detector, its inputs are picture"):
        Detector.load(file)
