"""Which number format inference runs in."""

from typing import Any

import pytest
import torch
from tests.mixed_recordings import make_bundle

from unheard.errors import ConfigError
from unheard.inference import engine, number_format
from unheard.inference.engine import Engine, default_batch_seconds
from unheard.inference.number_format import choose_dtype, cpu_values

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("fast", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_the_processor_multiplies_it(
    fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(number_format, "cpu_multiplies_bfloat16", lambda: fast)
    assert choose_dtype("auto", device=CPU, weights=torch.float32) == expected
    assert Engine(make_bundle()).dtype == expected
    assert cpu_values("int8") == getattr(torch, expected)
    assert cpu_values("float32") == torch.float32
    assert cpu_values("bfloat16") == torch.bfloat16


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_auto_on_cuda_is_not_fooled_by_emulation(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_dtype("auto", device=CUDA, weights=torch.float32) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_what_is_asked_for_is_taken(dtype: Any, device: str) -> None:
    assert choose_dtype(dtype, device=torch.device(device), weights=torch.float32) == dtype


def test_other_devices_and_wide_models() -> None:
    assert choose_dtype("auto", device=torch.device("mps"), weights=torch.float32) == "float16"
    assert choose_dtype("auto", device=torch.device("xpu"), weights=torch.float32) == "float32"
    assert choose_dtype("auto", device=CPU, weights=torch.float64) == "float64"
    assert choose_dtype("float32", device=CPU, weights=torch.float64) == "float64"
    assert choose_dtype("bfloat16", device=CPU, weights=torch.float64) == "bfloat16"


def test_int8_is_refused_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_format, "has_int8_products", lambda: False)
    with pytest.raises(ConfigError, match=r"VNNI.*found a processor or torch without"):
        Engine(make_bundle(), dtype="int8")
    monkeypatch.setattr(number_format, "has_int8_products", lambda: True)
    assert choose_dtype("int8", device=CPU, weights=torch.float32) == "int8"
    with pytest.raises(ConfigError, match=r'found cuda\. Use dtype "auto"'):
        choose_dtype("int8", device=CUDA, weights=torch.float32)


def test_batches_fit_the_free_memory_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCuda:
        device = CUDA
        encoder_config = make_bundle(channels=512).encoder_config
        input_spec = make_bundle().input_spec

    bundle: Any = OnCuda()
    free = {"bytes": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free["bytes"], 10**12))
    assert default_batch_seconds(bundle) == engine.SHORTEST_BATCH_SECONDS
    free["bytes"] = 8 * 10**9
    seconds = default_batch_seconds(bundle)
    assert engine.SHORTEST_BATCH_SECONDS < seconds < engine.ACCELERATOR_BATCH_SECONDS
    # The first convolution alone, in float32 and in half of it again, fits what is free.
    assert seconds * 3200 * 512 * (4 + 2) < free["bytes"]
    free["bytes"] = 10**12
    assert default_batch_seconds(bundle) == engine.ACCELERATOR_BATCH_SECONDS
    assert default_batch_seconds(make_bundle()) == engine.CPU_BATCH_SECONDS
