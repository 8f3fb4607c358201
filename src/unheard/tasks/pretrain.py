"""The verb `pretrain`: recordings in, a network that has learnt to listen out."""

import os
import sys
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

import unheard
from unheard.audio.augment.config import read_augment
from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.config import from_dict, to_dict
from unheard.data.corpora import scan_source
from unheard.data.dataset import AudioBatch, UnlabelledSource, crop_batch
from unheard.data.pcm import PcmStore, open_store
from unheard.data.places import is_url
from unheard.data.sampling import Sampling
from unheard.data.shard_store import open_shards
from unheard.data.shards import is_shard_folder
from unheard.data.store import SampleStore
from unheard.data.units import CepstralFeatures, UnitStore, open_units
from unheard.errors import ConfigError
from unheard.files import read_json, write_json_atomic
from unheard.inference.hidden_features import HiddenFeatures
from unheard.interop.bundle import ModelBundle
from unheard.interop.load import load_model, open_model
from unheard.interop.native import save_model
from unheard.models.config import (
    EncoderConfig,
    MaskedUnitConfig,
    PretrainingConfig,
)
from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.contrastive import contrastive_objective
from unheard.objectives.masked_units import masked_unit_objective
from unheard.recipes.catalogue import Objective, Recipe, mini
from unheard.recipes.continued import CONTINUED, continued, go_on_from, heads_for
from unheard.tasks.health import pretraining_metric, pretraining_watch
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
    report_skipped,
    report_unreadable,
    seeded,
    show_decoding,
    show_indexing,
    show_labelling,
    start_weights,
)
from unheard.tasks.scan import nothing_found
from unheard.tensors import derive_seed, derived_generator
from unheard.training.checkpoint import load_checkpoint
from unheard.training.config import Execution, Parallel, TrainingConfig
from unheard.training.distributed import ALONE, Ranks, join_ranks
from unheard.training.health.findings import OnCollapse
from unheard.training.health.watch import HealthWatch
from unheard.training.loop import Objective as TrainingObjective
from unheard.training.loop import TrainingResult, Validation, train
from unheard.training.memory import keep_freed_memory
from unheard.training.precision import autocast, resolve_precision

TEACHER_DEPTH = 2 / 3
"""How far up in a model the layer lies whose clusters are the units; the last ones are already
bent to their own targets."""

WIDE = 512
"""Networks of this width and above are the released ones, not ours for small machines."""

VALID_SHARE = 0.02
"""Of the recordings, held out to see whether what is learnt holds elsewhere."""
VALID_SECONDS = 240.0
"""Sound held out at most [seconds]."""
VALID_CROP_SECONDS = 5.0
VALID_BATCH = 12


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """How a pre-training ended.

    Attributes:
        model: the model folder.
        steps: updates of the weights.
        minutes: spent in training, over all sittings.
        hours_heard: sound that went through the network, repeats included [hours].
        hours: of different sound [hours].
        objective: what was learnt by.
        loss: on held-out recordings [nats a masked frame].
        accuracy: share of held-out masked frames told from their distractors, or named right.
        code_perplexity: of the codes used on held-out recordings, all groups together; None
            without a quantiser.
        unreadable: recordings that could not be decoded; see unreadable.jsonl.
    """

    model: Path
    steps: int
    minutes: float
    hours_heard: float
    hours: float
    objective: Objective
    loss: float
    accuracy: float
    code_perplexity: float | None = None
    unreadable: int


def pretrain(
    recordings: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    recipe: str | None = None,
    config: str | os.PathLike[str] | None = None,
    set: Changes = (),
    objective: Objective | None = None,
    start: str | os.PathLike[str] | None = None,
    units_from: str | os.PathLike[str] | None = None,
    units_layer: int | None = None,
    units: int | None = None,
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
) -> PretrainResult:
    """Learn to listen from recordings alone.

    Repeat the command to go on where it was stopped; a finished run is not done again.

    Args:
        recordings: anything that `scan` reads, or a folder or address of shards (see `shard`);
            transcripts are not looked at.
        out: run folder; the model folder is OUT/model.
        recipe: a recipe, that is network and settings, by its name; `unheard recipes` lists them;
            "continued" if left out when there is a large `start`, else mini.
        config: a file with a recipe, as `unheard recipes NAME` prints it, instead.
        set: settings to change, such as training.learning_rate=1e-4; once for each.
        objective: what to learn by; the recipe's own by default.
        start: a pre-trained model to go on from (folder, file or Hugging Face id, or
            "unheard-mini"); random weights if left out, or "none".
        units_from: a trained model; the units to predict are clusters of what its hidden layer
            makes of the recordings, instead of cepstra: the next round of HuBERT. Its frames must
            lie as those of the network.
        units_layer: which of its Transformer layers; by default two thirds of the way up.
        units: number of clusters; the recipe's own by default.
        max_minutes: time to train [minutes]; the recipe's own by default.
        max_steps: updates of the weights, instead of or besides a time.
        accumulation: micro-batches to one update, of all processes together; the recipe's own by
            default.
        augment: what to do to recordings as they are heard, some at random: any of speed, reverb,
            noise and codec, with commas between. Folders of recorded noise or rooms, and codecs,
            may follow: "noise=musan/,reverb=rooms/,codec=telephone+opus". Units stay those of the
            recordings as they were, which speed would move away from: it is refused with them.
        parallel: how the processes that `torchrun` started hold the network: "ddp" for a copy
            each, "fsdp" for a share of every parameter each.
        recompute: keep less for the backward pass and compute it again, to save memory.
        compile: compile Transformer layers with torch.compile, where that works.
        on_collapse: what to do when the run is lost, for instance because all sounds get the same
            code: "warn" says so and goes on; "stop" saves and ends; "rewind" goes back to the
            last checkpoint from before and on with half the learning rate, three times at most.
        seed: of everything that is drawn; 0 is the recipe's own.
        device: "cpu", "cuda", "cuda:1", ...; "auto" takes a graphics processor if there is one.
        quiet: print nothing while it runs.

    Returns:
        Where the model is, and figures on held-out recordings.

    Raises:
        ConfigError: if there is nothing to learn from, or the folder holds a run with other
            settings.
        RankError: when another of the processes that train together failed.
    """
    changes = named_changes(set)
    augmentation = None if augment is None else read_augment(augment)
    start = given_start(start)
    chosen = choose_recipe(recipe, config, otherwise=partial(_usual, start))
    folder = Path(out)
    request = {
        "recordings": os.fspath(recordings),
        "recipe": chosen.name,
        "config": None if config is None else os.fspath(config),
        "set": changes,
        "objective": objective,
        "start": None if start is None else os.fspath(start),
        "units_from": None if units_from is None else os.fspath(units_from),
        "units_layer": units_layer,
        "units": units,
        "max_minutes": max_minutes,
        "max_steps": max_steps,
        "accumulation": accumulation,
        "augment": augment,
        "seed": seed,
    }
    with join_ranks(choose_device(device)) as ranks:
        quiet = quiet or not ranks.first
        ranks.ask_first(lambda: keep_settings(folder / "request.json", request))
        if (finished := _finished(folder, folder / "model")) is not None:
            return finished
        bundle = None if start is None else load_model(start)
        if config is None and chosen.name == CONTINUED:
            chosen = recipe_to_go_on(chosen, bundle)
        chosen = changed(
            replace(chosen, **given(objective=objective, units=units)),
            changes,
            training="pretraining",
        )
        seed = seed or chosen.pretraining.seed
        store = ranks.first_then(
            lambda: _open_recordings(recordings, folder, quiet=quiet),
            lambda: _open_again(recordings, folder),
        )
        with closing(store):
            result = pretrain_store(
                store,
                chosen,
                run_folder=folder,
                model_folder=folder / "model",
                config=replace(
                    chosen.pretraining,
                    budget=budget_of(chosen.pretraining.budget, max_minutes, max_steps),
                    seed=seed,
                    **given(accumulation=accumulation, augment=augmentation),
                ),
                start=bundle,
                teacher=_teacher(units_from, units_layer),
                device=ranks.device,
                quiet=quiet,
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


def _open_recordings(
    recordings: str | os.PathLike[str], folder: Path, *, quiet: bool
) -> SampleStore:
    """Open shards as they are; decode anything else first."""
    if is_url(recordings) or is_shard_folder(recordings):
        return open_shards(
            recordings, folder / "decoded", progress=None if quiet else show_indexing
        )
    found = scan_source(recordings, exclude=[folder], extract_to=folder / "recordings")
    report_skipped(found.skipped, folder / "skipped.jsonl")
    if not found.utterances:
        raise ConfigError(nothing_found(recordings, found.skipped, folder / "skipped.jsonl"))
    return open_store(
        found.utterances,
        folder / "decoded",
        root=Path(),
        progress=None if quiet else show_decoding,
    )


def _open_again(recordings: str | os.PathLike[str], folder: Path) -> SampleStore:
    """Open what another process has made ready."""
    if is_url(recordings) or is_shard_folder(recordings):
        return open_shards(recordings, folder / "decoded")
    return PcmStore(folder / "decoded")


def pretrain_store(
    store: SampleStore,
    recipe: Recipe,
    *,
    run_folder: Path,
    model_folder: Path,
    config: TrainingConfig,
    start: ModelBundle | None,
    teacher: HiddenFeatures | None = None,
    device: torch.device,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    execution: Execution | None = None,
) -> PretrainResult:
    """Pre-train on decoded recordings; the same stage as in `learn`.

    Args:
        store: decoded recordings; some are held out for validation.
        recipe: the network, unless `start` gives one.
        run_folder: checkpoints and figures.
        model_folder: where the result goes.
        config: settings of the training.
        start: a pre-trained model to go on from, or None.
        teacher: whose hidden layer the units are clusters of; None for clusters of cepstra.
        device: where to train.
        quiet: print nothing.
        ranks: this process among those that train together.
        execution: how the work is done.

    Raises:
        ConfigError: if there is nothing to learn from, or the folder holds a run with other
            settings.
    """
    network, spec = _network(recipe, start, teacher)
    settings = {
        "recipe": recipe.name,
        "network": to_dict(network),
        "training": to_dict(config),
        "sampling": None if recipe.sampling is None else to_dict(recipe.sampling),
        "teacher": None if teacher is None else teacher.fingerprint,
    }

    keep_freed_memory()

    def begin() -> None:
        report_unreadable(store.unreadable, run_folder)
        keep_settings(run_folder / "config.json", settings)

    ranks.ask_first(begin)
    if (finished := _finished(run_folder, model_folder)) is not None:
        return finished
    valid, learned = _hold_out(store, config)
    units = None
    if isinstance(network, MaskedUnitConfig):
        label = partial(
            open_units,
            store,
            teacher or CepstralFeatures(network.encoder),
            units=network.units,
            seed=config.seed,
            progress=None if quiet else show_labelling,
        )
        units = ranks.first_then(label, label)
    source = UnlabelledSource(
        store,
        input_spec=spec,
        batch_seconds=config.batch_seconds,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
        seed=config.seed,
        only=learned,
        units=units,
        encoder=network.encoder,
        sampling=recipe.sampling,
        augment=config.augment,
    )
    if source.sampling is not None:
        ranks.ask_first(partial(_report_sampling, source.sampling, run_folder, quiet=quiet))
    batches = _valid_batches(store, valid, spec, units, network.encoder)
    with seeded(config.seed, "weights"):
        model = (
            MaskedUnitModel(network)
            if isinstance(network, MaskedUnitConfig)
            else PretrainingModel(network)
        )
    if start is None:
        start_weights(model.encoder, recipe, seed=config.seed)
    else:
        model.encoder.load_state_dict(start.model.encoder.state_dict())
        # Units of a teacher are new ones, whatever the old head knew.
        if teacher is None and type(start.model) is type(model):
            model.load_state_dict(start.model.state_dict())
    watch = pretraining_watch(network, config, pretrained=start is not None)
    job = _Job(source, config, run_folder, batches, device, quiet, ranks, execution, watch)
    if isinstance(model, MaskedUnitModel):
        trained = job.train(model, masked_unit_objective)
    else:
        trained = job.train(model, contrastive_objective)

    def finish() -> PretrainResult:
        best = load_checkpoint(trained.best, model=model, optimizer=None).extra["validation"]
        figures = {
            "steps": trained.state.step,
            "minutes": trained.state.elapsed_seconds / 60,
            "hours_heard": trained.state.audio_seconds / 3600,
            "hours": source.seconds / 3600,
            "unreadable": len(store.unreadable),
            "objective": "contrastive" if units is None else "masked_units",
            "loss": best["contrastive" if units is None else "masked"],
            "accuracy": best["accuracy"],
            "code_perplexity": best.get("code_perplexity"),
        }
        bundle = ModelBundle(
            model=model.cpu().eval(),
            alphabet=None,
            input_spec=spec,
            provenance={
                "made_by": f"unheard {unheard.__version__}",
                "task": "pretrain",
                "recipe": recipe.name,
                "seed": config.seed,
                "parent": None if start is None else start.provenance,
                "units_from": None if teacher is None else teacher.bundle.provenance,
                **figures,
            },
        )
        save_model(bundle, model_folder)
        write_json_atomic(run_folder / "result.json", figures)
        return _read_result(run_folder, model_folder)

    return ranks.first_then(finish, lambda: _read_result(run_folder, model_folder))


Listener = TypeVar("Listener", PretrainingModel, MaskedUnitModel)


@dataclass(frozen=True)
class _Job:
    """What a pre-training needs besides the model and its objective."""

    source: UnlabelledSource
    config: TrainingConfig
    folder: Path
    batches: list[AudioBatch]
    device: torch.device
    quiet: bool
    ranks: Ranks
    execution: Execution | None
    watch: HealthWatch

    def train(
        self, model: Listener, objective: TrainingObjective[Listener, AudioBatch]
    ) -> TrainingResult:
        """Train; the validation finds the best step."""
        return train(
            model,
            objective,
            self.source,
            self.config,
            folder=self.folder,
            name="pretrain",
            validate=lambda: self.validate(model, objective),
            device=self.device,
            quiet=self.quiet,
            ranks=self.ranks,
            execution=self.execution,
            watch=self.watch,
        )

    def validate(
        self, model: Listener, objective: TrainingObjective[Listener, AudioBatch]
    ) -> Validation:
        """Measure the objective on held-out crops, with the same masks every time."""
        dtype = resolve_precision(self.config.precision, self.device)
        sums: dict[str, float] = {}
        means: dict[str, list[float]] = {}
        count = 0.0
        for number, batch in enumerate(self.batches):
            generator = derived_generator(self.config.seed, "valid", number, device=self.device)
            with autocast(dtype, self.device):
                terms = objective(model, batch.to(self.device), progress=1.0, generator=generator)
            count += float(terms.count)
            for name, value in terms.parts.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            for name, value in terms.means.items():
                means.setdefault(name, []).append(float(value))
        values = {name: value / max(count, 1.0) for name, value in sums.items()}
        values |= {name: sum(listed) / len(listed) for name, listed in means.items()}
        values.pop("temperature", None)
        return Validation(metric=pretraining_metric(model.config, values), values=values)


def _teacher(source: str | os.PathLike[str] | None, layer: int | None) -> HiddenFeatures | None:
    """Load the model whose hidden layer gives the units."""
    if source is None:
        if layer is not None:
            raise ConfigError("units_layer says which layer of units_from; that is missing.")
        return None
    return hidden_teacher(load_model(source), layer=layer)


def hidden_teacher(bundle: ModelBundle, *, layer: int | None = None) -> HiddenFeatures:
    """Give a hidden layer of a trained model, whose clusters are to be the units.

    Args:
        bundle: the model.
        layer: which Transformer layer; None for the one at `TEACHER_DEPTH`.
    """
    if layer is None:
        layer = round(TEACHER_DEPTH * bundle.encoder_config.layers)
    return HiddenFeatures(bundle, layer=layer)


def _finished(run_folder: Path, model_folder: Path) -> PretrainResult | None:
    """Read the result of a run that ended before; None when there is none yet."""
    if not ((run_folder / "result.json").exists() and model_folder.exists()):
        return None
    return _read_result(run_folder, model_folder)


def _read_result(run_folder: Path, model_folder: Path) -> PretrainResult:
    figures = read_json(run_folder / "result.json")
    return from_dict(PretrainResult, {**figures, "model": str(model_folder)})


def _network(
    recipe: Recipe, start: ModelBundle | None, teacher: HiddenFeatures | None
) -> tuple[PretrainingConfig | MaskedUnitConfig, InputSpec]:
    """Take the network and its input from the recipe, or from a model to go on from."""
    encoder = recipe.network.encoder if start is None else start.encoder_config
    spec = InputSpec(normalize=recipe.normalize) if start is None else start.input_spec
    network = None if start is None else start.model.config
    if teacher is not None:
        if recipe.objective != "masked_units":
            raise ConfigError(
                f"units_from is for the objective masked_units, this run has {recipe.objective}."
            )
        if not _geometry(teacher.frame_rule) == _geometry(encoder):
            raise ConfigError(
                "The model that gives the units has other frames than the network: expected the "
                f"convolutions {encoder.conv_layers}, found {teacher.frame_rule.conv_layers}."
            )
        return MaskedUnitConfig(encoder=encoder, units=recipe.units), spec
    if isinstance(network, MaskedUnitConfig):
        return network, spec
    if recipe.objective == "masked_units" and not isinstance(network, PretrainingConfig):
        return MaskedUnitConfig(encoder=encoder, units=recipe.units), spec
    if start is None:
        return recipe.network, spec
    return go_on_from(start.model.config, recipe.network), spec


def _geometry(encoder: EncoderConfig) -> list[tuple[int, int]]:
    """What decides where frames lie: kernel and stride of each convolution."""
    return [(layer.kernel, layer.stride) for layer in encoder.conv_layers]


def _usual(start: str | os.PathLike[str] | None) -> Recipe:
    """Take the recipe that fits when none is named."""
    wide = start is not None and open_model(start).config.encoder.dim >= WIDE
    return continued() if wide else mini()


def recipe_to_go_on(recipe: Recipe, start: ModelBundle | None) -> Recipe:
    """Let the recipe for going on have the settings that networks of this width were trained with.

    Raises:
        ConfigError: if there is nothing to go on from.
    """
    if start is None:
        raise ConfigError(
            f"The recipe {recipe.name} goes on from a trained network: expected one (start), got "
            "none."
        )
    return replace(recipe, network=heads_for(start.encoder_config))


def _report_sampling(sampling: Sampling, folder: Path, *, quiet: bool) -> None:
    """Write down how often each language is heard, and say so."""
    write_json_atomic(folder / "sampling.json", [asdict(group) for group in sampling.groups])
    if quiet:
        return
    if len(sampling.groups) == 1 and not sampling.groups[0].language:
        print("No recording says its language: all are heard equally often.", file=sys.stderr)
        return
    often = sorted(sampling.groups, key=lambda group: -group.passes)
    most, least = (
        f"{one.corpus} {one.language or '(unknown)'} {one.passes:.2g} times".lstrip()
        for one in (often[0], often[-1])
    )
    print(
        f"{len(often)} languages and corpora; an epoch hears {most} and {least}; "
        f"{folder / 'sampling.json'} has all.",
        file=sys.stderr,
    )


def _hold_out(store: SampleStore, config: TrainingConfig) -> tuple[np.ndarray, np.ndarray]:
    """Choose utterances to validate on; returns their numbers and those of the rest."""
    if len(store) == 0:
        raise ConfigError("There is nothing to learn from: none of the recordings can be read.")
    usable = np.flatnonzero(store.num_samples >= int(config.min_seconds * SAMPLE_RATE))
    if len(usable) == 0:
        longest = int(store.num_samples.max()) / SAMPLE_RATE
        raise ConfigError(
            f"There is nothing to learn from: expected recordings of at least "
            f"{config.min_seconds:g} s, the longest has {longest:.2f} s."
        )
    generator = np.random.default_rng(derive_seed(config.seed, "hold out"))
    order = usable[generator.permutation(len(usable))]
    seconds = np.cumsum(store.num_samples[order]) / SAMPLE_RATE
    wanted = min(VALID_SECONDS, VALID_SHARE * float(seconds[-1]))
    count = max(1, int(np.searchsorted(seconds, wanted)))
    if count >= len(order):
        return order, order
    return np.sort(order[:count]), np.sort(order[count:])


def _valid_batches(
    store: SampleStore,
    numbers: np.ndarray,
    spec: InputSpec,
    units: UnitStore | None,
    encoder: EncoderConfig,
) -> list[AudioBatch]:
    """Cut the middle of each held-out utterance, in batches of one length."""
    by_length = numbers[np.argsort(store.num_samples[numbers], kind="stable")]
    stride = encoder.stride_samples
    batches = []
    for first in range(0, len(by_length), VALID_BATCH):
        chosen = by_length[first : first + VALID_BATCH]
        shortest = int(min(store.num_samples[chosen].min(), VALID_CROP_SECONDS * SAMPLE_RATE))
        starts = [
            (int(store.num_samples[number]) - shortest) // (2 * stride) * stride
            for number in chosen
        ]
        batches.append(
            crop_batch(
                store,
                chosen,
                starts,
                shortest,
                input_spec=spec,
                units=units,
                encoder=encoder,
            )
        )
    return batches
