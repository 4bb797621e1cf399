"""Generation configs as defaults of ``generate``, compared with what transformers generates, in every runtime.

``tests/goldens/generation`` has the tokens that transformers generates with the checkpoints of other folders.
"""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_decoder import Fake

import attention_zoo as az
from attention_zoo import export
from attention_zoo.generation.defaults import obeyed, resolved, without_fields
from attention_zoo.generation.sampling import probabilities
from attention_zoo.generation.search import generate, stream
from attention_zoo.runtime.metadata import GENERATION
from helpers import ROOT, tiny

GOLDENS = ROOT / "tests" / "goldens"
STORED = GOLDENS / "generation"
LETTERS = "".join(chr(97 + i) for i in range(26))


@functools.cache
def golden(name: str) -> dict[str, Any]:
    return json.loads((STORED / f"{name}.json").read_text())


def cut(rows: Any, width: int, ends: Any) -> list[list[int]]:
    """Return the new tokens of each row, up to its end token."""
    stops = ends if isinstance(ends, list) else [ends]
    new = np.asarray(rows)[:, width:].tolist()
    return [row[: next((i + 1 for i, token in enumerate(row) if token in stops), len(row))] for row in new]


def differing(source: Any, name: str, use: Any, keys: Sequence[str] = ()) -> list[str]:
    """Return the names of the configs with which `source` generates other tokens than transformers.

    Args:
        source: a model or a runner.
        name: the name of the golden.
        use: called with each config, to give it to `source`.
        keys: the names of the configs to compare. Default: all.
    """
    prompt: Any = {key: np.array(value) for key, value in golden(name)["prompt"].items()}
    width = prompt["input_ids"].shape[1] if name in ("gpt2", "llama") else 1
    found = []
    for key, case in golden(name)["cases"].items():
        if keys and key not in keys:
            continue
        use(case["config"])
        expected = cut(case["tokens"], width, case["config"]["eos_token_id"])
        actual = cut(source.generate(**prompt), width, case["config"]["eos_token_id"])
        if actual != expected:
            found.append(key)
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama", "marian", "t5"])
def test_the_stored_configs_differ_in_effect(name: str) -> None:
    """Check the reference itself: the configs change what is generated, and rows end at different places."""
    plain, cases = golden(name)["cases"]["plain"]["tokens"], golden(name)["cases"]
    same = {key for key, case in cases.items() if case["tokens"] == plain}
    assert len(cases) > 50 and len(same) <= 6, same


# The options that have another effect in an encoder-decoder, without beams, for which other steps are compiled.
ENCODING = ("plain", "forced_bos", "begin_after_bos", "max_length", "min_length", "source_ngram_1", "all")
ALL = [pytest.param(name, (), marks=pytest.mark.slow) for name in ("llama", "marian", "t5")]


@pytest.mark.parametrize(("name", "keys"), [("gpt2", ()), pytest.param("t5", ENCODING, marks=pytest.mark.slow), *ALL])
def test_keras_generates_what_transformers_generates(name: str, keys: Sequence[str]) -> None:
    model = az.load(GOLDENS / name)
    assert differing(model, name, lambda config: setattr(model, "generation_config", config), keys) == []


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(n, marks=pytest.mark.slow) for n in ("marian", "gpt2", "t5"))]
)
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_files_generate_what_transformers_generates(name: str, suffix: str, tmp_path: Path) -> None:
    """The file obeys the config that it was exported with, and each of the others once its metadata has it."""
    model, file = az.load(GOLDENS / name), tmp_path / f"m.{suffix}"
    case = golden(name)["cases"]["all-beams"]
    model.generation_config = {**case["config"], "transformers_version": "5", "dola_layers": "high"}
    if suffix == "onnx":
        export.to_onnx(model, file)
    else:
        sizes: Any = {"prefill": 4} if name in ("gpt2", "llama") else {"sequence_length": 11}
        export.to_tflite(model, file, max_length=24, **sizes)
    runner = export.load(file, threads=1)
    assert runner.generation_defaults == case["config"]
    assert export.verify(model, file).passed
    prompt: Any = {key: np.array(value) for key, value in golden(name)["prompt"].items()}
    width = prompt["input_ids"].shape[1] if name in ("gpt2", "llama") else 1
    ends = case["config"]["eos_token_id"]
    assert cut(runner.generate(**prompt), width, ends) == cut(case["tokens"], width, ends)
    assert differing(runner, name, lambda config: runner.metadata.update({GENERATION: json.dumps(config)})) == []


def test_filters_of_sampling_as_in_transformers() -> None:
    stored = json.loads((STORED / "filters.json").read_text())
    logits = np.array(stored["logits"])
    for case in stored["filters"]:
        found = probabilities(logits, **{"temperature": 1.0, **case["options"]})
        expected = np.array(case["chances"])
        assert ((found > 0) == (expected > 0)).all(), case["options"]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0, err_msg=str(case["options"]))


# ---- what takes precedence -----------------------------------------------------------------------------------------


def follow(row: Sequence[int]) -> np.ndarray:
    """Return logits that prefer the next token of a cycle of ten, and then the one after it."""
    logits = -np.arange(10.0)[(np.arange(10) - row[-1] - 1) % 10]
    return logits


def with_config(config: dict[str, Any], *, start: int | None = None, max_length: int = 60) -> Fake:
    decoder: Any = Fake(follow, start=start, max_length=max_length, eos=config.get("eos_token_id"), pad=0)
    decoder.defaults, problems = obeyed(config, 10)
    assert not problems
    return decoder


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        ({"max_length": 6}, {}, [2, 3, 4, 5]),
        ({"max_length": 6}, {"max_new_tokens": 2}, [2, 3]),
        ({"max_new_tokens": 3, "max_length": 50}, {}, [2, 3, 4]),
        ({"max_new_tokens": 3, "bad_words_ids": [[3]]}, {}, [2, 4, 5]),
        ({"max_new_tokens": 3, "bad_words_ids": [[3]]}, {"bad_words_ids": None}, [2, 3, 4]),
        ({"max_new_tokens": 3, "bad_words_ids": [[3]]}, {"bad_words_ids": [[2]]}, [3, 4, 5]),
        ({"max_new_tokens": 3, "suppress_tokens": [2, 99]}, {}, [3, 4, 5]),  # 99 is outside of the vocabulary
        ({"max_new_tokens": 3, "suppress_tokens": [2]}, {"suppress_tokens": []}, [2, 3, 4]),
        ({"max_new_tokens": 3, "forced_eos_token_id": 9}, {}, [2, 3, 9]),
        ({"max_new_tokens": 3, "forced_eos_token_id": 9}, {"max_new_tokens": 2}, [2, 9]),
        ({"max_new_tokens": 3, "forced_eos_token_id": 9}, {"forced_eos_token_id": None}, [2, 3, 4]),
        ({"max_new_tokens": 5, "eos_token_id": [4, 3]}, {}, [2, 3]),
        ({"max_new_tokens": 5, "eos_token_id": [4, 3]}, {"stop_tokens": []}, [2, 3, 4, 5, 6]),
        ({"max_new_tokens": 4, "eos_token_id": 3, "min_length": 5}, {}, [2, 4, 5, 6]),
        ({"max_new_tokens": 4, "eos_token_id": 3, "min_length": 5}, {"min_new_tokens": 0}, [2, 3]),
        ({"max_new_tokens": 4, "eos_token_id": 3, "min_new_tokens": 2, "min_length": 50}, {}, [2, 4, 5, 6]),
        ({"max_new_tokens": 3, "do_sample": True, "temperature": 9.0}, {"temperature": 0}, [2, 3, 4]),
        ({"max_new_tokens": 3, "do_sample": False, "temperature": 9.0, "top_k": 3}, {}, [2, 3, 4]),
        ({"max_new_tokens": 3, "do_sample": True, "temperature": 9.0}, {"top_k": 1}, [2, 3, 4]),
        ({"max_new_tokens": 3, "do_sample": True, "temperature": 1e-6}, {"num_beams": 2}, [2, 3, 4]),
        ({"max_new_tokens": 3, "num_beams": 2}, {"callback": lambda _: None}, [2, 3, 4]),
        ({"max_new_tokens": 3, "num_beams": 2, "num_return_sequences": 2}, {"num_beams": 1}, [2, 3, 4]),
        ({"max_new_tokens": 3, "num_beams": 2}, {"temperature": 1e-6, "seed": 0}, [2, 3, 4]),
        ({"max_new_tokens": 3, "top_k": 0, "do_sample": True}, {"temperature": 1e-6}, [2, 3, 4]),
        ({"max_new_tokens": 99, "max_length": 99}, {}, [i % 10 for i in range(2, 60)]),  # as many as there is room for
    ],
)
def test_options_take_precedence_over_the_config(config: Any, options: Any, expected: list[int]) -> None:
    assert generate(with_config(config), [[0, 1]], **options)[0, 2:].tolist() == expected


def test_sampling_of_the_config() -> None:
    """A config that samples restricts sampling as transformers does: to 50 tokens, if it has no `top_k`."""
    wide = np.zeros(200)
    decoder: Any = Fake(lambda row: np.where(np.arange(200) < 60, wide + np.arange(200) * 1e-3, -9.0))
    kinds = {}
    for name, config in {
        "default": {"do_sample": True},
        "all": {"do_sample": True, "top_k": 0},
        "few": {"do_sample": True, "top_k": 3},
        "silent": {"top_k": 3},
    }.items():
        decoder.defaults = config
        found = generate(decoder, np.zeros((300, 1), int), max_new_tokens=4, seed=1)[:, 1:]
        kinds[name] = set(found.reshape(-1).tolist())
    assert kinds["default"] == set(range(10, 60))
    assert len(kinds["all"] & set(range(60))) == 60
    assert kinds["few"] == {57, 58, 59} and kinds["silent"] == {59}
    drawn = generate(decoder, np.zeros((300, 1), int), max_new_tokens=4, seed=1, temperature=1.0)[:, 1:]
    assert set(drawn.reshape(-1).tolist()) == {57, 58, 59}, "the filter is used once sampling is asked for"


def test_several_results_of_a_prompt() -> None:
    """Samples differ, beams come in the order of their scores, and greedy decoding has only one result."""
    decoder = Fake(follow, pad=0)
    drawn = generate(decoder, [[0, 1], [4, 5]], max_new_tokens=6, temperature=2.0, seed=1, num_return_sequences=3)
    assert drawn.shape == (6, 8) and len({tuple(row) for row in drawn.tolist()}) == 6
    assert drawn[:, :2].tolist() == [[0, 1]] * 3 + [[4, 5]] * 3
    sharper = Fake(lambda row: follow(row) * len(row), pad=0)  # the second new token matters more than the first
    beams = generate(sharper, [[0, 1], [4, 5]], max_new_tokens=2, num_beams=3, num_return_sequences=2)
    assert beams.tolist() == [[0, 1, 2, 3], [0, 1, 3, 4], [4, 5, 6, 7], [4, 5, 7, 8]]
    few = generate(decoder, [[0, 1]], max_new_tokens=1, num_beams=12, num_return_sequences=12)
    assert few[:, 2].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 0, 0], "more results than there are sequences"
    others: list[dict[str, Any]] = [{}, {"num_beams": 2}]
    for options in others:
        with pytest.raises(ValueError, match=r"num_return_sequences: got 3; accepted: at most num_beams, here [12]"):
            generate(decoder, [[0, 1]], num_return_sequences=3, **options)


def test_a_prompt_longer_than_the_config_allows() -> None:
    message = (
        r"input_ids: got 3 tokens; accepted: fewer than 3, the max_length of the model's generation config, or max_"
    )
    with pytest.raises(ValueError, match=message):
        generate(with_config({"max_length": 3}), [[0, 1, 2]])
    assert generate(with_config({"max_length": 3}), [[0, 1, 2]], max_new_tokens=1).tolist() == [[0, 1, 2, 3]]


def test_streams_and_stop_strings() -> None:
    """A stream has no beams, whatever the config; stop strings of the config need a tokenizer and end rows."""

    class Letters:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(LETTERS[number] for number in ids)

    decoder: Any = with_config({"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2})
    assert [column.tolist() for column in stream(decoder, [[0, 1]])] == [[2], [3], [4], [5]]
    decoder = with_config({"max_new_tokens": 4, "stop_strings": ["de"]})
    assert generate(decoder, [[0, 1]]).tolist() == [[0, 1, 2, 3, 4, 5]]
    decoder.defaults["tokenizer"] = Letters()
    assert generate(decoder, [[0, 1]]).tolist() == [[0, 1, 2, 3, 4]]
    assert generate(decoder, [[0, 1]], stop_strings=None).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_forced_first_tokens_need_a_single_token_before_them() -> None:
    config = {"max_new_tokens": 2, "forced_bos_token_id": 7, "begin_suppress_tokens": [8]}
    assert generate(with_config(config, start=3), [[0, 1]]).tolist() == [[3, 7, 9]]
    assert generate(with_config(config), [[1]]).tolist() == [[1, 7, 9]]
    assert generate(with_config(config), [[0, 1]]).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("beams", [1, 2])
def test_everything_forbidden(beams: int) -> None:
    """If no token is possible, greedy decoding and beams still return one, and sampling says what is wrong."""
    found = generate(Fake(follow), [[0, 1]], max_new_tokens=2, suppress_tokens=list(range(10)), num_beams=beams)
    assert found.shape == (1, 4)
    with pytest.raises(ValueError, match=r"logits: got a row without a greatest one; accepted: options that leave"):
        generate(Fake(follow), [[0, 1]], suppress_tokens=list(range(10)), temperature=1.0)


def test_invalid_values() -> None:
    """NaN and infinity are replaced before a token is chosen, if that is asked for."""
    decoder = Fake(lambda row: np.array([-np.inf, np.nan, -3.0, np.inf]))
    assert generate(decoder, [[0]], max_new_tokens=1, remove_invalid_values=True)[0, 1] == 3
    decoder = Fake(lambda row: np.array([-np.inf, np.nan, -3.0, -2.0]))
    assert generate(decoder, [[0]], max_new_tokens=1, remove_invalid_values=True)[0, 1] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("bad_words_ids", value) for value in (3, [3], [[]], [["a"]], [[-1]], "a", [[1.5]], [[True]])],
        *[("sequence_bias", value) for value in (3, [[1, 2]], [[[1], "a"]], {(1,): None}, [[[], 1.0]])],
        ("sequence_bias", [[[1], np.nan]]),
        *[("forced_bos_token_id", value) for value in (-1, "a", True, [1], 1.5)],
        *[("forced_eos_token_id", value) for value in (-1, "a", True, [[1]], 1.5)],
        *[(name, value) for name in ("suppress_tokens", "begin_suppress_tokens") for value in ("a", [-1], [[1]], 0.5)],
        *[("exponential_decay_length_penalty", value) for value in (3, [3], [-1, 1.5], [1, 0], ["a", 1.5], [1, 2, 3])],
        *[("no_repeat_ngram_size", value) for value in (-1, 1.5, "2", True)],
        *[("min_new_tokens", value) for value in (-1, None, 1.5)],
        *[("early_stopping", value) for value in (None, "always", 1)],
        *[("num_return_sequences", value) for value in (0, None, "2")],
        *[(name, value) for name in ("remove_invalid_values", "renormalize_logits") for value in (None, 1, "no")],
        *[(name, value) for name in ("typical_p", "top_h") for value in (0, 1.5, "a")],
        *[(name, value) for name in ("epsilon_cutoff", "eta_cutoff") for value in (-0.1, 1.5, "a")],
        *[("encoder_repetition_penalty", value) for value in (0, None, "a")],
    ],
)  # fmt: skip
def test_wrong_values(name: str, value: Any) -> None:
    decoder = Fake(follow)
    needed: Any = {"temperature": 1.0} if name in ("typical_p", "top_h", "epsilon_cutoff", "eta_cutoff") else {}
    with pytest.raises(ValueError, match=rf"^{name}: got .*; accepted: "):
        generate(decoder, [[0]], **{**needed, name: value})
    assert not decoder.asked
    if value is not None:
        kept, problems = obeyed({name: value}, 10)
        assert not kept and len(problems) == 1 and problems[0].startswith(f"{name}: got ")


@pytest.mark.parametrize("name", ["bad_words_ids", "sequence_bias", "forced_bos_token_id", "suppress_tokens"])
def test_ids_outside_of_the_vocabulary(name: str) -> None:
    value: Any = {"bad_words_ids": [[1, 10]], "sequence_bias": [[[10], 1.0]], "suppress_tokens": [10]}.get(name, 10)
    with pytest.raises(ValueError, match=rf"^{name}: got \[10\]; accepted: ids below 10, the vocab_size"):
        generate(Fake(follow), [[0]], **{name: value})


# ---- folders, files and warnings -----------------------------------------------------------------------------------


def folder_with(tmp_path: Path, config: Any, *, file: str = "generation_config.json", name: str = "marian") -> Path:
    folder = Path(shutil.copytree(GOLDENS / name, tmp_path / name))
    if file == "config.json":
        (folder / "generation_config.json").unlink()
        config = {**json.loads((folder / file).read_text()), **config}
    (folder / file).write_text(json.dumps(config))
    return folder


def loaded(folder: Path) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = az.load(folder)
    mine = [entry for entry in told if "generation config" in str(entry.message)]
    assert all(entry.filename == __file__ for entry in mine)
    return model, [str(entry.message) for entry in mine]


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.slow
def test_saved_models_keep_the_config(file: str, tmp_path: Path) -> None:
    """Published Marian models forbid their padding token, which is their most likely one, and have beams.

    Their older files have these entries in config.json, and no generation_config.json.
    """
    words = {"bad_words_ids": [[96], [5, 7]], "num_beams": 2, "max_length": 9, "decoder_start_token_id": 95}
    words |= {"eos_token_id": [0, 3] if file != "config.json" else 3, "pad_token_id": 94}
    model, told = loaded(folder_with(tmp_path, words, file=file))
    assert not told
    defaults = {**words, **({"forced_eos_token_id": 0} if file == "config.json" else {})}  # it is in that config.json
    assert model.generation_defaults == defaults
    az.to_huggingface(model, tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "generation_config.json").read_text()) == model.generation_config
    model.save(tmp_path / "m.keras")
    for path in (tmp_path / "theirs", az.save(model, tmp_path / "ours"), tmp_path / "m.keras"):
        assert az.load(path).generation_defaults == defaults
    if file == "config.json":
        return
    model.named_weights()["logits_bias"].assign(np.where(np.arange(97) == 96, 50.0, 0.0))
    ids = np.arange(3, 9)[None]
    found = model.generate(ids)
    assert found[0, 0] == 95 and 96 not in found and found.shape[1] <= 9
    model.generation_config = {"decoder_start_token_id": 95, "pad_token_id": 94}
    explicit: Any = {"bad_words_ids": [[96], [5, 7]], "num_beams": 2, "stop_tokens": [0, 3]}
    assert model.generate(ids, max_new_tokens=8, **explicit).tolist() == found.tolist()


def test_what_is_not_obeyed_is_said_once(tmp_path: Path) -> None:
    config = {
        **{"guidance_scale": 1.5, "penalty_alpha": 0.6, "num_beams": 2, "do_sample": True, "top_k": "many"},
        **{"token_healing": False, "num_beam_groups": 1, "use_cache": True, "chat_format": "raw", "cache_config": {}},
        **{"prompt_lookup_num_tokens": 3, "stop_strings": ["x"], "forced_eos_token_id": 97, "bad_words_ids": [[97]]},
        **{"pad_token_id": -1, "eos_token_id": [0, 500], "max_time": 2.0, "output_scores": True},
    }
    model, told = loaded(folder_with(tmp_path, config))
    (message,) = told
    for name in ("guidance_scale=1.5", "penalty_alpha=0.6", "top_k: got 'many'", "do_sample with num_beams=2"):
        assert name in message
    for name in ("stop_strings=", "forced_eos_token_id: got 97", "pad_token_id: got -1", "max_time=2.0"):
        assert name in message
    assert "\n" not in message and message.count("; ") == 7
    assert set(model.generation_defaults) == {"num_beams", "eos_token_id"}
    _, told = loaded(az.save(model, tmp_path / "ours"))
    assert len(told) == 1
    _, told = loaded(
        folder_with(tmp_path / "quiet", {"eos_token_id": 0, "temperature": 0.6, "_from_model_config": True})
    )
    assert not told


def test_other_engines(tmp_path: Path) -> None:
    """What they have no field for is a warning; entries without an effect are none."""
    config = {"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.0, "max_length": 9, "eos_token_id": 1}
    assert without_fields(config, "X", ()) == []
    config |= {"bad_words_ids": [[3], [4, 5]], "do_sample": True, "num_beams": 1, "length_penalty": 2.0, "min_p": 0.1}
    found = without_fields(config, "X", ("temperature", "do_sample"))
    assert found == ["X does not obey these entries of the generation config: bad_words_ids=[[3], [4, 5]], min_p=0.1"]
    assert without_fields({"bad_words_ids": [[3]]}, "X", ("suppress_tokens",)) == []


def test_texts_obey_too() -> None:
    """The lengths of a generation config take the place of the default of ``generate_text``."""
    model = tiny("gpt", "llama", max_length=40)
    rows = [[5, 6, 7], [8]]
    lengths = []
    for config in ({}, {"max_new_tokens": 4}, {"max_length": 9}):
        model.generation_config = config
        lengths.append({len(one.ids) for one in model.continuations(rows, stop_tokens=[])})
        assert len(model.continuations(rows, stop_tokens=[], max_new_tokens=2)[0].ids) == 2
    assert lengths == [{37}, {4}, {6}]
    with pytest.raises(ValueError, match=r"num_return_sequences: got 2 for texts; accepted: 1"):
        model.continuations(rows, num_return_sequences=2, num_beams=2)


def test_resolved_options_are_complete() -> None:
    """Every entry that ``obeyed`` returns reaches ``Options``, or decides about one."""
    config = {"num_beams": 2, "length_penalty": 0.5, "early_stopping": "never", "num_return_sequences": 2}
    config |= {"renormalize_logits": True, "encoder_no_repeat_ngram_size": 3, "encoder_repetition_penalty": 1.1}
    kept, problems = obeyed(config, 10)
    assert not problems and resolved({}, kept, width=1, limit=9) == config
