import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unheard.data.batching import BatchPlan, Position, plan_epoch
from unheard.errors import ConfigError
from unheard.tensors import derive_seed

LENGTHS = st.lists(st.integers(1, 2000), min_size=1, max_size=80).map(
    lambda values: np.asarray(values, dtype=np.int64)
)
FITS = st.sampled_from(["crop", "pad"])


@given(
    LENGTHS, st.integers(1, 6000), FITS, st.integers(1, 3000), st.integers(0, 9), st.integers(0, 9)
)
def test_every_utterance_is_in_exactly_one_batch_and_batches_fit_the_budget(
    lengths: NDArray[np.int64],
    batch_samples: int,
    fit: Literal["crop", "pad"],
    max_samples: int,
    seed: int,
    epoch: int,
) -> None:
    batches = plan_epoch(
        lengths,
        batch_samples=batch_samples,
        fit=fit,
        max_samples=max_samples,
        seed=seed,
        epoch=epoch,
    )
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    capped = np.minimum(lengths, max_samples)
    for batch in batches:
        held = (capped[batch].min() if fit == "crop" else capped[batch].max()) * len(batch)
        assert len(batch) == 1 or held <= batch_samples


@given(LENGTHS, FITS, st.integers(0, 9))
def test_batches_hold_neighbours_in_length(
    lengths: NDArray[np.int64], fit: Literal["crop", "pad"], seed: int
) -> None:
    batches = plan_epoch(lengths, batch_samples=3000, fit=fit, max_samples=5000, seed=seed, epoch=0)
    spans = sorted((lengths[batch].min(), lengths[batch].max()) for batch in batches)
    for (_, longest), (shortest, _) in itertools.pairwise(spans):
        # Lengths are blurred by 5 % either way before they are sorted.
        assert longest * 0.95 <= shortest * 1.05 + 1e-9


def plan(lengths: NDArray[np.int64], **more: int) -> BatchPlan:
    settings = {"batch_samples": 1000, "max_samples": 500, "seed": 1, **more}
    return BatchPlan(lengths, fit="crop", **settings)


def all_batches(found: BatchPlan, epoch: int) -> list[list[int]]:
    position = Position(epoch=epoch)
    batches = []
    while position.epoch == epoch:
        batches.append(found.batch(position).tolist())
        position = found.after(position)
    assert position == Position(epoch=epoch + 1)
    return batches


MANY = np.random.default_rng(0).integers(50, 900, size=200)


def test_the_plan_depends_on_seed_and_epoch_alone() -> None:
    first = all_batches(plan(MANY), 3)
    assert all_batches(plan(MANY), 3) == first
    other = plan(MANY)
    all_batches(other, 5)
    assert all_batches(other, 3) == first
    assert all_batches(plan(MANY), 4) != first
    assert all_batches(plan(MANY, seed=2), 3) != first


def test_neighbours_change_from_epoch_to_epoch() -> None:
    groups = [{frozenset(batch) for batch in all_batches(plan(MANY), epoch)} for epoch in (0, 1)]
    assert len(groups[0] & groups[1]) < len(groups[0]) / 2


def test_batches_come_in_mixed_order_of_length() -> None:
    means = [MANY[batch].mean() for batch in all_batches(plan(MANY), 0)]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


@given(st.integers(0, 3), st.integers(0, 200))
def test_a_stored_position_is_kept_or_goes_to_the_next_epoch(epoch: int, batch: int) -> None:
    """Regression: recordings that had gone since made a stored position an IndexError."""
    found = plan(MANY)
    position = Position(epoch=epoch, batch=batch)
    if batch < len(all_batches(found, epoch)):
        assert found.within(position) == position
    else:
        assert found.within(position) == Position(epoch=epoch + 1, batch=0)
    found.batch(found.within(position))


def test_one_utterance_longer_than_a_batch_is_a_batch() -> None:
    lengths = np.array([5000], dtype=np.int64)
    found = plan_epoch(lengths, batch_samples=100, fit="pad", max_samples=10_000, seed=0, epoch=0)
    assert [batch.tolist() for batch in found] == [[0]]


@pytest.mark.parametrize(
    ("lengths", "settings", "message"),
    [
        ([], {}, "nothing to train on"),
        ([10], {"batch_samples": 0}, "at least 1"),
        ([10], {"max_samples": 0}, "at least 1"),
    ],
)
def test_impossible_plans_are_refused(
    lengths: list[int], settings: dict[str, int], message: str
) -> None:
    found = plan(np.asarray(lengths, dtype=np.int64), **settings)
    with pytest.raises(ConfigError, match=message):
        found.batch(Position())


def plan_by_the_first_version(
    num_samples: NDArray[np.int64],
    *,
    batch_samples: int,
    fit: Literal["crop", "pad"],
    max_samples: int,
    seed: int,
    epoch: int,
) -> list[list[int]]:
    """Plan as the first version did, which stored positions of old runs count in."""
    generator = np.random.default_rng(derive_seed(seed, "epoch", epoch))
    lengths = np.minimum(num_samples, max_samples)
    blurred = lengths * generator.uniform(0.95, 1.05, size=lengths.shape)
    batches: list[list[int]] = []
    current: list[int] = []
    shortest, longest = max_samples, 0
    for number in np.argsort(blurred, kind="stable"):
        length = int(lengths[number])
        shortest, longest = min(shortest, length), max(longest, length)
        size = (shortest if fit == "crop" else longest) * (len(current) + 1)
        if current and size > batch_samples:
            batches.append(current)
            current = []
            shortest = longest = length
        current.append(int(number))
    batches.append(current)
    generator.shuffle(batches)
    return batches


@given(
    LENGTHS, st.integers(1, 6000), FITS, st.integers(1, 3000), st.integers(0, 9), st.integers(0, 9)
)
def test_runs_of_older_versions_find_their_batches(
    lengths: NDArray[np.int64],
    batch_samples: int,
    fit: Literal["crop", "pad"],
    max_samples: int,
    seed: int,
    epoch: int,
) -> None:
    settings = {"batch_samples": batch_samples, "max_samples": max_samples}
    found = plan_epoch(lengths, fit=fit, seed=seed, epoch=epoch, **settings)
    expected = plan_by_the_first_version(lengths, fit=fit, seed=seed, epoch=epoch, **settings)
    assert [batch.tolist() for batch in found] == expected
    assert all(batch.dtype == np.int64 for batch in found)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_hundred_thousand_utterances_are_planned_as_by_the_first_version(
    fit: Literal["crop", "pad"],
) -> None:
    """More than the plan looks at in one go."""
    lengths = np.random.default_rng(1).integers(8000, 400_000, size=100_000)
    settings = {"batch_samples": 1_400_000, "max_samples": 250_000, "seed": 4, "epoch": 2}
    found = plan_epoch(lengths, fit=fit, **settings)
    expected = plan_by_the_first_version(lengths, fit=fit, **settings)
    assert [batch.tolist() for batch in found] == expected
    assert [batch.tolist() for batch in found[-2:]] == expected[-2:]
    with pytest.raises(IndexError):
        found[len(found)]


def test_threads_may_ask_across_the_end_of_an_epoch() -> None:
    found = plan(MANY)
    expected = {epoch: all_batches(plan(MANY), epoch) for epoch in range(4)}
    asked = [
        Position(epoch=epoch, batch=batch)
        for epoch, batches in expected.items()
        for batch in range(len(batches))
    ]
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(found.batch, asked))
    assert [batch.tolist() for batch in batches] == [
        batch for epoch in range(4) for batch in expected[epoch]
    ]
