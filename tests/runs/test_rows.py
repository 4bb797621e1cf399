"""Rows and their labels, counted by hand with a tokenizer of whole words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from attention_zoo.runs.data import Rows
from attention_zoo.runs.rows import encoded, read_examples, split
from attention_zoo.text.tokenizer import Tokenizer

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


def test_only_the_assistant_is_learned_from() -> None:
    turns = [{**USER, "content": "w1 w2"}, {**SAYS, "content": "w3"}, {**USER, "content": "w4"}]
    turns.append({**SAYS, "content": "w5 w6"})
    found, labels = encoded(words(chat_template=TEMPLATE), [{"messages": turns}], 32)
    whole = ids("<user> w1 w2 <end> <assistant> w3 <end> <user> w4 <end> <assistant> w5 w6 <end>")
    assert found.tolist() == [[*whole, 1, 1]]
    targets = [-100] * 5 + ids("w3 <end>") + [-100] * 4 + ids("w5 w6 <end>")
    assert labels.tolist() == [[*targets, -100, -100]]


def test_prompts_with_completions() -> None:
    example = {"prompt": "w1 w2", "completion": "w3"}
    found, labels = encoded(words(), [example], 32)
    assert found[0, :4].tolist() == ids("w1 w2 w3 <end>")
    assert labels[0, :4].tolist() == [-100, -100, *ids("w3 <end>")]
    chats = encoded(words(chat_template=TEMPLATE), [example], 32)[0]
    assert chats[0, :7].tolist() == ids("<user> w1 w2 <end> <assistant> w3 <end>")


def test_texts_are_joined_and_cut() -> None:
    found, labels = encoded(words(), [{"text": "w1 w2 w3 w4 w5"}, {"text": "w6 w7"}], 8)
    assert found.tolist() == [ids("w1 w2 w3 w4 w5 <end> w6 w7")]  # the last token alone is no row
    np.testing.assert_array_equal(found, labels)


def test_rows_without_a_target() -> None:
    long = {"prompt": "w1 " * 20, "completion": "w2"}
    found, _ = encoded(words(), [long, {"prompt": "w1", "completion": "w2"}], 8)
    assert len(found) == 1
    with pytest.raises(ValueError, match=r"^data\.length: got 8"):
        encoded(words(), [long], 8)


def test_batches() -> None:
    found, labels = encoded(words(), [{"prompt": f"w{i}", "completion": f"w{i}"} for i in range(7)], 8)
    rows, again = Rows(found, labels, 3, seed=4), Rows(found, labels, 3, seed=4)
    seen = []
    for epoch in range(2):
        rows.epoch = again.epoch = epoch
        rows.on_epoch_begin()
        again.load_state_dict(rows.state_dict())
        again.on_epoch_begin()
        batches = [rows[i] for i in range(len(rows))]
        assert all((batches[i][0]["input_ids"] == again[i][0]["input_ids"]).all() for i in range(len(rows)))
        firsts = np.concatenate([x["input_ids"][:, 0] for x, _ in batches])
        assert sorted(firsts[:7].tolist()) == list(range(4, 11))
        assert (batches[-1][1][1:] == -100).all() and batches[-1][1].shape == batches[0][1].shape
        seen.append(firsts[:7].tolist())
        x, y = batches[0]
        word = x["input_ids"][0, 0]
        assert y[0, :3].tolist() == [-100, word, 0]  # the completion and the end are learned from
    assert seen[0] != seen[1]


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    for line, said in (
        ("{", "line 2"),
        ('{"other": 1}', r"line 2: got \{'other': 1\}; accepted: an object with"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 2"),
        ('{"text": ""}', "line 2"),
        ("[]", "line 2"),
    ):
        file.write_text(json.dumps({"text": "a"}) + "\n" + line + "\n")
        with pytest.raises(ValueError, match=said):
            read_examples("data.train", file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="which is empty"):
        read_examples("data.train", file)
    text = tmp_path / "a.txt"
    text.write_text("one\ntwo")
    assert read_examples("data.train", text) == [{"text": "one\ntwo"}]


def test_split() -> None:
    train, held = split(list(range(10)), 0.25, 0)
    assert len(held) == 3 and sorted(train + held) == list(range(10)) and split(list(range(10)), 0.25, 0)[1] == held
    with pytest.raises(ValueError, match=r"held_out: got 0.9 of 1"):
        split([1], 0.9, 0)
