"""Alignment of one text: what it returns, refuses and costs."""

import math
import threading

import numpy as np
import pytest
import torch

from unheard.decoding import align as aligner
from unheard.decoding.align import FrameScores, Target, align, align_many
from unheard.decoding.emissions import Emissions
from unheard.errors import AlignmentError, ConfigError, ShapeError

SURE = -0.01


def emissions(labels: list[int], *, vocab: int = 5, sure: float = SURE) -> Emissions:
    """A model that hears exactly these symbols."""
    other = math.log((1 - math.exp(sure)) / (vocab - 1))
    log_probs = torch.full((len(labels), vocab), other)
    for frame, label in enumerate(labels):
        log_probs[frame, label] = sure
    return Emissions(
        log_probs=log_probs,
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=400 + 320 * (len(labels) - 1),
        sample_rate=16_000,
    )


def run(labels: list[int], target: Target, **options: float) -> aligner.AlignedPath:
    return align(FrameScores.of(emissions(labels), target, blank_id=0), target, **options)


def test_tokens_stay_and_equal_ones_are_parted() -> None:
    path = run([0, 1, 1, 0, 1, 2, 2, 0], Target(tokens=(1, 1, 2)))
    assert path.positions.tolist() == [0, 1, 1, 1, 2, 3, 3, 3]
    assert path.on_token.tolist() == [False, True, True, False, True, True, True, False]
    assert path.score == pytest.approx(8 * SURE, abs=1e-6)
    assert path.log_probs == pytest.approx([SURE] * 8)
    # The left edge of the first frame that is token 3.
    assert path.edge_seconds(4.5) == pytest.approx((200 + 4.5 * 320) / 16_000)
    assert path.edge_seconds(-0.5) == pytest.approx(40 / 16_000)
    assert path.edge_seconds(99) == path.num_samples / 16_000


def test_an_empty_text_is_silence() -> None:
    path = run([0, 0, 0], Target(tokens=()))
    assert path.positions.tolist() == [0, 0, 0]
    assert not path.on_token.any()
    assert run([], Target(tokens=())).score == 0


def test_a_star_stands_for_any_sound_and_for_none() -> None:
    heard = [1, 0, 3, 3, 4, 0, 2]
    target = Target(tokens=(1, 2), stars=frozenset({1}))
    path = run(heard, target, star_penalty=0.5)
    assert path.on_star.tolist() == [False, False, True, True, True, False, False]
    assert path.score == pytest.approx(7 * SURE - 3 * 0.5, abs=1e-5)
    assert path.log_probs == pytest.approx([SURE] * 7)
    # Without the star, a blank must do: far less likely.
    assert run(heard, Target(tokens=(1, 2))).score < path.score - 10
    # A star costs nothing where there is nothing, and needs no frame.
    assert run([1, 2], target).score == pytest.approx(2 * SURE, abs=1e-6)


def test_text_that_is_not_spoken_is_left_out() -> None:
    target = Target(tokens=(1, 3, 4, 3, 2), skips=((1, 4),))
    path = run([1, 0, 0, 2], target, skip_penalty=2.0)
    assert path.positions.tolist() == [1, 4, 4, 5] or path.positions.tolist() == [1, 1, 4, 5]
    assert path.score == pytest.approx(4 * SURE - 3 * 2.0, abs=1e-5)
    # All of it may be left out, even at both ends, where no frame is needed.
    nothing = Target(tokens=(1, 2), skips=((0, 1), (1, 2)))
    assert run([0, 0], nothing, skip_penalty=1.0).score == pytest.approx(2 * SURE - 2, abs=1e-5)
    only = run([1], Target(tokens=(1, 2), skips=((0, 1), (1, 2))), skip_penalty=1.0)
    assert only.on_token.tolist() == [True]
    assert only.score == pytest.approx(SURE - 1, abs=1e-5)


def test_a_long_text_left_out_is_found_in_any_stretch() -> None:
    """A skip may be longer than what is worked out again at a time."""
    tokens = (1, 2) * 20 + (3, 4) * 600 + (1, 2) * 20
    target = Target(tokens=tokens, skips=((40, 1240),))
    path = run([1, 2] * 20 + [0] * 5 + [1, 2] * 20, target, skip_penalty=0.01)
    assert path.on_token.sum() == 80
    assert path.positions[[39, -40]].tolist() == [40, 1241]
    assert path.score == pytest.approx(85 * SURE - 12, abs=1e-3)


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(AlignmentError, match="3 tokens need 4 frames, and the recording has 3"):
        run([1, 1, 2], Target(tokens=(1, 1, 2)))
    target = Target(tokens=(1, 2))
    impossible = emissions([1, 2, 0])
    impossible.log_probs[:, 2] = -math.inf
    with pytest.raises(AlignmentError, match="no probability at all"):
        align(FrameScores.of(impossible, target, blank_id=0), target)
    for value in (math.nan, math.inf):
        broken = emissions([1, 2, 0])
        broken.log_probs[1, 1] = value
        with pytest.raises(ShapeError, match="NaN or infinity"):
            align(FrameScores.of(broken, target, blank_id=0), target)
    with pytest.raises(ShapeError, match="found 7"):
        FrameScores.of(emissions([1]), Target(tokens=(7,)), blank_id=0)
    with pytest.raises(ShapeError, match="other than the blank"):
        FrameScores.of(emissions([1]), Target(tokens=(0,)), blank_id=0)
    scores = FrameScores.of(emissions([1, 2]), target, blank_id=0)
    with pytest.raises(ShapeError, match="lack 1 of the text's tokens: 3"):
        align(scores, Target(tokens=(1, 3)))
    for options in ({"star_penalty": -1.0}, {"skip_penalty": math.nan}):
        with pytest.raises(ConfigError, match="out of range"):
            run([1, 2], target, **options)
    with pytest.raises(ConfigError, match="outside the text"):
        Target(tokens=(1,), stars=frozenset({2}))
    with pytest.raises(ConfigError, match="go forward"):
        Target(tokens=(1, 2), skips=((1, 1),))
    with pytest.raises(ConfigError, match="end at one position"):
        Target(tokens=(1, 2), skips=((0, 2), (1, 2)))
    with pytest.raises(ConfigError, match="at least 1"):
        align_many([], threads=0)


def test_float64_emissions_stay_float64() -> None:
    target = Target(tokens=(1, 2))
    wide = emissions([1, 2, 0])
    wide = Emissions(
        log_probs=wide.log_probs.double(),
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=1040,
        sample_rate=16_000,
    )
    scores = FrameScores.of(wide, target, blank_id=0)
    assert scores.values.dtype == np.float64
    assert align(scores, target).score == float(wide.log_probs.max(dim=1).values.sum())


def test_memory_is_far_from_a_move_for_every_frame_and_token() -> None:
    """What the rows and moves of an hour take, by the sizes that are chosen."""
    for frames, tokens in ((180_000, 54_000), (900_000, 270_000), (1_000, 300), (1, 1)):
        period = aligner._period(frames, tokens, has_skips=False)
        rows = (math.ceil(frames / period) + 1) * 2 * 8 * (tokens + 1)
        moves = period * min(period + 2, tokens + 1)
        bound = 13 * (frames * tokens) ** (2 / 3)
        assert rows + moves <= bound + 200 * (tokens + 1)
    assert bound < 100  # the last pair: nothing is allocated for nothing
    period = aligner._period(180_000, 54_000, has_skips=False)
    assert (180_000 // period + 2) * 16 * 54_001 + period**2 < 62e6


def test_the_interpreter_is_free_while_it_aligns() -> None:
    generator = np.random.default_rng(0)
    target = Target(tokens=tuple(int(one) for one in generator.integers(1, 5, 1500)))
    log_probs = torch.log_softmax(torch.from_numpy(generator.standard_normal((6000, 5))), dim=-1)
    scores = FrameScores.of(
        Emissions(
            log_probs=log_probs,
            frame_stride_samples=320,
            frame_offset_samples=200,
            num_samples=320 * 6000 + 80,
            sample_rate=16_000,
        ),
        target,
        blank_id=0,
    )
    align(scores, target)  # compiled
    ticks = 0
    worker = threading.Thread(target=align_many, args=([(scores, target)] * 5,))
    worker.start()
    while worker.is_alive():
        ticks += 1
        worker.join(0.0005)
    assert ticks > 3
