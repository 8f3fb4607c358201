"""Which search a language model, a lexicon and an alphabet ask for."""

from unheard.decoding.fusion import FusedDecoder
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.search import HotWords, SearchConfig, SearchDecoder
from unheard.errors import ConfigError
from unheard.lm.ngram import NgramModel
from unheard.lm.scorer import BeginningScorer
from unheard.text.alphabet import Alphabet


def make_decoder(
    alphabet: Alphabet,
    *,
    lm: NgramModel | None = None,
    lexicon: Lexicon | None = None,
    hot_words: HotWords = (),
    config: SearchConfig | None = None,
    fuse: BeginningScorer | None = None,
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
        fuse: a second language model in the beam (`unheard.decoding.fusion`).

    Raises:
        AlphabetError: if the model, or a hot word, cannot be spelt.
        ConfigError: if the model, the lexicon and the alphabet do not fit together.
    """
    if lexicon is not None and lexicon.alphabet != alphabet:
        raise ConfigError(
            "the lexicon is spelt in another alphabet than the emissions: expected the same "
            "symbols in the same order."
        )
    search = (
        PrefixDecoder(alphabet, lm=lm, hot_words=hot_words, config=config)
        if lexicon is None
        else LexiconDecoder(lexicon, lm=lm, hot_words=hot_words, config=config)
    )
    return search if fuse is None else FusedDecoder(search, fuse)
