"""Languages and corpora are heard as often as their exponents say, exactly and resumably."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import tones
from tests.training_runs import decode

from unheard.audio.signal import InputSpec
from unheard.data.batching import BatchPlan, Position
from unheard.data.dataset import Prefetch, UnlabelledSource
from unheard.data.manifest import Utterance
from unheard.data.pcm import PcmStore, open_store
from unheard.data.sampling import SampledPlan, Sampling, SamplingConfig, weigh
from unheard.errors import ConfigError

HOUR = 3600 * 16_000


def weighed(
    hours: dict[tuple[str, str], float], config: SamplingConfig, *, pieces: int = 1
) -> Sampling:
    """Weigh (corpus, language) -> hours, each in `pieces` utterances."""
    rows = [name for name in hours for _ in range(pieces)]
    return weigh(
        config,
        num_samples=np.array([round(hours[name] * HOUR / pieces) for name in rows]),
        languages=[language for _, language in rows],
        corpora=[corpus for corpus, _ in rows],
        sample_rate=16_000,
    )


def shares(sampling: Sampling) -> dict[tuple[str, str], float]:
    return {(group.corpus, group.language): group.share for group in sampling.groups}


def test_languages_by_the_rule_of_xlsr() -> None:
    """(n_l / N)^0.5 for 1, 9 and 90 hours, computed by hand."""
    hours = {("", "lug"): 1.0, ("", "swa"): 9.0, ("", "eng"): 90.0}
    found = shares(weighed(hours, SamplingConfig(language=0.5)))
    total = 1 + 3 + 90**0.5
    assert found[("", "lug")] == pytest.approx(1 / total)
    assert found[("", "swa")] == pytest.approx(3 / total)
    assert found[("", "eng")] == pytest.approx(90**0.5 / total)


def test_corpora_by_the_rule_of_xls_r() -> None:
    """Within corpus "a" 1 : 4 hours become 1 : 2; between corpora 5 : 45 become 1 : 3."""
    hours = {("a", "lug"): 1.0, ("a", "swa"): 4.0, ("b", "lug"): 45.0}
    found = shares(weighed(hours, SamplingConfig(language=0.5, corpus=0.5)))
    assert found[("a", "lug")] == pytest.approx(1 / 4 * 1 / 3)
    assert found[("a", "swa")] == pytest.approx(1 / 4 * 2 / 3)
    assert found[("b", "lug")] == pytest.approx(3 / 4)


def test_corpora_are_not_told_apart_unless_asked() -> None:
    hours = {("a", "lug"): 1.0, ("b", "lug"): 8.0, ("b", "swa"): 9.0}
    found = shares(weighed(hours, SamplingConfig(language=0.5)))
    assert found == {("", "lug"): pytest.approx(0.5), ("", "swa"): pytest.approx(0.5)}


@pytest.mark.parametrize("corpus", [None, 1.0])
def test_exponent_one_changes_nothing_and_zero_makes_equal(corpus: float | None) -> None:
    hours = {("", "a"): 1.0, ("", "b"): 2.0, ("", "c"): 5.0}
    found = weighed(hours, SamplingConfig(language=1.0, corpus=corpus))
    assert [group.share for group in found.groups] == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert [group.passes for group in found.groups] == pytest.approx([1, 1, 1])
    found = weighed(hours, SamplingConfig(language=0.0, corpus=corpus))
    assert [group.share for group in found.groups] == pytest.approx([1 / 3] * 3)
    assert [group.passes for group in found.groups] == pytest.approx([8 / 3, 8 / 6, 8 / 15])


def test_an_epoch_holds_as_much_sound_as_there_is() -> None:
    hours = {("a", "x"): 0.5, ("a", "y"): 7.0, ("b", "x"): 3.0, ("c", "z"): 90.0}
    found = weighed(hours, SamplingConfig(language=0.5, corpus=0.3), pieces=7)
    heard = sum(group.passes * group.seconds for group in found.groups)
    assert heard == pytest.approx(3600 * sum(hours.values()))
    assert sum(group.share for group in found.groups) == pytest.approx(1)


def corpus(*, seed: int = 0) -> tuple[NDArray[np.int64], Sampling]:
    """Three languages of 40, 200 and 1000 utterances of one to ten seconds."""
    generator = np.random.default_rng(seed)
    languages = ["lug"] * 40 + ["swa"] * 200 + ["eng"] * 1000
    generator.shuffle(languages)
    lengths = generator.integers(16_000, 160_000, size=len(languages))
    sampling = weigh(
        SamplingConfig(language=0.5),
        num_samples=lengths,
        languages=languages,
        corpora=[""] * len(languages),
        sample_rate=16_000,
    )
    return lengths, sampling


def make_plan(seed: int = 0, **more: Any) -> SampledPlan:
    lengths, sampling = corpus()
    options = {"batch_samples": 800_000, "fit": "crop", "max_samples": 160_000, "seed": seed}
    return SampledPlan(lengths, sampling, **(options | more))


def epoch_of(plan: BatchPlan, epoch: int) -> list[list[int]]:
    batches = []
    position = Position(epoch=epoch)
    while position.epoch == epoch:
        batches.append(plan.batch(position).tolist())
        position = plan.after(position)
    return batches


def test_each_utterance_is_taken_as_often_as_the_others_of_its_language() -> None:
    plan = make_plan()
    _, sampling = corpus()
    taken: Counter[int] = Counter()
    for epoch in range(7):
        taken.update(plan.utterances(epoch).tolist())
        for number, group in enumerate(sampling.groups):
            members = np.flatnonzero(sampling.group_of == number)
            times = [taken[int(member)] for member in members]
            assert max(times) - min(times) <= 1
            assert sum(times) == round((epoch + 1) * group.passes * group.utterances)


def test_sound_is_heard_in_the_proportions_asked_for() -> None:
    plan = make_plan()
    lengths, sampling = corpus()
    heard = np.zeros(len(sampling.groups))
    for epoch in range(10):
        for batch in epoch_of(plan, epoch):
            np.add.at(heard, sampling.group_of[batch], lengths[batch])
    wanted = [group.share for group in sampling.groups]
    # Without replacement only the last, unfinished pass can be off: 1 of 20 and more passes.
    assert heard / heard.sum() == pytest.approx(wanted, rel=0.02)
    natural = np.bincount(sampling.group_of, weights=lengths) / lengths.sum()
    assert np.abs(natural - wanted).max() > 0.1


def test_batches_hold_what_the_epoch_holds_and_mix_languages() -> None:
    plan = make_plan()
    _, sampling = corpus()
    batches = epoch_of(plan, 3)
    assert Counter(number for batch in batches for number in batch) == Counter(
        plan.utterances(3).tolist()
    )
    mixed = sum(len(set(sampling.group_of[batch])) > 1 for batch in batches)
    assert mixed > 0.9 * len(batches)


def test_batches_have_one_size_and_alike_lengths() -> None:
    plan = make_plan()
    lengths, _ = corpus()
    batches = epoch_of(plan, 0)
    seconds = [int(lengths[batch].min()) * len(batch) for batch in batches]
    assert max(seconds) <= 800_000
    assert np.median(seconds) > 700_000


def test_any_position_can_be_gone_on_from() -> None:
    """A new plan gives the same batch at once, without those before it."""
    plan = make_plan()
    position = Position()
    seen = []
    for _ in range(400):
        seen.append((position, plan.batch(position).tolist()))
        position = plan.after(position)
    assert seen[-1][0].epoch >= 2
    for position, batch in (seen[399], seen[7], seen[250]):
        assert make_plan().batch(position).tolist() == batch
    others = [make_plan(seed=1).batch(position).tolist() for position, _ in seen[:5]]
    assert others != [batch for _, batch in seen[:5]]


def test_a_language_too_small_for_every_epoch_comes_in_some() -> None:
    sampling = weighed({("", "a"): 0.001, ("", "b"): 1000.0}, SamplingConfig(language=1.0))
    # One utterance each; with these shares the small one is passed through once an epoch.
    rare = replace(sampling.groups[0], passes=0.25)
    plan = SampledPlan(
        np.array([16_000, 16_000]),
        replace(sampling, groups=(rare, sampling.groups[1])),
        batch_samples=64_000,
        fit="crop",
        max_samples=16_000,
        seed=0,
    )
    taken = [int((plan.utterances(epoch) == 0).sum()) for epoch in range(16)]
    assert sum(taken) == 4
    assert max(taken) == 1


def test_an_epoch_is_never_empty() -> None:
    sampling = weighed({("", "a"): 1.0}, SamplingConfig())
    sampling = replace(sampling, groups=(replace(sampling.groups[0], passes=0.1),))
    plan = SampledPlan(
        np.array([16_000]), sampling, batch_samples=9, fit="crop", max_samples=16_000, seed=0
    )
    assert plan.utterances(0).tolist() == [0]
    assert plan.after(Position()) == Position(epoch=1)


def tagged_store(folder: Path) -> PcmStore:
    """Tones in two languages, the second of which has a quarter of the sound."""
    store = decode(folder, count=20)
    utterances = [
        Utterance(
            id=name,
            audio=f"{number:02d}.wav",
            num_samples=int(store.num_samples[number]),
            sample_rate=tones.RATE,
            language="rare" if number % 4 == 0 else "common",
            extra={"corpus": "even"} if number % 2 == 0 else {},
        )
        for number, name in enumerate(store.ids)
    ]
    return open_store(utterances, folder / "store", root=folder)


def source_of(store: PcmStore, **more: Any) -> UnlabelledSource:
    return UnlabelledSource(
        store,
        input_spec=InputSpec(),
        batch_seconds=4.0,
        min_seconds=0.1,
        max_seconds=0.5,
        seed=0,
        **more,
    )


def test_a_store_knows_languages_and_corpora(tmp_path: Path) -> None:
    store = tagged_store(tmp_path)
    assert store.names("language")[:5] == ["rare", "common", "common", "common", "rare"]
    assert store.names("corpus")[:3] == ["even", "", "even"]
    assert store.only([4, 1]).names("language") == ["rare", "common"]
    # Tags may change without the sound, which is not decoded again.
    again = PcmStore(tmp_path / "store")
    assert again.names("language") == store.names("language")
    assert again.sha256 == store.sha256


def test_batches_of_a_source_follow_the_sampling(tmp_path: Path) -> None:
    store = tagged_store(tmp_path)
    source = source_of(store, sampling=SamplingConfig(language=0.0))
    assert source.sampling is not None
    heard: Counter[str] = Counter()
    language = dict(zip(store.ids, store.names("language"), strict=True))
    position = Position()
    while position.epoch < 6:
        heard.update(language[name] for name in source.load(position).ids)
        position = source.plan.after(position)
    assert heard["rare"] / heard.total() == pytest.approx(0.5, abs=0.02)
    plain = source_of(store)
    assert plain.sampling is None


def test_an_utterance_heard_twice_is_not_cropped_alike(tmp_path: Path) -> None:
    source = source_of(tagged_store(tmp_path), sampling=SamplingConfig(language=0.0))
    crops: dict[str, list[NDArray[np.float32]]] = {}
    position = Position()
    while position.epoch < 1:
        batch = source.load(position)
        for name, samples in zip(batch.ids, batch.samples.numpy(), strict=True):
            crops.setdefault(name, []).append(samples)
        position = source.plan.after(position)
    twice = [found for found in crops.values() if len(found) > 1]
    assert len(twice) >= 4
    assert not any(np.array_equal(one[0][:4000], one[1][:4000]) for one in twice)


def test_ranks_share_the_batches_of_an_epoch(tmp_path: Path) -> None:
    store = tagged_store(tmp_path)
    alone = source_of(store, sampling=SamplingConfig(language=0.0))
    expected, position = [], Position()
    for _ in range(12):
        expected.append(alone.load(position).ids)
        position = alone.plan.after(position)
    found: list[tuple[str, ...]] = [()] * 12
    for rank in range(3):
        own = source_of(store, sampling=SamplingConfig(language=0.0))
        stream = Prefetch(own, Position(), rank=rank, world=3)
        for turn, (_, batch) in zip(range(4), stream, strict=False):
            found[3 * turn + rank] = batch.ids
        stream.close()
    assert found == expected


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampling\.language must be from 0"):
        SamplingConfig(language=1.5)
    with pytest.raises(ConfigError, match=r"sampling\.corpus must be from 0"):
        SamplingConfig(corpus=-0.1)
    options: dict[str, Any] = {"languages": ["a"], "corpora": ["", ""], "sample_rate": 1}
    with pytest.raises(ConfigError, match="Expected a language"):
        weigh(SamplingConfig(), num_samples=np.array([1, 1]), **options)
    options["languages"] = ["a", "a"]
    with pytest.raises(ConfigError, match="nothing to sample"):
        weigh(SamplingConfig(), num_samples=np.array([0, 0]), **options)
