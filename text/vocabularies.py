"""Construction of `tokenizers` backends from vocabularies: BERT's WordPiece and GPT-2's byte-level BPE."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..checks import brief, shown
from ..files import LARGEST_JSON, read_json, read_text
from ..needs import named_extras
from .splits import DIGIT, GPT2, SPLITS, WHOLE

P = ParamSpec("P")
T = TypeVar("T")
FILE = "tokenizer.json"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LARGEST = 2**27  # bytes of a vocabulary file, about four times those of the largest multilingual models
NORMALIZED = {"qwen2", "qwen35", "deepseek-r1-qwen", "megrez", "f2llmv2"}  # splits of models whose texts are in NFC


def backend_class() -> Any:
    """Return the class ``tokenizers.Tokenizer``; it is imported only here because the import is slow."""
    with named_extras():
        from tokenizers import Tokenizer as Backend

    return Backend


def checked(what: str, make: Any) -> Any:
    """Return ``make()``, and raise its errors as ValueError.

    A ValueError of this package is raised as it is.

    The `tokenizers` library raises plain ``Exception``, and panics of its Rust code derive from BaseException only.

    Raises:
        ValueError: `make` failed; the message names the argument or file `what`.
    """
    try:
        return make()
    except BaseException as error:
        if isinstance(error, MemoryError) or not (isinstance(error, Exception) or _is_panic(error)):
            raise
        if isinstance(error, ValueError) and "; accepted: " in str(error):
            raise
        raise ValueError(f"{what}: got what cannot be read: {brief(error)}; accepted: a valid one") from error


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"  # a class that the tokenizers library does not export


def refusing_panics(function: Callable[P, T]) -> Callable[P, T]:
    """Raise the errors of the `tokenizers` library's Rust code in `function` as ValueError.

    A tokenizer.json can be read and still be wrong, such as a post-processor with a token that does not exist.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if type(error) is not Exception and not _is_panic(error):
                raise
            raise ValueError(f"tokenizer: got one that fails: {brief(error)}; accepted: a valid one") from error

    return call


def json_of(file: Path, most: int) -> dict[str, Any]:
    """Return the JSON object in `file`, of at most `most` bytes, or an empty dictionary if the file does not exist."""
    return read_json(file, most=most) if file.is_file() else {}


def added_token(name: str, value: Any) -> Any:
    """Return a ``tokenizers.AddedToken`` for a token as it is written in files, or None for None.

    `value` is the token's content, or an object with "content" and flags such as "lstrip". `name` is its key in the
    file, for the error message.

    Raises:
        ValueError: a value of another type.
    """
    from tokenizers import AddedToken

    if value is None or isinstance(value, str):
        return None if value is None else AddedToken(value, special=True, normalized=False)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise ValueError(f"{name}: got {shown(value)}; accepted: a text, or an object with 'content'")
    flags = {flag: bool(value.get(flag, False)) for flag in ("lstrip", "rstrip", "normalized", "single_word")}
    return AddedToken(value["content"], special=bool(value.get("special", True)), **flags)


def kind_of(config: Mapping[str, Any], model_type: Any) -> str:
    """Return the kind of tokenizer that `tokenizer_class`, or else the model type, names: "bert", "gpt2", …."""
    kind = str(config.get("tokenizer_class") or model_type or "").lower()
    return kind.removesuffix("fast").removesuffix("tokenizer")


def added_contents(backend: Any) -> set[str]:
    """Return the contents of the tokens that were added to the vocabulary of `backend` or registered as special."""
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def add_tokens(backend: Any, config: Mapping[str, Any], folder: Path | None) -> None:
    """Add the tokens that are not part of the vocabulary, and check that they get the specified ids.

    Args:
        config: its "added_tokens_decoder" maps ids to tokens; without it, added_tokens.json is read. That file has no
            flags: tokens in it are special if `config` names them as such, and otherwise part of decoded texts.
        folder: the folder of that file, which is read only if `backend` has no added tokens; None for no folder.

    Raises:
        ValueError: a decoder of another type, or a token that gets another id than specified.
    """
    decoder = config.get("added_tokens_decoder")
    if decoder is not None and not isinstance(decoder, Mapping):
        raise ValueError(f"added_tokens_decoder: got {type(decoder).__name__}; accepted: an object of tokens by id")
    if decoder is None and folder is not None and not added_contents(backend):
        added, special = json_of(folder / "added_tokens.json", LARGEST_JSON), _named_special(config)
        decoder = {str(number): {"content": token, "special": token in special} for token, number in added.items()}
    try:
        numbered = sorted((int(number), token) for number, token in (decoder or {}).items())
    except (TypeError, ValueError) as error:
        raise ValueError(f"added_tokens_decoder: got {error}; accepted: tokens by distinct ids") from error
    for number, value in numbered:
        token = added_token("added_tokens_decoder", value)
        if token is None:
            raise ValueError(f"added_tokens_decoder: got None for id {number}; accepted: an object with 'content'")
        if token.content not in added_contents(backend):
            backend.add_tokens([token])
        if backend.token_to_id(token.content) != number:
            actual = backend.token_to_id(token.content)
            raise ValueError(f"added_tokens_decoder: got id {number} for {token.content!r}; accepted: {actual}")


def _named_special(config: Mapping[str, Any]) -> set[str]:
    """Return the contents of the tokens that `config` names as special."""
    tokens = [added_token(name, config.get(name)) for name in SPECIAL]
    return {token.content for token in (*tokens, *further_tokens(config)) if token is not None}


def further_tokens(config: Mapping[str, Any]) -> list[Any]:
    """Return the special tokens of `config` that have no name.

    Raises:
        ValueError: they are not in a list, or one is neither a string nor an object with "content".
    """
    found = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        given = config.get(key) or ()
        values = given.values() if isinstance(given, Mapping) else given
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise ValueError(f"{key}: got {shown(given)}; accepted: a list of tokens")
        found += [token for value in values if (token := added_token(key, value)) is not None]
    return found


def add_named_tokens(backend: Any, config: Mapping[str, Any]) -> None:
    """Register the further special tokens of `config`, which are added to the vocabulary if it does not have them.

    Raises:
        ValueError: a token that is neither a string nor an object with "content".
    """
    for token in further_tokens(config):
        if token.content not in added_contents(backend):
            backend.add_special_tokens([token])


def vocabulary_tokenizer(path: Path, folder: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend of a folder without tokenizer.json, and the default special tokens of its kind.

    The folder has BERT's vocab.txt, or vocab.json and merges.txt of GPT-2, RoBERTa, BART, Qwen2 or CLIP. The kind is
    the `tokenizer_class` of `config`, or else the "model_type" of config.json.

    Raises:
        ValueError: no such files, a kind that does not have them, or only a SentencePiece model.
    """
    accepted = f"accepted: a folder with {FILE}, vocab.txt, or vocab.json and merges.txt"
    if not path.is_dir():
        raise ValueError(f"path: got {path}, where no file is; {accepted}")
    kind = kind_of(config, json_of(folder / "config.json", LARGEST_JSON).get("model_type"))
    if (folder / "vocab.txt").is_file():
        if kind not in ("", "bert", "distilbert", "electra", "ernie", "mobilebert"):
            raise ValueError(f"tokenizer_class: got {shown(kind)} with vocab.txt; accepted: BertTokenizer, or a {FILE}")
        defaults = {name: f"[{name[:-6].upper()}]" for name in ("unk_token", "sep_token", "pad_token", "cls_token")}
        defaults["mask_token"] = "[MASK]"
        lines = read_text(folder / "vocab.txt", most=LARGEST).replace("\r\n", "\n").removesuffix("\n").split("\n")
        backend = wordpiece(
            {token: number for number, token in enumerate(lines)},
            {**defaults, **config},
            lowercase=bool(config.get("do_lower_case", True)),
            strip_accents=config.get("strip_accents"),
            chinese=bool(config.get("tokenize_chinese_chars", True)),
        )
        return backend, defaults
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kinds = {"": "gpt-2", "gpt2": "gpt-2", "roberta": "gpt-2", "bart": "gpt-2", "qwen2": "qwen2", "clip": ""}
        if kind not in kinds:
            raise ValueError(
                f"tokenizer_class: got {shown(kind)} with vocab.json; accepted: {sorted(kinds)[1:]}, or a {FILE}"
            )
        vocabulary = json_of(folder / "vocab.json", LARGEST)
        lines = read_text(folder / "merges.txt", most=LARGEST).replace("\r\n", "\n").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        if kind == "clip":
            return clip_bytes(vocabulary, merges, config)
        prefix_space = bool(config.get("add_prefix_space", False))
        backend = byte_level(vocabulary, merges, kinds[kind], prefix_space=prefix_space)
        defaults: dict[str, Any] = {}
        if kind in ("roberta", "bart"):
            defaults = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
            defaults |= {"unk_token": "<unk>", "pad_token": "<pad>"}
            defaults["mask_token"] = {"content": "<mask>", "lstrip": True}
            roberta_frame(backend, {**defaults, **config}, prefix_space)
        elif "<|endoftext|>" in vocabulary:
            names = ("eos_token", "pad_token") if kind == "qwen2" else ("bos_token", "eos_token", "unk_token")
            defaults = dict.fromkeys(names, "<|endoftext|>")
        return backend, defaults
    if pieces := [file.name for file in folder.iterdir() if file.suffix in (".model", ".spm")]:
        raise ValueError(
            f"path: got {folder} with {sorted(pieces)}, SentencePiece models, and no {FILE}; accepted: a folder with "
            f"{FILE}, which transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…) writes"
        )
    raise ValueError(f"path: got {folder} without a tokenizer; {accepted}")


def wordpiece(
    vocabulary: Mapping[str, int],
    special: Mapping[str, Any],
    *,
    lowercase: bool,
    strip_accents: bool | None,
    chinese: bool,
    prefix: str = "##",
) -> Any:
    """Return a backend for BERT's WordPiece (Devlin et al. 2019).

    Texts are cleaned and split at spaces and punctuation; each word is then split into the longest matching pieces.
    [CLS] and [SEP] are added to every text if `special` has both.

    Args:
        vocabulary: ids by token.
        special: special tokens by name, such as "cls_token". Without "unk_token" it is "[UNK]".
        lowercase: convert texts to lower case.
        strip_accents: remove accents. None: as `lowercase`.
        chinese: split before and after every Chinese character.
        prefix: mark of the pieces that continue a word.

    Raises:
        ValueError: a `strip_accents` of another type, or special tokens that are not in the vocabulary.
    """
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    if strip_accents is not None and not isinstance(strip_accents, bool):
        raise ValueError(
            f"strip_accents: got {shown(strip_accents)}; accepted: True, False, or None to follow lowercase"
        )
    unk, cls, sep = (content_of(name, special.get(name)) for name in ("unk_token", "cls_token", "sep_token"))
    backend = backend_class()(
        models.WordPiece(dict(vocabulary), unk_token=unk or "[UNK]", continuing_subword_prefix=prefix)
    )
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=prefix)
    if cls is not None and sep is not None:
        _known(vocabulary, cls_token=cls, sep_token=sep)
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(token, vocabulary[token]) for token in {cls, sep}],
        )
    return backend


def byte_level(vocabulary: Mapping[str, Any], merges: Sequence[Any], pre: str, *, prefix_space: bool = False) -> Any:
    """Return a backend for GPT-2's byte-pair encoding of UTF-8 bytes (Radford et al. 2019).

    `vocabulary` has the id of every token, `merges` are pairs of tokens in order of priority, and `pre`, a key of
    `SPLITS`, names how texts are split beforehand. `prefix_space` adds a space before every text.

    Raises:
        ValueError: `vocabulary` and `merges` do not fit together.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    splits = SPLITS[pre]

    def make() -> Any:
        return models.BPE(vocab=dict(vocabulary), merges=list(merges), fuse_unk=False, ignore_merges=pre in WHOLE)

    backend = backend_class()(checked("vocabulary and merges", make))
    if splits[-1] == GPT2 and set(splits[:-1]) <= {DIGIT}:  # as the tokenizers library has them
        cutter: Any = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
        if splits[:-1]:
            cutter = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cutter])
    else:
        bytewise = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
        steps = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in splits]
        cutter = pre_tokenizers.Sequence([*steps, bytewise])
    backend.pre_tokenizer = cutter
    if pre in NORMALIZED:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def clip_bytes(
    vocabulary: Mapping[str, Any], merges: Sequence[Any], config: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return a backend for CLIP's byte-pair encoding of words in lower case, whose last piece ends with </w>, and the
    default special tokens. A text is encoded between the tokens of its start and of its end.

    Raises:
        ValueError: `vocabulary` and `merges` do not fit together, or a special token is not in the vocabulary.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import RobertaProcessing

    end = "<|endoftext|>"
    defaults = {"bos_token": "<|startoftext|>", **dict.fromkeys(("eos_token", "unk_token", "pad_token"), end)}
    first, last, unknown = (
        content_of(name, {**defaults, **config}.get(name)) or "" for name in ("bos_token", "eos_token", "unk_token")
    )
    _known(vocabulary, bos_token=first, eos_token=last, unk_token=unknown)
    backend = backend_class()(
        checked(
            "merges.txt",
            lambda: models.BPE(
                vocab=dict(vocabulary), merges=list(merges), unk_token=unknown, end_of_word_suffix="</w>"
            ),
        )
    )
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = rf"{re.escape(first)}|{re.escape(last)}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
    split = pre_tokenizers.Split(Regex(words), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    frame = (last, vocabulary[last]), (first, vocabulary[first])
    backend.post_processor = RobertaProcessing(*frame, trim_offsets=False, add_prefix_space=False)
    return backend, {**defaults, "model_input_names": ["input_ids", "attention_mask"]}


def roberta_frame(backend: Any, special: Mapping[str, Any], prefix_space: bool) -> None:
    """Set RoBERTa's post-processor, which encodes one text as <s> A </s> and a pair as <s> A </s></s> B </s>.

    <s> is the "cls_token" of `special`, and </s> its "sep_token".

    Raises:
        ValueError: one of the two is not in the vocabulary.
    """
    from tokenizers.processors import RobertaProcessing

    cls, sep = (content_of(name, special.get(name)) or "" for name in ("cls_token", "sep_token"))
    vocabulary = backend.get_vocab()
    _known(vocabulary, cls_token=cls, sep_token=sep)
    backend.post_processor = RobertaProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls]), trim_offsets=True, add_prefix_space=prefix_space
    )


def content_of(name: str, value: Any) -> str | None:
    """Return the content of the special token `value` (see ``added_token``), or None for None."""
    token = added_token(name, value)
    return None if token is None else token.content


def _known(vocabulary: Mapping[str, Any], **tokens: str | None) -> None:
    """Check that `vocabulary` has each of the tokens."""
    for name, token in tokens.items():
        if token not in vocabulary:
            raise ValueError(f"{name}: got {token!r}, which is not in the vocabulary; accepted: one of its tokens")


def unigram(
    vocabulary: list[tuple[str, float]],
    unk: str | None,
    what: str,
    *,
    charsmap: bytes,
    trimmed: bool,
    space: bool,
    byte_fallback: bool,
) -> Any:
    """Return a backend for SentencePiece's unigram model (Kudo 2018).

    Args:
        vocabulary: (piece, score) by id.
        unk: the piece for unknown characters, or None.
        what: the file or field, for messages.
        charsmap: SentencePiece's table of normalized characters, or nothing.
        trimmed: whether spaces around a text are removed, and several spaces become one.
        space: whether a space is added before a text.
        byte_fallback: whether unknown characters are encoded as bytes.
    """
    from tokenizers import models

    place = next((i for i, (piece, _) in enumerate(vocabulary) if piece == unk), None)
    backend = backend_class()(
        checked(what, lambda: models.Unigram(vocabulary, unk_id=place, byte_fallback=byte_fallback))
    )
    split_at_spaces(backend, what, charsmap=charsmap, trimmed=trimmed, space=space)
    return backend


def split_at_spaces(backend: Any, what: str, *, charsmap: bytes, trimmed: bool, space: bool) -> None:
    """Set the normalizer and the handling of spaces of SentencePiece; see ``unigram`` for the arguments."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    steps: list[Any] = []
    if charsmap:
        steps.append(checked(what, lambda: normalizers.Precompiled(charsmap)))
    if trimmed:
        steps += [normalizers.Strip(left=True, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if space else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
