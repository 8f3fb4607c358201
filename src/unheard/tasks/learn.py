"""The verb `learn`: recordings and a few transcripts in, a recogniser and its report out."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import unheard
from unheard.audio.augment.config import read_augment
from unheard.config import from_dict
from unheard.data.audit import audit
from unheard.data.corpora import scan_source
from unheard.data.manifest import write_manifest
from unheard.data.pcm import open_store
from unheard.errors import ConfigError
from unheard.files import locked, read_json, write_json_atomic
from unheard.inference.hidden_features import HiddenFeatures
from unheard.interop.bundle import ModelBundle
from unheard.interop.load import load_model
from unheard.interop.packaged import UNHEARD_MINI
from unheard.models.config import EncoderConfig, PretrainingConfig
from unheard.recipes.catalogue import Objective, Recipe, get_recipe
from unheard.recipes.continued import continued
from unheard.recipes.small import for_few_transcripts
from unheard.report.html import write_report
from unheard.tasks.evaluate import Evaluation, evaluate
from unheard.tasks.finetune import NORMALIZER, finetune_utterances, recipe_for
from unheard.tasks.learn_search import SearchResult, check_search, make_search, measure_search
from unheard.tasks.pretrain import WIDE, hidden_teacher, pretrain_store, recipe_to_go_on
from unheard.tasks.runs import (
    NO_START,
    absolute,
    choose_device,
    forget_decoded,
    given_start,
    show_decoding,
)
from unheard.tasks.scan import SETS, scan
from unheard.tasks.searching import SearchOptions
from unheard.text.alphabet import Alphabet
from unheard.text.error_rate import PairedDifference, Rate, paired_bootstrap
from unheard.training.config import Execution, TrainingConfig
from unheard.training.distributed import refuse_several
from unheard.training.health.findings import OnCollapse
from unheard.training.schedule import Budget

EVALUATION_RESERVE = 0.05
"""Share of a time budget that is kept for scanning, decoding and measuring."""


@dataclass(frozen=True, kw_only=True)
class LearnResult:
    """What `learn` made and measured.

    Attributes:
        model: the model folder.
        report: the report page.
        cer: character error rate on held-out recordings; None without a test set.
        wer: word error rate there.
        scratch_cer: the same without pre-training, if that was asked for.
        scratch_wer: the same for words.
        difference: of the two, with pre-training first.
        search: the same with a language model or a lexicon, if one was asked for.
        minutes: all stages together, over all sittings.
    """

    model: Path
    report: Path
    cer: Rate | None
    wer: Rate | None
    scratch_cer: Rate | None = None
    scratch_wer: Rate | None = None
    difference: PairedDifference | None = None
    search: SearchResult | None = None
    minutes: float

    def table(self) -> str:
        """Lay the result out for a person at a terminal."""
        rows = [("", "CER (95 % interval)", "WER (95 % interval)")]
        if self.scratch_cer is not None:
            rows.append(("from scratch", str(self.scratch_cer), str(self.scratch_wer)))
        if self.cer is not None:
            rows.append(("held-out recordings", str(self.cer), str(self.wer)))
        if self.search is not None:
            rows.append(("with a search", str(self.search.cer), str(self.search.wer)))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if self.cer is None:
            lines = ["No test set: nothing was measured on held-out recordings."]
        lines += ["", f"model   {self.model}", f"report  {self.report}"]
        if self.search is not None:
            gain = self.search.gain.wer
            lines.insert(
                -3,
                f"WER with the search minus without: {gain.value:+.1%} ({gain.low:+.1%} to "
                f"{gain.high:+.1%})",
            )
            lines.append(f"search  unheard transcribe {self.model} ... {self.search.options}")
        return "\n".join(lines)


def learn(
    recordings: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    transcripts: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | float = 0.1,
    valid: str | os.PathLike[str] | float = 0.1,
    more_recordings: Sequence[str | os.PathLike[str]] = (),
    start: str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    objective: Objective | None = None,
    pretraining: bool = True,
    compare_scratch: bool = False,
    max_minutes: float | None = None,
    pretrain_minutes: float | None = None,
    finetune_minutes: float | None = None,
    normalizer: str = NORMALIZER,
    language: str | None = None,
    augment: str | None = None,
    text: Sequence[str | os.PathLike[str]] = (),
    lm: str | os.PathLike[str] | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    beam: int | None = None,
    lm_weight: float | None = None,
    word_bonus: float | None = None,
    on_collapse: OnCollapse = "warn",
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> LearnResult:
    """Make a recogniser from recordings and transcripts of some of them.

    Scans, begins with the model unheard-mini (or pre-trains one on all recordings), fine-tunes it
    on the transcripts, measures error rates on held-out speakers, and writes a model folder and a
    report. Repeat the command to go on where it was stopped; finished stages are not done again.

    Args:
        recordings: a folder of recordings, a table or manifest, or "hf:owner/name".
        out: folder for everything that is made: OUT/model is the recogniser, OUT/report.html
            the report.
        transcripts: a table (TSV, CSV, JSON lines) or a folder of texts, where they do not lie
            with the recordings.
        test: what to measure on, never learnt from: a table or folder, or a part of the
            transcripts.
        valid: what to choose the best step by: a table or folder, or a part of the transcripts.
        more_recordings: further folders or tables to listen to, in any language.
        start: the model to begin with: a folder or file, a Hugging Face id, "unheard-mini", which
            comes with the package, or "none" for random weights. If left out: unheard-mini, but
            none where another `recipe` than mini or an `objective` is named, or there is to be no
            pre-training.
        recipe: network and settings: nano, mini, base or large; mini if left out, or what fits
            the size of `start`.
        objective: what to pre-train by; the recipe's own by default.
        pretraining: learn to listen before learning to write: with start "none" always, from a
            model only if `pretrain_minutes` are given.
        compare_scratch: fine-tune from random weights too, for as many updates, and compare.
        max_minutes: time for all of it [minutes]; the recipes' own times by default.
        pretrain_minutes: time for pre-training [minutes], instead of a share of `max_minutes`. A
            model that is begun with goes on learning from your recordings for so long before it
            learns to write; without this it does not.
        finetune_minutes: time for each fine-tuning [minutes], likewise.
        normalizer: what transcripts go through first: "basic-1" or "none-1".
        language: language tag of the recordings.
        augment: what to do to recordings as they are heard in fine-tuning, some at random: any of
            speed, reverb, noise and codec, with commas between. Folders of recorded noise or rooms,
            and codecs, may follow: "noise=musan/,reverb=rooms/,codec=telephone+opus".
        text: files with a sentence on each line, in the language of the transcripts: a language
            model is made of them and of the transcripts, its weights are tuned on the validation
            set, and error rates are measured with and without it.
        lm: a language model that is there already, instead: .arpa, .arpa.gz or .unheard-lm.
        lexicon: file of the words that may be written; any text may be without one.
        preset: settings of the search by name or file; the weights are tuned where none of
            this, `lm_weight` and `word_bonus` is given.
        beam: hypotheses kept after each frame.
        lm_weight: of the language model's natural log-probability.
        word_bonus: added for each word [nats].
        on_collapse: what to do when a training is lost, for instance because it writes nothing:
            "warn" says so and goes on; "stop" saves and ends; "rewind" goes back to the last
            checkpoint from before and on with half the learning rate, three times at most.
        seed: of everything that is drawn.
        device: "cpu", "cuda", "cuda:1", ...; "auto" takes a graphics processor if there is one.
        quiet: print nothing while it runs.

    Returns:
        Error rates with intervals, and where everything is.

    Raises:
        ConfigError: if nothing usable was found, or `out` holds a run with other settings.
    """
    refuse_several("learn")
    augmentation = None if augment is None else read_augment(augment)
    folder = Path(out)
    begin = _start(start, recipe=recipe, objective=objective, pretraining=pretraining)
    listens = pretraining and (begin is None or pretrain_minutes is not None)
    request = {
        "recordings": str(recordings),
        "transcripts": _text(transcripts),
        "test": _text(test),
        "valid": _text(valid),
        "more_recordings": [str(source) for source in more_recordings],
        "start": NO_START if begin is None else os.fspath(begin),
        "recipe": recipe,
        "objective": objective,
        "pretraining": pretraining,
        "compare_scratch": compare_scratch,
        "max_minutes": max_minutes,
        "pretrain_minutes": pretrain_minutes,
        "finetune_minutes": finetune_minutes,
        "normalizer": normalizer,
        "language": language,
        "augment": augment,
        "text": [str(source) for source in text] or None,
        "lm": _text(lm),
        "lexicon": _text(lexicon),
        "preset": preset,
        "beam": beam,
        "lm_weight": lm_weight,
        "word_bonus": word_bonus,
        "seed": seed,
    }
    asked = SearchOptions(
        lm=lm,
        lexicon=lexicon,
        preset=preset,
        beam=beam,
        lm_weight=lm_weight,
        word_bonus=word_bonus,
    )
    check_search(text, asked)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "learn.lock"):
        stages = _Stages(folder, request, quiet=quiet)
        bundle = None if begin is None else load_model(begin)
        chosen = get_recipe(recipe) if recipe is not None else recipe_for(bundle)
        if objective is not None:
            chosen = replace(chosen, objective=objective)
        place = choose_device(device)
        execution = Execution(on_collapse=on_collapse)

        def scan_all() -> None:
            scan(
                recordings,
                out=folder / "data",
                transcripts=transcripts,
                valid=valid,
                test=test,
                language=language,
                seed=seed,
                progress=not quiet,
            )
            _scan_more(more_recordings, folder)

        stages.run("scan", scan_all)
        encoder = chosen.network.encoder if bundle is None else bundle.encoder_config
        stages.run("audit", lambda: _audit(folder, encoder, normalizer, quiet=quiet))
        data = {name: absolute(folder / "data" / f"{name}.jsonl") for name in SETS}
        if recipe is None:
            heard = sum(one.duration_seconds for one in data["train"] if one.text is not None)
            chosen = for_few_transcripts(chosen, transcribed_seconds=heard)
        minutes = stages.minutes(
            chosen,
            max_minutes=max_minutes,
            pretrain_minutes=pretrain_minutes,
            finetune_minutes=finetune_minutes,
            pretrains=listens,
            finetunings=2 if compare_scratch else 1,
        )
        if listens:
            listening = _listening(chosen, bundle, named=recipe is not None)

            def listen() -> None:
                decoded = folder / "pretrain" / "decoded"
                store = open_store(
                    [*data["train"], *data["unlabelled"]],
                    decoded,
                    root=Path(),
                    progress=None if quiet else show_decoding,
                )
                pretrain_store(
                    store,
                    listening,
                    run_folder=folder / "pretrain",
                    model_folder=folder / "pretrained",
                    config=_timed(listening, "pretraining", minutes["pretrain"], seed),
                    start=bundle,
                    teacher=None if bundle is None else _teacher(listening, bundle),
                    device=place,
                    quiet=quiet,
                    execution=execution,
                )
                forget_decoded(decoded)

            stages.run("pretrain", listen)
            bundle = load_model(folder / "pretrained")
        elif begin is not None and data["unlabelled"]:
            hours = sum(one.duration_seconds for one in data["unlabelled"]) / 3600
            stages.say(
                f"{hours:.1f} h of recordings without transcripts are not listened to, since "
                f"{begin} has learnt to listen. To let it go on with yours first: "
                "--pretrain-minutes"
            )

        def write_from(
            run: str, model: Path, first: ModelBundle | None, config: TrainingConfig
        ) -> None:
            finetune_utterances(
                data["train"],
                data["valid"],
                chosen,
                run_folder=folder / run,
                model_folder=model,
                config=config,
                start=first,
                normalizer=normalizer,
                device=place,
                quiet=quiet,
                execution=execution,
            )
            forget_decoded(folder / run / "decoded")

        config = _timed(chosen, "finetuning", minutes["finetune"], seed)
        if augmentation is not None:
            config = replace(config, augment=augmentation)
        stages.run("finetune", lambda: write_from("finetune", folder / "model", bundle, config))
        if compare_scratch:
            # As many updates, not as many minutes: another job on the machine must not decide.
            steps = read_json(folder / "finetune" / "result.json")["steps"]
            equal = replace(config, budget=Budget(max_steps=steps))
            scratch_model = folder / "scratch" / "model"
            stages.run("scratch", lambda: write_from("scratch", scratch_model, None, equal))
        search = make_search(
            folder,
            stages.run,
            text=text,
            asked=asked,
            learned=data["train"],
            normalizer=normalizer,
            seed=seed,
            quiet=quiet,
        )
        result = _measure(
            folder, stages, has_test=bool(data["test"]), scratch=compare_scratch, search=search
        )
        stages.finish(result)
        stages.run("report", lambda: write_report(folder), again=True)
    return replace(result, minutes=stages.total_seconds / 60)


def _measure(
    folder: Path,
    stages: "_Stages",
    *,
    has_test: bool,
    scratch: bool,
    search: SearchOptions | None,
) -> LearnResult:
    """Measure error rates on the test set, of both models if there are two, and of the search."""
    found: dict[str, Evaluation] = {}
    searched: list[SearchResult] = []
    before = stages.measured(folder, scratch=scratch, search=search is not None)
    if before is not None:
        return before
    if has_test:
        places = {"evaluate": (folder / "model", folder / "evaluation")}
        if scratch:
            model = folder / "scratch" / "model"
            places["evaluate scratch"] = (model, folder / "scratch" / "evaluation")
        for stage, (model, out) in places.items():

            def measure(model: Path = model, out: Path = out, stage: str = stage) -> None:
                found[stage] = evaluate(model, folder / "data" / "test.jsonl", out=out)

            stages.run(stage, measure, again=True)
        if search is not None:
            greedy = found["evaluate"]
            stages.run(
                "evaluate search",
                lambda: searched.append(measure_search(folder, search, greedy)),
                again=True,
            )
    ours, theirs = found.get("evaluate"), found.get("evaluate scratch")
    return LearnResult(
        model=folder / "model",
        report=folder / "report.html",
        cer=None if ours is None else ours.errors.cer,
        wer=None if ours is None else ours.errors.wer,
        scratch_cer=None if theirs is None else theirs.errors.cer,
        scratch_wer=None if theirs is None else theirs.errors.wer,
        difference=(
            None if ours is None or theirs is None else paired_bootstrap(ours.errors, theirs.errors)
        ),
        search=searched[0] if searched else None,
        minutes=0.0,
    )


class _Stages:
    """What is done, in learn.json, so that a repeated command goes on."""

    def __init__(self, folder: Path, request: dict[str, Any], *, quiet: bool) -> None:
        self._path = folder / "learn.json"
        self._quiet = quiet
        self._data: dict[str, Any] = {"request": request, "stages": {}, "result": {}}
        if self._path.exists():
            before = read_json(self._path)
            # Before anything was done, a repeated command may correct what stopped the first.
            if any(stage["state"] == "done" for stage in before["stages"].values()):
                self._data = before
                self._refuse_other(folder, request)
        self._data["request"]["command"] = shlex.join(["unheard", *sys.argv[1:]])
        self._write()

    @property
    def total_seconds(self) -> float:
        """Time of all finished stages [seconds]."""
        return sum(stage.get("seconds", 0.0) for stage in self._data["stages"].values())

    def run(self, name: str, work: Callable[[], object], *, again: bool = False) -> None:
        """Do a stage unless it is done; `again` does it in any case."""
        stage = self._data["stages"].get(name, {})
        if stage.get("state") == "done" and not again:
            self.say(f"{name}: done before")
            return
        self.say(f"{name} ...")
        started = time.monotonic()
        spent = stage.get("seconds", 0.0) if not again else 0.0
        try:
            work()
        except BaseException:
            seconds = spent + time.monotonic() - started
            self._data["stages"][name] = {"state": "stopped", "seconds": seconds}
            self._write()
            raise
        seconds = spent + time.monotonic() - started
        self._data["stages"][name] = {"state": "done", "seconds": seconds}
        self._write()

    def minutes(
        self,
        recipe: Recipe,
        *,
        max_minutes: float | None,
        pretrain_minutes: float | None,
        finetune_minutes: float | None,
        pretrains: bool,
        finetunings: int,
    ) -> dict[str, float | None]:
        """Share a time budget among the stages, once; a repeated command keeps the shares."""
        if "minutes" in self._data:
            return self._data["minutes"]
        shares: dict[str, float | None] = {"pretrain": None, "finetune": None}
        if max_minutes is not None:
            left = max_minutes * (1 - EVALUATION_RESERVE) - self.total_seconds / 60
            if left <= 0:
                raise ConfigError(
                    f"max_minutes {max_minutes:g} is over before training begins: scanning alone "
                    f"took {self.total_seconds / 60:.1f} min. Allow more."
                )
            listening = left * recipe.pretrain_share if pretrains else 0.0
            if pretrains and pretrain_minutes is not None:
                listening = pretrain_minutes
            if listening >= left:
                raise ConfigError(
                    f"pretrain_minutes {listening:g} leave nothing of max_minutes "
                    f"{max_minutes:g} to learn writing in: expected less than {left:.1f} min."
                )
            shares["pretrain"] = listening
            shares["finetune"] = (left - listening) / finetunings
        if pretrain_minutes is not None:
            shares["pretrain"] = pretrain_minutes
        if finetune_minutes is not None:
            shares["finetune"] = finetune_minutes
        self._data["minutes"] = shares
        self._write()
        return shares

    def finish(self, result: LearnResult) -> None:
        """Record the result, for the report and for readers of learn.json."""
        found: dict[str, Any] = {
            "made_with": {
                "unheard": unheard.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            }
        }
        if result.cer is not None and result.wer is not None:
            found["cer"] = result.cer.to_dict()
            found["wer"] = result.wer.to_dict()
        if result.scratch_cer is not None and result.difference is not None:
            scored = read_json(self._path.parent / "scratch" / "evaluation" / "result.json")
            found["scratch"] = {
                "error_rate": scored["error_rate"],
                "run": "scratch",
                "difference": result.difference.to_dict(),
            }
        if result.search is not None:
            found["search"] = result.search.to_dict()
        self._data["result"] = found
        self._write()

    def measured(self, folder: Path, *, scratch: bool, search: bool) -> LearnResult | None:
        """Give the result of a run that was measured before; None when there is none yet."""
        stages = ["evaluate"]
        stages += ["evaluate scratch"] if scratch else []
        stages += ["evaluate search"] if search else []
        done = all(self._data["stages"].get(name, {}).get("state") == "done" for name in stages)
        found = self._data["result"]
        if not done or "cer" not in found or (scratch and "scratch" not in found):
            return None
        if search and "search" not in found:
            return None
        for name in stages:
            self.say(f"{name}: done before")
        theirs = found["scratch"] if scratch else None
        return LearnResult(
            model=folder / "model",
            report=folder / "report.html",
            cer=from_dict(Rate, found["cer"]),
            wer=from_dict(Rate, found["wer"]),
            scratch_cer=theirs and from_dict(Rate, theirs["error_rate"]["cer"]),
            scratch_wer=theirs and from_dict(Rate, theirs["error_rate"]["wer"]),
            difference=theirs and from_dict(PairedDifference, theirs["difference"]),
            search=SearchResult.read(found["search"]) if search else None,
            minutes=0.0,
        )

    def _refuse_other(self, folder: Path, request: dict[str, Any]) -> None:
        before = dict(self._data["request"])
        before["start"] = before.get("start") or NO_START  # of an earlier version
        changed = [
            f"{name} was {before.get(name)!r}, is {value!r}"
            for name, value in request.items()
            if before.get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"{folder} holds a run with other settings: {'; '.join(changed)}. Repeat the "
                "first command to go on with it, or choose another folder with --out."
            )

    def say(self, line: str) -> None:
        """Say how far it is, on stderr."""
        if not self._quiet:
            print(line, file=sys.stderr)

    def _write(self) -> None:
        write_json_atomic(self._path, self._data)


def _start(
    start: str | os.PathLike[str] | None,
    *,
    recipe: str | None,
    objective: Objective | None,
    pretraining: bool,
) -> str | os.PathLike[str] | None:
    """Choose what to begin with: what was asked for, or unheard-mini where nothing speaks against.

    Returns:
        What `load_model` takes; None for random weights.
    """
    if start is not None:
        return given_start(start)
    suits = recipe in (None, "mini") and objective is None and pretraining
    return UNHEARD_MINI if suits else None


def _listening(recipe: Recipe, start: ModelBundle | None, *, named: bool) -> Recipe:
    """Choose the recipe to pre-train by: of a released network, the one for going on."""
    if start is None or named or start.encoder_config.dim < WIDE:
        return recipe
    return replace(
        recipe_to_go_on(continued(), start),
        objective=recipe.objective,
        finetuning=recipe.finetuning,
    )


def _teacher(recipe: Recipe, start: ModelBundle) -> HiddenFeatures | None:
    """Let a model that goes on by masked units learn clusters of what it hears already.

    It has learnt the clusters of cepstra, or more, before (Hsu et al. 2021, sec. III-D). A model
    that learnt by the contrastive objective goes on with that.
    """
    if recipe.objective != "masked_units" or isinstance(start.config, PretrainingConfig):
        return None
    return hidden_teacher(start)


def _timed(recipe: Recipe, stage: str, minutes: float | None, seed: int) -> TrainingConfig:
    """Training settings of a stage with this run's seed and, if given, its time."""
    config = recipe.pretraining if stage == "pretraining" else recipe.finetuning
    budget = config.budget if minutes is None else Budget(max_minutes=minutes)
    return replace(config, budget=budget, seed=seed)


def _audit(folder: Path, encoder: EncoderConfig, normalizer: str, *, quiet: bool) -> None:
    """Look the data over with the eyes of the network that is to learn it; say what is grave."""
    sets = {name: absolute(folder / "data" / f"{name}.jsonl") for name in SETS}
    texts = [utterance.text for utterance in sets["train"] if utterance.text]
    alphabet = Alphabet.from_texts(texts, normalizer=normalizer) if texts else None
    found = audit(sets, alphabet, encoder.num_frames, normalizer=normalizer)
    write_json_atomic(folder / "data" / "audit.json", found.to_dict())
    for finding in found.findings:
        if not quiet and finding.severity != "note":
            print(f"{finding.severity}: {finding.message}", file=sys.stderr)


def _scan_more(sources: Sequence[str | os.PathLike[str]], folder: Path) -> None:
    """Add further recordings to data/unlabelled.jsonl, without any that is listed already."""
    sets = {name: absolute(folder / "data" / f"{name}.jsonl") for name in SETS}
    listed = {utterance.audio for members in sets.values() for utterance in members}
    found, stretches = sets["unlabelled"], set[tuple[str, int, int]]()
    for number, source in enumerate(sources):
        extracted = folder / "data" / f"more-{number}"
        for utterance in scan_source(source, exclude=[folder], extract_to=extracted).utterances:
            stretch = (utterance.audio, utterance.start, utterance.num_samples)
            if utterance.audio not in listed and stretch not in stretches:
                stretches.add(stretch)
                name = f"more-{number}/{utterance.id}"
                found.append(replace(utterance, id=name, text=None))
    if sources:
        write_manifest(folder / "data" / "unlabelled.jsonl", found)


def _text(value: str | os.PathLike[str] | float | None) -> str | float | None:
    """Turn a path into text, leave numbers and nothing as they are."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value
