"""What may be done to recordings while a network learns from them."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from unheard.errors import ConfigError

NoiseKind = Literal["white", "pink", "babble"]
"""Even over frequencies, even over octaves, or other utterances of the batch."""

CodecKind = Literal["telephone", "mp3", "opus", "amr"]
"""A telephone line (300 to 3,400 Hz, G.711) or what a file format leaves of a recording."""


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Playing faster or slower, which moves pitch too.

    Source: Ko et al. 2015, "Audio augmentation for speech recognition": three copies of the
        corpus, at factors 0.9, 1.0 and 1.1.
    """

    probability: float = 2 / 3
    factors: tuple[float, ...] = (0.9, 1.1)
    """Above 1 is faster and shorter; in hundredths."""

    def __post_init__(self) -> None:
        _check_probability("speed", self.probability)
        if not self.factors or not all(0.5 <= factor <= 2 for factor in self.factors):
            raise ConfigError(
                f"speed.factors must be from 0.5 to 2, at least one: got {self.factors}."
            )


@dataclass(frozen=True, kw_only=True)
class ReverbConfig:
    """A room around the speaker.

    Source: Ko et al. 2017, "A study on data augmentation of reverberant speech for robust speech
        recognition"; the synthetic rooms are Polack's: noise that fades exponentially.
    """

    probability: float = 0.5
    seconds: tuple[float, float] = (0.1, 0.8)
    """Time in which the sound of a synthetic room fades by 60 dB, lowest and highest [seconds]."""
    direct_db: tuple[float, float] = (0.0, 15.0)
    """Energy of the direct sound over that of the room, lowest and highest [dB]."""
    folder: str | None = None
    """Recorded impulse responses to draw from, instead of synthetic rooms."""

    def __post_init__(self) -> None:
        _check_probability("reverb", self.probability)
        _check_range("reverb.seconds", self.seconds, lowest=0.001, highest=10.0)
        _check_range("reverb.direct_db", self.direct_db, lowest=-60.0, highest=60.0)


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Noise beside the speaker.

    Source: Snyder et al. 2015, "MUSAN"; Hsu et al. 2021, "Robust wav2vec 2.0", for what recordings
        of other rooms and lines do to these networks.
    """

    probability: float = 0.5
    snr_db: tuple[float, float] = (5.0, 30.0)
    """Power of the speech over that of the noise, lowest and highest [dB]."""
    kinds: tuple[NoiseKind, ...] = ("white", "pink", "babble")
    folder: str | None = None
    """Recordings of noise to draw from, instead of `kinds`."""

    def __post_init__(self) -> None:
        _check_probability("noise", self.probability)
        _check_range("noise.snr_db", self.snr_db, lowest=-60.0, highest=120.0)
        if not self.kinds:
            raise ConfigError("noise.kinds must name at least one kind of noise, got none.")


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What a telephone line or a compressed file leaves of a recording."""

    probability: float = 0.3
    kinds: tuple[CodecKind, ...] = ("telephone", "mp3", "opus")
    """One is drawn; "amr" is not in every build of FFmpeg."""

    def __post_init__(self) -> None:
        _check_probability("codec", self.probability)
        if not self.kinds:
            raise ConfigError("codec.kinds must name at least one codec, got none.")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to a recording, in this order; None leaves a step out."""

    speed: SpeedConfig | None = None
    reverb: ReverbConfig | None = None
    noise: NoiseConfig | None = None
    codec: CodecConfig | None = None

    def __bool__(self) -> bool:
        """Whether anything is done at all."""
        return any(getattr(self, field.name) is not None for field in fields(self))


_MAKERS: dict[str, Callable[[str | None], Any]] = {
    "speed": lambda value: SpeedConfig() if value is None else _no_value("speed", value),
    "reverb": lambda folder: ReverbConfig(folder=folder),
    "noise": lambda folder: NoiseConfig(folder=folder),
    "codec": lambda kinds: CodecConfig() if kinds is None else CodecConfig(kinds=_codecs(kinds)),
}


def read_augment(text: str | None) -> AugmentConfig:
    """Read what a command line asks for.

    Args:
        text: names with commas between: "speed,noise,reverb,codec". After noise and reverb a folder
            of recordings may follow, after codec the codecs to draw from:
            "noise=musan/,codec=telephone+amr". None is nothing.

    Raises:
        ConfigError: on a name that is not one of these, or stands there twice.
    """
    chosen: dict[str, Any] = {}
    for part in () if text is None else text.split(","):
        name, equals, value = part.strip().partition("=")
        if name not in _MAKERS:
            raise ConfigError(
                f"augment takes {', '.join(_MAKERS)}, with commas between: got {name!r} in "
                f"{text!r}."
            )
        if name in chosen or (equals and not value):
            raise ConfigError(f"augment names {name} twice, or without a value: got {text!r}.")
        chosen[name] = _MAKERS[name](value if equals else None)
    return AugmentConfig(**chosen)


def _codecs(text: str) -> tuple[CodecKind, ...]:
    known: dict[str, CodecKind] = {kind: kind for kind in get_args(CodecKind)}
    kinds = text.split("+")
    if unknown := [kind for kind in kinds if kind not in known]:
        raise ConfigError(f"codec takes {', '.join(known)}, with + between: got {unknown[0]!r}.")
    return tuple(known[kind] for kind in kinds)


def _no_value(name: str, value: str) -> None:
    raise ConfigError(f"{name} takes no value on the command line, got {value!r}.")


def _check_probability(name: str, probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ConfigError(f"{name}.probability must be from 0 to 1, got {probability}.")


def _check_range(name: str, bounds: tuple[float, float], *, lowest: float, highest: float) -> None:
    if not lowest <= bounds[0] <= bounds[1] <= highest:
        raise ConfigError(
            f"{name} must be a lowest and a highest value from {lowest:g} to {highest:g}, got "
            f"{bounds}."
        )
