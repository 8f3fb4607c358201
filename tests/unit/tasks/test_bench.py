"""The verb `bench`: what it measures, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from tests.mixed_recordings import make_bundle

from unheard import cli
from unheard.errors import ConfigError
from unheard.interop.native import save_model
from unheard.tasks import bench as module
from unheard.tasks.bench import bench
from unheard.tasks.bench_worker import make_sounds, padded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "model"
    save_model(make_bundle(), folder)
    return folder


def test_it_measures_every_format_and_says_what_it_could_not(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = module._ours
    monkeypatch.setattr(module, "_ours", lambda *args, **named: found(*args, **named)[:2])

    def broken_peer(*args, **named):
        (one, *_) = found(*args[:1], args[1].parent / "again", device="cpu")
        one.name, one.request["runtime"] = "other float32", "no such program"
        return [one]

    monkeypatch.setattr(module, "_peers", broken_peer)
    words = ["bench", str(model), "--seconds", "0.5", "1", "--rounds", "2", "--threads", "1"]
    assert cli.main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in shown["rows"]] == ["unheard float32", "unheard bfloat16"]
    assert sum(row["chosen"] for row in shown["rows"]) == 1
    for row in shown["rows"]:
        for length in ("0.5", "1.0"):
            low, high = row["spread"][length]
            assert 0 < low <= row["seconds"][length] <= high
    exact, rough = (row["largest_difference"] for row in shown["rows"])
    assert exact is None
    assert 1e-4 < rough < 5
    assert "no such program" in shown["left_out"]["other float32"]


@pytest.mark.parametrize(
    "settings", [{"seconds": ()}, {"seconds": (0.01,)}, {"rounds": 0}, {"threads": 0}]
)
def test_settings_out_of_range_are_refused(model: Path, settings: dict) -> None:
    with pytest.raises(ConfigError, match="must be"):
        bench(model, **settings)


def test_a_table_is_for_people() -> None:
    row = module.BenchRow(
        name="unheard bfloat16",
        version="1",
        chosen=True,
        seconds={5.0: 0.1, 30.0: 0.66},
        spread={5.0: (0.1, 0.1), 30.0: (0.6, 0.7)},
        open_seconds=1.0,
        peak_bytes=None,
        largest_difference=0.03,
    )
    shown = module.Bench(
        threads=2,
        device="CPU",
        lengths=(5.0, 30.0),
        rounds=3,
        rows=(row,),
        left_out={"openvino": "not installed"},
    ).table()
    assert "unheard bfloat16 (auto)  0.100  0.660       0.0220       -    0.03" in shown
    assert "Left out: openvino: not installed" in shown


def test_sounds_are_normalised_and_padded_behind() -> None:
    first, second = make_sounds([800, 500])
    assert abs(float(first.mean())) < 1e-3
    assert float(second.std()) == pytest.approx(1, abs=1e-3)
    batch = torch.from_numpy(padded([first, second]))
    assert batch.shape == (2, 800)
    assert batch[1, 500:].eq(0).all()
    assert batch[0, 799] != 0
