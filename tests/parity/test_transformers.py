"""Our networks against those of transformers: same weights, same numbers, stage by stage.

What equals what in a padded batch:

- transformers without an attention mask (what group-norm folders ask for: `InputSpec` with
  `attention_mask=False`) equals ours called without lengths: padding is sound like any other;
- transformers with an attention mask equals ours with lengths and `padding="zeros"`: padding
  enters the statistics of a group norm, but nobody attends to it;
- one utterance alone in transformers equals ours in any batch with the default
  `padding="masked"`.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.closeness import FLOAT32, FLOAT64, assert_close
from tests.parity.hf_models import BASE_WIDTH, KINDS, SMALL, Pair, make_pair, make_samples
from torch import Tensor, nn

KIND_NAMES = tuple(KINDS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Pair]:
    made: dict[tuple[str, int], Pair] = {}

    def get(kind: str, seed: int) -> Pair:
        if (kind, seed) not in made:
            folder = tmp_path_factory.mktemp("model")
            made[kind, seed] = make_pair(folder, SMALL | KINDS[kind], seed=seed)
        return made[kind, seed]

    return get


def watch(modules: dict[str, nn.Module], run: Callable[[], Any]) -> dict[str, Tensor]:
    """Run with hooks that keep what each module gives, first part of a tuple."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            kept[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return kept


def their_stages(model: Any) -> dict[str, nn.Module]:
    body = model.wav2vec2
    stages = {f"conv {n}": layer for n, layer in enumerate(body.feature_extractor.conv_layers)}
    stages["feature norm"] = body.feature_projection.layer_norm
    stages["projection"] = body.feature_projection.projection
    stages["positional"] = body.encoder.pos_conv_embed
    stages |= {f"layer {n}": layer for n, layer in enumerate(body.encoder.layers)}
    stages["logits"] = model.lm_head
    return stages


def our_stages(model: Any) -> dict[str, nn.Module]:
    encoder = model.encoder
    stages = {f"conv {n}": block for n, block in enumerate(encoder.feature_encoder.blocks)}
    stages["feature norm"] = encoder.feature_norm
    stages["projection"] = encoder.projection
    stages["positional"] = encoder.transformer.positional
    stages |= {f"layer {n}": layer for n, layer in enumerate(encoder.transformer.layers)}
    stages["logits"] = model.head
    return stages


def compare_stages(pair: Pair, samples: Tensor, tolerance: float) -> None:
    theirs = watch(their_stages(pair.theirs), lambda: pair.theirs(samples))
    ours = watch(our_stages(pair.ours), lambda: pair.ours(samples, None, padding="zeros"))
    assert theirs.keys() == ours.keys()
    for name, expected in theirs.items():
        if name.startswith("conv"):
            expected = expected.transpose(1, 2)  # (batch, channels, time) -> ours
        assert_close(name, ours[name], expected, tolerance)


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("length", [400, 719, 3200, 9001])
def test_every_stage_is_equal_in_float64(
    pairs: Callable[[str, int], Pair], kind: str, seed: int, length: int
) -> None:
    samples, _, _ = make_samples((length, length), seed=seed)
    compare_stages(pairs(kind, seed), samples, FLOAT64)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_stage_is_equal_at_the_width_of_base(tmp_path: Path, kind: str) -> None:
    pair = make_pair(tmp_path, BASE_WIDTH | KINDS[kind], seed=5)
    samples, _, _ = make_samples((4000,), seed=5)
    compare_stages(pair, samples, FLOAT64)
    pair.theirs.float()
    pair.ours.float()
    with torch.no_grad():
        expected = pair.theirs(samples.float()).logits
        logits = pair.ours(samples.float(), None, padding="zeros").logits
    assert_close("logits", logits, expected, FLOAT32)


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_padded_batches_without_attention_mask(
    pairs: Callable[[str, int], Pair], kind: str, seed: int
) -> None:
    pair = pairs(kind, seed)
    samples, _, _ = make_samples((5000, 3170, 400), seed=seed)
    with torch.no_grad():
        expected = pair.theirs(samples).logits
        logits = pair.ours(samples, None, padding="zeros").logits
    assert_close("logits", logits, expected, FLOAT64)


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_padded_batches_with_attention_mask(
    pairs: Callable[[str, int], Pair], kind: str, seed: int, dtype: torch.dtype
) -> None:
    pair = pairs(kind, seed)
    theirs, ours = copy.deepcopy(pair.theirs).to(dtype), copy.deepcopy(pair.ours).to(dtype)
    samples, lengths, mask = make_samples((5000, 3170, 400), seed=seed)
    with torch.no_grad():
        expected = theirs(samples.to(dtype), attention_mask=mask).logits
        output = ours(samples.to(dtype), lengths, padding="zeros")
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    assert output.lengths.tolist() == [15, 9, 1]
    for row, frames in enumerate(output.lengths.tolist()):
        assert_close(f"row {row}", output.logits[row, :frames], expected[row, :frames], tolerance)


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_by_default_an_utterance_in_a_batch_equals_it_alone(
    pairs: Callable[[str, int], Pair], kind: str, seed: int, dtype: torch.dtype
) -> None:
    pair = pairs(kind, seed)
    theirs, ours = copy.deepcopy(pair.theirs).to(dtype), copy.deepcopy(pair.ours).to(dtype)
    samples, lengths, _ = make_samples((3170, 9600, 400, 5000), seed=seed)
    samples = samples.to(dtype)
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    with torch.no_grad():
        batch = ours(samples, lengths)
        for row, length in enumerate(lengths.tolist()):
            frames = batch.lengths[row]
            alone = ours(samples[row : row + 1, :length], lengths[row : row + 1]).logits[0]
            expected = theirs(samples[row : row + 1, :length]).logits[0]
            assert_close(f"row {row}", batch.logits[row, :frames], alone, tolerance)
            assert_close(f"row {row}, theirs", batch.logits[row, :frames], expected, tolerance)


def test_padding_with_zeros_changes_a_group_norm_model_and_no_other(
    pairs: Callable[[str, int], Pair],
) -> None:
    samples, lengths, _ = make_samples((9600, 3170), seed=3)
    differences = {}
    for kind in KIND_NAMES:
        ours = pairs(kind, 0).ours
        with torch.no_grad():
            batch = ours(samples, lengths, padding="zeros").logits[1, :9]
            alone = ours(samples[1:, :3170], None, padding="zeros").logits[0]
        differences[kind] = float((batch - alone).abs().max())
    assert differences["base"] > 0.01
    assert differences["large-lv60"] < FLOAT64


def shift_one_norm(model: Any) -> None:
    with torch.no_grad():
        model.encoder.transformer.layers[1].ffn_norm.weight[3] *= 1.0001


def drop_one_bias(model: Any) -> None:
    with torch.no_grad():
        model.encoder.transformer.layers[0].attention.value.bias[0] = 0


def swap_norm_order(model: Any) -> None:
    model.encoder.transformer.layers[2].norm_first ^= True


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("break_it", [shift_one_norm, drop_one_bias, swap_norm_order])
def test_a_wrong_model_is_noticed(
    pairs: Callable[[str, int], Pair], kind: str, break_it: Callable[[Any], None]
) -> None:
    pair = pairs(kind, 0)
    wrong = Pair(theirs=pair.theirs, ours=copy.deepcopy(pair.ours), folder=pair.folder)
    break_it(wrong.ours)
    samples, _, _ = make_samples((3200,), seed=0)
    with pytest.raises(AssertionError, match=r"layer|logits"):
        compare_stages(wrong, samples, FLOAT64)


@pytest.mark.parametrize(
    "odd",
    [
        {"conv_dim": (8,), "conv_kernel": (7,), "conv_stride": (3,)},
        {"conv_dim": (8, 12), "conv_kernel": (3, 9), "conv_stride": (4, 2)},
        {"num_conv_pos_embeddings": 15, "num_conv_pos_embedding_groups": 1},
        {"num_conv_pos_embeddings": 1, "num_conv_pos_embedding_groups": 32},
        {"vocab_size": 1, "num_hidden_layers": 1, "num_attention_heads": 32},
        {"layer_norm_eps": 0.01, "intermediate_size": 1},
        {"feat_extract_norm": "layer", "do_stable_layer_norm": False, "conv_bias": False},
        {"feat_extract_norm": "group", "do_stable_layer_norm": True, "conv_bias": True},
    ],
    ids=lambda odd: next(iter(odd)),
)
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_unusual_shapes_are_equal_too(tmp_path: Path, kind: str, odd: dict[str, Any]) -> None:
    pair = make_pair(tmp_path, SMALL | KINDS[kind] | odd, seed=7)
    samples, lengths, mask = make_samples((3001, 2100), seed=7)
    compare_stages(pair, samples, FLOAT64)
    with torch.no_grad():
        expected = pair.theirs(samples, attention_mask=mask).logits
        output = pair.ours(samples, lengths, padding="zeros")
    for row, frames in enumerate(output.lengths.tolist()):
        assert_close(f"row {row}", output.logits[row, :frames], expected[row, :frames], FLOAT64)
