"""The check of every export: the first cases of the plan that ``verify`` runs in full, for every graph of a file."""

from __future__ import annotations

from typing import Any

import pytest

from attention_zoo import export
from attention_zoo.export.verification.cases import Case, chains, text_cases
from attention_zoo.export.verification.plan import plan
from helpers import ALL_BUT_ONE, every_variant, shared


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
@every_variant(slow=ALL_BUT_ONE)
def test_the_short_check_is_the_beginning_of_the_long_one(family: str, variant: str, format: str, files: Any) -> None:
    for cache in (False, True) if shared(family, variant).generates else (False,):
        model, result = files(family, variant, format, cache=cache)
        runner = export.load(result.path)
        quick, whole = plan(model, runner, quick=True), plan(model, runner, quick=False)
        assert [part.quick for part in quick] == [part.quick for part in whole]
        assert sum(part.quick for part in quick) >= len(runner.graphs) - (runner.layout.kind == "dynamic")
        for short, long in zip(quick, whole, strict=True):
            assert list(short.cases[: short.quick]) == list(long.cases[: long.quick])
            assert len(long.cases) > long.quick or len(long.cases) == 1


@every_variant(slow=ALL_BUT_ONE)
def test_the_first_case_is_padded_where_there_is_a_mask(family: str, variant: str, files: Any) -> None:
    model, _ = files(family, variant, "onnx", cache=False)
    signature = model.graphs("plain").popitem()[1].signature
    if "height" in {dim for spec in signature.inputs for dim in spec.dims}:
        return
    first = text_cases(model, signature)[0]
    masked = any("mask" in spec.name for spec in signature.inputs)
    assert first == Case(3, 7, 0, "left" if masked else "none")
    dims = {dim for spec in signature.inputs for dim in spec.dims} & {"sequence", "source", "target"}
    fixed = signature.exported({"batch": 1, **dict.fromkeys(dims, 20)})
    length = 7 if dims <= set(fixed.padded) else 20  # SigLIP reads the last token, so that no text may be shorter
    assert text_cases(model, fixed)[0] == Case(1, length, 0, "left" if masked else "none")


@pytest.mark.slow
def test_the_cache_of_a_single_token(tmp_path: Any) -> None:
    """Export decoders with caches of one to three slots, in which all compared prompts and decode steps must fit."""
    import attention_zoo as az

    for length in (1, 2, 3):
        model = az.create("gpt", vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=length)
        for name, to in (("m.onnx", export.to_onnx), ("m.tflite", export.to_tflite)):
            result = to(model, tmp_path / name, cache=True)
            for chain in chains(model, export.load(result.path)):
                assert chain.prompt + chain.steps <= length
            assert export.verify(model, result.path).passed
