"""A decoder whose readings a second model puts in order."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unheard.decoding.decoders import make_decoder
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.rescore import RescoreConfig
from unheard.decoding.rescoring import RescoringDecoder
from unheard.decoding.search import SearchConfig
from unheard.text.alphabet import Alphabet

ALPHABET = Alphabet(
    tokens=("<blank>", "|", "a", "b"), blank="<blank>", word_boundary="|", unknown=None
)


class LongIsGood:
    """A language model that likes letters."""

    def score_sentences(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([float(len(text)) for text in texts])


def emissions(seed: int, frames: int = 9) -> Emissions:
    generator = torch.Generator().manual_seed(seed)
    return Emissions(
        log_probs=torch.randn(frames, 4, generator=generator).log_softmax(dim=-1),
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=frames * 320,
        sample_rate=16_000,
    )


def decoder(weight: float, *, nbest: int = 3) -> RescoringDecoder:
    search = make_decoder(ALPHABET, config=SearchConfig(beam=50, nbest=20))
    return RescoringDecoder(search, LongIsGood(), config=RescoreConfig(weight=weight), nbest=nbest)


def test_the_second_model_decides_with_its_weight() -> None:
    heard = emissions(0)
    plain = decoder(0.0).decode(heard)
    liked = decoder(100.0).decode(heard)

    assert [one.text for one in plain] == [
        one.text
        for one in make_decoder(ALPHABET, config=SearchConfig(beam=50, nbest=3)).decode(heard)
    ]
    assert len(liked) == 3
    assert len(liked[0].text) >= max(len(one.text) for one in plain)
    assert liked[0].text != plain[0].text
    for one in liked:
        assert one.parts is not None
        assert one.parts.rescoring == 100.0 * len(one.text)
        assert one.score == pytest.approx(one.parts.total)


def test_many_at_once_are_as_one_by_one() -> None:
    several = [emissions(seed, frames=5 + seed) for seed in range(6)]
    asked = decoder(0.7)

    assert asked.decode_many(several, threads=2) == [asked.decode(one) for one in several]


def test_a_stream_ends_as_the_whole_and_promises_nothing_before() -> None:
    heard = emissions(3, frames=12)
    asked = decoder(0.7)
    stream = asked.stream(FrameTiming.of(heard))
    for piece in heard.log_probs.split(5):
        stream.feed(piece)
        assert stream.partial().stable_text == ""

    assert stream.finish(num_samples=heard.num_samples) == asked.decode(heard)
