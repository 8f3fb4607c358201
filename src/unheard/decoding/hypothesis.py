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
class Hypothesis:
    """One reading of a recording.

    Attributes:
        text: words joined as the script joins them.
        words: in order of time.
        confidence: 0 .. 1, the geometric mean of the probabilities of the chosen symbols over
            all frames that carry one; over the blank frames when no frame does; 0 for a recording
            too short to give a frame.
        score: natural log of the probability of the chosen path.
    """

    text: str
    words: tuple[Word, ...]
    confidence: float
    score: float
