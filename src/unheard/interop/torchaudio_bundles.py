"""What torchaudio's bundles are: the networks it publishes, their files, labels and licences.

Source: torchaudio pipelines/_wav2vec2/impl.py and utils.py, version 2.11. In every bundle, and so
in this table, a recording is normalised if and only if the convolutions have layer norms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from unheard.interop.sidecar import make_alphabet
from unheard.models.config import EncoderConfig
from unheard.text.alphabet import WORD_BOUNDARY, Alphabet

BLANK = "-"
"""What torchaudio calls output 0."""

LIBRISPEECH = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"
GERMAN = "|enirstadhulgcmobwfkzpvüäöjßyxq"
ENGLISH = "|etoiansrhldcumpfgwybvkxjqz"
SPANISH = "|eaosnrildctupmbqygvhófíájzñéxúkwü"
FRENCH = "|esnitraouldcpmévqfgbhxàjèyêzôkçœûùîâwïëüæ"
ITALIAN = "|eiaontrlscdupmgvhzfbqàèùéòìkyxwjóíï"
ROMANISED = "aienoutsrmkldghybpwcvjzf'qx"
"""Labels after the blank, one character each."""

DICTIONARY_TOKENS: Mapping[int, str] = MappingProxyType({1: "<pad>", 2: "</s>", 3: "<unk>"})
"""Outputs of the published files that torchaudio removes when it reads them: fairseq's dictionary
begins with four tokens, of which the first became the blank."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One published network.

    Attributes:
        file: what the published file is called, with its folder if the name alone says little.
        shape: width, layers, kind of norm in the convolutions, whether those have biases.
        labels: of the outputs after the blank, as torchaudio gives them; empty without a head.
        digit: number of one more output that torchaudio removes, a digit "1" from the transcripts.
        license: of the weights.
    """

    file: str
    shape: tuple[int, int, Literal["group", "layer"], bool]
    labels: str = ""
    digit: int | None = None
    license: str = "MIT"

    @property
    def outputs(self) -> tuple[int, ...]:
        """Sizes that its head may have: in torchaudio's network, and in the published file."""
        if not self.labels:
            return ()
        kept = 1 + len(self.labels)
        return kept, kept + len(DICTIONARY_TOKENS) + (self.digit is not None)


BASE = (768, 12, "group", False)
LARGE = (1024, 24, "group", False)
LARGE_LV60K = (1024, 24, "layer", True)
HUBERT_LARGE = (1024, 24, "layer", False)
HUBERT_XLARGE = (1280, 48, "layer", False)
XLSR_1B = (1280, 48, "layer", True)
XLSR_2B = (1920, 48, "layer", True)
NON_COMMERCIAL = "CC BY-NC 4.0"

BUNDLES: Mapping[str, Bundle] = MappingProxyType(
    {
        "WAV2VEC2_BASE": Bundle(file="wav2vec2_fairseq_base_ls960.pth", shape=BASE),
        "WAV2VEC2_ASR_BASE_10M": Bundle(
            file="wav2vec2_fairseq_base_ls960_asr_ll10m.pth", shape=BASE, labels=LIBRISPEECH
        ),
        "WAV2VEC2_ASR_BASE_100H": Bundle(
            file="wav2vec2_fairseq_base_ls960_asr_ls100.pth", shape=BASE, labels=LIBRISPEECH
        ),
        "WAV2VEC2_ASR_BASE_960H": Bundle(
            file="wav2vec2_fairseq_base_ls960_asr_ls960.pth", shape=BASE, labels=LIBRISPEECH
        ),
        "WAV2VEC2_LARGE": Bundle(file="wav2vec2_fairseq_large_ls960.pth", shape=LARGE),
        "WAV2VEC2_ASR_LARGE_10M": Bundle(
            file="wav2vec2_fairseq_large_ls960_asr_ll10m.pth", shape=LARGE, labels=LIBRISPEECH
        ),
        "WAV2VEC2_ASR_LARGE_100H": Bundle(
            file="wav2vec2_fairseq_large_ls960_asr_ls100.pth", shape=LARGE, labels=LIBRISPEECH
        ),
        "WAV2VEC2_ASR_LARGE_960H": Bundle(
            file="wav2vec2_fairseq_large_ls960_asr_ls960.pth", shape=LARGE, labels=LIBRISPEECH
        ),
        "WAV2VEC2_LARGE_LV60K": Bundle(file="wav2vec2_fairseq_large_lv60k.pth", shape=LARGE_LV60K),
        "WAV2VEC2_ASR_LARGE_LV60K_10M": Bundle(
            file="wav2vec2_fairseq_large_lv60k_asr_ll10m.pth",
            shape=LARGE_LV60K,
            labels=LIBRISPEECH,
        ),
        "WAV2VEC2_ASR_LARGE_LV60K_100H": Bundle(
            file="wav2vec2_fairseq_large_lv60k_asr_ls100.pth",
            shape=LARGE_LV60K,
            labels=LIBRISPEECH,
        ),
        "WAV2VEC2_ASR_LARGE_LV60K_960H": Bundle(
            file="wav2vec2_fairseq_large_lv60k_asr_ls960.pth",
            shape=LARGE_LV60K,
            labels=LIBRISPEECH,
        ),
        "WAV2VEC2_XLSR53": Bundle(file="wav2vec2_fairseq_large_xlsr53.pth", shape=LARGE_LV60K),
        "WAV2VEC2_XLSR_300M": Bundle(file="wav2vec2_xlsr_300m.pth", shape=LARGE_LV60K),
        "WAV2VEC2_XLSR_1B": Bundle(file="wav2vec2_xlsr_1b.pth", shape=XLSR_1B),
        "WAV2VEC2_XLSR_2B": Bundle(file="wav2vec2_xlsr_2b.pth", shape=XLSR_2B),
        "HUBERT_BASE": Bundle(file="hubert_fairseq_base_ls960.pth", shape=BASE),
        "HUBERT_LARGE": Bundle(file="hubert_fairseq_large_ll60k.pth", shape=HUBERT_LARGE),
        "HUBERT_XLARGE": Bundle(file="hubert_fairseq_xlarge_ll60k.pth", shape=HUBERT_XLARGE),
        "HUBERT_ASR_LARGE": Bundle(
            file="hubert_fairseq_large_ll60k_asr_ls960.pth", shape=HUBERT_LARGE, labels=LIBRISPEECH
        ),
        "HUBERT_ASR_XLARGE": Bundle(
            file="hubert_fairseq_xlarge_ll60k_asr_ls960.pth",
            shape=HUBERT_XLARGE,
            labels=LIBRISPEECH,
        ),
        "VOXPOPULI_ASR_BASE_10K_DE": Bundle(
            file="wav2vec2_voxpopuli_base_10k_asr_de.pt",
            shape=BASE,
            labels=GERMAN,
            digit=35,
            license=NON_COMMERCIAL,
        ),
        "VOXPOPULI_ASR_BASE_10K_EN": Bundle(
            file="wav2vec2_voxpopuli_base_10k_asr_en.pt",
            shape=BASE,
            labels=ENGLISH,
            digit=31,
            license=NON_COMMERCIAL,
        ),
        "VOXPOPULI_ASR_BASE_10K_ES": Bundle(
            file="wav2vec2_voxpopuli_base_10k_asr_es.pt",
            shape=BASE,
            labels=SPANISH,
            digit=35,
            license=NON_COMMERCIAL,
        ),
        "VOXPOPULI_ASR_BASE_10K_FR": Bundle(
            file="wav2vec2_voxpopuli_base_10k_asr_fr.pt",
            shape=BASE,
            labels=FRENCH,
            license=NON_COMMERCIAL,
        ),
        "VOXPOPULI_ASR_BASE_10K_IT": Bundle(
            file="wav2vec2_voxpopuli_base_10k_asr_it.pt",
            shape=BASE,
            labels=ITALIAN,
            license=NON_COMMERCIAL,
        ),
        "MMS_FA": Bundle(
            file="ctc_alignment_mling_uroman/model.pt",
            shape=LARGE_LV60K,
            labels=ROMANISED,
            license=NON_COMMERCIAL,
        ),
    }
)
"""Every bundle that this package reads, by torchaudio's name for it. (WavLM is another network.)
MMS_FA has no word boundary; its column for "*", any speech, is a constant that torchaudio appends
to the scores, and not in the file."""


def bundles_of_file(path: Path) -> list[str]:
    """Name the bundles whose published file has the name of this one."""
    parts = path.parts
    return [
        name
        for name, bundle in BUNDLES.items()
        if parts[-len(Path(bundle.file).parts) :] == Path(bundle.file).parts
    ]


def fitting(encoder: EncoderConfig, *, vocab: int | None) -> list[str]:
    """Name the bundles that have this encoder, and a head of this size or None for none."""
    shape = (encoder.dim, encoder.layers, encoder.conv_norm, encoder.conv_bias)
    return [
        name
        for name, bundle in BUNDLES.items()
        if bundle.shape == shape
        and (vocab in bundle.outputs if vocab is not None else not bundle.labels)
    ]


def alphabet_of(bundle: Bundle, *, vocab: int) -> Alphabet | None:
    """Make a bundle's alphabet for a head of this size; None if it has no head of this size."""
    if vocab not in bundle.outputs:
        return None
    tokens = [BLANK, *bundle.labels]
    removed: dict[int, str] = {}
    if vocab != len(tokens):
        removed = dict(DICTIONARY_TOKENS)
        if bundle.digit is not None:
            removed[bundle.digit] = "1"
        for place, token in sorted(removed.items()):
            tokens.insert(place, token)
    boundary = WORD_BOUNDARY if WORD_BOUNDARY in bundle.labels else None
    return make_alphabet(
        tokens, blank=BLANK, word_boundary=boundary, special=tuple(removed.values())
    )
