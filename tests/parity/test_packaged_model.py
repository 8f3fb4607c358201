"""unheard-mini in transformers: the same frames."""

from pathlib import Path

import pytest
import torch
from tests.closeness import FLOAT32, assert_close
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

import unheard
from unheard.audio.signal import SAMPLE_RATE


def test_transformers_hears_the_same(tmp_path: Path) -> None:
    done = unheard.convert("unheard-mini", tmp_path / "mini", to="huggingface")
    assert done.dtype == "bfloat16"
    theirs, notes = Wav2Vec2Model.from_pretrained(
        tmp_path / "mini", output_loading_info=True, dtype=torch.float32
    )
    assert not any(notes.values()), notes
    ours = unheard.load_model("unheard-mini")
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "mini")
    assert extractor.do_normalize == ours.input_spec.normalize
    samples = torch.randn(1, 2 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.eval()(samples).last_hidden_state
        frames = ours.model.encoder(samples).frames
        assert_close("frames", frames, expected, FLOAT32)
        # A control: one weight elsewhere, and they are not the same.
        theirs.encoder.layers[0].attention.q_proj.weight[0, 0] += 0.5
        changed = theirs(samples).last_hidden_state
    with pytest.raises(AssertionError):
        assert_close("frames", changed, expected, FLOAT32)
