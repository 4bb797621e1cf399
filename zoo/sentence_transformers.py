"""The files of sentence-transformers: modules.json, the folders of its modules, and the configs of prompts and lengths.

The layout is that of all versions up to 6: the first module, a ``Transformer``, is in the folder itself or in a folder
of its own such as "0_Transformer"; a pooling is specified by one flag for each mode, or since version 5.4 by the name
of the mode. A cross-encoder is a ``Transformer`` alone, whose scores are a function of its logits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from ..files import read_json, write_json
from ..weights.rules import Rule, layer_norm, linear
from ..weights.tensors import SafetensorsFiles, Shape, Tensors, save_tensors
from ..weights.transforms import TRANSPOSED
from .sentences import HEAD

FILE, MODULES_FILE, OPTIONS_FILE = "sentence_bert_config.json", "modules.json", "config_sentence_transformers.json"
# What sentence-transformers 5.4 and later must find in FILE to take the logits of a cross-encoder for its scores.
SCORING = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}
# Names of ``FILE`` in versions before 2021, which depended on the architecture.
EARLIER_FILES = tuple(
    f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODES = {  # in the order in which flags are concatenated
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_length",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
FLAGS = {  # names of the flags before version 5.4
    mode: f"pooling_mode_{mode}" + {"cls": "_token", "lasttoken": "", "mean_sqrt_len_tokens": ""}.get(mode, "_tokens")
    for mode in MODES
}
FUNCTIONS = {
    "linear": "torch.nn.modules.linear.Identity",
    **{name.lower(): f"torch.nn.modules.activation.{name}" for name in ("Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")},
}  # by the names of this package
CLASS = "sentence_transformers.models."
NORM = {"norm": "layer_norm"}  # LayerNorm among the `projections`
PROJECTION_RULES = (
    *linear("projection.{i}.linear", "projection/dense_{i}", outside=True),
    *layer_norm("projection.{i}.norm", "projection/norm_{i}", outside=True),
    Rule("projection.{i}.residual.weight", "projection/residual_{i}/kernel", TRANSPOSED, outside=True),
)
PROJECTION = re.compile(r"projection\.(\d+)\.")


@dataclass(frozen=True)
class SentenceFiles:
    """What the files of sentence-transformers specify.

    Attributes:
        fields: config fields of the model, the head among them for a sentence encoder.
        dense: the folders of the dense layers and layer normalizations.
        sentences: the content of sentence_bert_config.json.
        options: the content of config_sentence_transformers.json.
        tokenizer: options of the tokenizer; see ``Tokenizer.load``.
        lowercase: whether texts are converted to lower case before the tokenizer.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    dense: tuple[Path, ...] = ()
    sentences: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    lowercase: bool = False


def transformer_folder(folder: Path) -> Path:
    """Return the folder of config.json and the weights: `folder`, or the one that its modules.json names first.

    Raises:
        ValueError: modules.json is malformed or names a path outside of `folder`.
    """
    if (folder / CONFIG).is_file() or not (folder / MODULES_FILE).is_file():
        return folder
    return folder / _modules(folder)[0][1]


def read_sentence_files(folder: Path) -> SentenceFiles:
    """Return what the files in `folder` specify; nothing, if it is not a folder of sentence-transformers.

    Raises:
        ValueError: a file is malformed, or specifies a module, a pooling or another option that is not supported.
    """
    if not (folder / MODULES_FILE).is_file():
        raw = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        return SentenceFiles(fields=_scores(_earlier_function(raw), folder / CONFIG))
    modules = _modules(folder)
    kinds, where = [kind for kind, _ in modules], folder / MODULES_FILE
    options = read_json(folder / OPTIONS_FILE) if (folder / OPTIONS_FILE).is_file() else {}
    sentences = _read_sentence_config(folder / modules[0][1])
    task = sentences.get("transformer_task", "feature-extraction")
    tokenizer = _prompts(options, folder / OPTIONS_FILE)
    if (longest := sentences.get("max_seq_length")) is not None:
        tokenizer["model_max_length"] = longest
    lowercase = bool(sentences.get("do_lower_case"))
    if kinds == ["Transformer"] and (options.get("model_type") == "CrossEncoder" or task == "sequence-classification"):
        raw = read_json(folder / modules[0][1] / CONFIG)
        function = options.get("activation_fn") or _earlier_function(raw)
        labels = len(raw.get("id2label") or ()) or raw.get("num_labels", 2)
        fields = _scores(function or (FUNCTIONS["sigmoid"] if labels == 1 else None), folder / OPTIONS_FILE)
        return SentenceFiles(fields, (), sentences, options, tokenizer, lowercase)
    known = re.fullmatch(r"Transformer Pooling( Dropout| Dense| LayerNorm)*( Normalize)?", " ".join(kinds))
    if not known or task != "feature-extraction":
        got = kinds if task == "feature-extraction" else f"{kinds} for {task!r}"
        accepted = "Transformer and Pooling, then any Dense, LayerNorm and Normalize; or a CrossEncoder of Transformer"
        raise ValueError(f"path: {where}: got {got}; accepted: {accepted}")
    fields: dict[str, Any] = {"head": HEAD, **_read_pooling(folder / modules[1][1])}
    if not fields["pool_prompt"]:
        tokenizer["include_prompt"] = False
    after = [(kind, folder / path) for kind, path in modules if kind in ("Dense", "LayerNorm")]
    dense = tuple(path for _, path in after)
    fields["projections"] = tuple(_read_dense(path) if kind == "Dense" else NORM for kind, path in after)
    fields["normalize"] = kinds[-1] == "Normalize"
    if fields["normalize"]:
        _check_place(folder / modules[-1][1])
    fields["truncate_dim"] = options.get("truncate_dim")
    if fields["truncate_dim"] is not None and not _is_size(fields["truncate_dim"]):
        got, accepted = fields["truncate_dim"], "accepted: a positive integer or null"
        raise ValueError(f"path: {folder / OPTIONS_FILE}: truncate_dim: got {got!r}; {accepted}")
    return SentenceFiles(fields, dense, sentences, options, tokenizer, lowercase)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return the class name and the path of each module in modules.json."""
    where = folder / MODULES_FILE
    try:
        modules = read_json(where, list)
        found = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (KeyError, TypeError) as error:
        accepted = "accepted: a list of objects with type and path"
        raise ValueError(f"path: {where}: got {error!r}; {accepted}") from error
    paths = [path for _, path in found]
    if not found or not all(re.fullmatch(r"[\w-]+", path) for path in (*paths[1:], paths[0] or "_")):
        raise ValueError(f"path: {where}: got paths {paths}; accepted: names of folders in it")
    return found


def _read_sentence_config(folder: Path) -> dict[str, Any]:
    """Return the content of sentence_bert_config.json, or of the first file with an earlier name, or {}."""
    file = next((folder / name for name in (FILE, *EARLIER_FILES) if (folder / name).is_file()), None)
    options = {} if file is None else read_json(file)
    longest = options.get("max_seq_length")
    if longest is not None and not _is_size(longest):
        raise ValueError(f"path: {file}: max_seq_length: got {longest!r}; accepted: a positive integer or null")
    return options


def _is_size(value: Any) -> bool:
    return checks.is_integer(value) and 0 < value < checks.INT32


def _read_pooling(folder: Path) -> dict[str, Any]:
    options = read_json(folder / CONFIG)
    modes = options.get("pooling_mode")
    if modes is None:
        modes = [mode for mode, flag in FLAGS.items() if options.get(flag)] or "mean"
    named = [modes] if isinstance(modes, str) else modes
    if not isinstance(named, list) or not named or any(mode not in MODES for mode in named):
        raise ValueError(f"path: {folder / CONFIG}: pooling_mode: got {modes!r}; accepted: {list(MODES)}")
    include = options.get("include_prompt", True)
    if not isinstance(include, bool):
        raise ValueError(f"path: {folder / CONFIG}: include_prompt: got {include!r}; accepted: true or false")
    return {"pooling": tuple(MODES[mode] for mode in named), "pool_prompt": include}


def _read_dense(folder: Path) -> dict[str, Any]:
    """Return the dict of `projections` for the Dense module in `folder`."""
    options = _check_place(folder)
    function = options.get("activation_function", FUNCTIONS["tanh"])
    activation = next((name for name, theirs in FUNCTIONS.items() if theirs == function), None)
    if activation is None:
        accepted = f"accepted: {list(FUNCTIONS.values())}"
        raise ValueError(f"path: {folder / CONFIG}: activation_function: got {function!r}; {accepted}")
    units = options.get("out_features")
    if not _is_size(units):
        raise ValueError(f"path: {folder / CONFIG}: out_features: got {units!r}; accepted: a positive integer")
    flags = {"use_bias": options.get("bias", True), "residual": options.get("use_residual", False)}
    if not all(isinstance(value, bool) for value in flags.values()):
        got = {name: options.get(name) for name in ("bias", "use_residual")}
        raise ValueError(f"path: {folder / CONFIG}: got {got}; accepted: true or false")
    return {"units": units, "activation": activation, **flags}


def _check_place(folder: Path) -> dict[str, Any]:
    """Return the config of a module after the pooling, which must read and write the sentence embedding."""
    options = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    for name in ("module_input_name", "module_output_name"):
        if options.get(name) not in (None, HEAD):
            raise ValueError(f"path: {folder / CONFIG}: {name}: got {options[name]!r}; accepted: {HEAD!r}")
    return options


def _prompts(options: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return the prompts and the default one as options of a tokenizer."""
    prompts, default = options.get("prompts") or {}, options.get("default_prompt_name")
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ValueError(f"path: {where}: prompts: got {prompts!r}; accepted: an object of texts")
    given = {name: text for name, text in prompts.items() if text is not None}
    if default is not None and default not in given:
        raise ValueError(f"path: {where}: default_prompt_name: got {default!r}; accepted: {list(given)}, or null")
    return {"prompts": given, "default_prompt_name": default} if any(given.values()) else {}


def _earlier_function(raw: Mapping[str, Any]) -> Any:
    """Return the function of a cross-encoder's logits in the config.json of versions before 5, or None."""
    nested = raw.get("sentence_transformers")
    named = nested.get("activation_fn") if isinstance(nested, Mapping) else None
    return named or raw.get("sbert_ce_default_activation_function")


def _scores(function: Any, where: Path) -> dict[str, Any]:
    """Return the config field for the function of a cross-encoder's logits, given by its class in torch."""
    if function is None:
        return {}
    name = next((name for name, theirs in FUNCTIONS.items() if theirs == function), None)
    if name is None:
        raise ValueError(f"path: {where}: activation_fn: got {function!r}; accepted: {list(FUNCTIONS.values())}")
    return {"score_activation": name}


class SentenceTensors:
    """The tensors of a Transformer without its own head, and those of the dense layers after the pooling.

    The names of the latter begin with "projection.0.", "projection.1.", ….

    Args:
        body: the tensors of the Transformer.
        prefix: prefix of the names in `body` if it has a head.
        dense: the folders of the dense layers and layer normalizations.

    Raises:
        ValueError: a folder has no model.safetensors, or a damaged one.
    """

    def __init__(self, body: Tensors, prefix: str, dense: tuple[Path, ...]) -> None:
        self.where = body.where
        inside = [name for name in body.shapes if prefix and name.startswith(prefix)]
        self.homes: dict[str, tuple[Tensors, str]] = {name: (body, name) for name in inside or body.shapes}
        for i, folder in enumerate(dense):
            if not (folder / WEIGHTS).is_file():
                raise ValueError(f"path: got {folder} without {WEIGHTS}; accepted: one; pickles are never opened")
            own = SafetensorsFiles(folder)
            self.homes |= {f"projection.{i}.{name}": (own, name) for name in own.shapes}

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: home.shapes[theirs] for name, (home, theirs) in self.homes.items()}

    def read(self, name: str) -> np.ndarray:
        home, theirs = self.homes[name]
        return home.read(theirs)


def write_sentence_modules(model: Any, folder: Path, projections: Mapping[str, np.ndarray]) -> None:
    """Write the files of sentence-transformers for a sentence encoder or a cross-encoder, and nothing for other models.

    Files of another model in `folder`, which would change how this one is read, are removed.

    The maximum length is that of the model's tokenizer, or else that of the folder the model was loaded from, but at
    most the model's `max_length`. The prompts are those of the tokenizer.

    Args:
        model: the model.
        folder: the folder to write to.
        projections: the tensors of the dense layers after the pooling, with names as in ``SentenceTensors``.
    """
    fields = model.config.to_dict()
    encoder, scores = fields.get("head") == HEAD, fields.get("score_activation")
    for name in (MODULES_FILE, OPTIONS_FILE):
        (folder / name).unlink(missing_ok=True)
    if not encoder and (fields.get("head") != "sequence_classification" or not (scores or model.sentence_options)):
        return
    config, tokenizer = model.config, model.tokenizer
    longest = None if tokenizer is None else tokenizer.model_max_length
    longest = min(longest or model.sentences.get("max_seq_length") or config.max_length, config.max_length)
    kinds = {"": "Transformer"}
    if encoder:
        kinds["1_Pooling"] = "Pooling"
        _write_pooling(config, folder / "1_Pooling" / CONFIG)
        for i, one in enumerate(config.projections):
            kind = "LayerNorm" if one == NORM else "Dense"
            kinds[path := f"{len(kinds)}_{kind}"] = kind
            _write_dense(one, {name: value for name, value in projections.items() if _index(name) == i}, folder / path)
        if config.normalize:
            kinds[f"{len(kinds)}_Normalize"] = "Normalize"
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": CLASS + kind} for i, (path, kind) in enumerate(kinds.items())
    ]
    read = dict(model.sentences)
    if not encoder:
        read |= SCORING
    elif read.get("transformer_task") == SCORING["transformer_task"]:
        read = {name: value for name, value in read.items() if name not in SCORING}
    write_json({"do_lower_case": False, **read, "max_seq_length": longest}, folder / FILE)
    write_json(modules, folder / MODULES_FILE)
    options = dict(model.sentence_options)
    if tokenizer is not None and (tokenizer.prompts or options):
        options |= {"prompts": tokenizer.prompts, "default_prompt_name": tokenizer.default_prompt_name}
    if encoder and config.truncate_dim is not None:
        options["truncate_dim"] = config.truncate_dim
    elif encoder:
        options.pop("truncate_dim", None)
    else:
        options |= {"model_type": "CrossEncoder", "activation_fn": FUNCTIONS[scores or "linear"]}
    if options:
        write_json(options, folder / OPTIONS_FILE)


def _index(name: str) -> int | None:
    """Return the number of the dense layer that a tensor belongs to, or None for a tensor of the Transformer."""
    found = PROJECTION.match(name)
    return None if found is None else int(found[1])


def without_projections(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the tensors of the Transformer, and those of the dense layers after the pooling."""
    dense = {name: value for name, value in arrays.items() if _index(name) is not None}
    return {name: value for name, value in arrays.items() if name not in dense}, dense


def _write_pooling(config: Any, file: Path) -> None:
    own = (config.pooling,) if isinstance(config.pooling, str) else config.pooling
    modes = [next(mode for mode, ours in MODES.items() if ours == one) for one in own]
    how: dict[str, Any] = {flag: mode in modes for mode, flag in FLAGS.items()}
    if modes != [mode for mode in MODES if mode in modes]:
        how = {"pooling_mode": modes}  # flags have an order of their own
    write_json(
        {"word_embedding_dimension": config.hidden_dim, **how, "include_prompt": config.pool_prompt},
        file,
    )


def _write_dense(one: Mapping[str, Any], tensors: Mapping[str, np.ndarray], folder: Path) -> None:
    named = {PROJECTION.sub("", name): value for name, value in tensors.items()}
    if one == NORM:
        write_json({"dimension": len(named["norm.weight"])}, folder / CONFIG)
        return save_tensors(named, folder / WEIGHTS, {"format": "pt"})
    kernel = named["linear.weight"]
    config: dict[str, Any] = {
        "in_features": kernel.shape[1],
        "out_features": kernel.shape[0],
        "bias": one["use_bias"],
        "activation_function": FUNCTIONS[one["activation"]],
        **({"use_residual": True} if one["residual"] else {}),
    }
    write_json(config, folder / CONFIG)
    save_tensors(named, folder / WEIGHTS, {"format": "pt"})
