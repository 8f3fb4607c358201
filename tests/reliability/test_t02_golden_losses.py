"""T2: a hundred losses are what they were, whatever has changed in the code."""

import pytest
from tests import golden_losses
from tests.golden_losses import KINDS, Kind

RTOL = 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_file(kind: Kind) -> None:
    """To the last bit with the file's torch and processor, and closely elsewhere."""
    kept = golden_losses.golden(kind)
    expected = kept.pop("losses")
    found = golden_losses.losses(kind)
    assert len(found) == golden_losses.STEPS
    if kept == golden_losses.machine():
        assert [loss.hex() for loss in found] == [loss.hex() for loss in expected]
    assert golden_losses.furthest(found, expected) < RTOL


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_something_to_see(kind: Kind) -> None:
    """The network learns, so that the losses depend on all that goes on."""
    losses = golden_losses.golden(kind)["losses"]
    assert len(losses) == golden_losses.STEPS
    assert sum(losses[-10:]) < 0.93 * sum(losses[:10])


@pytest.mark.parametrize(
    "change",
    [{"epsilon": 1e-5}, {"weight_decay": 0.03}],
    ids=lambda change: next(iter(change)),
)
def test_a_small_change_would_be_seen(change: dict[str, float]) -> None:
    """The negative control: settings that are nearly the same."""
    expected = golden_losses.golden("ctc")["losses"]
    assert golden_losses.furthest(golden_losses.losses("ctc", **change), expected) > 2 * RTOL
