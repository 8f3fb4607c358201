"""A made-up `learn` output folder: what the report is developed and tested against."""

import json
import math
import wave
from pathlib import Path
from random import Random

import numpy as np

from unheard.text import error_rate

SENTENCES = {
    "sw": (
        "watoto wanacheza mpira uwanjani kila jioni",
        "mvua ilinyesha usiku kucha na mto ukafurika",
        "mama anapika ugali na samaki jikoni",
        "mwalimu alituambia tusome kitabu hiki tena",
        "ng'ombe wetu wamerudi kutoka malishoni",
        "soko hufunguliwa asubuhi na mapema sana",
        "bibi husimulia hadithi za zamani usiku",
        "safari ya kwenda mlimani ilikuwa ndefu",
    ),
    "fa": (
        "کودکان هر روز عصر در حیاط بازی می‌کنند",
        "دیشب تا صبح باران بارید",
        "مادر در آشپزخانه نان می‌پزد",
        "معلم گفت این کتاب را دوباره بخوانید",
        "بازار صبح زود باز می‌شود",
        "مادربزرگ شب‌ها قصه‌های قدیمی می‌گوید",
    ),
    "am": (
        "ልጆቹ በየምሽቱ ኳስ ይጫወታሉ",
        "ሌሊቱን ሙሉ ዝናብ ዘነበ",
        "እናቴ በወጥ ቤት ምግብ ታበስላለች",
        "መምህሩ መጽሐፉን እንደገና አንብቡ አለ",
        "ገበያው በማለዳ ይከፈታል",
    ),
    "hi": (
        "बच्चे हर शाम मैदान में खेलते हैं",
        "कल रात भर बारिश होती रही",
        "माँ रसोई में खाना बना रही है",
        "बाज़ार सुबह जल्दी खुलता है",
    ),
}
"""Plain sentences, written for these tests."""

SAMPLE_RATE = 8_000


def make_learn_folder(
    folder: Path,
    *,
    language: str = "sw",
    utterances: int = 60,
    error: float = 0.12,
    pretraining: bool = True,
    scratch: bool = True,
    evaluation: bool = True,
    audio: bool = True,
    seed: int = 0,
) -> Path:
    """Write a whole `learn` output folder of invented numbers.

    Args:
        folder: where; made if it is not there.
        language: key of `SENTENCES`.
        utterances: held-out utterances.
        error: probability that a letter is written wrong.
        pretraining: write a pre-training run.
        scratch: write the comparison without pre-training.
        evaluation: write the evaluation.
        audio: write the recordings (tones).
        seed: of everything random.
    """
    random = Random(seed)
    rows = {
        "train": _utterances(language, 240, speakers=5, first_speaker=0, random=random),
        "valid": _utterances(language, 30, speakers=1, first_speaker=5, random=random),
        "test": _utterances(language, utterances, speakers=6, first_speaker=6, random=random),
        "unlabelled": _utterances(language, 2000, speakers=12, first_speaker=0, random=random),
    }
    for row in rows["unlabelled"]:
        row["text"] = None
    for name, listed in rows.items():
        write_rows(folder / f"data/{name}.jsonl", listed)
    write_json(
        folder / "data/scan.json",
        {
            "layout": "folder with a transcript table",
            "facts": {"files": 2353, "seconds": 11000.5, "columns": {"audio": "path"}},
            "skipped": [
                {"path": f"clips/{k}.mp3", "line": None, "reason": "unreadable", "detail": "empty"}
                for k in range(21)
            ]
            + [
                {
                    "path": "transcripts.tsv",
                    "line": 41,
                    "reason": "missing_audio",
                    "detail": "no file a.mp3",
                }
            ],
        },
    )
    write_json(
        folder / "data/audit.json",
        {
            "findings": [
                {
                    "code": "repeated_text",
                    "count": 12,
                    "message": "transcripts that occur more than once",
                    "examples": [rows["train"][0]["id"], rows["train"][1]["id"]],
                }
            ],
            "median_characters_a_second": 13.2,
        },
    )
    if pretraining:
        _write_pretraining(folder / "pretrain", random=random)
    _write_finetuning(folder / "finetune", rows["valid"][:3], error=error, random=random, slow=1.0)
    tokens = ["<blank>", "|", *sorted({c for s in SENTENCES[language] for c in s} - {" "})]
    write_json(
        folder / "model/config.json",
        {"alphabet": {"tokens": tokens, "blank": "<blank>", "word_boundary": "|"}},
    )
    result: dict = {
        "made_with": {
            "unheard": "0.1.0",
            "commit": "0123abc",
            "python": "3.12.4",
            "torch": "2.8.0",
            "machine": "2 cores, 8 GB",
            "device": "cpu",
        }
    }
    if evaluation:
        report, scored = _evaluate(rows["test"], error=error, random=random)
        other, _ = _evaluate(rows["test"], error=2.2 * error, random=random)
        write_rows(folder / "evaluation/utterances.jsonl", scored)
        write_json(
            folder / "evaluation/result.json",
            {
                "error_rate": report.to_dict(),
                "manifest": "data/test.jsonl",
                "normalizer": "basic-1",
                "failed": [{"id": "a", "audio": "a.wav", "reason": "empty", "detail": "no bytes"}],
            },
        )
        if scratch:
            _write_finetuning(
                folder / "scratch", rows["valid"][:3], error=2 * error, random=random, slow=2.0
            )
            result["scratch"] = {
                "error_rate": other.to_dict(),
                "run": "scratch",
                "difference": error_rate.paired_bootstrap(report, other).to_dict(),
            }
    if audio:
        for row in rows["test"]:
            _write_tone(folder / "data" / row["audio"], row["num_samples"], random=random)
    write_json(
        folder / "learn.json",
        {
            "request": {
                "command": ["unheard", "learn", "my recordings/", "--out", folder.name],
                "seed": 0,
                "recipe": "mini",
                "language": language,
                "max_minutes": 90,
                "finetune": {"updates": 4000, "learning_rate": 3e-4},
            },
            "stages": {
                "scan": {"state": "done", "seconds": 4.1},
                "pretrain": {"state": "done", "seconds": 3600.0},
                "finetune": {"state": "done", "seconds": 1500.0},
                "evaluate": {"state": "done", "seconds": 31.0},
            },
            "result": result,
        },
    )
    return folder


def write_json(path: Path, data: object) -> None:
    """Write JSON, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write JSON lines, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _utterances(
    language: str, count: int, *, speakers: int, first_speaker: int, random: Random
) -> list[dict]:
    """Invent rows of a manifest."""
    rows = []
    for index in range(count):
        text = random.choice(SENTENCES[language])
        speaker = f"speaker-{first_speaker + index % speakers}"
        name = f"{speaker}-{index:04d}"
        rows.append(
            {
                "id": name,
                "audio": f"audio/{name}.wav",
                "start": 0,
                "num_samples": round(SAMPLE_RATE * (len(text) / 13 + random.gauss(1.2, 0.5))),
                "sample_rate": SAMPLE_RATE,
                "text": text,
                "speaker": speaker,
                "language": language,
            }
        )
    return rows


def garble(text: str, error: float, *, letters: str, random: Random) -> str:
    """Write a text with mistakes."""
    written = []
    for character in text:
        chance = random.random()
        if chance < 0.5 * error:
            written.append(random.choice(letters))
        elif chance < 0.8 * error:
            continue
        else:
            written.append(character)
            if chance > 1 - 0.2 * error:
                written.append(random.choice(letters))
    return " ".join("".join(written).split())


def _evaluate(
    rows: list[dict], *, error: float, random: Random
) -> tuple[error_rate.ErrorReport, list[dict]]:
    """Invent hypotheses and score them."""
    letters = "".join(sorted({c for row in rows for c in row["text"]}))
    hypotheses = []
    for index, row in enumerate(rows):
        share = min(0.95, error * random.choice((0.2, 0.6, 0.8, 1.0, 1.2, 2.2)))
        garbled = garble(row["text"], share, letters=letters, random=random)
        hypotheses.append("" if index == 3 else garbled)
    report = error_rate.score(
        [row["text"] for row in rows],
        hypotheses,
        speakers=[row["speaker"] for row in rows],
        ids=[row["id"] for row in rows],
        resample="speakers",
    )
    scored = [
        {
            **{
                k: row[k] for k in ("id", "audio", "start", "num_samples", "sample_rate", "speaker")
            },
            "reference": row["text"],
            "hypothesis": hypothesis,
            "char_errors": one.characters.errors,
            "char_total": one.characters.reference_length,
            "word_errors": one.words.errors,
            "word_total": one.words.reference_length,
            "confidence": max(0.01, 0.98 - one.characters.rate * random.uniform(0.6, 1.1)),
        }
        for row, hypothesis, one in zip(rows, hypotheses, report.utterances, strict=True)
    ]
    return report, scored


def _write_pretraining(folder: Path, *, random: Random) -> None:
    """Invent the curves of a pre-training run of 6,000 updates."""
    updates, chance = 6000, math.log(101)
    rows = []
    for step in range(10, updates + 1, 10):
        done = step / updates
        loss = chance - 1.9 * (1 - math.exp(-3.5 * done))
        shared = {"step": step, "elapsed_seconds": 0.6 * step, "audio_seconds": 48.0 * step}
        rows.append(
            {
                "kind": "train",
                **shared,
                "learning_rate": 5e-4 * min(1, done / 0.08) * min(1, (1 - done) / 0.92),
                "loss": loss + 0.4,
                "contrastive": loss + random.gauss(0, 0.09),
                "diversity": 0.3,
                "feature_penalty": 1.2,
                "accuracy": 0.5 * (1 - math.exp(-3 * done)) + random.gauss(0, 0.015),
                "code_perplexity": 30 + 330 * (1 - math.exp(-4 * done)) + random.gauss(0, 8),
                "soft_perplexity": 300,
                "temperature": 2.0 - done,
                "grad_norm": math.exp(random.gauss(0.2, 0.5)) * (1 + 40 * math.exp(-60 * done)),
                "audio_seconds_per_second": random.gauss(81, 4),
            }
        )
        if step % 500 == 0:
            rows.append(
                {
                    "kind": "valid",
                    **shared,
                    "loss": loss + 0.5,
                    "contrastive": loss + 0.06,
                    "accuracy": 0.48 * (1 - math.exp(-3 * done)),
                    "code_perplexity": 30 + 320 * (1 - math.exp(-4 * done)),
                }
            )
    write_rows(folder / "metrics.jsonl", rows)
    write_json(
        folder / "config.json",
        {"model": {"distractors": 100, "quantizer": {"groups": 2, "entries": 320}}, "seed": 0},
    )


def _write_finetuning(
    folder: Path, watched: list[dict], *, error: float, random: Random, slow: float
) -> None:
    """Invent the curves of a fine-tuning run of 2,000 updates with a plateau at the beginning."""
    updates, rows, samples = 2000, [], []
    letters = "".join(sorted({c for row in watched for c in row["text"]}))
    for step in range(5, updates + 1, 5):
        done = step / updates
        awake = 1 / (1 + math.exp(-25 * (done - 0.18 * slow)))
        shared = {"step": step, "elapsed_seconds": 0.7 * step, "audio_seconds": 60.0 * step}
        rows.append(
            {
                "kind": "train",
                **shared,
                "learning_rate": 3e-4 * min(1, done / 0.1, max(0.02, (1 - done) / 0.5)),
                "loss": 3.1 - 2.6 * awake + 0.5 * math.exp(-40 * done) + random.gauss(0, 0.04),
                "ctc": 3.1 - 2.6 * awake + 0.5 * math.exp(-40 * done) + random.gauss(0, 0.04),
                "grad_norm": 1.4 + abs(random.gauss(0, 0.4)),
                "blank_ratio": 0.99 - 0.5 * awake,
                "audio_seconds_per_second": random.gauss(90, 5),
            }
        )
        if step % 100 == 0:
            cer = 1 - awake * (1 - error - 0.1 * (1 - done))
            rows.append(
                {
                    "kind": "valid",
                    **shared,
                    "loss": 3.05 - 2.3 * awake,
                    "cer": cer,
                    "wer": min(1.0, 1 - awake * (1 - 3.2 * error)),
                    "blank_ratio": 0.99 - 0.49 * awake,
                }
            )
            samples += [
                {
                    "step": step,
                    "id": row["id"],
                    "reference": row["text"],
                    "hypothesis": garble(row["text"], 0.9 * cer, letters=letters, random=random)
                    if cer < 0.97
                    else "",
                }
                for row in watched
            ]
    write_rows(folder / "metrics.jsonl", rows)
    write_rows(folder / "samples.jsonl", samples)
    write_json(folder / "config.json", {"batch_seconds": 60, "optimizer": {"betas": [0.9, 0.98]}})


def _write_tone(path: Path, num_samples: int, *, random: Random) -> None:
    """Write a recording that is easy to tell from silence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(num_samples) / SAMPLE_RATE
    samples = 0.3 * np.sin(2 * np.pi * random.uniform(150, 500) * time)
    with wave.open(str(path), "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(SAMPLE_RATE)
        output.writeframes((samples * 32767).astype("<i2").tobytes())
