"""A search whose readings a second language model puts in order."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.hypothesis import Hypothesis, Word
from unheard.decoding.rescore import RescoreConfig, SentenceScorer, rescore, rescore_many
from unheard.decoding.search import Decoder, Partial, SearchStream


class RescoringDecoder:
    """Asks another decoder for many readings, and a language model which is best."""

    def __init__(
        self,
        decoder: Decoder,
        scorer: SentenceScorer,
        *,
        config: RescoreConfig,
        nbest: int,
    ) -> None:
        """Prepare.

        Args:
            decoder: gives the readings; its `nbest` says how many are compared.
            scorer: the second language model.
            config: weights of the mix.
            nbest: readings to return.
        """
        self.decoder = decoder
        self.scorer = scorer
        self.config = config
        self.nbest = nbest

    def decode(self, emissions: Emissions) -> list[Hypothesis]:
        """Return the n-best readings, best first."""
        return self.best(self.decoder.decode(emissions))

    def decode_many(
        self, emissions: Sequence[Emissions], *, threads: int | None = None
    ) -> list[list[Hypothesis]]:
        """Decode many recordings; the second model sees all their readings at once."""
        found = self.decoder.decode_many(emissions, threads=threads)
        return [one[: self.nbest] for one in rescore_many(found, self.scorer, self.config)]

    def stream(self, timing: FrameTiming) -> SearchStream:
        """Begin a search whose frames come piece by piece; its end is rescored."""
        return _RescoringStream(self.decoder.stream(timing), self)

    def best(self, readings: list[Hypothesis]) -> list[Hypothesis]:
        """Put readings in their new order and keep the n-best."""
        return rescore(readings, self.scorer, self.config)[: self.nbest]


class _RescoringStream:
    """Another decoder's search; the second model is asked at its end."""

    def __init__(self, stream: SearchStream, decoder: RescoringDecoder) -> None:
        self._stream = stream
        self._decoder = decoder

    @property
    def separator(self) -> str:
        """What is written between two words."""
        return self._stream.separator

    def feed(self, log_probs: Tensor | NDArray[np.floating]) -> None:
        """Take further frames."""
        self._stream.feed(log_probs)

    def partial(self) -> Partial:
        """Return the best reading so far; nothing is stable, since the order may change."""
        return Partial(text=self._stream.partial().text, stable_text="")

    def fork(self) -> SearchStream:
        """Return a search of its own that goes on from here."""
        return _RescoringStream(self._stream.fork(), self._decoder)

    def settle(self) -> tuple[Word, ...]:
        """Hand out nothing: the second model may prefer other words at the end."""
        return ()

    def finish(self, *, num_samples: int | None = None) -> list[Hypothesis]:
        """End the stream and return its readings in their new order."""
        return self._decoder.best(self._stream.finish(num_samples=num_samples))
