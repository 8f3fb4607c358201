"""ARPA files: the form in which n-gram models are exchanged, with logarithms to the base ten.

Source: Doug Paul's format of the MIT Lincoln Laboratory, as SRILM's ngram-format(5) describes it
and KenLM reads it.
"""

import contextlib
import gzip
import logging
import math
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

import numpy as np
import numpy.typing as npt

from unheard.errors import FormatError
from unheard.files import atomic_path
from unheard.lm import arpa_kernel
from unheard.lm.kernel import NgramTables
from unheard.lm.trie import (
    DuplicateNgram,
    Ngrams,
    build_tables,
    count_levels,
    sort_ngrams,
)
from unheard.lm.vocabulary import UNKNOWN, Vocabulary

LN_10 = math.log(10.0)

MISSING_UNKNOWN_LOG10 = -100.0
"""Score of the unknown word in models that have none, as KenLM has it."""

MOST_ORDERS = 64
_BLOCK_BYTES = 1 << 22
_LONGEST_LINE = 1 << 20
_MOST_PREAMBLE = 1000
_MOST_RATIO = 200
"""A gzip file may unpack to so many times its size; models reach about ten."""

_GZIP = b"\x1f\x8b"
_KENLM = b"mmap lm http://kheafield.com/code"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
_COUNT = re.compile(rb"ngram[ \t]+(\d{1,3})[ \t]*=[ \t]*(\d{1,18})")
_DECIMAL = b"0123456789+-.eE"
_BLANKS = b" \t\r\n"
_BLANK = re.compile(rb"[ \t\r\n]*")

_FAULTS = {
    arpa_kernel.NUMBER: "a number is not one: expected a finite decimal number",
    arpa_kernel.POSITIVE: "a log-probability is positive: expected at most 0",
    arpa_kernel.UNKNOWN_WORD: "a word is not among the 1-grams",
    arpa_kernel.LAST_BACKOFF: "one of the longest n-grams has a back-off: expected none",
}

_logger = logging.getLogger(__name__)


def read_arpa(path: str | os.PathLike[str]) -> tuple[Vocabulary, NgramTables]:
    """Read a model, plain or packed with gzip.

    Lines may end in CR LF, fields may be parted by spaces or tabs. `<unk>` becomes word 0; a
    model without it gets it with KenLM's score, which is said in the log.

    Raises:
        FormatError: if the file is not a whole, sound model in UTF-8; the message names the line.
        OSError: if it cannot be read.
    """
    source = Path(path)
    with source.open("rb") as file:
        start = file.read(len(_KENLM))
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if start.startswith(_KENLM):
            raise FormatError(
                f"{source} is KenLM's own binary form, which only KenLM reads. Take the ARPA file "
                "it was built from."
            )
        if not start.startswith(_GZIP):
            return _read(_Lines(file, source, most_bytes=size))
        with gzip.open(file, "rb") as unpacked:
            # The small constant is for models of a few lines, which may pack better.
            limit = _MOST_RATIO * size + _BLOCK_BYTES
            return _read(_Lines(cast(BinaryIO, unpacked), source, most_bytes=limit))


def write_arpa(path: str | os.PathLike[str], vocabulary: Vocabulary, tables: NgramTables) -> None:
    """Write a model, packed with gzip if the name ends in ".gz"; whole or not at all.

    Numbers have as many digits as it takes to read back the same, to the last bit: 7 to 9.

    Raises:
        FormatError: if a word holds white space of ASCII, which would part it in two.
    """
    unwritable = next((w for w in vocabulary.words if re.search(r"[ \t-\r]", w) or not w), None)
    if unwritable is not None:
        raise FormatError(f"a word cannot stand in an ARPA file: found {unwritable!r}.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if os.fspath(path).endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                _write(cast(BinaryIO, packed), vocabulary, tables)
        else:
            _write(file, vocabulary, tables)


def _read(lines: "_Lines") -> tuple[Vocabulary, NgramTables]:
    """Read header, sections and end."""
    counts = _read_counts(lines)
    vocabulary, first = _read_words(lines, counts)
    letters = "".join(vocabulary.words).encode()
    sizes = [len(word.encode()) for word in vocabulary.words]
    bounds = np.cumsum([0, *sizes])
    slots = np.full(1 << (2 * len(sizes)).bit_length(), -1, dtype=np.int32)
    table = (np.frombuffer(letters, dtype=np.uint8), bounds, slots)
    arpa_kernel.fill_slots(*table)
    ngrams = [first]
    for order in range(2, len(counts) + 1):
        ngrams.append(_read_ngrams(lines, order, counts, table))
    end = lines.next()
    if end != b"\\end\\":
        lines.fail(f"the file does not end where its counts say: expected \\end\\, found {end!r}")
    try:
        levels, added = sort_ngrams(ngrams)
    except DuplicateNgram as twice:
        words = " ".join(vocabulary.words[number] for number in twice.words)
        raise FormatError(f"{lines.source} has an n-gram twice: found {words!r}.") from None
    if added:
        _logger.info(
            "%s: %d n-grams had no context of their own in the model; added, which changes no "
            "score.",
            lines.source,
            added,
        )
    return vocabulary, build_tables(levels)


def _read_counts(lines: "_Lines") -> list[int]:
    """Read what comes before the first section: how many n-grams there are of each order."""
    for _ in range(_MOST_PREAMBLE):
        if lines.next() == b"\\data\\":
            break
    else:
        lines.fail(f"this is no ARPA file: expected \\data\\ in the first {_MOST_PREAMBLE} lines")
    counts: list[int] = []
    least_bytes = 0
    while True:
        line = lines.peek()
        if line == b"\\1-grams:":
            break
        match = _COUNT.fullmatch(line)
        if match is None or int(match[1]) != len(counts) + 1 or len(counts) == MOST_ORDERS:
            lines.fail(
                f'the counts are malformed: expected "ngram {len(counts) + 1}=..." or \\1-grams:, '
                f"found {_shown(line)}"
            )
        counts.append(int(match[2]))
        least_bytes += counts[-1] * (2 * len(counts) + 2)
        lines.next()
    if not counts or counts[0] == 0:
        lines.fail("the counts are malformed: expected at least one word, found none")
    if least_bytes > lines.most_bytes:
        lines.fail(
            f"the counts do not fit the file: {sum(counts):,} n-grams take {least_bytes:,} bytes "
            f"at least, and it holds {lines.most_bytes:,} at most"
        )
    return counts


def _read_words(lines: "_Lines", counts: list[int]) -> tuple[Vocabulary, Ngrams]:
    """Read the section of single words, which is the vocabulary."""
    lines.next()
    found: dict[bytes, tuple[float, float]] = {}
    longest = len(counts) == 1
    while not lines.peek().startswith(b"\\"):
        line = lines.next()
        fields = line.replace(b"\t", b" ").split(b" ")
        if b"" in fields:
            fields = [field for field in fields if field]
        if not 2 <= len(fields) <= 3:
            lines.fail(_expected(1, line))
        log_prob = _number(lines, fields[0])
        backoff = _number(lines, fields[2]) if len(fields) == 3 else 0.0
        if log_prob > 0:
            lines.fail(f"{_FAULTS[arpa_kernel.POSITIVE]}, found {_shown(line)}")
        if longest and backoff != 0:
            lines.fail(f"{_FAULTS[arpa_kernel.LAST_BACKOFF]}, found {_shown(line)}")
        if fields[1] in found:
            lines.fail(f"a word is there twice: found {_shown(fields[1])}")
        if len(found) == counts[0]:
            lines.fail(f"the counts do not fit: expected {counts[0]:,} 1-grams, found more")
        found[fields[1]] = (log_prob, backoff)
    if len(found) != counts[0]:
        lines.fail(f"the counts do not fit: expected {counts[0]:,} 1-grams, found {len(found):,}")
    try:
        words = {word.decode("utf-8"): scores for word, scores in found.items()}
    except UnicodeDecodeError:
        word = next(word for word in found if not _is_utf8(word))
        lines.fail(f"a word is not UTF-8: found {word!r}")
    unknown = words.pop(UNKNOWN, None) or words.pop(UNKNOWN.upper(), None)
    if unknown is None:
        unknown = (MISSING_UNKNOWN_LOG10, 0.0)
        _logger.info(
            "%s has no unknown word: it gets the log10 probability %g, as with KenLM.",
            lines.source,
            MISSING_UNKNOWN_LOG10,
        )
    scores = np.array([unknown, *words.values()]) * LN_10
    ngrams = Ngrams(
        words=np.arange(len(scores), dtype=np.int32)[:, None],
        log_prob=scores[:, 0].astype(np.float32),
        backoff=scores[:, 1].astype(np.float32),
    )
    return Vocabulary((UNKNOWN, *words)), ngrams


def _read_ngrams(
    lines: "_Lines",
    order: int,
    counts: list[int],
    table: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int32]],
) -> Ngrams:
    """Read one section of n-grams of two or more words."""
    header = lines.next()
    if header != b"\\%d-grams:" % order:
        lines.fail(f"a section is missing: expected \\{order}-grams:, found {_shown(header)}")
    longest = order == len(counts)
    found: list[Ngrams] = []
    total = 0
    status = arpa_kernel.DONE
    while status == arpa_kernel.DONE:
        text = lines.block()
        most = int(np.count_nonzero(text == ord("\n"))) + 1
        words = np.empty((most, order), dtype=np.int32)
        scores = np.empty((2, most), dtype=np.float32)
        status, place, rows = arpa_kernel.parse_ngrams(
            text, order, longest, *table, words, scores[0], scores[1]
        )
        lines.skip(place)
        if status > arpa_kernel.SECTION:
            line = lines.next()
            fault = _FAULTS.get(status)
            lines.fail(f"{fault}, found {_shown(line)}" if fault else _expected(order, line))
        total += rows
        if total > counts[order - 1]:
            break
        found.append(
            Ngrams(
                words=words[:rows].copy(),
                log_prob=scores[0, :rows].copy(),
                backoff=scores[1, :rows].copy(),
            )
        )
    if total != counts[order - 1]:
        more = " or more" if status == arpa_kernel.DONE else ""
        lines.fail(
            f"the counts do not fit: expected {counts[order - 1]:,} {order}-grams, found "
            f"{total:,}{more}"
        )
    return Ngrams(
        words=np.concatenate([part.words for part in found]),
        log_prob=np.concatenate([part.log_prob for part in found]),
        backoff=np.concatenate([part.backoff for part in found]),
    )


class _Lines:
    """A file by lines or by blocks of whole lines, with a limit on its size and theirs."""

    def __init__(self, stream: BinaryIO, source: Path, *, most_bytes: int) -> None:
        self.source = source
        self.most_bytes = most_bytes
        self._stream = stream
        self._number = 0  # of the last line given
        self._bytes = 0  # read so far
        self._buffer = b""
        self._place = 0
        self._fill()
        if self._buffer.startswith(_UTF8_MARK):
            self._place = len(_UTF8_MARK)
        if self._buffer.startswith(_UTF16) or b"\0" in self._buffer[:256]:
            raise FormatError(
                f"{source} is not text in UTF-8: expected an ARPA file, found "
                f"{self._buffer[:16]!r}. Convert UTF-16 to UTF-8."
            )

    def next(self) -> bytes:
        """Take the next line that is not blank, without white space around it."""
        line = self.peek()
        self._place = self._line_end() + 1
        self._number += 1
        return line

    def peek(self) -> bytes:
        """Look at the next line that is not blank; blank ones before it are passed over."""
        while True:
            end = self._line_end()
            start = cast(re.Match[bytes], _BLANK.match(self._buffer, self._place)).end()
            if start < end:
                return self._buffer[start:end].strip(_BLANKS)
            self.skip(self._buffer.rfind(b"\n", end, max(start, end + 1)) + 1 - self._place)

    def block(self) -> npt.NDArray[np.uint8]:
        """Look at some whole lines: uint8, at least one line."""
        self._line_end()
        end = self._buffer.rindex(b"\n") + 1
        return np.frombuffer(
            self._buffer, dtype=np.uint8, count=end - self._place, offset=self._place
        )

    def skip(self, count: int) -> None:
        """Pass over the first bytes of the block."""
        self._number += self._buffer.count(b"\n", self._place, self._place + count)
        self._place += count

    def fail(self, what: str) -> NoReturn:
        """Raise an error at the line that was given last."""
        raise FormatError(f"{self.source} line {self._number}: {what}.")

    def _line_end(self) -> int:
        """Place of the next line feed; reads on where there is none."""
        while True:
            end = self._buffer.find(b"\n", self._place)
            if end >= 0:
                return end
            rest = len(self._buffer) - self._place
            if rest > _LONGEST_LINE:
                self._number += 1
                self.fail(f"a line is longer than {_LONGEST_LINE:,} bytes")
            if not self._fill():
                if rest:
                    self._buffer += b"\n"
                    continue
                self.fail("the file ends too early: expected \\end\\. It was cut off")

    def _fill(self) -> bool:
        """Read a block; whether there was something left."""
        try:
            data = self._stream.read(_BLOCK_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FormatError(f"{self.source} is not a whole gzip file: {error}.") from error
        self._bytes += len(data)
        if self._bytes > self.most_bytes:
            raise FormatError(
                f"{self.source} unpacks to more than {_MOST_RATIO} times its size: no model does."
            )
        self._buffer = self._buffer[self._place :] + data
        self._place = 0
        return bool(data)


def _number(lines: _Lines, field: bytes) -> float:
    """Read one number."""
    value = math.nan
    with contextlib.suppress(ValueError):
        value = float(field)
    if not math.isfinite(value * LN_10) or field.strip(_DECIMAL):
        lines.fail(f"{_FAULTS[arpa_kernel.NUMBER]}, found {_shown(field)}")
    return value


def _expected(order: int, line: bytes) -> str:
    words = "a word" if order == 1 else f"{order} words"
    return (
        f"a line is malformed: expected a log-probability, {words} and perhaps a back-off, found "
        f"{_shown(line)}"
    )


def _shown(line: bytes) -> str:
    """Quote a line for a message."""
    text = line[:80].decode("utf-8", errors="replace")
    return repr(text if len(line) <= 80 else text + "…")


def _is_utf8(word: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        word.decode("utf-8")
        return True
    return False


def _write(file: BinaryIO, vocabulary: Vocabulary, tables: NgramTables) -> None:
    """Write header, sections and end."""
    counts = count_levels(tables)
    header = "".join(f"ngram {order}={count}\n" for order, count in enumerate(counts, start=1))
    file.write(f"\\data\\\n{header}".encode())
    first = 1
    for order, count in enumerate(counts, start=1):
        file.write(f"\n\\{order}-grams:\n".encode())
        for lines in _format(vocabulary.words, tables, order, first, first + count):
            file.write(lines.encode())
        first += count
    file.write(b"\n\\end\\\n")


def _format(
    names: tuple[str, ...], tables: NgramTables, order: int, first: int, end: int
) -> Iterator[str]:
    """Write the nodes of one level as lines, some thousands at a time."""
    inner = len(tables.backoff)
    for start in range(first, end, 1 << 16):
        nodes = np.arange(start, min(end, start + (1 << 16)))
        columns = []
        node = nodes
        for _ in range(order):
            columns.append([names[number] for number in tables.word[node].tolist()])
            node = np.searchsorted(tables.first_child, node, side="right") - 1
        words = map(" ".join, zip(*reversed(columns), strict=True))
        log_probs = _decimals(tables.log_prob[nodes])
        if end > inner:
            yield "".join(f"{p}\t{w}\n" for p, w in zip(log_probs, words, strict=True))
        else:
            rows = zip(log_probs, words, _decimals(tables.backoff[nodes]), strict=True)
            yield "".join(f"{p}\t{w}\t{b}\n" for p, w, b in rows)


def _decimals(values: npt.NDArray[np.float32]) -> list[str]:
    """Write natural logarithms to the base ten, each with the fewest digits that tell it."""
    log10 = values.astype(np.float64) / LN_10
    written = [""] * len(values)
    open_ = np.arange(len(values))
    for digits in (7, 8, 9):
        fresh = [f"{value:.{digits}g}" for value in log10[open_].tolist()]
        for place, text in zip(open_.tolist(), fresh, strict=True):
            written[place] = text
        read = (np.array(list(map(float, fresh))) * LN_10).astype(np.float32)
        open_ = open_[read != values[open_]]
    return written
