"""LiteRT-LM bundles: prompts made from chat templates, the contents of the file, and generation by the engine.

The templates resemble those of real models. The prompts for the engine are compared with the output of the templates.
Tests that need the engine are skipped if it is not installed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import zlib
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

import attention_zoo as az
from attention_zoo import export
from attention_zoo.bench.bundle import Bundle
from attention_zoo.bench.figures import Figures
from attention_zoo.cli import main
from attention_zoo.export.bundles import litertlm
from attention_zoo.export.bundles.litertlm_prompt import Affixes, Prompts, prompts_of
from attention_zoo.runtime.description import rows
from attention_zoo.runtime.litertlm.runner import content, section, sections
from attention_zoo.runtime.tflite.flatbuffer import packed, unpacked
from attention_zoo.text.tokenizer import Tokenizer
from helpers import randomise, shared, tiny

pytestmark = pytest.mark.runs_together

SPECIAL = ["<s>", "</s>", "<|user|>", "<|model|>"]
NO_ENGINE = importlib.util.find_spec("litert_lm") is None
engine = pytest.mark.skipif(NO_ENGINE, reason="litert-lm-api is not installed")

CHATML = (  # adds a default system message if there is none, as in SmolLM2
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|user|>system\nBe kind."
    "</s>\n' }}{% endif %}{{'<|user|>' + message['role'] + '\n' + message['content'] + '</s>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
BEGUN = (  # a start token, and trimmed contents, as in Llama 3
    "{{ bos_token }}{% for message in messages %}{{ '<|user|>' + message.role + '\n\n' + message.content | trim }}"
    "{{ '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n\n' }}{% endif %}"
)
NO_SYSTEM = (  # rejects system messages, and turns that do not alternate, as in Gemma
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('no') }}{% endif %}{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<|user|>' + role + '\n' + message.content | trim + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>model\n' }}{% endif %}"
)
BRACES = (  # text that template syntax would change: braces, a leading newline, trailing white space
    "{% for message in messages %}{% if message.role == 'user' %}{{ '\n{{% Q \"1\": ' + message.content + ' \n  ' }}"
    "{% elif message.role == 'system' %}{{ '{# ' + message.content + ' #}' }}{% else %}"
    "{{ 'A: \\\\' + message.content + '\t</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: \\\\' }}{% endif %}"
)
INSIDE = (  # puts the system message into the first question, as in Llama 2
    "{% for message in messages %}{% if message.role == 'system' %}{% set told = message.content %}"
    "{% elif message.role == 'user' %}{{ '[' }}{% if messages[0].role == 'system' and loop.index0 == 1 %}"
    "{{ '<<' + messages[0].content + '>>' }}{% endif %}{{ message.content + ']' }}{% else %}"
    "{{ message.content + '</s>' }}{% endif %}{% endfor %}"
)


def tokenizer(template: str | None = None, **config: Any) -> Tokenizer:
    """Return a tokenizer with a token for each printable ASCII character, and the special tokens."""
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    backend = Backend(models.BPE({token: i for i, token in enumerate([*SPECIAL, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    named = {} if template is None else {"chat_template": template}
    return Tokenizer(backend, bos_token="<s>", eos_token="</s>", **named, **config)


def gpt(template: str | None = CHATML, config: dict[str, Any] | None = None, **overrides: Any) -> Any:
    model = tiny("gpt", "llama", **{"vocab_size": 100, "max_length": 100, **overrides})
    model.tokenizer = tokenizer(template, **(config or {}))
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the tests that do not change it."""
    return export.to_litertlm(gpt(), tmp_path_factory.mktemp("bundle") / "m.litertlm", prefill=(8, 32)).path


def said(file: Path) -> Any:
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    return LlmMetadata.FromString(content(file, "LlmMetadataProto"))


def messages(*texts: str) -> list[dict[str, str]]:
    """Return alternating user and assistant messages; a first text that begins with "!" is a system message."""
    told = [{"role": "system", "content": texts[0][1:]}] if texts[0].startswith("!") else []
    roles = ("user", "assistant")
    return [*told, *({"role": roles[i % 2], "content": text} for i, text in enumerate(texts[len(told) :]))]


CONVERSATIONS = [("Hi {x}?",), ("!Be", "Hi"), ("a", "b", "c"), ("!x", " a\n", "b", "c\n\nd", "'\"", "e")]


@pytest.mark.parametrize(
    ("template", "start", "user", "model", "end"),
    [
        (CHATML, "<|user|>system\nBe kind.</s>\n", ("<|user|>user\n", "</s>\n"), ("<|user|>assistant\n", "</s>\n"), 4),
        (BEGUN, "<s>", ("<|user|>user\n\n", "</s>"), ("<|user|>assistant\n\n", "</s>"), 4),
        (NO_SYSTEM, "<s>", ("<|user|>user\n", "</s>\n"), ("<|user|>model\n", "</s>\n"), 4),
        (BRACES, "", ('\n{{% Q "1": ', " \n  "), ("A: \\", "\t</s>"), 0),
    ],
)
def test_prompts_are_the_template_s(template: str, start: str, user: Any, model: Any, end: int) -> None:
    coder = tokenizer(template)
    found = prompts_of(coder, ["</s>"])
    assert (found.start, found.end) == (start, end)
    assert (found.user.prefix, found.user.suffix) == user and (found.model.prefix, found.model.suffix) == model
    assert (found.system is None) == (template == NO_SYSTEM) and found.user.trimmed == (template in (BEGUN, NO_SYSTEM))
    ours = tokenizer(found.template())
    for texts in CONVERSATIONS:
        if template == NO_SYSTEM and texts[0].startswith("!"):
            with pytest.raises(ValueError, match="takes no system message"):
                ours.apply_chat_template(messages(*texts), add_generation_prompt=True)
            continue
        assert ours.apply_chat_template(messages(*texts), add_generation_prompt=True) == coder.apply_chat_template(
            messages(*texts), add_generation_prompt=True
        )
        # The engine passes the content of every message as a list of items.
        items = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages(*texts)]
        assert ours.apply_chat_template(items, add_generation_prompt=True) == coder.apply_chat_template(
            messages(*texts), add_generation_prompt=True
        )


def test_nothing_is_lost_between_turns() -> None:
    """Check that text after the end token of an answer is rendered together with the next question.

    The engine feeds only the text that a rendering adds to the previous one, which ends with the end token.
    """
    coder = tokenizer(CHATML)
    ours = tokenizer(prompts_of(coder, ["</s>"]).template())
    first, both = messages("a", "b"), messages("a", "b", "c")
    before = ours.apply_chat_template(first, add_generation_prompt=False)
    assert before.endswith("b</s>") and ours.apply_chat_template(
        both, add_generation_prompt=True
    ) == coder.apply_chat_template(both, add_generation_prompt=True)
    assert (
        ours.apply_chat_template(both, add_generation_prompt=True).removeprefix(before).startswith("\n<|user|>user\nc")
    )


def test_without_a_template_prompts_are_plain() -> None:
    assert prompts_of(tokenizer(), ["</s>"]) == Prompts(system=Affixes())
    assert tokenizer(Prompts().template()).apply_chat_template(messages("a"), add_generation_prompt=True) == "a"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (INSIDE, "has other texts around a question behind a system message"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes, repeats or leaves out what is said"),
        ("{% for m in messages %}{{ m.content }}{{ loop.index }}{% endfor %}", "has other texts around"),
        (
            "{% for m in messages %}{{ m.content }}|{% endfor %}{{ 'go' if add_generation_prompt }}",
            "ends a prompt with",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ '!' if loop.index > 3 }}{% endfor %}",
            "is more than the texts around",
        ),
        ("{{ raise_exception('never') }}", "got TemplateError: never"),
    ],
)
def test_templates_that_are_refused(template: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"chat_template: got .*accepted: ") as error:
        export.to_litertlm(gpt(template), tmp_path / "above" / "m.litertlm")
    assert reason in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("framed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_is_in_a_bundle(framed: bool, tmp_path: Path) -> None:
    model = gpt(BEGUN, {"add_bos_token": True} if framed else {}, eos_token_id=7)
    model.generation_config = {"eos_token_id": [9]}
    file = tmp_path / "m.litertlm"
    card = {"author": "Ada", "license": "MIT"}
    result = export.to_litertlm(model, file, prefill=(4, 16), max_length=60, card=card)
    assert (result.path, result.format, result.files, result.warnings) == (file, "litertlm", (file,), [])
    assert result.bytes == file.stat().st_size and [path.name for path in tmp_path.iterdir()] == ["m.litertlm"]
    assert [part.kind for part in sections(file)] == ["LlmMetadataProto", "HF_Tokenizer_Zlib", "TFLiteModel"]

    from litert_lm_builder import litertlm_peek

    header = io.StringIO()
    litertlm_peek.peek_litertlm_file(str(file), None, header)
    for name, text in card.items():
        assert f"Key: {name}, Value (String): {text}\n" in header.getvalue()
    assert export.describe(file)["card"] == card
    metadata = said(file)
    assert metadata.max_num_tokens == 60 and metadata.llm_model_type.HasField("generic_model")
    assert [list(stop.token_ids.ids) for stop in metadata.stop_tokens] == [[1], [7], [9]]
    assert list(metadata.start_token.token_ids.ids) == ([0] if framed else [])
    # The engine adds the start token itself, so the text must not begin with another one.
    begun = "" if framed else "<s>"
    assert metadata.prompt_templates.system.prefix == f"{begun}<|user|>system\n\n"
    assert (
        metadata.prompt_templates.user.prefix == "<|user|>user\n\n" and metadata.prompt_templates.user.suffix == "</s>"
    )
    assert metadata.prompt_templates.model.prefix == "<|user|>assistant\n\n"
    rendered = tokenizer(metadata.jinja_prompt_template).apply_chat_template(
        messages("a", "b", "c"), add_generation_prompt=True
    )
    assert "<s>" * framed + rendered == model.tokenizer.apply_chat_template(
        messages("a", "b", "c"), add_generation_prompt=True
    )

    packed = content(file, "HF_Tokenizer_Zlib")
    text = zlib.decompress(packed[8:])
    assert int.from_bytes(packed[:8], "little") == len(text)
    assert text.decode() == model.tokenizer.to_files(indent=False)["tokenizer.json"]

    taken = tmp_path / "taken.tflite"
    taken.write_bytes(content(file, "TFLiteModel"))
    assert export.verify(model, taken).passed
    runner = export.load(taken)
    assert sorted(runner.graphs) == ["decode", "prefill_16", "prefill_4"]
    options: dict[str, Any] = {"max_new_tokens": 8}
    assert runner.generate_text("Hi", **options) == model.generate_text("Hi", **options)


def test_a_date_is_told_of(tmp_path: Path) -> None:
    dated = (
        "{{ strftime_now('%Y') }}{% for m in messages %}({{ m.content }}){% endfor %}{{ '(' if add_generation_prompt }}"
    )
    result = export.to_litertlm(gpt(dated), tmp_path / "m.litertlm", prefill=4, stop_tokens=[3, 1])
    assert "date" in result.warnings[0]
    assert [stop.token_ids.ids[0] for stop in said(result.path).stop_tokens] == [1, 3]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: shared("bert", "backbone"), {}, "model: got a bert"),
        (lambda: shared("gpt", "backbone"), {}, "model: got a gpt, which is no causal decoder"),
        (lambda: shared("transformer", "original"), {}, "model: got a transformer"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), {}, "model: got"),
        (lambda: shared("gpt", "llama"), {}, "model.tokenizer: got none"),
        (lambda: gpt(vocab_size=90), {}, "tokenizer: got one of 100 tokens"),
        (gpt, {"path": "m.tflite"}, "path: got"),
        (gpt, {"stop_tokens": []}, "stop_tokens: got none"),
        (gpt, {"stop_tokens": [100]}, "stop_tokens: got [100]; accepted: ids from 0 to 99"),
        (gpt, {"max_length": 101}, "max_length: got 101"),
        (gpt, {"max_length": 0}, "max_length: got 0"),
        (gpt, {"prefill": 128}, "prefill: got [128]"),
        (gpt, {"precision": "int3"}, "precision: got 'int3'"),
    ],
)
def test_refused(make: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = make()
    if isinstance(model, keras.Sequential):
        model.build((None, 3))
    options = dict(options)
    with pytest.raises(ValueError, match="accepted") as error:
        export.to_litertlm(model, tmp_path / options.pop("path", "m.litertlm"), **options)
    assert message in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.litertlm"
    file.write_bytes(b"earlier")

    def fail(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(litertlm, "bundle", fail)
    with pytest.raises(OSError, match="no space"):
        export.to_litertlm(gpt(), file, prefill=4)
    assert file.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [file]


def test_files_that_are_no_bundles(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    damaged = {"other": b"PK\x03\x04" + bytes(100), "empty": b"", "cut": whole[: len(whole) // 2], "short": whole[:20]}
    for name, data in damaged.items():
        file = tmp_path / f"{name}.litertlm"
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"path: .*accepted: ") as error:
            export.load(file)
        assert "\n" not in str(error.value)


def test_a_bundle_takes_texts_only(bundle: Path) -> None:
    """Check the properties and errors for which the engine is not loaded."""
    file = bundle
    runner = export.load(file)
    assert runner.stop_tokens == [1] and runner.tokenizer is not None and runner.tokenizer.chat_templates
    assert runner.decoder().max_length == 100 and "texts of at most 100 tokens" in repr(runner)
    for call in (
        lambda: runner.generate([[1, 2]]),
        lambda: runner.run({}),
        lambda: runner.continuations([[1, 2]]),
    ):
        with pytest.raises(ValueError, match=r"path: got .*accepted: generate_text"):
            call()
    with pytest.raises(ValueError, match=r"providers: got .*for a LiteRT-LM file"):
        export.load(file, providers=["CPUExecutionProvider"])


def cli(*arguments: Any) -> Any:
    out = io.StringIO()
    command = ["attention-zoo", *map(str, arguments)]
    with mock.patch.object(sys, "argv", command), redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, out.getvalue()


@engine
@pytest.mark.parametrize(
    ("template", "framed"),
    [(CHATML, False), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((BEGUN, True), (NO_SYSTEM, False)))],
)
def test_the_engine_says_what_keras_says(template: str, framed: bool, tmp_path: Path) -> None:
    """Compare greedy decoding up to the last cache slot, for prompts with different remainders after the prefills."""
    model = gpt(template, {"add_bos_token": True} if framed else {}, max_length=96)
    runner = export.load(export.to_litertlm(model, tmp_path / "m.litertlm", prefill=(8, 32)).path)
    prompts: list[Any] = ["x", "hello there", "a b" * 13, "y" * 70, "z" * 91, "z" * 94]
    prompts += [messages(" Hi?\nok "), messages("a", "b", "c")]
    prompts += [] if template == NO_SYSTEM else [messages("!x", "y")]
    for prompt in prompts:
        expected, found = (one.continuations(prompt)[0] for one in (model, runner))
        assert found.text == expected.text, prompt
    assert not list(tmp_path.glob("*cache*"))


@engine
@pytest.mark.slow
def test_generation_config_in_the_engine(tmp_path: Path) -> None:
    """Forbidden tokens, sampling and lengths are in the bundle; what the engine lacks is a warning, twice."""
    model = randomise(gpt(), spread=0.6)
    plain = model.continuations("Hello", max_new_tokens=12, stop_tokens=[])[0].ids
    config: dict[str, Any] = {"suppress_tokens": plain[1:2], "bad_words_ids": [plain[3:4], [1]], "max_length": 14}
    model.generation_config = {**config, "repetition_penalty": 1.2, "eos_token_id": [1]}
    result = export.to_litertlm(model, tmp_path / "m.litertlm", prefill=8)
    message = "LiteRT-LM does not obey these entries of the generation config: repetition_penalty=1.2"
    assert [warning for warning in result.warnings if "config" in warning] == [message]
    assert list(said(result.path).suppress_tokens.ids) == sorted({plain[1], plain[3]}), "but not the end token"
    assert not said(result.path).HasField("sampler_params")
    with pytest.warns(UserWarning, match="repetition_penalty=1.2"):
        runner = export.load(result.path)
    model.generation_config = config
    (expected,) = model.continuations("Hello")
    assert runner.continuations("Hello")[0].ids == expected.ids != plain[:9]

    sampling = {"do_sample": True, "temperature": 0.5, "top_p": 0.75}
    model.generation_config = sampling
    file = export.to_litertlm(model, tmp_path / "sampled.litertlm", prefill=8).path
    sampler = said(file).sampler_params
    assert (sampler.k, sampler.p, sampler.temperature) == (50, 0.75, 0.5)
    runner = export.load(file)
    found = {runner.generate_text("Hello", max_new_tokens=12, seed=seed) for seed in (1, 2, 3)}
    assert len(found) > 1, "sampled"
    assert runner.generate_text("Hello", max_new_tokens=12, temperature=0) == model.generate_text(
        "Hello", max_new_tokens=12, temperature=0
    )


@engine
def test_the_engine_s_own_conversation(bundle: Path) -> None:
    """Check that the engine renders the turns of a conversation as the chat template of the model does."""
    model = gpt(CHATML)
    runner: Any = export.load(bundle)
    with runner.engine.create_conversation() as conversation:
        asked = conversation.render_message_to_string({"role": "user", "content": "a"})
    assert asked == model.tokenizer.apply_chat_template(messages("a"), add_generation_prompt=True)
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with runner.engine.create_conversation(messages=history) as conversation:
        asked = conversation.render_message_to_string({"role": "user", "content": "c"})
    assert (
        model.tokenizer.apply_chat_template(messages("a", "b", "c"), add_generation_prompt=True).endswith(asked)
        and "c</s>" in asked
    )


@engine
@pytest.mark.slow
def test_options_of_the_engine(tmp_path: Path) -> None:
    model = gpt(CHATML)
    runner = export.load(export.to_litertlm(model, tmp_path / "m.litertlm", prefill=8).path)
    text = model.generate_text("Hi", max_new_tokens=12)
    assert runner.generate_text(["Hi", "Hi"], max_new_tokens=12) == [text, text]
    assert "".join(runner.stream_text("Hi", max_new_tokens=12)) == text
    stop = text[3:5]
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_strings": stop}
    expected, found = (one.continuations("Hi", **options)[0] for one in (model, runner))
    assert (found.text, found.finish_reason) == (expected.text, "stop")
    assert runner.continuations("Hi", max_new_tokens=3)[0].finish_reason == "length"
    assert runner.generate_text("Hi", max_new_tokens=0) == ""
    drawn = [runner.generate_text("Hi", max_new_tokens=20, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    mistakes: list[dict[str, Any]] = [
        {"min_p": 0.1, "temperature": 1.0},
        {"num_beams": 2},
        {"repetition_penalty": 1.1},
        {"stop_tokens": [4]},
        {"max_new_tokens": 99},
        {"top_k": 3},
        {"temperature": -1},
        {"colour": 1},
    ]
    for wrong in mistakes:
        with pytest.raises(ValueError, match=f"({'|'.join(wrong)}|options|temperature): got .*accepted") as error:
            runner.generate_text("Hi", **wrong)
        assert "\n" not in str(error.value)
    for prompt in ("", "x" * 100, "x" * 98, []):  # with 98 tokens, the last prefill of 8 does not fit
        with pytest.raises(ValueError, match="prompts: got"):
            runner.generate_text(prompt)


def test_describe(tmp_path: Path) -> None:
    """Check that ``describe`` finds the requested options in the bundle."""
    model = gpt(BEGUN, {"add_bos_token": True}, eos_token_id=7)
    result = export.to_litertlm(model, tmp_path / "m.litertlm", prefill=(4, 16), max_length=60)
    facts = export.describe(result.path)
    assert (facts["format"], facts["family"], facts["precision"]) == ("litertlm", "gpt", "fp32")
    assert facts["config"] == json.loads(json.dumps(model.config.to_dict())) and facts["bytes"] == result.bytes
    assert (facts["max_tokens"], facts["vocabulary"], facts["chat_template"]) == (60, 100, True)
    assert (facts["stop_tokens"], facts["stop_texts"], facts["start_text"]) == ([1, 7], ["</s>", "$"], "<s>")
    assert facts["prompts"]["user"] == {"prefix": "<|user|>user\n\n", "suffix": "</s>"}
    sizes = {part["kind"]: part["bytes"] for part in facts["sections"]}
    assert sizes["TFLiteModel"] == len(content(result.path, "TFLiteModel"))
    assert facts["sections"][2]["model_type"] == "tf_lite_prefill_decode"
    assert list(facts["graphs"]) == ["decode", "prefill_16", "prefill_4"]
    shapes = {spec["name"]: spec["shape"] for spec in facts["graphs"]["prefill_16"]["inputs"]}
    assert shapes["tokens"] == [1, 16] and shapes["mask"] == [1, 1, 16, 60]
    assert facts["operators"] == result.operators
    shown = dict(rows(facts))
    assert shown["model message"] == r"'<|user|>assistant\n\n' … '</s>'" and shown["stop tokens"] == "'</s>', '$'"
    assert shown["prefill_16: input tokens"] == "int32 (1, 16)"


def test_describe_another_s_bundle(bundle: Path, tmp_path: Path) -> None:
    """Describe a third-party bundle: a stop token as text, a SentencePiece tokenizer, and a model without metadata."""
    from litert_lm_builder import LitertLmFileBuilder, TfLiteModelType
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    model = unpacked(content(bundle, "TFLiteModel"))
    model.metadata = []
    (tmp_path / "model.tflite").write_bytes(packed(model))
    said = LlmMetadata(max_num_tokens=100)
    said.llm_model_type.gemma3.SetInParent()
    said.stop_tokens.add().token_str = "<end_of_turn>"
    said.stop_tokens.add().token_ids.ids.append(106)
    (tmp_path / "said.pb").write_bytes(said.SerializeToString())
    (tmp_path / "pieces.model").write_bytes(b"sentence pieces")
    builder = LitertLmFileBuilder()
    builder.add_llm_metadata(str(tmp_path / "said.pb"), supports_thinking=False, supports_function_calling=False)
    builder.add_sentencepiece_tokenizer(str(tmp_path / "pieces.model"))
    builder.add_tflite_model(str(tmp_path / "model.tflite"), TfLiteModelType.PREFILL_DECODE)
    file = tmp_path / "theirs.litertlm"
    with file.open("wb") as stream:
        builder.build(stream, validate_metadata=False)
    facts = export.describe(file)
    assert (facts["family"], facts["precision"], facts["vocabulary"]) == (None, None, None)
    assert facts["stop_texts"] == ["<end_of_turn>", "106"] and facts["start_text"] is None and not facts["prompts"]
    assert list(facts["graphs"]) == ["decode", "prefill_32", "prefill_8"]
    assert facts["operators"]["EMBEDDING_LOOKUP"] == 3


@engine
def test_bench_in_the_engine(bundle: Path) -> None:
    """Check that prompts have exactly the requested number of tokens, and that lengths that do not fit are rejected."""
    file = bundle
    figures = Figures.from_dict(Bundle(str(file), 1, {}, [1, 40], [5, 90]).measure(4))
    assert (figures.format, figures.bytes, figures.shapes) == ("litertlm", file.stat().st_size, {"tokens": [1, 1]})
    assert [pace.length for pace in figures.prefill] == [1, 40] and [pace.length for pace in figures.decode] == [5, 90]
    for pace in (*figures.prefill, *figures.decode):
        assert 1 <= pace.runs <= 4 and pace.tokens_per_second > 0
    usual = Bundle(str(file), 1, {})
    for length in (1, 2, 17, 40, 99):
        assert len(usual.engine.tokenize(usual._text(length))) == length
    assert usual.usual_lengths() == {"prompt_lengths": [95], "cache_lengths": [16]}
    with pytest.raises(ValueError, match=r"path: LiteRT-LM stopped"):
        usual.measure(1, [99], [])
    with pytest.raises(ValueError, match=r"prompt_lengths: got 100; accepted: at most 99"):
        Bundle(str(file), 1, {}, [100])
    with pytest.raises(ValueError, match="batch: got 2 for a bundle"):
        export.benchmark(file, batch=2)


def test_export_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the options of ``to_litertlm``; others are rejected in one line before the model is loaded."""
    az.save(gpt(CHATML), tmp_path / "gpt")
    file = tmp_path / "m.litertlm"
    code, out = cli("export", tmp_path / "gpt", file, "--prefill", 8, "--max-length", 40, "--stop-token", 5, "--json")
    assert code == 0 and json.loads(out)["format"] == "litertlm"
    assert said(file).max_num_tokens == 40 and [list(stop.token_ids.ids) for stop in said(file).stop_tokens] == [[5]]
    code, out = cli("info", file)
    assert code == 0 and "40 tokens" in out and "prefill_8: input tokens" in out and "'<|user|>user" in out
    code, out = cli("info", file, "--json")
    assert code == 0 and json.loads(out)["stop_tokens"] == [5]
    for arguments, message in (
        (("--cache",), "cache: got True for litertlm"),
        (("--target", "standard"), "target: got 'standard' for litertlm"),
        (("--batch-size", 2), "batch_size: got one for a bundle"),
        (("--sequence-length", 8), "sequence_length: got one for a bundle"),
        (("--precision", "int3"), "precision: got 'int3'"),
        (("--precision", "int4", "--method", "gpt"), "precision.method: got 'gpt'"),
    ):
        capsys.readouterr()
        code, _ = cli("export", tmp_path / "none", tmp_path / "other.litertlm", *arguments)
        error = capsys.readouterr().err
        assert code == 2 and message in error and error.count("\n") == 1 and not (tmp_path / "other.litertlm").exists()
    damaged = tmp_path / "damaged.litertlm"
    place = section(file, "HF_Tokenizer_Zlib")
    whole = bytearray(file.read_bytes())
    whole[place.begin + 8 : place.end] = bytes(place.end - place.begin - 8)
    damaged.write_bytes(whole)
    for arguments, message in (
        (("info", damaged), "damaged tokenizer"),
        (("info", tmp_path / "none.litertlm"), "is not a file"),
        (("export", tmp_path / "gpt", tmp_path / "m.onnx", "--stop-token", 5), "stop_tokens: got [5] for onnx"),
    ):
        capsys.readouterr()
        code, _ = cli(*arguments)
        error = capsys.readouterr().err
        assert code == 2 and message in error, error


@engine
def test_command_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = gpt(CHATML), bundle
    code, out = cli("generate", file, "Hi", "--max-new-tokens", 6, "--json")
    assert code == 0 and json.loads(out)[0]["text"] == model.generate_text("Hi", max_new_tokens=6)
    code, out = cli("chat", file, "--once", "a", "--max-new-tokens", 6)
    assert code == 0 and out.rstrip("\n") == model.generate_text(messages("a"), max_new_tokens=6).rstrip("\n")
    for arguments, message in (
        (("chat", file, "--once", "a", "--min-p", 0.1, "--temperature", 1), "min_p: got 0.1, which LiteRT-LM has not"),
        (("generate", file, "--ids", "1 2"), "the engine takes no ids"),
        (("generate", tmp_path / "none.litertlm", "a"), "which is not a file"),
    ):
        capsys.readouterr()
        code, _ = cli(*arguments)
        error = capsys.readouterr().err
        assert code == 2 and message in error and error.count("\n") == 1


@pytest.mark.slow
def test_in_another_precision(tmp_path: Path) -> None:
    """Check that the bundle contains an int8 TFLite file, and that the engine and its runner generate the same text."""
    model = gpt(CHATML, hidden_dim=64, max_length=64)
    options: dict[str, Any] = {"precision": "int8", "prefill": 8, "least_cosine": 0, "samples": ["Hi", "a b"]}
    result = export.to_litertlm(model, tmp_path / "m.litertlm", **options)
    assert result.precision == "int8" and result.accuracy is not None
    taken = tmp_path / "taken.tflite"
    taken.write_bytes(content(result.path, "TFLiteModel"))
    small, bundle = export.load(taken), export.load(result.path)
    assert small.precision == bundle.precision == "int8"
    if not NO_ENGINE:
        found, expected = (one.generate_text("Hello", max_new_tokens=4) for one in (bundle, small))
        assert found == expected
