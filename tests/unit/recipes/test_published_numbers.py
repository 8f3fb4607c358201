"""The recipes hold the numbers of their sources, typed here a second time in the sources' units."""

from dataclasses import replace

import pytest

from unheard.config import to_dict
from unheard.data.sampling import SamplingConfig
from unheard.models.config import (
    WAV2VEC2_CONV_LAYERS,
    EncoderConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.pretraining import PretrainingModel
from unheard.models.quantizer import Quantizer
from unheard.recipes.catalogue import RECIPES, get_recipe
from unheard.tasks.recipes import count_parameters
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig, rate_scale

HZ = 16_000

# fairseq @ 3d262bb examples/wav2vec/config/finetuning/*.yaml and xlsr/config/finetune.yaml:
# optimization.lr, .max_update, model.freeze_finetune_updates, .mask_prob, .mask_channel_prob,
# .layerdrop, dataset.max_tokens, distributed_world_size * update_freq
FINETUNING = {
    "wav2vec2-base-ft-10m": (0.00005, 13000, 10000, 0.65, 0.25, 0.1, 3200000, 2 * 4),
    "wav2vec2-base-ft-1h": (0.00005, 13000, 10000, 0.65, 0.25, 0.1, 3200000, 2 * 4),
    "wav2vec2-base-ft-10h": (0.00005, 20000, 10000, 0.65, 0.5, 0.05, 3200000, 2 * 4),
    "wav2vec2-base-ft-100h": (0.00003, 80000, 0, 0.65, 0.5, 0.1, 3200000, 2 * 4),
    "wav2vec2-base-ft-960h": (0.0001, 320000, 0, 0.5, 0.1, 0.1, 3200000, 8 * 1),
    "wav2vec2-large-ft-10m": (0.0001, 13000, 10000, 0.65, 0.25, 0.1, 1280000, 4 * 5),
    "wav2vec2-large-ft-1h": (0.0003, 13000, 10000, 0.75, 0.25, 0.1, 1280000, 4 * 5),
    "wav2vec2-large-ft-10h": (0.0001, 20000, 10000, 0.75, 0.25, 0.1, 1280000, 4 * 5),
    "wav2vec2-large-ft-100h": (0.00003, 80000, 10000, 0.5, 0.5, 0.1, 1280000, 4 * 5),
    "wav2vec2-large-ft-960h": (0.00003, 320000, 10000, 0.5, 0.25, 0.1, 1280000, 24 * 1),
    "xlsr-ft-babel": (0.0003, 26000, 10000, 0.75, 0.25, 0.1, 1280000, 4 * 5),
    "xlsr-ft-common-voice": (0.0003, 13000, 10000, 0.75, 0.25, 0.1, 1280000, 4 * 5),
    "xlsr-ft-voxpopuli": (0.0003, 50000, 10000, 0.75, 0.25, 0.1, 1280000, 4 * 5),
    "xlsr-ft-mls-10h": (0.0003, 20000, 10000, 0.75, 0.25, 0.1, 1280000, 4 * 5),
    "xls-r-2b-ft": (0.00003, 13000, 10000, 0.75, 0.25, 0.1, 2560000, 24),
}

# Baevski et al. 2020 sec. 4.2; fairseq config/pretraining/*.yaml; what recipes/xlsr.py says:
# peak rate, updates, warm-up updates, samples a processor, processors, longest crop [samples]
PRETRAINING = {
    "wav2vec2-base": (0.0005, 400000, 32000, 1400000, 64, 250000),
    "wav2vec2-large": (0.0003, 250000, 20000, 1200000, 128, 320000),
    "wav2vec2-large-lv60k": (0.0003, 600000, 48000, 1200000, 128, 320000),
    "xlsr-53": (0.001, 250000, 25000, 1200000, 128, 320000),
    "xls-r-300m": (0.0003, 1000000, 32000, 2000000, 128, 320000),
    "xls-r-1b": (0.0003, 1000000, 32000, 800000, 200, 320000),
    "xls-r-2b": (0.0003, 1000000, 32000, 400000, 520, 320000),
}

# Encoder with quantiser and projections. Those of 300M and 1B are printed in the README of
# omnilingual-asr for networks of the same shape; the others follow from the tables of the papers.
PARAMETERS = {
    "base": 95_044_608,
    "large": 317_390_592,
    "wav2vec2-base": 95_044_608,
    "wav2vec2-large": 317_380_864,
    "wav2vec2-large-lv60k": 317_390_592,
    "xlsr-53": 317_390_592,
    "xls-r-300m": 317_390_592,
    "xls-r-1b": 965_514_752,
    "xls-r-2b": 2_162_932_352,
    "mms-adapter": 965_514_752,
}

# Hours of sound an update.
HOURS = {
    "wav2vec2-base": 1.6,
    "wav2vec2-large": 2.7,
    "wav2vec2-large-lv60k": 2.7,
    "xls-r-300m": 4.4,
    "xls-r-1b": 2.8,
    "xls-r-2b": 3.6,
}


def frozen_updates(training: TrainingConfig) -> int:
    """Updates that the loop does with the head alone: `progress < head_only`."""
    updates = training.budget.max_steps
    assert updates is not None
    near = round(training.head_only * updates)
    return sum(step / updates < training.head_only for step in range(near + 10))


def test_every_published_fine_tuning_is_checked() -> None:
    found = {name for name in RECIPES if get_recipe(name).stage == "finetuning"}
    assert found == {*FINETUNING, "mms-adapter", "mini-ft-10m"}
    found = {name for name in RECIPES if get_recipe(name).stage == "pretraining"}
    assert found == {*PRETRAINING, "continued"}


@pytest.mark.parametrize("name", FINETUNING)
def test_fine_tuning_is_that_of_the_file(name: str) -> None:
    rate, updates, frozen, time, channel, layer_drop, tokens, processors = FINETUNING[name]
    recipe = get_recipe(name)
    training, settings = recipe.finetuning, recipe.finetune
    assert training.learning_rate == rate
    assert training.budget == Budget(max_steps=updates)
    assert frozen_updates(training) == frozen
    assert settings.masking == MaskingConfig(
        time_probability=time,
        time_span_frames=10,
        time_min_spans=2,
        channel_probability=channel,
        channel_span=64,
        channel_min_spans=0,
    )
    assert settings.layer_drop == layer_drop
    assert training.batch_seconds * HZ == tokens
    assert training.accumulation == processors
    # All of them: adam_betas, adam_eps, no decay, feature_grad_mult 0, dropouts.
    assert (training.betas, training.epsilon, training.weight_decay) == ((0.9, 0.98), 1e-8, 0.0)
    assert settings.feature_grad_scale == 0
    assert settings.activation_dropout == 0.1
    others = (settings.dropout, settings.attention_dropout)
    assert (*others, settings.input_dropout, settings.head_dropout) == (0, 0, 0, 0)
    assert settings.adapter_dim == 0
    scale = training.schedule
    assert [rate_scale(scale, at) for at in (0.0, 0.1, 0.3, 0.5)] == [0.01, 1.0, 1.0, 1.0]
    assert rate_scale(scale, 0.75) == pytest.approx(0.05**0.5)  # exponential, not linear: 0.525
    assert rate_scale(scale, 1.0) == pytest.approx(0.05)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pre_training_is_that_of_the_source(name: str) -> None:
    rate, updates, warmup, samples, processors, crop = PRETRAINING[name]
    training = get_recipe(name).pretraining
    assert training.learning_rate == rate
    assert training.budget == Budget(max_steps=updates)
    assert training.schedule.shape == "linear"
    assert training.schedule.warmup * updates == pytest.approx(warmup, abs=1e-6)
    assert rate_scale(training.schedule, 1.0) == 0
    assert training.batch_seconds * HZ == samples
    assert training.accumulation == processors
    assert training.max_seconds * HZ == crop
    assert training.min_seconds * HZ == 32000
    adam = (training.betas, training.epsilon, training.weight_decay)
    assert adam == ((0.9, 0.98), 1e-6, 0.01)
    if name in HOURS:
        assert processors * samples / HZ / 3600 == pytest.approx(HOURS[name], abs=0.06)


@pytest.mark.parametrize("name", PRETRAINING)
def test_the_temperature_falls_by_the_same_factor_each_update(name: str) -> None:
    config = get_recipe(name).network.quantizer
    updates = PRETRAINING[name][1]
    quantizer = Quantizer(4, replace(config, dim=2, entries=2))
    for update in (0, 1, 100_000, 240_000, 300_000, 599_000, 600_000, 999_999):
        expected = max(2 * 0.999995**update, config.temperature_end)
        if update < updates:
            assert quantizer.temperature(update / updates) == pytest.approx(expected, rel=1e-9)
    assert config.temperature_end == (0.5 if name == "wav2vec2-base" else 0.1)


def test_the_losses_and_masks_of_pre_training() -> None:
    for name in PRETRAINING:
        network = get_recipe(name).network
        assert network.masking == MaskingConfig(time_probability=0.65, time_span_frames=10)
        assert (network.distractors, network.contrastive_temperature) == (100, 0.1)
        group_norm = network.encoder.conv_norm == "group"
        assert network.diversity_weight == 0.1
        assert network.feature_penalty_weight == (10.0 if group_norm else 0.0)
        assert network.encoder.feature_grad_scale == (0.1 if group_norm else 1.0)
        assert get_recipe(name).normalize is not group_norm


def test_dropouts_of_pre_training() -> None:
    def dropouts(name: str) -> tuple[float, ...]:
        network = get_recipe(name).network
        encoder = network.encoder
        return (
            encoder.dropout,
            encoder.attention_dropout,
            encoder.activation_dropout,
            encoder.input_dropout,
            network.feature_dropout,
            encoder.layer_drop,
        )

    assert dropouts("wav2vec2-base") == (0.1, 0.1, 0.0, 0.1, 0.1, 0.05)
    assert dropouts("wav2vec2-large") == (0.1, 0.1, 0.0, 0.1, 0.1, 0.2)
    for name in ("wav2vec2-large-lv60k", "xlsr-53", "xls-r-300m", "xls-r-1b", "xls-r-2b"):
        assert dropouts(name) == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_as_many_parameters_as_the_released_ones(name: str) -> None:
    assert count_parameters(get_recipe(name).network) == PARAMETERS[name]


def test_parameters_are_counted_as_the_network_has_them() -> None:
    network = get_recipe("nano").network
    real = sum(weight.numel() for weight in PretrainingModel(network).parameters())
    assert count_parameters(network) == real


def test_languages_are_sampled_as_the_papers_do() -> None:
    assert get_recipe("xlsr-53").sampling == SamplingConfig(language=0.5, corpus=None)
    for name in ("xls-r-300m", "xls-r-1b", "xls-r-2b"):
        assert get_recipe(name).sampling == SamplingConfig(language=0.5, corpus=0.5)
    assert get_recipe("wav2vec2-base").sampling is None


def test_the_adapters_of_mms() -> None:
    """transformers run_speech_recognition_ctc_adapter.py and its README."""
    recipe = get_recipe("mms-adapter")
    training, settings = recipe.finetuning, recipe.finetune
    assert settings.adapter_dim == 16
    # Adapters of all layers: norm, down and up.
    encoder = recipe.network.encoder
    one = 2 * encoder.dim + encoder.dim * 16 + 16 + 16 * encoder.dim + encoder.dim
    assert encoder.layers * one == 2_151_168
    dropouts = (settings.dropout, settings.attention_dropout, settings.activation_dropout)
    assert (*dropouts, settings.input_dropout, settings.head_dropout) == (0, 0, 0, 0, 0)
    assert settings.layer_drop == 0
    assert settings.masking == MaskingConfig(time_probability=0.05)
    assert training.learning_rate == 1e-3
    assert (training.betas, training.epsilon, training.weight_decay) == ((0.9, 0.999), 1e-8, 0)
    assert training.schedule == ScheduleConfig(shape="linear", warmup=0.05)
    assert training.schedule.warmup * (training.budget.max_steps or 0) == 100
    assert training.head_only == 0


def test_the_general_recipes_are_what_they_were() -> None:
    """Numbers that stored runs and published results were made with."""
    base, large = get_recipe("base"), get_recipe("large")
    assert base.network == PretrainingConfig(
        encoder=EncoderConfig(
            conv_layers=WAV2VEC2_CONV_LAYERS,
            input_dropout=0.1,
            layer_drop=0.05,
            feature_grad_scale=0.1,
        ),
        feature_dropout=0.1,
    )
    assert base.finetuning == get_recipe("wav2vec2-base-ft-10h").finetuning
    assert base.finetune == get_recipe("wav2vec2-base-ft-10h").finetune
    wanted = replace(get_recipe("wav2vec2-base").pretraining, max_seconds=15.6)
    assert base.pretraining == wanted
    assert large.finetuning == get_recipe("wav2vec2-large-ft-10h").finetuning
    assert large.finetune == get_recipe("wav2vec2-large-ft-10h").finetune
    assert large.pretraining == get_recipe("wav2vec2-large-lv60k").pretraining
    assert large.network.quantizer == QuantizerConfig(
        dim=768, temperature_end=0.1, temperature_floor_at=0.9986
    )
    for name, minutes in (("nano", (3.0, 1.5)), ("mini", (90.0, 20.0))):
        recipe = get_recipe(name)
        spent = (recipe.pretraining.budget.max_minutes, recipe.finetuning.budget.max_minutes)
        assert spent == minutes
        rates = (recipe.pretraining.learning_rate, recipe.finetuning.learning_rate)
        assert rates == (1e-3, 1e-3)
        assert recipe.objective == "masked_units"


def test_recipes_are_known_by_their_own_name_and_say_where_they_are_from() -> None:
    for name in RECIPES:
        recipe = get_recipe(name)
        assert recipe.name == name
        assert recipe.source
        assert recipe.best_for
        assert to_dict(recipe)["name"] == name
