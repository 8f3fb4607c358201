"""The same fine-tuning by us and by the Trainer of transformers, from the same weights.

    pip install accelerate psutil           # what their Trainer needs
    python -m benchmarks.few_labels run DATA OUT --only luganda-1h     # makes OUT/luganda-1h/sets
    python -m benchmarks.trainer_comparison OUT/luganda-1h/sets RUNS [--start MODEL] [--write]

Both sides run at the same time, each in a process of its own with one thread, so that a busy
machine is as unfair to one as to the other; the side that is done first begins again, for nothing
but the load, until the other is done. Both see the same utterances, texts and symbols, the
same number of updates of 16 s of sound, the same peak learning rate, dropout and masking, and
bfloat16 autocast. Theirs follows the CTC example of transformers: decoded sound kept in memory,
batches of utterances of similar length, AdamW with a linear schedule. Ours is `unheard finetune`
with the recipe mini, its validations counted in. Both are measured with our error rates.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

SIDES = ("unheard", "transformers")
RESULTS = Path(__file__).parent / "results" / "trainer_comparison.md"
BATCH_SECONDS = 16.0
LEARNING_RATE = 1e-3


def ours(sets: Path, folder: Path, *, start: str, steps: int, seed: int) -> dict[str, Any]:
    """Fine-tune and measure with unheard."""
    from unheard.tasks.evaluate import evaluate
    from unheard.tasks.finetune import finetune

    began = time.monotonic()
    found = finetune(
        sets / "train.jsonl",
        valid=sets / "valid.jsonl",
        out=folder,
        start=start,
        recipe="mini",
        max_steps=steps,
        seed=seed,
        quiet=True,
    )
    minutes = (time.monotonic() - began) / 60
    rates = evaluate(found.model, sets / "test.jsonl").errors
    return {
        "minutes": minutes,
        "updates": found.steps,
        "cer": str(rates.cer),
        "wer": str(rates.wer),
    }


def theirs(sets: Path, folder: Path, *, start: str, steps: int, seed: int) -> dict[str, Any]:
    """Fine-tune with the Trainer of transformers, measure with unheard's error rates."""
    import transformers

    from unheard.audio import io
    from unheard.data.corpora import scan_source
    from unheard.data.manifest import audio_path
    from unheard.recipes.catalogue import get_recipe
    from unheard.tasks.convert import convert
    from unheard.text import normalize
    from unheard.text.alphabet import Alphabet
    from unheard.text.error_rate import score

    settings = get_recipe("mini").finetune
    normalise = normalize.get("basic-1")
    exported = folder / "start"
    if not exported.exists():
        convert(start, exported, to="huggingface")

    def load(name: str) -> list[dict[str, Any]]:
        path = sets / f"{name}.jsonl"
        rows = []
        for utterance in scan_source(path).utterances:
            sound = io.read(audio_path(utterance, path.parent)).samples
            normed = (sound - sound.mean()) / (sound.std() ** 2 + 1e-7) ** 0.5
            rows.append({"input_values": normed, "text": normalise(utterance.text or "")})
        return rows

    learnt, test = load("train"), load("test")
    alphabet = Alphabet.from_texts([row["text"] for row in learnt], normalizer="basic-1")
    for row in learnt:
        row["labels"] = alphabet.encode(row["text"])
    seconds = sum(len(row["input_values"]) for row in learnt) / 16_000 / len(learnt)

    transformers.set_seed(seed)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(
        exported,
        vocab_size=len(alphabet),
        pad_token_id=alphabet.blank_id,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        hidden_dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        activation_dropout=settings.activation_dropout,
        feat_proj_dropout=settings.input_dropout,
        final_dropout=settings.head_dropout,
        layerdrop=settings.layer_drop,
        mask_time_prob=settings.masking.time_probability,
        mask_time_length=settings.masking.time_span_frames,
        mask_time_min_masks=settings.masking.time_min_spans,
        dtype=torch.float32,
    )

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sounds = [torch.from_numpy(row["input_values"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        lengths = torch.tensor([len(sound) for sound in sounds])
        padded = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)
        return {
            "input_values": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=max(1, round(BATCH_SECONDS / seconds)),
        learning_rate=LEARNING_RATE,
        warmup_steps=steps // 10,
        weight_decay=0.01,
        max_grad_norm=5.0,
        bf16=True,
        use_cpu=True,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=100,
        report_to=[],
        seed=seed,
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    began = time.monotonic()
    transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=learnt,  # pyright: ignore[reportArgumentType]
        data_collator=collate,
        processing_class=transformers.Wav2Vec2FeatureExtractor(),  # names the length's column
    ).train()
    minutes = (time.monotonic() - began) / 60
    model.eval()
    heard = []
    with torch.inference_mode():
        for row in test:  # one at a time: nothing depends on padding
            best = model(torch.from_numpy(row["input_values"])[None]).logits[0].argmax(-1)
            heard.append(alphabet.decode(alphabet.collapse(best.tolist())))
    rates = score([row["text"] for row in test], heard)
    return {"minutes": minutes, "updates": steps, "cer": str(rates.cer), "wer": str(rates.wer)}


def both(options: argparse.Namespace) -> list[str]:
    """Run both sides side by side; returns the table."""
    folders = {side: options.runs / f"{side}-{options.seed}" for side in SIDES}
    running = {
        side: _start(side, folder, options)
        for side, folder in folders.items()
        if not (folder / "row.json").exists()
    }
    rivals = list(running)
    while any(running[side].poll() is None for side in rivals):
        for side in rivals:
            code = running[side].poll()
            if code:
                raise SystemExit(f"{side} failed: see {folders[side]}/log.txt")
            if code == 0 and len(rivals) == len(SIDES):
                again = folders[side].with_name(f"{side}-again-{time.monotonic_ns()}")
                running[again.name] = _start(side, again, options)
                rivals = [other for other in rivals if other != side]
        time.sleep(0.5)
    for process in running.values():
        process.terminate()
        process.wait()
    lines = [
        "| | updates | minutes | CER (95 % interval) | WER (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for side in SIDES:
        row = json.loads((folders[side] / "row.json").read_text("utf-8"))
        lines.append(
            f"| {side} | {row['updates']:,} | {row['minutes']:.1f} | {row['cer']} | {row['wer']} |"
        )
    return lines


def _start(side: str, folder: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start one side with one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        *("-m", "benchmarks.trainer_comparison"),
        *(str(options.sets), str(folder)),
        *("--start", options.start),
        *("--steps", str(options.steps)),
        *("--seed", str(options.seed)),
        *("--side", side),
    ]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def main() -> None:
    """Run one side, or both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--start", default="unheard-mini")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.side is None:
        lines = "\n".join(both(options))
        print(lines)
        if options.write:
            RESULTS.write_text(f"# Beside the Trainer of transformers\n\n{lines}\n", "utf-8")
        return
    run = ours if options.side == "unheard" else theirs
    found = run(
        options.sets, options.runs, start=options.start, steps=options.steps, seed=options.seed
    )
    (options.runs / "row.json").write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
