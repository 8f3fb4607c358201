"""The six classes of transformers: tiny random models of each kind, with their stages."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.parity.hf_models import SMALL, redraw
from torch import Tensor, nn
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector,
    Wav2Vec2Model,
)

CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        Wav2Vec2Model,
        Wav2Vec2ForPreTraining,
        Wav2Vec2ForCTC,
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2ForAudioFrameClassification,
        Wav2Vec2ForXVector,
    )
}

LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0, "layerdrop": 0.0}

KINDS: dict[str, dict[str, Any]] = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "large": {
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "conv_bias": False,
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
    },
    "large-lv60": LAYER_NORM | {"num_hidden_layers": 4},
    "xlsr": LAYER_NORM | {"mask_time_prob": 0.075, "mask_feature_prob": 0.004},
    "mms": LAYER_NORM | {"adapter_attn_dim": 6, "layer_norm_eps": 3e-5},
}
"""Option sets of the published families, in tiny sizes."""

HEADS: dict[str, Any] = {
    "id2label": {0: "acholi", 1: "lug", 2: "sw", 3: "x'y"},
    "label2id": {"acholi": 0, "lug": 1, "sw": 2, "x'y": 3},
    "classifier_proj_size": 14,
    "tdnn_dim": (14, 12, 18),
    "tdnn_kernel": (3, 2, 1),
    "tdnn_dilation": (2, 3, 1),
    "xvector_output_dim": 9,
}


def make_theirs(name: str, kind: str, *, seed: int = 4, **extra: Any) -> Any:
    """Make a random model of transformers: every tensor drawn anew, float64, for evaluation."""
    torch.manual_seed(seed)
    model = CLASSES[name](Wav2Vec2Config(**(SMALL | KINDS[kind] | HEADS | extra)))
    redraw(model, seed=seed)
    return model.double().eval()


@dataclass(frozen=True)
class Stages:
    """Modules to watch by the name of the stage, and the function that runs the network."""

    modules: dict[str, nn.Module]
    run: Callable[[], Any]


def their_stages(model: Any, samples: Tensor, **inputs: Any) -> Stages:
    """Name the stages of a model of transformers."""
    body = getattr(model, "wav2vec2", model)
    modules: dict[str, nn.Module] = {
        f"conv {n}": layer for n, layer in enumerate(body.feature_extractor.conv_layers)
    }
    modules["feature norm"] = body.feature_projection.layer_norm
    modules["projected"] = body.feature_projection.projection
    modules["positional"] = body.encoder.pos_conv_embed
    for number, layer in enumerate(body.encoder.layers):
        modules[f"layer {number}"] = layer
        if getattr(layer, "adapter_layer", None) is not None:
            modules[f"adapter {number}"] = layer.adapter_layer
    heads = {
        "lm_head": "head",
        "project_q": "project_targets",
        "project_hid": "project_context",
        "projector": "project",
        "feature_extractor": "embed",
        "classifier": "classify",
    }
    if body is not model:
        modules |= {
            ours: getattr(model, their) for their, ours in heads.items() if hasattr(model, their)
        }
        modules |= {f"tdnn {n}": layer for n, layer in enumerate(getattr(model, "tdnn", ()))}
    return Stages(modules, lambda: model(samples, **inputs))


def our_stages(model: Any, samples: Tensor, **inputs: Any) -> Stages:
    """Name the stages of a network of ours, as those of transformers."""
    encoder = model.encoder
    modules: dict[str, nn.Module] = {
        f"conv {n}": block for n, block in enumerate(encoder.feature_encoder.blocks)
    }
    modules["feature norm"] = encoder.feature_norm
    modules["projected"] = encoder.projection
    modules["positional"] = encoder.transformer.positional
    for number, layer in enumerate(encoder.transformer.layers):
        modules[f"layer {number}"] = layer
        if getattr(layer, "adapter", None) is not None:
            modules[f"adapter {number}"] = layer.adapter
    heads = ("head", "project_targets", "project_context", "project", "embed", "classify")
    modules |= {name: getattr(model, name) for name in heads if hasattr(model, name)}
    modules |= {f"tdnn {n}": layer for n, layer in enumerate(getattr(model, "tdnn", ()))}
    return Stages(modules, lambda: model(samples, **inputs))


def watch(stages: Stages) -> tuple[dict[str, Tensor], Any]:
    """Run a network; return what each stage gives, first part of a tuple, and the end."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            # Copied: transformers writes the mask embedding into what a stage gave.
            kept[name] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in stages.modules.items()]
    try:
        with torch.no_grad():
            output = stages.run()
    finally:
        for handle in handles:
            handle.remove()
    return kept, output


@contextmanager
def no_warnings() -> Iterator[None]:
    """Fail when transformers says anything at the level of a warning."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Keep(logging.WARNING), logging.getLogger("transformers")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert [record.getMessage() for record in records] == []


def load_theirs(
    name: str, folder: Path, *, dtype: torch.dtype = torch.float64, **extra: Any
) -> Any:
    """Load a folder with transformers: no missing, unexpected or mismatched key, no warning."""
    with no_warnings():
        model, notes = CLASSES[name].from_pretrained(
            folder, output_loading_info=True, dtype=dtype, **extra
        )
    assert not any(notes.values()), notes
    return model.eval()
