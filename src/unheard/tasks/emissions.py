"""Log-probabilities of a CTC model, for people with their own decoder."""

from collections.abc import Sequence
from typing import Literal, cast, overload

import torch

from unheard.audio import io
from unheard.audio.signal import Waveform
from unheard.decoding.emissions import Emissions
from unheard.inference.engine import Engine
from unheard.inference.inputs import AudioLike, ModelLike, as_bundle, as_source
from unheard.inference.number_format import Dtype
from unheard.inference.pipeline import WHOLE_SECONDS, LongRecording, read_source
from unheard.inference.windows import plan_windows, stream_log_probs


@overload
def emissions(
    model: ModelLike,
    audio: AudioLike,
    *,
    adapter: str | None = None,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "float32",
) -> Emissions: ...
@overload
def emissions(
    model: ModelLike,
    audio: Sequence[AudioLike],
    *,
    adapter: str | None = None,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "float32",
) -> list[Emissions]: ...
def emissions(
    model: ModelLike,
    audio: AudioLike | Sequence[AudioLike],
    *,
    adapter: str | None = None,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "float32",
) -> Emissions | list[Emissions]:
    """Give the log-probabilities of every symbol at every frame.

    Recordings longer than 30 seconds run in windows (`unheard.inference.windows`);
    their result takes 4 bytes a frame and symbol: 7 MB an hour for an alphabet of 40 symbols.

    Args:
        model: a loaded model, or what `load_model` takes; an alphabet is not needed.
        audio: one recording (path, bytes, binary file object, `Waveform`, or samples at 16 kHz as
            a float array or tensor (samples,)), or a list or tuple of them.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        padding: how padding in a batch is treated, instead of what the model says: "masked"
            keeps results independent of the batch; "zeros" pads the list, exactly as given, with
            zeros into one batch, as the original implementations do.
        dtype: number format of the matrix products. Unlike where text is written, the default is
            the exact one, since what becomes of the numbers is not known here.

    Returns:
        For one recording its `Emissions`, for a list a list of them in the same order. The
        log-probabilities are (frames, vocab), natural logarithms in float32, or in float64 from a
        float64 model. A recording shorter than the receptive field has no frames and the
        warning "too_short".

    Raises:
        AudioError: if a recording cannot be read.
        ConfigError: if the model has no CTC head, or an argument is none of the above.
    """
    engine = Engine(
        as_bundle(model, adapter=adapter), padding=padding, dtype=dtype, writes_text=False
    )
    if not isinstance(audio, list | tuple):
        return _run(engine, [cast("AudioLike", audio)])[0]
    return _run(engine, audio)


def _run(engine: Engine, recordings: Sequence[AudioLike]) -> list[Emissions]:
    """Read recordings and run them."""
    return run_sounds(
        engine,
        [read_source(as_source(recording), engine, WHOLE_SECONDS) for recording in recordings],
    )


def run_sounds(engine: Engine, sounds: Sequence[Waveform | LongRecording]) -> list[Emissions]:
    """Run what `read_source` read: those of utterance length together, long ones in windows."""
    short: dict[int, Waveform] = {}
    results: dict[int, Emissions] = {}
    for index, one in enumerate(sounds):
        if isinstance(one, LongRecording) or one.duration_seconds > WHOLE_SECONDS:
            results[index] = _run_long(engine, one)
        else:
            short[index] = one
    results.update(zip(short, engine.run(list(short.values())), strict=True))
    return [results[index] for index in range(len(sounds))]


def _run_long(engine: Engine, recording: Waveform | LongRecording) -> Emissions:
    """Run one long recording in windows."""
    plan = plan_windows(engine.encoder_config, sample_rate=engine.spec.sample_rate)
    if isinstance(recording, Waveform):
        parts = list(stream_log_probs(engine, [recording.samples], plan))
        num_samples, warnings = recording.samples.shape[0], recording.warnings
    else:
        with io.stream(recording.audio, sample_rate=engine.spec.sample_rate) as stream:
            parts = list(stream_log_probs(engine, stream, plan))
            num_samples, warnings = stream.num_samples, stream.warnings
    return engine.emissions(torch.cat(parts), num_samples=num_samples, warnings=warnings)
