"""The demonstration asks for the right thing and says plainly what it is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unheard.data.synthetic import CorpusSize
from unheard.tasks import demo
from unheard.tasks.learn import LearnResult
from unheard.text.error_rate import EditCounts, Rate

pytest.importorskip("espeakng_loader")

SMALL = CorpusSize(unlabelled=12, labelled=2, test=3, labelled_speakers=2)


def _rate(value: float) -> Rate:
    counts = EditCounts(substitutions=0, deletions=0, insertions=0, hits=1, reference_length=1)
    return Rate(value=value, low=value - 0.02, high=value + 0.03, counts=counts)


@pytest.mark.parametrize(
    ("given", "recipe", "row"),
    [({}, "nano", "with pre-training"), ({"start": "unheard-mini"}, None, "from unheard-mini")],
)
def test_both_ways_are_compared_and_synthetic_voices_are_called_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    recipe: str | None,
    row: str,
) -> None:
    asked: dict[str, Any] = {}

    def learn(recordings: Path, **settings: Any) -> LearnResult:
        asked.update(settings, recordings=recordings)
        return LearnResult(
            model=tmp_path / "model",
            report=tmp_path / "report.html",
            cer=_rate(0.25),
            wer=_rate(0.5),
            scratch_cer=_rate(0.45),
            scratch_wer=_rate(0.85),
            minutes=1.0,
        )

    heard: list[Path] = []

    def transcribe(model: Path, audio: Path) -> Any:
        heard.append(audio)
        return SimpleNamespace(text="mtoto anasoma")

    monkeypatch.setattr(demo, "learn", learn)
    monkeypatch.setattr(demo, "transcribe", transcribe)
    result = demo.demo(out=tmp_path, max_minutes=3.0, size=SMALL, quiet=True, **given)

    assert asked["recipe"] == recipe
    assert asked["start"] == given.get("start", "none")
    assert asked["compare_scratch"] is True
    assert asked["max_minutes"] == 3.0
    assert asked["recordings"] == tmp_path / "corpus" / "recordings"
    assert heard == [result.example]
    assert result.example.is_file()
    assert "test" in result.example.parts
    shown = result.table()
    for expected in (
        "synthetic voices",
        "Real speech is harder",
        f"{'from scratch':<{len(row)}}  45.0 % (43.0 - 48.0)",
        f"{row}  25.0 % (23.0 - 28.0)",
        "written  mtoto anasoma",
        str(tmp_path / "report.html"),
    ):
        assert expected in shown
    assert result.reference in (tmp_path / "corpus" / "test.tsv").read_text()
