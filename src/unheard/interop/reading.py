"""A stored model that has been understood and not yet read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unheard.audio.signal import InputSpec
from unheard.interop.bundle import NetworkConfig
from unheard.interop.stored import Place, StoredAdapter, TensorStore
from unheard.text.alphabet import Alphabet


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that is known of a stored model without its weights: what every format's reader returns.

    `inspect` shows it and `storage.load` fills the network with it; there is no other way from a
    file to a model.

    Attributes:
        format: "unheard", "transformers", "fairseq", "torchaudio" or "fairseq2".
        architecture: what that format calls the network, such as "Wav2Vec2ForCTC".
        config: shape of our network.
        alphabet: symbols of a CTC head; None without one, or when the files have none.
        labels: classes of a classification head, in order; empty without one.
        input_spec: what the network expects to hear.
        provenance: source, licence, parent, as far as the files say, as plain data.
        store: the files with the weights.
        places: name of a weight in our network -> where it is in the store.
        shapes: shapes in the files of weights that our network shapes otherwise (same numbers in
            the same order).
        initialised: names of weights that no file has, to be drawn afresh; always the same.
        ignored: names in the store that our network has no use for, each with the reason.
        adapters: language -> its adapter, for models that have them.
        adapter: the language whose adapter and head `places` names; None without adapters.
    """

    format: str
    architecture: str
    config: NetworkConfig
    alphabet: Alphabet | None
    labels: tuple[str, ...] = ()
    input_spec: InputSpec
    provenance: Mapping[str, Any] = field(default_factory=dict)
    store: TensorStore
    places: Mapping[str, Place]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    initialised: frozenset[str] = frozenset()
    ignored: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, StoredAdapter] = field(default_factory=dict)
    adapter: str | None = None
