import json
import re
from pathlib import Path

import pytest

from unheard import cli
from unheard.errors import ConfigError
from unheard.recipes.catalogue import get_recipe
from unheard.tasks.plan import DEFAULT_PASSES, Estimate, Plan, plan
from unheard.tasks.rates import LOADER_RATES, STORED_SIZES, TRAINING_RATES, forward_gflop

ROOT = Path(__file__).parents[3]
A100 = "A100 80 GB"


def estimate(found: Plan, hardware: str) -> Estimate:
    (one,) = (one for one in found.estimates if one.hardware == hardware)
    return one


def test_the_published_base_recipe_on_the_published_machine() -> None:
    """400,000 updates of 64 times 87.5 s, at 655 audio-seconds a second of each of 8 devices."""
    found = plan(hours=960, gpus=8)
    assert found.updates == 400_000
    assert found.heard_hours == pytest.approx(400_000 * 64 * 87.5 / 3600)
    assert found.passes == pytest.approx(found.heard_hours / 960)
    one = estimate(found, A100)
    assert one.basis == "published"
    assert one.gpu_hours == pytest.approx(found.heard_hours / 655)
    assert one.days == pytest.approx(found.heard_hours / 655 / 8 / 24)
    assert "NVIDIA" in one.source


def test_one_device_has_its_own_published_rate_and_other_numbers_are_extrapolated() -> None:
    assert estimate(plan(hours=100), A100).audio_seconds_per_second == 752
    assert estimate(plan(hours=100), A100).basis == "published"
    many = estimate(plan(hours=100, gpus=64), A100)
    assert (many.audio_seconds_per_second, many.basis) == (655, "extrapolated")
    assert "from 8 devices as it is" in many.source


def test_a_larger_network_is_extrapolated_by_its_work() -> None:
    work = {name: forward_gflop(get_recipe(name).network.encoder) for name in ("base", "large")}
    # 4.9 for the convolutions, 8.5 and 30 for the linear layers; then the positional convolution.
    assert work["base"] == pytest.approx(13.4, rel=0.06)
    assert work["large"] == pytest.approx(34.9, rel=0.06)
    one = estimate(plan(hours=50_000, gpus=8, recipe="large"), A100)
    assert one.audio_seconds_per_second == pytest.approx(655 * work["base"] / work["large"])
    assert one.basis == "extrapolated"


def test_another_objective_is_extrapolated() -> None:
    one = estimate(plan(hours=10, recipe="mini"), "2 CPU cores")
    assert one.basis == "extrapolated"
    assert "contrastive objective" in one.source
    one = estimate(plan(hours=10, recipe="mini", objective="contrastive"), "2 CPU cores")
    assert one.basis == "measured"


@pytest.mark.parametrize(("recipe", "hardware"), [("base", "2 CPU cores"), ("mini", A100)])
def test_nothing_is_said_of_networks_that_are_too_unlike(recipe: str, hardware: str) -> None:
    one = estimate(plan(hours=10, recipe=recipe), hardware)
    assert (one.gpu_hours, one.days, one.basis) == (None, None, "not measured")


def test_what_nobody_measured_is_said_so_and_gives_no_figures() -> None:
    for one in plan(hours=100).estimates:
        known = [
            rate.audio_seconds_per_second
            for rate in TRAINING_RATES
            if rate.hardware == one.hardware
        ]
        if all(rate is None for rate in known):
            assert (one.gpu_hours, one.days, one.basis) == (None, None, "not measured")


def test_updates_or_passes_may_be_given() -> None:
    assert plan(hours=100, updates=1000).updates == 1000
    found = plan(hours=100, passes=7)
    assert found.passes == pytest.approx(7, rel=1e-3)
    assert found.passes >= 7
    assumed = plan(hours=100, recipe="mini")
    assert assumed.passes == pytest.approx(DEFAULT_PASSES, rel=1e-3)
    assert "50 times" in assumed.assumed[0]
    assert found.assumed == ()


def test_disk_of_decoded_sound_is_exact() -> None:
    by_form = {one.form: one.terabytes for one in plan(hours=50_000).disk}
    assert by_form["decoded"] == pytest.approx(50_000 * 3600 * 16_000 * 2 / 1e12)
    assert by_form["FLAC shards"] < by_form["decoded"]
    assert by_form["Opus shards, 32 kbit/s"] < by_form["FLAC shards"] / 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hours": 0}, "hours must be"),
        ({"hours": float("inf")}, "hours must be"),
        ({"hours": 1, "gpus": 0}, "gpus must be"),
        ({"hours": 1, "updates": -1}, "updates must be"),
        ({"hours": 1, "updates": 5, "passes": 5}, "one of them"),
        ({"hours": 1, "recipe": "bass"}, "bass"),
        ({"hours": 1, "recipe": "xls-r-2b-ft"}, "fine-tuning"),
    ],
)
def test_impossible_plans_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**settings)  # pyright: ignore[reportArgumentType]


def test_every_measured_figure_stands_in_the_file_it_names() -> None:
    figures = [
        *((one.source, one.audio_seconds_per_second) for one in TRAINING_RATES),
        *((one.source, one.audio_seconds_per_second) for one in LOADER_RATES),
        *((one.source, one.megabytes_per_hour) for one in STORED_SIZES),
    ]
    checked = 0
    for source, figure in figures:
        if source.startswith("benchmarks/"):
            text = (ROOT / source).read_text().replace(",", "")
            assert re.search(rf"(?<![\d.]){re.escape(f'{figure:g}')}(?![\d.]*\d)", text), source
            checked += 1
    assert checked >= 5


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--hours", "50000", "--gpus", "8"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{A100}\s+655\s+950\.0\s+4\.9  published", shown)
    assert cli.main(["plan", "--hours", "50000", "--gpus", "8", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["estimates"][0]["gpu_hours"] == pytest.approx(949.96, abs=0.01)
    assert data["disk"][0]["terabytes"] == pytest.approx(5.76)
