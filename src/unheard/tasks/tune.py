"""The verb `tune`: find the weights of a search on transcribed recordings.

The network runs once; the search over what it said is then repeated with other weights: at random
first, then around the best. One half of the utterances is searched for the weights, the other half
measures what they are worth.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unheard.audio.signal import Waveform
from unheard.data.manifest import Utterance, audio_path
from unheard.decoding.emissions import Emissions
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.presets import Preset, write_preset
from unheard.decoding.rescore import RescoreConfig, mix, sentence_scores
from unheard.decoding.rescoring import RescoringDecoder
from unheard.decoding.search import Decoder, SearchConfig
from unheard.errors import AudioError, ConfigError
from unheard.files import write_json_atomic
from unheard.inference.engine import Engine
from unheard.inference.inputs import ModelLike, as_bundle, identify
from unheard.inference.neural_model import NeuralModel
from unheard.inference.number_format import Dtype
from unheard.inference.pipeline import WHOLE_SECONDS, LongRecording, Source, read_source
from unheard.tasks.emissions import run_sounds
from unheard.tasks.evaluate import find_utterances
from unheard.tasks.runs import keep_settings
from unheard.tasks.searching import LanguageModel, SearchOptions
from unheard.tasks.trials import Trials, find_best
from unheard.text.error_rate import ErrorReport, PairedDifference, paired_bootstrap, score

Metric = Literal["wer", "cer"]

SETTINGS = "search.json"
TRIALS = "trials.jsonl"
RESCORING_TRIALS = "rescoring-trials.jsonl"
RESULT = "result.json"

LM_WEIGHTS = (0.0, 2.5)
"""Where weights are drawn from: fairseq sweeps 0 to 5 on decimal logarithms, which is 0 to 2.2."""
FUSE_WEIGHTS = (0.0, 1.5)
"""Of a Transformer in the beam; the published ones are 0.87 to 1.47."""
WORD_BONUSES = (-5.0, 5.0)
"""As fairseq sweeps them [nats]."""
UNKNOWN_SCORES = (-30.0, 0.0)
"""Of words that the language model does not know, where any text may be written [nats]."""
RESCORING_RANGES = {"weight": (0.0, 1.5), "lm_scale": (0.0, 1.5), "word_bonus": (-3.0, 3.0)}
"""Of the second language model: between forgetting it and forgetting the first."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What tuning found.

    Attributes:
        settings: file with the settings, for --preset.
        config: the settings.
        metric: what was to become small.
        tuned_on: utterances that the weights were found on.
        reported_on: utterances of the rates below.
        flatters: whether they are the same, so that the rates are too good.
        greedy: without search.
        untuned: the search with the settings that it begins with.
        tuned: the search with the settings found.
        gain: tuned minus untuned, on the same utterances.
        gain_over_greedy: tuned minus greedy.
        rescoring: weights of the second language model; None where there is none.
        rescored: the tuned search, put in order by the second model with those weights.
        rescoring_gain: rescored minus tuned.
        trials: how many settings were tried.
        failed: recordings that could not be read.
        minutes: it took.
        fused: whether a Transformer was in the beam.
    """

    settings: Path
    config: SearchConfig
    metric: Metric
    tuned_on: int
    reported_on: int
    flatters: bool
    greedy: ErrorReport
    untuned: ErrorReport
    tuned: ErrorReport
    gain: PairedDifference
    gain_over_greedy: PairedDifference
    rescoring: RescoreConfig | None
    rescored: ErrorReport | None
    rescoring_gain: PairedDifference | None
    trials: int
    failed: int
    minutes: float
    fused: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "settings": str(self.settings),
            "lm_weight": self.config.lm_weight,
            "word_bonus": self.config.word_bonus,
            "unknown_score": str(self.config.unknown_score),
            "beam": self.config.beam,
            **({"fuse_weight": self.config.fuse_weight} if self.fused else {}),
            "metric": self.metric,
            "tuned_on": self.tuned_on,
            "reported_on": self.reported_on,
            "flatters": self.flatters,
            "greedy": self.greedy.to_dict(),
            "untuned": self.untuned.to_dict(),
            "tuned": self.tuned.to_dict(),
            "gain": self.gain.to_dict(),
            "gain_over_greedy": self.gain_over_greedy.to_dict(),
            "rescoring": None if self.rescoring is None else asdict(self.rescoring),
            "rescored": None if self.rescored is None else self.rescored.to_dict(),
            "rescoring_gain": (
                None if self.rescoring_gain is None else self.rescoring_gain.to_dict()
            ),
            "trials": self.trials,
            "failed": self.failed,
            "minutes": self.minutes,
        }

    def table(self) -> str:
        """Say it in a few lines."""
        rows = [("greedy", self.greedy), ("untuned", self.untuned), ("tuned", self.tuned)]
        if self.rescored is not None:
            rows.append(("rescored", self.rescored))
        lines = [f"{'':<10}{'WER (95 % interval)':<30}CER (95 % interval)"]
        lines += [f"{name:<10}{report.wer!s:<30}{report.cer!s}" for name, report in rows]
        lines += [
            "",
            f"on {self.reported_on} utterances; weights found on "
            + ("the same" if self.flatters else f"{self.tuned_on} others")
            + f" in {self.trials} trials",
            f"tuned against untuned: {self._said(self.gain)}",
            f"lm_weight {self.config.lm_weight:.3f}, word_bonus {self.config.word_bonus:.3f}, "
            f"unknown_score {self.config.unknown_score:.3g}, beam {self.config.beam}"
            + (f", fuse_weight {self.config.fuse_weight:.3f}" if self.fused else ""),
        ]
        if self.rescoring is not None and self.rescoring_gain is not None:
            lines += [
                f"rescored against tuned: {self._said(self.rescoring_gain)}",
                f"rescoring: weight {self.rescoring.weight:.3f}, lm_scale "
                f"{self.rescoring.lm_scale:.3f}, word_bonus {self.rescoring.word_bonus:.3f}",
            ]
        lines.append(f"use them with --preset {self.settings}")
        if self.failed:
            lines.append(f"{self.failed} recordings could not be read and were left out")
        return "\n".join(lines)

    def _said(self, difference: PairedDifference) -> str:
        """Say what a difference is worth."""
        gain = getattr(difference, self.metric)
        return (
            f"{self.metric.upper()} {gain.value:+.1%} ({gain.low:+.1%} to {gain.high:+.1%}), "
            f"better in {gain.first_better:.0%} of the resamples"
        )


def tune(
    model: ModelLike,
    dev: str | os.PathLike[str] | Sequence[Utterance],
    *,
    out: str | os.PathLike[str],
    lm: LanguageModel | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    beam: int | None = None,
    hot_words: str | None = None,
    rescore: str | os.PathLike[str] | None = None,
    fuse: str | os.PathLike[str] | None = None,
    trials: int = 64,
    metric: Metric = "wer",
    report_share: float = 0.5,
    adapter: str | None = None,
    normalizer: str | None = None,
    seed: int = 0,
    audio_root: str | os.PathLike[str] | None = None,
    dtype: Dtype = "auto",
    threads: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> TuneResult:
    """Find the weights of a beam search on transcribed recordings.

    The same command again goes on where it was stopped.

    Args:
        model: a loaded model, or what `load_model` takes.
        dev: transcribed recordings that the model was not trained on: a manifest, any folder or
            table that `scan` reads, or utterances.
        out: folder for search.json (settings for --preset), what was tried, and result.json.
        lm: n-gram model: a loaded one, an ARPA file (.arpa, .arpa.gz) or our own (.unheard-lm).
        lexicon: file of the words that may be written; any text may be without one.
        preset: settings to begin with.
        beam: hypotheses kept after each frame.
        hot_words: words or phrases to listen for, with commas between, each with a bonus [nats]
            if wanted: "Kampala,Nakawa=5".
        rescore: Transformer language model (a folder of `unheard lm train --kind transformer`) that
            puts the readings of the search in order; its weights are found after those of the
            search.
        fuse: Transformer language model that judges the words of all readings while the search
            goes on; its weight is found with the others.
        trials: settings to try.
        metric: what shall become small: "wer" or "cer".
        report_share: part of the utterances that is left out of the choice, to measure what it is
            worth. 0 chooses on all of them; the rates are then of the same utterances, and flatter.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        normalizer: name of the normaliser for both sides; None takes the one that the model was
            fine-tuned with, or none if it does not say.
        seed: of what is drawn.
        audio_root: what relative paths of recordings start from, instead of the manifest's folder.
        dtype: number format of the matrix products.
        threads: of the search; None for all cores.
        device: where to load the model, unless it is loaded.
        quiet: print nothing while it runs.

    Returns:
        The settings, and error rates on the utterances that had no part in the choice.

    Raises:
        ConfigError: if there is no transcribed recording that can be read, `out` holds the trials
            of another search, or a setting is out of range.
    """
    started = time.monotonic()
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, got {trials}.")
    if lm is None and lexicon is None and fuse is None:
        raise ConfigError(
            "There is nothing to tune: expected a language model (--lm, --fuse) or a lexicon "
            "(--lexicon)."
        )
    if not 0 <= report_share < 1:
        raise ConfigError(
            f"report_share is a part: expected 0 or more and below 1, got {report_share}."
        )
    folder = Path(out)
    options = SearchOptions(
        lm=lm,
        lexicon=lexicon,
        preset=preset,
        beam=beam,
        hot_words=hot_words,
        rescore=rescore,
        fuse=fuse,
    )
    second = None if rescore is None else NeuralModel.load(rescore)
    utterances, root, name = find_utterances(dev, audio_root)
    bundle = as_bundle(model, adapter=adapter, device=device)
    engine = Engine(bundle, dtype=dtype)
    if normalizer is None:
        trained_with = bundle.provenance.get("normalizer")
        normalizer = trained_with if isinstance(trained_with, str) else None
    _keep_identity(
        folder,
        {
            "model": identify(model),
            "dev": name,
            "seed": seed,
            "metric": metric,
            "report_share": report_share,
            "normalizer": normalizer,
            **options.identity(),
        },
    )
    said, failed = _listen(
        engine, [one for one in utterances if one.text is not None], root, quiet=quiet
    )
    if not said:
        raise ConfigError(
            f"Cannot tune on {name or 'the utterances'}: expected transcribed recordings that can "
            f"be read, found none ({len(utterances)} utterances, {failed} unreadable)."
        )
    choosing, reporting = _part(said, report_share, seed)
    start = options.config()
    searcher = options.search(engine.alphabet)
    best = find_best(
        start,
        _ranges(start, lm=lm is not None, open_vocabulary=lexicon is None, fuse=fuse is not None),
        lambda config: _rates(
            choosing, _texts(searcher.with_config(config), choosing, threads), normalizer
        ),
        metric=metric,
        trials=trials,
        known=Trials(folder / TRIALS),
        generator=np.random.default_rng([seed, 1]),
        quiet=quiet,
    )
    greedy, untuned, tuned = (
        _score(reporting, _texts(decoder, reporting, threads), normalizer)
        for decoder in (
            GreedyDecoder(engine.alphabet),
            searcher,
            searcher.with_config(best),
        )
    )
    rescoring, rescored = None, None
    if second is not None:
        tuned_search = searcher.with_config(best)
        readings = tuned_search.decode_many([one.emissions for one in choosing], threads=threads)
        opinions = sentence_scores(readings, second)
        rescoring = find_best(
            options.rescoring(),
            {name: RESCORING_RANGES[name] for name in RESCORING_RANGES if lm or name != "lm_scale"},
            lambda config: _rates(
                choosing,
                [
                    mix(found, scores, config)[0].text
                    for found, scores in zip(readings, opinions, strict=True)
                ],
                normalizer,
            ),
            metric=metric,
            trials=trials,
            known=Trials(folder / RESCORING_TRIALS),
            generator=np.random.default_rng([seed, 2]),
            quiet=quiet,
        )
        decoder = RescoringDecoder(tuned_search, second, config=rescoring, nbest=1)
        rescored = _score(reporting, _texts(decoder, reporting, threads), normalizer)
    write_preset(
        folder / SETTINGS,
        Preset(
            name="tuned",
            config=best,
            language_model="none" if lm is None else "n-gram",
            source=f"unheard tune, {trials} trials on {len(choosing)} utterances, seed {seed}",
            rescoring=rescoring,
        ),
    )
    result = TuneResult(
        settings=folder / SETTINGS,
        config=best,
        metric=metric,
        tuned_on=len(choosing),
        reported_on=len(reporting),
        flatters=len(choosing) + len(reporting) > len(said),
        greedy=greedy,
        untuned=untuned,
        tuned=tuned,
        gain=paired_bootstrap(tuned, untuned),
        gain_over_greedy=paired_bootstrap(tuned, greedy),
        rescoring=rescoring,
        rescored=rescored,
        rescoring_gain=None if rescored is None else paired_bootstrap(rescored, tuned),
        trials=trials,
        failed=failed,
        minutes=(time.monotonic() - started) / 60,
        fused=fuse is not None,
    )
    write_json_atomic(folder / RESULT, result.to_dict())
    return result


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What the network said about an utterance, and what it should have."""

    utterance: Utterance
    emissions: Emissions


def _listen(
    engine: Engine, utterances: Sequence[Utterance], root: Path, *, quiet: bool
) -> tuple[list[_Said], int]:
    """Run the network over all utterances; returns also how many could not be read."""
    read: list[Utterance] = []
    sounds: list[Waveform | LongRecording] = []
    failed = 0
    for utterance in utterances:
        source = Source(
            audio=audio_path(utterance, root),
            start_seconds=utterance.start / utterance.sample_rate,
            max_seconds=utterance.duration_seconds,
        )
        try:
            sounds.append(read_source(source, engine, WHOLE_SECONDS))
        except (AudioError, OSError) as error:
            failed += 1
            if not quiet:
                print(f"{utterance.audio}: {error}", file=sys.stderr)
            continue
        read.append(utterance)
    found = run_sounds(engine, sounds)
    return [
        _Said(utterance=utterance, emissions=emissions)
        for utterance, emissions in zip(read, found, strict=True)
    ], failed


def _part(said: Sequence[_Said], share: float, seed: int) -> tuple[list[_Said], list[_Said]]:
    """Part utterances at random into those to choose by and those to report on.

    Where nothing is left to report on, all have to do for both.
    """
    order = np.random.default_rng(seed).permutation(len(said))
    left_out = min(round(len(said) * share), len(said) - 1)
    first, second = sorted(order[left_out:].tolist()), sorted(order[:left_out].tolist())
    return [said[index] for index in first], [said[index] for index in second or first]


def _ranges(
    start: SearchConfig, *, lm: bool, open_vocabulary: bool, fuse: bool
) -> dict[str, tuple[float, float]]:
    """What is tuned, and where."""
    ranges = {"word_bonus": WORD_BONUSES}
    if lm:
        ranges["lm_weight"] = LM_WEIGHTS
    if lm and open_vocabulary and np.isfinite(start.unknown_score):
        ranges["unknown_score"] = UNKNOWN_SCORES
    if fuse:
        ranges["fuse_weight"] = FUSE_WEIGHTS
    return ranges


def _texts(decoder: Decoder, said: Sequence[_Said], threads: int | None) -> list[str]:
    """Search what was said; the best reading of each."""
    readings = decoder.decode_many([one.emissions for one in said], threads=threads)
    return [reading[0].text for reading in readings]


def _score(
    said: Sequence[_Said], texts: Sequence[str], normalizer: str | None, *, draws: int = 1000
) -> ErrorReport:
    """Compare what was written with what was said."""
    return score(
        [one.utterance.text or "" for one in said],
        texts,
        speakers=[one.utterance.speaker for one in said],
        ids=[one.utterance.id for one in said],
        normalizer=normalizer,
        resamples=draws,
    )


def _rates(said: Sequence[_Said], texts: Sequence[str], normalizer: str | None) -> dict[str, float]:
    """Error rates of a trial."""
    report = _score(said, texts, normalizer, draws=1)
    return {"wer": report.wer.value, "cer": report.cer.value}


def _keep_identity(folder: Path, identity: dict[str, Any]) -> None:
    """Write down what is tuned, or compare with what was written before."""
    folder.mkdir(parents=True, exist_ok=True)
    keep_settings(folder / "request.json", json.loads(json.dumps(identity)))
