"""A training run: load, train, keep, export and check."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from ..checks import shown
from ..files import write_json
from ..finetuning.optimizers import WarmupLinearDecay
from ..text.tokenizer import Tokenizer
from ..training.callbacks import BestCheckpoints, Resume, TextSamples, Throughput
from ..training.data import Records
from ..training.losses import CausalLM
from .backup import backup_of, check_backup, claimed, release
from .plan import SECTIONS, Plan
from .rows import encoded, prompt_length, read_examples, split
from .shipping import check_files, saved, shipped, slots

ACCEPTED = "a causal language model (GPT)"
LONGEST = 512  # tokens of a row unless the plan says otherwise


class Prepared:
    """A model and its data, ready to be trained as the plan says.

    Attributes:
        plan: the plan.
        model: the compiled model.
        train, validation: the batches; `validation` is None without such data.
        tokens: the number of tokens in all rows that are trained on, padding excluded.
        cut: the number of conversations and prompts with completions that are longer than a row.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        keras.utils.set_random_seed(plan.training["seed"])
        train, held = _examples(plan)  # before the model, which takes longer to read
        self.model: Any = _model(plan, train)
        tokenizer, limit = self.model.tokenizer, self.model.config.max_length
        if (asked := plan.data["length"]) is not None and asked > limit:
            raise ValueError(f"data.length: got {asked}; accepted: at most {limit}, the model's max_length")
        length, size, seed = asked or min(limit, LONGEST), plan.training["batch_size"], plan.training["seed"]
        with _named("data.train"):
            self.train, self.cut = encoded(tokenizer, train, length, batch_size=size, seed=seed)
        self.tokens = self.train.tokens
        self.validation = None
        if held:
            with _named("data.validation"):
                self.validation, _ = encoded(tokenizer, held, length, batch_size=size, shuffle=False)
        self._check()
        if plan.lora is not None:
            lora, width = plan.lora, self.model.config.hidden_dim
            if lora["rank"] > width:
                raise ValueError(f"lora.rank: got {lora['rank']}; accepted: at most {width}, the model's hidden_dim")
            with _named("lora.targets", "targets"):
                self.model.enable_lora(lora["rank"], alpha=lora["alpha"], targets=lora["targets"])
        if plan.training["gradient_checkpointing"]:
            self.model.gradient_checkpointing = True
        self._compile()

    def _check(self) -> None:
        """Check what would only show after hours of training."""
        limit, output, updates = self.model.config.max_length, self.plan.output, self.plan.training["accumulation"]
        if updates > self.steps:
            raise ValueError(f"training.accumulation: got {updates}; accepted: at most {self.steps}, the run's batches")
        check_files(self.model, output)
        room = min([limit, *(slots(self.model, file, output) for file in output["files"])])
        for text, prompt in zip(output["samples"], self.prompts, strict=True):
            new, tokens = self.answering["max_new_tokens"], prompt_length(self.model.tokenizer, prompt)
            if tokens + new > room:
                raise ValueError(
                    f"output.samples: got {shown(text)}, {tokens} tokens, with {new} for the answer "
                    f"(output.max_new_tokens); accepted: at most {room} together"
                )

    def _compile(self) -> None:
        # XLA compiles for a minute on a CPU and saves little there; JAX needs it. "auto" is Keras' choice for GPUs.
        backend = keras.backend.backend()
        on_cpu = backend == "tensorflow" and not _tensorflow_gpus()
        # Large vocabularies are never (batch, length, vocabulary) at once.
        self.model.compile(self._optimizer(), CausalLM(chunk_size="auto"), jit_compile=False if on_cpu else "auto")

    def _optimizer(self) -> Any:
        options, peak = self.plan.training, self.plan.learning_rate
        # Keras counts every batch as a step of the schedule, accumulated or not.
        steps = max(2, len(self.train) * options["epochs"])
        warmup = min(int(options["warmup"] * steps), steps - 1)
        rate: Any = peak
        if options["schedule"] == "linear":
            rate = WarmupLinearDecay(peak, warmup, steps)
        elif options["schedule"] == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(
                0.0 if warmup else peak,
                steps - warmup,
                warmup_target=peak if warmup else None,
                warmup_steps=warmup,
            )
        given = {"global_clipnorm": options["global_clipnorm"], "weight_decay": options["weight_decay"]}
        if options["optimizer"] == "muon":  # Keras excludes the embeddings by itself
            given["exclude_layers"] = ["lm_head"]
        if options["accumulation"] > 1:
            given["gradient_accumulation_steps"] = options["accumulation"]
        names = {"adamw": "AdamW", "muon": "Muon", "sgd": "SGD", "lion": "Lion"}
        optimizer = getattr(keras.optimizers, names[options["optimizer"]])(rate, **given)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "scale", "embeddings"])
        return optimizer

    @property
    def steps(self) -> int:
        """The number of batches of the whole run."""
        return len(self.train) * self.plan.training["epochs"]

    def fit(self, verbose: int | str = "auto") -> dict[str, list[float]]:
        """Train, or go on with a run that was killed, and return the history of the epochs."""
        plan, folder = self.plan, Path(self.plan.output["folder"])
        # The backup stays until the files are written: a mistake there must not cost the training.
        resume = Resume(backup_of(plan), plan.output["save_every"] or "epoch", delete_checkpoint=False)
        callbacks: list[Any] = [resume, Throughput(self.train.length)]
        if plan.output["samples"]:
            write = print if verbose else lambda line: None
            callbacks.append(TextSamples(self.prompts, write=write, file=folder / "samples.jsonl", **self.answering))
        if plan.output["keep_best"]:
            callbacks.append(BestCheckpoints(folder / "best", keep=plan.output["keep_best"]))
        history = self.model.fit(
            self.train,
            validation_data=self.validation,
            epochs=plan.training["epochs"],
            callbacks=callbacks,
            verbose=verbose,
        ).history
        return {name: [float(value) for value in values] for name, values in history.items()}

    @property
    def answering(self) -> dict[str, int]:
        """The options of ``generate_text`` for the samples."""
        return {"max_new_tokens": self.plan.output["max_new_tokens"] or min(32, self.model.config.max_length // 2)}

    @property
    def prompts(self) -> list[Any]:
        """The samples of the plan: conversations if the tokenizer has a chat template, or else texts."""
        chats = bool(self.model.tokenizer.chat_templates)
        return [[{"role": "user", "content": text}] if chats else text for text in self.plan.output["samples"]]


def train(plan: Plan, verbose: int | str = "auto") -> dict[str, Any]:
    """Carry out a plan: train, save the model, and write and check the files.

    Args:
        plan: the plan.
        verbose: of ``fit``; 0 also silences the samples.

    Returns:
        What ``report.json`` in the folder of the plan gets: losses, seconds, speed, and each file with its check and
        its answers to the samples.

    Raises:
        ValueError: data, model or options do not fit each other, or the folder has the backup of another run or the
            report of a complete one.
        ExportError: a file cannot be written, or does not compute what the model computes.
    """
    start = time.perf_counter()
    facts = check_backup(plan)
    prepared = Prepared(plan)
    loaded = time.perf_counter()
    with claimed(plan, facts):
        history = prepared.fit(verbose)
    trained = time.perf_counter()
    counts = prepared.model.parameter_counts
    folder = saved(prepared.model, Path(plan.output["folder"]) / "model")
    files = shipped(prepared)
    report = {
        "model": str(folder),
        "parameters": {"trained": counts.trainable, "all": counts.total},
        "rows": prepared.train.number,
        "tokens": prepared.tokens,
        "length": prepared.train.length,
        "cut": prepared.cut,
        "steps": prepared.steps,
        "history": history,
        "files": files,
        "seconds": {
            "load": round(loaded - start, 1),
            "train": round(trained - loaded, 1),
            "write and check": round(time.perf_counter() - trained, 1),
        },
        "passed": all(file["passed"] for file in files),
    }
    write_json(report, Path(plan.output["folder"]) / "report.json")
    release(plan)
    return report


def _examples(plan: Plan) -> tuple[Records, Records | None]:
    train = read_examples("data.train", Path(plan.data["train"]))
    if plan.data["validation"] is not None:
        return train, read_examples("data.validation", Path(plan.data["validation"]))
    if not plan.data["held_out"]:
        return train, None
    if len(train) == 1 and "messages" not in train[0] and "text" in train[0]:
        return _halves(train, plan.data["held_out"])
    return split(train, plan.data["held_out"], plan.training["seed"])


def _halves(examples: Records, share: float) -> tuple[Records, Records]:
    """Return the beginning of a text to train on, and its end, which is held out, cut at the end of a line."""
    text = examples[0]["text"]
    place = round(len(text) * (1 - share))
    if (end := text.find("\n", place) + 1) and text[end:].strip():
        place = end
    if not text[:place].strip() or not text[place:].strip():
        raise ValueError(f"data.held_out: got {share} of {len(text)} characters; accepted: a share that leaves some")
    return Records([{"text": text[:place]}], examples.places), Records([{"text": text[place:]}], examples.places)


def _model(plan: Plan, examples: Sequence[Mapping[str, Any]]) -> Any:
    """Load or create the model, with its tokenizer."""
    from ..sources import model_of
    from ..zoo import create, load
    from ..zoo.hub import hub_name
    from ..zoo.registry import list_models, preset

    source, config, dtype = plan.model["source"], dict(plan.model["config"]), plan.training["dtype"]
    fresh = source in list_models() and not Path(source).exists()
    if fresh and preset(source).family != "gpt":
        raise ValueError(f"model.source: got {source}, a {preset(source).family}; accepted: {ACCEPTED}")
    if fresh and plan.lora is not None:
        raise ValueError(
            f"lora.rank: got {plan.lora['rank']} for the preset {source}, whose weights are random; accepted: a model "
            "with weights, or no section lora"
        )
    if Path(source).exists() or hub_name(source) is not None:
        for key in ("config", "vocabulary"):
            if value := plan.model[key]:
                raise ValueError(
                    f"model.{key}: got {shown(value)} for a model with weights; accepted: for presets alone"
                )
    with _named("model.tokenizer", "path"):
        tokenizer = _tokenizer(plan, examples)
    if fresh:
        if tokenizer is not None:
            config.setdefault("vocab_size", -(-tokenizer.vocab_size // 64) * 64)
        with _named("model.config"):
            model: Any = create(source, dtype=dtype, **config)
    else:
        with _named("model.source", "path", "name", "model"):
            model = model_of(source) if dtype == "float32" else load(source, dtype=dtype)
    if tokenizer is not None:
        model.tokenizer = tokenizer
    if not model.generates or model.family != "gpt":
        raise ValueError(f"model.source: got {source}, a {model.family}; accepted: {ACCEPTED}")
    if model.tokenizer is None:
        raise ValueError(
            f"model.source: got {source}, which has no tokenizer; accepted: a model with one, or in a TOML file "
            "model.tokenizer, or model.vocabulary to train one on the data"
        )
    if model.tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"model.tokenizer: got {model.tokenizer.vocab_size} tokens; accepted: at most {model.config.vocab_size}, "
            "the rows of the model's table"
        )
    return model


@contextmanager
def _named(key: str, *arguments: str) -> Iterator[None]:
    """Let errors name the key of the plan, in place of the `arguments` of a function."""
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(": ")
        said = rest if name in arguments else error
        raise error if name.partition(".")[0] in SECTIONS else ValueError(f"{key}: {said}") from error


def _tokenizer(plan: Plan, examples: Sequence[Mapping[str, Any]]) -> Tokenizer | None:
    if plan.model["tokenizer"] is not None:
        return Tokenizer.load(plan.model["tokenizer"])
    if plan.model["vocabulary"] is None:
        return None
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.model["vocabulary"],
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [example["text"] for example in examples if "text" in example]
    if not texts:
        raise ValueError("model.vocabulary: got a size for data without texts; accepted: model.tokenizer for these")
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>", padding_side="left")


def _tensorflow_gpus() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
