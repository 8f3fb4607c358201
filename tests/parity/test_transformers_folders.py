"""Folders that transformers reads from us, and vocabularies that both read alike."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.closeness import FLOAT32, FLOAT64, assert_close
from tests.parity.hf_classes import no_warnings
from tests.parity.hf_models import KINDS, SMALL, make_pair, make_samples, redraw
from tests.tiny_models import tiny_ctc, tiny_masked_units, tiny_pretraining
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
    Wav2Vec2Processor,
)

import unheard
from unheard.audio.signal import normalize
from unheard.interop import load
from unheard.interop.huggingface import features, writer
from unheard.text.alphabet import Alphabet


@pytest.mark.parametrize("kind", ["group", "layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transformers_loads_what_we_write(tmp_path: Path, kind: Any, dtype: torch.dtype) -> None:
    bundle = tiny_ctc(kind)
    redraw(bundle.model, seed=1)
    bundle.model.to(dtype)
    writer.save(bundle, tmp_path / "model")
    theirs, notes = Wav2Vec2ForCTC.from_pretrained(
        tmp_path / "model", output_loading_info=True, dtype=dtype
    )
    assert not any(notes.values()), notes
    samples, _, _ = make_samples((3000, 3000), seed=1)
    with torch.no_grad():
        expected = theirs.eval()(samples.to(dtype)).logits
        logits = bundle.model(samples.to(dtype)).logits
    assert_close("logits", logits, expected, FLOAT64 if dtype == torch.float64 else FLOAT32)

    processor = Wav2Vec2Processor.from_pretrained(tmp_path / "model")
    assert bundle.alphabet is not None
    assert (
        processor.tokenizer.pad_token_id == bundle.alphabet.blank_id == theirs.config.pad_token_id
    )
    assert processor.tokenizer("ab ñ").input_ids == bundle.alphabet.encode("ab ñ")
    assert processor.feature_extractor.do_normalize == bundle.input_spec.normalize


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_transformers_loads_a_pretraining_model(tmp_path: Path, kind: Any) -> None:
    bundle = tiny_pretraining(kind)
    redraw(bundle.model, seed=1)
    bundle.model.double()
    writer.save(bundle, tmp_path / "model")
    theirs, notes = Wav2Vec2ForPreTraining.from_pretrained(
        tmp_path / "model", output_loading_info=True, dtype=torch.float64
    )
    assert not any(notes.values()), notes
    samples, _, _ = make_samples((3000,), seed=1)
    mask = torch.zeros(1, bundle.encoder_config.num_frames(3000), dtype=torch.bool)
    mask[:, 20:40] = True
    with torch.no_grad():
        expected = theirs.eval()(samples, mask_time_indices=mask)
        output = bundle.model(samples, time_mask=mask)
    assert_close("predictions", output.predictions, expected.projected_states[mask], FLOAT64)
    assert_close("targets", output.targets, expected.projected_quantized_states[mask], FLOAT64)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_transformers_loads_the_encoder_of_a_masked_unit_model(tmp_path: Path, kind: Any) -> None:
    bundle = tiny_masked_units(kind)
    redraw(bundle.model, seed=1)
    bundle.model.double()
    writer.save(bundle, tmp_path / "model")
    theirs, notes = Wav2Vec2Model.from_pretrained(
        tmp_path / "model", output_loading_info=True, dtype=torch.float64
    )
    assert not any(notes.values()), notes
    samples, _, _ = make_samples((3000,), seed=1)
    with torch.no_grad():
        expected = theirs.eval()(samples).last_hidden_state
        frames = bundle.model.encoder(samples).frames
        again = load.load_model(tmp_path / "model").model.encoder(samples).frames
    assert_close("frames", frames, expected, FLOAT64)
    assert_close("read again", again, expected, FLOAT64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_survives_the_way_there_and_back(tmp_path: Path, kind: str) -> None:
    pair = make_pair(tmp_path / "theirs", SMALL | KINDS[kind], seed=2)
    bundle = load.load_model(tmp_path / "theirs")
    writer.save(bundle, tmp_path / "ours")
    again = Wav2Vec2ForCTC.from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    samples, _, _ = make_samples((3000,), seed=2)
    with torch.no_grad():
        assert torch.equal(again(samples).logits, pair.theirs(samples).logits)
    kept, given = again.config.to_dict(), pair.theirs.config.to_dict()
    for name in [*SMALL, *KINDS[kind]]:
        assert "code" in name or kept[name] == given[name], name  # codes are no part of CTC


VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "Ñ", "'", "ጀ", "SH"]


@pytest.mark.parametrize("lower", [False, True])
def test_vocabularies_are_read_alike(tmp_path: Path, lower: bool) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(VOCABULARY)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), do_lower_case=lower)
    theirs = make_pair(tmp_path / "model", SMALL | KINDS["base"], seed=0)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(theirs.folder)
    bundle = load.load_model(theirs.folder)
    alphabet = bundle.alphabet
    assert alphabet is not None
    assert alphabet.blank_id == tokenizer.pad_token_id
    assert (alphabet.unknown, alphabet.word_boundary) == ("<unk>", "|")
    assert bundle.input_spec.normalize
    assert not bundle.input_spec.attention_mask
    generator = torch.Generator().manual_seed(0)
    letters = torch.tensor([0, 0, 4, *range(5, 11)])
    for _ in range(50):
        ids = letters[torch.randint(len(letters), (40,), generator=generator)].tolist()
        text = alphabet.decode(alphabet.collapse(ids))
        # Ours never writes spaces at the ends or two of them.
        assert text == " ".join(tokenizer.decode(ids).split())
        assert alphabet.encode(text) == tokenizer(text).input_ids or "SH" in text.upper()


@pytest.mark.parametrize("length", [400, 16000, 33333])
def test_input_is_normalised_alike(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    samples = (0.1 * torch.randn(length, generator=generator) + 0.02).numpy()
    theirs = Wav2Vec2FeatureExtractor(do_normalize=True)(samples, sampling_rate=16000)
    ours = normalize(samples, epsilon=features.FEATURE_EPSILON)
    assert (ours == theirs.input_values[0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("do_normalize", [False, True])
def test_emissions_of_a_folder(tmp_path: Path, kind: str, do_normalize: bool) -> None:
    """The public path, from raw samples: no vocabulary is needed."""
    pair = make_pair(tmp_path, SMALL | KINDS[kind], seed=0)
    pair.theirs.save_pretrained(tmp_path)  # in float64
    extractor = Wav2Vec2FeatureExtractor(
        do_normalize=do_normalize, return_attention_mask=kind != "base"
    )
    extractor.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)
    recordings = [
        (0.1 * torch.randn(n, generator=generator) + 0.01).numpy() for n in (16000, 9000, 5000)
    ]
    model = unheard.load_model(tmp_path)

    def prepared(samples: Any) -> torch.Tensor:
        return torch.from_numpy(extractor(samples, sampling_rate=16000).input_values[0])

    def theirs(inputs: list[torch.Tensor]) -> torch.Tensor:
        mask = [torch.ones(len(one), dtype=torch.long) for one in inputs]
        mask = pad_sequence(mask, batch_first=True) if extractor.return_attention_mask else None
        batch = pad_sequence(inputs, batch_first=True).double()
        with torch.no_grad():
            logits = pair.theirs(batch, attention_mask=mask).logits
        return torch.log_softmax(logits, dim=-1)

    # Each recording is normalised, then padded, as in fairseq. The extractor given a whole batch
    # does so with an attention mask; without, it takes padding for sound there too.
    inputs = [prepared(recording) for recording in recordings]
    for one, result in zip(inputs, unheard.emissions(model, recordings), strict=True):
        assert_close("alone", result.log_probs, theirs([one])[0], FLOAT64)
    expected = theirs(inputs)
    for row, result in enumerate(unheard.emissions(model, recordings, padding="zeros")):
        frames = result.log_probs.shape[0]
        assert_close("zeros", result.log_probs, expected[row, :frames], FLOAT64)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_processors_of_what_we_write(tmp_path: Path, kind: str, lower: bool) -> None:
    """Read from transformers, written by us, read by transformers: the same in every part."""
    theirs = make_pair(tmp_path / "theirs", SMALL | KINDS[kind], seed=0)
    (tmp_path / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(VOCABULARY)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), do_lower_case=lower)
    extractor = Wav2Vec2FeatureExtractor(
        do_normalize=kind == "base", return_attention_mask=kind != "base", sampling_rate=16000
    )
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(theirs.folder)
    bundle = load.load_model(theirs.folder)
    writer.save(bundle, tmp_path / "ours")
    with no_warnings():
        again = AutoProcessor.from_pretrained(tmp_path / "ours")
        by_name = Wav2Vec2Processor.from_pretrained(tmp_path / "ours")
    assert isinstance(again, Wav2Vec2Processor)
    assert again.tokenizer.encoder == by_name.tokenizer.encoder == tokenizer.encoder
    for text in ("AB ÑA", "ab ña", "B'A ጀ|", "q"):
        assert again.tokenizer(text).input_ids == tokenizer(text).input_ids, text
    for ids in ([5, 5, 0, 5, 4, 4, 6], [7, 3, 8, 10], [1, 5, 2]):
        assert again.tokenizer.decode(ids) == tokenizer.decode(ids)
    for name in ("do_normalize", "return_attention_mask", "sampling_rate", "padding_value"):
        assert getattr(again.feature_extractor, name) == getattr(extractor, name)
    samples = np.random.default_rng(0).normal(0.1, 0.2, 3000).astype(np.float32)
    assert (
        again(samples, sampling_rate=16000).input_values[0]
        == extractor(samples, sampling_rate=16000).input_values[0]
    ).all()


def test_a_tokenizer_without_boundary_and_specials(tmp_path: Path) -> None:
    bundle = tiny_ctc()
    alphabet = Alphabet(tokens=("<blank>", *"abcdefg"), blank="<blank>")
    writer.save(replace(bundle, alphabet=alphabet), tmp_path / "model")
    with no_warnings():
        processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert processor.tokenizer.pad_token_id == 0
    assert processor.tokenizer("abba").input_ids == alphabet.encode("abba")
    assert processor.tokenizer.decode([1, 1, 0, 1, 2]) == "aab"
    assert load.load_model(tmp_path / "model").alphabet == replace(alphabet, case="lower")
