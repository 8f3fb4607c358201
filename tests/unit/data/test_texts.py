"""Texts in batches: every token predicted once, the same batch whenever it is asked for."""

import itertools
from collections import Counter

import pytest
import torch

from unheard.data.batching import Position
from unheard.data.texts import TextSource, stack_rows
from unheard.errors import ConfigError
from unheard.lm.pieces import END_ID, START_ID, Pieces

TEXTS = ["abc", "a b c d e f", "b", "c a b " * 9, "d e"]


def source(*, context: int = 8, dropout: float = 0.0, tokens: int = 30) -> TextSource:
    return TextSource(
        TEXTS,
        Pieces.train(TEXTS * 2, size=14),
        start=START_ID,
        end=END_ID,
        context=context,
        batch_tokens=tokens,
        seed=5,
        dropout=dropout,
    )


@pytest.mark.parametrize("context", [1, 2, 7, 8, 100])
def test_every_token_is_predicted_once(context: int) -> None:
    made = source(context=context)
    pieces = Pieces.train(TEXTS * 2, size=14)
    found: Counter[tuple[str, int, int]] = Counter()
    for number in range(made.batches):
        batch = made.load(Position(batch=number))
        assert int(batch.lengths.max()) <= context
        for row, length, name in zip(batch.tokens, batch.lengths, batch.ids, strict=True):
            pairs = zip(row[:length].tolist(), row[1 : length + 1].tolist(), strict=True)
            found.update((name, before, after) for before, after in pairs)
    expected: Counter[tuple[str, int, int]] = Counter()
    for number, text in enumerate(TEXTS, start=1):
        whole = [START_ID, *pieces.encode(text), END_ID]
        expected.update((f"text {number}", *pair) for pair in itertools.pairwise(whole))
    assert found == expected
    assert made.tokens == expected.total()


def test_batches_are_as_large_as_asked_for() -> None:
    made = source(tokens=30)
    for number in range(made.batches):
        batch = made.load(Position(batch=number))
        assert int(batch.lengths.max()) * len(batch.ids) <= 30


def test_dropout_draws_anew_in_each_pass_and_the_same_in_one() -> None:
    made, again = source(dropout=0.5, context=100), source(dropout=0.5, context=100)

    def rows(of: TextSource, epoch: int) -> dict[str, list[int]]:
        found = {}
        for number in range(of.plan.batches(epoch)):
            batch = of.load(Position(epoch=epoch, batch=number))
            for row, length, name in zip(batch.tokens, batch.lengths, batch.ids, strict=True):
                found[name] = row[: length + 1].tolist()
        return found

    assert rows(made, 0) == rows(again, 0)
    passes = [rows(made, epoch) for epoch in range(6)]
    assert len({str(one["text 4"]) for one in passes}) > 2
    pieces = Pieces.train(TEXTS * 2, size=14)
    for one in passes:
        assert {name: pieces.decode(row) for name, row in one.items()} == {
            f"text {number}": text.strip() for number, text in enumerate(TEXTS, start=1)
        }


def test_rows_are_padded_and_counted() -> None:
    batch = stack_rows([[1, 5, 2], [1, 2]], ids=["a", "b"])
    assert batch.tokens.tolist() == [[1, 5, 2], [1, 2, 0]]
    assert batch.lengths.tolist() == [2, 1]
    assert batch.audio_seconds == 0
    moved = batch.to(torch.device("cpu"))
    assert moved.ids == ("a", "b")


def test_no_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to learn from"):
        TextSource(
            [], Pieces.train(["a"], size=0), start=1, end=2, context=4, batch_tokens=8, seed=0
        )
