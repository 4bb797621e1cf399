"""Batches of texts and conversations: their content and order, resuming, sharding, and errors with their places."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import attention_zoo as az
from attention_zoo.training.data.chats import assistant_tokens
from attention_zoo.training.data.masking import chosen_tokens
from attention_zoo.training.data.rows import best_fit

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran", "un", "##happi", "##ly", "far", "away"]
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHAT += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TALK = [
    {"role": "user", "content": "Hi! <|im_end|>"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "Yes?"},
]


@pytest.fixture(scope="module")
def bytewise() -> Any:
    """A tokenizer whose tokens are bytes, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return az.Tokenizer(backend, eos_token="<|im_end|>", chat_template=CHAT)


@pytest.fixture(scope="module")
def wordpieces() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    backend = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(names[:5])
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=frame)
    backend.decoder = decoders.WordPiece()
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return az.Tokenizer(backend, **{f"{name}_token": token for name, token in special.items()})


def texts(number: int = 30) -> list[str]:
    return [f"{i}:" + "abcdefghij"[: i % 7] * (i % 4) for i in range(number)]


def equal(one: Iterable[Any], other: Iterable[Any]) -> bool:
    flat = [keras.tree.flatten(list(batches)) for batches in (one, other)]
    return len(flat[0]) == len(flat[1]) and all(np.array_equal(*pair) for pair in zip(*flat, strict=True))


def test_packed_rows_contain_every_text_once(bytewise: Any) -> None:
    data = az.data.pack(texts(), bytewise, 24, batch_size=4, seed=1)
    found = []
    for inputs, labels in data:
        for ids, segments, targets in zip(*inputs.values(), labels, strict=True):
            for number in range(1, segments.max() + 1):
                document = ids[segments == number]
                assert targets[segments == number].tolist() == [-100, *document[1:]]
                assert document[-1] == bytewise.eos_token_id
                found.append(bytewise.decode(document))
            assert (targets[segments == 0] == -100).all()
            assert (np.diff(np.flatnonzero(segments)) == 1).all()
    assert sorted(found) == sorted(texts())
    assert data.filled == sum(len(text) + 1 for text in texts()) / (len(data) * 4 * 24 - 24 * (-data.number % 4))


def test_long_texts_are_cut_or_named(bytewise: Any) -> None:
    data = az.data.pack(["abcdefghij", "xy"], bytewise, 4, batch_size=9, eos=False, shuffle=False)
    inputs, _ = data[0]
    parts = [bytewise.decode(row[s > 0]) for row, s in zip(*inputs.values(), strict=True)]
    assert sorted(parts) == ["abcd", "efgh", "ijxy"]
    with pytest.raises(ValueError, match=r"^texts\[1\]: got 11 tokens; accepted: at most length=4, or split=True"):
        az.data.pack(["ab", "abcdefghij"], bytewise, 4, split=False)


def test_best_fit(rng: Any) -> None:
    lengths = rng.integers(1, 50, 300)
    bins = best_fit(lengths, 50)
    assert sorted(i for one in bins for i in one) == list(range(300))
    sums = [sum(lengths[i] for i in one) for one in bins]
    assert max(sums) <= 50 and len(bins) <= 1.05 * -(-lengths.sum() // 50)


def test_epochs_are_deterministic_and_differ(bytewise: Any) -> None:
    def make(**options: Any) -> Any:
        return az.data.pack(texts(), bytewise, 12, batch_size=3, **options)

    one, other = make(seed=5), make(seed=5)
    first, second = list(one), list(one)  # two epochs
    assert equal(first, list(other)) and equal(second, list(other))
    assert not equal(first, second) and not equal(first, list(make(seed=6)))
    assert equal(list(make(shuffle=False)), list(make(shuffle=False, seed=3)))
    other.set_epoch(1)
    assert equal(second, [other[i] for i in range(len(other))])


def test_shards_divide_every_epoch(bytewise: Any) -> None:
    def make(**options: Any) -> Any:
        return az.data.pack(texts(), bytewise, 12, **options)

    whole = list(make(batch_size=6, drop_remainder=True))
    shards = [make(batch_size=2, shard=(i, 3)) for i in range(3)]
    assert {len(shard) for shard in shards} == {len(whole)}
    for epoch, batches in enumerate(zip(whole, *shards, strict=True)):
        together, *parts = batches
        joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        assert equal([together], [joined]), epoch
    with pytest.raises(ValueError, match=r"^shard: got 3; accepted: an integer of at least 0 and below 3"):
        make(shard=(3, 3))
    with pytest.raises(ValueError, match=r"^batch_size: got 100"):
        make(batch_size=100, shard=(0, 2))


def test_resuming_within_an_epoch(bytewise: Any) -> None:
    make = lambda: az.data.pack(texts(), bytewise, 12, batch_size=2, seed=2)  # noqa: E731
    whole = make()
    expected = [*list(whole), *list(whole)]
    data = make()
    taken = [batch for batch, _ in zip(data, range(4), strict=False)]
    state = json.loads(json.dumps(data.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert state["epoch"] == 0 and state["batch"] in (4, 5)  # ``zip`` may have taken one more
    assert equal([*expected[: state["batch"]], *list(resumed), *list(resumed)], expected)
    assert equal(taken, expected[:4])
    for wrong in ({**state, "seed": 9}, {**state, "rows": 1}):
        with pytest.raises(ValueError, match=r"^state: got"):
            make().load_state_dict(wrong)
    with pytest.raises(ValueError, match=r"^batch: got 999"):
        make().load_state_dict({**state, "batch": 999})


def recorded(model: Any, data: Any, **options: Any) -> list[np.ndarray]:
    """Return the ids of every batch that ``fit`` trains on."""
    seen: list[np.ndarray] = []
    step = model.train_step

    def train_step(batch: Any) -> Any:
        seen.append(np.asarray(batch[0]["input_ids"]))
        return step(batch)

    model.train_step = train_step
    model.compile("sgd", az.losses.CausalLM(), run_eagerly=True)
    model.fit(data, verbose=0, **options)
    model.train_step = step
    return seen


@pytest.mark.slow
def test_fit_follows_the_epochs_and_resumes(bytewise: Any) -> None:
    make = lambda: az.data.pack(texts(12), bytewise, 12, batch_size=1, seed=2)  # noqa: E731
    model = az.GPT(vocab_size=258, num_layers=1, num_heads=1, hidden_dim=4, max_length=12)
    whole = make()
    expected = [batch[0]["input_ids"] for _ in range(3) for batch in whole]
    data = make()
    assert equal(recorded(model, data, epochs=3), expected)
    assert equal(recorded(model, data, epochs=1), expected[: data.total])  # again from the first epoch

    state = make().state_dict(steps=data.total + 4)
    assert (state["epoch"], state["batch"]) == (1, 4)
    resumed = make()
    resumed.load_state_dict(state)
    with pytest.warns(UserWarning, match="ran out of data"):  # Keras expected a whole epoch
        seen = recorded(model, resumed, epochs=3, initial_epoch=1)
    assert equal(seen, expected[data.total + 4 :])
    # Epochs of Keras that are shorter than those of the data.
    assert equal(recorded(model, make().tf_data().repeat(), epochs=3, steps_per_epoch=5), expected[:15])
    with pytest.raises(ValueError, match="steps_per_epoch: got 5 for data of"):
        recorded(model, make(), epochs=3, steps_per_epoch=5)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 8])  # within the first epoch, and at the end of the first one
@pytest.mark.parametrize("given", [False, True])
def test_resume_callback_finds_the_batches(bytewise: Any, stop: int, given: bool, tmp_path: Path) -> None:
    """A run that fails after `stop` steps and is started again trains on the batches of one that does not fail."""

    class Fail(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            if self.steps > stop:
                raise KeyboardInterrupt

    def attempt(*callbacks: Any) -> list[np.ndarray]:
        data = az.data.pack(texts(24), bytewise, 12, batch_size=2, seed=2)
        assert data.total == 8
        model = az.GPT(vocab_size=258, num_layers=1, num_heads=1, hidden_dim=4, max_length=12)
        seen: list[np.ndarray] = []
        step = model.train_step

        def train_step(batch: Any) -> Any:
            seen.append(np.asarray(batch[0]["input_ids"]))
            return step(batch)

        model.train_step = train_step
        model.compile("sgd", az.losses.CausalLM(), run_eagerly=True)
        resume = az.callbacks.Resume(tmp_path / "run", save_freq=1, data=data if given else None)
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(data, epochs=2, verbose=0, callbacks=[resume, *callbacks])
        return seen

    before = attempt(Fail())
    assert len(before) == stop
    after = attempt()
    expected = az.data.pack(texts(24), bytewise, 12, batch_size=2, seed=2)
    expected = [batch[0]["input_ids"] for _ in range(2) for batch in expected]
    # Within an epoch, Resume computes and undoes the first step to pass over those that were done.
    assert equal([*before, *after[len(after) - (16 - stop) :]], expected)


def test_tf_data(bytewise: Any) -> None:
    make = lambda: az.data.pack(texts(), bytewise, 12, batch_size=4)  # noqa: E731
    found = [keras.tree.map_structure(np.asarray, batch) for batch in make().tf_data()]
    assert equal(found, list(make()))


def test_whole_words_are_masked(wordpieces: Any) -> None:
    sentences = ["the cat sat on the mat", "unhappily the dog ran far far away", "away"] * 200
    data = az.data.masked(sentences, wordpieces, 12, rate=0.3, batch_size=50, seed=4)
    chosen = kept = masked = tokens = 0
    for inputs, labels in data:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        original = np.where(labels != -100, labels, ids)
        assert ((labels == -100) | ((original >= 5) & (mask == 1))).all()  # no special token
        for row, targets in zip(original, labels != -100, strict=True):
            assert wordpieces.decode(row) in sentences[:3]
            word = np.isin(row, [12, 13, 14])  # "un", "##happi", "##ly": all or none
            assert targets[word].all() or not targets[word].any()
            assert targets.any()
        at = labels != -100
        chosen, tokens = chosen + at.sum(), tokens + (original >= 5).sum()
        masked, kept = masked + (ids[at] == 4).sum(), kept + (ids[at] == labels[at]).sum()
        assert (ids[~at] == original[~at]).all()
    assert 0.3 < chosen / tokens <= 0.375  # the tokens of whole words: 2 of 6, 3 of 9 and 1 of 1 at most
    assert abs(masked / chosen - 0.8) < 0.03 and 0.08 < kept / chosen < 0.15  # 10 %, and random ones that are the same
    assert not equal([data.batch(0, 0)], [data.batch(1, 0)])
    again = az.data.masked(sentences, wordpieces, 12, rate=0.3, batch_size=25, seed=4)
    assert equal([data.batch(1, 0)[1][:25]], [again.batch(1, 0)[1]])  # rows do not depend on their batch


def test_chosen_words(rng: Any) -> None:
    words = np.array([-1, 0, 1, 1, 1, 2, 3, -1])
    counts = np.zeros(8)
    for _ in range(2000):
        chosen = chosen_tokens(words, 0.34, rng)
        assert 1 <= chosen.sum() <= 3
        counts += chosen
    assert counts[0] == counts[7] == 0 and counts[2] == counts[3] == counts[4] > 0
    assert not chosen_tokens(words, 0.0, rng).any()


def test_split_and_packed_masked_texts(wordpieces: Any) -> None:
    long = " ".join(["the cat sat on the mat"] * 3)
    with pytest.raises(ValueError, match=r"^texts\[1\]: got 20 tokens; accepted: at most length=10"):
        az.data.masked(["cat", long], wordpieces, 10)
    data = az.data.masked([long, "cat"], wordpieces, 10, split=True, pack=True, shuffle=False)
    inputs, labels = data[0]
    original = np.where(labels != -100, labels, inputs["input_ids"])
    pairs = [(row[s == n]) for row, s in zip(original, inputs["segment_ids"], strict=True) for n in (1, 2)]
    found = [wordpieces.decode(row) for row in pairs if len(row)]
    expected = ["the cat sat on the mat the cat", "sat on the mat the cat sat on", "the mat", "cat"]
    assert sorted(found) == sorted(expected)
    with pytest.raises(ValueError, match=r"^tokenizer: got one without a mask token"):
        az.data.masked(["a"], az.Tokenizer(wordpieces.backend), 10)


def test_only_the_assistant_has_labels(bytewise: Any) -> None:
    ids, spoken = assistant_tokens(TALK, bytewise)
    said = bytewise.decode([i for i, one in zip(ids, spoken, strict=True) if one], skip_special_tokens=False)
    assert said == "Good day.<|im_end|>Yes?<|im_end|>"
    assert ids == bytewise.apply_chat_template(TALK, tokenize=True)
    assert bytewise.decode(ids, skip_special_tokens=False) == bytewise.apply_chat_template(TALK)
    data = az.data.chats([TALK, TALK[:2]], bytewise, 128, pack=True)
    inputs, labels = data[0]
    said = bytewise.decode(labels[labels != -100], skip_special_tokens=False)
    assert sorted(said.split("<|im_end|>")) == ["", "Good day.", "Good day.", "Yes?"]
    assert inputs["segment_ids"].max() == (2 if len(inputs["input_ids"]) == 1 else 1)
    # An answer that begins a conversation.
    ids, spoken = assistant_tokens([TALK[1], TALK[0]], bytewise)
    said = bytewise.decode([i for i, one in zip(ids, spoken, strict=True) if one], skip_special_tokens=False)
    assert said == "Good day.<|im_end|>"
    dashed = [{"role": "assistant", "content": "--help"}]
    ids, spoken = assistant_tokens(dashed, bytewise)
    said = bytewise.decode([i for i, one in zip(ids, spoken, strict=True) if one], skip_special_tokens=False)
    assert said == "--help<|im_end|>"
    # A conversation that the template writes differently later is refused, not labelled wrongly.
    last_only = "{% for m in messages %}{{ m.role }}:{% if loop.last %}think{% endif %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(ValueError, match=r"messages: got an answer, number 1, that the chat template writes diff"):
        assistant_tokens(TALK, bytewise, last_only)


def test_labels_of_chats_reach_the_loss(bytewise: Any, rng: Any) -> None:
    """The loss of packed conversations is the mean over the answers' tokens, each conversation on its own."""
    model = az.GPT(vocab_size=258, num_layers=1, num_heads=2, hidden_dim=8, max_length=128, initializer_range=0.5)
    data = az.data.chats([TALK, TALK[:2]], bytewise, 128)
    model.compile("sgd", az.losses.CausalLM(), run_eagerly=True)
    found = model.evaluate(data, verbose=0)
    losses = []
    for talk in (TALK, TALK[:2]):
        ids, spoken = assistant_tokens(talk, bytewise)
        logits = np.asarray(model(np.array([ids])))[0].astype("float64")
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses += [-logs[at - 1, ids[at]] for at in range(1, len(ids)) if spoken[at]]
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_files_are_read_with_their_places(tmp_path: Path) -> None:
    plain = write(tmp_path, "a.txt", "one\n\ntwo\r\nthree\n\n\nfour")
    assert az.data.read(plain).values == ["one", "two", "three", "four"]
    assert az.data.read(plain).places == [f"{plain}:{i}" for i in (1, 3, 4, 7)]
    paragraphs = az.data.read(plain, by="paragraph")
    assert paragraphs.values == ["one", "two\nthree", "four"]
    assert paragraphs.places == [f"{plain}:{i}" for i in (1, 3, 7)]
    assert az.data.read(str(plain), by="file").values == ["one\n\ntwo\nthree\n\n\nfour"]
    lines = write(tmp_path, "b.jsonl", '\ufeff{"text": "five"}\n\n{"text": "", "n": 1}\n{"text": "six"}')
    assert az.data.read(lines).values == ["five", "six"]
    assert az.data.read(lines).places == [f"{lines}:1", f"{lines}:4"]
    assert az.data.read(tmp_path).values == ["one", "two", "three", "four", "five", "six"]
    assert az.data.read([plain, lines])[1:3].values == ["two", "three"]
    assert az.data.read([{"body": "x"}], column="body").values == ["x"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "", "a.txt: got an empty file"),
        ("a.txt", "\n\n", "texts: got nothing in"),
        ("a.txt", b"ok\n\xff\xfe", "a.txt:2: got bytes that are not UTF-8"),
        ("a.csv", "text\n1", r"a.csv: got a file of .csv; accepted: .txt"),
        ("a.jsonl", '{"text": "x"}\n[1]\n', r"a.jsonl:2: got '\[1\]'; accepted: a JSON object with 'text'"),
        ("a.jsonl", '{"text": "x"}\n{"te\n', "a.jsonl:2: got .* which is not JSON"),
        ("a.jsonl", '{"body": "x"}\n', r"a.jsonl:1: got \['body'\]; accepted: an object with the column 'text'"),
        ("a.jsonl", '{"text": "x"}\n{"text": 7}\n', "a.jsonl:2: got int; accepted: a text"),
        (
            "a.jsonl",
            '{"text": "x"}\n{"text": "abcdefghijklmn"}\n',
            "a.jsonl:2: got 15 tokens; accepted: at most length=8",
        ),
    ],
)
def test_wrong_files_are_one_line(name: str, content: Any, message: str, bytewise: Any, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        az.data.pack(path, bytewise, 8, split=False)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_wrong_conversations_are_one_line(bytewise: Any, tmp_path: Path) -> None:
    for messages, message in (
        ([{"role": "user", "content": "Hi"}], "got none of the assistant"),
        ([{"role": "assistant"}], "accepted: a role and a content"),
        ("Hi", "accepted: a list of"),
    ):
        path = write(tmp_path, "c.jsonl", json.dumps({"messages": TALK}) + "\n" + json.dumps({"messages": messages}))
        with pytest.raises(ValueError, match=rf"c.jsonl:2: .*{message}"):
            az.data.chats(path, bytewise, 128)
    with pytest.raises(ValueError, match=r"c.jsonl:1: got \d+ tokens; accepted: at most length=16, or truncate=True"):
        az.data.chats(write(tmp_path, "c.jsonl", json.dumps({"messages": TALK})), bytewise, 16)


def test_tables(tmp_path: Path, bytewise: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": ["one", "two", ""], "messages": [TALK[:2], TALK, TALK]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    folder = tmp_path / "saved"
    folder.mkdir()
    with (
        pyarrow.OSFile(str(folder / "data-0.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    write(folder, "state.json", json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    with pyarrow.ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    for path in (tmp_path / "a.parquet", folder, tmp_path / "b.arrow"):
        found = az.data.read(path)
        assert found.values == ["one", "two"] and found.places[1].endswith(":2")
        assert az.data.read(path, column="messages")[1] == TALK
        with pytest.raises(ValueError, match=r"got the columns \['text', 'messages'\]; accepted: one named 'body'"):
            az.data.read(path, column="body")
    with pytest.raises(ValueError, match=r"c.parquet: got .*; accepted: a parquet file"):
        az.data.read(write(tmp_path, "c.parquet", "no table"))
    write(folder, "dataset_dict.json", '{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=r"saved: got a folder of splits; accepted: the folder of one of"):
        az.data.read(folder)
