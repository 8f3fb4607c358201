"""Torch checkpoints that lie, break or attack, made by hand and by torch itself."""

import io
import pickle
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

MARKER = "executed"
"""File that the payloads would make in their folder."""

END = b"."
PROTO = b"\x80\x02"
EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, MARK, TUPLE = b"}", b"]", b")", b"(", b"t"
REDUCE, BUILD, SETITEMS, APPENDS, PERSID = b"R", b"b", b"u", b"e", b"Q"


# Pickles by hand


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def together(*parts: bytes) -> bytes:
    return MARK + b"".join(parts) + TUPLE


def numbers(values: tuple[int, ...]) -> bytes:
    return together(*map(number, values))


def mapping(**items: bytes) -> bytes:
    return EMPTY_DICT + MARK + b"".join(text(key) + item for key, item in items.items()) + SETITEMS


def storage(count: int, *, key: str = "0", kind: str = "FloatStorage", view: bytes = b"") -> bytes:
    parts = (text("storage"), named("torch", kind), text(key), text("cpu"), number(count), view)
    return together(*parts) + PERSID


def tensor(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    count: int,
    offset: int = 0,
    key: str = "0",
    kind: str = "FloatStorage",
    view: bytes = b"",
) -> bytes:
    parts = (
        storage(count, key=key, kind=kind, view=view),
        number(offset),
        numbers(shape),
        numbers(strides),
        b"\x89",
        named("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE,
    )
    return named("torch._utils", "_rebuild_tensor_v2") + together(*parts) + REDUCE


def whole(body: bytes) -> bytes:
    return PROTO + body + END


# Files by hand


def write_zip(
    path: Path,
    description: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    extra: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    byteorder: bytes = b"little",
) -> Path:
    """Write what torch.save would, with any description."""
    entries = {"data.pkl": description, "byteorder": byteorder, "version": b"3\n"}
    entries |= {f"data/{key}": data for key, data in (storages or {}).items()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def write_legacy(path: Path, body: bytes, storages: Mapping[str, tuple[int, bytes]]) -> Path:
    """Write what torch.save wrote before version 1.6, with any description."""
    path.write_bytes(
        b"".join(
            [
                pickle.dumps(0x1950A86A20F9469CFC6C, 2),
                pickle.dumps(1001, 2),
                pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
                whole(body),
                pickle.dumps(sorted(storages), 2),
                *(struct.pack("<q", count) + data for _, (count, data) in sorted(storages.items())),
            ]
        )
    )
    return path


FOUR = struct.pack("<4f", 1, 2, 3, 4)
GOOD = mapping(w=tensor((4,), (1,), count=4))
GOOD_OLD = mapping(w=tensor((4,), (1,), count=4, view=b"N"))


def saved(path: Path, value: Any, **options: Any) -> Path:
    """Save with torch itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, **options)
    return path


def state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    return {
        "step": 3,
        "model": {f"layer.{n}": torch.randn(64, 33, generator=generator) for n in range(4)},
    }


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def flip(path: Path, entry: str) -> Path:
    """Change one bit in the middle of an entry, where the entry's checksum does not know."""
    with zipfile.ZipFile(path) as archive:
        info = next(item for item in archive.infolist() if item.filename.endswith(entry))
    data = bytearray(path.read_bytes())
    names, extras = struct.unpack_from("<HH", data, info.header_offset + 26)
    data[info.header_offset + 30 + names + extras + info.file_size // 2] ^= 1
    path.write_bytes(data)
    return path


def replace(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


# Row 23: code


class Payload:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def shell(folder: Path) -> Payload:
    import os

    return Payload(os.system, f"touch {folder / MARKER}")


def torchscript(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        torch.jit.save(module, str(path))
    return path


def nested(folder: Path) -> Payload:
    inner = io.BytesIO()
    torch.save({"w": shell(folder)}, inner)
    return Payload(torch.storage._load_from_bytes, inner.getvalue())


def calling(module: str, name: str, *args: bytes) -> bytes:
    return whole(mapping(w=named(module, name) + together(*args) + REDUCE))


Case = tuple[Callable[[Path], Path], str, str]
"""How to make the file in a folder; which error reading it raises; what its message says."""

CODE: dict[str, Case] = {
    "os.system, zip": (
        lambda folder: saved(folder / "x.pt", {"w": shell(folder)}),
        "FormatError",
        r"asks for posix\.system, .* Nothing of it was run",
    ),
    "os.system, before torch 1.6": (
        lambda folder: saved(
            folder / "x.pt", {"w": shell(folder)}, _use_new_zipfile_serialization=False
        ),
        "FormatError",
        r"asks for posix\.system",
    ),
    "os.system, protocol 4": (
        lambda folder: saved(folder / "x.pt", {"w": shell(folder)}, pickle_protocol=4),
        "FormatError",
        r"asks for posix\.system",
    ),
    "os.system, plain pickle": (
        lambda folder: written(folder / "x.bin", pickle.dumps({"w": shell(folder)})),
        "FormatError",
        r"asks for posix\.system",
    ),
    "os.system, plain pickle of protocol 0": (
        lambda folder: written(folder / "x.bin", pickle.dumps(shell(folder), 0)),
        "FormatError",
        r"asks for posix\.system",
    ),
    "os.system where the magic number should be": (
        lambda folder: written(folder / "x.bin", pickle.dumps(shell(folder), 2)),
        "FormatError",
        r"asks for posix\.system",
    ),
    "subprocess": (
        lambda folder: saved(
            folder / "x.pt", {"w": Payload(subprocess.Popen, ["touch", str(folder / MARKER)])}
        ),
        "FormatError",
        r"asks for commands\.Popen",
    ),
    "eval": (
        lambda folder: write_zip(
            folder / "x.pt", calling("builtins", "eval", text("__import__('os')"))
        ),
        "FormatError",
        r"asks for builtins\.eval",
    ),
    "getattr of a known class": (
        lambda folder: write_zip(
            folder / "x.pt",
            calling("builtins", "getattr", named("collections", "OrderedDict"), text("__init__")),
        ),
        "FormatError",
        r"asks for builtins\.getattr",
    ),
    "a name that goes on": (
        lambda folder: write_zip(
            folder / "x.pt", calling("collections", "OrderedDict.__init__.__globals__")
        ),
        "FormatError",
        r"asks for collections\.OrderedDict\.__init__\.__globals__",
    ),
    "a name that draws on the terminal": (
        lambda folder: write_zip(folder / "x.pt", calling("os", "\x1b[2Jsystem")),
        "FormatError",
        r"asks for 'os\.\\x1b\[2Jsystem'",
    ),
    "a known name that may not be called": (
        lambda folder: write_zip(folder / "x.pt", calling("builtins", "list", text("abc"))),
        "FormatError",
        r"calls builtins\.list, which no checkpoint of weights needs",
    ),
    "a call of a value": (
        lambda folder: write_zip(
            folder / "x.pt", whole(mapping(w=EMPTY_DICT + EMPTY_TUPLE + REDUCE))
        ),
        "CheckpointError",
        "calls what is not a function",
    ),
    "attributes for a function": (
        lambda folder: write_zip(
            folder / "x.pt",
            whole(named("torch._utils", "_rebuild_tensor_v2") + EMPTY_DICT + BUILD),
        ),
        "CheckpointError",
        "gives attributes to what has none",
    ),
    "registered extension": (
        lambda folder: write_zip(folder / "x.pt", whole(b"\x82\x01")),
        "FormatError",
        "uses the step EXT1",
    ),
    "instance of a class": (
        lambda folder: write_zip(folder / "x.pt", whole(MARK + b"ios\nsystem\n")),
        "FormatError",
        "uses the step INST",
    ),
    "persistent id as a text": (
        lambda folder: write_zip(folder / "x.pt", whole(b"Pstorage\n")),
        "FormatError",
        "uses the step PERSID",
    ),
    "persistent id of something else": (
        lambda folder: write_zip(folder / "x.pt", whole(text("data/0") + PERSID)),
        "CheckpointError",
        "a storage of the pickle is not described as storages are",
    ),
    "TorchScript": (
        lambda folder: torchscript(folder / "x.pt"),
        "FormatError",
        "is a TorchScript program",
    ),
    "nested checkpoint": (
        lambda folder: saved(folder / "x.pt", {"w": nested(folder)}),
        "FormatError",
        r"another pickle inside its pickle \(torch\.storage\._load_from_bytes\)",
    ),
    "a whole network": (
        lambda folder: saved(folder / "x.pt", torch.nn.Linear(2, 2)),
        "FormatError",
        r"whole network with its code \(torch\.nn\.modules\.linear\.Linear\).*state_dict\(\)",
    ),
    "a whole network, before torch 1.6": (
        lambda folder: saved(
            folder / "x.pt", torch.nn.Linear(2, 2), _use_new_zipfile_serialization=False
        ),
        "FormatError",
        r"whole network with its code",
    ),
}


# Row 24: broken and forged files


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def twice(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", whole(GOOD))
            archive.writestr("archive/data/0", FOUR)
            archive.writestr("archive/data/0", FOUR[::-1])
    return path


def overlapping(path: Path) -> Path:
    """Let the directory say that one storage is as long as the rest of the file."""
    write_zip(path, whole(GOOD), {"0": FOUR, "1": bytes(64)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    struct.pack_into("<II", data, entry + 20, 80, 80)
    path.write_bytes(data)
    return path


def many_entries(path: Path) -> Path:
    """A directory of 400,000 entries, each of nothing."""
    count = 400_000
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 0, 0, 0, 0, 11, 0) + b"archive/abc"
    entry = struct.Struct("<IHHHHHHIIIHHHHHII")
    fixed = entry.pack(0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0)
    names = b"".join(fixed + b"archive/%05x" % number for number in range(count))
    size = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(names), 41)
    locator = struct.pack("<IIQI", 0x07064B50, 0, 41 + len(names), 1)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return written(path, local + names + size + locator + end)


def doubling(levels: int) -> bytes:
    """Lists of the list before, twice: few bytes, 2**levels objects when written out."""
    body = EMPTY_LIST + b"q\x00"
    for level in range(levels):
        keep = b"q" + bytes([level + 1])
        body += b"0" + EMPTY_LIST + MARK + 2 * (b"h" + bytes([level])) + APPENDS + keep
    return body


def colliding(count: int, step: int) -> bytes:
    """A dict of numbers whose hashes are alike."""
    keys = b"".join(number(n * step) + b"N" for n in range(1, count))
    return EMPTY_DICT + MARK + keys + SETITEMS


def hashing() -> bytes:
    """A key that is a tuple of the tuple before, twice: its hash takes forever."""
    body = EMPTY_DICT + EMPTY_TUPLE + b"q\x00"
    for level in range(60):
        body += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return body + b"Ns"


FILES: dict[str, Case] = {
    "compressed bomb": (
        lambda folder: write_zip(
            folder / "x.pt",
            whole(mapping(w=tensor((1 << 25,), (1,), count=1 << 25))),
            {"0": bytes(1 << 27)},
            method=zipfile.ZIP_DEFLATED,
        ),
        "FormatError",
        "is compressed: expected entries stored as they are",
    ),
    "compressed pickle only": (
        lambda folder: write_zip(
            folder / "x.pt", whole(b"N" + b"0N" * 1_000_000), method=zipfile.ZIP_LZMA
        ),
        "FormatError",
        "is compressed",
    ),
    "two entries of one name": (
        lambda folder: twice(folder / "x.pt"),
        "CheckpointError",
        "two entries of the zip file are called archive/data/0",
    ),
    "two pickles": (
        lambda folder: write_zip(
            folder / "x.pt", whole(GOOD), {"0": FOUR}, extra={"archive/data/data.pkl": whole(GOOD)}
        ),
        "FormatError",
        r"2 entries called data\.pkl: expected one",
    ),
    "no pickle": (
        lambda folder: replace(
            write_zip(folder / "x.pt", whole(GOOD), {"0": FOUR}), b"data.pkl", b"data.txt"
        ),
        "FormatError",
        r"0 entries called data\.pkl",
    ),
    "two folders": (
        lambda folder: write_zip(
            folder / "x.pt", whole(GOOD), {"0": FOUR}, extra={"other/data/0": FOUR}
        ),
        "FormatError",
        "entries in several folders",
    ),
    "entry outside": (
        lambda folder: write_zip(
            folder / "x.pt", whole(GOOD), {"0": FOUR}, extra={"archive/../../evil": b""}
        ),
        "CheckpointError",
        r"is called 'archive/\.\./\.\./evil', a name that leads out of the archive",
    ),
    "absolute entry": (
        lambda folder: write_zip(
            folder / "x.pt", whole(GOOD), {"0": FOUR}, extra={"/etc/passwd": b""}
        ),
        "CheckpointError",
        "is called '/etc/passwd', a name that leads out",
    ),
    "entry with a drive": (
        lambda folder: write_zip(folder / "x.pt", whole(GOOD), {"0": FOUR}, extra={"c:/evil": b""}),
        "CheckpointError",
        "is called 'c:/evil', a name that leads out",
    ),
    "entry with backslashes": (
        lambda folder: replace(
            write_zip(folder / "x.pt", whole(GOOD), {"0": FOUR}, extra={"archive/.._.._evil": b""}),
            b".._.._evil",
            b"..\\..\\evil",
        ),
        "CheckpointError",
        "a name that leads out",
    ),
    "encrypted": (
        lambda folder: replace(
            write_zip(folder / "x.pt", whole(GOOD), {"0": FOUR}),
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00",
            b"PK\x01\x02\x14\x03\x14\x00\x01\x00",
        ),
        "FormatError",
        "is an encrypted zip file",
    ),
    "entry larger than its place": (
        lambda folder: overlapping(folder / "x.pt"),
        "CheckpointError",
        "the entry archive/data/0 of the zip file is larger than its place",
    ),
    "entry larger than the file": (
        lambda folder: replace(
            write_zip(folder / "x.pt", whole(GOOD), {"0": FOUR}),
            struct.pack("<II", 16, 16),
            struct.pack("<II", 1 << 31, 1 << 31),
        ),
        "CheckpointError",
        "is larger than its place",
    ),
    "400,000 entries": (
        lambda folder: many_entries(folder / "x.pt"),
        "CheckpointError",
        "the description of what the file holds takes more than",
    ),
    "half a zip file": (
        lambda folder: cut(saved(folder / "x.pt", state()), 0.5),
        "CheckpointError",
        "does not end with its directory: it is cut short",
    ),
    "a zip file but its last byte": (
        lambda folder: cut(saved(folder / "x.pt", state()), 0.9999),
        "CheckpointError",
        "does not end with its directory: it is cut short",
    ),
    "a zip file and a byte": (
        lambda folder: written(
            folder / "y.pt", saved(folder / "x.pt", state()).read_bytes() + b"\n"
        ),
        "CheckpointError",
        "does not end with its directory",
    ),
    "half an old file": (
        lambda folder: cut(
            saved(folder / "x.pt", state(), _use_new_zipfile_serialization=False), 0.5
        ),
        "CheckpointError",
        r"is cut short: it has \d+ bytes and its storage \d+ would end at \d+",
    ),
    "half the pickle of an old file": (
        lambda folder: cut(
            saved(folder / "x.pt", state(), _use_new_zipfile_serialization=False), 0.01
        ),
        "CheckpointError",
        "the pickle is cut short",
    ),
    "an old file and a byte": (
        lambda folder: written(
            folder / "y.pt",
            saved(folder / "x.pt", state(), _use_new_zipfile_serialization=False).read_bytes()
            + b"\n",
        ),
        "CheckpointError",
        "has 1 bytes behind its last storage",
    ),
    "an old file with a wrong count": (
        lambda folder: write_legacy(folder / "x.pt", GOOD_OLD, {"0": (3, FOUR)}),
        "CheckpointError",
        "its storage 0 has 3 numbers where its tensors expect 4",
    ),
    "an old file without its storage": (
        lambda folder: write_legacy(folder / "x.pt", GOOD_OLD, {"1": (4, FOUR)}),
        "CheckpointError",
        "the storages that it lists are not those that its tensors need",
    ),
    "a bit of a tensor": (
        lambda folder: flip(saved(folder / "x.pt", state()), "data/2"),
        "CheckpointError",
        r"the bytes of its entry data/2 are not those that were written \(the CRC-32 differs\)",
    ),
    "a bit of the pickle": (
        lambda folder: flip(saved(folder / "x.pt", state()), "data.pkl"),
        "CheckpointError",
        r"the bytes of its entry data\.pkl are not those that were written",
    ),
    "empty": (lambda folder: written(folder / "x.pt", b""), "FormatError", "is empty"),
    "web page": (
        lambda folder: written(folder / "x.pt", b"\n<!DOCTYPE html><html><title>404"),
        "FormatError",
        "is a web page: the download went wrong",
    ),
    "pointer of git-lfs": (
        lambda folder: written(
            folder / "x.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
        ),
        "FormatError",
        "is a pointer of git-lfs",
    ),
    "JSON": (lambda folder: written(folder / "x.pt", b'{"a": 1}'), "FormatError", "is a JSON file"),
    "safetensors": (
        lambda folder: written(folder / "x.pt", struct.pack("<Q", 2) + b"{}"),
        "FormatError",
        "is a safetensors file",
    ),
    "tar": (
        lambda folder: written(folder / "x.pt", b"sys_info".ljust(257, b"\0") + b"ustar  \0"),
        "FormatError",
        "is a tar file",
    ),
    "noise": (
        lambda folder: written(folder / "x.pt", b"\x7fELF" + bytes(range(256))),
        "FormatError",
        "is neither a zip file nor a pickle",
    ),
    "pickle of something else": (
        lambda folder: written(folder / "x.pt", pickle.dumps({"a": [1, 2]}, 2)),
        "FormatError",
        "is a pickle of something else than a torch checkpoint",
    ),
    "pickle of protocol 9": (
        lambda folder: write_zip(folder / "x.pt", b"\x80\x09N."),
        "FormatError",
        "is a pickle of protocol 9: expected 2 to 5",
    ),
    "folder": (
        lambda folder: (folder / "x.pt").mkdir() or folder / "x.pt",
        "FormatError",
        "is not a file",
    ),
    "doubling lists": (
        lambda folder: write_zip(folder / "x.pt", whole(doubling(40))),
        "CheckpointError",
        "holds too many objects: expected at most 2000000",
    ),
    "a list in itself": (
        lambda folder: write_zip(folder / "x.pt", whole(EMPTY_LIST + b"q\x00h\x00a")),
        "CheckpointError",
        "contains itself",
    ),
    "100,000 levels": (
        lambda folder: write_zip(folder / "x.pt", whole(EMPTY_LIST * 100_000 + b"a" * 99_999)),
        "CheckpointError",
        "is nested too deeply: expected at most 64 levels",
    ),
    "a long number": (
        lambda folder: write_zip(folder / "x.pt", whole(b"\x8b" + struct.pack("<i", 1 << 30))),
        "FormatError",
        r"uses the step LONG4 \(a number of more than 255 bytes\)",
    ),
    "a text of 4 GB": (
        lambda folder: write_zip(folder / "x.pt", whole(b"X" + struct.pack("<I", 2**32 - 1))),
        "CheckpointError",
        "the description of what the file holds takes more than",
    ),
    "a text of 4 GB in an old file": (
        lambda folder: write_legacy(folder / "x.pt", b"X" + struct.pack("<I", 2**32 - 1), {}),
        "CheckpointError",
        "the description of what the file holds takes more than",
    ),
    "a text that widens": (
        lambda folder: write_zip(folder / "x.pt", whole(text("\U0001f600" + "x" * (12 << 20)))),
        "CheckpointError",
        "the description of what the file holds takes more than",
    ),
    "a million dicts": (
        lambda folder: write_zip(
            folder / "x.pt", whole(EMPTY_LIST + MARK + EMPTY_DICT * 1_000_000 + APPENDS)
        ),
        "CheckpointError",
        "the description of what the file holds takes more than",
    ),
    "a million times the same step": (
        lambda folder: write_zip(folder / "x.pt", whole(b"N" + b"0N" * 2_000_000)),
        "CheckpointError",
        "the description of what the file holds takes more than",
    ),
    "long names of many tensors": (
        lambda folder: write_zip(
            folder / "x.pt",
            whole(mapping(**{"n" * 1_000_000: EMPTY_LIST + MARK + EMPTY_DICT * 1_000 + APPENDS})),
        ),
        "CheckpointError",
        "the description of what the file holds takes more than",
    ),
    "keys of one hash": (
        lambda folder: write_zip(folder / "x.pt", whole(colliding(10_000, 2**61 - 1))),
        "FormatError",
        "a key of a dict in the pickle is a int that is not read: .* numbers of up to 60 bits",
    ),
    "many odd keys": (
        lambda folder: write_zip(folder / "x.pt", whole(colliding(30_000, 2**40))),
        "CheckpointError",
        "more than 20000 keys that are not texts",
    ),
    "a key that takes forever to hash": (
        lambda folder: write_zip(folder / "x.pt", whole(hashing())),
        "FormatError",
        "a key of a dict in the pickle is a tuple that is not read",
    ),
    "nothing on the stack": (
        lambda folder: write_zip(folder / "x.pt", whole(b"")),
        "CheckpointError",
        "takes more from its stack than it put there",
    ),
    "two values on the stack": (
        lambda folder: write_zip(folder / "x.pt", whole(b"NN")),
        "CheckpointError",
        "leaves more than one value",
    ),
    "something after the pickle": (
        lambda folder: write_zip(folder / "x.pt", whole(b"N") + b"N"),
        "CheckpointError",
        "something follows the end of its pickle",
    ),
    "a pickle without end": (
        lambda folder: write_zip(folder / "x.pt", PROTO + b"N"),
        "CheckpointError",
        "the pickle is cut short",
    ),
    "a wrong byte order": (
        lambda folder: replace(
            write_zip(folder / "x.pt", whole(GOOD), {"0": FOUR}), b"little", b"middle"
        ),
        "CheckpointError",
        'the entry "byteorder" is neither',
    ),
}


# Row 25: tensors that are none


def false_indices() -> torch.Tensor:
    with torch.sparse.check_sparse_tensor_invariants(False):
        return torch.sparse_coo_tensor(
            torch.tensor([[10**6, -5]]), torch.ones(2), (2,), check_invariants=False
        )


def sparse_rows() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


def described(path: Path, body: bytes, data: bytes = FOUR) -> Path:
    return write_zip(path, whole(mapping(model=mapping(w=body))), {"0": data})


TENSORS: dict[str, Case] = {
    "sparse with false indices": (
        lambda folder: saved(folder / "x.pt", {"model": {"w": false_indices()}}),
        "FormatError",
        r"model\.w is a sparse tensor: .* to_dense\(\)",
    ),
    "sparse rows": (
        lambda folder: saved(folder / "x.pt", {"model": {"w": sparse_rows()}}),
        "FormatError",
        r"model\.w is a sparse tensor",
    ),
    "view of 10^12 numbers on one": (
        lambda folder: saved(folder / "x.pt", {"model": {"w": torch.zeros(1).expand(10**12)}}),
        "CheckpointError",
        r"the tensor model\.w claims more than the file holds: shape \(1000000000000,\)",
    ),
    "view of 10^12 numbers on one, before torch 1.6": (
        lambda folder: saved(
            folder / "x.pt",
            {"model": {"w": torch.zeros(1).expand(10**12)}},
            _use_new_zipfile_serialization=False,
        ),
        "CheckpointError",
        r"the tensor model\.w claims more than the file holds",
    ),
    "shape beyond its storage": (
        lambda folder: described(folder / "x.pt", tensor((5,), (1,), count=4)),
        "CheckpointError",
        r"the tensor model\.w claims more than the file holds",
    ),
    "strides beyond their storage": (
        lambda folder: described(folder / "x.pt", tensor((2, 2), (3, 1), count=4)),
        "CheckpointError",
        r"with strides \(3, 1\) from number 0 on needs 20 bytes, and its storage 0 has 16",
    ),
    "offset beyond its storage": (
        lambda folder: described(folder / "x.pt", tensor((2,), (1,), count=4, offset=3)),
        "CheckpointError",
        r"from number 3 on needs 20 bytes",
    ),
    "negative offset": (
        lambda folder: described(folder / "x.pt", tensor((2,), (1,), count=4, offset=-1)),
        "CheckpointError",
        r"the tensor model\.w makes no sense: .*first number -1",
    ),
    "negative strides": (
        lambda folder: described(folder / "x.pt", tensor((2,), (-1,), count=4, offset=3)),
        "CheckpointError",
        r"the tensor model\.w makes no sense: shape \(2,\), strides \(-1,\)",
    ),
    "negative lengths": (
        lambda folder: described(folder / "x.pt", tensor((-2, -2), (2, 1), count=4)),
        "CheckpointError",
        r"the tensor model\.w makes no sense",
    ),
    "lengths that overflow": (
        lambda folder: described(folder / "x.pt", tensor((2**62, 4), (0, 0), count=4)),
        "CheckpointError",
        r"claims more than the file holds",
    ),
    "empty, with lengths that overflow": (
        lambda folder: described(folder / "x.pt", tensor((0, 2**62, 2**62), (0, 0, 0), count=4)),
        "CheckpointError",
        r"the tensor model\.w makes no sense",
    ),
    "more lengths than strides": (
        lambda folder: described(folder / "x.pt", tensor((2, 2), (1,), count=4)),
        "CheckpointError",
        r"the tensor model\.w makes no sense",
    ),
    "65 dimensions": (
        lambda folder: described(folder / "x.pt", tensor((1,) * 65, (1,) * 65, count=4)),
        "CheckpointError",
        "not described as tensors are",
    ),
    "storage larger than its entry": (
        lambda folder: described(folder / "x.pt", tensor((4,), (1,), count=10**12)),
        "CheckpointError",
        r"expects a storage data/0 of 4000000000000 bytes, found 16 bytes",
    ),
    "storage that is not there": (
        lambda folder: described(folder / "x.pt", tensor((4,), (1,), count=4, key="7")),
        "CheckpointError",
        r"expects a storage data/7 of 16 bytes, found none",
    ),
    "storage of another folder": (
        lambda folder: described(
            folder / "x.pt", tensor((4,), (1,), count=4, key="../../../etc/passwd")
        ),
        "CheckpointError",
        r"expects a storage data/\.\./\.\./\.\./etc/passwd of 16 bytes, found none",
    ),
    "meta": (
        lambda folder: saved(folder / "x.pt", {"model": {"w": torch.zeros(9, device="meta")}}),
        "FormatError",
        r"model\.w is a meta tensor, which has a shape and no numbers",
    ),
    "quantized": (
        lambda folder: saved(
            folder / "x.pt",
            {"model": {"w": quantized()}},
        ),
        "FormatError",
        r"model\.w is a quantized tensor: .* dequantize\(\)",
    ),
    "quantized storage of an ordinary tensor": (
        lambda folder: described(
            folder / "x.pt", tensor((4,), (1,), count=16, kind="QInt8Storage")
        ),
        "FormatError",
        r"model\.w is a quantized tensor",
    ),
    "complex": (
        lambda folder: saved(
            folder / "x.pt", {"model": {"w": torch.zeros(2, dtype=torch.complex64)}}
        ),
        "FormatError",
        r"model\.w is a tensor of complex numbers",
    ),
    "negated view": (
        lambda folder: saved(
            folder / "x.pt", {"model": {"w": torch.zeros(2, dtype=torch.complex64).conj().imag}}
        ),
        "FormatError",
        r"model\.w is a conjugated or negated view of a tensor",
    ),
    "nested": (
        lambda folder: saved(folder / "x.pt", {"model": {"w": ragged()}}),
        "FormatError",
        r"model\.w is a nested tensor",
    ),
    "tensor of a class of its own": (
        lambda folder: write_zip(
            folder / "x.pt",
            calling(
                "torch._tensor",
                "_rebuild_from_type_v2",
                named("torch._utils", "_rebuild_tensor_v2"),
                named("collections", "OrderedDict"),
                EMPTY_TUPLE,
                EMPTY_DICT,
            ),
        ),
        "FormatError",
        r"w is a tensor of a class of its own",
    ),
    "bare storage": (
        lambda folder: described(folder / "x.pt", storage(4)),
        "FormatError",
        r"model\.w is a bare storage",
    ),
}


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(9), 0.1, 0, torch.qint8)


def ragged() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
