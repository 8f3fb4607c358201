"""Checkpoints of fairseq2 and omniASR: wav2vec 2.0 before and after CTC fine-tuning.

Read are single files (a state dict, or {"model": state dict}, as torch or safetensors), folders of
safetensors files, and the folders that fairseq2's trainer writes ("pp_00/tp_00/sdp_00.pt" and so
on), whose shards of data parallel training are joined.

fairseq2 keeps settings in the names of architectures, apart from the file. Unlike other state dicts
these show whether norms come first: only then has `encoder` a layer norm. See
`unheard.interop.state_dict` for the rest, and `unheard.interop.sidecar` for what cannot be told.
The CTC models have SentencePiece tokens (9812 in omniASR's first version, 10288 in its second) that
are in no file of the model: they give emissions, and text once the tokens are listed beside it.

Source: fairseq2 models/wav2vec2 and model_checkpoint/native.py @ 027bdeb (0.8); omnilingual_asr
models/wav2vec2_ssl/config.py and models/wav2vec2_asr/config.py @ 81f51e2.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unheard.errors import ConfigError, FormatError
from unheard.interop import storage
from unheard.interop.joined_store import JoinedStore
from unheard.interop.reading import Reading
from unheard.interop.sidecar import Sidecar, read_labels, read_sidecar
from unheard.interop.state_dict import (
    StateDict,
    encoder_names,
    find_prefix,
    open_store,
    read_encoder,
    read_input_spec,
    read_state_dict,
)
from unheard.interop.stored import TensorStore
from unheard.models.config import (
    CtcConfig,
    EncoderConfig,
    EncoderOnlyConfig,
    PretrainingConfig,
    QuantizerConfig,
)

FAIRSEQ2_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.feature_encoder.blocks.{}.weight": (
            "encoder_frontend.feature_extractor.layers.{}.conv.weight"
        ),
        "encoder.feature_encoder.blocks.{}.bias": (
            "encoder_frontend.feature_extractor.layers.{}.conv.bias"
        ),
        "encoder.feature_norm.weight": "encoder_frontend.post_extract_layer_norm.weight",
        "encoder.feature_norm.bias": "encoder_frontend.post_extract_layer_norm.bias",
        "encoder.projection.weight": "encoder_frontend.model_dim_proj.weight",
        "encoder.projection.bias": "encoder_frontend.model_dim_proj.bias",
        "encoder.mask_embedding": "masker.temporal_mask_embed",
        "encoder.transformer.positional.weight_g": "encoder_frontend.pos_encoder.conv.weight_g",
        "encoder.transformer.positional.weight_v": "encoder_frontend.pos_encoder.conv.weight_v",
        "encoder.transformer.positional.bias": "encoder_frontend.pos_encoder.conv.bias",
        "encoder.transformer.layers.{}.attention.query.weight": (
            "encoder.layers.{}.self_attn.q_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.query.bias": (
            "encoder.layers.{}.self_attn.q_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention.key.weight": (
            "encoder.layers.{}.self_attn.k_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.key.bias": (
            "encoder.layers.{}.self_attn.k_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention.value.weight": (
            "encoder.layers.{}.self_attn.v_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.value.bias": (
            "encoder.layers.{}.self_attn.v_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention.output.weight": (
            "encoder.layers.{}.self_attn.output_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.output.bias": (
            "encoder.layers.{}.self_attn.output_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention_norm.weight": (
            "encoder.layers.{}.self_attn_layer_norm.weight"
        ),
        "encoder.transformer.layers.{}.attention_norm.bias": (
            "encoder.layers.{}.self_attn_layer_norm.bias"
        ),
        "encoder.transformer.layers.{}.inner.weight": "encoder.layers.{}.ffn.inner_proj.weight",
        "encoder.transformer.layers.{}.inner.bias": "encoder.layers.{}.ffn.inner_proj.bias",
        "encoder.transformer.layers.{}.outer.weight": "encoder.layers.{}.ffn.output_proj.weight",
        "encoder.transformer.layers.{}.outer.bias": "encoder.layers.{}.ffn.output_proj.bias",
        "encoder.transformer.layers.{}.ffn_norm.weight": "encoder.layers.{}.ffn_layer_norm.weight",
        "encoder.transformer.layers.{}.ffn_norm.bias": "encoder.layers.{}.ffn_layer_norm.bias",
    }
)
"""Name here -> name in every network of fairseq2's wav2vec 2.0 family."""

PARAMETRIZED_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.transformer.positional.weight_g": (
            "encoder_frontend.pos_encoder.conv.parametrizations.weight.original0"
        ),
        "encoder.transformer.positional.weight_v": (
            "encoder_frontend.pos_encoder.conv.parametrizations.weight.original1"
        ),
    }
)
"""torch's newer spelling of the weight norm; files have one or the other."""

GROUP_NORM_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.feature_encoder.blocks.{}.norm.weight": (
            "encoder_frontend.feature_extractor.layers.{}.group_norm.weight"
        ),
        "encoder.feature_encoder.blocks.{}.norm.bias": (
            "encoder_frontend.feature_extractor.layers.{}.group_norm.bias"
        ),
    }
)
"""The norm of the first convolution where only that has one."""

LAYER_NORM_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.feature_encoder.blocks.{}.norm.weight": (
            "encoder_frontend.feature_extractor.layers.{}.layer_norm.weight"
        ),
        "encoder.feature_encoder.blocks.{}.norm.bias": (
            "encoder_frontend.feature_extractor.layers.{}.layer_norm.bias"
        ),
    }
)
"""The norms of convolutions where each has one."""

POST_NORM_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.transformer.norm.weight": "encoder_frontend.layer_norm.weight",
        "encoder.transformer.norm.bias": "encoder_frontend.layer_norm.bias",
    }
)
"""The norm outside of layers where layers have theirs last (`layer_norm_features`)."""

PRE_NORM_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.transformer.norm.weight": "encoder.layer_norm.weight",
        "encoder.transformer.norm.bias": "encoder.layer_norm.bias",
    }
)
"""The same where layers have theirs first."""

CTC_NAMES: Mapping[str, str] = MappingProxyType(
    {"head.weight": "final_proj.weight", "head.bias": "final_proj.bias"}
)
"""Name here -> name in Wav2Vec2AsrModel."""

PRETRAINING_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "quantizer.codebook": "quantizer.entries",
        "quantizer.scores.weight": "quantizer.entry_proj.weight",
        "quantizer.scores.bias": "quantizer.entry_proj.bias",
        "project_targets.weight": "final_target_proj.weight",
        "project_targets.bias": "final_target_proj.bias",
        "project_context.weight": "final_proj.weight",
        "project_context.bias": "final_proj.bias",
    }
)
"""Name here -> name in Wav2Vec2Model, whose `final_proj` is another than that of the CTC model."""

_IGNORED: Mapping[str, str] = MappingProxyType(
    {"quantizer.num_updates": "counts updates, for the temperature of training only"}
)

_START = "encoder_frontend."
"""How names begin in networks of fairseq2's, and in none of other formats."""

_PREFIXES = ("", "model.", "module.", "model.module.")
"""What may come before: nothing, the key of the state dict, that of parallel training."""

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "llama_decoder.": "an omniASR LLM, whose decoder is a language model",
        "decoder.": "a network with a decoder",
        "encoder_frontend.embed.": "a network over text",
        "encoder_frontend.pos_encoder.layers.": (
            "a network with a stack of positional convolutions (pos_encoder_depth)"
        ),
        "encoder.layers.0.conv.": "a Conformer (use_conformer)",
        "encoder.layers.0.self_attn.sdpa.": "a network with relative positions (pos_encoder_type)",
    }
)
"""Beginnings of names that show a network that looks alike and is another."""


def recognises(names: Iterable[str]) -> bool:
    """Whether the names of tensors are those of a speech network of fairseq2's."""
    return find_prefix(names, start=_START, prefixes=_PREFIXES) is not None


def is_checkpoint_folder(folder: Path) -> bool:
    """Whether a folder is one that fairseq2's trainer wrote, or has its tensors as safetensors.

    Raises:
        CheckpointError: if it has safetensors files and one is damaged.
    """
    if _shard_root(folder) is not None:
        return True
    if (folder / storage.CONFIG_FILE).exists() or not any(folder.glob("*.safetensors")):
        return False
    return recognises(open_store(folder).tensors)


def open_model(path: str | Path, *, adapter: str | None = None) -> Reading:
    """Understand a stored checkpoint.

    Args:
        path: a file of torch or safetensors, a folder of safetensors files, or a folder of the
            trainer's (a step, its "model", or what is directly above "pp_00").
        adapter: fairseq2's networks have none.

    Returns:
        A network for pre-training, with a CTC head, or without heads. A mask embedding that the
        file lacks is drawn afresh.

    Raises:
        FormatError: if it is another kind of network; named.
        CheckpointError: if tensors are missing, left over or mis-shaped, or a file is damaged.
        ConfigError: if a setting cannot be told and nothing beside the file says it, or if an
            adapter is asked for.
        AlphabetError: if labels beside the file do not fit the head.
    """
    source = Path(path)
    root = _shard_root(source)
    store = open_store(source) if root is None else _open_shards(root)
    return understand(store, path=source, adapter=adapter)


def understand(store: TensorStore, *, path: Path, adapter: str | None = None) -> Reading:
    """Do what `open_model` does with a file that is already open."""
    if adapter is not None:
        raise ConfigError(
            f"{path} is a model of fairseq2, which has no adapters: expected none, got "
            f"{adapter!r}. Leave it out."
        )
    prefix = find_prefix(store.tensors, start=_START, prefixes=_PREFIXES)
    if prefix is None:
        raise FormatError(f"{path} does not hold a speech network of fairseq2's.")
    names = {name.removeprefix(prefix) for name in store.tensors if name.startswith(prefix)}
    _refuse_others(names, path)
    is_pretraining = any(name.startswith("quantizer.") for name in names)
    is_group = any(name in names for name in _first(GROUP_NORM_NAMES))
    norm_first = _is_norm_first(names, path)
    state = read_state_dict(
        path,
        store,
        prefix=prefix,
        keymaps=(
            FAIRSEQ2_NAMES,
            PARAMETRIZED_NAMES,
            GROUP_NORM_NAMES if is_group else LAYER_NORM_NAMES,
            PRE_NORM_NAMES if norm_first else POST_NORM_NAMES,
            PRETRAINING_NAMES if is_pretraining else CTC_NAMES,
        ),
    )
    sidecar, sidecar_path = read_sidecar(path)
    encoder, inferred = read_encoder(state, sidecar, norm_first=norm_first)
    input_spec = read_input_spec(sidecar, encoder, inferred)
    ours = encoder_names(encoder)
    has_mask = is_pretraining or "encoder.mask_embedding" in state.ours
    if has_mask:
        ours.append("encoder.mask_embedding")
    provenance: dict[str, Any] = {"source": str(path), "format": "fairseq2"}
    alphabet = None
    shapes: dict[str, tuple[int, ...]] = {}
    config: PretrainingConfig | CtcConfig | EncoderOnlyConfig
    if is_pretraining:
        architecture = "Wav2Vec2Model"
        config = _read_pretraining(state, encoder)
        ours += PRETRAINING_NAMES
        shapes["quantizer.codebook"] = state.shape("quantizer.codebook", 3)
    elif "head.weight" in state.ours or "head.bias" in state.ours:
        architecture = "Wav2Vec2AsrModel"
        config = CtcConfig(encoder=encoder, vocab=state.shape("head.weight", 2)[0])
        ours += CTC_NAMES
        _refuse_bundle(sidecar, sidecar_path)
        alphabet = read_labels(sidecar, vocab=config.vocab, source=sidecar_path)
        if alphabet is None:
            provenance["labels"] = (
                f"The labels of its {config.vocab} outputs are pieces of a SentencePiece tokenizer "
                "that is not part of the model, so that it gives emissions and no text. List them "
                f'in {path.name}.json beside the file as {{"labels": ["<s>", ...]}}.'
            )
    else:
        architecture = "Wav2Vec2Model without heads"
        config = EncoderOnlyConfig(encoder=encoder)
    provenance["architecture"] = architecture
    if sidecar.license is not None:
        provenance["license"] = sidecar.license
    if sidecar_path is not None:
        provenance["settings"] = str(sidecar_path)
    provenance["inferred"] = inferred
    reading = Reading(
        format="fairseq2",
        architecture=architecture,
        config=config,
        alphabet=alphabet,
        input_spec=input_spec,
        provenance=provenance,
        store=store,
        places=state.places(ours),
        shapes=shapes,
        initialised=frozenset() if has_mask else frozenset({"encoder.mask_embedding"}),
        ignored={
            prefix + name: reason
            for name, reason in _IGNORED.items()
            if prefix + name in store.tensors
        },
    )
    storage.compare(reading)
    return reading


def _first(table: Mapping[str, str]) -> list[str]:
    """List the names of a table for the number 0."""
    return [name.replace("{}", "0") for name in table.values()]


def _refuse_others(names: Iterable[str], path: Path) -> None:
    """Refuse networks that share names with wav2vec 2.0 and compute something else."""
    for name in names:
        for start, kind in _REFUSED.items():
            if name.startswith(start):
                raise FormatError(
                    f"{path} holds {kind} (it has {name}), which is not read. Expected wav2vec 2.0 "
                    "for pre-training or with a CTC head."
                )


def _is_norm_first(names: Iterable[str], path: Path) -> bool:
    """Tell the order of norms by where the norm outside of layers is."""
    known = set(names)
    first = any(name in known for name in PRE_NORM_NAMES.values())
    last = any(name in known for name in POST_NORM_NAMES.values())
    if first == last:
        raise FormatError(
            f"{path} has {'both' if first else 'neither'} of encoder_frontend.layer_norm and "
            "encoder.layer_norm: expected one, the first where norms come last and the second "
            "where they come first. Other settings of norm_order and layer_norm_features are not "
            "read."
        )
    return first


def _read_pretraining(state: StateDict, encoder: EncoderConfig) -> PretrainingConfig:
    """Tell the settings of the quantiser and the projections from their shapes."""
    _, entries, size = state.shape("quantizer.codebook", 3)
    projection_dim, quantized_dim = state.shape("project_targets.weight", 2)
    groups = max(1, quantized_dim // size)
    if groups * size != quantized_dim or entries % groups:
        raise FormatError(
            f"{state.path}: the quantiser does not fit together: {entries} entries of {size} "
            f"numbers make no vectors of {quantized_dim}."
        )
    quantizer = QuantizerConfig(groups=groups, entries=entries // groups, dim=quantized_dim)
    return PretrainingConfig(encoder=encoder, quantizer=quantizer, projection_dim=projection_dim)


def _refuse_bundle(sidecar: Sidecar, path: Path | None) -> None:
    """Refuse labels by name: only torchaudio's networks have those."""
    if isinstance(sidecar.labels, str):
        raise ConfigError(f"{path}: labels must be a list for a model of fairseq2, found a name.")


def _shard_root(path: Path) -> Path | None:
    """Find the folder directly above "pp_00" in a trainer's folder; None if it is no such one."""
    return next((f for f in (path, path / "model") if (f / "pp_00").is_dir()), None)


def _open_shards(root: Path) -> TensorStore:
    """Open what a trainer's folder holds.

    Stages of pipeline parallel training hold different tensors, shards of data parallel training
    parts of the same ones.
    """
    stages: list[list[TensorStore]] = []
    for stage in sorted(root.glob("pp_[0-9][0-9]")):
        if (stage / "tp_01").exists():
            raise FormatError(
                f"{stage} holds the shards of tensor parallel training, which are not joined here. "
                "Let fairseq2 write the model as one file."
            )
        files = sorted((stage / "tp_00").glob("sdp_[0-9][0-9].pt"))
        expected = [f"sdp_{number:02d}.pt" for number in range(len(files))]
        if not files or [file.name for file in files] != expected:
            raise FormatError(
                f"{stage / 'tp_00'} does not hold all shards: expected sdp_00.pt, sdp_01.pt and so "
                f"on, found {', '.join(file.name for file in files) or 'none'}."
            )
        stages.append([open_store(file) for file in files])
    return stages[0][0] if [len(s) for s in stages] == [1] else JoinedStore(stages)
