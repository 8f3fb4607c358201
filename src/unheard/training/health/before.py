"""What can be seen before the first update: transcripts that do not fit, outputs without data."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from unheard.errors import shorten
from unheard.text.alphabet import Alphabet, describe
from unheard.training.health.findings import HealthFinding

LABELS_AN_OUTPUT = 20.0
"""Labels that training should show of each output, on average."""
SELDOM = 5
"""An output seen fewer times can hardly be learnt."""
SELDOM_SHARE = 0.25
"""Share of the outputs seen so seldom from which on it is worth saying."""
HALF = 0.5
"""Share of the transcripts that cannot be used from which on something is wrong with all."""
SOME = 0.02
"""Share from which on it is worth saying."""
UTTERANCES_MEASURED = 32


def check_transcripts(
    *,
    kept: Sequence[Sequence[int]],
    too_short: int,
    foreign: int,
    foreign_characters: Sequence[str],
    where: str,
) -> list[HealthFinding]:
    """Judge transcripts as targets of CTC.

    Args:
        kept: labels of those that can be learnt from.
        too_short: recordings with fewer frames than their text has labels and repeats.
        foreign: transcripts with characters that the alphabet lacks.
        foreign_characters: those characters.
        where: what the utterances are for, "training" or "validation".
    """
    total = len(kept) + too_short + foreign
    found: list[HealthFinding] = []
    if too_short > SOME * total:
        share = too_short / total
        found.append(
            HealthFinding(
                code=f"targets_too_long_{where}",
                severity="error" if share >= HALF else "warning",
                step=0,
                message=f"{too_short:,} of {total:,} {where} transcripts ({share:.0%}) are longer "
                "than their recordings have frames (a label needs a frame, two equal ones in a "
                "row need one more). They are left out.",
                advice="Do transcripts belong to other recordings, or are recordings cut off? If "
                "texts are right, the network is too coarse: fewer or smaller strides "
                "(network.encoder.conv_layers). left_out.jsonl lists them.",
                values={"utterances": total, "too_short": too_short, "share": share},
            )
        )
    if foreign > SOME * total:
        share = foreign / total
        named = shorten((describe(character) for character in foreign_characters), limit=8)
        found.append(
            HealthFinding(
                code=f"outside_alphabet_{where}",
                severity="error" if share >= HALF else "warning",
                step=0,
                message=f"{foreign:,} of {total:,} {where} transcripts ({share:.0%}) have "
                f"characters that the network cannot write: {named}. They are left out.",
                advice="Capitals or digits that the alphabet has not, another script, or another "
                "normaliser (--normalizer) than that of the training transcripts? Otherwise add "
                "transcripts with these characters to the training set.",
                values={"utterances": total, "outside": foreign, "share": share},
            )
        )
    return found


def check_vocabulary(targets: Sequence[Sequence[int]], alphabet: Alphabet) -> list[HealthFinding]:
    """Judge whether the transcripts show enough of each output.

    Args:
        targets: labels of the utterances to learn from.
        alphabet: of the network.
    """
    counts: Counter[int] = Counter(label for target in targets for label in target)
    not_written = {alphabet.blank, *alphabet.special, alphabet.unknown}
    outputs = [n for n, token in enumerate(alphabet.tokens) if token not in not_written]
    labels = counts.total()
    if not outputs or not labels:
        return []
    seldom = [alphabet.tokens[number] for number in outputs if counts[number] < SELDOM]
    values = {"outputs": len(outputs), "labels": labels, "seldom": len(seldom)}
    advice = (
        "Write fewer different symbols: fold capitals, digits and foreign letters with a "
        "normaliser (--normalizer), or transcribe more. A pre-trained start (--start) does not "
        "help here."
    )
    if labels < LABELS_AN_OUTPUT * len(outputs):
        message = (
            f"The alphabet has {len(outputs):,} symbols and the transcripts {labels:,} labels, "
            f"{labels / len(outputs):.1f} of each on average: too few to learn most of them."
        )
    elif len(seldom) > SELDOM_SHARE * len(outputs):
        message = (
            f"{len(seldom):,} of the alphabet's {len(outputs):,} symbols occur fewer than "
            f"{SELDOM} times in the transcripts: they can hardly be learnt."
        )
    else:
        return []
    return [
        HealthFinding(
            code="vocabulary",
            severity="warning",
            step=0,
            message=f"{message} Such are: {shorten(map(describe_token, seldom), limit=8)}."
            if seldom
            else message,
            advice=advice,
            values=values,
        )
    ]


def describe_token(token: str) -> str:
    """Name a token as a person would."""
    return describe(token) if len(token) == 1 else repr(token)


def constant_output_loss(
    frames: Sequence[int], targets: Sequence[Sequence[int]], *, outputs: int, blank: int
) -> float:
    """CTC loss of the best output that does not depend on the sound [nats an utterance].

    One distribution over the outputs, the same in every frame, fitted to a sample of the
    utterances: what a network knows that has learnt how often each letter is written and nothing
    else. The plateau on which training begins lies here.

    Args:
        frames: of each utterance.
        targets: labels of each, all of which fit.
        outputs: number of outputs.
        blank: index of the blank.
    """
    step = max(1, math.ceil(len(frames) / UTTERANCES_MEASURED))
    chosen = range(0, len(frames), step)
    lengths = torch.tensor([frames[n] for n in chosen])
    sizes = torch.tensor([len(targets[n]) for n in chosen])
    flat = torch.tensor([label for n in chosen for label in targets[n]], dtype=torch.long)
    counts = torch.bincount(flat, minlength=outputs).double() + 1e-3
    counts[blank] = float((lengths - sizes).sum().clamp_min(1))
    scores = counts.log().requires_grad_()
    longest = int(lengths.max())
    optimizer = torch.optim.LBFGS([scores], max_iter=8, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        log_probs = torch.log_softmax(scores, dim=0).expand(longest, len(chosen), outputs)
        total = F.ctc_loss(log_probs, flat, lengths, sizes, blank=blank, reduction="sum")
        return total / len(chosen)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return float(loss())
