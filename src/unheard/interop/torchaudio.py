"""State dicts of torchaudio's wav2vec 2.0 and HuBERT models, and of its bundles.

A file is what `torch.save(model.state_dict(), path)` or safetensors made of a `Wav2Vec2Model`, of a
bundle's wrapper around one (whose names begin with "model."), or one of the files that the bundles
themselves download. The last have outputs that torchaudio removes after reading ("<pad>", "</s>",
"<unk>" and so on, left over from fairseq's dictionaries); here they stay, and are never text.

Nothing in such a file says what the settings are: see `unheard.interop.state_dict` for what is told
from shapes, `unheard.interop.torchaudio_bundles` for the alphabets, and `unheard.interop.sidecar`
for how to say what cannot be told. `provenance["inferred"]` lists what no tensor shows.

Source: torchaudio models/wav2vec2/model.py and components.py, pipelines/_wav2vec2, version 2.11.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unheard.errors import AlphabetError, ConfigError, FormatError
from unheard.interop import storage
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
from unheard.interop.torchaudio_bundles import (
    BUNDLES,
    alphabet_of,
    bundles_of_file,
    fitting,
)
from unheard.models.config import CtcConfig, EncoderConfig, EncoderOnlyConfig
from unheard.text.alphabet import Alphabet

TORCHAUDIO_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.feature_encoder.blocks.{}.weight": "feature_extractor.conv_layers.{}.conv.weight",
        "encoder.feature_encoder.blocks.{}.bias": "feature_extractor.conv_layers.{}.conv.bias",
        "encoder.feature_encoder.blocks.{}.norm.weight": (
            "feature_extractor.conv_layers.{}.layer_norm.weight"
        ),
        "encoder.feature_encoder.blocks.{}.norm.bias": (
            "feature_extractor.conv_layers.{}.layer_norm.bias"
        ),
        "encoder.feature_norm.weight": "encoder.feature_projection.layer_norm.weight",
        "encoder.feature_norm.bias": "encoder.feature_projection.layer_norm.bias",
        "encoder.projection.weight": "encoder.feature_projection.projection.weight",
        "encoder.projection.bias": "encoder.feature_projection.projection.bias",
        "encoder.transformer.positional.weight_g": (
            "encoder.transformer.pos_conv_embed.conv.weight_g"
        ),
        "encoder.transformer.positional.weight_v": (
            "encoder.transformer.pos_conv_embed.conv.weight_v"
        ),
        "encoder.transformer.positional.bias": "encoder.transformer.pos_conv_embed.conv.bias",
        "encoder.transformer.norm.weight": "encoder.transformer.layer_norm.weight",
        "encoder.transformer.norm.bias": "encoder.transformer.layer_norm.bias",
        "encoder.transformer.layers.{}.attention.query.weight": (
            "encoder.transformer.layers.{}.attention.q_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.query.bias": (
            "encoder.transformer.layers.{}.attention.q_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention.key.weight": (
            "encoder.transformer.layers.{}.attention.k_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.key.bias": (
            "encoder.transformer.layers.{}.attention.k_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention.value.weight": (
            "encoder.transformer.layers.{}.attention.v_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.value.bias": (
            "encoder.transformer.layers.{}.attention.v_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention.output.weight": (
            "encoder.transformer.layers.{}.attention.out_proj.weight"
        ),
        "encoder.transformer.layers.{}.attention.output.bias": (
            "encoder.transformer.layers.{}.attention.out_proj.bias"
        ),
        "encoder.transformer.layers.{}.attention_norm.weight": (
            "encoder.transformer.layers.{}.layer_norm.weight"
        ),
        "encoder.transformer.layers.{}.attention_norm.bias": (
            "encoder.transformer.layers.{}.layer_norm.bias"
        ),
        "encoder.transformer.layers.{}.inner.weight": (
            "encoder.transformer.layers.{}.feed_forward.intermediate_dense.weight"
        ),
        "encoder.transformer.layers.{}.inner.bias": (
            "encoder.transformer.layers.{}.feed_forward.intermediate_dense.bias"
        ),
        "encoder.transformer.layers.{}.outer.weight": (
            "encoder.transformer.layers.{}.feed_forward.output_dense.weight"
        ),
        "encoder.transformer.layers.{}.outer.bias": (
            "encoder.transformer.layers.{}.feed_forward.output_dense.bias"
        ),
        "encoder.transformer.layers.{}.ffn_norm.weight": (
            "encoder.transformer.layers.{}.final_layer_norm.weight"
        ),
        "encoder.transformer.layers.{}.ffn_norm.bias": (
            "encoder.transformer.layers.{}.final_layer_norm.bias"
        ),
        "head.weight": "aux.weight",
        "head.bias": "aux.bias",
    }
)
"""Name here -> name in torchaudio's Wav2Vec2Model."""

PARAMETRIZED_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "encoder.transformer.positional.weight_g": (
            "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original0"
        ),
        "encoder.transformer.positional.weight_v": (
            "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1"
        ),
    }
)
"""The newer spelling of the weight norm (torchaudio 2.1 and later); files have one or the other."""

_START = "encoder.transformer."
"""How names begin in every network of torchaudio's, and in none of other formats."""

_PREFIXES = ("", "model.", "module.", "module.model.")
"""What may come before: nothing, the bundle's wrapper, that of parallel training."""

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "encoder.transformer.layers.0.attention.rel_attn_embed.weight": "WavLM",
        "encoder.transformer.layers.0.attention.gru_rel_pos_linear.weight": "WavLM",
        "encoder.transformer.pos_conv_embed.conv.weight": (
            "a network whose weight norm was removed, as TorchScript does"
        ),
    }
)
"""Names that show a network that looks alike and is another."""


def recognises(names: Iterable[str]) -> bool:
    """Whether the names of tensors are those of a network of torchaudio's."""
    return find_prefix(names, start=_START, prefixes=_PREFIXES) is not None


def open_model(path: str | Path, *, adapter: str | None = None) -> Reading:
    """Understand a stored state dict.

    Args:
        path: a file of torch or safetensors.
        adapter: torchaudio's networks have none.

    Returns:
        An encoder without head, or with a CTC head (`aux`). The mask embedding, which torchaudio
        leaves out, is drawn afresh.

    Raises:
        FormatError: if it is another kind of network; named.
        CheckpointError: if tensors are missing, left over or mis-shaped, or the file is damaged.
        ConfigError: if a setting cannot be told and nothing beside the file says it, or if an
            adapter is asked for.
        AlphabetError: if labels beside the file do not fit the head.
    """
    source = Path(path)
    return understand(open_store(source), path=source, adapter=adapter)


def understand(store: TensorStore, *, path: Path, adapter: str | None = None) -> Reading:
    """Do what `open_model` does with a file that is already open."""
    if adapter is not None:
        raise ConfigError(
            f"{path} is a model of torchaudio, which has no adapters: expected none, got "
            f"{adapter!r}. Leave it out."
        )
    names = store.tensors.keys()
    prefix = find_prefix(names, start=_START, prefixes=_PREFIXES)
    if prefix is None:
        raise FormatError(f"{path} does not hold a network of torchaudio's.")
    for name, kind in _REFUSED.items():
        if prefix + name in names:
            raise FormatError(
                f"{path} holds {kind} (it has {prefix + name}), which is not read. Expected a "
                "state dict of wav2vec 2.0 or HuBERT as torchaudio's Wav2Vec2Model has it."
            )
    state = read_state_dict(
        path, store, prefix=prefix, keymaps=(TORCHAUDIO_NAMES, PARAMETRIZED_NAMES)
    )
    sidecar, sidecar_path = read_sidecar(path)
    encoder, inferred = read_encoder(state, sidecar, norm_first=None)
    input_spec = read_input_spec(sidecar, encoder, inferred)
    provenance: dict[str, Any] = {
        "source": str(path),
        "format": "torchaudio",
        "architecture": "Wav2Vec2Model",
    }
    ours = encoder_names(encoder)
    alphabet = None
    config: CtcConfig | EncoderOnlyConfig = EncoderOnlyConfig(encoder=encoder)
    if "head.weight" in state.ours or "head.bias" in state.ours:
        vocab = state.shape("head.weight", 2)[0]
        config = CtcConfig(encoder=encoder, vocab=vocab)
        ours += ["head.weight", "head.bias"]
        alphabet = _read_alphabet(
            state, sidecar, sidecar_path, encoder, vocab=vocab, inferred=inferred, facts=provenance
        )
    _add_bundle(provenance, path, encoder, vocab=getattr(config, "vocab", None))
    if sidecar.license is not None:
        provenance["license"] = sidecar.license
    if sidecar_path is not None:
        provenance["settings"] = str(sidecar_path)
    provenance["inferred"] = inferred
    reading = Reading(
        format="torchaudio",
        architecture="Wav2Vec2Model",
        config=config,
        alphabet=alphabet,
        input_spec=input_spec,
        provenance=provenance,
        store=store,
        places=state.places(ours),
        initialised=frozenset({"encoder.mask_embedding"}),
    )
    storage.compare(reading)
    return reading


def _read_alphabet(
    state: StateDict,
    sidecar: Sidecar,
    sidecar_path: Path | None,
    encoder: EncoderConfig,
    *,
    vocab: int,
    inferred: dict[str, Any],
    facts: dict[str, Any],
) -> Alphabet | None:
    """Find the labels of a head: said beside the file, or those of the bundles that it fits."""
    if isinstance(sidecar.labels, str):
        if sidecar.labels not in BUNDLES:
            raise ConfigError(
                f"{sidecar_path}: there is no bundle {sidecar.labels!r}. Expected a list of "
                f"labels, or one of {', '.join(n for n, b in BUNDLES.items() if b.labels)}."
            )
        alphabet = alphabet_of(BUNDLES[sidecar.labels], vocab=vocab)
        if alphabet is None:
            raise AlphabetError(
                f"The labels of {sidecar.labels}, named in {sidecar_path}, do not fit the network: "
                f"it has {vocab} outputs, the bundle "
                f"{' or '.join(map(str, BUNDLES[sidecar.labels].outputs)) or 'none'}."
            )
        return alphabet
    if sidecar.labels is not None:
        return read_labels(sidecar, vocab=vocab, source=sidecar_path)
    candidates = fitting(encoder, vocab=vocab)
    named = [name for name in bundles_of_file(state.path) if name in candidates]
    alphabets = {name: alphabet_of(BUNDLES[name], vocab=vocab) for name in named or candidates}
    distinct = list(dict.fromkeys(alphabets.values()))
    if len(distinct) == 1:
        inferred["labels"] = f"those of {', '.join(alphabets)}"
        return distinct[0]
    which = f"those of {', '.join(alphabets)} would fit" if alphabets else "no bundle's would fit"
    facts["labels"] = (
        f"The labels of its {vocab} outputs are not known ({which}), so that it gives emissions "
        f"and no text. List them in {state.path.name}.json beside the file as "
        '{"labels": ["-", ...]}, or name a bundle as {"labels": "WAV2VEC2_ASR_BASE_960H"}.'
    )
    return None


def _add_bundle(
    provenance: dict[str, Any], path: Path, encoder: EncoderConfig, *, vocab: int | None
) -> None:
    """Add which bundle a file is, if it has the name and the shape of a published one."""
    candidates = fitting(encoder, vocab=vocab)
    named = [name for name in bundles_of_file(path) if name in candidates]
    if named:
        provenance["bundle"] = named[0]
        provenance["license"] = BUNDLES[named[0]].license
