"""Make the reference models with language adapters (MMS) in tests/assets/fairseq, with fairseq.

Adapters came after fairseq 0.12.2: this needs its source of 2023 or later, in an environment as
`check_with_fairseq.py` describes, and is run by hand:

    PYTHONPATH=/path/to/fairseq python tools/make_fairseq_languages.py tests/assets/fairseq

Two tiny networks come out, with random weights, every tensor drawn anew:

- mms_stacked.pt: three languages in stacked adapters with one head; the task's options name them;
- mms_table.pt: one adapter in the network, and a table of two more languages, each with adapter,
  head and dictionary, in the layout that fairseq's examples/speech_recognition/new/infer.py loads.

NAME.expected.safetensors has what fairseq computes from a padded batch for every language, in
float64; for the table after the steps of infer.py.
"""

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from check_with_fairseq import (
    draw_anew,
    keep_float64,
    largest_difference,
    repair_the_past,
    run_theirs,
)
from safetensors.torch import save_file
from torch import Tensor

LENGTHS = (4000, 3100)
"""Samples of the two utterances."""

KEPT_STAGES = ("layer.0", "layer.1", "final", "logits")

STACKED = ("eng", "swh", "azj-script_latin")

LETTERS = {"eng": "|ETAOIN", "swh": "|AIUNM", "azj-script_latin": "|əaıi"}
"""Tokens of the dictionaries, boundary first."""


def make_dictionary(letters: str) -> Any:
    """Make a dictionary as fairseq does."""
    from fairseq.data import Dictionary

    made = Dictionary()
    for number, letter in enumerate(letters):
        made.add_symbol(letter, n=1000 - number)
    return made


def make_settings(*, languages: str, count: int) -> Any:
    """All settings of a recogniser with adapters, as fairseq's trainer would store them."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
    from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
    from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
    from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
    from omegaconf import OmegaConf

    def fill(settings: Any, values: dict[str, Any]) -> dict[str, Any]:
        made: Any = OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)
        return made | values

    network = {
        "extractor_mode": "layer_norm", "encoder_layers": 2, "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24, "encoder_attention_heads": 2, "layer_norm_first": True,
        "conv_feature_layers": "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2", "conv_bias": True,
        "conv_pos": 8, "conv_pos_groups": 2, "final_dim": 8, "latent_vars": 4,
        "quantize_targets": True, "dropout": 0.0, "attention_dropout": 0.0,
    }  # fmt: skip
    common = {"data": "data", "normalize": True}
    before = fill(FairseqConfig(), {"criterion": None})
    before["task"] = fill(AudioPretrainingConfig(), common | {"_name": "audio_pretraining"})
    before["model"] = fill(Wav2Vec2Config(), network | {"_name": "wav2vec2"})
    plain: Any = OmegaConf.to_container(OmegaConf.create(before), resolve=True)
    keys = {
        "_name": "audio_finetuning",
        "labels": "ltr",
        "multi_corpus_keys": languages,
        "multi_corpus_sampling_weights": ",".join(["1.0"] * count),
    }
    adapters = {
        "_name": "wav2vec_ctc",
        "layer_type": "trf_adp",
        "adp_num": count,
        "adp_dim": 5,
        "adp_act_fn": "relu",
        "w2v_path": "pretrained.pt",
    }
    cfg = fill(FairseqConfig(), {"criterion": None})
    cfg["task"] = fill(AudioFinetuningConfig(), common | keys)
    cfg["model"] = fill(Wav2Vec2CtcConfig(), common | adapters)
    made: Any = OmegaConf.to_container(OmegaConf.create(cfg), resolve=True)
    made["model"]["w2v_args"] = plain
    return OmegaConf.create(made)


def make_network(cfg: Any, dictionary: Any, seed: int) -> Any:
    """Make a recogniser and draw its weights."""
    from fairseq import tasks

    task = tasks.setup_task(cfg.task)
    task.state.merge_state_dict({"target_dictionary": dictionary})
    network = task.build_model(copy.deepcopy(cfg.model))
    draw_anew(network, seed)
    return network.eval()


def checkpoint(cfg: Any, network: Any, dictionary: Any) -> dict[str, Any]:
    """What fairseq's trainer stores."""
    from omegaconf import OmegaConf

    return {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": network.state_dict(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "CtcCriterion", "lr_scheduler_state": {}}],
        "task_state": {"target_dictionary": dictionary},
        "extra_state": {"epoch": 1},
        "last_optimizer_state": None,
    }


def use_language(network: Any, entry: dict[str, Any]) -> Any:
    """Put a language of the table into a network by the steps of infer.py ("LOAD ADAPTER")."""
    weights = entry["model"]
    outputs, size = weights["w2v_encoder.proj.weight"].shape
    network.w2v_encoder.proj = torch.nn.Linear(size, outputs)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in weights:
                weight.copy_(weights[name])
    return network


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Two utterances, zero padded, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn((len(LENGTHS), max(LENGTHS)), generator=generator)
    lengths = torch.tensor(LENGTHS)
    return samples.masked_fill(torch.arange(max(LENGTHS)) >= lengths[:, None], 0), lengths


def record(network: Any, language: str, row: int) -> dict[str, Tensor]:
    """Run fairseq's network in float64 for one language."""
    samples, lengths = batch(7)
    with torch.no_grad():
        key = [row] * len(LENGTHS)
        stages = run_theirs(network.double(), samples.double(), lengths, corpus_key=key)
    network.float()  # which gives back every number as it was
    return {f"{language}.{name}": stages[name].contiguous() for name in KEPT_STAGES}


def make_stacked(folder: Path) -> None:
    """Three languages, one row each."""
    cfg = make_settings(languages=", ".join(STACKED), count=len(STACKED))
    dictionary = make_dictionary(LETTERS["eng"])
    network = make_network(cfg, dictionary, seed=41)
    path = folder / "mms_stacked.pt"
    torch.save(checkpoint(cfg, network, dictionary), path)
    expected: dict[str, Tensor] = {}
    for row, language in enumerate(STACKED):
        expected |= record(network, language, row)
    finish(path, network, expected, STACKED[0])


def make_table(folder: Path) -> None:
    """One adapter in the network and two languages in a table."""
    cfg = make_settings(languages="all", count=1)
    dictionary = make_dictionary(LETTERS["eng"])
    network = make_network(cfg, dictionary, seed=42)
    table: dict[str, Any] = {}
    expected: dict[str, Tensor] = {}
    for seed, language in enumerate(STACKED[1:], start=43):
        letters = make_dictionary(LETTERS[language])
        trained = make_network(cfg, letters, seed=seed).state_dict()
        own = {
            name: weight.clone()
            for name, weight in trained.items()
            if ".adapter_layer." in name or name.startswith("w2v_encoder.proj.")
        }
        table[language] = {"model": own, "task_state": {"target_dictionary": letters}}
        base = make_network(cfg, dictionary, seed=42)
        expected |= record(use_language(base, table[language]), language, 0)
    path = folder / "mms_table.pt"
    torch.save(checkpoint(cfg, network, dictionary) | {"adapter": table}, path)
    finish(path, network, expected, None)


def finish(path: Path, network: Any, expected: dict[str, Tensor], language: str | None) -> None:
    """Load the file with fairseq again, compare, and write the numbers."""
    from fairseq import checkpoint_utils

    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], strict=True)
    again = models[0].eval()
    ours, theirs = network.state_dict(), again.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if language is not None:
        for name, value in record(again, language, 0).items():
            assert largest_difference(value, expected[name]) == 0
    samples, lengths = batch(7)
    expected |= {"samples": samples, "lengths": lengths}
    save_file(expected, path.with_suffix(".expected.safetensors"))
    print(path.name, path.stat().st_size, "bytes,", len(ours), "tensors")


def main() -> int:
    """Make both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    repair_the_past()
    keep_float64()
    make_stacked(folder)
    make_table(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
