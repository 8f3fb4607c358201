"""What fine-tuning can begin with: every stored model that has an encoder."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tones

from unheard.audio.signal import InputSpec
from unheard.interop.bundle import NETWORKS, ModelBundle, NetworkConfig
from unheard.interop.load import load_model, save_model
from unheard.models.config import (
    CtcConfig,
    EncoderOnlyConfig,
    FrameClassifierConfig,
    MaskedUnitConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
)
from unheard.recipes import catalogue as recipes
from unheard.tasks.finetune import finetune

ENCODER = tones.tiny_network().encoder
STARTS: dict[str, NetworkConfig] = {
    "plain": EncoderOnlyConfig(encoder=ENCODER),
    "pre-trained": tones.tiny_network(),
    "masked units": MaskedUnitConfig(encoder=ENCODER, units=5),
    "sequence": SequenceClassifierConfig(encoder=ENCODER, classes=3),
    "frames": FrameClassifierConfig(encoder=ENCODER, classes=3, weighted_layers=True),
    "speaker": SpeakerConfig(encoder=ENCODER, classes=3),
    "adapters": CtcConfig(encoder=replace(ENCODER, adapter_dim=4), vocab=5),
}


class Stopped(Exception):
    """Training was about to begin."""


def make(config: NetworkConfig, folder: Path) -> ModelBundle:
    torch.manual_seed(0)
    model: Any = NETWORKS[type(config)](config).eval()
    bundle = ModelBundle(model=model, alphabet=None, input_spec=InputSpec(normalize=True))
    save_model(bundle, folder)
    return bundle


def begin(start: Path, out: Path, **options: Any) -> None:
    corpus = tones.write_corpus(out / "corpus", labelled=4, unlabelled=0, test=2)
    finetune(
        corpus.transcripts,
        out=out / "run",
        start=start,
        valid=corpus.test,
        recipe="tiny",
        device="cpu",
        quiet=True,
        **options,
    )


@pytest.mark.parametrize("kind", STARTS)
def test_training_begins_with_the_encoder_given(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", tones.tiny)
    seen: list[Any] = []

    def train(model: Any, *_: Any, **__: Any) -> None:
        seen.append(model)
        raise Stopped

    monkeypatch.setattr(sys.modules["unheard.tasks.finetune"], "train", train)
    bundle = make(STARTS[kind], tmp_path / "start")
    with pytest.raises(Stopped):
        begin(tmp_path / "start", tmp_path)
    expected = bundle.model.encoder.state_dict()
    found = seen[0].encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert seen[0].config.encoder.adapter_dim == STARTS[kind].encoder.adapter_dim


def test_a_network_with_adapters_is_trained_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", tones.tiny)
    make(STARTS["adapters"], tmp_path / "start")
    begin(tmp_path / "start", tmp_path, max_steps=2)
    model = load_model(tmp_path / "run" / "model")
    assert model.encoder_config.adapter_dim == 4
    assert model.alphabet is not None
    assert model.adapter is None
