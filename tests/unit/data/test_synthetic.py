"""The demonstration corpus: the same everywhere, laid out as a person would, voices held out."""

from dataclasses import replace
from pathlib import Path

import pytest

from unheard.audio import io
from unheard.data.corpora import scan_source
from unheard.data.synthetic import CorpusSize, synthesize_corpus
from unheard.files import sha256_file

pytest.importorskip("espeakng_loader")

SMALL = CorpusSize(unlabelled=13, labelled=5, test=4, labelled_speakers=2)


def _contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def test_the_corpus_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    synthesize_corpus(tmp_path / "a", size=SMALL, processes=1)
    made = synthesize_corpus(tmp_path / "b", size=SMALL, processes=2)
    contents = _contents(tmp_path / "a")
    assert contents == _contents(tmp_path / "b")
    assert len([name for name in contents if name.endswith(".wav")]) == 22

    # What is there is not made again, unless something else is asked for.
    some = next((tmp_path / "b").rglob("*.wav"))
    some.unlink()
    assert synthesize_corpus(tmp_path / "b", size=SMALL) == made
    assert not some.exists()
    other = synthesize_corpus(tmp_path / "b", size=replace(SMALL, test=3), processes=2)
    assert some.exists()
    assert other.test_seconds < made.test_seconds


def test_scan_reads_it_and_the_voices_of_the_test_are_nowhere_else(tmp_path: Path) -> None:
    corpus = synthesize_corpus(tmp_path, size=SMALL, processes=2)
    learnt = scan_source(corpus.recordings, transcripts=corpus.transcripts)
    held_out = scan_source(corpus.test)
    assert learnt.skipped == ()
    assert held_out.skipped == ()
    assert sum(utterance.text is not None for utterance in learnt.utterances) == SMALL.labelled
    assert len(learnt.utterances) == SMALL.labelled + SMALL.unlabelled
    assert len(held_out.utterances) == SMALL.test
    speakers = {u.speaker for u in learnt.utterances if u.text is not None}
    assert len(speakers) == SMALL.labelled_speakers
    assert speakers.isdisjoint(u.speaker for u in held_out.utterances)
    texts = [u.text for u in (*learnt.utterances, *held_out.utterances) if u.text is not None]
    assert len(set(texts)) == SMALL.labelled + SMALL.test
    seconds = sum(u.duration_seconds for u in learnt.utterances)
    assert seconds == pytest.approx(corpus.recorded_seconds, abs=0.1)


def test_every_recording_is_sound_of_a_sensible_length(tmp_path: Path) -> None:
    synthesize_corpus(tmp_path, size=SMALL, processes=2)
    for path in tmp_path.rglob("*.wav"):
        waveform = io.read(path)
        assert waveform.warnings == ()
        assert 0.8 < waveform.duration_seconds < 8
        assert 0.05 < abs(waveform.samples).max() < 1
