"""Benchmarks: figures computed from a simulated clock, real files in separate processes, and rejected arguments."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_decoder import Fake
from PIL import Image

from attention_zoo import export
from attention_zoo.bench import Figures, Limits, Pace, generating, one_file, several, timing
from attention_zoo.bench.limits import machine_limits
from attention_zoo.bench.machine import peak_memory, processor
from attention_zoo.bench.processes import Worker
from attention_zoo.bench.subject import Subject
from attention_zoo.cli import main
from helpers import python, refusing

PACE = Pace(length=8, rows=1, runs=3, tokens_per_second=100.0, min_ms=1.0, median_ms=2.0, p95_ms=3.0)
FIGURES = Figures(
    path="a.onnx",
    format="onnx",
    bytes=4_000_000,
    shapes={"input_ids": [1, 8]},
    threads=2,
    repeats=3,
    load_ms=20.0,
    min_ms=1.0,
    median_ms=2.0,
    p90_ms=3.0,
    p95_ms=4.0,
    prefill=[PACE],
    decode=[replace(PACE, length=16)],
    peak_memory_bytes=80_000_000,
    idle_memory_bytes=50_000_000,
    runtime="onnxruntime 1.0",
    machine="x86_64, 2 cores, Linux, Python 3.11.0",
    cpu="a processor",
    cpu_flags=["avx2", "avx512_vnni", "avx_vnni"],
    limits=None,
)
LIMITS = Limits(
    read_gb_per_second=10.0,
    read_bytes=2**28,
    cache_bytes=2**27,
    gemm_gflops=99.0,
    gemm_size=64,
    threads=2,
)


class Clock:
    """A simulated clock in seconds, which advances only when a test advances it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(timing, "clock", lambda: self.now)


class Slow(Fake):
    """A decoder that takes 1 ms per token of a prompt and n ms for a step after n tokens. It records its prompts."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__(lambda row: np.zeros(4), **options)
        self.clock = clock
        self.prompts: list[tuple[int, int, int]] = []  # rows, length, room

    def prompt(self, input_ids: np.ndarray, attention_mask: np.ndarray, room: int) -> np.ndarray:
        self.prompts.append((*input_ids.shape, room))
        self.clock.now += 1e-3 * input_ids.shape[1]
        return super().prompt(input_ids, attention_mask, room)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        start = 0 if self.start_token is None else self.rows[0].index(self.start_token)
        self.clock.now += 1e-3 * (len(self.rows[0]) - start)
        return super().step(tokens)


# ---- times and throughput --------------------------------------------------------------------------------------------


def test_tokens_per_second_are_tokens_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a prompt of 10 tokens that takes 10 ms, and steps after 6 tokens that take 6, 7, 8 and 9 ms."""
    decoder = Slow(Clock(monkeypatch))
    taken = generating.prefill(decoder, np.ones((3, 10), int), 4)
    assert decoder.prompts == [(3, 10, 1)] * 5, "one of them is not timed"
    assert taken.tokens_per_second == pytest.approx(3 * 10 / 10e-3)
    assert (taken.length, taken.rows, taken.runs) == (10, 3, 4)
    decoder.prompts.clear()
    written = generating.decode(decoder, np.ones((3, 4), int), 6, 4)
    assert decoder.prompts == [(3, 4, 6)] and decoder.steps == 2 + 4
    assert written.tokens_per_second == pytest.approx(3 * 4 / 30e-3)
    assert (written.length, written.runs) == (6, 4)
    close = pytest.approx
    assert (written.min_ms, written.median_ms, written.p95_ms) == (close(6), close(7.5), close(8.85))


def test_a_target_is_walked_to_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check an encoder-decoder, whose prompt is the source; after it, the target has one token."""
    decoder = Slow(Clock(monkeypatch), start=2)
    written = generating.decode(decoder, np.ones((1, 30), int), 5, 3)
    assert (decoder.prompts, decoder.steps) == ([(1, 30, 7)], 4 + 3)
    assert (written.length, written.min_ms) == (5, pytest.approx(5))


def test_steps_end_where_the_room_does(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Slow(Clock(monkeypatch), max_length=20)
    lengths = generating.Lengths(4, 19, [7], [1, 16])
    taken, written = generating.paces(decoder, lengths, 1, 9)
    assert [(pace.length, pace.runs) for pace in taken + written] == [(7, 9), (1, 9), (16, 4)]
    assert max(len(row) for row in decoder.asked) == 20


def test_long_prompts_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def second() -> None:
        clock.now += 1

    assert timing.timed(second, 9) == [1000.0] * 9
    assert timing.timed(second, 9, seconds=4.5) == [1000.0] * 5
    assert timing.timed(second, 9, seconds=0.1) == [1000.0] * 3
    assert timing.timed(second, 2, seconds=0.1) == [1000.0] * 2


# ---- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.runs_with("bert-backbone")
def test_benchmark_reports_what_it_measured(files: Any) -> None:
    for format in ("onnx", "tflite"):
        _, result = files("bert", "backbone", format)
        figures = export.benchmark(result.path, batch=2, sequence=17, repeats=5)
        assert figures.shapes["input_ids"] == [2, 17] if format == "onnx" else figures.shapes["input_ids"][1] == 17
        assert 0 < figures.min_ms <= figures.median_ms <= figures.p90_ms <= figures.p95_ms
        assert figures.bytes == result.path.stat().st_size
        assert (figures.prefill, figures.decode, figures.limits) == ([], [], None)
        assert figures.repeats == 5 and figures.load_ms > 0
        assert json.loads(figures.to_json())["format"] == format
        assert Figures.from_dict(json.loads(figures.to_json())) == figures


@pytest.mark.runs_with("bert-backbone")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only there a process is counted alone")
def test_memory_is_that_of_the_file_alone(files: Any) -> None:
    """Check that the memory of this process, which contains TensorFlow and a large array, is not counted."""
    ballast = np.ones(2**26, "uint8")
    ours = peak_memory()
    figures = export.benchmark(files("bert", "backbone", "onnx")[1].path, repeats=1)
    assert figures.idle_memory_bytes and figures.peak_memory_bytes and ours
    assert 2**20 < figures.idle_memory_bytes < figures.peak_memory_bytes < ours - len(ballast)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "variant", "format", "cache", "most"),
    [
        ("gpt", "llama", "onnx", True, 39),
        ("gpt", "llama", "onnx", False, 39),
        ("gpt", "llama", "tflite", True, 39),
        ("transformer", "marian", "onnx", True, 40),
        ("transformer", "marian", "tflite", True, 40),
    ],
)
def test_what_generates_is_timed(family: str, variant: str, format: str, cache: bool, most: int, files: Any) -> None:
    """Run the code of the benchmark process in this process, at default lengths that fit and at requested lengths."""
    path = str(files(family, variant, format, cache)[1].path)
    sizes = {"batch": 2, "sequence": None, "image_size": None}
    usual = Subject(path, 1, sizes)
    assert usual.usual_lengths() == {"prompt_lengths": [most], "cache_lengths": [16]}
    figures = Figures.from_dict(Subject(path, 1, sizes, [5, 9], [1, 7, 36]).measure(6))
    assert [(pace.length, pace.runs) for pace in figures.prefill] == [(5, 6), (9, 6)]
    assert [(pace.length, pace.runs) for pace in figures.decode] == [(1, 6), (7, 6), (36, 4)]
    for pace in figures.prefill + figures.decode:
        assert pace.rows == 2 and 0 < pace.min_ms <= pace.median_ms <= pace.p95_ms and pace.tokens_per_second > 0
    none = Figures.from_dict(Subject(path, 1, sizes, [], []).measure(1))
    assert (none.prefill, none.decode) == ([], [])


@pytest.mark.runs_with("transformer-marian")
def test_files_beside_the_file_count(files: Any) -> None:
    path = files("transformer", "marian", "onnx", cache=True)[1].path
    figures = export.benchmark(path, repeats=1, prompt_lengths=4, cache_lengths=np.array([2]))
    assert figures.bytes == sum(file.stat().st_size for file in path.parent.glob("transformer-marian-True*.onnx"))
    assert (figures.prefill[0].length, figures.decode[0].length) == (4, 2)


def test_another_s_file_with_such_graphs_is_not_asked_to_generate() -> None:
    other: Any = SimpleNamespace(generates=True, metadata={}, path=Path("other.tflite"))
    assert generating.lengths_of(other, None, None).prompts == []
    with pytest.raises(ValueError, match=r"^cache_lengths: got \[4\] for other.tflite, which does not generate"):
        generating.lengths_of(other, None, [4])


def test_text_for_people() -> None:
    lines = replace(FIGURES, limits=LIMITS).to_text().splitlines()
    assert lines[0] == "a.onnx: 4.0 MB, loaded in 20 ms, peak memory 80 MB (50 idle)"
    assert lines[2] == "p50 2.00 ms, p90 3.00 ms, p95 4.00 ms, fastest 1.00 ms (3 runs, 2 threads)"
    assert lines[3].split() == ["tokens/s", "p50", "ms", "p95", "ms", "runs"]
    assert [line.split()[:4] for line in lines[4:6]] == [
        ["prefill", "of", "8", "100.0"],
        ["decode", "at", "16", "100.0"],
    ]
    assert lines[6].startswith("this machine: read bandwidth 10.0 GB/s (array of 268 MB, partly cached), 64x64 float32")
    assert lines[7] == "reading the file once takes 0.40 ms"
    assert lines[8] == "onnxruntime 1.0, x86_64, 2 cores, Linux, Python 3.11.0, avx2 vnni"
    assert "memory" not in replace(FIGURES, peak_memory_bytes=None).to_text()


@pytest.mark.runs_with("gpt-llama")
@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("tflite", "ai_edge_litert")])
def test_bench_needs_only_the_runtime(format: str, package: str, files: Any) -> None:
    """Check both sides of the benchmark in a process that cannot import other large packages."""
    code = f"""
from attention_zoo import export
from attention_zoo.bench.subject import Subject
assert callable(export.benchmark) and callable(export.compare) and {package!r} not in sys.modules
print(len(Subject(sys.argv[1], 1, {{}}).measure(2)["decode"]), {package!r} in sys.modules)
"""
    heavy = refusing("tensorflow", "keras", "typer", "rich", "safetensors", "onnx", "matplotlib")
    assert python(heavy + code, files("gpt", "llama", format, cache=True)[1].path).split() == ["1", "True"]


# ---- several files ---------------------------------------------------------------------------------------------------


def test_files_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "REST", 0)
    asked = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, method: str, **options: Any) -> Any:
            asked.append(self.name)
            assert (method, options) == ("measure", {"repeats": 4, "cache_lengths": [3]})
            return json.loads(replace(FIGURES, path=self.name, median_ms=float(len(asked))).to_json())

    found = several.in_turn([Noted(name) for name in "abc"], 3, repeats=4, cache_lengths=[3])
    assert "".join(asked) == "abccbaabc"
    assert [[one.path for one in rounds] for rounds in found] == [["a"] * 3, ["b"] * 3, ["c"] * 3]
    assert [one.median_ms for one in found[1]] == [2.0, 5.0, 8.0]


def slower(times: float, **changes: Any) -> Figures:
    """Return ``FIGURES``, slowed down by the factor `times`, and with `changes`."""
    values: dict[str, Any] = {
        side: [replace(p, tokens_per_second=p.tokens_per_second / times, p95_ms=times * p.p95_ms) for p in found]
        for side, found in (("prefill", FIGURES.prefill), ("decode", FIGURES.decode))
    }
    values |= {"median_ms": times * FIGURES.median_ms, "p95_ms": times * FIGURES.p95_ms}
    return replace(FIGURES, **{**values, **changes})


def test_ratios_are_to_the_first_in_the_same_round() -> None:
    """Check a second file that takes 2, 3 and 5 times as long, on a machine that slows down by 1, 2 and 9."""
    first = [slower(1), slower(2), slower(9)]
    second = [slower(2, path="b.onnx", bytes=1_000_000), slower(6, path="b.onnx"), slower(45, path="b.onnx")]
    made = several.compared([first, second], LIMITS)
    measures = {(m.name, m.unit): m for m in made.files[1].measures}
    call, pace = measures["one call", "ms"], measures["decode at 16", "tokens/s"]
    assert (call.rounds, call.best, call.median) == ([4.0, 12.0, 90.0], 4.0, 12.0)
    assert (call.ratio, call.best_ratio) == (pytest.approx(3), pytest.approx(2))
    assert (pace.best, pace.median) == (pytest.approx(50), pytest.approx(100 / 6))
    assert (pace.ratio, pace.best_ratio) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert measures["load", "ms"].ratio == measures["peak memory", "MB"].ratio == 1
    assert [m.ratio for m in made.files[0].measures] == [1.0] * len(measures)
    lines = made.to_text().splitlines()
    assert lines[2].split() == ["a.onnx", "b.onnx"]
    shown = next(line for line in lines if line.startswith("one call, ms"))
    assert " ".join(shown.split()) == "one call, ms 4.00 (2.00) 12.00 (4.00) × 3.00 (2.00)"
    assert "| one call, ms | 4.00 (2.00) | 12.00 (4.00) × 3.00 (2.00) |" in made.to_markdown()
    again = json.loads(made.to_json())
    assert again["files"][1]["measures"][3]["ratio"] == call.ratio and again["limits"]["gemm_size"] == 64


def test_what_cannot_be_compared_has_no_ratio() -> None:
    other = slower(3, shapes={"tokens": [1, 1]}, prefill=[], path="b.tflite", runtime="ai-edge-litert 2.0")
    made = several.compared([[FIGURES], [other]])
    ratios = {m.name: m.ratio for m in made.files[1].measures}
    assert ratios["one call"] is ratios["one call p95"] is None and "prefill of 8" not in ratios
    assert ratios["decode at 16"] == pytest.approx(1 / 3)
    assert "no ratio for files" in made.to_text() and "onnxruntime 1.0, ai-edge" in made.to_text()
    assert made.bars()["prefill of 8, tokens/s"] == [("a.onnx", 100.0, "100.0"), ("b.tflite", None, "-")]
    turned = several.compared([[other], [FIGURES]])
    assert {m.name: m.ratio for m in turned.files[1].measures}["prefill of 8"] is None
    same = several.alike({"token_ids": [1, 8], "mask": [1, 8]}, {"input_ids": [1, 8]})
    assert same and not several.alike({"input_ids": [1, 8]}, {"input_ids": [1, 9]})


def test_lengths_that_all_files_take() -> None:
    def shared(*lengths: list[int]) -> list[int]:
        return several.shared([{"prompt_lengths": one} for one in lengths])["prompt_lengths"]

    assert shared([128, 512], [128]) == [128]
    assert shared([128, 512], [99]) == [99]
    assert shared([], [128, 512], [512]) == [512]  # the first file does not generate
    assert shared([], []) == []


def test_names_above_the_columns() -> None:
    assert several.labels(["x/a.onnx", "y/b.onnx"]) == ["a.onnx", "b.onnx"]
    assert several.labels(["x/a.onnx", "y/a.onnx"]) == ["x/a.onnx", "y/a.onnx"]
    assert several.labels(["x/a.onnx", "x/a.onnx", "y/b.onnx"]) == ["a.onnx (1)", "a.onnx (2)", "b.onnx"]


@pytest.mark.runs_with("gpt-llama")
def test_compare_real_files(files: Any) -> None:
    paths = [files("gpt", "llama", format, cache=True)[1].path for format in ("onnx", "tflite")]
    made = export.compare(paths, rounds=2, repeats=2, prompt_lengths=[6], cache_lengths=[4])
    assert [file.format for file in made.files] == ["onnx", "tflite"] and made.limits is None
    for file in made.files:
        found = {m.name: m for m in file.measures}
        assert {"size", "load", "one call", "prefill of 6", "decode at 4", "decode at 4 p95"} <= set(found)
        assert [len(found[name].rounds) for name in ("size", "one call", "decode at 4")] == [1, 2, 2]
        assert all(m.best > 0 and m.median > 0 for m in file.measures)


# ---- processes and the machine ---------------------------------------------------------------------------------------


def test_a_process_that_ends_says_how(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildProcessError, match=r"^_exit: the process that timed it ended with 3: it said nothing"):
        Worker(os._exit, status=3)  # pyright: ignore
    with pytest.raises(ChildProcessError, match=r"ended with 1: TypeError: .*unexpected keyword argument 'nothing'"):
        Worker(Subject, nothing=1)
    with pytest.raises(ValueError, match=r"^path: got none.onnx, which is not a file"):
        Worker(Subject, path="none.onnx", threads=1, sizes={})
    with Worker(print, end="no answer\n") as worker:  # pyright: ignore
        assert worker.ask("__repr__") == "None"
    assert worker.process.poll() is not None
    assert capfd.readouterr() == ("", "")


def test_limits_are_measured() -> None:
    found = machine_limits(1, read_bytes=2**20, gemm_size=48)
    assert found.read_gb_per_second > 0 and found.gemm_gflops > 0
    assert (found.read_bytes, found.gemm_size, found.threads) == (2**20, 48, 1)
    assert found.reading_ms(10**9) == pytest.approx(1e3 / found.read_gb_per_second)


def test_instructions_of_a_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: X: 9000\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n\n" * 2)
    assert processor(info) == ("X: 9000", ["avx2", "avx512f", "avx512_vnni", "amx_int8"])
    info.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert processor(info)[1] == ["asimd", "asimddp"]
    assert processor(tmp_path / "none")[1] == []


# ---- what is refused, and the command line ---------------------------------------------------------------------------


@pytest.mark.runs_with("gpt-llama")
def test_wrong_arguments_of_the_bench(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, text = (
        str(files(*which)[1].path) for which in (("bert", "backbone", "onnx"), ("gpt", "llama", "onnx", True))
    )

    class Here(Subject):
        """A replacement for ``Worker`` in this process, which has imported everything already."""

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def ask(self, method: str, **options: Any) -> Any:
            return getattr(self, method)(**options)

    for module in (one_file, several):
        monkeypatch.setattr(module, "Worker", lambda _, **options: Here(**options))
    for call, message in (
        (lambda: export.benchmark(plain, repeats=0), r"^repeats: got 0; accepted"),
        (lambda: export.benchmark(plain, threads=0), r"^threads: got 0; accepted"),
        (lambda: export.benchmark(plain, batch=True), r"^batch: got True; accepted"),
        (lambda: export.benchmark(plain, sequence=41), r"sequence of 41"),
        (lambda: export.benchmark(plain, prompt_lengths=8), r"^prompt_lengths: got \[8\] for .* does not generate"),
        (lambda: export.benchmark(plain, cache_lengths=[8]), r"^cache_lengths: got \[8\] for .*; accepted: none"),
        (lambda: export.benchmark(text, prompt_lengths="8"), r"^prompt_lengths: got '8'; accepted: positive integers"),
        (lambda: export.benchmark(text, prompt_lengths=[4, 0]), r"^prompt_lengths: got 0; accepted"),
        (lambda: export.benchmark(text, prompt_lengths=40), r"^prompt_lengths: got 40; accepted: at most 39"),
        (lambda: export.benchmark(text, cache_lengths=[2, 40]), r"^cache_lengths: got 40; accepted: at most 39"),
        (lambda: export.compare([plain]), r"^paths: got .*; accepted: at least two files"),
        (lambda: export.compare(plain), r"^paths: got .*; accepted: at least two files"),
        (lambda: export.compare([plain, plain], rounds=0), r"^rounds: got 0; accepted"),
        (lambda: export.compare([plain, "none.onnx"]), r"^path: got none.onnx, which is not a file"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def bench(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.mark.slow
@pytest.mark.runs_with("gpt-llama")
def test_bench_of_several_files(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path, threads = files("gpt", "llama", "onnx", cache=True)[1].path, []

    def limits(count: int) -> Limits:
        threads.append(count)
        return LIMITS

    for module in (one_file, several):
        monkeypatch.setattr(module, "machine_limits", limits)
    few = ("--repeats", 2, "--threads", 1, "--prompt-length", 5, "--cache-length", 4)
    assert bench(path, path, *few, "--rounds", 1, "--limits", "--json", "--png", tmp_path / "bars.png") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rounds"], facts["repeats"], facts["threads"], facts["limits"]["gemm_gflops"]) == (1, 2, 1, 99.0)
    assert [file["path"] for file in facts["files"]] == [str(path)] * 2
    assert bench(path, *few, "--limits", "--png", tmp_path / "one.png") == 0
    assert "decode at 4" in (said := capsys.readouterr().out) and "this machine: read bandwidth 10.0" in said
    assert threads == [1, 1]
    for name in ("bars.png", "one.png"):
        with Image.open(tmp_path / name) as opened:
            assert np.asarray(opened.convert("L")).std() > 5


@pytest.mark.runs_with("bert-backbone")
def test_mistakes_in_bench_come_first(files: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = files("bert", "backbone", "onnx")[1].path
    monkeypatch.setattr(one_file, "Worker", None)  # no process may be started
    monkeypatch.setattr(several, "Worker", None)
    for arguments, message in (
        ((path, "--rounds", 3), "rounds: got 3 for one file; accepted: several files"),
        ((path, "none.onnx"), "file: got none.onnx, which is not a file"),
        ((path, "--png", "bars.jpg"), "got 'bars.jpg'; accepted: a name that ends in .png or .svg"),
        ((path, path, "--rounds", 0), "rounds: got 0; accepted: a positive integer"),
    ):
        assert bench(*arguments) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench(path, "--png", "bars.png") == 2
    assert "pip install 'attention-zoo[demo]'" in capsys.readouterr().err
