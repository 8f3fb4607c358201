"""Names of weights here and in transformers: one literal table, read in both directions.

"{}" stands for the number of a convolution, a Transformer layer or a time-delay layer.
Source: transformers models/wav2vec2/modeling_wav2vec2.py, version 5.23.
"""

from collections.abc import Iterable, Mapping

TRANSFORMERS_NAMES: Mapping[str, str] = {
    "encoder.feature_encoder.blocks.{}.weight": (
        "wav2vec2.feature_extractor.conv_layers.{}.conv.weight"
    ),
    "encoder.feature_encoder.blocks.{}.bias": (
        "wav2vec2.feature_extractor.conv_layers.{}.conv.bias"
    ),
    "encoder.feature_encoder.blocks.{}.norm.weight": (
        "wav2vec2.feature_extractor.conv_layers.{}.layer_norm.weight"
    ),
    "encoder.feature_encoder.blocks.{}.norm.bias": (
        "wav2vec2.feature_extractor.conv_layers.{}.layer_norm.bias"
    ),
    "encoder.feature_norm.weight": "wav2vec2.feature_projection.layer_norm.weight",
    "encoder.feature_norm.bias": "wav2vec2.feature_projection.layer_norm.bias",
    "encoder.projection.weight": "wav2vec2.feature_projection.projection.weight",
    "encoder.projection.bias": "wav2vec2.feature_projection.projection.bias",
    "encoder.mask_embedding": "wav2vec2.masked_spec_embed",
    "encoder.transformer.positional.weight_g": "wav2vec2.encoder.pos_conv_embed.conv.weight_g",
    "encoder.transformer.positional.weight_v": "wav2vec2.encoder.pos_conv_embed.conv.weight_v",
    "encoder.transformer.positional.bias": "wav2vec2.encoder.pos_conv_embed.conv.bias",
    "encoder.transformer.norm.weight": "wav2vec2.encoder.layer_norm.weight",
    "encoder.transformer.norm.bias": "wav2vec2.encoder.layer_norm.bias",
    "encoder.transformer.layers.{}.attention.query.weight": (
        "wav2vec2.encoder.layers.{}.attention.q_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.query.bias": (
        "wav2vec2.encoder.layers.{}.attention.q_proj.bias"
    ),
    "encoder.transformer.layers.{}.attention.key.weight": (
        "wav2vec2.encoder.layers.{}.attention.k_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.key.bias": (
        "wav2vec2.encoder.layers.{}.attention.k_proj.bias"
    ),
    "encoder.transformer.layers.{}.attention.value.weight": (
        "wav2vec2.encoder.layers.{}.attention.v_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.value.bias": (
        "wav2vec2.encoder.layers.{}.attention.v_proj.bias"
    ),
    "encoder.transformer.layers.{}.attention.output.weight": (
        "wav2vec2.encoder.layers.{}.attention.out_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.output.bias": (
        "wav2vec2.encoder.layers.{}.attention.out_proj.bias"
    ),
    "encoder.transformer.layers.{}.attention_norm.weight": (
        "wav2vec2.encoder.layers.{}.layer_norm.weight"
    ),
    "encoder.transformer.layers.{}.attention_norm.bias": (
        "wav2vec2.encoder.layers.{}.layer_norm.bias"
    ),
    "encoder.transformer.layers.{}.inner.weight": (
        "wav2vec2.encoder.layers.{}.feed_forward.intermediate_dense.weight"
    ),
    "encoder.transformer.layers.{}.inner.bias": (
        "wav2vec2.encoder.layers.{}.feed_forward.intermediate_dense.bias"
    ),
    "encoder.transformer.layers.{}.outer.weight": (
        "wav2vec2.encoder.layers.{}.feed_forward.output_dense.weight"
    ),
    "encoder.transformer.layers.{}.outer.bias": (
        "wav2vec2.encoder.layers.{}.feed_forward.output_dense.bias"
    ),
    "encoder.transformer.layers.{}.ffn_norm.weight": (
        "wav2vec2.encoder.layers.{}.final_layer_norm.weight"
    ),
    "encoder.transformer.layers.{}.ffn_norm.bias": (
        "wav2vec2.encoder.layers.{}.final_layer_norm.bias"
    ),
    "encoder.transformer.layers.{}.adapter.norm.weight": (
        "wav2vec2.encoder.layers.{}.adapter_layer.norm.weight"
    ),
    "encoder.transformer.layers.{}.adapter.norm.bias": (
        "wav2vec2.encoder.layers.{}.adapter_layer.norm.bias"
    ),
    "encoder.transformer.layers.{}.adapter.down.weight": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_1.weight"
    ),
    "encoder.transformer.layers.{}.adapter.down.bias": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_1.bias"
    ),
    "encoder.transformer.layers.{}.adapter.up.weight": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_2.weight"
    ),
    "encoder.transformer.layers.{}.adapter.up.bias": (
        "wav2vec2.encoder.layers.{}.adapter_layer.linear_2.bias"
    ),
    "head.weight": "lm_head.weight",
    "head.bias": "lm_head.bias",
    "quantizer.codebook": "quantizer.codevectors",
    "quantizer.scores.weight": "quantizer.weight_proj.weight",
    "quantizer.scores.bias": "quantizer.weight_proj.bias",
    "project_targets.weight": "project_q.weight",
    "project_targets.bias": "project_q.bias",
    "project_context.weight": "project_hid.weight",
    "project_context.bias": "project_hid.bias",
    "layer_weights": "layer_weights",
    "project.weight": "projector.weight",
    "project.bias": "projector.bias",
    "tdnn.{}.weight": "tdnn.{}.kernel.weight",
    "tdnn.{}.bias": "tdnn.{}.kernel.bias",
    "embed.weight": "feature_extractor.weight",
    "embed.bias": "feature_extractor.bias",
    "classify.weight": "classifier.weight",
    "classify.bias": "classifier.bias",
    "class_vectors": "objective.weight",
}
"""Name here -> name in transformers, for all six of its classes (Wav2Vec2Model, which has no head,
leaves out `BODY_PREFIX`)."""

PARAMETRIZED_NAMES: Mapping[str, str] = {
    "wav2vec2.encoder.pos_conv_embed.conv.weight_g": (
        "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    ),
    "wav2vec2.encoder.pos_conv_embed.conv.weight_v": (
        "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    ),
}
"""Older -> newer spelling of weight normalisation; files have one or the other."""

BODY_PREFIX = "wav2vec2."
"""What stands before the names of the encoder in every class with a head."""


def transformers_name(name: str) -> str:
    """Translate one name of a weight here, such as "encoder.transformer.layers.3.inner.bias"."""
    parts = name.split(".")
    number = next((part for part in parts if part.isdigit()), "")
    template = ".".join("{}" if part.isdigit() else part for part in parts)
    return TRANSFORMERS_NAMES[template].replace("{}", number)


def names_in_file(names: Iterable[str], stored: Iterable[str]) -> dict[str, str]:
    """Translate names here into those of a file, in whichever spelling it has.

    Args:
        names: of a network here.
        stored: all names in the file.

    Returns:
        name here -> name in the file; in the older spelling where the file has neither.
    """
    present = set(stored)
    has_prefix = any(name.startswith(BODY_PREFIX) for name in present)
    result: dict[str, str] = {}
    for name in names:
        usual = transformers_name(name)
        spellings = [usual]
        if usual in PARAMETRIZED_NAMES:
            spellings.append(PARAMETRIZED_NAMES[usual])
        if not has_prefix:
            spellings = [spelling.removeprefix(BODY_PREFIX) for spelling in spellings]
        result[name] = next((spelling for spelling in spellings if spelling in present), usual)
    return result
