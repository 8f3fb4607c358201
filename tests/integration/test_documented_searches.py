"""The Python examples about searches, language models and alignment run as they stand."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.mixed_recordings import make_sound, write_audio
from tests.small_language_models import small_language_model
from tests.tiny_models import tiny_encoder

from unheard.audio.signal import InputSpec
from unheard.interop.bundle import ModelBundle
from unheard.interop.language_model import save_language_model
from unheard.interop.native import save_model
from unheard.lm.ngram import train_ngram
from unheard.models.config import CtcConfig
from unheard.models.ctc import CtcModel
from unheard.text.alphabet import Alphabet

DOCS = Path(__file__).parents[2] / "docs"
SENTENCES = ["abba kampala", "a cab", "habari ya asubuhi", "kampala habari"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the pages name, small: a random model that is sure of itself, texts, sounds."""
    folder = tmp_path_factory.mktemp("documented")
    alphabet = Alphabet.from_texts(SENTENCES, normalizer="basic-1")
    torch.manual_seed(0)
    model = CtcModel(CtcConfig(encoder=tiny_encoder(), vocab=len(alphabet))).eval()
    with torch.no_grad():
        model.head.weight.mul_(10)
    spec = InputSpec(normalize=False, attention_mask=False)
    bundle = ModelBundle(model=model, alphabet=alphabet, input_spec=spec)
    for name in ("mine", "kilingo"):
        save_model(bundle, folder / name / "model")
    lm = train_ngram(SENTENCES, order=2).model
    lm.save(folder / "lm.arpa.gz")
    lm.save(folder / "swahili.arpa")
    save_language_model(small_language_model(), folder / "lm")
    sound = make_sound(np.random.default_rng(0), seconds=0.5, sample_rate=16_000)
    write_audio(folder / "story.wav", sound, sample_rate=16_000)
    write_audio(folder / "talk.flac", sound, sample_rate=16_000)
    (folder / "talk.txt").write_text(SENTENCES[0], encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    return


def examples(page: str) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    assert found
    return found


def run(page: str) -> dict[str, Any]:
    """Run the examples of a page one after the other, as a reader would; return their names."""
    names: dict[str, Any] = {}
    for number, example in enumerate(examples(page)):
        exec(compile(example, f"{page}:{number}", "exec"), names)
    return names


def test_searches(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("decoding.md")
    assert names["decoder"].decode(names["emissions"])[0].parts.fusion < 0  # the page's last
    printed = capsys.readouterr().out
    assert printed.count("Partial(") > 1
    assert printed.count("ScoreParts(") > 2


def test_alignment(capsys: pytest.CaptureFixture[str]) -> None:
    run("alignment.md")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in printed] == SENTENCES[0].split()


def test_language_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = examples("language-models.md")
    exec(first, {})
    assert (folder / "swahili.unheard-lm").exists()
    names = run("decoding.md")
    capsys.readouterr()
    exec(second, names)
    printed = capsys.readouterr().out.splitlines()
    readings = len(names["nbest"])
    assert sum("ScoreParts(" in line for line in printed) == readings > 0
