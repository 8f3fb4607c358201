"""CTC prefix search: the most probable texts, each summed over all the ways to say it in frames.

Any text may be written, letter by letter. An n-gram model of words scores each word where it ends,
and looks ahead within it; one of characters or word pieces scores every symbol. For the search
that writes the words of a lexicon only, see `unheard.decoding.lexicon_search`.

With nothing pruned (`beam` as large as all texts, thresholds infinite), the result is exact.
"""

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding import prefix_kernel as kernel
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.histories import Ending, Judge, NewHistory
from unheard.decoding.hot_words import build_matcher, spell
from unheard.decoding.hypothesis import Hypothesis, ScoreParts, Word
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.runs import (
    Runs,
    boundary_ids,
    is_mark,
    probability,
    read_runs,
    separator,
    text_of,
    word_groups,
)
from unheard.decoding.search import HotWords, Partial, SearchConfig, bonuses, in_threads
from unheard.decoding.trie import look_ahead
from unheard.errors import AlphabetError, ConfigError, ShapeError, shorten
from unheard.lm.kernel import NgramTables
from unheard.lm.ngram import NgramModel
from unheard.lm.trie import read_only
from unheard.lm.units import CHARACTER_BOUNDARY
from unheard.text.alphabet import Alphabet

logger = logging.getLogger(__name__)

_BLOCK_FRAMES = 512
"""Frames that are widened to float64 and searched at once."""

_LEAST_ROOM = 4096
"""Prefixes that a search has room for at first."""


@dataclass(frozen=True, kw_only=True)
class _Spelt:
    """A model's words in the alphabet: what does not depend on weights.

    Attributes:
        tables: trie of the words.
        hope: float64 (nodes,), unigram log-probability of the best word below each node.
        unit_begin: see `prefix_kernel.Scoring`.
        unit: the same.
    """

    tables: kernel.SpellingTables
    hope: NDArray[np.float64]
    unit_begin: NDArray[np.int32]
    unit: NDArray[np.int32]


class PrefixDecoder:
    """A prefix search, ready for emissions of one alphabet. Threads may share it."""

    def __init__(
        self,
        alphabet: Alphabet,
        *,
        lm: NgramModel | None = None,
        hot_words: HotWords = (),
        config: SearchConfig | None = None,
    ) -> None:
        """Prepare a search.

        Args:
            alphabet: symbols of the emissions. Blank and special symbols are never written.
            lm: n-gram model, or None. A model of words needs an alphabet with a boundary.
            hot_words: words or phrases with bonuses. To the alphabet's spelling of a hot word, the
                score of unknown words is not applied.
            config: how to score and prune.

        Raises:
            AlphabetError: if no word of the model, or a hot word, can be spelt.
            ConfigError: if the model does not fit the alphabet.
        """
        self.alphabet = alphabet
        self.lm = lm
        self.config = config or SearchConfig()
        self.hot_words = bonuses(hot_words)
        self._boundary = _boundary(alphabet)
        if lm is not None and lm.units == "word" and self._boundary is None:
            raise ConfigError(
                "the language model is one of words, and the alphabet has no boundary between "
                "words: expected a model of characters or pieces, or a lexicon. Train one with "
                "--units character, or name the words that may be written."
            )
        self._spelt = self._spell()
        phrases = [
            (spell(phrase, alphabet, boundary=self._boundary), bonus)
            for phrase, bonus in self.hot_words.items()
        ]
        self._hot = build_matcher(phrases, vocab=len(alphabet), boundary=self._boundary)
        self._scoring = self._score()

    def with_config(self, config: SearchConfig) -> "PrefixDecoder":
        """Return the same decoder with other settings; the tables are shared."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.config = config
        other._scoring = other._score()
        return other

    def decode(self, emissions: Emissions) -> list[Hypothesis]:
        """Return the n-best readings, best first; at least one, which may be empty.

        Raises:
            ShapeError: if the emissions are not of this alphabet.
        """
        stream = self.stream(FrameTiming.of(emissions))
        stream.feed(emissions.log_probs)
        return stream.finish(num_samples=emissions.num_samples)

    def decode_many(
        self, emissions: Sequence[Emissions], *, threads: int | None = None
    ) -> list[list[Hypothesis]]:
        """Decode many recordings, on `threads` cores at once (None for all)."""
        return in_threads(self.decode, emissions, threads=threads)

    def stream(self, timing: FrameTiming) -> "PrefixStream":
        """Begin a search whose frames come piece by piece."""
        return PrefixStream(self.alphabet, self._scoring, self.config, timing)

    def _spell(self) -> _Spelt:
        """Spell the model's words, or find its number for each symbol."""
        vocab = len(self.alphabet)
        if self.lm is not None and self.lm.units == "word":
            tables, hope = _spell_words(self.lm, self.alphabet, self.hot_words)
            units = [()] * vocab
        else:
            nothing = np.zeros(1, np.int32)
            tables = kernel.SpellingTables(
                symbol=read_only(nothing),
                first_child=read_only(np.ones(2, np.int32)),
                word=read_only(nothing - 1),
            )
            hope = np.zeros(1)
            if self.lm is None:
                units = [()] * vocab
            else:
                units = _number_symbols(self.lm, self.alphabet, boundary=self._boundary)
        lengths = [len(unit) for unit in units]
        flat = [number for unit in units for number in unit]
        return _Spelt(
            tables=tables,
            hope=hope,
            unit_begin=read_only(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)),
            unit=read_only(np.array(flat, np.int32)),
        )

    def _score(self) -> kernel.Scoring:
        """Join tables and weights."""
        config, alphabet, lm = self.config, self.alphabet, self.lm
        boundaries = boundary_ids(alphabet)
        unwritten = {alphabet.blank_id, *boundaries, *map(alphabet.tokens.index, alphabet.special)}
        writable = np.ones(len(alphabet), np.uint8)
        writable[list(unwritten)] = 0
        begins = np.zeros(len(alphabet), np.uint8)
        if not boundaries:
            begins[:] = [writable[n] and not is_mark(t) for n, t in enumerate(alphabet.tokens)]
        mode = kernel.NO_LM
        if lm is not None:
            mode = kernel.WORDS if lm.units == "word" else kernel.UNITS
        # A closed vocabulary is closed with or without looking ahead.
        unknown_ahead = 0.0 if math.isfinite(config.unknown_score) else -math.inf
        ahead = np.zeros_like(self._spelt.hope)
        if mode == kernel.WORDS and config.look_ahead:
            ahead = config.lm_weight * self._spelt.hope
            unknown = float(lm.tables.log_prob[1]) if lm is not None else 0.0
            unknown_ahead = config.lm_weight * unknown + config.unknown_score
        symbol_most = max(0.0, config.word_bonus) if begins.any() else 0.0
        unknown_most = max(0.0, config.unknown_score)
        if mode == kernel.UNITS:
            symbol_most += unknown_most * int(np.diff(self._spelt.unit_begin).max(initial=0))
        return kernel.Scoring(
            mode=mode,
            blank=alphabet.blank_id,
            boundary=-1 if self._boundary is None else self._boundary,
            boundaries=read_only(np.array(sorted(boundaries), np.int32)),
            writable=read_only(writable),
            begins_word=read_only(begins),
            lm_weight=float(config.lm_weight),
            word_bonus=float(config.word_bonus),
            unknown_score=float(config.unknown_score),
            boundary_bonus=float(config.boundary_bonus),
            lm=_NO_TABLES if lm is None else lm.tables,
            start_state=0 if lm is None else lm.start_state,
            end_id=0 if lm is None else lm.end_id,
            spelling=self._spelt.tables,
            ahead=read_only(ahead),
            unknown_ahead=float(unknown_ahead),
            unit_begin=self._spelt.unit_begin,
            unit=self._spelt.unit,
            symbol_most=float(symbol_most),
            end_most=max(0.0, config.word_bonus) + unknown_most,
            hot=self._hot,
        )


class PrefixStream:
    """A prefix search under way; see `SearchStream`. For one thread at a time."""

    def __init__(
        self,
        alphabet: Alphabet,
        scoring: kernel.Scoring,
        config: SearchConfig,
        timing: FrameTiming,
    ) -> None:
        self._alphabet = alphabet
        self._scoring = scoring
        self._config = config
        self._timing = timing
        self._limits = kernel.Limits(
            beam=config.beam,
            candidates=config.beam + config.beam // 2 + 8 if scoring.mode else config.beam,
            alike=config.alike or config.nbest,
            threshold=float(config.beam_threshold),
            symbols_per_frame=min(config.symbols_per_frame or len(alphabet), len(alphabet)),
            symbol_threshold=float(config.symbol_threshold),
        )
        self._working = _allocate(self._limits, len(alphabet))
        self._settled_frames = 0  # frames that carried a symbol of a settled word
        self._settled_log_prob = 0.0  # of those frames
        self._has_judge = False
        self._stand_in = 0.0
        self._new = np.zeros(0, np.intp)  # prefixes that are being judged
        self._finished = False
        kernel.begin(scoring, self._working)

    @property
    def separator(self) -> str:
        """What is written between two words."""
        return separator(self._alphabet)

    @property
    def frames(self) -> int:
        """How many frames were fed."""
        return int(self._working.counts[kernel.FRAME])

    def feed(self, log_probs: Tensor | NDArray[np.floating]) -> None:
        """Take further frames (frames, vocab), natural log-probabilities; any number, even 0.

        Raises:
            ShapeError: if the vocabulary has another size than the alphabet, or a value is not a
                number.
            ConfigError: if the stream is finished.
        """
        self._check_open()
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self._alphabet):
            raise ShapeError(
                f"the emissions are of another alphabet: expected (frames, {len(self._alphabet)}), "
                f"found {tuple(log_probs.shape)}. Use the alphabet of the model that made them."
            )
        for start in range(0, log_probs.shape[0], _BLOCK_FRAMES):
            block = log_probs[start : start + _BLOCK_FRAMES]
            if isinstance(block, Tensor):
                block = block.detach().cpu().double().numpy()
            rows = np.array(block, dtype=np.float64, order="C")
            if not (rows < math.inf).all():
                frame, symbol = np.argwhere(~(rows < math.inf))[0]
                raise ShapeError(
                    "the emissions are no log-probabilities: expected finite numbers or minus "
                    f"infinity, found {rows[frame, symbol]} (frame {self.frames + frame}, symbol "
                    f"{symbol}). Look for the model or the input that gave it."
                )
            self._advance(rows)

    def partial(self) -> Partial:
        """Return the best reading so far, and its part that is certain to stay."""
        self._check_open()
        best = self._symbols(kernel.best_prefix(self._working))
        stable = self._symbols(kernel.common_prefix(self._working))
        stable = stable[: self._whole_words(stable)]
        return Partial(
            text=text_of(best, self._alphabet), stable_text=text_of(stable, self._alphabet)
        )

    def fork(self) -> "PrefixStream":
        """Return a search of its own that goes on from here; this one does not notice."""
        self._check_open()
        other = copy.copy(self)
        other._working = copy.deepcopy(self._working)
        return other

    def settle(self) -> tuple[Word, ...]:
        """Hand out the words that no frame to come can change, and forget them.

        Raises:
            ConfigError: if the stream is finished.
        """
        self._check_open()
        count = self._whole_words(self._symbols(kernel.common_prefix(self._working)))
        if self._has_judge:
            count = min(count, self._judged_symbols())
        if not count:
            return ()
        ends_in_boundary = self._scoring.boundary >= 0
        runs = self._best_runs().head(count if ends_in_boundary else count + 1)
        settled = self._sounding(runs)
        reading = read_runs(settled, self._alphabet, self._timing, num_samples=None)
        self._settled_frames += int(settled.frames.sum())
        self._settled_log_prob += float(settled.log_probs.sum())
        _forget(self._working, self._scoring, count)
        return reading.words

    def finish(self, *, num_samples: int | None = None) -> list[Hypothesis]:
        """End the stream and return the n-best readings of all its frames, best first.

        Only when no text is possible, as in a closed vocabulary in which no word was finished, is
        the score minus infinity; the texts are then ranked by the rest of their scores.

        Args:
            num_samples: length of the recording, to which word times are clipped.
        """
        return self.conclude(None, num_samples=num_samples)

    def conclude(self, judge: Judge | None, *, num_samples: int | None) -> list[Hypothesis]:
        """End the stream as `finish` does, with another model's last word if there is a judge."""
        self._check_open()
        self._finished = True
        config, beam = self._config, self._limits.beam
        numbers = np.zeros((beam, 6), np.int32)
        scores = np.zeros((beam, 5))
        count = kernel.finish(self._scoring, self._working, numbers, scores)
        numbers, scores = numbers[:count], scores[:count]
        lm_weight = config.lm_weight - self._stand_in
        possible = scores[:, 0] + scores[:, 1] * lm_weight + scores[:, 2]
        possible += numbers[:, 4] * config.word_bonus
        unknown = np.where(numbers[:, 5] > 0, numbers[:, 5], 1) * config.unknown_score
        total = possible + np.where(numbers[:, 5] > 0, unknown, 0.0)
        given = np.zeros(count)
        if judge is not None:
            above = self._words_above()
            verdicts = judge([self._ending(node, above) for node in numbers[:, 0].tolist()])
            given[:] = [verdict.total for verdict in verdicts]
            possible, total = possible + given, total + given
        found: dict[str, Hypothesis] = {}
        for place in np.lexsort((-possible, -total)):
            if len(found) == config.nbest:
                break
            hypothesis = self._read(numbers[place], scores[place], float(given[place]), num_samples)
            found.setdefault(hypothesis.text, hypothesis)
        return list(found.values())

    def expect_judge(self, stand_in: float) -> None:
        """Prepare for another model; see `histories.JudgedStream`."""
        self._has_judge = True
        self._stand_in = stand_in

    def unjudged(self, first: int) -> list[NewHistory]:
        """Name the histories in the beam that were not judged, and number them from `first` on."""
        self._check_open()
        _sweep(self._working)
        numbers, above = self._prefixes(), self._words_above()
        is_new = (above == np.arange(len(above))) & (numbers[:, kernel.JUDGED] == 0)
        is_new[0] = False  # nothing is before the root
        self._new = np.flatnonzero(is_new)
        numbers[self._new, kernel.JUDGED] = np.arange(first, first + len(self._new))
        parents = numbers[self._new, kernel.PARENT]
        before = above[parents]
        return [
            NewHistory(
                number=int(numbers[node, kernel.JUDGED]),
                parent=int(numbers[start, kernel.JUDGED]),
                word=text_of(self._symbols_after(start, parent), self._alphabet),
            )
            for node, parent, start in zip(
                self._new.tolist(), parents.tolist(), before.tolist(), strict=True
            )
        ]

    def judge(self, added: NDArray[np.float64]) -> None:
        """Add, for each history of the last `unjudged`, what its last word is worth [nats]."""
        above = self._words_above()
        before = above[self._prefixes()[self._new, kernel.PARENT]]
        scores = self._working.prefix_scores[: len(above)]
        stood_in = scores[self._new, kernel.LM_SCORE] - scores[before, kernel.LM_SCORE]
        added = added - self._stand_in * stood_in
        given = np.zeros(len(above))
        for node, start, worth in zip(
            self._new.tolist(), before.tolist(), added.tolist(), strict=True
        ):
            given[node] = worth + given[start]
        for column in (kernel.SCORE, kernel.GIVEN):
            scores[:, column] += given[above]
        self._new = np.zeros(0, np.intp)

    def known(self) -> NDArray[np.int32]:
        """Return the numbers of the histories to which hypotheses in the beam go back."""
        return np.unique(self._prefixes()[:, kernel.JUDGED])

    def _check_open(self) -> None:
        """Refuse to go on after the end."""
        if self._finished:
            raise ConfigError("the stream is finished: begin another one with Decoder.stream.")

    def _prefixes(self) -> NDArray[np.int32]:
        """Return the rows of the prefixes there are."""
        return self._working.prefix_numbers[: self._working.counts[kernel.PREFIXES]]

    def _words_above(self) -> NDArray[np.intp]:
        """Return, for each prefix, the last one on the way to it that ends a word; or the root.

        That is one, itself included, that ends with a boundary, or, in scripts without, with the
        symbol that begins the next word.
        """
        numbers = self._prefixes()
        symbols = numbers[:, kernel.SYMBOL]
        if self._scoring.boundary >= 0:
            ends = symbols == self._scoring.boundary
        else:
            ends = self._scoring.begins_word[symbols] > 0
        above = np.where(ends, np.arange(len(ends)), numbers[:, kernel.PARENT])
        above[0] = 0
        while True:  # each round doubles the way
            further = above[above]
            if (further == above).all():
                return above
            above = further

    def _symbols_after(self, start: int, node: int) -> list[int]:
        """Return the symbols of a prefix that come after the last whole word of another one.

        In scripts without boundaries the symbol that ended that word is the first of them.
        """
        numbers = self._working.prefix_numbers
        count = int(numbers[node, kernel.DEPTH] - numbers[start, kernel.DEPTH])
        if self._scoring.boundary < 0 and start > 0:
            count += 1
        symbols = np.empty(count, np.int32)
        kernel.write_symbols(numbers, node, symbols)
        return symbols.tolist()

    def _judged_above(self, node: int, above: NDArray[np.intp]) -> int:
        """Return the last prefix on the way to one that was judged, or the root."""
        numbers = self._working.prefix_numbers
        node = int(above[node])
        while node > 0 and numbers[node, kernel.JUDGED] == 0:
            node = int(above[numbers[node, kernel.PARENT]])
        return node

    def _ending(self, node: int, above: NDArray[np.intp]) -> Ending:
        """Return what a judge must know of a text that ends."""
        start = self._judged_above(node, above)
        symbols = self._symbols_after(start, node)
        words = (
            self._alphabet.decode([symbols[index] for index in group]).strip()
            for group in word_groups(symbols, self._alphabet)
        )
        number = int(self._working.prefix_numbers[start, kernel.JUDGED])
        return Ending(number=number, words=tuple(filter(None, words)))

    def _judged_symbols(self) -> int:
        """Count the symbols, from the start, of words that all slots have in common and a judge."""
        node = self._judged_above(kernel.common_prefix(self._working), self._words_above())
        depth = int(self._working.prefix_numbers[node, kernel.DEPTH])
        return depth if self._scoring.boundary >= 0 else max(depth - 1, 0)

    def _whole_words(self, symbols: list[int]) -> int:
        """Count the symbols, from the start, of words that are whole, and of their boundaries."""
        boundary = self._scoring.boundary
        if boundary >= 0:
            return max((n + 1 for n, symbol in enumerate(symbols) if symbol == boundary), default=0)
        groups = list(word_groups(symbols, self._alphabet))
        return groups[-1][0] if groups else 0

    def _advance(self, rows: NDArray[np.float64]) -> None:
        """Search a block of frames; sweep or enlarge the trees when they are full."""
        while True:
            rows = rows[kernel.advance(self._scoring, self._limits, self._working, rows) :]
            if not rows.shape[0]:
                return
            _sweep(self._working)
            self._working = _enlarge(self._working, self._limits)

    def _symbols(self, node: int) -> list[int]:
        """Return the symbols of a prefix."""
        symbols = np.empty(self._working.prefix_numbers[node, kernel.DEPTH], np.int32)
        kernel.write_symbols(self._working.prefix_numbers, node, symbols)
        return symbols.tolist()

    def _read(
        self,
        numbers: NDArray[np.int32],
        scores: NDArray[np.float64],
        given: float,
        num_samples: int | None,
    ) -> Hypothesis:
        """Write one text of `prefix_kernel.finish` with its words and parts."""
        config = self._config
        node, entry, last, frames, words, unknown = numbers.tolist()
        acoustic, lm_score, hot_score, best_path, carried = scores.tolist()
        runs = self._sounding(self._runs(node, entry, last, frames, carried))
        reading = read_runs(runs, self._alphabet, self._timing, num_samples=num_samples)
        sounding = self._settled_frames + int(runs.frames.sum())
        if sounding:
            log_prob = self._settled_log_prob + float(runs.log_probs.sum())
            confidence = probability(log_prob, sounding)
        else:
            confidence = probability(best_path, self.frames)
        parts = ScoreParts(
            acoustic=acoustic,
            lm=(config.lm_weight - self._stand_in) * lm_score,
            words=config.word_bonus * words,
            unknown_words=config.unknown_score * unknown if unknown else 0.0,
            hot_words=hot_score,
            fusion=given,
        )
        return Hypothesis(
            text=reading.text,
            words=reading.words,
            confidence=confidence,
            score=parts.total,
            parts=parts,
        )

    def _best_runs(self) -> Runs:
        """Return the runs of the best path that writes the best prefix."""
        side = self._working.counts[kernel.SIDE]
        best = kernel.best_prefix(self._working)
        slot = int(self._working.prefix_numbers[best, kernel.SLOT])
        numbers = self._working.slot_numbers[side, slot]
        scores = self._working.slot_scores[side, slot]
        after_symbol = scores[kernel.N_BEST] > scores[kernel.B_BEST]
        first = kernel.N_ENTRY if after_symbol else kernel.B_ENTRY
        carried = scores[kernel.N_CARRIED if after_symbol else kernel.B_CARRIED]
        entry, last, frames = numbers[first : first + 3].tolist()
        return self._runs(best, entry, last, frames, float(carried))

    def _runs(self, node: int, entry: int, last: int, frames: int, carried: float) -> Runs:
        """Return the runs of a path: of boundaries before the first symbol, then of all symbols.

        Args:
            node: prefix that it writes.
            entry: of its last symbol.
            last: last frame of that symbol.
            frames: number of its frames.
            carried: log-probability of those.
        """
        symbols = np.array([self._scoring.boundary, *self._symbols(node)], np.int32)
        runs = np.empty((len(symbols), 3), np.int32)
        log_probs = np.empty(len(symbols))
        runs[-1, 1:] = last, frames
        log_probs[-1] = carried
        kernel.write_runs(
            self._working.entry_numbers, self._working.entry_carried, entry, runs, log_probs
        )
        return Runs(
            token_ids=symbols,
            first_frames=runs[:, 0],
            last_frames=runs[:, 1],
            frames=runs[:, 2],
            log_probs=log_probs,
        )

    def _sounding(self, runs: Runs) -> Runs:
        """Leave out the boundaries before the first symbol, where there are none."""
        return runs if runs.frames[0] else runs.tail(1)


_NO_TABLES = NgramTables(
    word=read_only(np.array([-1], np.int32)),
    log_prob=read_only(np.zeros(1, np.float32)),
    suffix=read_only(np.zeros(1, np.int32)),
    backoff=read_only(np.zeros(1, np.float32)),
    first_child=read_only(np.ones(2, np.int64)),
    order=1,
)
"""Stands where there is no model, so that the kernel is compiled once for all."""


def _boundary(alphabet: Alphabet) -> int | None:
    """Number of the symbol that stands for all boundaries: the alphabet's own if it has one."""
    if alphabet.word_boundary_id is not None:
        return alphabet.word_boundary_id
    return min(boundary_ids(alphabet), default=None)


def _spell_words(
    lm: NgramModel, alphabet: Alphabet, hot_words: Sequence[str] | dict[str, float]
) -> tuple[kernel.SpellingTables, NDArray[np.float64]]:
    """Make the trie of a model's words and of hot words, and what each node may become."""
    lexicon = Lexicon.from_model(lm, alphabet)
    lexicon = lexicon.with_words(word for phrase in hot_words for word in phrase.split())
    trie = lexicon.trie
    ids = np.array([lm.word_id(word) for word in lexicon.words], np.int32)
    unigrams = lm.tables.log_prob[1 + ids.astype(np.int64)].astype(np.float64)
    # Of several words that are written alike, the commonest is meant.
    node = np.repeat(np.arange(len(trie.symbol)), np.diff(trie.first_label))
    order = np.lexsort((trie.label, unigrams[trie.label], node))
    word = np.full(len(trie.symbol), -1, np.int32)
    word[node[order]] = ids[trie.label[order]]
    tables = kernel.SpellingTables(
        symbol=read_only(trie.symbol), first_child=read_only(trie.first_child), word=read_only(word)
    )
    return tables, look_ahead(trie, unigrams)


def _number_symbols(
    lm: NgramModel, alphabet: Alphabet, *, boundary: int | None
) -> list[tuple[int, ...]]:
    """Return the model's numbers for each symbol: its characters, or the one piece that it is."""
    numbered: list[tuple[int, ...]] = []
    unknown: list[str] = []
    silent = {alphabet.blank_id, *map(alphabet.tokens.index, alphabet.special)}
    for number, token in enumerate(alphabet.tokens):
        if number in silent:
            numbered.append(())
            continue
        if number == boundary and lm.units == "character":
            token = CHARACTER_BOUNDARY
        units = list(token) if lm.units == "character" else [token]
        numbered.append(tuple(lm.word_id(unit) for unit in units))
        if 0 in numbered[-1] and number != alphabet.unknown_id:
            unknown.append(token)
    known = len(alphabet) - len(silent) - len(unknown)
    if known < 1 or (known == 1 and boundary is not None and len(unknown) > 0):
        raise AlphabetError(
            "the language model knows no symbol of the alphabet: it has "
            f"{shorten(map(repr, lm.vocabulary.words[:12]), limit=12)}; the alphabet has "
            f"{shorten(map(repr, alphabet.tokens), limit=12)}. Train it on text that is normalised "
            "and cased as the transcripts were."
        )
    if unknown:
        logger.warning(
            "the language model does not know %d of the alphabet's symbols: %s",
            len(unknown),
            shorten(map(repr, unknown), limit=12),
        )
    return numbered


def _allocate(limits: kernel.Limits, vocab: int) -> kernel.Working:
    """Return the state of a search that has not begun."""
    beam, candidates = limits.beam, limits.candidates
    room = max(_LEAST_ROOM, 32 * beam)
    return kernel.Working(
        prefix_numbers=np.empty((room, 13), np.int32),
        prefix_scores=np.empty((room, 6)),
        entry_numbers=np.empty((room, 4), np.int32),
        entry_carried=np.empty(room),
        slot_numbers=np.empty((2, beam, 8), np.int32),
        slot_scores=np.empty((2, beam, 7)),
        sums=np.empty((2, beam)),
        links=np.empty((3, beam), np.int32),
        marks=np.empty(vocab, np.int64),
        tried=np.empty(vocab, np.int64),
        symbols=np.empty(vocab, np.int32),
        symbol_scores=np.empty(vocab),
        heap_scores=np.empty(candidates),
        heap_slots=np.empty(candidates, np.int32),
        heap_symbols=np.empty(candidates, np.int32),
        futures=np.empty(1 << (2 * beam + 1).bit_length(), np.int32),
        crowds=np.empty(beam, np.int32),
        counts=np.zeros(6, np.int64),
    )


def _sweep(working: kernel.Working) -> None:
    """Drop what no slot needs from both trees."""
    counts = working.counts
    kernel.sweep(
        working,
        np.full(counts[kernel.PREFIXES], -1, np.int32),
        np.full(counts[kernel.ENTRIES], -1, np.int32),
    )


def _forget(working: kernel.Working, scoring: kernel.Scoring, depth: int) -> None:
    """Make the prefix at `depth`, which all slots have in common, the root of both trees.

    If it ends in a boundary, the frames of that are now boundaries before the first symbol.
    """
    _sweep(working)
    counts, numbers, entries = working.counts, working.prefix_numbers, working.entry_numbers
    slots = working.slot_numbers[counts[kernel.SIDE], : counts[kernel.SLOTS]]
    for slot in slots:
        further = int(numbers[slot[kernel.NODE], kernel.DEPTH]) - depth
        for column in (kernel.B_ENTRY, kernel.N_ENTRY):
            entry = int(slot[column])
            if further == 0:
                slot[column] = -1
            if further == 0 or entry < 0:
                continue
            for _ in range(further - 1):
                entry = int(entries[entry, kernel.BEFORE])
            entries[entry, kernel.BEFORE] = -1
            if scoring.boundary < 0:
                entries[entry, kernel.BEFORE_FRAMES] = 0
                working.entry_carried[entry] = 0.0
    # Prefixes are in order and those before the new root are one line, so they come first.
    count = int(counts[kernel.PREFIXES])
    kept = count - depth
    numbers[:kept] = numbers[depth:count].copy()
    working.prefix_scores[:kept] = working.prefix_scores[depth:count].copy()
    for column in (kernel.PARENT, kernel.CHILD, kernel.SIBLING):
        links = numbers[:kept, column]
        links[links >= 0] -= depth
    numbers[0, [kernel.PARENT, kernel.SIBLING]] = -1
    numbers[:kept, kernel.DEPTH] -= depth
    slots[:, kernel.NODE] -= depth
    counts[kernel.PREFIXES] = kept
    _sweep(working)


def _enlarge(working: kernel.Working, limits: kernel.Limits) -> kernel.Working:
    """Return the state with room for as many prefixes and entries again, where half is taken."""
    prefixes, entries = working.counts[kernel.PREFIXES], working.counts[kernel.ENTRIES]
    if 2 * (prefixes + limits.candidates) > working.prefix_numbers.shape[0]:
        working = working._replace(
            prefix_numbers=_twice(working.prefix_numbers, prefixes),
            prefix_scores=_twice(working.prefix_scores, prefixes),
        )
    if 2 * (entries + limits.beam) > working.entry_numbers.shape[0]:
        working = working._replace(
            entry_numbers=_twice(working.entry_numbers, entries),
            entry_carried=_twice(working.entry_carried, entries),
        )
    return working


def _twice(rows: NDArray, used: int) -> NDArray:
    """Return rows of twice the number, the first `used` of them filled."""
    more = np.empty((2 * rows.shape[0], *rows.shape[1:]), rows.dtype)
    more[:used] = rows[:used]
    return more
