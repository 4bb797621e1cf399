"""Presets, names and imports: parameter counts, listings, registration, and the dependencies between packages."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from attention_zoo.weights.fill import without_values
from attention_zoo.zoo.presets import FAMILIES
from attention_zoo.zoo.registry import families, preset
from helpers import FURTHER, ROOT, VARIANTS, WITHOUT_TENSORFLOW, close, inputs_for, python, run, shared

PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "smollm2-135m": 134_515_008,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "minilm-l6": 22_713_216,
    "vit-tiny-16": 5_717_416,
    "vit-small-16": 22_050_664,
    "vit-base-16": 86_567_656,
    "vit-large-16": 304_326_632,
    "dinov2-small-14": 22_056_576,
    "dinov3-small-16": 21_596_544,
    "clip-vit-base-32": 151_277_313,
    "siglip-base-16": 203_155_970,
    "transformer-base": 63_082_496,
    "transformer-big": 214_245_376,
}


# The task, named as on https://huggingface.co/docs/hub/models-tasks, of classes whose names have these endings.
TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ElectraForPreTraining": "token-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForNextSentencePrediction": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "text2text-generation",
    "WithLMHead": "fill-mask",
}


def test_heads_are_for_the_tasks_of_the_classes_they_are_called_in_hugging_face() -> None:
    for family in families().values():
        for dialect in (dialect for name, dialect in family.dialects.items() if name != "gguf"):
            for head, name in dialect.heads.items():
                meant = [task for end, task in TASKS.items() if name.endswith(end)]
                if head == "sentence_embedding":  # sentence-transformers wraps this class
                    meant = ["sentence-similarity"]
                if head == "contrastive":
                    meant = ["zero-shot-image-classification"]
                if head == "projection":
                    meant = ["feature-extraction"]
                if name == "WhisperForConditionalGeneration":
                    meant = ["automatic-speech-recognition"]
                found = family.tasks[head] if head in family.tasks else family.tasks[None]
                assert found in meant or (not meant and name.endswith("Model") and "feature" in found), (name, found)


def test_every_preset_is_counted_here() -> None:
    assert set(az.list_models()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_presets(name: str) -> None:
    """The counts of the published checkpoints, of the preset's metadata and of the model as built are equal."""
    with without_values() as seen:  # weights need no values to be counted
        model = seen(az.create(name))
        assert model.count_params() == PARAMETERS[name]
        assert sum(int(np.prod(weight.shape)) for weight in model.weights) == PARAMETERS[name]
    assert preset(name).parameters == PARAMETERS[name]


def test_presets_say_where_they_are_from() -> None:
    for name in az.list_models():
        assert preset(name).source and preset(name).licence
        assert preset(name).family in families()


def test_list_models_by_pattern() -> None:
    assert set(az.list_models("vit*")) == {"vit-tiny-16", "vit-small-16", "vit-base-16", "vit-large-16"}
    assert az.list_models("*small*") == ["vit-small-16", "dinov2-small-14", "dinov3-small-16"]
    assert az.list_models("gpt2") == ["gpt2"]
    assert set(az.list_models("gpt2*")) == {"gpt2", "gpt2-medium"}
    assert az.list_models("nothing*") == []


def test_create_takes_overrides_and_a_dtype() -> None:
    model = az.create("smollm2-135m", num_layers=1, hidden_dim=36, head_dim=4, vocab_size=50, dtype="mixed_bfloat16")
    assert isinstance(model, az.GPT)
    expected = dataclasses.replace(
        az.GPTConfig(**preset("smollm2-135m").config), num_layers=1, hidden_dim=36, head_dim=4, vocab_size=50
    )
    assert model.config == expected
    assert model.config.num_kv_heads == 3 and model.config.rope_theta == 100_000
    assert model.dtype_policy.name == "mixed_bfloat16"
    assert isinstance(az.create("bert", num_layers=1, hidden_dim=24, vocab_size=9), az.BERT)


def test_a_config_is_a_config_or_a_dict() -> None:
    fields = families()["gpt"].tiny()["gpt2"]
    assert az.GPT(fields).config == az.GPT(az.GPTConfig(**fields)).config == az.GPT(**fields).config
    for given, message in (
        ("gpt2", r"config: got str; accepted: GPTConfig or a dict"),
        (az.BERTConfig(), "BERTConfig"),
    ):
        with pytest.raises(ValueError, match=message):
            az.GPT(given)
    with pytest.raises(ValueError, match="one or the other"):
        az.GPT(fields, num_layers=1)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"name: got 'gpt3'; did you mean .*'gpt2'.*accepted: .*bert-base"):
        az.create("gpt3")
    unknown: Any = {"layers_count": 3}
    with pytest.raises(ValueError, match=r"layers_count.*accepted: .*num_layers"):
        az.create("gpt2", **unknown)
    with pytest.raises(ValueError, match=r"unknown fields \['image_size'\]; .*accepted: .*vocab_size"):
        az.BERT(image_size=3)
    with pytest.raises(ValueError, match=r"head: got 'causal'.*accepted: \['causal_lm', .*, None\]"):
        az.create("gpt2", head="causal")
    with pytest.raises(ValueError, match="config: got a config and fields"):
        az.GPT(az.GPTConfig(num_layers=1), num_layers=2)


SIZES = {
    "gpt": ("vocab_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_dim", "intermediate_dim"),
    "bert": ("vocab_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim", "max_length", "num_classes"),
    "vit": ("image_size", "patch_size", "num_channels", "num_layers", "num_heads", "hidden_dim", "num_classes"),
}
DEFAULTED = ("num_kv_heads", "head_dim", "intermediate_dim")


IMPOSSIBLE = [
    (family, name, value)
    for family, names in SIZES.items()
    for name in names
    for value in (0, -2, 2.5, "8", True, None)
    if value is not None or name not in DEFAULTED  # for these, None selects the default
    if (family, name, value) != ("vit", "num_classes", 0)  # a head without classes returns its input
]


@pytest.mark.parametrize(("family", "name", "value"), IMPOSSIBLE)
def test_sizes_that_cannot_be(family: str, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got {value!r}; accepted"):
        families()[family].config_class.from_dict({name: value})


@pytest.mark.parametrize(
    ("family", "values", "name"),
    [
        ("gpt", {"num_heads": 5}, "num_heads"),
        ("gpt", {"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads"),
        ("gpt", {"position": "absolute"}, "position"),
        ("gpt", {"norm": "batch_norm"}, "norm"),
        ("gpt", {"activation": "gleu"}, "activation"),
        ("gpt", {"dropout": 1.0}, "dropout"),
        ("gpt", {"position": "rotary", "head_dim": 5}, "head_dim"),
        ("gpt", {"position": "sinusoidal", "num_heads": 1, "hidden_dim": 33}, "hidden_dim"),
        ("bert", {"attention_dropout": -0.1}, "attention_dropout"),
        ("bert", {"activation": "gleu"}, "activation"),
        ("bert", {"head": "causal_lm"}, "head"),
        ("vit", {"image_size": 225}, "patch_size"),
        ("vit", {"num_registers": -1}, "num_registers"),
        ("vit", {"activation": None}, "activation"),
    ],
)
def test_choices_that_cannot_be(family: str, values: dict[str, Any], name: str) -> None:
    small = {"num_layers": 1} if family == "vit" else {"num_layers": 1, "vocab_size": 8}
    with pytest.raises(ValueError, match=rf"{name}: got .*accepted"):
        families()[family](**{**small, **values})


def test_listing_imports_neither_keras_nor_tensorflow() -> None:
    python(
        "import attention_zoo, sys\n"
        "assert len(attention_zoo.list_models('vit*')) == 4\n"
        "assert 'load' in dir(attention_zoo)\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules), 'imported'\n"
    )


@pytest.mark.parametrize(
    "first",
    [
        "az.create('bert-base', num_layers=1, vocab_size=9)",  # test_reload_in_a_new_process does this too
        *(f"import attention_zoo.zoo.{name}" for name in FAMILIES),
    ],
)
@pytest.mark.slow
def test_whatever_is_imported_first(first: str) -> None:
    """Run in a new process, in which nothing else has imported Keras."""
    python(f"import attention_zoo as az\n{first}\nassert az.BERT and az.GPT")


ROOMS = (
    *("layers", "weights", "generation", "finetuning", "text", "runtime", "bench", "zoo"),
    *("training", "export", "plot", "demo", "runs"),
)
# For every package, and every module at the root: the packages and modules that it may import.
GROUND = {"checks": set[str](), "signature": {"checks"}, "files": set[str](), "needs": set[str]()}
MAY_IMPORT = {
    **GROUND,
    "terminal": set(),
    "layers": {"checks", "files", "layers"},
    "weights": {*GROUND, "weights"},
    "generation": {*GROUND, "layers", "generation"},
    "finetuning": {*GROUND, "weights", "finetuning"},
    "text": {*GROUND, "weights", "text"},
}
MAY_IMPORT["zoo"] = {*MAY_IMPORT, "zoo"}
MAY_IMPORT["training"] = {*MAY_IMPORT["zoo"], "training"}
MAY_IMPORT["runtime"] = {*GROUND, "generation", "text", "runtime"}
MAY_IMPORT["bench"] = {*GROUND, "generation", "runtime", "bench"}
MAY_IMPORT["export"] = {*MAY_IMPORT["zoo"], *MAY_IMPORT["bench"], "export"}
MAY_IMPORT["sources"] = MAY_IMPORT["export"]
MAY_IMPORT["plot"] = {*MAY_IMPORT["export"], "plot"}
MAY_IMPORT["demo"] = {*MAY_IMPORT["export"], "plot", "demo"}
MAY_IMPORT["runs"] = {*MAY_IMPORT["export"], "sources", "training", "runs"}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of attention_zoo: its package ("layers", …, or "" for the root) and its file."""
    for file in sorted(ROOT.glob("*.py")):
        yield "", file
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            yield room, file


def imported(file: Path) -> Iterator[str]:
    """Yield the absolute names of all modules that `file` imports, at any level of nesting."""
    package = ["attention_zoo", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            # `from . import layers` and `from ..layers import x` both name the package.
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield "attention_zoo" + name.value if name.value.startswith(".") else name.value


def test_dependencies_run_one_way() -> None:
    """The dependencies are those of docs/architecture.md; the command line and the root ``__init__`` may import all."""
    seen = set()
    for folder, file in modules():
        room = folder or file.stem
        if room not in MAY_IMPORT:
            assert room in ("cli", "__init__", "_keras_hook"), room
            continue
        for name in imported(file):
            parts = name.split(".")
            if parts[0] != "attention_zoo":
                continue
            # Importing the root package itself would give access to every package.
            assert len(parts) > 1 and parts[1] in MAY_IMPORT[room], f"{file.relative_to(ROOT)} imports {name}"
            seen.add((room, parts[1]))
    assert {("layers", "layers"), ("zoo", "layers")} <= seen, "the walk over the imports finds nothing"


# The modules and packages inside export/, in order: each may import itself and those before it.
EXPORT_FLOORS = (
    *(
        "errors",
        "onnx_versions",
        "frontend",
        "digests",
        "initializers",
        "folding",
        "options",
        "targets",
        "request",
        "precision",
        "result",
    ),
    *("verification", "onnx", "tflite", "bundles"),
)


def test_dependencies_inside_export_run_one_way() -> None:
    seen = set()
    for file in sorted((ROOT / "export").rglob("*.py")):
        place = file.relative_to(ROOT / "export").with_suffix("").parts[0]
        if place in ("__init__", "command", "runtime"):  # the public interface and the command line's functions
            continue
        floor = EXPORT_FLOORS.index(place)
        for name in imported(file):
            parts = name.split(".")
            if parts[:2] == ["attention_zoo", "export"]:
                assert parts[2] in EXPORT_FLOORS[: floor + 1], f"{file.relative_to(ROOT)} imports {name}"
                seen.add((place, parts[2]))
    assert {("verification", "frontend"), ("bundles", "onnx")} <= seen, "the walk over the imports finds nothing"


def test_no_two_modules_import_each_other() -> None:
    """Imports for type checkers count too: such circles would need a third module to be read first."""
    files = {name_of(file): file for _, file in modules()}
    edges = {
        name: {found for each in imported(file) for found in (each, each.rpartition(".")[0]) if found in files} - {name}
        for name, file in files.items()
        if file.name != "__init__.py"
    }
    assert sum(map(len, edges.values())) > 500, "the walk over the imports finds nothing"
    while free := {name for name, needed in edges.items() if not needed & edges.keys()}:
        edges = {name: needed for name, needed in edges.items() if name not in free}
    assert not edges, f"modules in or above a circle of imports: {sorted(edges)}"


def name_of(file: Path) -> str:
    return ".".join(["attention_zoo", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def test_files_run_without_keras_and_tensorflow() -> None:
    for room, file in modules():
        if room in ("runtime", "bench"):
            heavy = {name.partition(".")[0] for name in imported(file)} & {"keras", "tensorflow", "tf2onnx"}
            assert not heavy, f"{file.relative_to(ROOT)} imports {heavy}"


def test_own_modules_are_imported_relatively() -> None:
    """An absolute import would find the `zoo` of another distribution, or a second copy of this package's."""
    own = {"attention_zoo", "cli", *MAY_IMPORT}
    for _, file in modules():
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] not in own, f"{file.relative_to(ROOT)} imports {name}"


def test_warnings_name_the_line_of_the_user() -> None:
    """``checks.warn`` finds that line; a count of calls (`stacklevel`) is wrong as soon as a function is moved."""
    for _, file in modules():
        assert "warnings.warn(" not in file.read_text() or file == ROOT / "checks.py", file


def test_layers_and_zoo_need_keras_and_numpy_only() -> None:
    """Only the listed files import other packages: Keras' backends, and readers of file formats."""
    own = {"gguf_file.py": {"gguf"}, "onnx_file.py": {"onnx"}, "gguf_writing.py": {"gguf"}}
    own["hub.py"] = {"huggingface_hub"}
    own |= {"keras_hub.py": {"keras_hub"}, "keras_files.py": {"keras_hub"}}  # the latter only for KerasHub files
    own |= {
        name: {"tensorflow", "jax", "torch"}
        for name in ("keras_decoder.py", "checkpointing.py", "served.py", "dropout.py")
    }
    own |= {"placement.py": {"jax"}, "functional.py": {"jax"}}
    own |= {"tables.py": {"pyarrow"}, "batches.py": {"tensorflow"}}  # optional parts of ``training/data/``
    allowed = {"attention_zoo", "jinja2", "keras", "ml_dtypes", "numpy", "safetensors", "tokenizers"}
    allowed |= set(sys.stdlib_module_names)
    for room, file in modules():
        if room in ("layers", "weights", "generation", "finetuning", "text", "zoo", "training"):
            for name in imported(file):
                known = allowed | own.get(file.name, set())
                assert name.partition(".")[0] in known, f"{file.relative_to(ROOT)} imports {name}"


def test_modules_have_one_identity() -> None:
    """Every file is imported under one name, also in this process, which runs in the checkout.

    The root's ``__init__`` is an exception: a test runner imports it under the folder's name, and it then does nothing.
    """
    names: dict[Path, set[str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or not isinstance(file, str):
            continue
        path = Path(file).resolve()
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS:
            names.setdefault(path, set()).add(name)
    assert ROOT / "layers" / "attention.py" in names
    for path, given in names.items():
        parts = path.relative_to(ROOT).with_suffix("").parts
        expected = ".".join(["attention_zoo", *(part for part in parts if part != "__init__")])
        assert given == {expected}


def test_root_under_another_name_does_nothing() -> None:
    before = list(sys.meta_path), set(sys.modules)
    spec = importlib.util.spec_from_file_location("checkout_of_another_name", ROOT / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__package__ = "attention_zoo"
    spec.loader.exec_module(module)
    assert list(sys.meta_path) == before[0]
    assert set(sys.modules) == before[1]


BACKEND_CHILD = (
    WITHOUT_TENSORFLOW
    + """
from pathlib import Path
import attention_zoo as az
import keras
import numpy as np

assert keras.backend.backend() == backend
if backend == "numpy":
    def conv(inputs, kernel, strides, padding, data_format):
        p, _, channels, width = kernel.shape
        b, h, w, _ = inputs.shape
        x = inputs.reshape(b, h // p, p, w // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h // p, w // p, -1) @ kernel.reshape(-1, width)
    keras.ops.conv = conv

folder = Path(sys.argv[1])
found = {}
for model_folder in sorted(f for f in folder.iterdir() if f.is_dir()):
    stored = np.load(model_folder / "arrays.npz")
    model = az.load(model_folder)
    result = model({k[3:]: v for k, v in stored.items() if k.startswith("in.")})
    if not isinstance(result, dict):
        result = {model.signature.outputs[0].name: result}
    for name, value in result.items():
        value = keras.ops.convert_to_numpy(value)
        assert np.isfinite(value).all()
        found[model_folder.name + "." + name] = float(np.abs(value - stored["out." + name]).max())
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules), "TensorFlow was imported"
print(json.dumps(found))
"""
)


@pytest.mark.runs_with("all variants")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_without_tensorflow(backend: str, every: bool, tmp_path: Path, rng: Any) -> None:
    """On another Keras backend, without TensorFlow, outputs equal those of TensorFlow within 1e-4.

    The fast test covers two variants of each family, the slow one all variants.
    """
    if backend != "numpy":
        pytest.importorskip(backend)
    results = 0
    for family, variant in (pair for pair in VARIANTS if every or pair not in FURTHER):
        model = shared(family, variant)
        inputs = inputs_for(model, rng)
        if "input_ids" in inputs:
            inputs["attention_mask"] = np.array([[1] * 9, [0, 0, 1, 1, 0, 1, 1, 1, 0]], "int32")
        outputs = run(model, inputs)
        results += len(outputs)
        folder = az.save(model, tmp_path / f"{family}-{variant}")
        arrays = {**{f"in.{k}": v for k, v in inputs.items()}, **{f"out.{k}": v for k, v in outputs.items()}}
        np.savez(folder / "arrays.npz", **arrays)
    differences = json.loads(python(BACKEND_CHILD, tmp_path, KERAS_BACKEND=backend).splitlines()[-1])
    assert len(differences) == results
    for name, difference in differences.items():
        close(difference, 0.0, atol=1e-4, what=name)


ENTRIES = (
    "az.create('gpt', num_layers=1, num_heads=2, hidden_dim=8, vocab_size=11)",
    "az.GPT, az.load, az.layers.MultiHeadAttention",
    "from attention_zoo.layers import functional",
    "from attention_zoo.zoo.vit import ViT",
    "import keras",
)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_classes_are_registered_however_keras_comes_in(entry: str) -> None:
    """Every class is registered with Keras once, even if a module of this package triggers the import of Keras."""
    code = f"import attention_zoo as az\n{entry}\nimport keras\n"
    for name in ("GPT", "BERT", "ViT", "MultiHeadAttention", "PatchEmbedding"):
        code += f"assert keras.saving.get_registered_object('attention_zoo>{name}')\n"
    code += "assert keras.saving.get_registered_object('attention_zoo>GPT') is az.GPT\n"
    python(WITHOUT_TENSORFLOW + code, KERAS_BACKEND="numpy")


CHECKOUT_CHILD = (
    WITHOUT_TENSORFLOW
    + """
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))  # as a script in the checkout has it: `layers` and `zoo` could be found twice
spec = importlib.util.spec_from_file_location(
    "attention_zoo", folder / "__init__.py", submodule_search_locations=[str(folder)]
)
sys.modules["attention_zoo"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.create("gpt", num_layers=1, num_heads=2, hidden_dim=8, vocab_size=11)
import keras
assert keras.saving.get_registered_object("attention_zoo>GPT") is type(model)
names = {}
for name, loaded in list(sys.modules.items()):
    file = getattr(loaded, "__file__", None)
    if isinstance(file, str) and Path(file).is_relative_to(folder):
        names.setdefault(file, []).append(name)
print(json.dumps(names))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layers"])
def test_checkout_may_have_any_name(name: str, tmp_path: Path) -> None:
    """In a checkout whose folder is named like one of its packages, every module still has one name."""
    checkout = tmp_path / name
    for _, file in modules():
        target = checkout / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    names = json.loads(python(CHECKOUT_CHILD, checkout, KERAS_BACKEND="numpy").splitlines()[-1])
    assert str(checkout / "zoo" / "gpt" / "model.py") in names
    for file, given in names.items():
        parts = Path(file).relative_to(checkout).with_suffix("").parts
        assert given == [".".join(["attention_zoo", *(part for part in parts if part != "__init__")])]
