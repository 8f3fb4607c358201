"""The verb `finetune`: transcribed recordings in, a network that writes out."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import unheard
from unheard.audio.augment.config import read_augment
from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.config import from_dict, to_dict
from unheard.data.dataset import LabelledSource
from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.data.store import SampleStore
from unheard.decoding.greedy import best_frames
from unheard.errors import ConfigError
from unheard.files import read_json, write_json_atomic, write_jsonl_atomic
from unheard.inference.engine import Engine, plan_batches
from unheard.interop.adapter_folder import save_adapter, write_adapter
from unheard.interop.bundle import ModelBundle
from unheard.interop.native import save_model
from unheard.models.config import CtcConfig, EncoderConfig
from unheard.models.ctc import CtcModel
from unheard.objectives.ctc import ctc_objective
from unheard.recipes.catalogue import FinetuneSettings, Recipe, get_recipe
from unheard.tasks.health import LACKING, writing_watch
from unheard.tasks.language_adapters import adapted, check_can_adapt, load_start
from unheard.tasks.runs import (
    Changes,
    budget_of,
    changed,
    choose_device,
    choose_recipe,
    forget_decoded,
    given,
    given_start,
    keep_settings,
    named_changes,
    read_utterances,
    report_unreadable,
    seeded,
    show_decoding,
    start_weights,
)
from unheard.tasks.shard_sets import lie_in_shards, open_shard_set
from unheard.tensors import derive_seed
from unheard.text import normalize
from unheard.text.alphabet import Alphabet
from unheard.text.error_rate import score
from unheard.training.checkpoint import load_checkpoint
from unheard.training.config import Execution, Parallel, TrainingConfig
from unheard.training.distributed import ALONE, Ranks, join_ranks
from unheard.training.frozen import thaw
from unheard.training.health.findings import OnCollapse
from unheard.training.logging import Sample
from unheard.training.loop import Validation, train
from unheard.training.precision import resolve_precision

NORMALIZER = "basic-1"
"""What transcripts go through when nothing else is asked for."""
VALID_SECONDS = 300.0
"""Sound that one validation during training transcribes at most [seconds]."""
SAMPLES_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """How a fine-tuning ended.

    Attributes:
        model: the model folder.
        steps: updates of the weights.
        minutes: spent in training, over all sittings.
        valid_cer: character error rate on the validation set at the best step.
        valid_wer: word error rate there.
        utterances: that were learnt from.
        left_out: transcripts that could not be used; see left_out.jsonl.
        unreadable: recordings that could not be decoded; see unreadable.jsonl.
    """

    model: Path
    steps: int
    minutes: float
    valid_cer: float
    valid_wer: float
    utterances: int
    left_out: int
    unreadable: int


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """Utterances that a network can learn writing from.

    Attributes:
        utterances: in the order of the store, texts normalised.
        store: their recordings, decoded or in shards.
        targets: symbols of each.
        left_out: rows {id, audio, reason, detail} of those that cannot be used.
    """

    utterances: list[Utterance]
    store: SampleStore
    targets: list[list[int]]
    left_out: list[dict[str, str]]


def finetune(
    transcripts: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    start: str | os.PathLike[str] | None = None,
    valid: str | os.PathLike[str] | float = 0.1,
    recipe: str | None = None,
    config: str | os.PathLike[str] | None = None,
    set: Changes = (),
    language: str | None = None,
    into: str | os.PathLike[str] | None = None,
    normalizer: str = NORMALIZER,
    max_minutes: float | None = None,
    max_steps: int | None = None,
    accumulation: int | None = None,
    augment: str | None = None,
    parallel: Parallel = "ddp",
    recompute: bool = False,
    compile: bool = False,
    on_collapse: OnCollapse = "warn",
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> FinetuneResult:
    """Learn to write from transcribed recordings.

    Repeat the command to go on where it was stopped; a finished run is not done again.

    Args:
        transcripts: anything that `scan` reads, or a folder or address of shards (see `shard`),
            with transcripts.
        out: run folder; the model folder is OUT/model.
        start: a pre-trained model (folder, file or Hugging Face id, or "unheard-mini"); random
            weights if left out, or "none": here nothing is begun with that was not asked for.
        valid: utterances to choose the best step by: anything that `scan` reads, or the part of
            the transcripts to set aside.
        recipe: settings by name; `unheard recipes` lists them. If left out,
            mms-adapter where a `language` is given, else what fits the size of `start`, mini if
            there is no `start`.
        config: a file with a recipe, as `unheard recipes NAME` prints it, instead.
        set: settings to change, such as training.learning_rate=1e-4; once for each.
        language: name of the language whose adapter is learnt, an ISO 639-3 code such as "lug";
            the rest of `start` stays as it is. One that `start` has already is gone on from.
        into: a folder of transformers that holds `start`, to which the adapter is added; without
            it, OUT/model is a whole model.
        normalizer: what transcripts go through first: "basic-1" or "none-1".
        max_minutes: time to train [minutes]; the recipe's own by default.
        max_steps: updates of the weights, instead of or besides a time.
        accumulation: micro-batches to one update, of all processes together; the recipe's own by
            default.
        augment: what to do to recordings as they are heard, some at random: any of speed, reverb,
            noise and codec, with commas between. Folders of recorded noise or rooms, and codecs,
            may follow: "noise=musan/,reverb=rooms/,codec=telephone+opus".
        parallel: how the processes that `torchrun` started hold the network: "ddp" for a copy
            each, "fsdp" for a share of every parameter each.
        recompute: keep less for the backward pass and compute it again, to save memory.
        compile: compile Transformer layers with torch.compile, where that works.
        on_collapse: what to do when the run is lost, for instance because nothing but blanks is
            written: "warn" says so and goes on; "stop" saves and ends; "rewind" goes back to the
            last checkpoint from before and on with half the learning rate, three times at most.
        seed: of everything that is drawn; 0 is the recipe's own.
        device: "cpu", "cuda", "cuda:1", ...; "auto" takes a graphics processor if there is one.
        quiet: print nothing while it runs.

    Returns:
        Where the model is, and its error rates on the validation set.

    Raises:
        ConfigError: if there is nothing to learn from, or the folder holds a run with other
            settings.
        RankError: when another of the processes that train together failed.
    """
    changes = named_changes(set)
    augmentation = None if augment is None else read_augment(augment)
    start = given_start(start)
    folder = Path(out)
    model_folder = folder / "model" if into is None else Path(into)
    request = {
        "transcripts": os.fspath(transcripts),
        "start": None if start is None else os.fspath(start),
        "valid": os.fspath(valid) if isinstance(valid, os.PathLike) else valid,
        "recipe": recipe,
        "config": None if config is None else os.fspath(config),
        "set": changes,
        "language": language,
        "into": None if into is None else os.fspath(into),
        "normalizer": normalizer,
        "max_minutes": max_minutes,
        "max_steps": max_steps,
        "accumulation": accumulation,
        "augment": augment,
        "seed": seed,
    }
    with join_ranks(choose_device(device)) as ranks:
        ranks.ask_first(lambda: keep_settings(folder / "request.json", request))
        if (finished := _finished(folder, model_folder)) is not None:
            return finished
        bundle = None if start is None else load_start(start, language)
        chosen = changed(
            choose_recipe(recipe, config, otherwise=partial(recipe_for, bundle, language)),
            changes,
            training="finetuning",
        )
        seed = seed or chosen.finetuning.seed
        learned, held_out = read_utterances(
            transcripts, valid=valid, out=folder, seed=seed, ranks=ranks
        )
        result = finetune_utterances(
            learned,
            held_out,
            chosen,
            run_folder=folder,
            model_folder=model_folder,
            config=replace(
                chosen.finetuning,
                budget=budget_of(chosen.finetuning.budget, max_minutes, max_steps),
                seed=seed,
                **given(accumulation=accumulation, augment=augmentation),
            ),
            start=bundle,
            language=language,
            adds=into is not None,
            normalizer=normalizer,
            device=ranks.device,
            quiet=quiet or not ranks.first,
            ranks=ranks,
            execution=Execution(
                parallel=parallel,
                recompute=recompute,
                compile=compile,
                on_collapse=on_collapse,
            ),
        )
        ranks.ask_first(lambda: forget_decoded(folder / "decoded"))
        return result


def recipe_for(start: ModelBundle | None, language: str | None = None) -> Recipe:
    """Choose the recipe whose network is closest in width to a model's; or that of adapters."""
    if language is not None:
        return get_recipe("mms-adapter")
    if start is None:
        return get_recipe("mini")
    dim = start.encoder_config.dim
    if dim >= 1024:
        return get_recipe("large")
    if dim >= 512:
        return get_recipe("base")
    return get_recipe("mini" if dim > 128 else "nano")


def finetune_utterances(
    learned: Sequence[Utterance],
    held_out: Sequence[Utterance],
    recipe: Recipe,
    *,
    run_folder: Path,
    model_folder: Path,
    config: TrainingConfig,
    start: ModelBundle | None,
    language: str | None = None,
    adds: bool = False,
    normalizer: str,
    device: torch.device,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    execution: Execution | None = None,
) -> FinetuneResult:
    """Fine-tune on utterances with texts; the same stage as in `learn`.

    Args:
        learned: to learn from; paths of recordings are absolute.
        held_out: to choose the best step by.
        recipe: settings, and the network if there is no `start`.
        run_folder: checkpoints and figures.
        model_folder: where the result goes.
        config: settings of the training.
        start: a model whose encoder to go on from, or None for random weights.
        language: whose adapter is learnt, if the recipe is one of adapters.
        adds: `model_folder` holds `start` for transformers, and gets the adapter only.
        normalizer: name of the normaliser of transcripts.
        device: where to train.
        quiet: print nothing.
        ranks: this process among those that train together.
        execution: how the work is done.

    Raises:
        ConfigError: if there is nothing to learn from, or the folder holds a run with other
            settings.
    """
    if (finished := _finished(run_folder, model_folder)) is not None:
        return finished
    settings = recipe.finetune
    if settings.adapter_dim:
        check_can_adapt(start, language, adapter_dim=settings.adapter_dim, recipe=recipe.name)
    elif language is not None or adds:
        raise ConfigError(
            f"The recipe {recipe.name} trains the whole network: expected one of adapters, such "
            "as mms-adapter, for a language of its own."
        )
    alphabet = _alphabet(learned, normalizer)
    encoder, spec = _encoder(recipe, settings, start)
    network = CtcConfig(
        encoder=encoder,
        vocab=len(alphabet),
        head_dropout=settings.head_dropout,
        masking=settings.masking,
    )
    written = {
        "recipe": recipe.name,
        "language": language,
        "network": to_dict(network),
        "training": to_dict(config),
    }
    ranks.ask_first(lambda: keep_settings(run_folder / "config.json", written))

    def decode(utterances: Sequence[Utterance], name: str) -> LabelledSet:
        folder = run_folder / "decoded" / name
        progress = None if quiet else show_decoding
        return _labelled(utterances, folder, alphabet, normalizer, encoder, progress, ranks)

    train_set = decode(learned, "train")
    valid_set = decode(_shorten(held_out, config.seed), "valid")
    ranks.ask_first(lambda: _report_left_out(train_set, valid_set, run_folder))
    if not train_set.utterances or not valid_set.utterances:
        raise ConfigError(
            "Fine-tuning needs transcripts to learn from and to validate on: expected both, got "
            f"{len(train_set.utterances)} and {len(valid_set.utterances)} that can be used. "
            f"{run_folder / 'left_out.jsonl'} says what is wrong with the others."
        )
    if start is not None and language is not None:
        model = adapted(start, language, alphabet, network, seed=config.seed)
    else:
        model = _fresh(network, recipe, start, seed=config.seed)
    bundle = ModelBundle(model=model, alphabet=alphabet, input_spec=spec, adapter=language)
    trained = train(
        model,
        partial(ctc_objective, blank=alphabet.blank_id),
        LabelledSource(
            train_set.store,
            train_set.targets,
            input_spec=spec,
            batch_seconds=config.batch_seconds,
            seed=config.seed,
            encoder=encoder,
            augment=config.augment,
        ),
        config,
        folder=run_folder,
        name="finetune",
        validate=_validator(bundle, valid_set, config, device),
        head=model.head if start is not None else None,
        device=device,
        quiet=quiet,
        ranks=ranks,
        execution=execution,
        watch=writing_watch(
            {"training": train_set.store, "validation": valid_set.store},
            {"training": train_set.targets, "validation": valid_set.targets},
            {"training": train_set.left_out, "validation": valid_set.left_out},
            alphabet=alphabet,
            encoder=encoder,
            config=config,
            pretrained=start is not None,
        ),
    )

    def finish() -> FinetuneResult:
        best = load_checkpoint(trained.best, model=model, optimizer=None).extra["validation"]
        figures = {
            "steps": trained.state.step,
            "valid_cer": best["cer"],
            "valid_wer": best["wer"],
            "minutes": trained.state.elapsed_seconds / 60,
            "utterances": len(train_set.utterances),
            "left_out": len(train_set.left_out) + len(valid_set.left_out),
            "unreadable": len(train_set.store.unreadable) + len(valid_set.store.unreadable),
        }
        thaw(model.cpu().eval())
        recogniser = replace(
            bundle,
            provenance={
                "made_by": f"unheard {unheard.__version__}",
                "task": "finetune",
                "recipe": recipe.name,
                "normalizer": normalizer,
                "seed": config.seed,
                "parent": None if start is None else start.provenance,
                **figures,
            },
        )
        if language is not None:
            write_adapter(recogniser, run_folder / "adapter")
        if adds:
            save_adapter(recogniser, model_folder)
        else:
            save_model(recogniser, model_folder)
        write_json_atomic(run_folder / "result.json", figures)
        return _read_result(run_folder, model_folder)

    return ranks.first_then(finish, lambda: _read_result(run_folder, model_folder))


def _fresh(network: CtcConfig, recipe: Recipe, start: ModelBundle | None, *, seed: int) -> CtcModel:
    """Make a network that learns as a whole, with the encoder of another if there is one."""
    with seeded(seed, "weights"):
        model = CtcModel(network)
    if start is None:
        start_weights(model.encoder, recipe, seed=seed)
    else:
        model.encoder.load_state_dict(start.model.encoder.state_dict())
    return model


def _finished(run_folder: Path, model_folder: Path) -> FinetuneResult | None:
    """Read the result of a run that ended before; None when there is none yet."""
    if not ((run_folder / "result.json").exists() and model_folder.exists()):
        return None
    return _read_result(run_folder, model_folder)


def _read_result(run_folder: Path, model_folder: Path) -> FinetuneResult:
    figures = read_json(run_folder / "result.json")
    return from_dict(FinetuneResult, {**figures, "model": str(model_folder)})


def _alphabet(utterances: Sequence[Utterance], normalizer: str) -> Alphabet:
    texts = [utterance.text for utterance in utterances if utterance.text]
    if not texts:
        raise ConfigError(
            "There is nothing to learn writing from: expected utterances with a text, got "
            f"{len(utterances)} without."
        )
    return Alphabet.from_texts(texts, normalizer=normalizer)


def _encoder(
    recipe: Recipe, settings: FinetuneSettings, start: ModelBundle | None
) -> tuple[EncoderConfig, InputSpec]:
    """Shape of the encoder, with the dropouts of fine-tuning."""
    shape = recipe.network.encoder if start is None else start.encoder_config
    encoder = replace(
        shape,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        activation_dropout=settings.activation_dropout,
        input_dropout=settings.input_dropout,
        layer_drop=settings.layer_drop,
        adapter_dim=shape.adapter_dim or settings.adapter_dim,
        feature_grad_scale=1.0 if start is None else settings.feature_grad_scale,
    )
    spec = InputSpec(normalize=recipe.normalize) if start is None else start.input_spec
    return encoder, spec


def _shorten(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Choose at most `VALID_SECONDS` of utterances for the validations during training."""
    order = np.random.default_rng(derive_seed(seed, "valid")).permutation(len(utterances))
    chosen: list[int] = []
    seconds = 0.0
    for number in order:
        if seconds >= VALID_SECONDS:
            break
        seconds += utterances[number].duration_seconds
        chosen.append(int(number))
    return [utterances[number] for number in sorted(chosen)]


def _labelled(
    utterances: Sequence[Utterance],
    folder: Path,
    alphabet: Alphabet,
    normalizer: str,
    encoder: EncoderConfig,
    progress: Callable[[int, int], None] | None,
    ranks: Ranks,
) -> LabelledSet:
    """Decode recordings, encode texts, leave out what cannot be learnt from and say why."""
    normalise = normalize.get(normalizer)
    left_out: list[dict[str, str]] = []
    usable: dict[str, tuple[Utterance, list[int]]] = {}
    for utterance in utterances:
        text = normalise(utterance.text or "")
        missing = alphabet.missing(text)
        if not text:
            left_out.append(_row(utterance, "no_text", "nothing is left after normalisation"))
        elif missing:
            detail = LACKING + " ".join(missing)
            left_out.append(_row(utterance, "not_in_alphabet", detail))
        else:
            usable[utterance.id] = (replace(utterance, text=text), alphabet.encode(text))
    wanted = [utterance for utterance, _ in usable.values()]
    store: SampleStore = (
        open_shard_set(wanted)
        if lie_in_shards(wanted)
        else ranks.first_then(
            lambda: open_store(wanted, folder, root=Path(), progress=progress),
            lambda: PcmStore(folder),
        )
    )
    kept: list[Utterance] = []
    targets: list[list[int]] = []
    fitting: list[int] = []
    for number, name in enumerate(store.ids):
        utterance, target = usable[name]
        frames = encoder.num_frames(int(store.num_samples[number]))
        needed = alphabet.frames_needed(target)
        if frames < needed:
            detail = f"its text takes {needed} frames, the recording has {frames}"
            left_out.append(_row(utterance, "too_short_for_text", detail))
            continue
        fitting.append(number)
        kept.append(utterance)
        targets.append(target)
    return LabelledSet(
        utterances=kept, store=store.only(fitting), targets=targets, left_out=left_out
    )


def _row(utterance: Utterance, reason: str, detail: str) -> dict[str, str]:
    return {"id": utterance.id, "audio": utterance.audio, "reason": reason, "detail": detail}


def _report_left_out(train_set: LabelledSet, valid_set: LabelledSet, folder: Path) -> None:
    """Write left_out.jsonl and unreadable.jsonl, and say how many there are."""
    report_unreadable([*train_set.store.unreadable, *valid_set.store.unreadable], folder)
    rows = [*train_set.left_out, *valid_set.left_out]
    path = folder / "left_out.jsonl"
    if not rows:
        path.unlink(missing_ok=True)
        return
    write_jsonl_atomic(path, rows)
    print(f"{len(rows)} transcripts cannot be used; {path} says why.", file=sys.stderr)


def _validator(
    bundle: ModelBundle, labelled: LabelledSet, config: TrainingConfig, device: torch.device
) -> Callable[[], Validation]:
    """Make a function that transcribes the validation set greedily and scores it."""
    alphabet = bundle.alphabet
    if alphabet is None:
        raise ConfigError("A validation of writing needs an alphabet.")
    store = labelled.store
    references = [utterance.text or "" for utterance in labelled.utterances]
    bf16 = resolve_precision(config.precision, device) == torch.bfloat16
    batch_samples = round(config.batch_seconds * SAMPLE_RATE)
    batches = plan_batches(store.num_samples.tolist(), budget_samples=batch_samples)

    def validate() -> Validation:
        engine = Engine(bundle, dtype="bfloat16" if bf16 else "float32")
        hypotheses = [""] * len(references)
        blanks = frames = 0
        for batch in batches:
            found = engine.log_probs([store.samples(number) for number in batch])
            for number, log_probs in zip(batch, found, strict=True):
                ids, _ = best_frames(log_probs)
                blanks += int((ids == alphabet.blank_id).sum())
                frames += len(ids)
                hypotheses[number] = alphabet.decode(alphabet.collapse(ids.tolist()))
        report = score(references, hypotheses, resamples=1)
        shown = np.linspace(0, len(references) - 1, min(SAMPLES_SHOWN, len(references))).astype(int)
        return Validation(
            metric=report.cer.value,
            values={
                "cer": report.cer.value,
                "wer": report.wer.value,
                "blank_ratio": blanks / max(frames, 1),
            },
            samples=[
                Sample(
                    id=labelled.utterances[number].id,
                    reference=references[number],
                    hypothesis=hypotheses[number],
                )
                for number in shown
            ],
        )

    return validate
