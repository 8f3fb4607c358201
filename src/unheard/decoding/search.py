"""What the searches have in common: settings, the parts of a score, and what a decoder does.

All scores are natural logarithms (nats). Published settings in other units are converted by the
function that bears their name: `SearchConfig.from_flashlight`, `SearchConfig.from_pyctcdecode`.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.hypothesis import Hypothesis, Word
from unheard.errors import ConfigError

HOT_WORD_BONUS = 10.0
"""What one hot word adds to the score when no other bonus is named [nats]."""

HotWords = Mapping[str, float] | Iterable[str]
"""Words or phrases to listen for: with a bonus each [nats], or all with `HOT_WORD_BONUS`."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a search over emissions scores and prunes.

    The score of a text is its acoustic log-probability, and

    - `lm_weight` times the natural log-probability that the language model gives it,
    - `word_bonus` for each word,
    - `unknown_score` for each word that the language model does not know,
    - the bonus of each hot word in it,
    - `fuse_weight` times the natural log-probability of a second language model in the beam.

    Attributes:
        beam: hypotheses kept after each frame.
        beam_threshold: hypotheses this far below the best one of the frame are dropped [nats].
        symbols_per_frame: how many of the most probable symbols a hypothesis may grow by in one
            frame; None for all. To stay on a symbol and to pause (the blank) is always possible.
        symbol_threshold: no hypothesis grows by a symbol with a log-probability below minus this,
            unless it is the frame's most probable one [nats].
        lm_weight: factor of the language model's natural log-probability; of no effect without
            one.
        word_bonus: added for each word; a negative one gives fewer, longer words [nats].
        unknown_score: added for each word that the language model does not know, on top of what
            it gives to `<unk>`; minus infinity closes the vocabulary [nats].
        boundary_bonus: added to the log-probability of the word boundary in every frame, so it
            counts once for each frame spent on the boundary, and belongs to the acoustic part
            [nats].
        nbest: readings to return.
        alike: how many texts that its language model cannot tell apart a full beam keeps; None
            for as many as `nbest`.
        fuse_weight: factor of the natural log-probability of a second model in the beam; of no
            effect without one (`unheard.decoding.fusion`).
        fuse_frames: after how many frames that model judges the words ended since.
        look_ahead: whether an unfinished word is ranked with the unigram score of the best word
            that it can become. It changes what is pruned, never a score.

    Raises:
        ConfigError: if a setting is out of its range.
    """

    beam: int = 100
    beam_threshold: float = 25.0
    symbols_per_frame: int | None = None
    symbol_threshold: float = 12.0
    lm_weight: float = 1.0
    word_bonus: float = 0.0
    unknown_score: float = -20.0
    boundary_bonus: float = 0.0
    nbest: int = 1
    alike: int | None = None
    fuse_weight: float = 0.5
    fuse_frames: int = 16
    look_ahead: bool = True

    def __post_init__(self) -> None:
        """Refuse what no search can do."""
        for name in ("beam", "nbest", "fuse_frames"):
            _check_count(name, getattr(self, name))
        for name in ("symbols_per_frame", "alike"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        for name in ("beam_threshold", "symbol_threshold"):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(
                    f"the search's {name} is out of range: expected nats, 0 or more (infinity for "
                    f"no limit), found {value!r}."
                )
        for name in ("lm_weight", "fuse_weight", "word_bonus", "boundary_bonus"):
            value = getattr(self, name)
            is_weight = name.endswith("_weight")
            if not math.isfinite(value) or (is_weight and value < 0):
                raise ConfigError(
                    f"the search's {name} is out of range: expected a finite number"
                    f"{', 0 or more' if is_weight else ''}, found {value!r}."
                )
        if math.isnan(self.unknown_score) or self.unknown_score == math.inf:
            raise ConfigError(
                "the search's unknown_score is out of range: expected a finite number, or minus "
                f"infinity for a closed vocabulary, found {self.unknown_score!r}."
            )

    @classmethod
    def from_flashlight(
        cls,
        *,
        lm_weight: float,
        word_score: float,
        sil_score: float = 0.0,
        unk_score: float = -math.inf,
        beam_size: int = 50,
        beam_size_token: int | None = None,
        beam_threshold: float = 50.0,
        lm_scores: Literal["log10", "natural"] = "log10",
        nbest: int = 1,
    ) -> Self:
        """Take settings of flashlight-text, wav2letter and fairseq.

        Their n-gram scores are decimal logarithms as KenLM returns them, so a published weight of
        an n-gram is divided by ln 10; Transformer models gave natural logarithms, and their
        weights stay as they are. Word, silence and unknown scores and thresholds are natural.

        Args:
            lm_weight: lmweight of fairseq.
            word_score: wordscore of fairseq.
            sil_score: silweight of fairseq.
            unk_score: unkweight of fairseq.
            beam_size: beam of fairseq.
            beam_size_token: beamsizetoken of fairseq; None for all.
            beam_threshold: beamthreshold of fairseq.
            lm_scores: "log10" for an n-gram through KenLM, "natural" for a neural model.
            nbest: readings to return.

        Source: flashlight/text `decoder/lm/KenLM.cpp` and `decoder/LexiconDecoder.cpp`.
        """
        return cls(
            beam=beam_size,
            beam_threshold=beam_threshold,
            symbols_per_frame=beam_size_token,
            symbol_threshold=math.inf,
            lm_weight=lm_weight / math.log(10) if lm_scores == "log10" else lm_weight,
            word_bonus=word_score,
            unknown_score=unk_score,
            boundary_bonus=sil_score,
            nbest=nbest,
        )

    @classmethod
    def from_pyctcdecode(
        cls,
        *,
        alpha: float = 0.5,
        beta: float = 1.5,
        unk_score_offset: float = -10.0,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        nbest: int = 1,
    ) -> Self:
        """Take settings of pyctcdecode and of transformers' `Wav2Vec2ProcessorWithLM`.

        `alpha` and `beta` are natural there. The offset for unknown words is a decimal logarithm
        that `alpha` multiplies. Hot word weights stay as they are.

        Source: pyctcdecode `language_model.py`, `constants.py`.
        """
        return cls(
            beam=beam_width,
            beam_threshold=-beam_prune_logp,
            symbol_threshold=-token_min_logp,
            lm_weight=alpha,
            word_bonus=beta,
            unknown_score=alpha * math.log(10) * unk_score_offset,
            nbest=nbest,
        )


@dataclass(frozen=True, kw_only=True)
class Partial:
    """What a stream believes so far.

    Attributes:
        text: the best reading of the frames so far.
        stable_text: its beginning that no frame to come can change, up to the last whole word.
    """

    text: str
    stable_text: str


class SearchStream(Protocol):
    """A search under way: frames go in as they come, and the end is that of the whole."""

    @property
    def separator(self) -> str:
        """What is written between two words."""
        ...

    def feed(self, log_probs: Tensor | NDArray[np.floating]) -> None:
        """Take further frames (frames, vocab), natural log-probabilities; any number, even 0.

        Raises:
            ShapeError: if the vocabulary has another size than the alphabet.
            ConfigError: if the stream is finished.
        """
        ...

    def partial(self) -> Partial:
        """Return the best reading so far."""
        ...

    def fork(self) -> "SearchStream":
        """Return a search of its own that goes on from here; this one does not notice."""
        ...

    def settle(self) -> tuple[Word, ...]:
        """Hand out words that no frame to come can change, and forget them.

        The texts of all words that were handed out, and then of those that `finish` returns, are
        the text of one search that never settled. So a search without end needs no more memory
        than the words that are still open. Confidence and score of `finish` remain those of all
        frames. Times are the best ones by the frames so far.

        Returns:
            The next words of the recording, maybe none, with times in the whole of it. A word
            is certain only with what follows it: the last one is not among them.

        Raises:
            ConfigError: if the stream is finished.
        """
        ...

    def finish(self, *, num_samples: int | None = None) -> list[Hypothesis]:
        """End the stream and return the n-best readings of all its frames, best first.

        Args:
            num_samples: length of the recording, to which word times are clipped.
        """
        ...


class Decoder(Protocol):
    """From emissions to readings; may be used by several threads at once."""

    def decode(self, emissions: Emissions) -> list[Hypothesis]:
        """Return the n-best readings, best first; at least one, which may be empty."""
        ...

    def decode_many(
        self, emissions: Sequence[Emissions], *, threads: int | None = None
    ) -> list[list[Hypothesis]]:
        """Decode many recordings, on `threads` cores at once (None for all)."""
        ...

    def stream(self, timing: FrameTiming) -> SearchStream:
        """Begin a search whose frames come piece by piece."""
        ...


@runtime_checkable
class SearchDecoder(Decoder, Protocol):
    """A decoder with settings."""

    @property
    def config(self) -> SearchConfig:
        """The settings."""
        ...

    def with_config(self, config: SearchConfig) -> "SearchDecoder":
        """Return the same decoder with other settings, at little cost."""
        ...


def bonuses(hot_words: HotWords) -> dict[str, float]:
    """Return hot words with their bonuses [nats].

    Raises:
        ConfigError: if a bonus is not a finite number, or the words are one string.
    """
    if isinstance(hot_words, str):
        raise ConfigError(
            f"hot words are a list of words or a table of bonuses: found the text {hot_words!r}."
        )
    if isinstance(hot_words, Mapping):
        table = {word: float(bonus) for word, bonus in hot_words.items()}
    else:
        table = dict.fromkeys(hot_words, HOT_WORD_BONUS)
    odd = {word: bonus for word, bonus in table.items() if not math.isfinite(bonus)}
    if odd:
        raise ConfigError(f"a hot word's bonus is not a finite number: found {odd}.")
    return table


def in_threads(
    decode: Callable[[Emissions], list[Hypothesis]],
    emissions: Sequence[Emissions],
    *,
    threads: int | None,
) -> list[list[Hypothesis]]:
    """Call `decode` for each of many recordings, on several threads, results in their order.

    Longest first, so that no thread is left alone with a long one at the end. The kernels release
    the interpreter's lock.
    """
    threads = count_threads(threads)
    if threads == 1 or len(emissions) < 2:
        return [decode(one) for one in emissions]
    order = sorted(range(len(emissions)), key=lambda i: -emissions[i].log_probs.shape[0])
    results: list[list[Hypothesis]] = [[] for _ in emissions]
    with ThreadPoolExecutor(min(threads, len(emissions))) as pool:
        done = pool.map(lambda index: decode(emissions[index]), order)
        for index, hypotheses in zip(order, done, strict=True):
            results[index] = hypotheses
    return results


def count_threads(threads: int | None) -> int:
    """Return how many threads to use; None asks for as many as there are cores."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return threads or count or 1


def _check_count(name: str, value: object) -> None:
    """Refuse what is not a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"the search's {name} is out of range: expected a whole number, 1 or more, "
            f"found {value!r}."
        )
