"""Backends made of vocabularies: BERT's word pieces and GPT-2's byte-level pairs, from their files or from tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import LARGEST_JSON, read_json, read_text
from ..needs import named_extras

FILE = "tokenizer.json"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LARGEST = 2**27  # bytes of a vocabulary; those of the largest multilingual models have a quarter

# How texts are cut before byte-pair encoding, by GGUF's name for it (``llama-vocab.cpp`` of llama.cpp). The regular
# expressions are those of the tokenizer.json that Llama 3 and Qwen2 published.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITS: dict[str, str] = {
    **dict.fromkeys(("gpt-2", "phi-2"), ""),
    **dict.fromkeys(("smollm", "starcoder", "refact"), "digits"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), LLAMA3.replace("{1,3}", "")),
}


def backend_class() -> Any:
    """``tokenizers.Tokenizer``, imported where it is needed: the library is not light."""
    with named_extras():
        from tokenizers import Tokenizer as Backend

    return Backend


def checked(what: str, make: Any) -> Any:
    """`make`'s result; the library raises bare exceptions, and panics that are no Exception."""
    try:
        return make()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ValueError(f"{what}: got what cannot be read: {error}; accepted: a valid one") from error


def json_of(file: Path, most: int) -> dict[str, Any]:
    """The object in `file`; empty where there is no file."""
    return read_json(file, most=most) if file.is_file() else {}


def added_token(name: str, value: Any) -> Any:
    """A special token as files have it: its content, or an object with that and how it takes spaces."""
    from tokenizers import AddedToken

    if value is None or isinstance(value, str):
        return None if value is None else AddedToken(value, special=True, normalized=False)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise ValueError(f"{name}: got {value!r}; accepted: a text, or an object with 'content'")
    flags = {flag: bool(value.get(flag, False)) for flag in ("lstrip", "rstrip", "normalized", "single_word")}
    return AddedToken(value["content"], special=bool(value.get("special", True)), **flags)


def added_contents(backend: Any) -> set[str]:
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def add_tokens(backend: Any, decoder: Any, folder: Path | None) -> None:
    """Tokens beside the vocabulary, at the ids that `added_tokens_decoder` or an added_tokens.json gives them."""
    if decoder is not None and not isinstance(decoder, Mapping):
        raise ValueError(f"added_tokens_decoder: got {type(decoder).__name__}; accepted: an object of tokens by id")
    if decoder is None and folder is not None and not added_contents(backend):
        added = json_of(folder / "added_tokens.json", LARGEST_JSON)
        decoder = {str(number): token for token, number in added.items()}
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


def vocabulary_tokenizer(path: Path, folder: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The backend of a folder without tokenizer.json, and the special tokens its kind has by default."""
    accepted = f"accepted: a folder with {FILE}, vocab.txt, or vocab.json and merges.txt"
    if not path.is_dir():
        raise ValueError(f"path: got {path}, where no file is; {accepted}")
    kind = str(config.get("tokenizer_class") or json_of(folder / "config.json", LARGEST_JSON).get("model_type") or "")
    kind = kind.lower().removesuffix("fast").removesuffix("tokenizer")
    if (folder / "vocab.txt").is_file():
        if kind not in ("", "bert", "distilbert", "electra", "mobilebert"):
            raise ValueError(f"tokenizer_class: got {kind!r} with vocab.txt; accepted: BertTokenizer, or a {FILE}")
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
        kinds = {"": "gpt-2", "gpt2": "gpt-2", "roberta": "gpt-2", "bart": "gpt-2", "qwen2": "qwen2"}
        if kind not in kinds:
            raise ValueError(
                f"tokenizer_class: got {kind!r} with vocab.json; accepted: {sorted(kinds)[1:]}, or a {FILE}"
            )
        vocabulary = json_of(folder / "vocab.json", LARGEST)
        lines = read_text(folder / "merges.txt", most=LARGEST).replace("\r\n", "\n").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
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
    """BERT's (Devlin et al. 2019): cleaned, split at spaces and punctuation, then the longest pieces first."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    if strip_accents is not None and not isinstance(strip_accents, bool):
        raise ValueError(f"strip_accents: got {strip_accents!r}; accepted: True, False, or None to follow lowercase")
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
    """GPT-2's byte-pair encoding of UTF-8 bytes (Radford et al. 2019), cut beforehand as `pre` says."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    split = SPLITS[pre]
    whole = split == LLAMA3  # a piece that is a token itself is taken as it is, whatever the merges would make of it

    def make() -> Any:
        return models.BPE(vocab=dict(vocabulary), merges=list(merges), fuse_unk=False, ignore_merges=whole)

    backend = backend_class()(checked("vocabulary and merges", make))
    if split in ("", "digits"):
        cutter: Any = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
        if split:
            cutter = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cutter])
    else:
        bytewise = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
        cutter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), behavior="isolated"), bytewise])
    backend.pre_tokenizer = cutter
    if split == SPLITS["qwen2"]:
        backend.normalizer = normalizers.NFC()  # as Qwen2 was trained
    backend.decoder = decoders.ByteLevel()
    return backend


def roberta_frame(backend: Any, special: Mapping[str, Any], prefix_space: bool) -> None:
    """<s> A </s>, and <s> A </s></s> B </s>."""
    from tokenizers.processors import RobertaProcessing

    cls, sep = (content_of(name, special.get(name)) or "" for name in ("cls_token", "sep_token"))
    vocabulary = backend.get_vocab()
    _known(vocabulary, cls_token=cls, sep_token=sep)
    backend.post_processor = RobertaProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls]), trim_offsets=True, add_prefix_space=prefix_space
    )


def content_of(name: str, value: Any) -> str | None:
    token = added_token(name, value)
    return None if token is None else token.content


def _known(vocabulary: Mapping[str, Any], **tokens: str | None) -> None:
    for name, token in tokens.items():
        if token not in vocabulary:
            raise ValueError(f"{name}: got {token!r}, which is not in the vocabulary; accepted: one of its tokens")
