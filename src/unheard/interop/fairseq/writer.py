"""Checkpoints that fairseq loads: checkpoint.pt in the new style, and dict.ltr.txt beside it.

Only plain data and tensors are written, so that the file can be read without trust. fairseq 0.12.2
and later load it strictly; for a recogniser the folder must be given, because the dictionary is
read from there:

    load_model_ensemble_and_task([f"{folder}/checkpoint.pt"], arg_overrides={"data": folder})
"""

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unheard.errors import FormatError
from unheard.files import write_text_atomic
from unheard.interop import storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.fairseq import dictionary, keymap
from unheard.interop.fairseq.adapters import DICTIONARIES, LANGUAGES, NETWORK
from unheard.interop.fairseq.literals import write_triples
from unheard.interop.fairseq.reader import CHECKPOINT_FILE
from unheard.interop.fairseq.settings import NORMALIZE_EPSILON
from unheard.models.config import CtcConfig, EncoderConfig, MaskingConfig, PretrainingConfig

logger = logging.getLogger(__name__)

DICTIONARY_FILE = "dict.ltr.txt"

NEVER = -1e4
"""Bias of an output that the alphabet does not have: its probability is zero in every type."""

DEFAULT_UPDATES = 400_000
"""Length of a run that the temperature of a pre-trained network is written for [updates]."""


def save(bundle: ModelBundle, folder: str | Path) -> Path:
    """Write a model as a folder with a fairseq checkpoint, whole or not at all.

    fairseq lets padding into the statistics of group-norm models: one utterance at a time gives
    what this package gives. Outputs of a recogniser are put into fairseq's order, with outputs
    that never win where the alphabet lacks one of its four special symbols.

    Args:
        bundle: a pre-trained model or a recogniser. Language adapters (layer type "trf_adp",
            which fairseq has since 2023) are written as Meta's files have them: the one in use in
            the network, and all in a table, with the dictionary of each in dict/LANGUAGE.txt. All
            languages are in memory at once for that.
        folder: where; a new or empty folder, or an older one of this kind.

    Returns:
        The folder.

    Raises:
        FormatError: if fairseq has no such network, or the folder holds something else.
        AlphabetError: if the alphabet does not fit a dictionary of fairseq.
        CheckpointError: if a weight is not finite.
    """
    target = Path(folder)
    config = bundle.config
    if not isinstance(config, CtcConfig | PretrainingConfig):
        raise FormatError(
            f"fairseq has no network for a {type(config).__name__}: expected a pre-trained model "
            "or a recogniser. Write it as 'huggingface' or 'native' instead."
        )
    if config.encoder.norm_epsilon != 1e-5:
        raise FormatError(
            f"fairseq has no option for norm_epsilon = {config.encoder.norm_epsilon}: its norms "
            "have 1e-05. Write the model as 'huggingface' or 'native' instead."
        )
    if bundle.input_spec.normalize and bundle.input_spec.normalize_epsilon != NORMALIZE_EPSILON:
        logger.info(
            "fairseq normalises recordings with an epsilon of %g, this model with %g",
            NORMALIZE_EPSILON,
            bundle.input_spec.normalize_epsilon,
        )
    weights = dict(bundle.model.state_dict())
    storage.check_finite(weights, source=f"the model for {target}")
    texts: dict[str, str] = {}
    if isinstance(config, CtcConfig) and bundle.alphabet is not None:
        outputs = dictionary.arrange(bundle.alphabet)
        weights |= _arrange_head(weights, outputs.rows)
        texts[DICTIONARY_FILE] = dictionary.write_text(outputs.tokens)
    checkpoint: dict[str, Any] = {
        "args": None,
        "cfg": _settings(bundle, config),
        NETWORK: _network(weights, config),
        "criterion": None,
        "optimizer_history": [_HISTORY],
        "task_state": {},
        "extra_state": {"epoch": 1},
        "last_optimizer_state": None,
    }
    if isinstance(config, CtcConfig) and config.encoder.adapter_dim and bundle.adapters:
        checkpoint[LANGUAGES] = _table(bundle, config)
        for language, adapter in bundle.adapters.items():
            tokens = dictionary.arrange(adapter.alphabet).tokens
            texts[f"{DICTIONARIES}/{language}.txt"] = dictionary.write_text(tokens)
    with storage.atomic_folder(target, is_ours=_is_ours) as temporary:
        path = temporary / CHECKPOINT_FILE
        torch.save(checkpoint, path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        for name, text in texts.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            write_text_atomic(temporary / name, text)
    return target


_HISTORY: Mapping[str, Any] = {
    "criterion_name": "",
    "optimizer_name": "",
    "lr_scheduler_state": {},
    "num_updates": 0,
}
"""What fairseq expects of a file's past."""


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a checkpoint and dictionaries alone."""
    names = {entry.name for entry in folder.iterdir()}
    return CHECKPOINT_FILE in names and names <= {CHECKPOINT_FILE, DICTIONARY_FILE, DICTIONARIES}


def _network(
    weights: Mapping[str, Tensor], config: CtcConfig | PretrainingConfig
) -> dict[str, Tensor]:
    """Name and shape the weights as fairseq does."""
    ctc, encoder = isinstance(config, CtcConfig), config.encoder
    leave_out: tuple[str, ...] = ()
    if encoder.conv_channels == encoder.dim and "encoder.projection.weight" in weights:
        leave_out = ("encoder.projection.weight", "encoder.projection.bias")
        weight, bias = (weights[name] for name in leave_out)
        if bias.any() or not torch.equal(weight, torch.eye(encoder.dim).to(weight)):
            raise FormatError(
                "fairseq has no projection where the convolutions have as many channels as the "
                f"Transformer ({encoder.dim}), and this model has one. Write it as 'huggingface' "
                "or 'native' instead."
            )
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name in leave_out:
            continue
        tensor = weight.detach().cpu()
        if name == "quantizer.codebook":
            tensor = tensor.flatten(0, 1)[None]  # (groups, entries, size) -> (1, all, size)
        elif keymap.is_adapter(name):
            tensor = tensor[None]  # one language
        theirs = keymap.fairseq_name(name, conv_norm=encoder.conv_norm, ctc=ctc)
        tensors[theirs] = _owned(tensor)
    return tensors


def _table(bundle: ModelBundle, config: CtcConfig) -> dict[str, Any]:
    """Read every language and name its weights as fairseq does."""
    table: dict[str, Any] = {}
    for language, adapter in bundle.adapters.items():
        known = adapter.store.tensors
        shapes = {
            name: known[place.name].shape[0 if place.row is None else 1 :]
            for name, place in adapter.places.items()
        }
        weights = storage.read_weights(
            adapter.store,
            adapter.places,
            shapes,
            source=f"the adapter {language!r}",
            dtype=bundle.dtype,
        )
        weights |= _arrange_head(weights, dictionary.arrange(adapter.alphabet).rows)
        # Without a task_state fairseq takes the dictionary of its task: dict/LANGUAGE.txt must
        # be given to it as dict.ltr.txt.
        table[language] = {NETWORK: _network(weights, config), "task_state": {}}
    return table


def _owned(tensor: Tensor) -> Tensor:
    """Give a tensor memory of its own; a file would hold all that it is a view of."""
    tensor = tensor.contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _arrange_head(weights: Mapping[str, Tensor], rows: tuple[int | None, ...]) -> dict[str, Tensor]:
    """Put the outputs of the head into fairseq's order."""
    weight, bias = weights["head.weight"], weights["head.bias"]
    if rows == tuple(range(weight.shape[0])):
        return {}
    there = torch.tensor([row is not None for row in rows], device=weight.device)
    chosen = torch.tensor([row or 0 for row in rows], device=weight.device)
    return {
        "head.weight": weight[chosen] * there[:, None],
        "head.bias": torch.where(there, bias[chosen], NEVER),
    }


def _settings(bundle: ModelBundle, config: CtcConfig | PretrainingConfig) -> dict[str, Any]:
    """Write all options that fairseq needs to make the network and its task."""
    task = _task(bundle)
    if isinstance(config, PretrainingConfig):
        criterion = {
            "_name": "wav2vec",
            "infonce": True,
            "loss_weights": [config.diversity_weight, config.feature_penalty_weight],
            "log_keys": ["prob_perplexity", "code_perplexity", "temp"],
        }
        return {**_AROUND, "task": task, "model": _pretrained(config), "criterion": criterion}
    before = {**_AROUND, "task": task, "model": _pretrained(config), "criterion": None}
    return {
        **_AROUND,
        "task": task
        | {
            "_name": "audio_finetuning",
            "labels": "ltr",
            "autoregressive": False,
            "eval_wer": False,
        }
        | _languages(bundle),
        "model": _finetuned(config) | {"w2v_args": before, "normalize": task["normalize"]},
        "criterion": {"_name": "ctc", "zero_infinity": True, "post_process": "letter"},
    }


_AROUND: Mapping[str, Any] = {
    "_name": None,
    "common": {"_name": None, "fp16": False, "seed": 1, "tpu": False},
    "dataset": {"_name": None, "required_seq_len_multiple": 1},
    "distributed_training": {"_name": None, "ddp_backend": "pytorch_ddp"},
    "optimization": {"_name": None, "max_update": DEFAULT_UPDATES},
}
"""Options around those of model and task."""


def _task(bundle: ModelBundle) -> dict[str, Any]:
    """Options of the data."""
    return {
        "_name": "audio_pretraining",
        "data": ".",
        "labels": None,
        "sample_rate": bundle.input_spec.sample_rate,
        "normalize": bundle.input_spec.normalize,
        "enable_padding": False,
        "max_sample_size": None,
        "min_sample_size": None,
        "binarized_dataset": False,
        "num_batch_buckets": 0,
        "tpu": False,
        "text_compression_level": "none",
    }


def _languages(bundle: ModelBundle) -> dict[str, Any]:
    """Name the one language of a network with adapters."""
    if not bundle.encoder_config.adapter_dim:
        return {}
    return {
        "multi_corpus_keys": bundle.adapter or "0",
        "multi_corpus_sampling_weights": "1",
    }


def _pretrained(config: CtcConfig | PretrainingConfig) -> dict[str, Any]:
    """Options of the network as a pre-trained one."""
    encoder = config.encoder
    options: dict[str, Any] = {
        "_name": "wav2vec2",
        "extractor_mode": "layer_norm" if encoder.conv_norm == "layer" else "default",
        "encoder_layers": encoder.layers,
        "encoder_embed_dim": encoder.dim,
        "encoder_ffn_embed_dim": encoder.ffn_dim,
        "encoder_attention_heads": encoder.heads,
        "activation_fn": "gelu",
        "layer_type": "transformer",
        "encoder_layerdrop": encoder.layer_drop,
        "layer_norm_first": encoder.norm_first,
        "conv_feature_layers": write_triples(
            (layer.channels, layer.kernel, layer.stride) for layer in encoder.conv_layers
        ),
        "conv_bias": encoder.conv_bias,
        "conv_pos": encoder.positional_kernel,
        "conv_pos_groups": encoder.positional_groups,
        "pos_conv_depth": 1,
        "crop_seq_to_multiple": 1,
        "required_seq_len_multiple": 2,
        "checkpoint_activations": False,
        "max_positions": 100_000,
        "fp16": False,
        "quantize_targets": True,
        "quantize_input": False,
        "same_quantizer": False,
        "target_glu": False,
        "quantizer_depth": 1,
        "quantizer_factor": 3,
        "negatives_from_everywhere": False,
        "cross_sample_negatives": 0,
        "codebook_negatives": 0,
        **_shared(encoder, config.masking),
    }
    if isinstance(config, PretrainingConfig):
        quantizer = config.quantizer
        options |= {
            "dropout_features": config.feature_dropout,
            "final_dim": config.projection_dim,
            "latent_vars": quantizer.entries,
            "latent_groups": quantizer.groups,
            "latent_dim": quantizer.dim,
            "latent_temp": [
                quantizer.temperature_start,
                quantizer.temperature_end,
                _decay(config),
            ],
            "num_negatives": config.distractors,
            "logit_temp": config.contrastive_temperature,
        }
    else:
        # Never used: fairseq makes the heads of pre-training and drops them.
        options |= {"final_dim": 2, "latent_vars": 2, "latent_groups": 1, "latent_dim": 2}
    return options


def _finetuned(config: CtcConfig) -> dict[str, Any]:
    """Options of the network as a recogniser."""
    encoder, masking = config.encoder, config.masking
    options: dict[str, Any] = {
        "_name": "wav2vec_ctc",
        "w2v_path": "",
        "no_pretrained_weights": True,
        "apply_mask": masking.time_probability > 0 or masking.channel_probability > 0,
        "final_dropout": config.head_dropout,
        "layerdrop": encoder.layer_drop,
        "freeze_finetune_updates": 0,
        "blank_weight": 0.0,
        "blank_mode": "add",
        "data": ".",
        "ddp_backend": "pytorch_ddp",
        "checkpoint_activations": False,
        "offload_activations": False,
        "min_params_to_wrap": 100_000_000,
        **_shared(encoder, masking),
    }
    if encoder.adapter_dim:
        options |= {
            "layer_type": "trf_adp",
            "adp_num": 1,
            "adp_dim": encoder.adapter_dim,
            "adp_act_fn": "relu",
            "adp_trf_idx": "all",
        }
    return options


def _shared(encoder: EncoderConfig, masking: MaskingConfig) -> dict[str, Any]:
    """Options that fairseq has for pre-training and for fine-tuning."""
    return {
        "dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout,
        "activation_dropout": encoder.activation_dropout,
        "dropout_input": encoder.input_dropout,
        "feature_grad_mult": encoder.feature_grad_scale,
        "mask_prob": masking.time_probability,
        "mask_length": masking.time_span_frames,
        "mask_selection": "static",
        "mask_other": 0.0,
        "no_mask_overlap": False,
        "mask_min_space": 1,
        "mask_dropout": 0.0,
        "require_same_masks": True,
        "mask_channel_prob": masking.channel_probability,
        "mask_channel_length": masking.channel_span,
        "mask_channel_selection": "static",
        "mask_channel_other": 0.0,
        "no_mask_channel_overlap": False,
        "mask_channel_min_space": 1,
        "mask_channel_before": False,
    }


def _decay(config: PretrainingConfig) -> float:
    """Write a temperature's decay as fairseq does: a factor an update."""
    quantizer = config.quantizer
    ratio = quantizer.temperature_end / quantizer.temperature_start
    return math.exp(math.log(ratio) / (quantizer.temperature_floor_at * DEFAULT_UPDATES))
