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

import numpy as np

from unheard.audio.signal import SAMPLE_RATE, Waveform, resample
from unheard.errors import AudioError, ConfigError, MissingExtraError

_SYNCHRONOUS_OUTPUT = 2
_UTF8_TEXT = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
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
        # The library keeps the pointer, so the callback must live as long as this object.
        self._callback = _CALLBACK(self._collect)
        self._sample_rate = self._library.espeak_Initialize(
            _SYNCHRONOUS_OUTPUT, 0, data_path.encode(), 0
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
        data = text.encode("utf-8")
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8_TEXT, None, None)
        spoken = np.frombuffer(b"".join(self._blocks), dtype=np.int16)
        if not spoken.any():
            raise AudioError(f'espeak-ng said nothing for "{text}".', reason="synthesis")
        samples = (spoken / 32768.0).astype(np.float32)
        return Waveform(
            samples=resample(samples, self._sample_rate, sample_rate), sample_rate=sample_rate
        )

    def _collect(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        """Keep one block of int16 samples; a null pointer ends the speech."""
        if samples and count > 0:
            self._blocks.append(ctypes.string_at(samples, count * 2))
        return 0
