"""Export to a folder of ONNX files for Hugging Face's loaders: Optimum's ``ORTModelFor…`` and transformers.js.

    config.json, generation_config.json, tokenizer files, preprocessor_config.json
    onnx/model.onnx             fp32
    onnx/model_fp16.onnx        fp16                 dtype: "fp16" in transformers.js
    onnx/model_quantized.onnx   int8                 dtype: "q8", its default in browsers
    onnx/model_q4.onnx          int4                 dtype: "q4"

The file names are those of transformers.js (``utils/dtypes.js``). Optimum finds ``model.onnx`` in any subfolder, and
another file by the argument ``file_name``. The loaders also require the following:

- The first dimension is named ``batch_size``. transformers.js 4 creates the empty cache from the names of the
  dimensions, and uses 0 for a name that it does not know.
- Images are (batch, channels, height, width).
- The hidden states are the first output of a model of sentence embeddings, because the loaders pool them themselves.
- transformers.js reads the chat template from tokenizer_config.json only.
- Files with an input `position_ids` receive them. The files of this package do not have it and count positions by the
  attention mask, with the same result; Optimum prints a warning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from ...files import read_json, read_text, write_json
from ...needs import named_extras
from ...runtime.metadata import DIGEST, TOKENIZER_FILES
from ...runtime.runner import Runner
from ...text.tokenizer_files import CONFIG_FILE as TOKENIZER_CONFIG
from ...text.tokenizer_files import TEMPLATE_FILE
from ...zoo.base import ZooModel
from ...zoo.loading import CONFIG_FILE, GENERATION_FILE, IMAGES_FILE, WEIGHTS_FILE
from ...zoo.saving import huggingface_config, projection_tensors, write_beside_weights
from ...zoo.sentence_transformers import FILE as SENTENCES_FILE
from ...zoo.sentence_transformers import MODULES_FILE, OPTIONS_FILE
from ..digests import UNSEALED, seal
from ..frontend.huggingface_view import DIMENSIONS, HuggingFaceView
from ..frontend.spec import exportable
from ..onnx.exporter import export_onnx
from ..options import Precision
from ..request import ExportRequest, requests_for
from ..result import ExportResult
from .folders import check_folder, moved, written_folder

FOLDER = "onnx"
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized", "int4": "_q4"}
FILES = {name: f"{FOLDER}/model{suffix}.onnx" for name, suffix in SUFFIXES.items()}
KNOWN = (
    *(f"{file}{data}" for file in FILES.values() for data in ("", ".data")),
    *(CONFIG_FILE, GENERATION_FILE, IMAGES_FILE, *TOKENIZER_FILES),
    *(SENTENCES_FILE, OPTIONS_FILE, MODULES_FILE, "1_Pooling/config.json"),
    *(f"{place}_Dense/{name}" for place in range(2, 10) for name in (CONFIG_FILE, WEIGHTS_FILE)),
)


class _Options(TypedDict, total=False):
    """The options of ``to_huggingface_onnx`` other than the precision, for type checkers."""

    model_type: str | None
    data_format: str
    opset: int | None
    custom_metadata: Mapping[str, str] | None
    samples: Any
    metric: Callable[[Runner], float] | None
    least_cosine: float | None
    card: Mapping[str, str] | None


@overload
def to_huggingface_onnx(
    model: Any, folder: str | os.PathLike[str], *, precision: str | Precision = "fp32", **options: Unpack[_Options]
) -> ExportResult: ...
@overload
def to_huggingface_onnx(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    precision: list[str] | list[Precision] | list[str | Precision] | tuple[str | Precision, ...],
    **options: Unpack[_Options],
) -> list[ExportResult]: ...
@named_extras()
def to_huggingface_onnx(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    precision: str | Precision | Sequence[str | Precision] = "fp32",
    model_type: str | None = None,
    data_format: str = "channels_first",
    opset: int | None = None,
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
    card: Mapping[str, str] | None = None,
    custom_metadata: Mapping[str, str] | None = None,
) -> ExportResult | list[ExportResult]:
    """Write `model`, a GPT, BERT or ViT, as a folder that Optimum and transformers.js open, with a file per precision.

    The files ``onnx/model*.onnx`` are written and compared with Keras as by ``to_onnx``; ``export.load`` and
    ``export.verify`` accept them too. The folder also contains the files that ``az.to_huggingface`` writes, except the
    weights: config.json, the tokenizer files, preprocessor_config.json for a ViT that was loaded with one, and
    generation_config.json with the end tokens for a GPT. The folder appears only when the export has succeeded, and
    replaces an earlier export.

    Args:
        model: a GPT, BERT or ViT of attention_zoo.
        folder: path of the folder. It must not exist, be empty, or have been written by this function.
        precision: one precision as in ``to_onnx``, or several, such as ``("fp32", "int8")``. Default: "fp32".
        model_type: Hugging Face's name of the architecture, as in ``az.to_huggingface``.
        data_format: the layout of images in the files: "channels_first", which the loaders require, or "channels_last",
            as in Keras. Default: "channels_first".
        samples, metric, least_cosine: as in ``to_onnx``, for the precisions other than "fp32". Images in `samples` have
            the layout `data_format`.
        opset, card, custom_metadata: as in ``to_onnx``.

    Returns:
        The ``ExportResult`` of the file, or a list of results if `precision` is a sequence. The `files` of a result are
        those of its precision and the files that all precisions share.

    Raises:
        ValueError: the model has several graphs, preprocesses its images itself, or has a config that transformers
            cannot represent; the folder has other files; a precision occurs twice; or as in ``to_onnx``.
        ExportError: as in ``to_onnx``.
    """
    options: dict[str, Any] = {"model_type": model_type, "data_format": data_format, "opset": opset}
    options["custom_metadata"] = custom_metadata
    options |= {"samples": samples, "metric": metric, "least_cosine": least_cosine, "card": card}
    results = export_huggingface_onnx(model, requests_for(folder, precision, **options))
    return results[0] if isinstance(precision, str | Precision) else results


def export_huggingface_onnx(model: Any, requests: Sequence[ExportRequest]) -> list[ExportResult]:
    """Write `model` to a folder, with a file for each request; see ``to_huggingface_onnx``."""
    folder, model_type = requests[0].path, requests[0].model_type
    channels_first = requests[0].data_format == "channels_first"
    _check_model(model)
    check_folder(folder, KNOWN)
    plain = model.without_adapters()
    config = huggingface_config(model, plain, model_type)
    projections = projection_tensors(plain, config)
    config.pop("transformers.js_config", None)  # of an earlier export
    if model.generates and any(request.precision.name == "fp16" for request in requests):
        # transformers.js 3 reads the dtype of the cache here; version 4 reads it from the ONNX file.
        config["transformers.js_config"] = {"kv_cache_dtype": {"fp16": "float16"}}
    view: Any = HuggingFaceView(model, channels_first=channels_first)
    source = view if view.differs else model
    results = []
    with written_folder(folder, KNOWN) as new:
        write_beside_weights(model, config, new, projections)
        if model.generates:
            write_json(_generation_config(model), new / GENERATION_FILE)
        _repeat_template(new)
        beside = sorted(file for file in new.rglob("*") if file.is_file())
        (new / FOLDER).mkdir()
        for request in requests:
            file = new / FILES[request.precision.name]
            result = export_onnx(source, request.for_file("onnx", file, data_format=None))  # the view transposes images
            _rename_dimensions(result.path, DIMENSIONS)
            warnings = [*result.warnings, *_warnings(model, result.files)]
            result = replace(result, files=(*result.files, *beside), warnings=warnings)
            results.append(moved(result, new, folder, format="huggingface_onnx"))
    return results


def _check_model(model: Any) -> None:
    exportable(model)
    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a GPT, BERT or ViT of attention_zoo")
    if set(model.graphs("dynamic" if model.generates else "plain")) - {"decoder", "model"}:
        raise ValueError(
            f"model: got a {model.family}, of several graphs whose names and inputs are not theirs; accepted: a GPT, "
            "BERT or ViT"
        )
    if model.config.to_dict().get("preprocessing") is not None:
        raise ValueError(
            "model: got one that prepares its images itself, where their loaders do that; accepted: preprocessing=None"
        )
    if any(spec.name == "pooling_mask" for spec in model.signature.inputs):
        raise ValueError("pool_prompt: got False, for which their loaders have no input; accepted: True")


def _repeat_template(folder: Path) -> None:
    """Copy the chat template from its own file to tokenizer_config.json."""
    template, file = folder / TEMPLATE_FILE, folder / TOKENIZER_CONFIG
    if template.is_file():
        write_json({**read_json(file), "chat_template": read_text(template)}, file)


def _generation_config(model: Any) -> dict[str, Any]:
    """Return the content of generation_config.json, with all end tokens that ``model.generate_text`` stops at."""
    own = model.config.to_dict()
    ids = {name: own.get(name) for name in ("bos_token_id", "pad_token_id")}
    ends = model.stop_tokens
    ids["eos_token_id"] = (ends[0] if len(ends) == 1 else ends) if ends else None
    return {**model.generation_config, **{name: value for name, value in ids.items() if value is not None}}


def _warnings(model: Any, files: Sequence[Path]) -> list[str]:
    """Return warnings about what the loaders do not find or read in another way."""
    own, found = model.config.to_dict(), []
    images = any("height" in spec.dims for spec in model.signature.inputs)
    if images and not model.preprocessor:
        found.append("without a preprocessor_config.json, as model.preprocessor is empty: images must be prepared")
    if not images and model.tokenizer is None:
        found.append("without a tokenizer: the files take ids, and no texts")
    if model.generates and own["head_dim"] * own["num_heads"] != own["hidden_dim"]:
        found.append(
            "Optimum 0.1 takes hidden_size / num_attention_heads for the width of a head, which is another in this "
            "model: its ORTModelForCausalLM makes a cache that does not fit. transformers.js and we read it of the file"
        )
    found += [
        f"transformers.js looks for weights beside a file under another name than {file.name}"
        for file in files
        if file.suffix == ".data"
    ]
    return found


def _rename_dimensions(file: Path, names: Mapping[str, str]) -> None:
    """Rename the dynamic dimensions of a file's inputs and outputs by `names`, and seal the file again."""
    import onnx_ir as ir

    model = ir.load(file)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([names.get(str(getattr(dim, "value", dim)), dim) for dim in value.shape])
    model.metadata_props[DIGEST] = UNSEALED
    ir.save(model, file)  # external data stays where it is
    data = file.with_name(f"{file.name}.data")
    seal(file, data if data.is_file() else None)
