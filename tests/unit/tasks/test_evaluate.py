import json

import pytest
from tests.mixed_recordings import make_bundle, write_wav

import unheard
from unheard.audio import io
from unheard.data.manifest import Utterance, read_manifest, write_manifest
from unheard.errors import ConfigError, ManifestError


@pytest.fixture(scope="module")
def bundle():
    return make_bundle()


@pytest.fixture
def manifest(tmp_path, bundle):
    """Three stretches whose texts are what the model writes, one wrong, and one unreadable."""
    path = write_wav(tmp_path / "a.wav", seconds=3.0)
    samples = (0, 16_000, 32_000)
    utterances = []
    for number, start in enumerate(samples):
        waveform = io.read(path, start_seconds=start / 16_000, max_seconds=1.0)
        text = unheard.transcribe(bundle, waveform).text
        utterances.append(
            Utterance(
                id=f"u{number}",
                audio="a.wav",
                start=start,
                num_samples=16_000,
                sample_rate=16_000,
                text=text if number else "zz",
                speaker=f"s{number % 2}",
            )
        )
    utterances.append(
        Utterance(id="gone", audio="b.wav", num_samples=9, sample_rate=16_000, text="a")
    )
    utterances.append(Utterance(id="mute", audio="a.wav", num_samples=9, sample_rate=16_000))
    write_manifest(tmp_path / "test.jsonl", utterances)
    return tmp_path / "test.jsonl"


def test_stretches_are_transcribed_and_scored(bundle, manifest, tmp_path):
    evaluation = unheard.evaluate(bundle, manifest, out=tmp_path / "out")
    assert [one.id for one in evaluation.errors.utterances] == ["u0", "u1", "u2"]
    assert [one.words.errors == 0 for one in evaluation.errors.utterances] == [False, True, True]
    assert evaluation.failed == 1
    assert evaluation.failed_utterances[0].reason == "vanished"
    assert evaluation.num_without_text == 1
    assert evaluation.audio_seconds == 3.0
    assert {row.speaker for row in evaluation.errors.by_speaker} == {"s0", "s1"}
    assert evaluation.cer > 0
    table = evaluation.table()
    assert "CER" in table
    assert "1 utterances could not be read" in table

    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result == evaluation.to_dict()
    assert result["error_rate"]["cer"]["value"] == evaluation.cer
    lines = (tmp_path / "out/utterances.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == ["u0", "u1", "u2"]
    assert rows[1]["hypothesis"] == rows[1]["reference"]
    assert (rows[1]["audio"], rows[1]["start"], rows[1]["cer"]) == ("a.wav", 16_000, 0.0)
    assert 0 < rows[1]["confidence"] <= 1


def test_the_normaliser_of_the_model_is_the_default(bundle, manifest):
    assert unheard.evaluate(bundle, manifest).normalizer is None
    trained = type(bundle)(
        model=bundle.model,
        alphabet=bundle.alphabet,
        input_spec=bundle.input_spec,
        provenance={"normalizer": "basic-1"},
    )
    assert unheard.evaluate(trained, manifest).normalizer == "basic-1"
    assert unheard.evaluate(trained, manifest, normalizer="none-1").normalizer == "none-1"


def test_utterances_and_tables_are_taken_as_well(bundle, manifest, tmp_path):
    by_path = unheard.evaluate(bundle, manifest)
    by_list = unheard.evaluate(bundle, read_manifest(manifest), audio_root=tmp_path)
    assert by_list.cer == by_path.cer
    (tmp_path / "table.tsv").write_text("path\tsentence\na.wav\tmami\n", encoding="utf-8")
    by_table = unheard.evaluate(bundle, tmp_path / "table.tsv")
    assert len(by_table.errors.utterances) == 1
    assert by_table.errors.utterances[0].reference == "mami"


def test_nothing_to_score_is_an_error(bundle, manifest, tmp_path):
    write_manifest(
        tmp_path / "mute.jsonl",
        [Utterance(id="u", audio="a.wav", num_samples=9, sample_rate=16_000)],
    )
    with pytest.raises(ConfigError, match="with a text"):
        unheard.evaluate(bundle, tmp_path / "mute.jsonl")
    write_manifest(
        tmp_path / "gone.jsonl",
        [Utterance(id="u", audio="gone.wav", num_samples=9, sample_rate=16_000, text="a")],
    )
    with pytest.raises(ConfigError, match="None of the 1"):
        unheard.evaluate(bundle, tmp_path / "gone.jsonl")
    (tmp_path / "bad.jsonl").write_text("{}\n{]\n")
    with pytest.raises(ManifestError):
        unheard.evaluate(bundle, tmp_path / "bad.jsonl")
