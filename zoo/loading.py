"""``load``: build a model from a folder of ``save``, a Hugging Face folder, a GGUF file or a ``.keras`` file.

The config.json that ``save`` writes is
``{"format": "attention_zoo", "version": 1, "family": …, "dtype": …, "config": {…}}``. Its tensors are named as by
``weight_name``, such as ``block_0/attention/query/kernel``, and have Keras' layout (in, out).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import keras

from .. import checks
from ..files import read_json
from ..text.tokenizer import Tokenizer
from ..weights.fill import FirstValues, fill, has_own_output
from ..weights.gguf_file import GGUFFile
from ..weights.rules import Dialect, Rule, weight_name
from ..weights.tensors import SafetensorsFiles, Tensors
from ..weights.transforms import SAME
from .base import ZooModel
from .companions import DICTS
from .config import Config
from .generation_config import read_generation_config, warn_of_generation_config
from .keras_files import SUFFIX, load_keras
from .registry import family, own_dialects
from .sentence_transformers import SentenceFiles, SentenceTensors, read_sentence_files, transformer_folder
from .special_ids import without_outside_ids

if TYPE_CHECKING:
    from . import typed

FORMAT, VERSION = "attention_zoo", 1
CONFIG_FILE, WEIGHTS_FILE, IMAGES_FILE = "config.json", "model.safetensors", "preprocessor_config.json"
GENERATION_FILE = "generation_config.json"
ACCEPTED = "accepted: a folder with config.json and model.safetensors, of attention_zoo.save or Hugging Face, a .gguf"
ACCEPTED += " or a .keras"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
ENDS = ("eos", "eot", "eom")  # GGUF's names for the end of a text, of a turn and of a message
UNUSED = "unused/"  # name prefix of the weights that no head uses
LONGEST = 900  # characters; longer error messages are shortened
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "source.spm")
TOKENIZER_FILES += ("sentencepiece.bpe.model",)


@overload
def load(
    path: str | os.PathLike[str], *, dtype: Any = None, tokenizer: Any = None, **overrides: Unpack[typed.AnyFields]
) -> ZooModel: ...
@overload  # of ``**mapping``, as in ``create``
def load(
    path: str | os.PathLike[str], *, dtype: Any = None, tokenizer: Any = None, _mapping: Any, **overrides: Any
) -> ZooModel: ...
def load(path: str | os.PathLike[str], *, dtype: Any = None, tokenizer: Any = None, **overrides: Any) -> ZooModel:
    """Load a model from a folder that ``save`` wrote, a Hugging Face folder, a GGUF file or a ``.keras`` file.

    The tokenizer, if there is one, becomes ``model.tokenizer``, a Hugging Face config ``model.huggingface``, and the
    content of preprocessor_config.json ``model.preprocessor``. A tokenizer that cannot be read is left out with a
    warning. A sentence-transformers folder is loaded with ``head="sentence_embedding"``, its pooling and what follows
    it, and with its prompts in the tokenizer; that of a cross-encoder with its scores. Weights of a GGUF file are
    dequantized to `dtype`.

    Args:
        path: the folder, or the .gguf or .keras file. A model from a .keras file is not compiled.
        dtype: a Keras dtype policy. Default: the saved one for files of this package and ``.keras`` files; Keras'
            global dtype policy, which is "float32" unless it was changed, for third-party files.
        tokenizer: a ``Tokenizer``, or the path of one, that replaces the one at `path`.
        overrides: config fields that replace the saved ones, such as ``dropout=0.2`` or ``max_length=512``. With
            ``preprocessing=True``, a ViT preprocesses its images itself as preprocessor_config.json specifies. With a
            ``head`` that differs from that of the file, only the body is loaded; the new head keeps its initial values,
            and a warning lists its weights. Special token ids of a third-party file that lie outside its vocabulary are
            dropped, also with a warning.

    Returns:
        A built model of the family's class, such as ``GPT``.

    Raises:
        ValueError: the path does not exist or has an unknown format, the config asks for a feature that is not
            supported, or the weights do not fit the config: some are missing, unexpected or of another shape. Files
            that can contain pickles are never opened.
        ModuleNotFoundError: the file is a GGUF file and the ``gguf`` package is not installed.
    """
    with _in_short():
        given = None if tokenizer is None else _given_tokenizer(tokenizer)
        model = _load(Path(path), dtype, overrides, given)
        model.tokenizer = model.tokenizer if given is None else given
        warn_of_generation_config(model, path)
        return model


@contextmanager
def _in_short() -> Iterator[None]:
    """Shorten error messages that quote much of a file: keep their beginning and end."""
    try:
        yield
    except ValueError as error:
        if len(text := str(error)) <= LONGEST and type(error) is ValueError:
            raise
        raise ValueError(text if len(text) <= LONGEST else f"{text[:500]} … {text[-300:]}") from error.__cause__


def _load(path: Path, dtype: Any, overrides: dict[str, Any], tokenizer: Tokenizer | None) -> ZooModel:
    if path.suffix in PICKLES:
        raise ValueError(f"path: got {path}, a format that can hold code and is never opened; {ACCEPTED}")
    if path.suffix == SUFFIX and not path.is_dir():
        model, fresh = load_keras(path, dtype, overrides)
        _warn_of_new_head(fresh, path)
        return model
    if path.suffix == ".gguf":
        return _load_gguf(path, dtype, overrides, tokenizer)
    folder = transformer_folder(path)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"path: got {folder}, without {CONFIG_FILE}; {ACCEPTED}")
    raw, sentences = read_json(folder / CONFIG_FILE), SentenceFiles()
    if raw.get("format") == FORMAT:
        model = _load_own(folder, raw, dtype, overrides)
    elif "model_type" in raw:
        sentences = read_sentence_files(path)
        model = _load_huggingface(folder, raw, dtype, overrides, sentences)
    else:
        raise ValueError(f"path: {folder / CONFIG_FILE} is not of a format we know; {ACCEPTED}")
    if tokenizer is None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        options = _sentence_options(sentences, model)
        model.tokenizer = _readable_tokenizer(folder, lambda: Tokenizer.load(folder, **options))
    if model.tokenizer is not None and "token_type_ids" not in {each.name for each in model.signature.inputs}:
        model.tokenizer.uses_token_types = False  # tokenizer.json alone does not tell DistilBERT from BERT
    return model


def _sentence_options(sentences: SentenceFiles, model: ZooModel) -> dict[str, Any]:
    """Return the tokenizer options that the files of sentence-transformers specify."""
    options = dict(sentences.tokenizer)
    if "model_max_length" in options:
        options["model_max_length"] = min(options["model_max_length"], model.config.max_length)
    return {**options, **({"lowercase": True} if sentences.lowercase else {})}


def _readable_tokenizer(path: Path, make: Callable[[], Tokenizer]) -> Tokenizer | None:
    """Return the tokenizer that `make` reads from `path`, or warn and return None if it cannot be read.

    A tokenizer of another kind should not keep the weights from being loaded.
    """
    try:
        return make()
    except ValueError as error:
        why = str(error) if str(error).startswith("path: ") else f"path: {path}: {error}"
        why = why if len(why) <= LONGEST else f"{why[:LONGEST]} …"
        checks.warn(f"{why}; the model has no tokenizer, and load(…, tokenizer=…) takes another")
        return None


def _given_tokenizer(tokenizer: Any) -> Tokenizer:
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if not isinstance(tokenizer, str | os.PathLike):
        raise ValueError(f"tokenizer: got {type(tokenizer).__name__}; accepted: a path, or an attention_zoo.Tokenizer")
    if not Path(tokenizer).exists():
        raise ValueError(
            f"tokenizer: got {tokenizer}, which does not exist; accepted: a folder, a file, or a Tokenizer"
        )
    return Tokenizer.load(tokenizer)


# Folders written by ``save``.


def _load_own(folder: Path, raw: dict[str, Any], dtype: Any, overrides: dict[str, Any]) -> ZooModel:
    if raw.get("version") != VERSION:
        raise ValueError(f"path: got format version {raw.get('version')!r}; accepted: {VERSION}")
    try:
        cls = family(raw["family"])
        config = cls.config_class.from_dict({**raw["config"], **overrides})
    except (KeyError, TypeError) as error:
        raise ValueError(f"path: {folder / CONFIG_FILE} lacks or mistypes a field: {error}") from error
    if dtype is None:
        try:
            dtype = keras.dtype_policies.get(raw.get("dtype"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"path: {folder / CONFIG_FILE}: {error}") from error
    tensors = SafetensorsFiles(folder)
    _check_sizes(config, tensors, folder / CONFIG_FILE)
    new_head = "head" in overrides and overrides["head"] != raw["config"].get("head")
    with FirstValues() as later:
        model = cls(config, dtype=dtype)
        names = [weight_name(v) for v in model.weights]
        rules = tuple(Rule(name, name, SAME) for name in names)
        old_head = tuple(f"^{part}(/|$)" for part in cls.head_parts) if new_head else ()
        ours = Dialect(fields=(), rules=rules, ignored=old_head, unused={f"^{UNUSED}": True})
        fresh = fill(model, ours, tensors, new_head=new_head, later=later)
    model.unused = {name.removeprefix(UNUSED): value for name, value in model.unused.items()}
    _warn_of_new_head(fresh, folder)
    for name in DICTS:
        setattr(model, name, raw.get(name) or {})
    return model


# Hugging Face folders.


def model_types() -> dict[str, str]:
    """Return the family name for every Hugging Face ``model_type`` that can be loaded."""
    return {kind: name for kind, (name, _) in own_dialects("dialects").items() if kind != "gguf"}


def _load_huggingface(
    folder: Path, raw: dict[str, Any], dtype: Any, overrides: dict[str, Any], sentences: SentenceFiles
) -> ZooModel:
    kind, known = raw["model_type"], model_types()
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"path: {folder / CONFIG_FILE} has model_type {kind!r}; accepted: {sorted(known)}")
    if not any((folder / name).is_file() for name in (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json")):
        held = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        why = f"only {held}, which can hold code and are never opened" if held else f"without {WEIGHTS_FILE}"
        raise ValueError(f"path: got {folder} {why}; {ACCEPTED}")
    cls = family(known[kind])
    tensors: Tensors = SafetensorsFiles(folder)
    if sentences.fields.get("head"):
        if "sentence_embedding" not in cls.dialects[kind].heads:
            dialects = own_dialects("dialects").items()
            accepted = sorted(name for name, (_, one) in dialects if "sentence_embedding" in one.heads)
            where = f"path: {folder / CONFIG_FILE}"
            raise ValueError(f"{where}: got model_type {kind!r} for sentence embeddings; accepted: {accepted}")
        tensors = SentenceTensors(tensors, cls.dialects[kind].prefix, sentences.dense)
    preprocessor = read_json(folder / IMAGES_FILE) if (folder / IMAGES_FILE).is_file() else {}
    if overrides.get("preprocessing") is True:
        if not preprocessor:
            raise ValueError(f"preprocessing: got True without a {IMAGES_FILE} in {folder}; accepted: a dict")
        overrides = {**overrides, "preprocessing": preprocessor}
    model = _build(cls, cls.dialects[kind], raw, tensors, dtype, sentences.fields, overrides, folder / CONFIG_FILE)
    model.huggingface, model.preprocessor = raw, preprocessor
    model.sentences, model.sentence_options = sentences.sentences, sentences.options
    model.generation_config = read_generation_config(folder / GENERATION_FILE, raw)
    return model


def _build(
    cls: type[ZooModel],
    dialect: Dialect,
    raw: Mapping[str, Any],
    tensors: Tensors,
    dtype: Any,
    sentences: dict[str, Any],
    overrides: dict[str, Any],
    where: Path,
) -> ZooModel:
    try:
        values = {**dialect.config(raw, tensors.shapes), **sentences}
        known = "head" in cls.config_class.__dataclass_fields__
        if known and "head" not in sentences:
            values["head"] = overrides["head"] if "head" in overrides else dialect.head(raw)
        if not known:
            dialect.head(raw)  # raises for classes that are not of this family
        if values.get("head") is not None:
            values.pop("pooler", None)  # applies to models without a head only
        values |= _tie(dialect, raw, values, tensors, where)
        values = without_outside_ids(cls.config_class, values, f"path: {where}") | overrides
        # For these fields None is a value; for all others it means the default.
        none = ("head", *(k for k in values if k.endswith("_token_id")))
        config = cls.config_class.from_dict({k: v for k, v in values.items() if v is not None or k in none})
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"path: {where} lacks or mistypes a field: {error!r}; accepted: a config as saved") from error
    except ValueError as error:
        raise ValueError(f"path: {where}: {_in_their_words(str(error), dialect)}") from error
    _check_sizes(config, tensors, where)
    policy = None if dtype is None else keras.dtype_policies.get(dtype)
    new_head = known and "head" in overrides
    with FirstValues() as later:
        try:
            model = cls(config, dtype=policy)
        except ValueError as error:
            raise ValueError(f"path: {where}: {_in_their_words(str(error), dialect)}") from error
        fresh = fill(model, dialect, tensors, new_head=new_head, later=later)
    _warn_of_new_head(fresh, where.parent)
    return model


def _tie(
    dialect: Dialect, raw: Mapping[str, Any], values: Mapping[str, Any], tensors: Tensors, where: Path
) -> dict[str, bool]:
    """Return `tie_embeddings` for a file whose config ties an output projection that the file has nevertheless.

    If it differs from the embedding table, it is used, as by transformers 5; earlier versions used the table. There is
    a warning then, except for T5, where transformers 5 writes the entry for every model.
    """
    if dialect.output is None or values.get("head", "") is None or raw.get("tie_word_embeddings") is False:
        return {}
    stated = any(entry.ours == "tie_embeddings" for entry in dialect.fields)
    if stated and values.get("tie_embeddings") is not True:
        return {}
    own = has_own_output(dialect, tensors)
    if own and stated:
        message = f"{where}: tie_word_embeddings is true, but {dialect.output} differs from the embedding table"
        checks.warn(f"{message}; the model uses both, as in transformers 5")
    return {"tie_embeddings": not own}


def _in_their_words(message: str, dialect: Dialect) -> str:
    """Replace the config field in an error message by the entry of the third-party config that it was read from."""
    ours, _, rest = message.partition(":")
    theirs = next((entry.theirs for entry in dialect.fields if entry.ours == ours), ours)
    return message if theirs == ours else f"{theirs} (our {ours}):{rest}"


def _check_sizes(config: Config, tensors: Tensors, where: Path) -> None:
    """Check that the sizes in the config are not far larger than the tensors of the file.

    Building a model of such sizes could exhaust the memory. Sizes that are wrong by less are allowed here: the model is
    built without values, and ``fill`` reports every tensor that does not fit.
    """
    wanted = config.least_parameters()
    held = sum(math.prod(shape) for shape in tensors.shapes.values())
    if wanted > 4 * held + 2**22 or config.depth > max(8, len(tensors.shapes)):
        sizes = ", ".join(f"{name}={value}" for name, value in config.sizes().items())
        raise ValueError(
            f"path: {where}: got {sizes}, at least {wanted} numbers; accepted: the sizes of the tensors of "
            f"{tensors.where}, which hold {held} in {len(tensors.shapes)}"
        )


def _warn_of_new_head(fresh: list[str], folder: Path) -> None:
    """Warn that the weights `fresh` of a new head keep their initial values."""
    if fresh:
        checks.warn(f"{folder} has no such head: {', '.join(fresh)} are as initialised, to be trained")


# GGUF files.


def _with_special_ids_of(config: Config, dialect: Dialect, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `raw` without the special token ids that lie outside the vocabulary, which the config does not have."""
    ids = {entry.theirs: entry.ours for entry in dialect.fields if entry.ours.endswith("_token_id")}
    rows = config.to_dict()["vocab_size"]
    return {k: v for k, v in raw.items() if k not in ids or not checks.is_integer(v) or 0 <= v < rows}


def _load_gguf(file: Path, dtype: Any, overrides: dict[str, Any], tokenizer: Tokenizer | None) -> ZooModel:
    tensors = GGUFFile(file)
    raw = dict(tensors.fields)
    if "rope_freqs.weight" in tensors.shapes:
        raw["rope_freqs"] = tensors.read("rope_freqs.weight")
    name, dialect = own_dialects("dialects")["gguf"]
    model = _build(family(name), dialect, raw, tensors, dtype, {}, overrides, file)
    ends = [raw[key] for name in ENDS if checks.is_integer(raw.get(key := f"tokenizer.ggml.{name}_token_id"))]
    model.generation_config = {"eos_token_id": sorted(set(map(int, ends)))} if ends else {}
    if tokenizer is None and "tokenizer.ggml.model" in raw:
        fields = _with_special_ids_of(model.config, dialect, raw)
        model.tokenizer = _readable_tokenizer(file, lambda: Tokenizer.from_gguf(fields))
    return model
