"""Cut the test assets under tests/assets/fairseq out of fairseq's full reference values.

    python tools/make_fairseq_assets.py REFERENCE_FOLDER

The full reference (checkpoints as fairseq saves them, and every intermediate tensor; 4 MB) is made
once with fairseq 0.12.2 and not kept in this repository. This program keeps the weights, the audio,
all losses and logits, and of the large tensors a few rows: enough to catch any difference, since
each frame depends on all others.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

MODELS = ("wav2vec2_base", "wav2vec2_large", "wav2vec2_base_ctc", "wav2vec2_large_ctc")
STAGES = (
    "conv_features",
    "features_normed",
    "features_projected",
    "pos_conv",
    "encoder_input",
    "final",
    "logits_raw",
)
FRAMES = (0, 9, 18, 27, 36)
GRADIENT_ROWS = 4
CASES = ("pretrain_eval", "pretrain_train", "pretrain_padded_eval", "pretrain_repeats_eval")
CASE_TENSORS = (
    "mask_indices",
    "negative_indices",
    "negative_same_code",
    "gumbel_noise",
    "codes",
    "logits",
)
TRAIN_TENSORS = ("code_logits", "targets_quantized", "targets_projected", "context_projected")


class Dictionary:
    """Stands in for fairseq.data.dictionary.Dictionary; its content is not needed."""


def main() -> int:
    """Read the reference and write the assets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reference", type=Path)
    reference = parser.parse_args().reference
    assets = Path(__file__).parents[1] / "tests" / "assets" / "fairseq"
    assets.mkdir(parents=True, exist_ok=True)
    manifest = json.loads((reference / "manifest.json").read_text())
    facts: dict[str, Any] = {"versions": manifest["versions"], "models": {}}
    for name in MODELS:
        stored = load_file(reference / name / "expected.safetensors")
        save_file(read_weights(reference / name / "checkpoint.pt"), assets / f"{name}.safetensors")
        save_file(cut(stored), assets / f"{name}.expected.safetensors")
        model = manifest["models"][name]
        encoder = model.get("pretrained_model_config_inside_w2v_args", model["model_config"])
        facts["models"][name] = {
            "encoder": encoder,
            "normalize": model["task_config"]["normalize"],
            "feature_grad_mult": model["model_config"]["feature_grad_mult"],
            "num_updates": model["num_updates"],
        }
    (assets / "manifest.json").write_text(json.dumps(facts, indent=1) + "\n")
    statistics = json.loads((reference / "masking_stats.json").read_text())
    (assets / "masking_stats.json").write_text(json.dumps(statistics, indent=1) + "\n")
    return 0


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a fairseq checkpoint without running anything in it."""
    stand_in = [(Dictionary, "fairseq.data.dictionary.Dictionary")]
    with torch.serialization.safe_globals(stand_in):
        weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return {name: tensor.clone() for name, tensor in weights.items()}


def cut(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keep what the tests compare."""
    kept = {name: stored[name] for name in ("audio.0", "audio.1")}
    kept |= {n: t for n, t in stored.items() if n.startswith(("loss.", "quantize.")) and _small(t)}
    for name, tensor in stored.items():
        group, _, rest = name.partition(".")
        if group in ("batch", "utt1") and (rest in STAGES or rest.startswith("layer.")):
            frames = tensor.transpose(1, 2) if rest == "conv_features" else tensor
            kept[name] = frames[:, [frame for frame in FRAMES if frame < frames.shape[1]]]
        elif ".grad." in name:
            kept[name] = tensor.flatten(0, -2)[:GRADIENT_ROWS] if tensor.dim() > 1 else tensor
        elif group in CASES:
            wanted = CASE_TENSORS + (TRAIN_TENSORS if group == "pretrain_train" else ())
            if tensor.dim() == 0 or rest in wanted:
                kept[name] = tensor
    return {name: tensor.contiguous().clone() for name, tensor in kept.items()}


def _small(tensor: torch.Tensor) -> bool:
    """Whether a tensor is kept whole."""
    return tensor.numel() <= 1024


if __name__ == "__main__":
    sys.exit(main())
