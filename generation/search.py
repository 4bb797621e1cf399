"""Greedy decoding, sampling and beam search, with the same code for every runtime. NumPy only.

A :class:`Decoder` computes the logits of the next token: a Keras model, an ONNX file or a LiteRT file. Everything else
is implemented here, so the same logits, options and seed give the same tokens in every runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

import numpy as np

from ..checks import meant
from ..signature import as_array
from .beams import beam_search
from .decoder import Decoder
from .defaults import resolved
from .new_text import NewText
from .options import FILTERS, GenerateOptions, Options, checked
from .processors import Processors
from .sampling import draw, probabilities
from .speech import first_tokens

Array = np.ndarray
AHEAD = 16  # number of tokens that ``greedy`` generates per call; stop tokens are only checked afterwards


def generate(decoder: Decoder, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]) -> Array:
    """Generate a continuation of every row of a batch.

    `temperature` selects sampling and `num_beams` beam search; otherwise decoding is greedy. The options have the names
    and the meaning that they have in transformers. The default of an option is that of the model's generation config
    (``decoder.defaults``), and otherwise the one below; an explicit None or neutral value switches an option off.

    Args:
        decoder: computes the logits.
        input_ids: (batch, prompt) integers; or (prompt,), for a batch of one; or the mapping that a tokenizer returns.
            For a model of speech, features (batch, frames, bins) or a mapping with "input_features".
        attention_mask: (batch, prompt), 1 = token, 0 = padding, for prompts of unequal lengths, padded on either side.
            Default: that of the tokenizer's mapping, or no padding.
        max_new_tokens: greatest number of new tokens. Default: 32.
        temperature: 0, the default, chooses the most likely token; above 0, tokens are sampled from the softmax of
            ``logits / temperature``.
        top_k: sample only from this many most likely tokens.
        top_p: sample only from the smallest set of most likely tokens whose probabilities sum to at least this value
            (Holtzman et al. 2019, arXiv:1904.09751).
        min_p: sample only from tokens whose probability is at least this fraction of the greatest one
            (arXiv:2407.01082).
        typical_p: sample only from the tokens whose information content is nearest to the entropy and whose
            probabilities sum to at least this value (Meister et al. 2022, arXiv:2202.00666).
        epsilon_cutoff, eta_cutoff: sample only from tokens of at least this probability; `eta_cutoff` lowers it with
            the entropy (Hewitt et al. 2022, arXiv:2210.15191).
        top_h: sample only from the most likely tokens that contribute this share of the entropy (arXiv:2509.02510).
        repetition_penalty: above 1, tokens that occur in the prompt or the continuation become less likely
            (Keskar et al. 2019, arXiv:1909.05858). Beam search applies it to log-probabilities. Default: 1, no penalty.
        encoder_repetition_penalty: above 1, tokens that occur in the prompt, or in the input of the encoder, become
            more likely. Default: 1.
        no_repeat_ngram_size: no sequence of this many tokens occurs twice in the prompt and the continuation.
        encoder_no_repeat_ngram_size: no sequence of this many tokens of the prompt, or of the input of the encoder,
            occurs in the continuation.
        bad_words_ids: lists of ids, the sequences that never occur. Those of a single stop token are ignored.
        sequence_bias: pairs of a list of ids and a number, which is added to the logit of the last id where the others
            come before it.
        min_new_tokens: no stop token occurs before this many new tokens. Default: 0.
        forced_bos_token_id: the first new token, if a single token comes before it, as in an encoder-decoder.
        forced_eos_token_id: the new token number `max_new_tokens`, for rows that have not ended; or several ids, the
            only ones possible there.
        suppress_tokens: ids that never occur.
        begin_suppress_tokens: ids that are not the first new token, or the first one after `forced_bos_token_id`.
        exponential_decay_length_penalty: (tokens, factor): after this many new tokens, stop tokens become more likely,
            exponentially.
        remove_invalid_values: replace NaN among the logits by 0 and infinity by the greatest float32. Default: False.
        renormalize_logits: normalize the log-probabilities of beams after the changes above. Default: False.
        num_beams: above 1, beam search with this many beams, which returns the best continuation. It excludes
            `temperature`, `stop_strings` and `callback`.
        length_penalty: the score of a beam is its summed log-probability divided by its length to this power.
            Default: 1.
        early_stopping: when the search of a row ends that has `num_beams` ended continuations. True: at once. False,
            the default: when no beam, at its present length, scores higher than the worst of them. "never": when none
            can, whatever its length becomes.
        num_return_sequences: number of continuations of each prompt, which are rows one after the other: the best
            beams, or several samples. Default: 1.
        decoder_input_ids: the first tokens of the target, (n,) or (batch, n), instead of the start token. They are part
            of the result.
        language, task: of speech: the code of the language, such as "en", or one for each row, and "transcribe" or
            "translate". Default: those of the generation config; otherwise the language is detected.
        stop_tokens: one id or several; each of them ends its row. Default: the decoder's end token, if it has one;
            [] for none.
        stop_strings: one string or several; a row ends once its decoded new tokens contain one. Requires `tokenizer`.
        tokenizer: an object with the method ``decode(list of ids)``.
        callback: called with the new tokens (batch,) after each step; generation ends if it returns True.
        seed: seed of the random generators, one for each row. With the same seed and the same logits, the same tokens
            are sampled. Default: a random seed.

    Returns:
        (batch * `num_return_sequences`, prompt + new) int64 ids; for an encoder-decoder (…, 1 + new), which begin with
        its start token, or with the other first tokens. Rows that have ended are filled with the decoder's pad token,
        or with the first stop token if it has none.

    Raises:
        ValueError: an option or input that is not accepted, a row without any token, or more tokens than the model
            has positions.
    """
    search = _Search(decoder, input_ids, attention_mask, dict(options))
    chosen = search.options
    if chosen.num_beams == 1 or not chosen.max_new_tokens:
        new = list(_rows(search)) if chosen.max_new_tokens else []
        return np.concatenate([search.prompt, *(column[:, None] for column in new)], axis=1)
    new = beam_search(decoder, search.first(), chosen, search.stops, search.processors, search.fill)
    return np.concatenate([np.repeat(search.prompt, chosen.num_return_sequences, 0), new], axis=1)


def stream(
    decoder: Decoder, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]
) -> Iterator[Array]:
    """Return an iterator over the new tokens (batch,) of each step, with the arguments of ``generate``.

    Raises:
        ValueError: as in ``generate``, raised by this call; or `num_beams` above 1, because beam search does not know
            any token before the last step.
    """
    search = _Search(decoder, input_ids, attention_mask, dict(options), single=True)
    if search.options.num_beams > 1:
        raise ValueError(f"num_beams: got {search.options.num_beams} for a stream; accepted: 1")
    return _rows(search, ahead=False) if search.options.max_new_tokens else iter(())


class _Search:
    """The checked options and inputs of one request."""

    def __init__(
        self,
        decoder: Decoder,
        input_ids: Any,
        attention_mask: Any,
        options: dict[str, Any],
        single: bool = False,
    ) -> None:
        accepted = list(Options.__dataclass_fields__)
        if unknown := sorted(set(options) - set(accepted)):
            raise ValueError(f"options: got {unknown}; {meant(unknown, accepted)}accepted: {accepted}")
        self.decoder = decoder
        self.speech = bool(getattr(decoder, "reads_features", False))
        self.ids, self.mask = (_features if self.speech else _inputs)(input_ids, attention_mask)
        defaults, limit = dict(getattr(decoder, "defaults", {})), decoder.max_length
        first = self._first_tokens(options, defaults)
        width = self.ids.shape[1] if first is None else first.shape[1]
        if self.speech and "max_length" in defaults:  # the first tokens do not count
            defaults["max_length"] = min(defaults["max_length"] + min(limit // 2 - 1, width), limit)
        self.options = Options(**resolved(options, defaults, width=width, limit=limit, single=single))
        if width + self.options.max_new_tokens > decoder.max_length:
            raise ValueError(
                f"max_new_tokens: got {self.options.max_new_tokens} after {width} tokens; accepted: "
                f"{decoder.max_length} together"
            )
        chosen = self.options.stop_tokens
        self.stops = stop_tokens(decoder.eos_token if chosen is None else chosen)
        if self.options.num_beams == 1 and self.options.num_return_sequences > 1:
            count = self.options.num_return_sequences
            self.ids, self.mask = (np.repeat(array, count, 0) for array in (self.ids, self.mask))
            first = None if first is None else np.repeat(first, count, 0)
        self.prompt, self.real = self.ids, self.mask  # the tokens before the new ones, and their mask
        self.target: list[Array] = []  # the first tokens of the target, if they are others than the start token
        if first is not None:
            self.prompt, self.real = first, np.ones_like(first)
            self.target = [first] if first.shape[1] > 1 or (first != decoder.start_token).any() else []
        ids, mask = np.zeros((2, len(self.ids), 0), "int64") if self.speech else (self.ids, self.mask)
        self.processors = Processors(self.options, self.stops, ids, mask, self.prompt, self.real)

    def _first_tokens(self, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> Array | None:
        """Return the first tokens of the target of an encoder-decoder, (batch, n); None for another model."""
        start, rows = self.decoder.start_token, len(self.ids)
        names = ["decoder_input_ids"] if start is not None else []
        names += ["language", "task"] if self.speech else []
        for name in ("decoder_input_ids", "language", "task"):
            if options.get(name) is not None and name not in names:
                raise ValueError(f"{name}: got {options[name]!r:.40} for a model without it; accepted: None")
        if start is None:
            return None
        if options.get("decoder_input_ids") is not None:
            first = as_array("decoder_input_ids", options["decoder_input_ids"])
            first = first[None] if first.ndim == 1 else first
            if first.ndim != 2 or not first.shape[1] or first.dtype.kind not in "iu" or len(first) not in (1, rows):
                shape = f"{first.dtype} of shape {first.shape}"
                raise ValueError(f"decoder_input_ids: got {shape}; accepted: integers (n,) or ({rows}, n)")
            return np.array(np.broadcast_to(first, (rows, first.shape[1])), "int64")
        if not self.speech:
            return np.full((rows, 1), start, "int64")
        language, task = checked("language", options.get("language")), options.get("task")
        return first_tokens(defaults, start, rows, language, task, self._likeliest_of)

    def _likeliest_of(self, ids: Array) -> Array:
        """Return which of `ids` is most likely after the start token, for every row (batch,)."""
        return ids[self.decoder.prompt(self.ids, self.mask, 0)[:, ids].argmax(axis=-1)]

    @property
    def fill(self) -> int:
        """The id that fills a row after its end."""
        if self.decoder.pad_token is not None:
            return self.decoder.pad_token
        return int(self.stops[0]) if len(self.stops) else 0

    def first(self) -> Array:
        """Feed the prompt and return the logits after it (batch, vocab_size)."""
        return self.decoder.prompt(self.ids, self.mask, self.options.max_new_tokens, *self.target)


def stop_tokens(tokens: Any) -> Array:
    """Return one id, several ids or None as an int64 array (stop tokens,).

    Raises:
        ValueError: values that are not integers.
    """
    found = as_array("stop_tokens", [] if tokens is None else tokens).reshape(-1)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"stop_tokens: got {tokens!r}; accepted: an integer, integers, or [] for none")
    return found.astype("int64")


def _inputs(input_ids: Any, attention_mask: Any) -> tuple[Array, Array]:
    """Return the checked ids and mask, int64 arrays (batch, prompt)."""
    if isinstance(input_ids, Mapping):  # a tokenizer's output
        given = dict(input_ids)
        if "input_ids" not in given:
            raise ValueError(f"input_ids: got a mapping of {sorted(map(str, given))}; accepted: one with 'input_ids'")
        attention_mask = given.get("attention_mask") if attention_mask is None else attention_mask
        input_ids = given["input_ids"]
    some = input_ids[:1] if isinstance(input_ids, list | tuple) else [input_ids]
    if any(isinstance(part, str) for part in some):
        raise ValueError(f"input_ids: got a text, {some[0]!r:.40}; accepted: integers; texts go to generate_text")
    ids = as_array("input_ids", input_ids)
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(f"input_ids: got {ids.dtype} of shape {ids.shape}; accepted: integers (batch, prompt)")
    mask = np.ones_like(ids) if attention_mask is None else as_array("attention_mask", attention_mask)
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"attention_mask: got shape {mask.shape}; accepted: 0 and 1 of shape {ids.shape}")
    if not mask.any(axis=1).all():
        raise ValueError("attention_mask: got a row without any token; accepted: at least one 1 in each")
    return ids.astype("int64"), mask.astype("int64")


def _features(input_features: Any, attention_mask: Any) -> tuple[Array, Array]:
    """Return checked features (batch, frames, bins), and a mask of ones (batch, 1)."""
    if isinstance(input_features, Mapping):  # the output of a feature extractor
        given = dict(input_features)
        if "input_features" not in given:
            named = sorted(map(str, given))
            raise ValueError(f"input_features: got a mapping of {named}; accepted: one with 'input_features'")
        input_features = given["input_features"]
    features = as_array("input_features", input_features)
    features = features[None] if features.ndim == 2 else features
    if features.ndim != 3 or not features.size or features.dtype.kind != "f":
        shape = f"{features.dtype} of shape {features.shape}"
        raise ValueError(f"input_features: got {shape}; accepted: floats (batch, frames, bins)")
    return features.astype("float32"), np.ones((len(features), 1), "int64")


def _rows(search: _Search, ahead: bool = True) -> Iterator[Array]:
    """Yield the new tokens (batch,) of every step of greedy decoding or sampling.

    Args:
        search: the request.
        ahead: use the decoder's method ``greedy``, if possible, to generate several tokens in one call.
    """
    decoder, options, logits = search.decoder, search.options, search.first()
    batch = len(logits)
    draws = [np.random.default_rng(None if options.seed is None else [options.seed, row]) for row in range(batch)]
    strings = [options.stop_strings] if isinstance(options.stop_strings, str) else list(options.stop_strings or ())
    prompts = [row[real == 1] for row, real in zip(search.prompt, search.real, strict=True)]
    prompts = prompts if decoder.start_token is None else [()] * batch
    texts = [NewText(options.tokenizer, strings, prompt) for prompt in prompts] if strings else []
    done = np.zeros(batch, bool)
    likeliest = not (options.temperature or options.callback or strings or search.processors.active)
    greedy = getattr(decoder, "greedy", None) if ahead and likeliest else None
    ended = getattr(decoder, "ended", None)
    columns: list[Array] = []
    chosen: list[Array] = []  # tokens of the decoder's ``greedy`` that were not yielded yet
    for number in range(options.max_new_tokens):
        if number and greedy and not chosen:
            chosen = list(greedy(columns[-1], min(AHEAD, options.max_new_tokens - number)).T)
        elif number and not greedy:
            logits = decoder.step(columns[-1])
        token = chosen.pop(0) if chosen else _choose(logits, search, columns, draws)
        token = np.where(done, search.fill, token).astype("int64")
        columns.append(token)
        done |= np.isin(token, search.stops)
        for row in np.flatnonzero(~done) if strings else ():
            texts[row].add(int(token[row]))
            done[row] = texts[row].stopped
        yield token.copy()
        stop = options.callback(token.copy()) if options.callback else False
        if done.all() or (isinstance(stop, bool | np.bool_) and stop):
            break
        if ended:
            ended(done)


def _choose(logits: Array, search: _Search, columns: list[Array], draws: list[np.random.Generator]) -> Array:
    """Return the next token of every row (batch,), given its `logits` and the new tokens so far, `columns`."""
    options = search.options
    if search.processors.active:
        new = np.stack(columns, axis=1) if columns else np.zeros((len(logits), 0), "int64")
        logits = search.processors(logits, range(len(logits)), new)
    if not options.temperature:
        return logits.argmax(axis=-1)
    filters = {name: getattr(options, name) for name in FILTERS}
    chances = probabilities(logits, options.temperature, **filters)
    return np.array([draw(generator, row) for generator, row in zip(draws, chances, strict=True)])
