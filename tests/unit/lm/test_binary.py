"""Our own file: mapped, checked, refused when damaged."""

import json
import mmap
import struct
from pathlib import Path

import numpy as np
import pytest

from unheard.errors import FormatError
from unheard.lm.binary import SIGNATURE
from unheard.lm.ngram import NgramModel, train_ngram

TEXTS = ["aa bb cc", "aa bb dd", "bb cc aa", "cc"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("lm") / "m.unheard-lm"
    train_ngram(TEXTS, order=3).model.save(path)
    return path.read_bytes()


def _header(data: bytes) -> tuple[dict, int]:
    (length,) = struct.unpack_from("<Q", data, len(SIGNATURE))
    end = len(SIGNATURE) + 8 + length
    return json.loads(data[len(SIGNATURE) + 8 : end]), end


def _with_header(data: bytes, **changes) -> bytes:
    header, end = _header(data)
    written = json.dumps({**header, **changes}).encode()
    written += b" " * (-(len(SIGNATURE) + 8 + len(written)) % 64)
    return SIGNATURE + struct.pack("<Q", len(written)) + written + data[end:]


def _load(tmp_path: Path, data: bytes) -> NgramModel:
    path = tmp_path / "m.unheard-lm"
    path.write_bytes(data)
    return NgramModel.load(path)


def test_arrays_lie_in_the_file(stored: bytes, tmp_path: Path) -> None:
    model = _load(tmp_path, stored)
    for array in model.tables[:-1]:
        base = array
        while isinstance(base, np.ndarray):
            assert not base.flags.owndata
            base = base.base
        assert isinstance(base, memoryview)
        assert isinstance(base.obj, mmap.mmap)


def test_unchanged_headers_are_read(stored: bytes, tmp_path: Path) -> None:
    """What the tests below change is what is refused."""
    assert _load(tmp_path, _with_header(stored)).order == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "expected version 1, found 2"),
        ({"units": "letter"}, "expected a header of"),
        ({"more": 1}, "expected a header of"),
        ({"order": 0}, "expected an order of 1 to 64, found 0"),
        ({"order": True}, "expected an order"),
        ({"order": 2}, "its n-grams are damaged"),
        ({"order": 4}, "its n-grams are damaged"),
        ({"pieces": {"characters": 5}}, "pieces"),
        ({"pieces": 5}, "its word pieces are malformed"),
        ({"arrays": {}}, "expected arrays"),
        ({"size": 12}, "it was cut off"),
    ],
)
def test_headers_that_are_wrong(changes, message: str, stored: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        _load(tmp_path, _with_header(stored, **changes))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("word", {"offset": 1 << 40}),
        ("word", {"offset": -64}),
        ("word", {"offset": 4}),
        ("word", {"length": 1 << 60}),
        ("word", {"length": 3}),
        ("word", {"length": 1.0}),
        ("log_prob", {"dtype": "<f8"}),
        ("log_prob", {"dtype": "O"}),
        ("backoff", {"length": 0}),
        ("first_child", {"length": 2}),
        ("vocabulary", {"length": 9}),
    ],
)
def test_places_that_are_wrong(name: str, change, stored: bytes, tmp_path: Path) -> None:
    arrays = _header(stored)[0]["arrays"]
    arrays[name] = {**arrays[name], **change}
    with pytest.raises(FormatError, match="not a whole n-gram model of ours"):
        _load(tmp_path, _with_header(stored, arrays=arrays))


@pytest.mark.parametrize("keep", [16, 20, 30, 200, -1, -64])
def test_files_that_were_cut_off(keep: int, stored: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a whole n-gram model of ours"):
        _load(tmp_path, stored[:keep])


def test_a_header_that_never_ends(stored: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="its header would take"):
        _load(tmp_path, SIGNATURE + struct.pack("<Q", 1 << 60) + stored[24:])


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("word", 0, 0),
        ("word", 1, 5),
        ("word", -1, 1 << 20),
        ("word", -1, -7),
        ("log_prob", 3, 0.5),
        ("log_prob", 3, np.nan),
        ("log_prob", 3, -np.inf),
        ("backoff", 3, np.inf),
        ("suffix", -1, -1),
        ("suffix", -1, 1 << 20),
        ("suffix", 9, 9),
        ("first_child", 0, 0),
        ("first_child", 2, 0),
        ("first_child", 2, 1 << 40),
        ("first_child", -1, 3),
    ],
)
def test_entries_that_would_lead_astray(
    name: str, place: int, value: float, stored: bytes, tmp_path: Path
) -> None:
    header, end = _header(stored)
    where = header["arrays"][name]
    array = np.frombuffer(
        stored, dtype=where["dtype"], count=where["length"], offset=end + where["offset"]
    ).copy()
    assert array[place] != value
    array[place] = value
    start = end + where["offset"]
    damaged = stored[:start] + array.tobytes() + stored[start + array.nbytes :]
    with pytest.raises(FormatError, match="not a whole n-gram model of ours"):
        _load(tmp_path, damaged)


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_refused_or_harmless(seed: int, stored: bytes, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    damaged = bytearray(stored)
    for place in generator.integers(len(damaged), size=3):
        damaged[place] ^= int(generator.integers(1, 256))
    try:
        model = _load(tmp_path, bytes(damaged))
    except FormatError:
        return
    assert np.isfinite(model.score_sentence("aa bb cc dd zz"))
