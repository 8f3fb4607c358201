"""Forced alignment: an hour of audio, first use, torchaudio, known word times.

    python -m benchmarks.align hour [--hours 1] [--rough]
    python -m benchmarks.align first
    python -m benchmarks.align torchaudio [--minutes 1 5]
    python -m benchmarks.align boundaries MODEL
    python -m benchmarks.align cut MODEL

Each prints lines of JSON. "hour" aligns emissions made here (a planted text with pauses and
noise), in a process of its own; the limits are those of the project, 30 s and 1 GB an hour. "first"
compares the first use after installation, when the loops are compiled, with the second.
"torchaudio" times its forced_align beside ours, in turns, and compares the paths; it needs a
torchaudio that imports (tests/assets/align/README.md). "boundaries" speaks sentences with
espeak-ng, which tells when each word starts and ends, in voices that the demonstration keeps for
its test, and aligns them with a model such as that of `unheard demo`. "cut" joins such sentences
into one recording, spoils its text, cuts it into utterances and counts those whose text is what is
said in them.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch

from unheard.decoding.align import FrameScores, Target, align, distinct_tokens, select_columns
from unheard.decoding.emissions import FrameTiming

FRAMES_A_SECOND = 50
TOKENS_A_SECOND = 15
VOCAB = 40
TIMING = FrameTiming(frame_stride_samples=320, frame_offset_samples=200, sample_rate=16_000)
SECONDS_LIMIT, MEGABYTES_LIMIT = 30.0, 1000.0


def make_case(seconds: float, *, rough: bool = False) -> tuple[np.ndarray, Target, np.ndarray]:
    """Emissions (frames, vocab) of a planted text, the text, and the first frame of each token."""
    generator = np.random.default_rng(0)
    frames, length = round(seconds * FRAMES_A_SECOND), round(seconds * TOKENS_A_SECOND)
    tokens = generator.integers(1, VOCAB - 1, length)
    # Tokens in order at random frames, two apart at least.
    starts = np.sort(generator.choice(frames - length - 1, length, replace=False))
    starts += np.arange(length)
    logits = generator.standard_normal((frames, VOCAB), dtype=np.float32)
    logits[:, 0] += 4
    logits[starts, tokens] += 7
    log_probs = torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()
    stars, skips = frozenset(), ()
    if rough:
        # Words of six tokens, with stars between all, each of which may be left out.
        places = [*range(0, length, 6), length]
        stars, skips = frozenset(places), tuple(itertools.pairwise(places))
    target = Target(tokens=tuple(tokens.tolist()), stars=stars, skips=skips)
    return log_probs, target, starts


def to_scores(log_probs: np.ndarray, target: Target) -> FrameScores:
    token_ids = distinct_tokens(target)
    return FrameScores(
        values=select_columns(torch.from_numpy(log_probs), token_ids, blank_id=0),
        token_ids=token_ids,
        timing=TIMING,
        num_samples=320 * log_probs.shape[0] + 80,
    )


def resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_hour(hours: float, *, rough: bool) -> dict[str, Any]:
    """Align in this process and say what it took."""
    warm_log_probs, warm_target, _ = make_case(2, rough=rough)
    align(to_scores(warm_log_probs, warm_target), warm_target)
    log_probs, target, starts = make_case(hours * 3600, rough=rough)
    scores = to_scores(log_probs, target)
    shape = log_probs.shape
    del log_probs
    before = resident_mb()
    wall, busy = time.monotonic(), time.process_time()
    path = align(scores, target)
    wall, busy = time.monotonic() - wall, time.process_time() - busy
    frames = np.flatnonzero(path.on_token)
    found = np.full(len(target.tokens), -(10**6))
    found[path.positions[frames][::-1] - 1] = frames[::-1]
    return {
        "frames": shape[0],
        "tokens": len(target.tokens),
        "rough": rough,
        "seconds": round(wall, 2),
        "processor_seconds": round(busy, 2),
        "peak_mb": round(resident_mb()),
        "peak_mb_before": round(before),
        "tokens_at_their_frame": round(float((np.abs(found - starts) <= 1).mean()), 4),
    }


def child(*words: str, **environment: str) -> dict[str, Any]:
    """Run a part of this script in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.align", *words]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return json.loads(output.stdout.splitlines()[-1])


def hour(hours: float, *, rough: bool) -> int:
    words = ["measure", "--hours", str(hours), *(["--rough"] if rough else [])]
    result = child(*words)
    print(json.dumps({"hours": hours, **result}))
    # One thread does all the work: its processor time is that of one core, whatever else runs.
    too_slow = result["processor_seconds"] > SECONDS_LIMIT * hours**2
    return int(too_slow or result["peak_mb"] > MEGABYTES_LIMIT * max(hours, 1))


def first_use() -> dict[str, Any]:
    """Import and align once."""
    log_probs, target, _ = make_case(2)
    scores = to_scores(log_probs, target)
    begun, busy = time.monotonic(), time.process_time()
    align(scores, target)
    return {
        "seconds": round(time.monotonic() - begun, 2),
        "processor_seconds": round(time.process_time() - busy, 2),
    }


def first() -> int:
    with tempfile.TemporaryDirectory() as folder:
        compiled = child("use", NUMBA_CACHE_DIR=folder)
        cached = child("use", NUMBA_CACHE_DIR=folder)
    print(json.dumps({"first": compiled, "second": cached}))
    return int(compiled["processor_seconds"] > 5)


def beside_torchaudio(minutes: float, *, rounds: int) -> dict[str, Any]:
    """Time both on the same emissions, in turns."""
    from torchaudio.functional import forced_align

    log_probs, target, _ = make_case(60 * minutes)
    scores = to_scores(log_probs, target)
    ours, theirs = [], []
    theirs_inputs = (
        torch.from_numpy(log_probs)[None],
        torch.tensor([target.tokens], dtype=torch.int32),
    )
    path = align(scores, target)
    labels = None
    for _ in range(rounds):
        begun = time.process_time()
        path = align(scores, target)
        ours.append(time.process_time() - begun)
        begun = time.process_time()
        labels, _ = forced_align(*theirs_inputs, blank=0)
        theirs.append(time.process_time() - begun)
    assert labels is not None
    tokens = np.array([0, *target.tokens])
    same = np.where(path.on_token, tokens[path.positions], 0) == labels[0].numpy()
    return {
        "minutes": minutes,
        "ours_processor_seconds": round(statistics.median(ours), 4),
        "torchaudio_processor_seconds": round(statistics.median(theirs), 4),
        "times_faster": round(
            statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2
        ),
        "same_frames": round(float(same.mean()), 6),
    }


def speak(count: int) -> list[tuple[str, Any, Any]]:
    """Sentences, their sound, and their words with the times at which they are spoken."""
    from unheard.audio.synthesis import Synthesizer, Voice
    from unheard.text import swahili

    engine = Synthesizer(seed=5)
    spoken = []
    for number, sentence in enumerate(
        swahili.sentences(count, generator=np.random.default_rng(99))
    ):
        voice = Voice(
            language="sw",
            variant=("f4", "m3", "m7")[number % 3],
            words_per_minute=(140, 165, 190)[number // 3 % 3],
        )
        spoken.append((sentence, *engine.say_words(sentence, voice)))
    return spoken


def boundaries(model: str, *, sentences: int) -> dict[str, Any]:
    """Compare aligned words with those that the speech engine spoke."""
    import unheard

    bundle = unheard.load_model(model)
    starts, ends, middles = [], [], []
    for sentence, sound, spoken in speak(sentences):
        found = unheard.align(bundle, sound, sentence).words
        if len(found) != len(spoken):
            raise RuntimeError(f"{sentence!r}: {len(spoken)} words spoken, {len(found)} aligned")
        starts += [a.start_seconds - b.start_seconds for a, b in zip(found, spoken, strict=True)]
        ends += [a.end_seconds - b.end_seconds for a, b in zip(found, spoken, strict=True)]
        for place in range(len(spoken) - 1):
            pairs = [
                (words[place].end_seconds + words[place + 1].start_seconds) / 2
                for words in (found, spoken)
            ]
            middles.append(pairs[0] - pairs[1])
    result: dict[str, Any] = {"sentences": sentences, "words": len(starts)}
    for name, errors in (
        ("start", starts),
        ("end", ends),
        ("start_and_end", starts + ends),
        ("middle_of_gap", middles),
    ):
        milliseconds = 1000 * np.abs(errors)
        result[name] = {
            "median_ms": round(float(np.median(milliseconds)), 1),
            "p90_ms": round(float(np.percentile(milliseconds, 90)), 1),
            "within_50_ms": round(float((milliseconds <= 50).mean()), 4),
        }
    return result


def spoil(words: list[str], generator: np.random.Generator) -> list[str]:
    """Leave words out, put others in, change some: each in about one place of twenty-five."""
    from unheard.text import swahili

    others = [
        word for one in swahili.sentences(len(words), generator=generator) for word in one.split()
    ]
    place, text = 0, []
    while place < len(words):
        draw, run = generator.random(), int(generator.integers(1, 8))
        if draw < 0.04:
            place += run
        elif draw < 0.08:
            text += [others.pop() for _ in range(run)]
        elif draw < 0.12:
            text.append(others.pop())
            place += 1
        else:
            text.append(words[place])
            place += 1
    return text


def cut_spoilt(model: str, *, sentences: int, seeds: int) -> dict[str, Any]:
    """Cut a recording by a spoilt text, several times, and look at what is in the utterances."""
    import unheard
    from unheard.audio.signal import Waveform
    from unheard.decoding.cutting import CutLimits, cut

    samples, words = [], []
    seconds = 0.0
    for sentence, sound, spoken in speak(sentences):
        for text, word in zip(sentence.split(), spoken, strict=True):
            words.append((text, seconds + word.start_seconds, seconds + word.end_seconds))
        samples += [sound.samples, np.zeros(6400, np.float32)]
        seconds += sound.duration_seconds + 0.4
    recording = Waveform(samples=np.concatenate(samples))
    bundle = unheard.load_model(model)
    counts = {"words_in_text": 0, "words_kept": 0, "utterances": 0, "exact": 0}
    for seed in range(seeds):
        text = spoil([word for word, _, _ in words], np.random.default_rng(seed))
        alignment = unheard.align(bundle, recording, " ".join(text), rough=True)
        cuts = cut(
            alignment,
            duration_seconds=alignment.duration_seconds,
            separator=" ",
            limits=CutLimits(),
        )
        counts["words_in_text"] += len(text)
        counts["words_kept"] += cuts.words_kept
        counts["utterances"] += len(cuts.pieces)
        for piece in cuts.pieces:
            inside = [
                word
                for word, start, end in words
                if start >= piece.start_seconds - 0.06 and end <= piece.end_seconds + 0.06
            ]
            counts["exact"] += piece.text.split() == inside
    return {"words_spoken": len(words), "texts": seeds, "seconds": round(seconds), **counts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=("hour", "first", "torchaudio", "boundaries", "cut", "measure", "use")
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rough", action="store_true")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 5.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "hour":
        return hour(arguments.hours, rough=arguments.rough)
    if arguments.what == "first":
        return first()
    if arguments.what == "measure":
        print(json.dumps(measure_hour(arguments.hours, rough=arguments.rough)))
    elif arguments.what == "use":
        print(json.dumps(first_use()))
    elif arguments.what == "torchaudio":
        for minutes in arguments.minutes:
            print(json.dumps(beside_torchaudio(minutes, rounds=arguments.rounds)))
    elif arguments.model is None:
        parser.error(f"{arguments.what} needs a model")
    elif arguments.what == "cut":
        result = cut_spoilt(arguments.model, sentences=arguments.sentences, seeds=arguments.seeds)
        print(json.dumps(result))
    else:
        result = boundaries(arguments.model, sentences=arguments.sentences)
        print(json.dumps(result))
        return int(result["start_and_end"]["median_ms"] > 40)
    return 0


if __name__ == "__main__":
    sys.exit(main())
