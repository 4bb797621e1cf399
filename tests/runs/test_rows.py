"""Rows and their labels, counted by hand with a tokenizer of whole words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from attention_zoo.runs.rows import encoded, read_examples, split
from attention_zoo.text.tokenizer import Tokenizer
from attention_zoo.training.data import Records

WORDS = ["<end>", "<pad>", "<user>", "<assistant>", *(f"w{i}" for i in range(20))]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
USER, SAYS = {"role": "user"}, {"role": "assistant"}


def words(**config: str) -> Tokenizer:
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend, **{"eos_token": "<end>", "pad_token": "<pad>", **config})


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def arrays(tokenizer: Tokenizer, examples: list[dict[str, Any]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and labels of all rows, of which the mask must cover all but the padding."""
    given = Records(examples, [f"data.jsonl:{i}" for i, _ in enumerate(examples, 1)])
    rows, _ = encoded(tokenizer, given, length, batch_size=100, shuffle=False)
    inputs, labels = rows[0]
    np.testing.assert_array_equal(inputs["attention_mask"], inputs["input_ids"] != tokenizer.pad_token_id)
    assert rows.tokens == inputs["attention_mask"].sum()
    return inputs["input_ids"], labels


def test_only_the_assistant_is_learned_from() -> None:
    turns = [{**USER, "content": "w1 w2"}, {**SAYS, "content": "w3"}, {**USER, "content": "w4"}]
    turns.append({**SAYS, "content": "w5 w6"})
    found, labels = arrays(words(chat_template=TEMPLATE), [{"messages": turns}], 32)
    whole = ids("<user> w1 w2 <end> <assistant> w3 <end> <user> w4 <end> <assistant> w5 w6 <end>")
    assert found.tolist() == [[*whole, 1, 1]]
    targets = [-100] * 5 + ids("w3 <end>") + [-100] * 4 + ids("w5 w6 <end>")
    assert labels.tolist() == [[*targets, -100, -100]]


def test_prompts_with_completions() -> None:
    example = {"prompt": "w1 w2", "completion": "w3"}
    found, labels = arrays(words(), [example], 32)
    assert found[0, :4].tolist() == ids("w1 w2 w3 <end>")
    assert labels[0, :4].tolist() == [-100, -100, *ids("w3 <end>")]
    chats = arrays(words(chat_template=TEMPLATE), [example], 32)[0]
    assert chats[0, :7].tolist() == ids("<user> w1 w2 <end> <assistant> w3 <end>")


def test_texts_are_joined_and_cut() -> None:
    found, labels = arrays(words(), [{"text": "w1 w2 w3 w4 w5"}, {"text": "w6 w7"}], 8)
    assert found.tolist() == [ids("w1 w2 w3 w4 w5 <end> w6 w7")]  # the last token alone is no row
    np.testing.assert_array_equal(found, labels)


def test_an_end_token_of_the_tokenizer_is_not_a_second_one() -> None:
    tokenizer = words()
    ending = processors.TemplateProcessing("$A <end>", special_tokens=[("<end>", 0)])
    tokenizer.backend.post_processor = ending
    texts = arrays(tokenizer, [{"text": "w1 w2"}, {"text": "w3"}], 8)[0]
    assert texts.tolist() == [ids("w1 w2 <end> w3 <end> <pad> <pad> <pad>")]
    found = arrays(tokenizer, [{"prompt": "w1 w2", "completion": "w3"}], 8)[0]
    assert found[0, :4].tolist() == ids("w1 w2 w3 <end>")


def test_rows_without_a_target() -> None:
    long = {"prompt": "w1 " * 20, "completion": "w2"}
    found, _ = arrays(words(), [long, {"prompt": "w1", "completion": "w2"}], 8)
    assert len(found) == 1
    some = Records([long, {"prompt": "w1", "completion": "w2"}], ["a:1", "a:2"])
    assert encoded(words(), some, 8)[1] == 1 and encoded(words(), some, 64)[1] == 0  # examples that are cut
    with pytest.raises(ValueError, match=r"^data\.length: got 8"):
        arrays(words(), [long], 8)


def test_a_wrong_conversation_is_named() -> None:
    good = {"messages": [{**USER, "content": "w1"}, {**SAYS, "content": "w2"}]}
    for wrong in ({"messages": [3, {**SAYS, "content": "w2"}]}, {"messages": [{**USER, "content": "w1"}]}):
        with pytest.raises(ValueError, match=r"^data\.jsonl:2: "):
            arrays(words(chat_template=TEMPLATE), [good, wrong], 32)


def test_conversations_need_a_template() -> None:
    good = {"messages": [{**USER, "content": "w1"}, {**SAYS, "content": "w2"}]}
    with pytest.raises(ValueError, match=r"^model.source: got a tokenizer without a chat template for data\.jsonl:1"):
        arrays(words(), [good], 32)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    for line, said in (
        ("{", r"data\.jsonl:2: got '\{', which is not JSON"),
        ('{"other": 1}', r"^data\.train: .*data\.jsonl:2: got \{'other': 1\}; accepted: an object with"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"jsonl:2"),
        ('{"text": ""}', "jsonl:2"),
        ("[]", "jsonl:2"),
        ('{"text": "\\ud800"}', "jsonl:2: .* surrogates not allowed"),
    ):
        file.write_text(json.dumps({"text": "a"}) + "\n" + line + "\n")
        with pytest.raises(ValueError, match=said):
            read_examples("data.train", file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="which is empty"):
        read_examples("data.train", file)
    text = tmp_path / "a.txt"
    text.write_text("one\ntwo")
    assert read_examples("data.train", text).values == [{"text": "one\ntwo"}]
    text.write_bytes(b"\xef\xbb\xbfone\r\ntwo")  # as Windows writes it
    assert read_examples("data.train", text).values == [{"text": "one\ntwo"}]
    text.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"^data.train: .*a.txt cannot be read: .*; accepted: a UTF-8 file"):
        read_examples("data.train", text)
    for name in ("a.ndjson", "a.JSONL"):
        (tmp_path / name).write_text('{"text": "a"}\n')
        assert read_examples("data.train", tmp_path / name).values == [{"text": "a"}]
    for name in ("a.json", "a.parquet", "a.csv"):  # whose bytes would be trained on
        (tmp_path / name).write_text('[{"text": "a"}]')
        with pytest.raises(ValueError, match=f"^data.train: got .*{name}; accepted: JSON lines"):
            read_examples("data.train", tmp_path / name)


def test_split() -> None:
    examples = Records(range(10), [f"data.jsonl:{i}" for i in range(10)])
    train, held = split(examples, 0.25, 0)
    assert len(held) == 3 and sorted(train.values + held.values) == examples.values
    assert split(examples, 0.25, 0)[1].values == held.values
    hundred = Records(list(range(100)), [str(i) for i in range(100)])
    assert len(split(hundred, 0.07, 0)[1].values) == 7  # 0.07 · 100 is a little more in floating point
    assert all(part.places == [f"data.jsonl:{i}" for i in part.values] for part in (train, held))
    with pytest.raises(ValueError, match=r"held_out: got 0.9 of 1"):
        split(Records([1], ["data.jsonl:1"]), 0.9, 0)
