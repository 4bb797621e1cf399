"""ONNX Runtime's tools on exported files: quantization, the optimizer, float16, fixed shapes and shape inference.

Every file that a tool writes is compared with Keras. Where a tool cannot read a form of an opset, a test says so: it
fails when a new version of ONNX Runtime can.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.optimizer import optimize_model

from attention_zoo import export
from helpers import numpy
from tool_cases import CONVOLUTIONS, Case, Tool, case_of, cosine, opened, with_statistics

TEXT = ("bert-backbone", "bert-sequence_classification", "gpt-gpt2", "gpt-llama")
TRANSFORMERS = (*TEXT, "vit-classifier", "transformer-original")
FILES = (*TRANSFORMERS, "seq2seq-luong")
PRODUCTS = ("Conv", "Gemm", "MatMul")

pytestmark = pytest.mark.slow  # the tools are ONNX Runtime's, and change with it


def over_opsets(names: tuple[str, ...], opsets: tuple[int, ...] = (17, 21, 23)) -> Any:
    """Parametrize a test over ``name, opset``."""
    cases = [pytest.param(name, opset, id=f"{name}-{opset}") for name in names for opset in opsets]
    return pytest.mark.parametrize(("name", "opset"), cases)


each_convolution = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.runs_with(f"tools on {name}")) for name in CONVOLUTIONS]
)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Return exports that are made once per process: ``cases("gpt-gpt2", 17)``, or ``cases("unet")``."""
    made: dict[Any, Case] = {}

    def get(name: str, opset: int = 17) -> Case:
        key = (name, opset)
        if key not in made:
            path = tmp_path_factory.mktemp("tools") / f"{name}.onnx"
            made[key] = case_of(name, opset, path)
        return made[key]

    return get


def operators(file: Path) -> collections.Counter[str]:
    return collections.Counter(f"{node.domain}:{node.op_type}".lstrip(":") for node in onnx.load(file).graph.node)


def with_weights(file: Path, operator: str) -> int:
    """Return the number of nodes of an operator whose second input is an initializer."""
    graph = onnx.load(file).graph
    weights = {tensor.name for tensor in graph.initializer}
    return sum(node.op_type == operator and node.input[1] in weights for node in graph.node)


def weight_bytes(file: Path) -> int:
    return sum(len(tensor.raw_data) for tensor in onnx.load(file).graph.initializer)


def of_8_bits(products: int) -> float:
    """Return the cosine similarity that 8-bit arithmetic leaves.

    A tensor whose values spread over 8 standard deviations, rounded to 255 steps, gets noise of 8/255/√12 = 0.9 % of
    its standard deviation. A product reads two such tensors, and independent noise adds in squares: 1.6e-4 per product.
    A cosine similarity loses half of that, and the limit allows five times as much, for outliers that widen a range.
    """
    return 1 - products * 4e-4


# ---- quantization ----------------------------------------------------------------------------------------------------


@over_opsets(FILES, opsets=(17, 21))
def test_dynamic_quantization(name: str, opset: int, cases: Any) -> None:
    """Quantize with default arguments: every product with weights becomes one of integers."""
    case = cases(name, opset)
    made = case.through(quantize_dynamic)
    products = 0
    for before, after in zip(case.files, made, strict=True):
        found = operators(after)
        assert found["MatMulInteger"] == with_weights(before, "MatMul") > 0
        assert found["ConvInteger"] == operators(before)["Conv"]
        assert weight_bytes(after) < 0.5 * weight_bytes(before) or operators(before)["GRU"]  # which the tool leaves
        assert after.stat().st_size < before.stat().st_size
        products += found["MatMulInteger"] + found["ConvInteger"]
    assert case.cosine(made) > of_8_bits(products)


@each_convolution
def test_dynamic_quantization_of_convolutions(name: str, cases: Any) -> None:
    """Quantize with default arguments. The tool has no transposed convolution of integers."""
    case = cases(name)
    (before,), (after,) = case.files, case.through(quantize_dynamic)
    found = operators(after)
    assert found["MatMulInteger"] == operators(before)["MatMul"] == with_weights(before, "MatMul")
    assert found["ConvInteger"] == operators(before)["Conv"] == with_weights(before, "Conv")
    assert found["ConvTranspose"] == operators(before)["ConvTranspose"]
    assert weight_bytes(after) < weight_bytes(before)
    if name == "mobilenet":
        assert after.stat().st_size < 0.5 * before.stat().st_size
    assert case.cosine([after]) > of_8_bits(found["MatMulInteger"] + found["ConvInteger"])


def test_dynamic_quantization_of_recurrent_layers(tmp_path: Path) -> None:
    """Quantize the initializers of an LSTM: the tool has ``DynamicQuantizeLSTM``, but nothing for a GRU."""
    x = keras.Input((12, 8), name="series")
    model = with_statistics(keras.Model(x, layers.LSTM(24)(x)))
    file, made = tmp_path / "m.onnx", tmp_path / "made.onnx"
    export.to_onnx(model, file)
    quantize_dynamic(file, made)
    assert operators(made)["com.microsoft:DynamicQuantizeLSTM"] == operators(file)["LSTM"] == 1
    assert weight_bytes(made) < 0.4 * weight_bytes(file)
    given = np.random.default_rng(0).normal(size=(4, 12, 8)).astype("float32")
    (found,) = opened(made).run(None, {"series": given})
    assert cosine(np.asarray(found), numpy(model(given))) > of_8_bits(2 * 12)  # two products per step


@over_opsets(TRANSFORMERS, opsets=(23,))
def test_dynamic_quantization_of_attention(name: str, opset: int, cases: Any) -> None:
    """Leave ``Attention`` of opset 23 alone: the tool takes it for ONNX Runtime's own operator of that name."""
    case = cases(name, opset)
    with pytest.raises(Exception, match="QAttention"):
        case.outputs(case.through(quantize_dynamic))
    kinds = [*PRODUCTS, "Gather"]
    made = case.through(lambda file, target: quantize_dynamic(file, target, op_types_to_quantize=kinds))
    found = sum((operators(file) for file in made), collections.Counter())
    products = found["MatMulInteger"] + found["ConvInteger"]
    assert products == sum(with_weights(file, kind) for file in case.files for kind in ("Conv", "MatMul"))
    assert case.cosine(made) > of_8_bits(products)


class Samples(CalibrationDataReader):
    """The calibration data of one file."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.left = iter(feeds)

    def get_next(self) -> Any:
        return next(self.left, None)


def statically(case: Case, *, prepare: Any = None, **kwargs: Any) -> Tool:
    """Return ``quantize_static`` as a tool, after ``quant_pre_process`` with the arguments `prepare`."""

    def tool(file: Path, target: Path) -> None:
        source = file
        if prepare is not None:
            source = target.with_name(f"prepared.{target.name}")
            quant_pre_process(file, source, **prepare)
        quantize_static(source, target, Samples(case.feeds(file)), **kwargs)

    return tool


@over_opsets(FILES)
def test_static_quantization(name: str, opset: int, cases: Any) -> None:
    """Quantize the products with ranges from samples, after the tool's own preparation.

    Before opset 18, the preparation infers shapes, where ``auto_merge`` says that sizes of two names are equal. Later,
    it has no shape for ReduceMax, whose axes are an input then, and it takes ``Attention`` for an operator of ONNX
    Runtime. Activations are unsigned, since ONNX Runtime makes signed ones unsigned when it loads a file, and in opset
    21 forgets the attribute `output_dtype` of those that it has moved over a Reshape or Transpose.
    """
    case = cases(name, opset)
    prepare = {"auto_merge": True} if opset == 17 else {"skip_symbolic_shape": True}
    how = {"op_types_to_quantize": list(PRODUCTS), "activation_type": QuantType.QUInt8}
    made = case.through(statically(case, prepare=prepare, **how))
    products = sum(operators(file)[kind] for file in made for kind in PRODUCTS)
    for before, after in zip(case.files, made, strict=True):
        kernels = [tensor for tensor in onnx.load(after).graph.initializer if tensor.name.endswith("_quantized")]
        assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in kernels) > 0
        assert weight_bytes(after) < weight_bytes(before)
    assert case.cosine(made) > of_8_bits(products)


@each_convolution
def test_static_quantization_of_convolutions(name: str, cases: Any) -> None:
    """Quantize every operator with default arguments. The preparation makes normalizations part of convolutions."""
    case = cases(name)
    (made,) = case.through(statically(case, prepare={"auto_merge": name == "unet"}))
    found = operators(made)
    assert not found["BatchNormalization"] and found["Conv"] == operators(case.files[0])["Conv"]
    assert found["QuantizeLinear"] and found["DequantizeLinear"] > found["QuantizeLinear"]
    assert case.cosine([made]) > of_8_bits(found["DequantizeLinear"])


def test_static_ranges_of_masks(cases: Any) -> None:
    """Keep additive masks out of 8 bits: a range from the scores to -1e38 has one step for all scores.

    With default arguments the tool gives every Add and Mul such a range, in files of any exporter. In opset 23, masks
    are inside of ``Attention``, which the tool leaves alone.
    """
    case = cases("gpt-gpt2", 17)
    everything = case.cosine(case.through(statically(case)))
    products = case.cosine(case.through(statically(case, op_types_to_quantize=list(PRODUCTS))))
    assert everything < 0.95 and products > 0.99


def test_static_ranges_of_attention(cases: Any) -> None:
    case = cases("gpt-gpt2", 23)
    assert case.cosine(case.through(statically(case))) > 0.99


# ---- shapes ----------------------------------------------------------------------------------------------------------


def known_shapes(model: Any) -> dict[str, list[Any] | None]:
    """Return number, name or None for every dimension of every value, or None where the rank is not known."""
    values = [*model.graph.value_info, *model.graph.output]
    kinds = {value.name: value.type.tensor_type for value in values}
    return {
        name: [dim.dim_value or dim.dim_param or None for dim in kind.shape.dim] if kind.HasField("shape") else None
        for name, kind in kinds.items()
    }


def check_shapes(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that symbolic inference adds neither a rank nor a number, except for slices.

    The tool follows starts and ends that the graph computes, and reads an end beyond an open size as the size.
    """
    monkeypatch.chdir(tmp_path)  # the tool writes its state into this folder if it fails
    for file in case.files:
        model = onnx.load(file)
        stated, makers = known_shapes(model), {name: node.op_type for node in model.graph.node for name in node.output}
        inferred = known_shapes(SymbolicShapeInference.infer_shapes(model, auto_merge=True))
        assert len(inferred) >= len(makers)
        for name, maker in makers.items():
            before, after = stated.get(name), inferred[name]
            assert before is not None and after is not None and len(before) == len(after), (name, maker)
            numbers = [(new, old) for new, old in zip(after, before, strict=True) if isinstance(new, int)]
            assert maker == "Slice" or all(new == old for new, old in numbers), (name, maker, before, after)


@over_opsets(FILES, opsets=(17,))
def test_symbolic_shapes(name: str, opset: int, cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_shapes(cases(name, opset), tmp_path, monkeypatch)


@each_convolution
def test_symbolic_shapes_of_convolutions(
    name: str, cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shapes(cases(name), tmp_path, monkeypatch)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_symbolic_shapes_of_attention(name: str, cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show that the tool takes ``Attention`` of opset 23 for an operator of ONNX Runtime with other inputs."""
    monkeypatch.chdir(tmp_path)
    for file in cases(name, 23).files:
        with pytest.raises(AssertionError):
            SymbolicShapeInference.infer_shapes(onnx.load(file), auto_merge=True)


@over_opsets(FILES)
def test_fixed_shapes(name: str, opset: int, cases: Any) -> None:
    """Replace the names of open sizes by numbers: outputs then have fixed sizes, and the values stay the same.

    The length of a cache stays open, as it is empty here and the tool takes only sizes above 0.
    """
    case = cases(name, opset)

    def fix(file: Path, target: Path) -> None:
        model, feeds = onnx.load(file), case.feeds(file)[0]
        for value in model.graph.input:
            sizes = feeds[value.name].shape if value.name in feeds else ()
            for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
                if dim.dim_param and size:
                    make_dim_param_fixed(model.graph, dim.dim_param, size)
        fix_output_shapes(model)
        fixed = {
            name: all(isinstance(size, int) for size in shape or ()) for name, shape in known_shapes(model).items()
        }
        assert all(fixed[value.name] for value in model.graph.output if not value.name.startswith("present"))
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, target)

    case.equal(case.through(fix), 1e-5)


# ---- the transformers optimizer and float16 --------------------------------------------------------------------------

KINDS = {"bert": "bert", "gpt": "gpt2", "vit": "vit"}


def optimized(file: Path, target: Path) -> None:
    """Apply the fusions of ``optimize_model``; its default, to run ONNX Runtime's own before, requires PyTorch."""
    kind = KINDS[file.name.partition("-")[0]]
    model = optimize_model(str(file), kind, num_heads=4, hidden_size=32, opt_level=0)
    model.save_model_to_file(str(target))


@over_opsets(("bert-backbone", "bert-sequence_classification", "vit-classifier"))
def test_the_optimizer(name: str, opset: int, cases: Any) -> None:
    """Fuse biases with GELU, and in opset 17 sums with layer norms; outputs stay right with padding on the left.

    Later, the optimizer has no shapes, for the reasons in ``test_static_quantization``, and leaves the sums.
    """
    case = cases(name, opset)
    made = case.through(optimized)
    found = operators(made[0])
    assert found["com.microsoft:BiasGelu"] == 2  # one per block
    if opset == 17:
        assert found["com.microsoft:SkipLayerNormalization"] >= 4  # two per block
    case.equal(made, 1e-5)


def test_the_optimizer_on_a_decoder(cases: Any) -> None:
    """Fuse the tanh form of GELU, and sums with layer norms, in a decoder with a cache and padding on the left."""
    case = cases("gpt-gpt2", 17)
    made = case.through(optimized)
    found = operators(made[0])
    assert found["com.microsoft:FastGelu"] == 2
    assert found["com.microsoft:SkipLayerNormalization"] == 5
    case.equal(made, 1e-5)


@pytest.mark.parametrize("opset", [21, 23])
def test_the_optimizer_on_the_tanh_form(opset: int, cases: Any) -> None:
    """Show that the tool loses the attribute `approximate` of ``Gelu``, an operator since opset 20.

    It writes BiasGelu, which computes the exact form. The forms differ by 5e-4 at most per element.
    """
    case = cases("gpt-gpt2", opset)
    made = case.through(optimized)
    assert operators(made[0])["com.microsoft:BiasGelu"] == 2
    found, expected = case.outputs(made)["logits"], case.expected["logits"]
    assert 1e-4 < np.abs(found - expected).max() < 1e-2


@over_opsets(FILES)
def test_float16(name: str, opset: int, cases: Any) -> None:
    """Convert to float16: half the weights' bytes, and the accuracy of 11 bits.

    Relative rounding errors of 2**-11 in each of about 50 operations in a row add in squares to 0.4 %, which costs
    1e-5 of the cosine similarity. Masks of -1e38 become the lowest float16.
    """
    case = cases(name, opset)
    made = case.through(lambda file, target: onnx.save(convert_float_to_float16(onnx.load(file)), target))
    for before, after in zip(case.files, made, strict=True):
        assert weight_bytes(after) < 0.6 * weight_bytes(before)
    assert case.cosine(made) > 1 - 1e-4


@each_convolution
def test_float16_of_convolutions(name: str, cases: Any) -> None:
    case = cases(name)
    made = case.through(
        lambda file, target: onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), target)
    )
    assert weight_bytes(made[0]) < 0.7 * weight_bytes(case.files[0])
    assert case.cosine(made) > 1 - 1e-4
