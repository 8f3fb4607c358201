"""The verb `align`: any recording, every format, utterances cut out of a long one."""

import dataclasses
import io as stdlib_io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pysubs2
import pytest
import torch
from tests.mixed_recordings import make_bundle, make_sound, write_audio, write_wav

import unheard
from unheard import cli
from unheard.audio import io
from unheard.data.manifest import audio_path, read_manifest
from unheard.errors import AlignmentError, AudioError, ConfigError, FormatError
from unheard.interop.native import save_model
from unheard.tasks import align as align_task
from unheard.tasks.align import align_file, read_text, render
from unheard.text.alphabet import Alphabet


@pytest.fixture(scope="module")
def bundle():
    """A random model, sure of itself, that writes no word boundary: each symbol is a word."""
    made = make_bundle()
    assert made.alphabet is not None
    with torch.no_grad():
        made.model.head.weight.mul_(10)
    alphabet = Alphabet(tokens=("<blank>", "y", *made.alphabet.tokens[2:]), blank="<blank>")
    return dataclasses.replace(made, alphabet=alphabet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("align")


@pytest.fixture(scope="module")
def model(bundle, folder):
    return save_model(bundle, folder / "model")


@pytest.fixture(scope="module")
def recording(folder):
    """Not at the model's rate, and longer than one window."""
    sound = make_sound(np.random.default_rng(3), seconds=40, sample_rate=22_050)
    path = folder / "talk.flac"
    write_audio(path, sound, sample_rate=22_050)
    return path


@pytest.fixture(scope="module")
def transcript(bundle, recording):
    return unheard.transcribe(bundle, recording)


@pytest.fixture(scope="module")
def text(folder, transcript):
    """What the model itself writes, in three sentences."""
    third = len(transcript.text) // 3
    path = folder / "talk.txt"
    parts = (transcript.text[:third], transcript.text[third : 2 * third])
    lines = [*parts, transcript.text[2 * third :]]
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    return path


def test_what_the_model_writes_is_where_it_wrote_it(bundle, recording, transcript) -> None:
    """The best path of all is the best path of its own text: greedy words, to the frame."""
    assert len(transcript.words) > 100
    alignment = unheard.align(bundle, recording, transcript.text)
    assert [word.text for word in alignment.words] == [word.text for word in transcript.words]
    for found, expected in zip(alignment.words, transcript.words, strict=True):
        assert (found.start_seconds, found.end_seconds) == (
            expected.start_seconds,
            expected.end_seconds,
        )
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-6)
    assert alignment.duration_seconds == transcript.duration_seconds
    assert alignment.path == str(recording)
    assert (alignment.stars, alignment.missing, alignment.unwritable) == ((), (), ())


def test_a_list_is_one_by_one(bundle) -> None:
    generator = np.random.default_rng(0)
    sounds = [make_sound(generator, seconds=seconds) for seconds in (0.7, 2.0)]
    texts = [one.text for one in unheard.transcribe(bundle, sounds)]
    together = unheard.align(bundle, sounds, texts)
    assert together == [
        unheard.align(bundle, sound, one) for sound, one in zip(sounds, texts, strict=True)
    ]
    for audio, words in ((sounds, texts[:1]), (sounds, texts[0]), (sounds[0], texts)):
        with pytest.raises(ConfigError, match="each recording needs its text"):
            unheard.align(bundle, audio, words)


def test_what_cannot_be_aligned_says_why(bundle, tmp_path) -> None:
    sound = make_sound(np.random.default_rng(0), seconds=0.3)
    with pytest.raises(AlignmentError, match="too long for the recording"):
        unheard.align(bundle, sound, "aei" * 20)
    with pytest.raises(AlignmentError, match="nothing to align"):
        unheard.align(bundle, sound, "...")
    # Shorter than a frame: nothing fits, and a rough text loses everything.
    with pytest.raises(AlignmentError, match="the recording has 0"):
        unheard.align(bundle, sound[:100], "a")
    rough = unheard.align(bundle, sound[:100], "a", rough=True)
    assert [word.text for word in rough.missing] == ["a"]
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(AudioError):
        unheard.align(bundle, tmp_path / "a.wav", "a")
    with pytest.raises(ConfigError, match="no such normaliser"):
        unheard.align(bundle, sound, "a", normalizer="basic-9")


def test_json_holds_everything(model, recording, text, transcript, capsys) -> None:
    words = ["align", str(model), str(recording), str(text), "--unit", "char"]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    data = json.loads(shown.out)
    assert data["path"] == str(recording)
    assert len(data["sentences"]) == 3
    found = [word for sentence in data["sentences"] for word in sentence["words"]]
    assert [word["text"] for word in found] == [word.text for word in transcript.words]
    assert found[0]["characters"][0]["text"] == found[0]["text"]
    assert (data["stars"], data["missing"]) == ([], [])
    capsys.readouterr()
    cli.main([*words[:-1], "sentence"])
    assert "words" not in json.loads(capsys.readouterr().out)["sentences"][0]


def test_every_format_holds_every_word(model, recording, text, transcript, folder) -> None:
    said = [word.text for word in transcript.words]
    outputs = {}
    for name in ("ctm", "textgrid", "srt", "vtt", "eaf"):
        out = folder / f"talk.{name}"
        summary = align_file(model, recording, text, format=name, out=out)
        assert (summary.words, summary.aligned, summary.missing) == (len(said), len(said), 0)
        assert f"The alignment is in {out}" in summary.table()
        outputs[name] = out.read_text(encoding="utf-8")
    rows = [line.split(" ") for line in outputs["ctm"].splitlines()]
    assert [row[4] for row in rows] == said
    assert {tuple(row[:2]) for row in rows} == {("talk", "1")}
    for row, word in zip(rows, transcript.words, strict=True):
        assert float(row[2]) == pytest.approx(word.start_seconds, abs=6e-4)
    tier = outputs["textgrid"].split('name = "words"')[1]
    assert re.findall(r'text = "(.+)"', tier) == said
    document = ElementTree.fromstring(outputs["eaf"].encode())
    assert [one.text for one in document.iter("ANNOTATION_VALUE")][3:] == said
    assert document.find("HEADER/MEDIA_DESCRIPTOR").get("MEDIA_URL") == recording.resolve().as_uri()
    for name in ("srt", "vtt"):
        cues = pysubs2.SSAFile.from_string(outputs[name], format_=name)
        assert "".join(cue.plaintext for cue in cues).replace("\n", "") == transcript.text
        assert cues[0].start == round(transcript.words[0].start_seconds * 1000)


def test_a_unit_can_be_asked_for(bundle, recording, text) -> None:
    alignment = unheard.align(bundle, recording, read_text(text))
    cues = pysubs2.SSAFile.from_string(render(alignment, "srt", unit="sentence"), format_="srt")
    assert len(cues) == 3
    assert len(render(alignment, "ctm", unit="sentence").splitlines()) == 3
    grid = render(alignment, "textgrid", unit="char")
    assert re.findall(r'name = "(\w+)"', grid) == ["sentences", "words", "characters"]
    assert re.findall(r'name = "(\w+)"', render(alignment, "textgrid", unit="sentence")) == [
        "sentences"
    ]
    starred = unheard.align(bundle, recording, "a *")
    assert '"stars"' in render(starred, "textgrid")
    assert starred.stars[0].end_seconds > 30


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"format": "xml"}, "no such format"),
        ({"unit": "phone"}, "no such unit"),
        ({"min_confidence": 2.0}, "limits of utterances"),
        ({"star_penalty": -1.0}, "star_penalty is out of range"),
    ],
)
def test_options_are_checked(model, recording, text, option, message) -> None:
    with pytest.raises(ConfigError, match=message):
        align_file(model, recording, text, **option)


def test_a_text_must_be_a_text(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(FormatError, match=r"not a text in UTF-8 \(byte 1\)"):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none.txt")


def speak(bundle, words: list[str]) -> tuple[torch.Tensor, list[tuple[float, float]]]:
    """What a good model would say of these words, twenty frames each, and when they are spoken."""
    sounds = []
    times = []
    for word in words:
        start = len(sounds)
        for letter in word:
            sounds += [letter, letter, "<blank>"]
        times.append((start, len(sounds) - 1))
        sounds += ["|", *["<blank>"] * (19 - 3 * len(word))]
    ids = torch.tensor([bundle.alphabet.tokens.index(sound) for sound in sounds])
    noise = torch.randn(len(ids), len(bundle.alphabet), generator=torch.manual_seed(0))
    noise[torch.arange(len(ids)), ids] += 10
    # A frame is centred 200 samples after it begins, and lasts 320.
    seconds = [((40 + 320 * start) / 16_000, (40 + 320 * end) / 16_000) for start, end in times]
    return torch.log_softmax(noise, dim=-1), seconds


def test_a_rough_transcript_becomes_utterances(recording, folder, monkeypatch, capsys) -> None:
    """Words are missing from the text, others are not spoken, one is another."""
    bundle = make_bundle()
    generator = np.random.default_rng(5)
    words = ["".join(generator.choice(list("aeioukmns"), 5)) for _ in range(120)]
    spoken, written = words[:99], [*words[20:50], *words[100:110], *words[50:99]]
    written[5] = words[110]
    log_probs, seconds = speak(bundle, spoken)

    def listen(engine, blocks, plan):
        for _ in blocks:
            pass
        yield from log_probs.split(300)

    monkeypatch.setattr(align_task, "stream_log_probs", listen)
    saved = save_model(bundle, folder / "spaced")
    rough = folder / "rough.txt"
    rough.write_text(" ".join(written[:40]) + ". " + " ".join(written[40:]), encoding="utf-8")
    manifest = folder / "manifests" / "cut.jsonl"
    asked = ["align", str(saved), str(recording), str(rough), "--cut", str(manifest)]
    assert cli.main([*asked, "--max-seconds", "4"]) == 0
    shown = capsys.readouterr()
    utterances = read_manifest(manifest, check_files=True)
    minutes = sum(one.duration_seconds for one in utterances) / 60
    assert f"{len(utterances)} utterances, {minutes:.1f} min with 78 words" in shown.out
    assert "left out: 11 words without a place, 0 unlikely ones, 0 in stretches" in shown.out
    assert " ".join(one.text for one in utterances).split() == [*words[20:25], *words[26:99]]
    info = io.probe(recording)
    for one in utterances:
        assert one.sample_rate == info.sample_rate == 22_050
        assert 1 <= one.duration_seconds <= 4
        begin, end = one.start / 22_050, (one.start + one.num_samples) / 22_050
        inside = [
            word
            for word, (start, stop) in zip(spoken, seconds, strict=True)
            if begin <= start + 1e-3 and stop <= end + 1e-3
        ]
        assert one.text == " ".join(inside)
        assert audio_path(one, manifest.parent) == recording.resolve()
        assert one.extra["confidence"] >= 0.5
        assert written[one.extra["first_word"]] == inside[0]
    # What it names can be read, and is what it says.
    first = utterances[0]
    sound = io.read(
        recording, start_seconds=first.start / 22_050, max_seconds=first.num_samples / 22_050
    )
    assert sound.duration_seconds == pytest.approx(first.duration_seconds, abs=0.01)


def test_a_recording_in_the_manifests_folder_is_named_without_it(model, bundle, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    recording = write_wav(tmp_path / "in" / "b.wav", seconds=3.0)
    text = tmp_path / "b.txt"
    text.write_text(unheard.transcribe(bundle, recording).text)
    out = stdlib_io.StringIO()
    summary = align_file(
        model, recording, text, cut=tmp_path / "cut.jsonl", min_confidence=0.0, stdout=out
    )
    assert out.getvalue() == ""
    utterances = read_manifest(tmp_path / "cut.jsonl", check_files=True)
    assert {one.audio for one in utterances} == {"in/b.wav"}
    assert Path(summary.manifest or "").name == "cut.jsonl"
    assert summary.utterances == len(utterances) >= 1
