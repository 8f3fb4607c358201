"""What is written of a recording does not depend on what it was batched with.

Networks with every width of the originals and two layers of each, random weights, eight recordings
from one frame to a second: alone, and in one padded batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.closeness import largest_difference

import unheard
from unheard.audio.signal import InputSpec, Waveform
from unheard.decoding.emissions import Emissions
from unheard.decoding.greedy import GreedyDecoder
from unheard.inference.engine import Engine
from unheard.interop.bundle import ModelBundle
from unheard.models.config import CtcConfig, EncoderConfig
from unheard.models.ctc import CtcModel
from unheard.text.alphabet import Alphabet

LENGTHS = (400, 719, 1_600, 3_217, 5_000, 8_000, 12_001, 16_000)
"""[samples]; the first two give one frame."""

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}

ALPHABET = Alphabet(
    tokens=("<blank>", "|", *"abcdefghijklmnopqrstuvwxyz'"), blank="<blank>", word_boundary="|"
)

ENCODERS = {
    "base": EncoderConfig(layers=2),
    "large": EncoderConfig(
        dim=1024,
        ffn_dim=4096,
        layers=2,
        heads=16,
        conv_norm="layer",
        conv_bias=True,
        norm_first=True,
    ),
}


def make_bundle(kind: str, dtype: torch.dtype) -> ModelBundle:
    """A random recogniser, no norm and no bias of which is trivial, that writes letters."""
    generator = torch.Generator().manual_seed(20)
    model = CtcModel(CtcConfig(encoder=ENCODERS[kind], vocab=len(ALPHABET))).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() > 1 and "positional" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "norm" in name:
                parameter.copy_(1 + 0.1 * noise)
    return ModelBundle(
        model=model, alphabet=ALPHABET, input_spec=InputSpec(normalize=True), provenance={}
    )


def make_recordings() -> list[Waveform]:
    """Noise that swells and fades, as loud as speech."""
    generator = np.random.default_rng(7)
    recordings = []
    for length in LENGTHS:
        swell = 0.1 * (1.1 + np.sin(np.arange(length) / 900))
        samples = (generator.standard_normal(length) * swell).astype(np.float32)
        recordings.append(Waveform(samples=samples))
    # In no order, so that nothing hangs on the longest coming first.
    return [recordings[index] for index in (3, 7, 0, 5, 1, 6, 2, 4)]


def run(bundle: ModelBundle, recordings: list[Waveform], **options: Any) -> list[Emissions]:
    """Give emissions and make sure that all recordings went through the network together."""
    batches: list[int] = []
    run_batch = Engine.log_probs

    def counted(engine: Engine, batch: Sequence[np.ndarray]) -> list[torch.Tensor]:
        batches.append(len(batch))
        return run_batch(engine, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "log_probs", counted)
        results = unheard.emissions(bundle, recordings, **options)
    assert batches == [len(recordings)]
    return results


def differences(batch: list[Emissions], alone: list[Emissions]) -> list[float]:
    return [
        largest_difference(f"recording {index}", ours.log_probs, theirs.log_probs)
        for index, (ours, theirs) in enumerate(zip(batch, alone, strict=True))
    ]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", ENCODERS)
def test_a_batch_gives_what_each_recording_gives_alone(kind: str, dtype: torch.dtype) -> None:
    bundle, recordings = make_bundle(kind, dtype), make_recordings()
    batch = run(bundle, recordings)
    alone = [run(bundle, [recording])[0] for recording in recordings]
    assert max(differences(batch, alone)) <= TOLERANCES[dtype]
    texts = [GreedyDecoder(ALPHABET).decode(one)[0].text for one in alone]
    assert [GreedyDecoder(ALPHABET).decode(one)[0].text for one in batch] == texts
    assert len(set("".join(texts))) >= 5, "a model that writes nothing would pass"
    assert all(one.log_probs.dtype == dtype for one in batch)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_verb_writes_the_same_text(kind: str) -> None:
    bundle, recordings = make_bundle(kind, torch.float32), make_recordings()
    together = unheard.transcribe(bundle, recordings)
    assert [one.text for one in together] == [
        unheard.transcribe(bundle, recording).text for recording in recordings
    ]


def test_padding_with_zeros_is_noticed_in_the_base_kind() -> None:
    # The statistics of its group norm run over time: what the original implementations do lets
    # padding into them.
    bundle, recordings = make_bundle("base", torch.float64), make_recordings()
    batch = run(bundle, recordings, padding="zeros")
    alone = [run(bundle, [recording], padding="zeros")[0] for recording in recordings]
    found = differences(batch, alone)
    longest = max(range(len(recordings)), key=lambda index: recordings[index].samples.shape[0])
    assert found.pop(longest) <= TOLERANCES[torch.float64], "nothing was padded there"
    assert min(found) > 0.01


def test_attending_to_padding_is_noticed_in_the_large_kind() -> None:
    bundle, recordings = make_bundle("large", torch.float64), make_recordings()
    alone = [run(bundle, [recording])[0] for recording in recordings]
    masked = run(bundle, recordings, padding="zeros")
    assert max(differences(masked, alone)) <= TOLERANCES[torch.float64]
    heedless = replace(bundle, input_spec=replace(bundle.input_spec, attention_mask=False))
    assert max(differences(run(heedless, recordings, padding="zeros"), alone)) > 0.01
