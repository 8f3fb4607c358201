"""Search through a lexicon: only its words are written, and the whole score looks ahead.

A reading is a sequence of words. Its acoustic score is the log-probability of all paths that write
it, summed: through any spelling of its words, with one boundary symbol or several between two
words, and any number before the first and after the last. Language model and bonuses are added.

While a word is unfinished, the best unigram score of the words that it can become stands for that
of the language model (Ortmanns, Ney and Eiden 1996, "Language-model look-ahead for large vocabulary
speech recognition"). When the beam is full, of histories that the language model cannot tell apart
only as many are followed as readings are asked for. With nothing pruned (`beam` as large as the
number of hypotheses, thresholds infinite), the result is exact.
"""

import copy
import logging
import math
import unicodedata
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unheard.decoding import lexicon_kernel as kernel
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.histories import Ending, Judge, NewHistory
from unheard.decoding.hypothesis import Hypothesis, ScoreParts, Word
from unheard.decoding.lexicon import Lexicon, word_boundary_id
from unheard.decoding.runs import probability
from unheard.decoding.search import HotWords, Partial, SearchConfig, bonuses, in_threads
from unheard.decoding.trie import look_ahead
from unheard.decoding.word_path import WordPath, trace_words
from unheard.errors import ConfigError, ShapeError, shorten
from unheard.lm.kernel import NgramTables, score_ids
from unheard.lm.ngram import NgramModel
from unheard.lm.trie import read_only
from unheard.lm.vocabulary import MARKERS

logger = logging.getLogger(__name__)

_FIRST_ROOM = 2048
"""Histories for which there is room at first."""

_HOT_STATE_BIT = 40
"""Where the state of the hot phrases begins in `Histories.state`."""


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """What the settings make of lexicon, language model and hot words."""

    tree: kernel.Tree
    rules: kernel.Rules


@dataclass(frozen=True, kw_only=True)
class _HotWords:
    """Bonuses of single words, (words,) in the lexicon's order, and phrases of several."""

    word_bonus: NDArray[np.float64]
    hot_word: NDArray[np.int32]
    phrases: kernel.HotPhrases


class LexiconDecoder:
    """From emissions to readings made of a lexicon's words; see `search.Decoder`.

    Threads may share one decoder.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        *,
        lm: NgramModel | None = None,
        hot_words: HotWords = (),
        config: SearchConfig | None = None,
    ) -> None:
        """Put a decoder together.

        Args:
            lexicon: the words that may be written, spelt in the model's alphabet. Hot words that
                it lacks are added.
            lm: a language model of words; None for none.
            hot_words: words and phrases to listen for, each with a bonus for every time that it
                is written.
            config: how to score and prune.

        Raises:
            ConfigError: if the language model knows no word of the lexicon.
            AlphabetError: if a hot word cannot be spelt.
        """
        table = bonuses(hot_words)
        self._lexicon = lexicon.with_words(w for phrase in table for w in phrase.split())
        self._lm = lm
        self._hot = _read_hot_words(table, self._lexicon)
        self._lm_word = _number_words(self._lexicon, lm)
        self._config = config or SearchConfig()
        self._scoring = self._score()

    @property
    def config(self) -> SearchConfig:
        """The settings."""
        return self._config

    def with_config(self, config: SearchConfig) -> "LexiconDecoder":
        """Return the same decoder with other settings, at little cost."""
        other = object.__new__(type(self))
        other._lexicon, other._lm = self._lexicon, self._lm
        other._hot, other._lm_word = self._hot, self._lm_word
        other._config = config
        other._scoring = other._score()
        return other

    def decode(self, emissions: Emissions) -> list[Hypothesis]:
        """Return the n-best readings, best first; at least one, which may be empty.

        Where no word can end at the last frame, the last word is left out of the readings.

        Raises:
            ShapeError: if the emissions are of another alphabet or hold NaN.
        """
        stream = self.stream(FrameTiming.of(emissions))
        stream.feed(emissions.log_probs)
        return stream.finish(num_samples=emissions.num_samples)

    def decode_many(
        self, emissions: Sequence[Emissions], *, threads: int | None = None
    ) -> list[list[Hypothesis]]:
        """Decode many recordings, on `threads` cores at once (None for all)."""
        return in_threads(self.decode, emissions, threads=threads)

    def stream(self, timing: FrameTiming) -> "LexiconStream":
        """Begin a search whose frames come piece by piece."""
        return LexiconStream(
            self._lexicon,
            self._lm,
            self._lm_word,
            self._hot,
            self._scoring,
            self._config,
            timing,
        )

    def _score(self) -> _Scoring:
        """Put the settings into the tree."""
        config, lm, trie = self._config, self._lm, self._lexicon.trie
        word_score = config.word_bonus + self._hot.word_bonus
        expected = word_score.copy()
        if lm is not None:
            unknown = self._lm_word == lm.unknown_id
            word_score[unknown] += config.unknown_score
            unigram = lm.tables.log_prob[1 + self._lm_word].astype(np.float64)
            expected = word_score + config.lm_weight * unigram
        hope = look_ahead(trie, expected)
        if not config.look_ahead:
            hope = np.where(np.isfinite(hope), 0.0, -np.inf)
        hope[0] = 0.0
        above = hope[np.maximum(trie.parent, 0)]
        closed = np.isneginf(hope)
        with np.errstate(over="ignore", under="ignore"):
            edge = np.exp(np.where(closed, -np.inf, hope - np.where(closed, 0.0, above)))
            node_of_label = np.repeat(np.arange(len(hope)), np.diff(trie.first_label))
            shut = np.isneginf(word_score[trie.label])
            gap = word_score[trie.label] - np.where(shut, 0.0, hope[node_of_label])
            reach = np.exp(gap + (_highest(self._hot.phrases) if len(gap) else 0.0))
        tree = kernel.Tree(
            symbol=trie.symbol,
            first_child=trie.first_child,
            first_label=trie.first_label,
            label=trie.label,
            hope=hope,
            edge=edge,
            reach=reach,
            lm_word=self._lm_word,
            word_score=word_score,
            hot_word=self._hot.hot_word,
        )
        boundary = word_boundary_id(self._lexicon.alphabet)
        rules = kernel.Rules(
            blank=self._lexicon.alphabet.blank_id,
            boundary=-1 if boundary is None else boundary,
            boundary_after=self._lexicon.boundary_after,
            beam=config.beam,
            threshold=math.exp(-config.beam_threshold),
            symbols_per_frame=config.symbols_per_frame or len(self._lexicon.alphabet),
            symbol_threshold=config.symbol_threshold,
            lm_weight=config.lm_weight,
            has_lm=lm is not None,
            boundary_bonus=config.boundary_bonus,
            histories=config.alike or config.nbest,
        )
        return _Scoring(tree=tree, rules=rules)


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """What is left of words that were handed out.

    Attributes:
        frames: how many were forgotten.
        carried_frames: how many of those carried a symbol.
        carried_log_prob: of these [nats].
        words: their part of the score, as the next three.
        lm: [nats].
        unknown_words: [nats].
        hot_words: [nats].
    """

    frames: int = 0
    carried_frames: int = 0
    carried_log_prob: float = 0.0
    words: float = 0.0
    lm: float = 0.0
    unknown_words: float = 0.0
    hot_words: float = 0.0


class LexiconStream:
    """A search under way; see `search.SearchStream`.

    It keeps its frames until their words are settled, in float32, to find out when these were
    said.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        lm: NgramModel | None,
        lm_word: NDArray[np.int32],
        hot: _HotWords,
        scoring: _Scoring,
        config: SearchConfig,
        timing: FrameTiming,
    ) -> None:
        self._lexicon, self._lm, self._lm_word, self._hot = lexicon, lm, lm_word, hot
        self._config, self._timing = config, timing
        self._tree, self._rules = scoring.tree, scoring.rules
        self._tables = _NO_TABLES if lm is None else lm.tables
        self._beam = kernel.new_beam(config.beam, len(lexicon.alphabet))
        self._histories = kernel.new_histories(_FIRST_ROOM)
        self._histories.state[0] = 0 if lm is None else lm.start_state
        self._frames: list[NDArray[np.float32]] = []
        self._settled = _Settled()
        self._has_judge = False
        self._stand_in = 0.0
        self._new = np.zeros(0, np.intp)  # histories that are being judged
        self._finished = False

    @property
    def separator(self) -> str:
        """What is written between two words."""
        return self._lexicon.separator

    def feed(self, log_probs: Tensor | NDArray[np.floating]) -> None:
        """Take further frames (frames, vocab), natural log-probabilities; any number, even 0.

        Raises:
            ShapeError: if the vocabulary has another size than the alphabet, or a frame holds NaN
                or plus infinity.
            ConfigError: if the stream is finished.
        """
        self._check_open()
        if isinstance(log_probs, Tensor):
            log_probs = log_probs.detach().cpu().float().numpy()
        rows = np.ascontiguousarray(log_probs, dtype=np.float32)
        vocab = len(self._lexicon.alphabet)
        if rows.ndim != 2 or rows.shape[1] != vocab:
            raise ShapeError(
                f"the emissions are of another alphabet: expected (frames, {vocab}), found "
                f"{tuple(rows.shape)}. Use the alphabet of the model that made them."
            )
        if rows is log_probs or rows.base is not None:
            rows = rows.copy()  # the caller may write into its array before the end
        taken, tried_again = 0, -1
        while True:
            taken, outcome = kernel.search(
                rows,
                taken,
                self._tree,
                self._tables,
                self._hot.phrases,
                self._rules,
                self._histories,
                self._beam,
            )
            if outcome == kernel.DONE:
                break
            if outcome == kernel.NO_LOG_PROBS:
                frame = self._settled.frames + sum(map(len, self._frames)) + taken
                self._finished = True
                raise ShapeError(
                    f"the emissions are no log-probabilities: found NaN or +inf in frame {frame}. "
                    "Look for the model or the input that gave it."
                )
            self._make_room(grow=taken == tried_again)
            tried_again = taken
        self._frames.append(rows)

    def partial(self) -> Partial:
        """Return the best reading so far, the letters of an unfinished word included."""
        beam, lexicon = self._beam, self._lexicon
        size = int(beam.size[0])
        if not size:
            return Partial(text="", stable_text="")
        masses = beam.now.blank_mass[:size] + beam.now.symbol_mass[:size]
        best = int(masses.argmax())
        words = [lexicon.words[w] for w in self._words(int(beam.now.history[best]))]
        node = int(beam.now.node[best])
        if node:
            label = self._tree.first_label[node]
            if label < self._tree.first_label[node + 1]:
                words.append(lexicon.words[self._tree.label[label]])
            else:
                words.append(self._begun(node))
        stable = self._words(int(kernel.common_history(self._histories, beam)))
        return Partial(
            text=lexicon.separator.join(words),
            stable_text=lexicon.separator.join(lexicon.words[w] for w in stable),
        )

    def fork(self) -> "LexiconStream":
        """Return a search of its own that goes on from here; this one does not notice."""
        self._check_open()
        other = copy.copy(self)
        other._beam = copy.deepcopy(self._beam)
        other._histories = copy.deepcopy(self._histories)
        other._frames = list(self._frames)
        return other

    def settle(self) -> tuple[Word, ...]:
        """Hand out the words that no frame to come can change, and forget them.

        The last of those is kept: it ends where the next one begins.

        Raises:
            ConfigError: if the stream is finished.
        """
        self._check_open()
        beam = self._beam
        size = int(beam.size[0])
        if not size:
            return ()
        certain = int(kernel.common_history(self._histories, beam))
        if self._has_judge:
            certain = self._judged_above(certain)
        certain = self._words(certain)
        count = len(certain) - 1
        if count < 1:
            return ()
        masses = beam.now.blank_mass[:size] + beam.now.symbol_mass[:size]
        path = self._trace(self._words(int(beam.now.history[int(masses.argmax())])), None)
        if not path.last_frames:
            return ()
        self._forget(certain[:count], path)
        return path.words[:count]

    def finish(self, *, num_samples: int | None = None) -> list[Hypothesis]:
        """End the stream and return the n-best readings of all its frames, best first.

        Args:
            num_samples: length of the recording, to which word times are clipped.

        Raises:
            ConfigError: if the stream is finished.
        """
        return self.conclude(None, num_samples=num_samples)

    def conclude(self, judge: Judge | None, *, num_samples: int | None) -> list[Hypothesis]:
        """End the stream as `finish` does, with another model's last word if there is a judge."""
        self._check_open()
        self._finished = True
        settled = self._settled
        endings = [(history, score, 0.0) for history, score in self._endings()]
        if judge is not None:
            verdicts = judge([self._ending(history) for history, _, _ in endings])
            endings = [
                (
                    history,
                    score
                    - verdict.given
                    + verdict.total
                    - self._stand_in * self._unjudged(history),
                    verdict.total,
                )
                for (history, score, _), verdict in zip(endings, verdicts, strict=True)
            ]
            endings.sort(key=lambda ending: -ending[1])
        readings: dict[str, Hypothesis] = {}
        for history, score, given in endings:
            words = self._words(history)
            text = self._lexicon.separator.join(self._lexicon.words[word] for word in words)
            if text in readings:
                continue
            path = self._trace(words, num_samples)
            confidence = path.confidence
            if settled.carried_frames:
                log_prob = settled.carried_log_prob + float(
                    path.frame_log_probs[path.carried].sum()
                )
                confidence = probability(log_prob, settled.carried_frames + int(path.carried.sum()))
            readings[text] = Hypothesis(
                text=text,
                words=path.words,
                confidence=confidence,
                score=score,
                parts=self._parts(words, score, given=given),
            )
            if len(readings) == self._config.nbest:
                break
        return list(readings.values())

    def expect_judge(self, stand_in: float) -> None:
        """Prepare for another model; see `histories.JudgedStream`."""
        self._has_judge = True
        self._stand_in = stand_in

    def unjudged(self, first: int) -> list[NewHistory]:
        """Name the histories in the beam that were not judged, and number them from `first` on."""
        self._check_open()
        histories = self._histories
        kernel.collect(histories, self._beam, np.empty(len(histories.parent), np.int32))
        self._new = np.flatnonzero(histories.judged[: histories.used[0]] < 0)
        histories.judged[self._new] = np.arange(first, first + len(self._new))
        return [
            NewHistory(number=number, parent=parent, word=self._lexicon.words[word])
            for number, parent, word in zip(
                histories.judged[self._new].tolist(),
                histories.judged[histories.parent[self._new]].tolist(),
                histories.word[self._new].tolist(),
                strict=True,
            )
        ]

    def judge(self, added: NDArray[np.float64]) -> None:
        """Add, for each history of the last `unjudged`, what its last word is worth [nats]."""
        histories, beam = self._histories, self._beam
        stood_in = [
            self._lm_score(history, [word])
            for history, word in zip(
                histories.parent[self._new].tolist(),
                histories.word[self._new].tolist(),
                strict=True,
            )
        ]
        added = added - self._stand_in * np.array(stood_in)
        histories.step[self._new] += added
        given = np.zeros(int(histories.used[0]))
        for history, worth in zip(self._new.tolist(), added.tolist(), strict=True):
            given[history] = worth + given[histories.parent[history]]
        size = int(beam.size[0])
        masses = (beam.now.blank_mass[:size], beam.now.symbol_mass[:size])
        with np.errstate(divide="ignore"):
            changed = [np.log(mass) + given[beam.now.history[:size]] for mass in masses]
        best = max((mass.max(initial=-np.inf) for mass in changed), default=-np.inf)
        if best > -np.inf:
            for mass, log_mass in zip(masses, changed, strict=True):
                mass[:] = np.exp(log_mass - best)
            beam.scale[:] = beam.scale[0] + best, (masses[0] + masses[1]).max()
        self._new = np.zeros(0, np.intp)

    def known(self) -> NDArray[np.int32]:
        """Return the numbers of the histories to which hypotheses in the beam go back."""
        return np.unique(self._histories.judged[: self._histories.used[0]])

    def _lm_score(self, history: int, words: list[int], *, is_end: bool = False) -> float:
        """Return what the language model says of words after a history, not weighted [nats]."""
        lm = self._lm
        if lm is None:
            return 0.0
        state, _ = _split_state(int(self._histories.state[history]))
        ids = np.append(self._lm_word[words], [lm.end_id] * is_end).astype(np.int32)
        log_probs = np.empty(len(ids))
        score_ids(lm.tables, state, ids, log_probs)
        return float(log_probs.sum())

    def _unjudged(self, history: int) -> float:
        """Return what the language model says of all that was not judged and of the end [nats]."""
        judged = self._judged_above(history)
        words = self._words(history)[int(self._histories.depth[judged]) :]
        return self._lm_score(judged, words, is_end=True)

    def _judged_above(self, history: int) -> int:
        """Return the longest beginning of a history that was judged."""
        while self._histories.judged[history] < 0:
            history = int(self._histories.parent[history])
        return history

    def _ending(self, history: int) -> Ending:
        """Return what a judge must know of a history that ends."""
        judged = self._judged_above(history)
        words = self._words(history)[int(self._histories.depth[judged]) :]
        return Ending(
            number=int(self._histories.judged[judged]),
            words=tuple(self._lexicon.words[word] for word in words),
        )

    def _check_open(self) -> None:
        """Refuse to go on after the end."""
        if self._finished:
            raise ConfigError("the stream is finished: begin another one with Decoder.stream.")

    def _trace(self, words: list[int], num_samples: int | None) -> WordPath:
        """Find when words were said, in the frames that are kept."""
        vocab = len(self._lexicon.alphabet)
        if len(self._frames) != 1:
            self._frames = [np.concatenate([np.zeros((0, vocab), np.float32), *self._frames])]
        timing = self._timing
        offset = timing.frame_offset_samples + self._settled.frames * timing.frame_stride_samples
        return trace_words(
            words,
            self._lexicon,
            self._frames[0],
            replace(timing, frame_offset_samples=offset),
            num_samples=num_samples,
            boundary_bonus=self._config.boundary_bonus,
        )

    def _forget(self, words: list[int], path: WordPath) -> None:
        """Let go of words that all histories begin with, and of their frames."""
        settled, parts = self._settled, self._parts(words, 0.0, is_end=False)
        frames = path.last_frames[len(words) - 1] + 1
        carried = path.carried[:frames]
        self._settled = _Settled(
            frames=settled.frames + frames,
            carried_frames=settled.carried_frames + int(carried.sum()),
            carried_log_prob=settled.carried_log_prob
            + float(path.frame_log_probs[:frames][carried].sum()),
            words=parts.words,
            lm=parts.lm,
            unknown_words=parts.unknown_words,
            hot_words=parts.hot_words,
        )
        self._frames = [self._frames[0][frames:].copy()]
        histories = self._histories
        kernel.collect(histories, self._beam, np.empty(len(histories.parent), np.int32))
        # Histories are in order and those of the words are one line, so they come first.
        used, depth = int(histories.used[0]), len(words)
        for column in (histories.word, histories.state, histories.step, histories.judged):
            column[: used - depth] = column[depth:used].copy()
        for column in (histories.parent, histories.depth):
            column[: used - depth] = column[depth:used] - depth
        histories.parent[0] = histories.word[0] = -1
        histories.used[0] = used - depth
        self._beam.now.history[: int(self._beam.size[0])] -= depth
        kernel.index_histories(histories)

    def _make_room(self, *, grow: bool) -> None:
        """Forget what is no longer needed; with `grow`, or if that is little, get more room."""
        capacity = len(self._histories.parent)
        kernel.collect(self._histories, self._beam, np.empty(capacity, np.int32))
        if grow or self._histories.used[0] > capacity // 2:
            self._histories = kernel.more_room(self._histories, 2 * capacity)

    def _endings(self) -> list[tuple[int, float]]:
        """Return histories with scores, best first, each once; the empty one if there is none."""
        size = int(self._beam.size[0])
        nodes = self._beam.now.node[:size]
        words = self._tree.first_label[nodes + 1] - self._tree.first_label[nodes]
        most = int(np.maximum(words, 1).sum())
        ended = np.empty(most, np.int32)
        scores = np.empty(most)
        whole = np.empty(most, np.bool_)
        end_word = np.int32(0 if self._lm is None else self._lm.end_id)
        while True:
            count = kernel.close(
                self._tree,
                self._tables,
                self._hot.phrases,
                self._rules,
                self._histories,
                self._beam,
                end_word,
                ended,
                scores,
                whole,
            )
            if count >= 0:
                break
            self._make_room(grow=True)
        usable = np.isfinite(scores)
        if (whole & usable).any():
            usable &= whole
        histories, place = np.unique(ended[usable], return_inverse=True)
        sums = np.full(len(histories), -np.inf)
        np.logaddexp.at(sums, place, scores[usable])
        order = np.argsort(-sums, kind="stable")
        endings = zip(histories[order].tolist(), sums[order].tolist(), strict=True)
        return list(endings) or [(0, -math.inf)]

    def _words(self, history: int) -> list[int]:
        """Return the words of a history."""
        words: list[int] = []
        while history:
            words.append(int(self._histories.word[history]))
            history = int(self._histories.parent[history])
        return words[::-1]

    def _begun(self, node: int) -> str:
        """Write the symbols of an unfinished word."""
        symbols: list[int] = []
        while node:
            symbols.append(int(self._tree.symbol[node]))
            node = int(self._lexicon.trie.parent[node])
        return self._lexicon.alphabet.decode(symbols[::-1])

    def _parts(
        self, words: list[int], score: float, *, given: float = 0.0, is_end: bool = True
    ) -> ScoreParts:
        """Say what a score is made of, settled words included."""
        config, lm, settled = self._config, self._lm, self._settled
        lm_weight = config.lm_weight - self._stand_in
        lm_score = settled.lm + lm_weight * self._lm_score(0, words, is_end=is_end)
        unknown_score = settled.unknown_words
        _, state = _split_state(int(self._histories.state[0]))
        if lm is not None:
            unknown = int((self._lm_word[words] == lm.unknown_id).sum())
            unknown_score += unknown * config.unknown_score if unknown else 0.0
        hot = settled.hot_words + float(self._hot.word_bonus[words].sum())
        for word in words:
            state = int(self._hot.phrases.next_state[state, self._hot.hot_word[word]])
            hot += float(self._hot.phrases.bonus[state])
        bonus = settled.words + len(words) * config.word_bonus
        return ScoreParts(
            acoustic=score - lm_score - bonus - unknown_score - hot - given,
            lm=lm_score,
            words=bonus,
            unknown_words=unknown_score,
            hot_words=hot,
            fusion=given,
        )


_NO_TABLES = NgramTables(
    word=read_only(np.array([-1], np.int32)),
    log_prob=read_only(np.zeros(1, np.float32)),
    suffix=read_only(np.zeros(1, np.int32)),
    backoff=read_only(np.zeros(1, np.float32)),
    first_child=read_only(np.ones(2, np.int64)),
    order=1,
)
"""What the compiled search is given, and does not look at, where there is no language model."""


def _split_state(state: int) -> tuple[int, int]:
    """Return the states of the language model and of the hot phrases (`Histories.state`)."""
    return state & ((1 << _HOT_STATE_BIT) - 1), state >> _HOT_STATE_BIT


def _number_words(lexicon: Lexicon, lm: NgramModel | None) -> NDArray[np.int32]:
    """Find the lexicon's words in the language model; 0 is the unknown word.

    A word that is stored otherwise is looked for in NFC, too.
    """
    if lm is None:
        return np.zeros(len(lexicon), np.int32)
    known = (lm.word_id(w) or lm.word_id(unicodedata.normalize("NFC", w)) for w in lexicon.words)
    numbers = np.fromiter(known, np.int32, len(lexicon))
    unknown = [lexicon.words[place] for place in np.flatnonzero(numbers == 0).tolist()]
    if len(unknown) == len(lexicon):
        raise ConfigError(
            "the language model knows no word of the lexicon: expected words such as "
            f"{shorten(map(repr, lexicon.words))}, found "
            f"{shorten(repr(word) for word in lm.vocabulary.words if word not in MARKERS)}. It may "
            "be a model of characters or pieces, or in another case; take a model of words that "
            "were normalised as the lexicon's."
        )
    if unknown:
        logger.info(
            "the language model does not know %d of the lexicon's %d words: %s",
            len(unknown),
            len(lexicon),
            shorten(map(repr, unknown), limit=5),
        )
    return numbers


def _read_hot_words(table: dict[str, float], lexicon: Lexicon) -> _HotWords:
    """Make bonuses of single words, and a matching automaton of phrases.

    Source: Aho and Corasick 1975, "Efficient string matching".
    """
    word_bonus = np.zeros(len(lexicon))
    hot_word = np.zeros(len(lexicon), np.int32)
    phrases: list[tuple[list[int], float]] = []
    for phrase, bonus in table.items():
        numbers = [lexicon.numbers[word] for word in phrase.split()]
        if not numbers:
            raise ConfigError(f"a hot word is empty: found {phrase!r}. Remove it.")
        if len(numbers) == 1:
            word_bonus[numbers[0]] += bonus
        else:
            phrases.append((numbers, bonus))
    used = sorted({number for numbers, _ in phrases for number in numbers})
    hot_word[used] = np.arange(1, len(used) + 1)
    children: list[dict[int, int]] = [{}]
    gain = [0.0]
    for numbers, bonus in phrases:
        state = 0
        for number in numbers:
            kind = int(hot_word[number])
            if kind not in children[state]:
                children[state][kind] = len(children)
                children.append({})
                gain.append(0.0)
            state = children[state][kind]
        gain[state] += bonus
    next_state = np.zeros((len(children), len(used) + 1), np.int32)
    suffix = [0] * len(children)
    queue = deque([0])
    while queue:
        state = queue.popleft()
        if state:
            gain[state] += gain[suffix[state]]
            next_state[state] = next_state[suffix[state]]
        for kind, child in children[state].items():
            suffix[child] = int(next_state[state, kind]) if state else 0
            next_state[state, kind] = child
            queue.append(child)
    return _HotWords(
        word_bonus=word_bonus,
        hot_word=hot_word,
        phrases=kernel.HotPhrases(next_state=next_state, bonus=np.array(gain)),
    )


def _highest(phrases: kernel.HotPhrases) -> float:
    """The most that the end of a phrase can add."""
    return max(0.0, float(phrases.bonus.max()))
