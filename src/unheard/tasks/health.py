"""What the watch over a training run is told of the run: its objective, its limits, its data."""

import math
from collections.abc import Mapping, Sequence

from unheard.data.store import SampleStore
from unheard.models.config import EncoderConfig, MaskedUnitConfig, PretrainingConfig
from unheard.text.alphabet import Alphabet
from unheard.training.config import TrainingConfig
from unheard.training.health.before import (
    check_transcripts,
    check_vocabulary,
    constant_output_loss,
)
from unheard.training.health.findings import Nature
from unheard.training.health.quantiser import COLLAPSED, codebook_share
from unheard.training.health.watch import HealthWatch

LACKING = "characters that the alphabet lacks: "
"""How the reason begins for which a transcript is left out that the network cannot write."""


def pretraining_watch(
    network: PretrainingConfig | MaskedUnitConfig, config: TrainingConfig, *, pretrained: bool
) -> HealthWatch:
    """Make the watch over a pre-training.

    Args:
        network: what learns.
        config: settings of the training.
        pretrained: whether it goes on from a trained network.
    """
    if isinstance(network, MaskedUnitConfig):
        return HealthWatch(
            Nature(
                objective="masked_units",
                learning_rate=config.learning_rate,
                warmup=config.schedule.warmup,
                batch_seconds=config.batch_seconds * config.accumulation,
                chance_nats=math.log(network.units),
                pretrained=pretrained,
            )
        )
    return HealthWatch(
        Nature(
            objective="contrastive",
            learning_rate=config.learning_rate,
            warmup=config.schedule.warmup,
            batch_seconds=config.batch_seconds * config.accumulation,
            chance_nats=math.log1p(network.distractors),
            groups=network.quantizer.groups,
            entries=network.quantizer.entries,
            diversity_weight=network.diversity_weight,
            temperature_end=network.quantizer.temperature_end,
            pretrained=pretrained,
        )
    )


def pretraining_metric(
    network: PretrainingConfig | MaskedUnitConfig, values: Mapping[str, float]
) -> float:
    """Choose the figure of a validation by which the best step is found; lower is better.

    The contrastive loss of a collapsed codebook is near zero and worth nothing: it counts as that
    of guessing.
    """
    if isinstance(network, MaskedUnitConfig):
        return values["masked"]
    quantizer = network.quantizer
    loss, guessing = values["contrastive"], math.log1p(network.distractors)
    if quantizer.entries < 2:
        return loss
    share = codebook_share(
        values["code_perplexity"], groups=quantizer.groups, entries=quantizer.entries
    )
    return max(loss, guessing) if share < COLLAPSED else loss


def writing_watch(
    stores: Mapping[str, SampleStore],
    targets: Mapping[str, Sequence[Sequence[int]]],
    left_out: Mapping[str, Sequence[Mapping[str, str]]],
    *,
    alphabet: Alphabet,
    encoder: EncoderConfig,
    config: TrainingConfig,
    pretrained: bool,
) -> HealthWatch:
    """Make the watch over a fine-tuning, with what can be said before it begins.

    Args:
        stores: recordings of "training" and "validation".
        targets: labels of each of them.
        left_out: rows {reason, detail} of the utterances that cannot be used.
        alphabet: of the network.
        encoder: what makes frames of the recordings.
        config: settings of the training.
        pretrained: whether it goes on from a trained network.
    """
    before = check_vocabulary(targets["training"], alphabet)
    for where, rows in left_out.items():
        reasons = [row["reason"] for row in rows]
        foreign = {
            character
            for row in rows
            if row["reason"] == "not_in_alphabet"
            for character in row["detail"].removeprefix(LACKING).split()
        }
        before += check_transcripts(
            kept=targets[where],
            too_short=reasons.count("too_short_for_text"),
            foreign=reasons.count("not_in_alphabet"),
            foreign_characters=sorted(foreign),
            where=where,
        )
    frames = [encoder.num_frames(int(size)) for size in stores["training"].num_samples]
    return HealthWatch(
        Nature(
            objective="ctc",
            learning_rate=config.learning_rate,
            warmup=config.schedule.warmup,
            head_only=config.head_only if pretrained else 0.0,
            batch_seconds=config.batch_seconds * config.accumulation,
            silent_nats=constant_output_loss(
                frames, targets["training"], outputs=len(alphabet), blank=alphabet.blank_id
            ),
            pretrained=pretrained,
        ),
        before=before,
    )
