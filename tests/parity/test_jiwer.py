"""Error rates equal those of jiwer on 10,000 random pairs, empty ones included."""

import jiwer
import numpy as np
import pytest

from unheard.text.error_rate import EditCounts, char_errors, score, word_errors

WORDS = ["a", "ab", "ba", "n'abazannyi", "ŋŋ", "हिन्दी", "می\u200cخواهم", "ሰላም", "e\u0301", "é"]


def random_text(generator: np.random.Generator) -> str:
    """Up to nine words with one to three spaces between them and perhaps at the ends."""
    words = generator.choice(WORDS, size=max(0, generator.integers(-2, 10)))
    gaps = [" " * int(n) for n in generator.integers(1, 4, size=len(words))]
    text = "".join(part for pair in zip(words, gaps, strict=True) for part in pair)
    return " " * int(generator.integers(0, 2)) + text


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    generator = np.random.default_rng(20)
    return [(random_text(generator), random_text(generator)) for _ in range(10_000)]


def counts_of(output: jiwer.WordOutput | jiwer.CharacterOutput) -> EditCounts:
    return EditCounts(
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        hits=output.hits,
        reference_length=output.hits + output.substitutions + output.deletions,
    )


def test_each_pair(pairs: list[tuple[str, str]]) -> None:
    assert sum(not reference.strip() for reference, _ in pairs) > 500
    for reference, hypothesis in pairs:
        words = jiwer.process_words(reference, hypothesis)
        characters = jiwer.process_characters(reference, hypothesis)
        ours = word_errors(reference, hypothesis), char_errors(reference, hypothesis)
        assert ours == (counts_of(words), counts_of(characters)), (reference, hypothesis)
        assert (ours[0].rate, ours[1].rate) == (words.wer, characters.cer)


def test_whole_set(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    report = score(references, hypotheses, resamples=10)
    assert report.wer.value == jiwer.wer(references, hypotheses)
    assert report.cer.value == jiwer.cer(references, hypotheses)
    assert report.wer.counts == counts_of(jiwer.process_words(references, hypotheses))


def test_control_a_mean_of_rates_is_another_number(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    report = score(references, hypotheses, resamples=10)
    mean = float(np.mean([utterance.words.rate for utterance in report.utterances]))
    assert abs(mean - jiwer.wer(references, hypotheses)) > 0.01
    spaceless = [text.replace(" ", "") for text in references]
    assert char_errors(spaceless[0], hypotheses[0]) != char_errors(references[0], hypotheses[0])
