"""Forced alignment against every path there is, and the same whatever the length or the batch."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unheard.decoding import align as aligner
from unheard.decoding.align import FrameScores, Target, align, align_many
from unheard.decoding.emissions import Emissions

BLANK = 0


def emissions_of(log_probs: np.ndarray) -> Emissions:
    return Emissions(
        log_probs=torch.from_numpy(log_probs),
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=400 + 320 * (log_probs.shape[0] - 1),
        sample_rate=16_000,
    )


def random_log_probs(generator: np.random.Generator, frames: int, vocab: int) -> np.ndarray:
    logits = 2 * generator.standard_normal((frames, vocab))
    return torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()


def scores_of(log_probs: np.ndarray, target: Target) -> FrameScores:
    return FrameScores.of(emissions_of(log_probs), target, blank_id=BLANK)


def labels_of(path: aligner.AlignedPath, target: Target) -> np.ndarray:
    tokens = np.array([BLANK, *target.tokens])
    return np.where(path.on_token, tokens[path.positions], BLANK)


def collapse(labels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(labels) if label != BLANK)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 6),
    tokens=st.lists(st.integers(1, 3), max_size=4),
)
def test_best_of_all_labellings(seed: int, frames: int, tokens: list[int]) -> None:
    target = Target(tokens=tuple(tokens))
    log_probs = random_log_probs(np.random.default_rng(seed), frames, 4)
    scored = {
        labels: float(log_probs[np.arange(frames), labels].sum())
        for labels in itertools.product(range(4), repeat=frames)
        if collapse(labels) == target.tokens
    }
    if not scored:
        assert frames < target.frames_needed
        with pytest.raises(aligner.AlignmentError, match="too long"):
            align(scores_of(log_probs, target), target)
        return
    path = align(scores_of(log_probs, target), target)
    found = tuple(labels_of(path, target).tolist())
    assert path.score == pytest.approx(max(scored.values()), abs=1e-12)
    assert found == max(scored, key=lambda labels: scored[labels])


class Place(NamedTuple):
    """Where a path is at one frame."""

    position: int
    on_token: bool


def all_paths(target: Target, frames: int, skip_penalty: float):
    """Every path by its definition: (places, penalty), one frame after the other."""
    length = len(target.tokens)
    skips = {start: [] for start in range(length + 1)}
    for start, end in target.skips:
        skips[start].append(end)

    def jumps(position: int):
        """Positions reached from a rest without a frame, and what that costs."""
        yield position, 0.0
        for end in skips[position]:
            for reached, cost in jumps(end):
                yield reached, cost + skip_penalty * (end - position)

    def steps(place: Place):
        """Places at the next frame, and what getting there costs."""
        position = place.position
        rests = jumps(position) if not place.on_token else [(position, 0.0)]
        if place.on_token:
            yield place, 0.0
            if position < length and target.tokens[position] != target.tokens[position - 1]:
                yield Place(position + 1, True), 0.0
            yield Place(position, False), 0.0
        for reached, cost in rests:
            if not place.on_token:
                yield Place(reached, False), cost
                if reached < length:
                    yield Place(reached + 1, True), cost

    def walk(places: tuple[Place, ...], cost: float):
        if len(places) == frames + 1:
            ends = dict(sorted(jumps(places[-1].position), key=lambda item: -item[1]))
            if length in ends:
                yield places[1:], cost + ends[length]
            return
        for place, more in steps(places[-1]):
            yield from walk((*places, place), cost + more)

    yield from walk((Place(0, False),), 0.0)


@st.composite
def rough_targets(draw: st.DrawFn) -> Target:
    tokens = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    positions = range(len(tokens) + 1)
    stars = draw(st.frozensets(st.sampled_from(positions)))
    possible = [(a, b) for a in positions for b in positions if a < b]
    skips = draw(st.lists(st.sampled_from(possible), unique_by=lambda skip: skip[1], max_size=3))
    return Target(tokens=tokens, stars=stars, skips=tuple(skips))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 5),
    target=rough_targets(),
    penalties=st.tuples(st.floats(0, 3), st.floats(0, 5)),
)
def test_best_of_all_paths_with_stars_and_skips(
    seed: int, frames: int, target: Target, penalties: tuple[float, float]
) -> None:
    star_penalty, skip_penalty = penalties
    log_probs = random_log_probs(np.random.default_rng(seed), frames, 4)

    def value(frame: int, place: Place) -> float:
        if place.on_token:
            return log_probs[frame, target.tokens[place.position - 1]]
        blank = log_probs[frame, BLANK]
        is_open = place.position in target.stars
        return max(blank, log_probs[frame].max() - star_penalty) if is_open else blank

    best, best_places = -math.inf, None
    for places, cost in all_paths(target, frames, skip_penalty):
        score = sum(value(frame, place) for frame, place in enumerate(places)) - cost
        if score > best + 1e-12:
            best, best_places = score, places
    options = {"star_penalty": star_penalty, "skip_penalty": skip_penalty}
    if best_places is None:
        with pytest.raises(aligner.AlignmentError):
            align(scores_of(log_probs, target), target, **options)
        return
    path = align(scores_of(log_probs, target), target, **options)
    assert path.score == pytest.approx(best, abs=1e-9)
    # The path found is worth what it says, and is one of those that there are.
    found = tuple(
        Place(int(position), bool(on))
        for position, on in zip(path.positions, path.on_token, strict=True)
    )
    worth = [
        sum(value(frame, place) for frame, place in enumerate(places)) - cost
        for places, cost in all_paths(target, frames, skip_penalty)
        if places == found
    ]
    assert max(worth) == pytest.approx(best, abs=1e-9)


def random_case(seed: int, *, rough: bool) -> tuple[np.ndarray, Target]:
    generator = np.random.default_rng(seed)
    frames = int(generator.integers(30, 120))
    tokens = tuple(int(one) for one in generator.integers(1, 5, generator.integers(1, 15)))
    stars, skips = frozenset(), ()
    if rough:
        stars = frozenset(int(one) for one in generator.integers(0, len(tokens) + 1, 3))
        ends = sorted({int(one) for one in generator.integers(1, len(tokens) + 1, 6)})
        skips = tuple(itertools.pairwise([0, *ends]))
    return random_log_probs(generator, frames, 6), Target(tokens=tokens, stars=stars, skips=skips)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rough=st.booleans(), period=st.integers(1, 130))
def test_the_path_does_not_depend_on_what_is_stored(seed: int, rough: bool, period: int) -> None:
    log_probs, target = random_case(seed, rough=rough)
    scores = scores_of(log_probs, target)
    whole = align(scores, target, skip_penalty=0.5)
    lattice = aligner._lattice(scores, target, 0.5)
    positions, on, score = aligner._best_path(scores.values, lattice, aligner.STAR_PENALTY, period)
    assert score == whole.score
    assert positions.tolist() == whole.positions.tolist()
    assert on.tolist() == whole.on_token.tolist()


def test_a_batch_in_threads_is_one_after_the_other() -> None:
    cases = [random_case(seed, rough=seed % 2 == 1) for seed in range(24)]
    pairs = [(scores_of(log_probs, target), target) for log_probs, target in cases]
    alone = [align(*pair) for pair in pairs]
    for threads in (1, 4):
        together = align_many(pairs, threads=threads)
        for one, other in zip(alone, together, strict=True):
            assert one.score == other.score
            assert one.positions.tolist() == other.positions.tolist()
            assert one.on_token.tolist() == other.on_token.tolist()
