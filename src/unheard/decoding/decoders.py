"""Which search a language model, a lexicon and an alphabet ask for."""

from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.search import HotWords, SearchConfig, SearchDecoder
from unheard.errors import ConfigError
from unheard.lm.ngram import NgramModel
from unheard.text.alphabet import Alphabet


def make_decoder(
    alphabet: Alphabet,
    *,
    lm: NgramModel | None = None,
    lexicon: Lexicon | None = None,
    hot_words: HotWords = (),
    config: SearchConfig | None = None,
) -> SearchDecoder:
    """Make a beam search.

    With a lexicon only its words are written (`unheard.decoding.lexicon_search`); without one,
    any text may be (`unheard.decoding.prefix_search`). Reading greedily is
    `unheard.decoding.greedy.GreedyDecoder`.

    Args:
        alphabet: symbols of the emissions.
        lm: n-gram model; with a lexicon, one of words.
        lexicon: the words that may be written, spelt in the same alphabet.
        hot_words: words or phrases with bonuses.
        config: how to score and prune.

    Raises:
        AlphabetError: if the model, or a hot word, cannot be spelt.
        ConfigError: if the model, the lexicon and the alphabet do not fit together.
    """
    if lexicon is None:
        return PrefixDecoder(alphabet, lm=lm, hot_words=hot_words, config=config)
    if lexicon.alphabet != alphabet:
        raise ConfigError(
            "the lexicon is spelt in another alphabet than the emissions: expected the same "
            "symbols in the same order."
        )
    return LexiconDecoder(lexicon, lm=lm, hot_words=hot_words, config=config)
