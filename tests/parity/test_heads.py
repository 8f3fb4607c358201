"""Classifiers, speaker vectors and language adapters against transformers' own, in float64.

Weights are copied tensor by tensor, by a table of this file's own. What equals what in a padded
batch is said in test_transformers.py; the speaker model differs from transformers there on
purpose, and is compared with each recording alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.closeness import FLOAT32, FLOAT64, assert_close, largest_difference
from tests.parity.hf_models import KINDS, SMALL, make_samples, redraw
from torch import Tensor, nn
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector,
    Wav2Vec2Model,
)

from unheard.errors import ShapeError
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    EncoderOnlyConfig,
    FrameClassifierConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
    TdnnLayer,
)
from unheard.models.ctc import CtcModel
from unheard.models.encoder_only import EncoderOnlyModel
from unheard.models.frame_classifier import FrameClassifierModel
from unheard.models.sequence_classifier import SequenceClassifierModel
from unheard.models.speaker import SpeakerModel

KIND_NAMES = tuple(KINDS)
EQUAL_LENGTHS = (9000, 9000, 9000)
MIXED_LENGTHS = (9000, 12345, 7600)

TDNN = {"tdnn_dim": (14, 12, 18), "tdnn_kernel": (3, 2, 1), "tdnn_dilation": (2, 3, 1)}
"""Seven frames of context; transformers counts three."""

ADAPTED: dict[str, Any] = {"adapter_attn_dim": 6, "layer_norm_eps": 1e-3}
"""Another epsilon than the adapters' own, which the configuration does not change."""

MIXTURES: dict[str, Any] = {
    "last layer": {},
    "mixture": {"weighted": True},
    "mixture before the last norm": {"weighted": True, "ends_normed": False},
}

RENAMED = (
    (r"^wav2vec2\.", "encoder."),
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_encoder.blocks.\1."),
    (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"feature_encoder.blocks.\1.norm."),
    (r"feature_projection\.layer_norm\.", "feature_norm."),
    (r"feature_projection\.projection\.", "projection."),
    (r"masked_spec_embed$", "mask_embedding"),
    (r"encoder\.encoder\.", "encoder.transformer."),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original0", "positional.weight_g"),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original1", "positional.weight_v"),
    (r"pos_conv_embed\.conv\.bias", "positional.bias"),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".output."),
    (r"(layers\.\d+)\.layer_norm\.", r"\1.attention_norm."),
    (r"(layers\.\d+)\.final_layer_norm\.", r"\1.ffn_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".inner."),
    (r"\.feed_forward\.output_dense\.", ".outer."),
    (r"\.adapter_layer\.norm\.", ".adapter.norm."),
    (r"\.adapter_layer\.linear_1\.", ".adapter.down."),
    (r"\.adapter_layer\.linear_2\.", ".adapter.up."),
    (r"^encoder\.transformer\.layer_norm\.", "encoder.transformer.norm."),
    (r"^lm_head\.", "head."),
    (r"^projector\.", "project."),
    (r"^classifier\.", "classify."),
    (r"^tdnn\.(\d+)\.kernel\.", r"tdnn.\1."),
    (r"^feature_extractor\.", "embed."),
    (r"^objective\.weight$", "class_vectors"),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same weights in both implementations, float64, evaluation mode."""

    theirs: Any
    ours: Any


def copy_weights(theirs: nn.Module, ours: nn.Module) -> None:
    state: dict[str, Tensor] = {}
    for name, tensor in theirs.state_dict().items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.clone()
    ours.load_state_dict(state, strict=True)


def encoder_config(settings: Mapping[str, Any]) -> EncoderConfig:
    stable = settings["do_stable_layer_norm"]
    return EncoderConfig(
        conv_layers=tuple(
            ConvLayer(channels=channels, kernel=kernel, stride=stride)
            for channels, kernel, stride in zip(
                settings["conv_dim"],
                settings["conv_kernel"],
                settings["conv_stride"],
                strict=True,
            )
        ),
        conv_norm=settings["feat_extract_norm"],
        conv_bias=settings["conv_bias"],
        dim=settings["hidden_size"],
        ffn_dim=settings["intermediate_size"],
        layers=settings["num_hidden_layers"],
        heads=settings["num_attention_heads"],
        norm_first=stable,
        norm_epsilon=settings.get("layer_norm_eps", 1e-5),
        positional_kernel=settings["num_conv_pos_embeddings"],
        positional_groups=settings["num_conv_pos_embedding_groups"],
        dropout=0.0,
        attention_dropout=0.0,
        adapter_dim=settings.get("adapter_attn_dim", 0),
    )


def make_pair(
    theirs_class: type,
    kind: str,
    *,
    weighted: bool = False,
    ends_normed: bool = True,
    **extra: Any,
) -> Pair:
    torch.manual_seed(5)
    settings = SMALL | KINDS[kind] | extra
    theirs = theirs_class(
        Wav2Vec2Config(
            **settings,
            num_labels=5,
            classifier_proj_size=14,
            use_weighted_layer_sum=weighted,
            tie_last_hidden_states=ends_normed,
        )
    )
    redraw(theirs, seed=5)
    encoder = encoder_config(settings)
    ours: nn.Module
    if theirs_class is Wav2Vec2Model:
        ours = EncoderOnlyModel(EncoderOnlyConfig(encoder=encoder))
    elif theirs_class is Wav2Vec2ForCTC:
        ours = CtcModel(CtcConfig(encoder=encoder, vocab=settings["vocab_size"]))
    elif theirs_class is Wav2Vec2ForSequenceClassification:
        ours = SequenceClassifierModel(
            SequenceClassifierConfig(
                encoder=encoder,
                classes=5,
                projection_dim=14,
                weighted_layers=weighted,
                mixture_ends_normed=ends_normed,
            )
        )
    elif theirs_class is Wav2Vec2ForAudioFrameClassification:
        ours = FrameClassifierModel(
            FrameClassifierConfig(
                encoder=encoder,
                classes=5,
                weighted_layers=weighted,
                mixture_ends_normed=ends_normed,
            )
        )
    else:
        ours = SpeakerModel(
            SpeakerConfig(
                encoder=encoder,
                classes=5,
                layers=tuple(
                    TdnnLayer(channels=channels, kernel=kernel, dilation=dilation)
                    for channels, kernel, dilation in zip(
                        extra["tdnn_dim"],
                        extra["tdnn_kernel"],
                        extra["tdnn_dilation"],
                        strict=True,
                    )
                ),
                embedding_dim=extra["xvector_output_dim"],
                weighted_layers=weighted,
                mixture_ends_normed=ends_normed,
            )
        )
    prefixed = nn.ModuleDict({"wav2vec2": theirs}) if theirs_class is Wav2Vec2Model else theirs
    copy_weights(prefixed, ours)
    return Pair(theirs=theirs.double().eval(), ours=ours.double().eval())


def make_speakers(kind: str, *, weighted: bool = False, ends_normed: bool = True) -> Pair:
    return make_pair(
        Wav2Vec2ForXVector,
        kind,
        weighted=weighted,
        ends_normed=ends_normed,
        xvector_output_dim=10,
        **TDNN,
    )


def both(pair: Pair, lengths: tuple[int, ...]) -> tuple[Any, Any]:
    """Run a batch: theirs with its mask, ours with the statistics of the original."""
    samples, counts, mask = make_samples(lengths, seed=1)
    with torch.no_grad():
        return (
            pair.theirs(samples, attention_mask=mask),
            pair.ours(samples, counts, padding="zeros"),
        )


def alone(pair: Pair, lengths: tuple[int, ...], name: str) -> Tensor:
    """Run theirs on one recording after the other."""
    samples, counts, _ = make_samples(lengths, seed=1)
    rows = []
    with torch.no_grad():
        for row, count in zip(samples, counts.tolist(), strict=True):
            rows.append(getattr(pair.theirs(row[None, :count]), name))
    return torch.cat(rows)


@pytest.mark.parametrize("ends_normed", [False, True])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_plain_encoders_agree_layer_by_layer(kind: str, ends_normed: bool) -> None:
    pair = make_pair(Wav2Vec2Model, kind, ends_normed=ends_normed)
    samples, _, _ = make_samples(EQUAL_LENGTHS, seed=1)
    with torch.no_grad():
        theirs = pair.theirs(samples, output_hidden_states=True)
        ours = pair.ours(samples, keep_layers=True)
    assert_close("frames", ours.frames, theirs.last_hidden_state, FLOAT64)
    assert_close("features", ours.normed_features, theirs.extract_features, FLOAT64)
    assert len(ours.layers) == len(theirs.hidden_states) == 4
    last = ours.frames if ends_normed else ours.layers[3]
    for number, layer in enumerate([*ours.layers[:3], last]):
        assert_close(f"layer {number}", layer, theirs.hidden_states[number], FLOAT64)


@pytest.mark.parametrize("lengths", [EQUAL_LENGTHS, MIXED_LENGTHS])
@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_sequence_classifiers_agree(kind: str, mixture: str, lengths: tuple[int, ...]) -> None:
    pair = make_pair(Wav2Vec2ForSequenceClassification, kind, **MIXTURES[mixture])
    theirs, ours = both(pair, lengths)
    assert_close("logits", ours.logits, theirs.logits, FLOAT64)


@pytest.mark.parametrize("lengths", [EQUAL_LENGTHS, MIXED_LENGTHS])
@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_frame_classifiers_agree(kind: str, mixture: str, lengths: tuple[int, ...]) -> None:
    pair = make_pair(Wav2Vec2ForAudioFrameClassification, kind, **MIXTURES[mixture])
    theirs, ours = both(pair, lengths)
    for row, count in enumerate(ours.lengths.tolist()):
        assert_close(f"row {row}", ours.logits[row, :count], theirs.logits[row, :count], FLOAT64)


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_speaker_models_agree_where_nothing_is_padded(kind: str, mixture: str) -> None:
    pair = make_speakers(kind, **MIXTURES[mixture])
    theirs, ours = both(pair, EQUAL_LENGTHS)
    assert_close("embeddings", ours.embeddings, theirs.embeddings, FLOAT64)
    assert_close("directions", ours.directions, theirs.logits, FLOAT64)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_time_delays_agree_layer_by_layer(kind: str) -> None:
    pair = make_speakers(kind)
    frames = torch.randn(2, 30, 32, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = pair.ours.project(frames), pair.theirs.projector(frames)
        for number, (our_layer, their_layer) in enumerate(
            zip(pair.ours.tdnn, pair.theirs.tdnn, strict=True)
        ):
            ours, theirs = our_layer(ours), their_layer(theirs)
            assert_close(f"tdnn {number}", ours, theirs, FLOAT64)
    assert ours.shape[1] == 30 - pair.ours.config.context_frames


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_speaker_has_the_same_vector_in_every_batch(kind: str) -> None:
    pair = make_speakers(kind)
    samples, counts, mask = make_samples(MIXED_LENGTHS, seed=1)
    with torch.no_grad():
        ours = pair.ours(samples, counts)
        in_batch = pair.theirs(samples, attention_mask=mask).embeddings
    expected = alone(pair, MIXED_LENGTHS, "embeddings")
    assert_close("embeddings", ours.embeddings, expected, FLOAT64)
    # What the masked statistics are for: transformers' own vectors depend on the batch.
    assert largest_difference("theirs", in_batch, expected) > 1e-3


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_classifiers_give_the_same_in_every_batch(kind: str) -> None:
    pair = make_pair(Wav2Vec2ForSequenceClassification, kind, weighted=True)
    samples, counts, _ = make_samples(MIXED_LENGTHS, seed=1)
    with torch.no_grad():
        ours = pair.ours(samples, counts)
    assert_close("logits", ours.logits, alone(pair, MIXED_LENGTHS, "logits"), FLOAT64)


def test_cosines_are_those_of_the_additive_margin_softmax() -> None:
    pair = make_speakers("base")
    samples, _, _ = make_samples(EQUAL_LENGTHS, seed=1)
    labels = torch.tensor([3, 0, 4])
    with torch.no_grad():
        theirs = pair.theirs(samples, labels=labels)
        cosines = pair.ours(samples).cosines
        margin = 0.4 * F.one_hot(labels, 5).double()
        loss = F.cross_entropy(30.0 * (cosines - margin), labels)
    assert_close("loss", loss, theirs.loss, FLOAT64)
    assert float(cosines.abs().max()) <= 1


@pytest.mark.parametrize(
    "theirs_class", [Wav2Vec2ForSequenceClassification, Wav2Vec2ForAudioFrameClassification]
)
def test_float32_agrees(theirs_class: type) -> None:
    pair = make_pair(theirs_class, "large-lv60", weighted=True)
    samples, _, _ = make_samples(EQUAL_LENGTHS, seed=1)
    with torch.no_grad():
        theirs = pair.theirs.float()(samples.float()).logits
        ours = pair.ours.float()(samples.float()).logits
    assert_close("logits", ours, theirs, FLOAT32)


def test_float32_speakers_agree() -> None:
    pair = make_speakers("large-lv60")
    samples, _, _ = make_samples(EQUAL_LENGTHS, seed=1)
    with torch.no_grad():
        theirs = pair.theirs.float()(samples.float()).embeddings
        ours = pair.ours.float()(samples.float()).embeddings
    assert_close("embeddings", ours, theirs, FLOAT32)


@pytest.mark.parametrize("lengths", [EQUAL_LENGTHS, MIXED_LENGTHS])
def test_language_adapters_agree(lengths: tuple[int, ...]) -> None:
    pair = make_pair(Wav2Vec2ForCTC, "large-lv60", **ADAPTED)
    theirs, ours = both(pair, lengths)
    for row, count in enumerate(ours.lengths.tolist()):
        assert_close(f"row {row}", ours.logits[row, :count], theirs.logits[row, :count], FLOAT64)


def test_an_adapter_alone_agrees() -> None:
    pair = make_pair(Wav2Vec2ForCTC, "large-lv60", **ADAPTED)
    frames = torch.randn(2, 7, 32, dtype=torch.float64) * 0.01
    with torch.no_grad():
        theirs = pair.theirs.wav2vec2.encoder.layers[1].adapter_layer(frames)
        ours = pair.ours.encoder.transformer.layers[1].adapter(frames)
    assert_close("adapter", ours, theirs, FLOAT64)


WRONGS = {
    "time delays in another layout": (
        "speaker",
        lambda model: model.tdnn[0].weight.copy_(
            model.tdnn[0].weight.view(14, 14, 3).transpose(1, 2).reshape(14, 42)
        ),
    ),
    "last layer before the norm": (
        "speaker",
        lambda model: setattr(model, "config", replace(model.config, mixture_ends_normed=False)),
    ),
    "layers weighed in reverse": (
        "speaker",
        lambda model: model.layer_weights.copy_(model.layer_weights.flip(0)),
    ),
    "embedding of deviation and mean": (
        "speaker",
        lambda model: model.embed.weight.copy_(model.embed.weight.roll(18, dims=1)),
    ),
    "adapters of two layers exchanged": (
        "adapters",
        lambda model: swap(model.encoder.transformer.layers, "adapter"),
    ),
}


def swap(layers: nn.ModuleList, name: str) -> None:
    first, second = getattr(layers[0], name), getattr(layers[1], name)
    setattr(layers[0], name, second)
    setattr(layers[1], name, first)


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_is_wrong_shows(wrong: str) -> None:
    head, change = WRONGS[wrong]
    if head == "speaker":
        pair = make_speakers("large-lv60", weighted=True)
    else:
        pair = make_pair(Wav2Vec2ForCTC, "large-lv60", **ADAPTED)
    with torch.no_grad():
        change(pair.ours)
    theirs, ours = both(pair, EQUAL_LENGTHS)
    name = "embeddings" if head == "speaker" else "logits"
    assert largest_difference(wrong, getattr(ours, name), getattr(theirs, name)) > 1e-3


def test_a_recording_too_short_for_a_deviation_is_refused() -> None:
    pair = make_speakers("base")
    # 7 frames of context and 2 to take a deviation of: 400 + 8 * 320 samples.
    assert pair.ours.config.frames_needed == 9
    with torch.no_grad():
        assert pair.ours(torch.randn(1, 2960, dtype=torch.float64)).embeddings.isfinite().all()
        with pytest.raises(ShapeError, match=r"9 frames \(2960 samples\), found 8"):
            pair.ours(torch.randn(1, 2959, dtype=torch.float64))
        with pytest.raises(ShapeError, match="found 3"):
            pair.ours(torch.randn(2, 9000, dtype=torch.float64), torch.tensor([9000, 1200]))
