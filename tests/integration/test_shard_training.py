"""The verbs that train take shards where recordings would stand."""

from pathlib import Path

import pytest
from tests.shard_folders import write_recordings

from unheard.errors import ConfigError
from unheard.files import read_jsonl
from unheard.tasks.finetune import finetune
from unheard.tasks.pretrain import pretrain
from unheard.tasks.shard import shard

LENGTHS = [16_000 + 250 * number for number in range(24)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_recordings(folder / "recordings", LENGTHS, transcribed=True)
    shard(folder / "recordings", out=folder / "shards", workers=1, quiet=True)
    return folder


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if row["kind"] == "train"]


def test_pretraining_on_shards_is_pretraining_on_their_recordings(
    made: Path, tmp_path: Path
) -> None:
    settings = {"recipe": "nano", "objective": "contrastive", "max_steps": 2, "quiet": True}
    decoded = pretrain(made / "recordings", out=tmp_path / "decoded", **settings)  # pyright: ignore
    sharded = pretrain(made / "shards", out=tmp_path / "sharded", **settings)  # pyright: ignore
    assert sharded.steps == decoded.steps == 2
    assert sharded.hours == decoded.hours
    assert sharded.hours_heard == decoded.hours_heard
    assert sharded.loss == pytest.approx(decoded.loss, rel=0.02)
    assert not (tmp_path / "sharded" / "decoded").exists()


def test_units_of_shards_are_clustered_too(made: Path, tmp_path: Path) -> None:
    found = pretrain(
        f"file://{made}/shards",
        out=tmp_path / "run",
        recipe="nano",
        units=8,
        max_steps=1,
        quiet=True,
    )
    assert (found.objective, found.steps) == ("masked_units", 1)


def test_finetuning_on_shards_is_finetuning_on_their_recordings(made: Path, tmp_path: Path) -> None:
    settings = {"recipe": "nano", "max_steps": 2, "quiet": True, "valid": 0.2}
    decoded = finetune(made / "recordings", out=tmp_path / "decoded", **settings)  # pyright: ignore
    sharded = finetune(made / "shards", out=tmp_path / "sharded", **settings)  # pyright: ignore
    assert sharded.steps == 2
    assert sharded.utterances == decoded.utterances
    assert sharded.left_out == decoded.left_out
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "decoded"), rel=0.02)


def test_a_validation_set_may_be_shards_or_recordings(made: Path, tmp_path: Path) -> None:
    write_recordings(tmp_path / "valid", LENGTHS[:6], transcribed=True)
    shard(tmp_path / "valid", out=tmp_path / "valid_shards", workers=1, quiet=True)
    settings = {"recipe": "nano", "max_steps": 1, "quiet": True}
    for valid in (tmp_path / "valid", tmp_path / "valid_shards"):
        out = tmp_path / f"by_{valid.name}"
        found = finetune(made / "shards", out=out, valid=valid, **settings)  # pyright: ignore
        assert found.steps == 1


def test_shards_without_texts_or_with_ids_twice_are_refused(made: Path, tmp_path: Path) -> None:
    write_recordings(tmp_path / "plain", LENGTHS[:2])
    shard(tmp_path / "plain", out=tmp_path / "s", workers=1, quiet=True)
    with pytest.raises(ConfigError, match="samples with a text, got 2 without"):
        finetune(tmp_path / "s", out=tmp_path / "a", recipe="nano", max_steps=1, quiet=True)
    for name in ("one", "two"):
        shard(made / "recordings", out=tmp_path / "both" / name, workers=1, quiet=True)
    with pytest.raises(ConfigError, match="24 ids stand twice"):
        finetune(tmp_path / "both", out=tmp_path / "b", recipe="nano", max_steps=1, quiet=True)
