"""Fields read from headers by hand."""

import io
import struct

import numpy as np
import pytest
from tests.recordings import encode, pcm16, sound, wav

from unheard.audio import headers


def test_wav_format_of_all_kinds_of_riff() -> None:
    data = wav(b"", rate=22_050, channels=3)
    expected = headers.WavFormat(channels=3, sample_rate=22_050)
    assert headers.wav_format(data) == expected
    assert headers.wav_format(b"RF64" + data[4:]) == expected
    junk = b"JUNK" + struct.pack("<I", 5) + b"12345\0"
    assert headers.wav_format(data[:12] + junk + data[12:]) == expected
    big = struct.pack(">4sI4s4sIHHIIHH", b"RIFX", 36, b"WAVE", b"fmt ", 16, 1, 2, 8_000, 0, 4, 16)
    assert headers.wav_format(big) == headers.WavFormat(channels=2, sample_rate=8_000)


@pytest.mark.parametrize("cut", range(45))
def test_wav_format_of_a_cut_header(cut: int) -> None:
    headers.wav_format(wav(b"1234")[:cut])
    headers.data_bytes_missing(wav(b"1234")[:cut], cut)


def test_other_files_have_no_wav_format() -> None:
    assert headers.wav_format(b"") is None
    assert headers.wav_format(b"fLaC" + bytes(100)) is None
    assert headers.wav_format(b"RIFF\0\0\0\0AVI " + bytes(100)) is None
    endless = b"RIFF\0\0\0\0WAVE" + (b"LIST" + bytes(4)) * 500
    assert headers.wav_format(endless) is None


@pytest.mark.parametrize(
    ("codec", "container"), [("pcm_s16le", "wav"), ("pcm_s16le", "w64"), ("pcm_s16le", "caf")]
)
def test_missing_bytes_of_samples(codec: str, container: str) -> None:
    data = encode(sound(1, 16_000), 16_000, codec, container)
    assert headers.data_bytes_missing(data[:4_096], len(data)) == 0
    assert headers.data_bytes_missing(data[:4_096], len(data) - 7_000) == 7_000


def test_lengths_left_open_promise_nothing() -> None:
    for length in (0, 0x7FFFFFFF, 0xFFFFFFFF):
        data = wav(bytes(100), data_bytes=length)
        assert headers.data_bytes_missing(data, len(data)) == 0
    caf = b"caff\0\1\0\0" + b"data" + struct.pack(">q", -1)
    assert headers.data_bytes_missing(caf, len(caf)) == 0


def test_chunk_sizes_that_would_loop_or_run_backwards() -> None:
    caf = b"caff\0\1\0\0" + (b"free" + struct.pack(">q", -12)) * 3
    assert headers.data_bytes_missing(caf, 100) == 0
    w64 = headers._W64_RIFF + bytes(24) + bytes(16) + struct.pack("<q", 0) + bytes(50)
    assert headers.data_bytes_missing(w64, 100) == 0
    huge = b"caff\0\1\0\0" + b"free" + struct.pack(">q", 2**62)
    assert headers.data_bytes_missing(huge, 100) == 0


def test_mp3_length_field() -> None:
    data = encode(sound(1, 44_100), 44_100, "libmp3lame", "mp3")
    assert headers.mp3_states_length(data) is True
    bare = data.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    assert headers.mp3_states_length(bare) is False
    tag = b"ID3\x03\x00\x00\x00\x00\x7f\x7f"
    assert headers.mp3_states_length(tag + data[:1_000]) is None
    assert headers.mp3_states_length(b"") is False


def test_first_bytes_of_a_frame() -> None:
    assert headers.starts_with_frame(b"ID3\x04")
    assert headers.starts_with_frame(b"\xff\xfb\x90")
    assert not headers.starts_with_frame(b"\x00\xff\xfb")
    assert not headers.starts_with_frame(b"\xff")


def ogg(seconds: float, *, seed: int = 0) -> bytes:
    return encode(sound(seconds, 48_000, seed=seed), 48_000, "libopus", "ogg")


def test_links_of_a_chain() -> None:
    one, two = ogg(1), ogg(2, seed=1)
    assert headers.ogg_links(io.BytesIO(one)) == headers.OggLinks(starts=(0,), is_cut=False)
    chain = headers.ogg_links(io.BytesIO(one + two + one))
    assert chain.starts == (0, len(one), len(one) + len(two))
    assert not chain.is_cut


def test_links_across_damage() -> None:
    one, two = ogg(1), ogg(2, seed=1)
    junk = np.random.default_rng(0).bytes(5_000)
    damaged = headers.ogg_links(io.BytesIO(one + junk + two + junk))
    assert damaged.starts == (0, len(one) + len(junk))
    assert not damaged.is_cut
    assert headers.ogg_links(io.BytesIO(one[:-10])).is_cut
    assert headers.ogg_links(io.BytesIO(one + b"Ogg")).is_cut
    assert headers.ogg_links(io.BytesIO(one + b"TAG" + bytes(125))).starts == (0,)


def test_links_of_pages_beyond_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_SCAN_BYTES", 7)
    one = ogg(1)
    chain = headers.ogg_links(io.BytesIO(one + bytes(33) + one))
    assert chain.starts == (0, len(one) + 33)


def test_samples_of_the_helper_fit(  # the hand-written header against the standard library's
) -> None:
    import wave

    data = wav(pcm16(sound(1, 16_000, channels=2)), channels=2)
    with wave.open(io.BytesIO(data)) as file:
        assert file.getparams()[:4] == (2, 2, 16_000, 16_000)
