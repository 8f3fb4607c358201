import pytest
import torch

from unheard.training.precision import autocast, resolve_precision

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, CUDA, torch.device("mps")])
def test_what_is_asked_for_is_taken(device: torch.device) -> None:
    assert resolve_precision("float32", device) == torch.float32
    assert resolve_precision("bfloat16", device) == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "has_bf16", "expected"),
    [
        ("AVX512", True, torch.bfloat16),
        ("AVX512", False, torch.float32),
        ("AVX2", True, torch.float32),
        ("DEFAULT", False, torch.float32),
    ],
)
def test_a_processor_gets_bfloat16_only_where_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capability: str, has_bf16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_precision("auto", CPU) == expected


def test_emulated_bfloat16_on_an_old_graphics_processor_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", CUDA) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_precision("auto", CUDA) == torch.bfloat16


def test_an_unknown_device_computes_in_float32() -> None:
    assert resolve_precision("auto", torch.device("mps")) == torch.float32


def test_this_processor_is_asked_without_an_error() -> None:
    assert resolve_precision("auto", CPU) in (torch.float32, torch.bfloat16)


def test_products_run_in_the_type_and_sums_of_squares_do_not() -> None:
    left = torch.randn(3, 3)
    with autocast(torch.bfloat16, CPU):
        assert (left @ left).dtype == torch.bfloat16
        assert torch.softmax(left, dim=-1).dtype == torch.float32
    with autocast(torch.float32, CPU):
        assert (left @ left).dtype == torch.float32
