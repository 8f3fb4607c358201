"""How `mini` learns to write depends on how much there is to learn from."""

from unheard.recipes.catalogue import get_recipe
from unheard.recipes.small import for_few_transcripts


def test_few_transcripts_are_learnt_from_with_other_settings_in_the_same_network() -> None:
    mini, few = get_recipe("mini"), get_recipe("mini-ft-10m")

    found = for_few_transcripts(mini, transcribed_seconds=570.0)

    assert (found.finetune, found.finetuning) == (few.finetune, few.finetuning)
    assert (found.network, found.pretraining) == (mini.network, mini.pretraining)
    assert few.finetune.masking.time_probability > mini.finetune.masking.time_probability
    assert few.finetuning.augment.speed is not None


def test_many_transcripts_and_other_recipes_stay_as_they_are() -> None:
    mini, base = get_recipe("mini"), get_recipe("base")
    assert for_few_transcripts(mini, transcribed_seconds=1200.0) is mini
    assert for_few_transcripts(base, transcribed_seconds=10.0) is base
