"""Word pieces against the tokenizers library: the same merges, the same numbers."""

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from unheard.lm.pieces import Pieces, words_of
from unheard.lm.vocabulary import MARKERS
from unheard.text.swahili import sentences


def corpus() -> list[str]:
    """Sentences of a small grammar, and words of random letters, where counts often tie."""
    generator = np.random.default_rng(3)
    noise = [
        " ".join("".join(generator.choice(list("aabcdé"), size=5)) for _ in range(8))
        for _ in range(60)
    ]
    return [*sentences(150, generator=generator), *noise]


def library(texts: list[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(MARKERS), min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(words_of(text)) for text in texts], trainer)
    return tokenizer


def test_merges_and_numbers_are_those_of_the_tokenizers_library() -> None:
    texts = corpus()
    theirs = library(texts, size=300)
    ours = Pieces.train(texts, size=300)
    assert len(ours) == 300
    assert {symbol: number for number, symbol in enumerate(ours.symbols)} == theirs.get_vocab()
    for text in texts:
        expected = theirs.encode(" ".join(words_of(text))).ids
        assert ours.encode(text) == expected
    # A vocabulary of another size splits otherwise, so the comparison can fail.
    fewer = Pieces.train(texts, size=299)
    assert any(fewer.encode(text) != ours.encode(text) for text in texts)
