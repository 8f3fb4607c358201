"""Recordings that are damaged, odd or hostile: each is decoded with a flag or refused by name.

Every test runs inside `sealed`: nothing outside its folder is opened by Python, no socket, no
child process. What the decoder's own code opens is watched by planted files and a listener.
"""

import contextlib
import io
import os
import socket
import struct
import sys
import threading
import time
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest
from tests.recordings import encode, pcm16, sound, video_without_sound, wav

from unheard.audio import io as audio_io
from unheard.audio.io import DecodeLimits
from unheard.errors import AudioError

pytestmark = pytest.mark.usefixtures("sealed")

SECOND = pcm16(sound(1, 16_000))


def refused(source: object, reason: str) -> None:
    """Each of the three ways in refuses with the same reason, in well under 5 s."""
    began = time.monotonic()
    for way in (audio_io.read, audio_io.probe, lambda x: list(audio_io.stream(x))):
        with pytest.raises(AudioError) as caught:
            way(source)  # type: ignore[arg-type]
        assert caught.value.reason == reason, caught.value
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5


def decoded(source: object) -> tuple[np.ndarray, set[str]]:
    waveform = audio_io.read(source)  # type: ignore[arg-type]
    assert np.isfinite(waveform.samples).all()
    return waveform.samples, set(waveform.warnings)


# Rows 1 and 2: no recordings at all


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"R",
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 40,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(2_000),
        b"\x89PNG\r\n\x1a\n" + bytes(2_000),
        bytes(100_000),
        np.random.default_rng(0).bytes(100_000),
        b"%PDF-1.7\n" + bytes(500),
        b"PK\x03\x04" + bytes(500),
    ],
    ids=["empty", "one byte", "html", "lfs", "jpeg", "png", "zeros", "noise", "pdf", "zip"],
)
def test_no_recording(data: bytes, tmp_path: Path) -> None:
    refused(data, "unreadable")
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    refused(path, "unreadable")


# Rows 3 to 7: WAV headers


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_too_short(samples: int) -> None:
    result, warnings = decoded(wav(SECOND[: 2 * samples]))
    assert result.shape == (samples,)
    assert warnings == {"too_short"}
    assert decoded(wav(SECOND[:800]))[1] == set()


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36])
def test_length_left_open_by_a_recorder(length: int) -> None:
    data = wav(SECOND, data_bytes=length, riff_bytes=0xFFFFFFFF if length else 0)
    samples, warnings = decoded(data)
    np.testing.assert_array_equal(samples, np.frombuffer(SECOND, "<i2") / 32768)
    assert warnings == set()
    assert audio_io.probe(data).num_samples == 16_000


def test_wav_cut_in_half() -> None:
    data = wav(SECOND[:16_000], data_bytes=32_000)
    samples, warnings = decoded(data)
    assert samples.shape == (8_000,)
    assert warnings == {"truncated"}
    assert audio_io.probe(data).num_samples == 8_000


@pytest.mark.parametrize("rate", [0, 1, 3_999, 768_001, 4_000_000_000])
def test_impossible_sample_rate(rate: int) -> None:
    refused(wav(SECOND, rate=rate), "sample_rate")


@pytest.mark.parametrize("channels", [0, 33, 65_535])
def test_impossible_channel_count(channels: int) -> None:
    refused(wav(SECOND, channels=channels), "channels")


# Rows 9 and 10: samples


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_not_finite_and_absurd_samples(bits: int, rate: int) -> None:
    samples = sound(1, rate)[0].astype(f"<f{bits // 8}")
    clean = audio_io.read(wav(samples.tobytes(), rate=rate, bits=bits, tag=3)).samples
    samples[[100, 200, 300]] = np.nan, np.inf, -np.inf
    result, warnings = decoded(wav(samples.tobytes(), rate=rate, bits=bits, tag=3))
    assert warnings == {"nonfinite"}
    np.testing.assert_allclose(result[400:], clean[400:], atol=1e-4)
    samples[[100, 200, 300]] = 1e30, -1e30, 0
    result, warnings = decoded(wav(samples.tobytes(), rate=rate, bits=bits, tag=3))
    assert warnings == {"clipped"}
    assert 0.3 < np.abs(result).max() < 1.2
    np.testing.assert_allclose(result[400:], clean[400:], atol=1e-4)


def test_samples_beyond_the_range_of_single_precision() -> None:
    samples = np.array([1e300, -1e300, 0.25] * 1_000)
    result, warnings = decoded(wav(samples.tobytes(), bits=64, tag=3))
    assert warnings == {"clipped"}
    np.testing.assert_allclose(result, np.array([1, -1, 0.25] * 1_000), atol=1e-6)


def test_floats_in_the_scale_of_integers_are_kept() -> None:
    samples = (sound(1, 16_000)[0] * 32_768).astype("<f4")
    result, warnings = decoded(wav(samples.tobytes(), bits=32, tag=3))
    np.testing.assert_array_equal(result, samples)
    assert warnings == set()


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(960_000),
        np.full(16_000, 0.5),
        np.sign(np.sin(np.arange(16_000) * 0.3)) * 0.99997,
        np.random.default_rng(0).choice([-1.0, 1.0], 16_000) / 32768,
    ],
    ids=["silence", "constant", "square", "one bit"],
)
def test_dull_sounds(samples: np.ndarray) -> None:
    result, warnings = decoded(wav(pcm16(samples[None])))
    np.testing.assert_allclose(result, samples, atol=1 / 32768)
    assert warnings == set()


# Rows 11 and 12: small files that become large


def test_decompression_is_bounded() -> None:
    data = encode(np.zeros((1, 16_000 * 600)), 16_000, "flac", "flac")
    assert len(data) < 150_000
    for limits in (DecodeLimits(max_seconds=60), DecodeLimits(max_pcm_bytes=2_000_000)):
        with pytest.raises(AudioError) as caught:
            audio_io.read(data, limits=limits)
        assert caught.value.reason == "too_long"


def test_forged_flac_rate_is_stopped_by_decoded_bytes() -> None:
    data = bytearray(encode(np.zeros((8, 4_096 * 40)), 16_000, "flac", "flac"))
    assert data[:4] == b"fLaC"
    # STREAMINFO: 20 bits of rate, 3 of channels - 1, 5 of bits - 1, from byte 18 of the file.
    packed = int.from_bytes(data[18:22], "big")
    data[18:22] = ((655_350 << 12) | (packed & 0xFFF)).to_bytes(4, "big")
    began = time.monotonic()
    with pytest.raises(AudioError) as caught:
        audio_io.read(bytes(data), limits=DecodeLimits(max_seconds=3_600, max_pcm_bytes=2_000_000))
    assert caught.value.reason == "too_long"
    assert time.monotonic() - began < 2


# Row 13: MP3


def mp3(seconds: float = 10) -> bytes:
    return encode(sound(seconds, 44_100), 44_100, "libmp3lame", "mp3", bit_rate=96_000)


def without_length(data: bytes) -> bytes:
    return data.replace(b"Xing", bytes(4), 1).replace(b"Info", bytes(4), 1)


def with_length(data: bytes, frames: int) -> bytes:
    mark = max(data.find(b"Xing"), data.find(b"Info"))
    assert mark > 0
    return data[: mark + 8] + struct.pack(">I", frames) + data[mark + 12 :]


@pytest.mark.parametrize(
    ("change", "seconds", "flags"),
    [
        (lambda d: d, 10, set()),
        (lambda d: d[: len(d) // 2], 5, {"truncated"}),
        (lambda d: d[:60_000] + np.random.default_rng(2).bytes(2_048) + d[60_000:], 10, None),
        (lambda d: d[:60_000] + np.random.default_rng(2).bytes(2_048) + d[62_048:], 9.85, None),
        (lambda d: np.random.default_rng(2).bytes(3_000) + d, 10, {"decode_errors"}),
        (lambda d: bytes(3_000) + d, 10, {"decode_errors"}),
        (lambda d: d + d, 20, None),
        (lambda d: with_length(d, 38_000), 10, {"truncated"}),
        (lambda d: with_length(d, 38), 10, {"header_mismatch"}),
        (without_length, 10, set()),
        (lambda d: d + b"TAG" + bytes(125), 10, set()),
    ],
    ids=[
        "whole",
        "half",
        "junk put in",
        "junk put over",
        "junk first",
        "zeros first",
        "two joined",
        "length too long",
        "length too short",
        "no length",
        "tag at the end",
    ],
)
def test_mp3(change: object, seconds: float, flags: set[str] | None) -> None:
    samples, warnings = decoded(change(mp3()))  # type: ignore[operator]
    assert samples.shape[0] / 16_000 == pytest.approx(seconds, abs=0.3)
    if flags is None:
        assert warnings & {"decode_errors", "header_mismatch", "truncated"}
    else:
        assert warnings == flags


def test_mp3_with_a_large_picture() -> None:
    picture = b"\x00image/jpeg\x00\x03\x00" + b"\xff\xd8\xff\xe0" + bytes(20_000_000)
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\x00\x00" + picture
    size = len(frame)
    digits = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    data = b"ID3\x03\x00\x00" + digits + frame + mp3(2)
    samples, warnings = decoded(data)
    assert samples.shape[0] / 16_000 == pytest.approx(2, abs=0.1)
    assert warnings == set()


def test_metadata_that_is_not_utf_8() -> None:
    tag = b"TIT2" + struct.pack(">I", 6) + b"\x00\x00" + b"\x03\xff\xfe\xe4\xf6\xfc"
    digits = bytes((len(tag) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    samples, _ = decoded(b"ID3\x03\x00\x00" + digits + tag + mp3(1))
    assert samples.shape[0] == pytest.approx(16_000, abs=1_000)


# Row 14: MP4


def boxes(data: bytes, path: str) -> list[tuple[int, int]]:
    """Start and size of each box on the way to `path`, such as "moov/trak/mdia"."""
    found, start, end = [], 0, len(data)
    for name in path.split("/"):
        while start < end:
            size, kind = struct.unpack_from(">I4s", data, start)
            if kind == name.encode():
                found.append((start, size))
                start, end = start + 8, start + size
                break
            start += size
        else:
            raise LookupError(name)
    return found


def pointing_to(other: Path, m4a: bytes) -> bytes:
    """An M4A whose data reference is an alias to another file, with no sound of its own."""
    data = bytearray(m4a)
    way = boxes(bytes(data), "moov/trak/mdia/minf/dinf/dref")
    name = str(other).encode()
    record = bytes(10) + b"\x01V" + bytes(26) + bytes(12)
    record += bytes([min(len(name), 63)]) + name[:63].ljust(63, b"\0") + bytes(16)
    record += struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2)
    record += struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    start, size = way[-1]
    data[start + 16 : start + size] = entry
    growth = 16 + len(entry) - size
    for at, old in way:
        data[at : at + 4] = struct.pack(">I", old + growth)
    at, size = boxes(bytes(data), "mdat")[0]
    data[at + 8 : at + size] = bytes(size - 8)
    return bytes(data)


def test_m4a_without_its_index() -> None:
    data = encode(sound(3, 44_100), 44_100, "aac", "mp4")
    refused(data[: len(data) // 2], "unreadable")


def test_m4a_with_its_index_first_cut_in_half(tmp_path: Path) -> None:
    data = encode(
        sound(10, 44_100),
        44_100,
        "aac",
        "mp4",
        options={"movflags": "faststart"},
        path=tmp_path / "a.mp4",
    )
    samples, warnings = decoded(data[: len(data) // 2])
    assert 3.5 < samples.shape[0] / 16_000 < 6
    assert "truncated" in warnings


def test_fragmented_m4a() -> None:
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
    data = encode(sound(5, 44_100), 44_100, "aac", "mp4", options=options)
    samples, warnings = decoded(data)
    assert samples.shape[0] / 16_000 == pytest.approx(5, abs=0.1)
    assert warnings == set()
    samples, warnings = decoded(data[: len(data) // 2])
    assert 1.5 < samples.shape[0] / 16_000 < 3.5
    assert warnings


def test_m4a_pointing_to_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = encode(sound(2, 44_100), 44_100, "aac", "mp4")
    secret = tmp_path / "secret.m4a"
    secret.write_bytes(original)
    hostile = pointing_to(secret, original)
    path = tmp_path / "a.m4a"
    path.write_bytes(hostile)
    monkeypatch.chdir(tmp_path)
    for source in (path, hostile):
        with contextlib.suppress(AudioError):
            samples, _ = decoded(source)
            assert np.abs(samples).max(initial=0) < 0.01
    # The alias is a working one: without the guard, and told to follow it, the decoder does.
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as unguarded:
        heard = np.concatenate([f.to_ndarray() for f in unguarded.decode(audio=0)], axis=1)
    assert np.abs(heard).max() > 0.1


# Rows 15 and 16: chains, changes, recorders


@pytest.mark.parametrize("codec", ["libopus", "flac"])
def test_chained_ogg_is_read_to_its_end(codec: str) -> None:
    rates = (48_000, 48_000) if codec == "libopus" else (16_000, 44_100)
    links = [
        encode(sound(seconds, rate, channels=channels, seed=channels), rate, codec, "ogg")
        for seconds, rate, channels in ((3, rates[0], 1), (2, rates[1], 2))
    ]
    parts = [audio_io.read(link).samples for link in links]
    samples, warnings = decoded(links[0] + links[1])
    assert samples.shape[0] == sum(part.shape[0] for part in parts)
    assert warnings == {"format_changed"}
    inside = slice(parts[0].shape[0] + 800, -800)
    np.testing.assert_allclose(samples[inside], parts[1][800:-800], atol=1e-5)
    same, warnings = decoded(links[0] * 3)
    assert same.shape[0] == pytest.approx(3 * parts[0].shape[0], abs=5)
    assert warnings == set()


def test_damaged_link_of_a_chain_is_left_out() -> None:
    link = encode(sound(2, 48_000), 48_000, "libopus", "ogg")
    broken = link.replace(b"OpusHead", b"NopeHead")
    samples, warnings = decoded(link + broken + link)
    assert samples.shape[0] == pytest.approx(64_000, abs=5)
    assert {"partial", "decode_errors"} <= warnings


def test_ogg_cut_in_half() -> None:
    data = encode(sound(6, 48_000), 48_000, "libopus", "ogg")
    samples, warnings = decoded(data[: len(data) // 2])
    assert 1 < samples.shape[0] / 16_000 < 4
    assert warnings == {"truncated"}


def test_joined_flac_files_of_different_kinds() -> None:
    parts = [(16_000, 1, 3.0), (44_100, 2, 2.0), (8_000, 1, 1.0)]
    data = b"".join(
        encode(sound(seconds, rate, channels=channels), rate, "flac", "flac")
        for rate, channels, seconds in parts
    )
    samples, warnings = decoded(data)
    assert 4.5 < samples.shape[0] / 16_000 < 6.01
    assert warnings >= {"format_changed", "header_mismatch"}


def crc(data: bytes, *, bits: int, polynomial: int) -> bytes:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
    return value.to_bytes(bits // 8, "big")


def flac_frames(data: bytes, first: int) -> list[bytes]:
    """The frames of a FLAC file, numbered anew from `first` (below 128, one byte)."""
    frames = []
    with av.open(io.BytesIO(data)) as container:
        for packet in container.demux(audio=0):
            old = bytes(packet)
            if not old:
                continue
            blocks, rate = old[2] >> 4, old[2] & 15
            extra = {6: 1, 7: 2}.get(blocks, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
            header = old[:4] + bytes([first + len(frames)]) + old[5 : 5 + extra]
            header += crc(header, bits=8, polynomial=0x07)
            body = header + old[6 + extra : -2]
            frames.append(body + crc(body, bits=16, polynomial=0x8005))
    return frames


def test_flac_that_changes_rate_and_channels_on_the_way() -> None:
    # As in the files "uncommon" 01 to 03 of the FLAC test suite: one stream, other frames.
    parts = [
        encode(sound(seconds, rate, channels=channels), rate, "flac", "flac")
        for rate, channels, seconds in ((16_000, 1, 0.6), (44_100, 2, 0.4), (8_000, 2, 0.6))
    ]
    head = parts[0].find(b"\xff\xf8")
    data, count = parts[0][:10] + b"\xff\xff" + bytes(6) + parts[0][18:head], 0  # any block size
    for part in parts:
        frames = flac_frames(part, count)
        data += b"".join(frames)
        count += len(frames)
    assert count < 128
    samples, warnings = decoded(data)
    # The decoder may give some frames at the change twice; it loses none.
    assert samples.shape[0] >= 25_597
    assert warnings >= {"format_changed"}
    first, last = (audio_io.read(part).samples for part in (parts[0], parts[2]))
    np.testing.assert_allclose(samples[:9_000], first[:9_000], atol=1e-6)
    np.testing.assert_allclose(samples[-9_000:], last[-9_000:], atol=1e-4)


@pytest.mark.parametrize(
    ("codec", "container", "rate"),
    [("libopus", "webm", 48_000), ("aac", "matroska", 44_100), ("flac", "flac", 16_000)],
)
def test_half_of_a_file(codec: str, container: str, rate: int) -> None:
    data = encode(sound(10, rate), rate, codec, container)
    samples, warnings = decoded(data[: len(data) // 2])
    assert 3.5 < samples.shape[0] / 16_000 < 6.5
    assert "truncated" in warnings


@pytest.mark.parametrize(
    ("codec", "container"),
    [("pcm_s16le", "w64"), ("pcm_s16le", "caf"), ("pcm_s16be", "aiff"), ("pcm_s16be", "au")],
)
def test_half_of_uncompressed_files(codec: str, container: str) -> None:
    data = encode(sound(4, 16_000), 16_000, codec, container)
    assert decoded(data)[1] == set()
    samples, warnings = decoded(data[: len(data) // 2])
    assert samples.shape[0] / 16_000 == pytest.approx(2, abs=0.01)
    assert warnings == {"truncated"}


# Rows 17 and 18: files that name other files


class Named(io.BytesIO):
    """A file object with a name that the decoder would take for an address."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@pytest.fixture
def listener() -> "list[bytes]":
    """The requests that reach a server on this machine; its port is in `LISTENER_PORT`."""
    requests: list[bytes] = []
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    server.settimeout(0.1)
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                requests.append(b"hit")
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    os.environ["LISTENER_PORT"] = str(server.getsockname()[1])
    yield requests  # type: ignore[misc]
    stopped.set()
    thread.join()
    server.close()


REFERRING = {
    "ffconcat": "ffconcat version 1.0\nfile secret.wav\n",
    "ffconcat absolute": "ffconcat version 1.0\nfile '{folder}/secret.wav'\n",
    "m3u8 file": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{folder}/secret.wav\n",
    "m3u8 relative": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "m3u8 http": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=audio {port} RTP/AVP 0\n",
    "rtsp": "rtsp://127.0.0.1:{port}/a",
    "lavfi": "sine=frequency=1000:duration=5",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<Period><AdaptationSet><Representation><BaseURL>secret.wav</BaseURL>"
    "</Representation></AdaptationSet></Period></MPD>",
    "imf": '<?xml version="1.0"?><CompositionPlaylist/>',
    "pls": "[playlist]\nFile1=http://127.0.0.1:{port}/a.wav\nNumberOfEntries=1\n",
}


@pytest.mark.parametrize("kind", REFERRING)
def test_text_that_names_other_files(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: list[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.wav").write_bytes(wav(SECOND))
    text = REFERRING[kind].format(folder=tmp_path, port=os.environ["LISTENER_PORT"])
    data = text.encode()
    for suffix in ("wav", "m3u8", "ffconcat", "sdp", "mpd"):
        path = tmp_path / f"upload.{suffix}"
        path.write_bytes(data)
        refused(path, "unreadable")
        refused(Named(data, f"upload.{suffix}"), "unreadable")
        refused(
            Named(data, f"http://127.0.0.1:{os.environ['LISTENER_PORT']}/a.{suffix}"), "unreadable"
        )
    refused(data, "unreadable")
    assert listener == []


def test_the_unguarded_decoder_would_have_read_the_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.wav").write_bytes(wav(SECOND))
    with av.open(io.BytesIO(REFERRING["ffconcat"].encode())) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 16_000


@pytest.mark.parametrize(
    "data",
    [
        b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x00\x60MTrk\x00\x00\x00\x04\x00\xff\x2f\x00",
        b"IMPM" + bytes(2_000),
        (b"song".ljust(1_080, b"\0") + b"M.K." + bytes(20_000)),
        b"FORM\x00\x00\x10\x00IAMF" + bytes(4_000),
        b"\x1a\x45\xdf\xa3" + bytes(2_000),
        b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(2_000),
        b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\x00\xaa\x00b\xcel" + bytes(2_000),
        b"\x47" * 188 * 50,
    ],
    ids=["midi", "it module", "mod", "iamf", "matroska head", "avi", "asf", "mpeg-ts"],
)
def test_formats_that_are_not_allowed(data: bytes) -> None:
    refused(data, "unreadable")


@pytest.mark.parametrize(("codec", "container"), [("ac3", "matroska"), ("eac3", "mp4")])
def test_codecs_that_are_not_allowed(codec: str, container: str) -> None:
    data = encode(sound(1, 44_100, channels=2), 44_100, codec, container, bit_rate=128_000)
    refused(data, "codec_not_allowed")


def test_a_forbidden_codec_in_an_allowed_container() -> None:
    data = encode(sound(1, 44_100), 44_100, "aac", "mp4")
    assert data.count(b"mp4a") == data.count(b"esds") == 1
    refused(data.replace(b"mp4a", b"apac").replace(b"esds", b"free"), "codec_not_allowed")


# Row 19: streams


def test_video_without_sound() -> None:
    refused(video_without_sound(), "no_audio_stream")


def test_sixty_four_tracks() -> None:
    data = encode(sound(0.5, 16_000), 16_000, "flac", "matroska", tracks=64)
    samples, warnings = decoded(data)
    np.testing.assert_allclose(samples, sound(0.5, 16_000)[0], atol=1 / 32768)
    assert warnings == set()


# Row 20: names

NAMES = [
    "http:foo.wav",
    "concat:a.wav",
    "pipe:0.wav",
    "data:x.wav",
    "subfile,,start,0,end,9,,:a.wav",
    "-dash.wav",
    "a|b.wav",
    "new\nline.wav",
    "#?%20.wav",
    " leading and trailing ",
    "x" * 251 + ".wav",
    "caf\u00e9.wav",
    "cafe\u0301.wav",
    "\u202egnp.wav",
    "\U0001f469\u200d\U0001f4bb.wav",
    "CON.wav",
    "%s%n%d.wav",
    "a.m3u8",
    b"latin-\xe9.wav",
]


@pytest.mark.skipif(sys.platform == "win32", reason="these names cannot exist there")
@pytest.mark.parametrize("relative", [False, True])
def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    names = [os.fsdecode(name) if isinstance(name, bytes) else name for name in NAMES]
    for index, name in enumerate(names):
        (tmp_path / name).write_bytes(wav(SECOND[: 2_000 + 2 * index]))
    for index, name in enumerate(names):
        if unicodedata.normalize("NFC", name) == "caf\u00e9.wav" and sys.platform == "darwin":
            continue
        path = name if relative else tmp_path / name
        assert audio_io.read(path).samples.shape == (1_000 + index,)
        assert audio_io.probe(path).num_samples == 1_000 + index


def test_odd_names_in_messages(tmp_path: Path) -> None:
    for name in ("new\nline.wav", "\u202egnp.wav", os.fsdecode(b"latin-\xe9.wav")):
        path = tmp_path / name
        path.write_bytes(b"nothing")
        with pytest.raises(AudioError) as caught:
            audio_io.read(path)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert "\u202e" not in message
        message.encode("utf-8")


# Row 21: what is not a file


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file kinds")
def test_what_is_not_a_regular_file(tmp_path: Path) -> None:
    loop = tmp_path / "loop.wav"
    loop.symlink_to(loop)
    fifo = tmp_path / "fifo.wav"
    os.mkfifo(fifo)
    link = tmp_path / "link.wav"
    link.symlink_to(fifo)
    bound = tmp_path / "s.wav"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
        for path in (loop, fifo, link, bound, tmp_path, Path("/dev/zero"), Path("/dev/null")):
            refused(path, "not_regular")
    good = tmp_path / "good.wav"
    good.write_bytes(wav(SECOND))
    link.unlink()
    link.symlink_to(good)
    assert decoded(link)[0].shape == (16_000,)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    refused(tmp_path / "missing.wav", "vanished")
    refused(tmp_path / "missing" / "a.wav", "vanished")
    refused("nul\0byte.wav", "unreadable")
    refused("", "vanished")
    path = tmp_path / "a.wav"
    path.write_bytes(wav(SECOND))
    refused(path / "a.wav", "vanished")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="permissions bind ordinary users only"
)
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(SECOND))
    path.chmod(0)
    refused(path, "permission")


class Failing(io.BytesIO):
    """A file that fails with one error once `after` bytes were read."""

    def __init__(self, data: bytes, after: int, error: Exception) -> None:
        super().__init__(data)
        self.left, self.error = after, error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.left <= 0:
            raise self.error
        data = super().read(size)
        self.left -= len(data)
        return data


@pytest.mark.parametrize("after", [0, 70_000, 200_000])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory"), "vanished"),
        (OSError(116 if sys.platform == "linux" else 2, "Stale file handle"), "vanished"),
        (PermissionError(13, "Permission denied"), "permission"),
        (OSError(5, "Input/output error"), "unreadable"),
        (ValueError("read of closed file"), "unreadable"),
    ],
)
@pytest.mark.parametrize("container", ["wav", "flac"])
def test_file_that_fails_while_it_is_read(
    after: int, error: Exception, reason: str, container: str
) -> None:
    codec = "pcm_s16le" if container == "wav" else "flac"
    data = encode(
        np.random.default_rng(0).uniform(-0.5, 0.5, (1, 160_000)), 16_000, codec, container
    )
    assert len(data) > 250_000
    with pytest.raises(AudioError) as caught:
        audio_io.read(Failing(data, after, error))
    assert caught.value.reason == reason


def test_permission_is_told_from_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(SECOND))

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AudioError, match="Change its permissions") as caught:
        audio_io.read(path)
    assert caught.value.reason == "permission"


def test_file_deleted_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(pcm16(sound(30, 16_000))))
    with audio_io.stream(path) as stream:
        next(stream)
        path.unlink()
        with contextlib.suppress(AudioError):  # a local file lives on while it is open
            list(stream)
            assert stream.num_samples == 480_000


def test_file_object_that_returns_more_than_asked_for() -> None:
    class Generous(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read((size or 0) + 10)

    with pytest.raises(AudioError):
        audio_io.read(Generous(wav(pcm16(sound(30, 16_000)))))


def test_nothing_is_written_to_the_error_stream(capfd: pytest.CaptureFixture[str]) -> None:
    data = mp3(3)
    decoded(data[:9_000] + bytes(3_000) + data[9_000:-500])
    with contextlib.suppress(AudioError):
        audio_io.read(b"ID3" + bytes(5_000))
    assert capfd.readouterr() == ("", "")
