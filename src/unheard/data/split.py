"""Parting utterances into training, validation and test sets.

Held-out speakers are speakers the model has never heard: the sets share no speaker where the
speakers are known. The choice depends on the seed and on the names of the speakers alone, never
on the order of the utterances.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from unheard.data.claims import split_of_name
from unheard.data.manifest import Utterance
from unheard.errors import ConfigError

LARGEST_HELD_OUT_SECONDS = 3600.0
"""A validation or test set cut from the data is no larger than this, however much there is [s]."""

FEWEST_SPEAKERS = 3
"""With fewer known speakers, utterances are parted instead: each set needs a speaker."""

FEWEST_RECORDINGS = 10
"""With fewer recordings, their utterances are parted one by one."""

LEAST_TRAINING_SHARE = 0.5
"""A speaker is not set aside for validation if less than this part would be left to train on."""

LEAST_HELD_OUT = 20
"""Fewer utterances than this make a rough measure, which a warning says."""

By = Literal["given", "speaker", "recording", "utterance"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Utterances parted into sets.

    Attributes:
        train: transcribed, to learn writing from.
        valid: transcribed, to choose the best step by.
        test: transcribed, to measure the result with.
        unlabelled: without transcript, to learn listening from.
        removed: left out: the same sound is in the validation or test set, or the speaker is one
            that only the test set has a transcript of.
        by: what keeps the test set apart (the validation set, if the test set was given).
        warnings: what a reader of the error rate should know.
    """

    train: tuple[Utterance, ...]
    valid: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    unlabelled: tuple[Utterance, ...]
    removed: tuple[Utterance, ...]
    by: By
    warnings: tuple[str, ...]

    def sets(self) -> dict[str, tuple[Utterance, ...]]:
        """The four sets by name."""
        return {
            "train": self.train,
            "valid": self.valid,
            "test": self.test,
            "unlabelled": self.unlabelled,
        }


def split(
    utterances: Sequence[Utterance],
    *,
    valid: float | Sequence[Utterance] = 0.1,
    test: float | Sequence[Utterance] = 0.1,
    seed: int = 0,
    use_given: bool = True,
    sound_of: Callable[[Utterance], Hashable] | None = None,
) -> Split:
    """Part utterances into training, validation, test and unlabelled sets.

    A validation or test set that is cut from the data holds whole speakers where at least
    `FEWEST_SPEAKERS` are known, else whole recordings, else single utterances. A set that is
    given stays as it is. Whatever overlaps a held-out stretch of sound is removed from the other
    sets, and so are recordings without transcript of speakers who are otherwise in the test set
    alone: what the test measures shall be unheard.

    Args:
        utterances: with absolute paths of recordings, or paths from one folder.
        valid: part of the transcribed seconds to set aside, from 0 (no such set at all) to below
            1; or the set.
        test: the same for the test set.
        seed: of the choice.
        use_given: keep the corpus's own sets, where `extra["split"]` names them, the caller gives
            none, and they leave something to train on.
        sound_of: names the sound of an utterance, so that copies of a recording are known; its
            path if left out.

    Returns:
        The sets; those that are cut are in the order of `utterances`.

    Raises:
        ConfigError: if a part is out of range, both leave nothing to train on, or a given set
            has no transcript.
    """
    parts = _parts(valid, test)
    sound = sound_of or _path
    labelled = [utterance for utterance in utterances if utterance.text is not None]
    warnings: list[str] = []
    held_out: dict[str, list[Utterance]] = {}
    for name, choice in (("test", test), ("valid", valid)):
        given = _given(choice, labelled, name, warnings, use_own=use_given)
        if given is not None:
            held_out[name] = _apart(given, held_out, sound)
            if len(held_out[name]) < len(given):
                warnings.append(
                    f"{len(given) - len(held_out[name])} utterances of the {name} set were "
                    "removed: the test set holds the same sound."
                )
    if use_given and labelled and parts and not _apart(labelled, held_out, sound):
        parted = split(
            utterances, valid=valid, test=test, seed=seed, use_given=False, sound_of=sound_of
        )
        ignored = "The corpus's own sets leave nothing to train on: they were not kept."
        return replace(parted, warnings=(ignored, *parted.warnings))
    total_seconds = _length(labelled)
    by: By = "given"
    for name in ("test", "valid"):
        if name in held_out:
            continue
        held_out[name] = []
        if parts[name] > 0.0:
            target = min(parts[name] * total_seconds, LARGEST_HELD_OUT_SECONDS)
            pool = _apart(labelled, held_out, sound)
            busy = {one.speaker for members in held_out.values() for one in members}
            chosen, how = _cut(pool, name, target, busy, seed, sound, warnings)
            held_out[name] = chosen
            by = how if by == "given" and chosen else by
    for name, members in held_out.items():
        if 0 < len(members) < LEAST_HELD_OUT:
            warnings.append(
                f"The {name} set has {len(members)} utterances only: its error rate is rough."
            )
    heard = [_Sounds(members, sound) for members in held_out.values()]
    sets = _rest(utterances, held_out, heard)
    return Split(
        train=tuple(sets["train"]),
        valid=tuple(held_out["valid"]),
        test=tuple(held_out["test"]),
        unlabelled=tuple(sets["unlabelled"]),
        removed=tuple(sets["removed"]),
        by=by,
        warnings=tuple(warnings),
    )


def _parts(
    valid: float | Sequence[Utterance], test: float | Sequence[Utterance]
) -> dict[str, float]:
    """The sets to be cut, with their parts; checked."""
    parts = {
        name: float(part)
        for name, part in (("test", test), ("valid", valid))
        if isinstance(part, int | float)
    }
    for name, part in parts.items():
        if not 0.0 <= part < 1.0:
            raise ConfigError(
                f"{name}: expected a part of the transcripts from 0 to below 1, found {part:g}."
            )
    if sum(parts.values()) >= 1.0:
        raise ConfigError(
            f"valid and test together take {sum(parts.values()):g} of the transcripts: expected "
            "less than 1, so that some are left to train on."
        )
    return parts


def _given(
    choice: float | Sequence[Utterance],
    labelled: Sequence[Utterance],
    name: str,
    warnings: list[str],
    *,
    use_own: bool,
) -> list[Utterance] | None:
    """The set that the caller gives, or the corpus where the caller wants one; or None."""
    if isinstance(choice, int | float):
        if not use_own or choice == 0:
            return None
        own = [one for one in labelled if split_of_name(str(one.extra.get("split"))) == name]
        return own or None
    with_text = [one for one in choice if one.text is not None]
    if not with_text:
        raise ConfigError(
            f"The {name} set has no transcript among its {len(choice)} utterances: expected at "
            "least one. Give another set, or a part to cut off."
        )
    if len(with_text) < len(choice):
        warnings.append(
            f"{len(choice) - len(with_text)} utterances of the {name} set have no transcript and "
            "are not used."
        )
    return with_text


def _apart(
    utterances: Sequence[Utterance],
    held_out: Mapping[str, Sequence[Utterance]],
    sound_of: Callable[[Utterance], Hashable],
) -> list[Utterance]:
    """Those that share no sound with a set that is held out already."""
    heard = [_Sounds(members, sound_of) for members in held_out.values()]
    return [one for one in utterances if not any(sounds.overlap(one) for sounds in heard)]


class _Sounds:
    """The stretches of sound in a set, to find what overlaps them."""

    def __init__(
        self, utterances: Iterable[Utterance], sound_of: Callable[[Utterance], Hashable]
    ) -> None:
        self._sound_of = sound_of
        self._stretches: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
        for one in utterances:
            self._stretches[sound_of(one)].append(_seconds(one))

    def overlap(self, utterance: Utterance) -> bool:
        """Say whether an utterance shares any sound with the set."""
        stretches = self._stretches.get(self._sound_of(utterance), ())
        begins, ends = _seconds(utterance)
        return any(begins < other_end and other < ends for other, other_end in stretches)


def _seconds(utterance: Utterance) -> tuple[float, float]:
    """Where an utterance begins and ends within its recording [s]."""
    ends = utterance.start + utterance.num_samples
    return utterance.start / utterance.sample_rate, ends / utterance.sample_rate


def _path(utterance: Utterance) -> Hashable:
    return utterance.audio


def _cut(
    pool: Sequence[Utterance],
    name: str,
    target_seconds: float,
    busy_speakers: Collection[str | None],
    seed: int,
    sound_of: Callable[[Utterance], Hashable],
    warnings: list[str],
) -> tuple[list[Utterance], By]:
    """Cut a set of about `target_seconds` from the pool, by the largest units that allow it.

    Args:
        pool: transcribed utterances that are in no held-out set.
        name: of the set.
        target_seconds: how much to take.
        busy_speakers: those that another held-out set has.
        seed: of the choice.
        sound_of: names the sound of an utterance.
        warnings: where to say what a reader of the error rate should know.
    """
    total = _length(pool)
    known = [one for one in pool if one.speaker is not None]
    by_speaker = _grouped(known, lambda one: one.speaker or "")
    free = {speaker: group for speaker, group in by_speaker.items() if speaker not in busy_speakers}
    if len(by_speaker) >= FEWEST_SPEAKERS and len(free) > 1 and _length(known) >= total / 2:
        names = _choose(free, target_seconds, seed, name)
        chosen = [one for one in known if one.speaker in names]
        if name == "test" or total - _length(chosen) >= LEAST_TRAINING_SHARE * total:
            if len(known) < len(pool):
                warnings.append(
                    f"{len(pool) - len(known)} transcribed utterances have no speaker: some may "
                    f"be by speakers of the {name} set."
                )
            return chosen, "speaker"
        reason = f"setting a speaker aside for it would leave under {LEAST_TRAINING_SHARE:.0%}"
    elif by_speaker:
        reason = f"{len(free)} speaker{' is' if len(free) == 1 else 's are'} left to choose from"
    else:
        reason = "no speakers are known"
    by_recording = _grouped(pool, sound_of)
    by: By = "utterance"
    groups = _grouped(pool, lambda one: one.id)
    if FEWEST_RECORDINGS <= len(by_recording) < len(pool):
        by = "recording"
        groups = {min(one.id for one in group): group for group in by_recording.values()}
    if len(groups) < 2:
        if pool:
            warnings.append(f"There is no {name} set: a single {by} cannot be parted.")
        return [], by
    keys = _choose(groups, target_seconds, seed, name)
    consequence = (
        ""
        if by_speaker
        else (
            ": it may share speakers with the training set, and new speakers will be recognised "
            "less well than it says"
        )
    )
    warnings.append(f"The {name} set was cut by {by}, since {reason}{consequence}.")
    members = {one.id for key in keys for one in groups[key]}
    return [one for one in pool if one.id in members], by


_Key = TypeVar("_Key", bound=Hashable)


def _grouped(
    utterances: Iterable[Utterance], key: Callable[[Utterance], _Key]
) -> dict[_Key, list[Utterance]]:
    groups: dict[_Key, list[Utterance]] = defaultdict(list)
    for one in utterances:
        groups[key(one)].append(one)
    return dict(groups)


def _length(utterances: Iterable[Utterance]) -> float:
    """Sum of durations, the same in any order [s]."""
    return math.fsum(one.duration_seconds for one in utterances)


def _choose(
    groups: Mapping[str, Sequence[Utterance]], target_seconds: float, seed: int, name: str
) -> set[str]:
    """Choose groups whose seconds come close to the target; at least one, never the last one.

    Groups are tried in an order that hashes give, so that it depends on the seed and their names
    alone, and one more group elsewhere moves none of the others.
    """

    def place(key: str) -> str:
        return hashlib.sha256(
            f"{seed}\0{name}\0{key}".encode("utf-8", "backslashreplace")
        ).hexdigest()

    lengths = {key: _length(members) for key, members in groups.items()}
    order = sorted(groups, key=place)
    chosen: set[str] = set()
    seconds = 0.0
    for key in order:
        if len(chosen) + 1 >= len(groups):
            break
        if abs(seconds + lengths[key] - target_seconds) < abs(seconds - target_seconds):
            chosen.add(key)
            seconds += lengths[key]
    if not chosen:
        chosen.add(min(order, key=lambda key: lengths[key]))
    return chosen


def _rest(
    utterances: Sequence[Utterance],
    held_out: Mapping[str, Sequence[Utterance]],
    heard: Sequence[_Sounds],
) -> dict[str, list[Utterance]]:
    """Part what is not held out into training, unlabelled and removed."""
    members = {_identity(one) for chosen in held_out.values() for one in chosen}
    others = [one for one in utterances if _identity(one) not in members]
    overlapping = [any(sounds.overlap(one) for sounds in heard) for one in others]
    sets: dict[str, list[Utterance]] = {"train": [], "unlabelled": [], "removed": []}
    for one, overlaps in zip(others, overlapping, strict=True):
        if not overlaps and one.text is not None:
            sets["train"].append(one)
    only_in_test = {one.speaker for one in held_out["test"]} - {
        one.speaker for one in sets["train"]
    }
    for one, overlaps in zip(others, overlapping, strict=True):
        if overlaps or (one.text is None and one.speaker in only_in_test - {None}):
            sets["removed"].append(one)
        elif one.text is None:
            sets["unlabelled"].append(one)
    return sets


def _identity(utterance: Utterance) -> tuple[str, str, int, int]:
    """The utterance by name and by stretch of sound."""
    return utterance.id, utterance.audio, utterance.start, utterance.num_samples
