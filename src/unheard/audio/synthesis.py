"""Synthetic speech for demonstrations and tests, by espeak-ng.

espeak-ng and its data are GPL-3. They come with the optional package `espeakng-loader`
(`pip install "unheard[demo]"`), are loaded as a shared library at run time, and are never part
of this package.

The engine keeps global state and is not thread-safe: use one `Synthesizer` in a process. Its
noise generator runs on from call to call, so the same sequence of calls in a fresh process gives
the same samples, and the same sentence said twice in one process does not.
"""

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from unheard.audio.signal import SAMPLE_RATE, Waveform, resample
from unheard.errors import AudioError, ConfigError, MissingExtraError

_SYNCHRONOUS_OUTPUT = 2
_UTF8_TEXT = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_WITH_PHONEME_EVENTS = 1
_LIST_ENDS, _WORD, _PHONEME = 0, 1, 7


class _Event(ctypes.Structure):
    """What the engine tells of a place in the speech (`espeak_EVENT` of its header)."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("message", ctypes.c_uint),
        ("character", ctypes.c_int),
        ("characters", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A synthetic speaker.

    Attributes:
        language: espeak-ng voice, such as "sw".
        variant: espeak-ng voice variant, such as "f2", "m5", "Andrea"; "" for the plain voice.
        words_per_minute: speaking rate, 80 to 450.
        pitch: 0 to 100, 50 is the variant's own.
        pitch_range: 0 to 100, 50 is the variant's own; 0 is monotone.
    """

    language: str
    variant: str = ""
    words_per_minute: int = 160
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True, kw_only=True)
class SpokenWord:
    """One word with its place in synthetic speech, as the engine made it.

    Attributes:
        text: the word, with what is written before the next one.
        start_seconds: where its first phoneme starts.
        end_seconds: where its last phoneme ends, before any pause.
    """

    text: str
    start_seconds: float
    end_seconds: float


class Synthesizer:
    """The speech engine of this process.

    Raises:
        MissingExtraError: if espeakng-loader is not installed or cannot be loaded.
    """

    def __init__(self, *, seed: int) -> None:
        try:
            loader = importlib.import_module("espeakng_loader")
            self._library = ctypes.CDLL(loader.get_library_path())
            data_path = loader.get_data_path()
        except (ImportError, OSError) as error:
            raise MissingExtraError(
                "espeakng-loader", extra="demo", purpose="Synthetic speech"
            ) from error
        self._blocks: list[bytes] = []
        # Kind, character of the text (from 1), sample, and whether it is a pause.
        self._events: list[tuple[int, int, int, bool]] = []
        # The library keeps the pointer, so the callback must live as long as this object.
        self._callback = _CALLBACK(self._collect)
        self._sample_rate = self._library.espeak_Initialize(
            _SYNCHRONOUS_OUTPUT, 0, data_path.encode(), _WITH_PHONEME_EVENTS
        )
        if self._sample_rate <= 0:
            raise AudioError(
                f"espeak-ng did not start: expected a sample rate, found {self._sample_rate} "
                f"(data in {data_path}). Reinstall espeakng-loader.",
                reason="synthesis",
            )
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def say(self, text: str, voice: Voice, *, sample_rate: int = SAMPLE_RATE) -> Waveform:
        """Speak one text.

        Args:
            text: in the orthography of the voice's language.
            voice: who speaks, and how.
            sample_rate: of the result [Hz].

        Returns:
            The speech, mono.

        Raises:
            ConfigError: if espeak-ng has no such voice.
            AudioError: if nothing was said.
        """
        name = f"{voice.language}+{voice.variant}" if voice.variant else voice.language
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ConfigError(f'espeak-ng has no voice "{name}". See: espeak-ng --voices')
        for parameter, value in (
            (_RATE, voice.words_per_minute),
            (_VOLUME, 100),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        self._events.clear()
        data = text.encode("utf-8")
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8_TEXT, None, None)
        spoken = np.frombuffer(b"".join(self._blocks), dtype=np.int16)
        if not spoken.any():
            raise AudioError(f'espeak-ng said nothing for "{text}".', reason="synthesis")
        samples = (spoken / 32768.0).astype(np.float32)
        return Waveform(
            samples=resample(samples, self._sample_rate, sample_rate), sample_rate=sample_rate
        )

    def say_words(
        self, text: str, voice: Voice, *, sample_rate: int = SAMPLE_RATE
    ) -> tuple[Waveform, tuple[SpokenWord, ...]]:
        """Speak one text, and tell when each of its words is spoken.

        Args:
            text: as in `say`.
            voice: as in `say`.
            sample_rate: as in `say` [Hz].

        Returns:
            The speech, and its words in order.

        Raises:
            ConfigError, AudioError: as `say`.
        """
        waveform = self.say(text, voice, sample_rate=sample_rate)
        starts = [
            (place, character)
            for place, (kind, character, _, _) in enumerate(self._events)
            if kind == _WORD
        ]
        words: list[SpokenWord] = []
        for number, (place, character) in enumerate(starts):
            last = number + 1 == len(starts)
            stop, following = (len(self._events), len(text) + 1) if last else starts[number + 1]
            # A pause may stand before the first phoneme, and after the last.
            spoken = [
                index
                for index in range(place + 1, stop)
                if self._events[index][0] == _PHONEME and not self._events[index][3]
            ]
            if not spoken:
                continue
            end = min(spoken[-1] + 1, len(self._events) - 1)
            words.append(
                SpokenWord(
                    text=text[character - 1 : following - 1].strip() or text,
                    start_seconds=self._events[spoken[0]][2] / self._sample_rate,
                    end_seconds=self._events[end][2] / self._sample_rate,
                )
            )
        return waveform, tuple(words)

    def _collect(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: Any) -> int:
        """Keep one block of int16 samples and its events; a null pointer ends the speech."""
        if samples and count > 0:
            self._blocks.append(ctypes.string_at(samples, count * 2))
        place = 0
        while events and events[place].kind != _LIST_ENDS:
            event = events[place]
            is_pause = event.kind == _PHONEME and event.phoneme.startswith(b"_")
            self._events.append((event.kind, event.character, event.sample, is_pause))
            place += 1
        return 0
