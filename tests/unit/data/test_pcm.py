import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import recordings, small_corpora

from unheard.data import pcm
from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.errors import ConfigError, FormatError

RATE = 16_000


def noise(count: int, *, seed: int) -> NDArray[np.float64]:
    return 0.5 * np.random.default_rng(seed).uniform(-1, 1, count)


def write(folder: Path, name: str, samples: NDArray[np.float64], rate: int = RATE) -> Utterance:
    """Write a recording; returns the utterance that is all of it."""
    data = recordings.wav(recordings.pcm16(samples[None]), rate=rate)
    small_corpora.text(folder / name, data)
    return Utterance(id=name, audio=name, num_samples=len(samples), sample_rate=rate)


@pytest.fixture
def three(tmp_path: Path) -> list[Utterance]:
    return [
        write(tmp_path, f"{n}.wav", noise(count, seed=n)) for n, count in enumerate((800, 1, 500))
    ]


def test_samples_are_those_of_the_recordings_within_half_a_step(
    tmp_path: Path, three: list[Utterance]
) -> None:
    store = open_store(three, tmp_path / "store", root=tmp_path)
    assert store.ids == ["0.wav", "1.wav", "2.wav"]
    assert store.num_samples.tolist() == [800, 1, 500]
    assert len(store) == 3
    assert store.seconds == pytest.approx(1301 / RATE)
    for number, count in enumerate((800, 1, 500)):
        found = store.samples(number)
        assert found.dtype == np.float32
        # One rounding to 16 bits when the file was written, another for another full scale.
        np.testing.assert_allclose(found, noise(count, seed=number), rtol=0, atol=1.01 / 32767)


def test_the_loudest_samples_stay_within_full_scale(tmp_path: Path) -> None:
    data = np.array([-1.0, -0.5, 0.0, 0.5, 1.0], dtype="<f4")
    path = small_corpora.text(
        tmp_path / "a.wav", recordings.wav((data * 1.5).tobytes(), bits=32, tag=3)
    )
    whole = Utterance(id="a", audio=path.name, num_samples=5, sample_rate=RATE)
    store = open_store([whole], tmp_path / "store", root=tmp_path)
    assert store.samples(0).tolist() == pytest.approx([-1.0, -0.75, 0.0, 0.75, 1.0], abs=2e-5)


def test_a_stretch_of_a_recording_and_another_rate(tmp_path: Path) -> None:
    samples = noise(4000, seed=1)
    whole = write(tmp_path, "a.wav", samples)
    part = replace(whole, id="part", start=1000, num_samples=1500)
    slow = write(tmp_path, "slow.wav", np.sin(np.arange(8000) / 20) / 2, rate=8000)
    store = open_store([part, slow], tmp_path / "store", root=tmp_path)
    assert store.num_samples.tolist() == [1500, 16_000]
    np.testing.assert_allclose(store.samples(0), samples[1000:2500], rtol=0, atol=1.01 / 32767)
    expected = np.sin(np.arange(16_000) / 40) / 2
    np.testing.assert_allclose(store.samples(1)[200:-200], expected[200:-200], rtol=0, atol=2e-3)


def test_crops_and_views(tmp_path: Path, three: list[Utterance]) -> None:
    store = open_store(three, tmp_path / "store", root=tmp_path)
    whole = store.samples(2)
    np.testing.assert_array_equal(store.samples(2, start=100), whole[100:])
    np.testing.assert_array_equal(store.samples(2, start=100, count=50), whole[100:150])
    view = store.only([2, 0])
    assert view.ids == ["2.wav", "0.wav"]
    assert view.num_samples.tolist() == [500, 800]
    np.testing.assert_array_equal(view.samples(0), whole)
    np.testing.assert_array_equal(
        view.normalized(0, epsilon=1e-5), store.normalized(2, epsilon=1e-5)
    )
    assert len(store) == 3


def test_a_crop_is_normalised_by_the_whole_utterance(tmp_path: Path) -> None:
    quiet_then_loud = np.concatenate([0.01 * noise(1000, seed=0), noise(1000, seed=1) + 0.2])
    utterance = write(tmp_path, "a.wav", quiet_then_loud)
    store = open_store([utterance], tmp_path / "store", root=tmp_path)
    whole = store.normalized(0, epsilon=1e-5)
    assert whole.mean() == pytest.approx(0, abs=1e-5)
    assert whole.var() == pytest.approx(1, abs=1e-3)
    crop = store.normalized(0, epsilon=1e-5, start=0, count=1000)
    np.testing.assert_array_equal(crop, whole[:1000])
    assert crop.std() < 0.05
    # The epsilon is added to the variance of samples within -1 .. 1.
    samples = store.samples(0).astype(np.float64)
    expected = (samples - samples.mean()) / np.sqrt(samples.var() + 0.5)
    np.testing.assert_allclose(store.normalized(0, epsilon=0.5), expected, rtol=0, atol=1e-6)


def test_silence_can_be_normalised(tmp_path: Path) -> None:
    store = open_store([write(tmp_path, "a.wav", np.zeros(100))], tmp_path / "store", root=tmp_path)
    assert store.normalized(0, epsilon=1e-5).tolist() == [0.0] * 100


def test_recordings_that_cannot_be_decoded_are_named_and_left_out(
    tmp_path: Path, three: list[Utterance]
) -> None:
    small_corpora.text(tmp_path / "1.wav", b"RIFF, but not really")
    (tmp_path / "2.wav").unlink()
    empty = write(tmp_path, "empty.wav", np.zeros(0))
    progress: list[tuple[int, int]] = []
    store = open_store(
        [*three, empty],
        tmp_path / "store",
        root=tmp_path,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert store.ids == ["0.wav"]
    assert [one.id for one in store.unreadable] == ["1.wav", "2.wav", "empty.wav"]
    assert [one.audio for one in store.unreadable] == ["1.wav", "2.wav", "empty.wav"]
    assert all(one.reason and one.detail for one in store.unreadable)
    assert store.unreadable[2].reason == "too_short"
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert PcmStore(tmp_path / "store").unreadable == store.unreadable


def test_nothing_readable_is_an_empty_store(tmp_path: Path) -> None:
    gone = Utterance(id="x", audio="x.wav", num_samples=10, sample_rate=RATE)
    store = open_store([gone], tmp_path / "store", root=tmp_path)
    assert len(store) == 0
    assert store.seconds == 0


class Decoded:
    """Counts how often a recording is decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        original = pcm._decode

        def decode(utterance: Utterance, root: Path) -> object:
            self.names.append(utterance.id)
            return original(utterance, root)

        monkeypatch.setattr(pcm, "_decode", decode)


def test_recordings_are_decoded_once(
    tmp_path: Path, three: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Decoded(monkeypatch)
    for _ in range(3):
        open_store(three, tmp_path / "store", root=tmp_path)
    assert sorted(decoded.names) == ["0.wav", "1.wav", "2.wav"]


def test_a_changed_file_or_list_is_decoded_anew(
    tmp_path: Path, three: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    open_store(three, folder, root=tmp_path)
    decoded = Decoded(monkeypatch)
    write(tmp_path, "1.wav", noise(70, seed=9))
    assert open_store(three, folder, root=tmp_path).num_samples.tolist() == [800, 1, 500]
    decoded.names.clear()
    os.utime(tmp_path / "0.wav", ns=(1, 1))
    open_store(three, folder, root=tmp_path)
    assert len(decoded.names) == 3
    decoded.names.clear()
    fewer = [three[2], replace(three[0], start=5, num_samples=10)]
    assert open_store(fewer, folder, root=tmp_path).num_samples.tolist() == [500, 10]
    assert len(decoded.names) == 2


def test_the_order_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    utterances = [write(tmp_path, f"{n}.wav", noise(50 + n, seed=n)) for n in range(30)]
    one = open_store(utterances, tmp_path / "one", root=tmp_path, workers=1)
    many = open_store(utterances, tmp_path / "many", root=tmp_path, workers=7)
    assert one.ids == many.ids == [utterance.id for utterance in utterances]
    data = [(tmp_path / name / "samples.i16").read_bytes() for name in ("one", "many")]
    assert data[0] == data[1]


@pytest.mark.parametrize("change", [-2, +2])
def test_a_torn_store_is_refused(tmp_path: Path, three: list[Utterance], change: int) -> None:
    folder = tmp_path / "store"
    open_store(three, folder, root=tmp_path)
    path = folder / "samples.i16"
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(FormatError, match="made again"):
        open_store(three, folder, root=tmp_path)


def test_a_store_without_its_index_was_never_finished(
    tmp_path: Path, three: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also regression: what a process killed while it decoded had written stayed for ever."""
    folder = tmp_path / "store"
    open_store(three, folder, root=tmp_path)
    (folder / "index.json").unlink()
    (folder / "samples.i16.tmp-4242").write_bytes(b"half")
    decoded = Decoded(monkeypatch)
    open_store(three, folder, root=tmp_path)
    assert len(decoded.names) == 3
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["index.json", "names.json", "samples.i16"]


def test_the_index_is_only_there_when_all_is_decoded(
    tmp_path: Path, three: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    open_store(three[:1], folder, root=tmp_path)

    def fail(done: int, total: int) -> None:
        assert not (folder / "index.json").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(three, folder, root=tmp_path, progress=fail)
    assert not (folder / "index.json").exists()
    assert not list(folder.glob("*.tmp-*"))


def test_two_at_a_time_are_refused(tmp_path: Path, three: list[Utterance]) -> None:
    folder = tmp_path / "store"
    refused: list[str] = []

    def second(done: int, total: int) -> None:
        if done == 1:
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()

    def attempt() -> None:
        try:
            open_store(three, folder, root=tmp_path)
        except ConfigError as error:
            refused.append(str(error))

    open_store(three, folder, root=tmp_path, progress=second)
    assert len(refused) == 1
    assert "in use" in refused[0]


def test_the_index_is_plain_data(tmp_path: Path, three: list[Utterance]) -> None:
    open_store(three, tmp_path / "store", root=tmp_path)
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    assert index["sample_rate"] == RATE
    assert index["num_samples"] == [800, 1, 500]
