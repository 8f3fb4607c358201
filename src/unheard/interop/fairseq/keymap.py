"""Names of weights here and in fairseq: literal tables, used for reading and for writing.

"{}" stands for the number of a convolution or of a Transformer layer.
Source: fairseq models/wav2vec/wav2vec2.py and wav2vec2_asr.py, version 0.12.2 and @ 3d262bb.
"""

from collections.abc import Mapping

FAIRSEQ_NAMES: Mapping[str, str] = {
    "encoder.feature_encoder.blocks.{}.weight": "feature_extractor.conv_layers.{}.0.weight",
    "encoder.feature_encoder.blocks.{}.bias": "feature_extractor.conv_layers.{}.0.bias",
    "encoder.feature_encoder.blocks.{}.norm.weight": "feature_extractor.conv_layers.{}.2.weight",
    "encoder.feature_encoder.blocks.{}.norm.bias": "feature_extractor.conv_layers.{}.2.bias",
    "encoder.feature_norm.weight": "layer_norm.weight",
    "encoder.feature_norm.bias": "layer_norm.bias",
    "encoder.projection.weight": "post_extract_proj.weight",
    "encoder.projection.bias": "post_extract_proj.bias",
    "encoder.mask_embedding": "mask_emb",
    "encoder.transformer.positional.weight_g": "encoder.pos_conv.0.weight_g",
    "encoder.transformer.positional.weight_v": "encoder.pos_conv.0.weight_v",
    "encoder.transformer.positional.bias": "encoder.pos_conv.0.bias",
    "encoder.transformer.norm.weight": "encoder.layer_norm.weight",
    "encoder.transformer.norm.bias": "encoder.layer_norm.bias",
    "encoder.transformer.layers.{}.attention.query.weight": (
        "encoder.layers.{}.self_attn.q_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.query.bias": "encoder.layers.{}.self_attn.q_proj.bias",
    "encoder.transformer.layers.{}.attention.key.weight": (
        "encoder.layers.{}.self_attn.k_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.key.bias": "encoder.layers.{}.self_attn.k_proj.bias",
    "encoder.transformer.layers.{}.attention.value.weight": (
        "encoder.layers.{}.self_attn.v_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.value.bias": "encoder.layers.{}.self_attn.v_proj.bias",
    "encoder.transformer.layers.{}.attention.output.weight": (
        "encoder.layers.{}.self_attn.out_proj.weight"
    ),
    "encoder.transformer.layers.{}.attention.output.bias": (
        "encoder.layers.{}.self_attn.out_proj.bias"
    ),
    "encoder.transformer.layers.{}.attention_norm.weight": (
        "encoder.layers.{}.self_attn_layer_norm.weight"
    ),
    "encoder.transformer.layers.{}.attention_norm.bias": (
        "encoder.layers.{}.self_attn_layer_norm.bias"
    ),
    "encoder.transformer.layers.{}.inner.weight": "encoder.layers.{}.fc1.weight",
    "encoder.transformer.layers.{}.inner.bias": "encoder.layers.{}.fc1.bias",
    "encoder.transformer.layers.{}.outer.weight": "encoder.layers.{}.fc2.weight",
    "encoder.transformer.layers.{}.outer.bias": "encoder.layers.{}.fc2.bias",
    "encoder.transformer.layers.{}.ffn_norm.weight": "encoder.layers.{}.final_layer_norm.weight",
    "encoder.transformer.layers.{}.ffn_norm.bias": "encoder.layers.{}.final_layer_norm.bias",
    "quantizer.codebook": "quantizer.vars",
    "quantizer.scores.weight": "quantizer.weight_proj.weight",
    "quantizer.scores.bias": "quantizer.weight_proj.bias",
    "project_targets.weight": "project_q.weight",
    "project_targets.bias": "project_q.bias",
    "project_context.weight": "final_proj.weight",
    "project_context.bias": "final_proj.bias",
}
"""Name here -> name in fairseq's Wav2Vec2Model."""

LAYER_NORM_NAMES: Mapping[str, str] = {
    "encoder.feature_encoder.blocks.{}.norm.weight": "feature_extractor.conv_layers.{}.2.1.weight",
    "encoder.feature_encoder.blocks.{}.norm.bias": "feature_extractor.conv_layers.{}.2.1.bias",
}
"""The same for the norms of convolutions where each has one (extractor_mode "layer_norm")."""

HEAD_NAMES: Mapping[str, str] = {
    "head.weight": "w2v_encoder.proj.weight",
    "head.bias": "w2v_encoder.proj.bias",
}
"""Name here -> name in fairseq's Wav2VecCtc, whose other names have `CTC_PREFIX`."""

ADAPTER_NAMES: Mapping[str, str] = {
    "encoder.transformer.layers.{}.adapter.norm.weight": "encoder.layers.{}.adapter_layer.ln_W",
    "encoder.transformer.layers.{}.adapter.norm.bias": "encoder.layers.{}.adapter_layer.ln_b",
    "encoder.transformer.layers.{}.adapter.down.weight": "encoder.layers.{}.adapter_layer.W_a",
    "encoder.transformer.layers.{}.adapter.down.bias": "encoder.layers.{}.adapter_layer.b_a",
    "encoder.transformer.layers.{}.adapter.up.weight": "encoder.layers.{}.adapter_layer.W_b",
    "encoder.transformer.layers.{}.adapter.up.bias": "encoder.layers.{}.adapter_layer.b_b",
}
"""Name here -> name there of the languages' adapters, which are stacked: one row a language."""

CTC_PREFIX = "w2v_encoder.w2v_model."
"""What fairseq's Wav2VecCtc puts before the names of its Wav2Vec2Model."""


def template_of(name: str) -> tuple[str, str]:
    """Split "encoder.transformer.layers.3.inner.bias" into its template and its number, if any."""
    parts = name.split(".")
    number = next((part for part in parts if part.isdigit()), "")
    return ".".join("{}" if part.isdigit() else part for part in parts), number


def is_adapter(name: str) -> bool:
    """Whether a weight here belongs to a language adapter."""
    return template_of(name)[0] in ADAPTER_NAMES


def fairseq_name(name: str, *, conv_norm: str, ctc: bool) -> str:
    """Translate one name of a weight here.

    Args:
        name: such as "encoder.transformer.layers.3.inner.bias".
        conv_norm: of the encoder.
        ctc: whether the network is fairseq's Wav2VecCtc.
    """
    if name in HEAD_NAMES:
        return HEAD_NAMES[name]
    template, number = template_of(name)
    if template in ADAPTER_NAMES:
        theirs = ADAPTER_NAMES[template]
    elif conv_norm == "layer" and template in LAYER_NORM_NAMES:
        theirs = LAYER_NORM_NAMES[template]
    else:
        theirs = FAIRSEQ_NAMES[template]
    return (CTC_PREFIX if ctc else "") + theirs.replace("{}", number)
