"""What a decoder believes was said."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word with its place in the recording.

    Attributes:
        text: the word as written, in logical order for any script.
        start_seconds: from the start of the recording.
        end_seconds: from the start of the recording.
        confidence: 0 .. 1, the geometric mean of the probabilities of the word's symbols over
            the frames that carry them.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class ScoreParts:
    """What a score is made of: natural logarithms with their weights in, which add up.

    Attributes:
        acoustic: log-probability of the text in the emissions, summed over all its paths.
            `boundary_bonus` is in it.
        lm: the language model's, times its weight.
        words: the bonus for each word.
        unknown_words: the score of words that the language model does not know.
        hot_words: the bonus for each hot word.
        fusion: a second model's in the beam, times its weight.
        rescoring: what a second model added at the end, times its weight.
    """

    acoustic: float
    lm: float = 0.0
    words: float = 0.0
    unknown_words: float = 0.0
    hot_words: float = 0.0
    fusion: float = 0.0
    rescoring: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return (
            self.acoustic
            + self.lm
            + self.words
            + self.unknown_words
            + self.hot_words
            + self.fusion
            + self.rescoring
        )


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One reading of a recording.

    Attributes:
        text: words joined as the script joins them.
        words: in order of time.
        confidence: 0 .. 1, the geometric mean of the probabilities of the chosen symbols over
            all frames that carry one; over the blank frames when no frame does; 0 for a recording
            too short to give a frame.
        score: natural logarithm by which readings are compared: the log-probability of the chosen
            path in greedy decoding, the sum of `parts` in a search.
        parts: what a search's score is made of; None from greedy decoding.
    """

    text: str
    words: tuple[Word, ...]
    confidence: float
    score: float
    parts: ScoreParts | None = None
