"""Training of a Transformer language model, from sentences to a model folder: `lm train`."""

import hashlib
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import unheard
from unheard.config import override, to_dict
from unheard.data.batching import Position
from unheard.data.texts import TextBatch, TextSource
from unheard.errors import ConfigError
from unheard.files import read_json, write_json_atomic
from unheard.interop.language_model import LanguageModelBundle, save_language_model
from unheard.interop.load import RESULT_FOLDER
from unheard.lm.pieces import END_ID, START_ID, Pieces, PieceUnits
from unheard.models.language_model import LanguageModel
from unheard.objectives.next_token import next_token_objective
from unheard.recipes.language_model import LanguageModelRecipe, language_model_recipe
from unheard.tasks.lm import TransformerTraining
from unheard.tasks.runs import (
    Changes,
    budget_of,
    choose_device,
    keep_settings,
    named_changes,
    seeded,
)
from unheard.tensors import derive_seed
from unheard.training.checkpoint import load_checkpoint
from unheard.training.loop import Validation, train
from unheard.training.memory import keep_freed_memory
from unheard.training.precision import autocast, resolve_precision

VALID_SHARE = 0.05
"""Of the different sentences, held out to see when to stop."""
VALID_SENTENCES = 2000
"""Held out at most."""


def train_transformer(
    texts: Iterable[str],
    *,
    out: str | os.PathLike[str],
    units: PieceUnits = "piece",
    pieces: int | None = None,
    valid: Iterable[str] | None = None,
    normalizer: str | None = None,
    set: Changes = (),
    max_minutes: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> TransformerTraining:
    """Train a Transformer language model; the same call again goes on where it was stopped.

    Args:
        texts: sentences, as the recogniser writes them.
        out: run folder; the model folder is OUT/model.
        units: word pieces or characters.
        pieces: how many word pieces at most; the recipe's own by default.
        valid: sentences to hold out; by default a twentieth of the different ones.
        normalizer: what was done to the texts, to be stored with the model.
        set: settings to change, such as network.layers=6 or training.learning_rate=5e-4.
        max_minutes: time to train [minutes].
        max_steps: updates of the weights; the recipe's own if neither is given.
        seed: of everything that is drawn.
        device: "cpu", "cuda", ...; "auto" takes a graphics processor if there is one.
        quiet: print nothing while it runs.

    Raises:
        ConfigError: if there is too little text, a setting is out of range, or the folder holds a
            run with other settings.
    """
    keep_freed_memory()
    learned, held_out = part(texts, valid, seed=seed)
    recipe = _choose_recipe(
        learned, pieces=pieces, changes=named_changes(set), minutes=max_minutes, steps=max_steps
    )
    recipe = replace(recipe, training=replace(recipe.training, seed=seed))
    folder = Path(out)
    keep_settings(
        folder / "config.json",
        {
            "kind": "transformer",
            "recipe": to_dict(recipe),
            "units": units,
            "normalizer": normalizer,
            "text": _fingerprint(learned),
            "valid": _fingerprint(held_out),
        },
    )
    result = folder / "result.json"
    if result.exists() and (folder / RESULT_FOLDER).exists():
        return TransformerTraining(**{**read_json(result), "path": str(folder / RESULT_FOLDER)})
    job = _Job(learned, held_out, recipe, units, folder, choose_device(device))
    return job.run(normalizer, quiet=quiet)


def part(
    texts: Iterable[str], valid: Iterable[str] | None, *, seed: int
) -> tuple[list[str], list[str]]:
    """Part sentences to learn from and to hold out; none is in both, however often it is there.

    Args:
        texts: sentences; empty ones are passed over.
        valid: sentences to hold out; None for a share of `texts`.
        seed: draws which.

    Raises:
        ConfigError: if nothing is left to learn from or to hold out.
    """
    given = [text for text in texts if text.strip()]
    if valid is not None:
        held_out = list(dict.fromkeys(text for text in valid if text.strip()))
    else:
        different = sorted({*given})
        count = min(VALID_SENTENCES, math.ceil(VALID_SHARE * len(different)))
        generator = np.random.default_rng(derive_seed(seed, "hold out"))
        chosen = generator.choice(len(different), size=count, replace=False)
        held_out = [different[number] for number in sorted(chosen.tolist())]
    known = {*held_out}
    learned = [text for text in given if text not in known]
    if not learned or not held_out:
        raise ConfigError(
            "There is too little text for a language model: expected sentences to learn from and "
            f"others to hold out, found {len(learned)} and {len(held_out)}."
        )
    return learned, held_out


def _choose_recipe(
    learned: Sequence[str],
    *,
    pieces: int | None,
    changes: dict[str, object],
    minutes: float | None,
    steps: int | None,
) -> LanguageModelRecipe:
    """Take the recipe for so much text, with what the caller changes."""
    recipe = language_model_recipe(sum(len(text.split()) for text in learned))
    if pieces is not None:
        changes = {"network.vocab": pieces, **changes}
    recipe = override(recipe, changes)
    budget = budget_of(recipe.training.budget, minutes, steps)
    training = replace(recipe.training, budget=budget)
    every = training.validate_every_steps
    if budget.max_steps is None:
        training = replace(training, validate_every_steps=None, validate_every_seconds=15.0)
    elif every is not None and budget != recipe.training.budget:
        share = every / (recipe.training.budget.max_steps or every)
        training = replace(
            training, validate_every_steps=max(1, math.ceil(share * budget.max_steps))
        )
    return replace(recipe, training=training)


def _fingerprint(texts: Sequence[str]) -> str:
    """Tell texts apart."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


class _Job:
    """One training, from sentences to a model folder."""

    def __init__(
        self,
        learned: Sequence[str],
        held_out: Sequence[str],
        recipe: LanguageModelRecipe,
        units: PieceUnits,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.learned = learned
        self.held_out = held_out
        self.recipe = recipe
        self.units: PieceUnits = units
        self.folder = folder
        self.device = device
        # The same text and settings give the same pieces, so there is no need to store them.
        self.pieces = Pieces.train(learned, size=recipe.network.vocab if units == "piece" else 0)
        self.network = replace(recipe.network, vocab=len(self.pieces))
        self.batches = self._valid_batches()
        self.words = sum(len(text.split()) + 1 for text in held_out)
        self.characters = sum(len(text) + 1 for text in held_out)
        with seeded(recipe.training.seed, "weights"):
            self.model = LanguageModel(self.network)

    def run(self, normalizer: str | None, *, quiet: bool) -> TransformerTraining:
        """Train, take the best weights, write the model folder."""
        config = self.recipe.training
        parameters = sum(weight.numel() for weight in self.model.parameters())
        source = self._source(self.learned, dropout=self.recipe.piece_dropout)
        if not quiet:
            print(
                f"{len(self.learned):,} sentences, {source.tokens:,} {self.units}s of "
                f"{len(self.pieces):,} kinds; a network of {parameters:,} weights",
                file=sys.stderr,
            )
        trained = train(
            self.model,
            next_token_objective,
            source,
            config,
            folder=self.folder,
            name="lm",
            validate=self.validate,
            device=self.device,
            quiet=quiet,
        )
        best = load_checkpoint(trained.best, model=self.model, optimizer=None)
        figures = best.extra["validation"]
        result = TransformerTraining(
            path=str(self.folder / RESULT_FOLDER),
            units=self.units,
            perplexity=figures["perplexity"],
            bits_per_character=figures["bits_per_character"],
            vocabulary=len(self.pieces),
            parameters=parameters,
            sentences=len(self.learned),
            valid_sentences=len(self.held_out),
            steps=trained.state.step,
            best_step=best.step,
            minutes=trained.state.elapsed_seconds / 60,
        )
        bundle = LanguageModelBundle(
            model=self.model.cpu().eval(),
            pieces=self.pieces,
            units=self.units,
            normalizer=normalizer,
            provenance={
                "made_by": f"unheard {unheard.__version__}",
                "task": "lm train",
                "recipe": self.recipe.name,
                "seed": config.seed,
                **{name: value for name, value in vars(result).items() if name != "path"},
            },
        )
        save_language_model(bundle, self.folder / RESULT_FOLDER)
        write_json_atomic(self.folder / "result.json", vars(result))
        return result

    def validate(self) -> Validation:
        """Measure the held-out sentences."""
        config = self.recipe.training
        dtype = resolve_precision(config.precision, self.device)
        loss = count = hits = 0.0
        for batch in self.batches:
            with autocast(dtype, self.device):
                terms = next_token_objective(
                    self.model,
                    batch.to(self.device),
                    progress=1.0,
                    generator=torch.Generator(self.device),
                )
            loss += float(terms.total)
            count += float(terms.count)
            hits += float(terms.parts["accuracy"])
        perplexity = math.exp(min(loss / self.words, 700.0))
        return Validation(
            metric=perplexity,
            values={
                "perplexity": perplexity,
                "bits_per_character": loss / math.log(2) / self.characters,
                "loss": loss / count,
                "accuracy": hits / count,
            },
        )

    def _source(self, texts: Sequence[str], *, dropout: float = 0.0) -> TextSource:
        return TextSource(
            texts,
            self.pieces,
            start=START_ID,
            end=END_ID,
            context=self.network.context,
            batch_tokens=self.recipe.batch_tokens,
            seed=self.recipe.training.seed,
            dropout=dropout,
        )

    def _valid_batches(self) -> list[TextBatch]:
        """All held-out sentences, once."""
        source = self._source(self.held_out)
        return [source.load(Position(batch=number)) for number in range(source.batches)]
