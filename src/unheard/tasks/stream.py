"""A live recording in, text as it is spoken out."""

import os
from typing import Literal, Self

from unheard.decoding.hypothesis import Word
from unheard.decoding.search import Decoder
from unheard.inference.engine import Engine
from unheard.inference.inputs import ModelLike, as_bundle
from unheard.inference.number_format import Dtype
from unheard.inference.streaming import (
    HOP_SECONDS,
    Listener,
    Samples,
    StreamLatency,
    StreamSegment,
    StreamStats,
    StreamUpdate,
)
from unheard.inference.windows import CONTEXT_SECONDS, WINDOW_SECONDS, WindowPlan, plan_windows
from unheard.tasks.searching import LanguageModel, SearchOptions
from unheard.tasks.transcribe import Transcript

__all__ = ["Stream", "StreamLatency", "StreamSegment", "StreamStats", "StreamUpdate"]


class Stream:
    """Writes down what is said while it is said.

    Sound goes in by `feed`, in pieces of any size. Each call returns what is new: segments that
    are certain, with words and times; behind them text that is certain too (`stable_text`); and
    behind that what is believed and may change (`partial_text`). `finish` ends it and returns the
    whole, which is what `transcribe` writes of the same samples in the same windows. See
    docs/streaming.md.

    For one thread at a time. Several streams with one model: `another`.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        adapter: str | None = None,
        lm: LanguageModel | None = None,
        lexicon: str | os.PathLike[str] | None = None,
        preset: str | None = None,
        beam: int | None = None,
        lm_weight: float | None = None,
        word_bonus: float | None = None,
        hot_words: str | None = None,
        rescore: str | os.PathLike[str] | None = None,
        rescore_weight: float | None = None,
        fuse: str | os.PathLike[str] | None = None,
        fuse_weight: float | None = None,
        padding: Literal["masked", "zeros"] | None = None,
        dtype: Dtype = "auto",
        device: str = "cpu",
        window_seconds: float = WINDOW_SECONDS,
        context_seconds: float = CONTEXT_SECONDS,
        hop_seconds: float | None = HOP_SECONDS,
        keep: bool = True,
    ) -> None:
        """Load the model and begin to listen.

        Args:
            model: a loaded model, or what `load_model` takes.
            adapter: for a model with an adapter for each language, the language, such as "kmr".
            lm: n-gram model to search with; this and the next ten as in `transcribe`.
            lexicon: file of the words that may be written.
            preset: settings of the search by name.
            beam: hypotheses kept after each frame.
            lm_weight: of the language model's natural log-probability.
            word_bonus: added for each word [nats].
            hot_words: words or phrases to listen for: "Kampala,Nakawa=5".
            rescore: Transformer language model that chooses among the readings at the end. With
                it nothing is certain before.
            rescore_weight: of its natural log-probability.
            fuse: Transformer language model in the beam.
            fuse_weight: of its natural log-probability.
            padding: instead of the one in the model's input spec.
            dtype: of the matrix products.
            device: where to load the model, unless it is loaded.
            window_seconds: longest window; what was said this long ago is final at the latest.
                Shorter ones are final sooner, and the network hears less around each moment.
            context_seconds: sound heard beyond the seam of two windows where that is no pause.
            hop_seconds: sound between two partial texts; None: only when `partial` is called.
            keep: keep all words for `finish`. Without, memory stays the same however long it
                lasts, and `finish` returns what no update has handed out.

        Raises:
            ConfigError: if the model has no CTC head, or an argument is out of its range.
        """
        options = SearchOptions(
            lm=lm,
            lexicon=lexicon,
            preset=preset,
            beam=beam,
            lm_weight=lm_weight,
            word_bonus=word_bonus,
            hot_words=hot_words,
            rescore=rescore,
            rescore_weight=rescore_weight,
            fuse=fuse,
            fuse_weight=fuse_weight,
        )
        engine = Engine(
            as_bundle(model, adapter=adapter, device=device), dtype=dtype, padding=padding
        )
        plan = plan_windows(
            engine.encoder_config,
            sample_rate=engine.spec.sample_rate,
            window_seconds=window_seconds,
            context_seconds=context_seconds,
        )
        self._begin(engine, options.decoder(engine.alphabet), plan, hop_seconds, keep)

    def _begin(
        self,
        engine: Engine,
        decoder: Decoder,
        plan: WindowPlan,
        hop_seconds: float | None,
        keep: bool,
    ) -> None:
        """Begin to listen, with what is loaded."""
        self._engine = engine
        self._decoder = decoder
        self._plan = plan
        self._hop_seconds = hop_seconds
        self._keep = keep
        self._listener = Listener(engine, decoder, plan, hop_seconds=hop_seconds, keep=keep)
        self._update = StreamUpdate(
            segments=(), stable_text="", partial_text="", seconds=0.0, changed=False
        )

    def another(self) -> Self:
        """Begin another stream with the same model and settings; nothing is loaded again."""
        stream = object.__new__(type(self))
        stream._begin(self._engine, self._decoder, self._plan, self._hop_seconds, self._keep)
        return stream

    @property
    def latency(self) -> StreamLatency:
        """How old sound may become before it is text, the time of the computation apart."""
        return self._listener.latency

    @property
    def stats(self) -> StreamStats:
        """What the stream has cost so far."""
        return self._listener.stats

    @property
    def finished(self) -> bool:
        """Whether the stream has ended."""
        return self._listener.finished

    @property
    def update(self) -> StreamUpdate:
        """What the last call said; after `finish`, the last segments."""
        return self._update

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments so far; of the last update's without `keep`."""
        return self._listener.words

    def feed(self, samples: Samples, *, sample_rate: int | None = None) -> StreamUpdate:
        """Take the next sound, and run what is due.

        Args:
            samples: mono sound, any number of samples, also none: (samples,) floating within
                -1 .. 1 or 16-bit integers, or the bytes of those (little-endian; they may end
                within a sample).
            sample_rate: of the sound [Hz]; the same for all of a stream. None is as before, at
                first the model's own.

        Returns:
            What is new.

        Raises:
            ShapeError: if the samples are not one-dimensional.
            AudioError: if one is not finite (reason "nonfinite").
            ConfigError: if they are of another type or rate, or the stream is finished. After
                these errors the stream goes on as if the piece had not been given.
        """
        self._update = self._listener.feed(samples, sample_rate=sample_rate)
        return self._update

    def partial(self) -> StreamUpdate:
        """Run the network over what has come since it ran last, and say what is believed.

        Raises:
            ConfigError: if the stream is finished.
        """
        self._update = self._listener.partial()
        return self._update

    def finish(self) -> Transcript:
        """End the stream; `update` then has the last segments.

        Returns:
            All that was said, or without `keep` what no update handed out before.

        Raises:
            ConfigError: if the stream is finished.
        """
        self._update = self._listener.finish()
        bundle = self._engine.bundle
        language = bundle.adapter or bundle.provenance.get("language")
        return Transcript(
            text=self._listener.text,
            words=self._listener.words,
            confidence=self._listener.confidence,
            duration_seconds=self._listener.seconds,
            language=language if isinstance(language, str) else None,
            warnings=self._listener.warnings,
        )
