"""unheard export: the folder it leaves, what it refuses, and that the page in it runs."""

import contextlib
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny_models import tiny_ctc, tiny_pretraining

import unheard
from unheard import cli
from unheard.audio.io import write_wav
from unheard.audio.signal import InputSpec, Waveform
from unheard.decoding.greedy import GreedyDecoder
from unheard.errors import CheckpointError, ConfigError, FormatError, MissingExtraError
from unheard.inference.engine import Engine
from unheard.inference.exported import ExportedModel, compare, make_sound, network_scores
from unheard.interop.bundle import ModelBundle
from unheard.interop.onnx.folder import plan_outputs
from unheard.interop.onnx.network import choose_outputs
from unheard.tasks import export as task

ASSETS = Path(__file__).parents[1] / "assets" / "fairseq"
SPEC = InputSpec(normalize=True)


def speaking(**changes: object) -> ModelBundle:
    """A tiny model whose texts are long and of many letters."""
    bundle = tiny_ctc(seed=1)
    with torch.no_grad():
        for name, weight in bundle.model.named_parameters():
            if weight.ndim > 1 and "weight_g" not in name:
                weight.mul_(3)
        outputs = choose_outputs(0, [], 8)
        sound = make_sound(1, 16_000)
        mean = network_scores(replace(bundle, input_spec=SPEC), outputs)(sound)[0].mean(dim=0)
        bundle.model.head.bias.sub_(mean)
    return replace(bundle, input_spec=replace(SPEC, **changes))


def sound(seconds: float = 0.5) -> Waveform:
    return Waveform(samples=make_sound(1, round(seconds * 16_000))[0])


def our_text(bundle: ModelBundle, waveform: Waveform) -> str:
    engine = Engine(bundle, dtype="float32")
    return GreedyDecoder(engine.alphabet).decode(engine.run([waveform])[0])[0].text


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "out"
    unheard.export(speaking(), folder, int8=True)
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    bundle, rows = speaking(), []
    for number in range(3):
        waveform = sound(0.3 + 0.2 * number)
        write_wav(tmp_path / f"{number}.wav", waveform.samples, 16_000)
        text = our_text(bundle, unheard.Waveform(samples=waveform.samples))
        row = {"id": str(number), "audio": f"{number}.wav", "text": text[:-3] + "a"}
        rows.append({**row, "num_samples": waveform.samples.shape[0], "sample_rate": 16_000})
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_folder_holds_what_a_stranger_needs(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.onnx", "model.int8.onnx", "tokens.txt", "model.json", "README.md"}
    described = json.loads((exported / "model.json").read_text())
    assert described["writes"] == ["", "\N{REPLACEMENT CHARACTER}", " ", "a", "b", "ñ"]
    assert described["spec"] == {
        "sample_rate": 16_000,
        "normalize_epsilon": 1e-05,
        "min_samples": 50,
        "frame_stride_samples": 20,
        "frame_offset_samples": 25,
        "input": "x",
        "output": "logits",
    }
    assert described["measured"]["model.onnx"]["max_error"] < 1e-4
    card = (exported / "README.md").read_text()
    assert 'license: "CC0-1.0"' in card
    assert "sherpa" in card
    assert "its times must be multiplied" in card.lower()


@pytest.mark.parametrize("changes", [{}, {"normalize_epsilon": 1e-7}, {"normalize": False}])
def test_the_graph_writes_what_the_model_writes(changes: dict[str, object], tmp_path: Path) -> None:
    bundle = speaking(**changes)
    result = unheard.export(bundle, tmp_path / "out")
    assert result.agreement.max_error < 1e-4
    assert result.agreement.frames > 290
    assert result.int8_agreement is None
    model = ExportedModel(tmp_path / "out")
    for seconds in (0.001, 0.4, 1.0):
        expected = our_text(bundle, sound(seconds))
        assert len(set(expected)) >= (4 if seconds > 0.1 else 0)
        assert model.transcribe(sound(seconds)).text == expected


@pytest.mark.parametrize(
    ("stored", "language"),
    [
        ("mms_stacked.pt", "azj-script_latin"),
        ("mms_table.pt", "azj-script_latin"),
        ("wav2vec2_base_ctc_old", None),
        ("wav2vec2_large_ctc.pt", None),
    ],
)
def test_models_of_fairseq_and_mms(stored: str, language: str | None, tmp_path: Path) -> None:
    result = unheard.export(ASSETS / stored, tmp_path / "out", adapter=language, int8=True)
    assert result.agreement.max_error < 1e-4
    assert result.agreement.same_symbol == 1.0
    assert result.int8_agreement is not None
    assert 1e-4 < result.int8_agreement.max_error < 0.5
    bundle = unheard.load_model(ASSETS / stored, adapter=language)
    assert bundle.alphabet is not None
    hidden = bundle.alphabet.special
    assert result.symbols == len(bundle.alphabet) - len(hidden)
    assert hidden
    assert any(", ".join(hidden[:1]) in warning for warning in result.warnings)
    assert (language or "") in (tmp_path / "out" / "README.md").read_text()


def test_the_page_of_the_folder_runs(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.S)
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "README.md", "exec")
    waveform = sound()
    monkeypatch.chdir(exported)
    write_wav(exported / "talk.wav", waveform.samples, 16_000)
    heard = unheard.Waveform(
        samples=np.round(waveform.samples * 32767).astype(np.float32) / np.float32(32768)
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(blocks[0], {})
    (exported / "talk.wav").unlink()
    assert printed.getvalue().strip() == ExportedModel(exported).transcribe(heard).text != ""


@pytest.mark.parametrize(
    "name",
    [
        "encoder.feature_encoder.blocks.1.weight",
        "encoder.transformer.layers.1.inner.weight",
        "encoder.transformer.positional.bias",
        "head.weight",
    ],
)
def test_one_wrong_weight_is_found_and_nothing_is_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, make_graph = speaking(), task.make_graph

    def damaged(*given: object, **options: object):
        graph = make_graph(*given, **options)  # type: ignore[arg-type]
        weight = graph.weights[name].detach().clone(memory_format=torch.contiguous_format)
        weight.view(-1)[3] += 0.5
        graph.weights[name] = weight
        return graph

    monkeypatch.setattr(task, "make_graph", damaged)
    with pytest.raises(CheckpointError, match=r"within 0\.001, found a difference of \d\.\d+"):
        unheard.export(bundle, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_older_export_is_replaced_only_if_asked_and_whole(
    exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    unheard.export(speaking(), out, int8=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FormatError, match="--overwrite"):
        unheard.export(speaking(), out)
    before = (out / "model.onnx").read_bytes()
    assert before == (exported / "model.onnx").read_bytes()
    unheard.export(tiny_ctc(seed=5), out, overwrite=True)
    assert (out / "model.onnx").read_bytes() != before
    assert not (out / "model.int8.onnx").exists()
    assert (out / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"thesis\.txt"):
        unheard.export(speaking(), other, overwrite=True)
    with pytest.raises(FormatError, match="is a file"):
        unheard.export(speaking(), other / "thesis.txt", overwrite=True)


def test_what_writes_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finetune"):
        unheard.export(tiny_pretraining(), tmp_path / "out")
    with pytest.raises(ConfigError, match="alphabet, found none"):
        unheard.export(replace(speaking(), alphabet=None), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_said_before_work_begins(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'pip install "unheard\[onnx\]"'):
        unheard.export("no such model", tmp_path / "out")


def test_error_rates_are_measured_and_written_down(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unheard.save_model(speaking(), tmp_path / "model")
    out = tmp_path / "out"
    words = ["export", str(tmp_path / "model"), str(out), "--to", "onnx", "--int8"]
    assert cli.main([*words, "--check", str(manifest)]) == 0
    shown = capsys.readouterr().out
    measured = unheard.evaluate(tmp_path / "model", manifest, dtype="float32")
    assert 0 < measured.cer < 0.2
    assert f"model: CER {measured.cer:.2%}" in shown
    assert f"model.onnx: CER {measured.cer:.2%}" in shown
    assert "3 of 3 texts" in shown
    assert re.search(r"model\.int8\.onnx: CER \d+\.\d+%", shown)
    card = (out / "README.md").read_text()
    assert f"| model.onnx | {measured.cer:.2%} |" in card
    assert str(tmp_path) not in card + (out / "model.json").read_text()


def test_recordings_that_cannot_be_read_are_named(tmp_path: Path, manifest: Path) -> None:
    (manifest.parent / "1.wav").write_bytes(b"no sound")
    result = unheard.export(speaking(), tmp_path / "out", check=manifest)
    assert result.failed == 1
    assert result.texts[0].utterances == 2
    assert "1 utterances could not be read: 1:" in result.table()
    for path in manifest.parent.glob("*.wav"):
        path.write_bytes(b"no sound")
    with pytest.raises(ConfigError, match="None of the 3 utterances"):
        unheard.export(speaking(), tmp_path / "more", check=manifest)
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("verb", ["transcribe", "inspect", "evaluate"])
def test_other_verbs_say_what_an_exported_folder_is(
    verb: str, exported: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [] if verb == "inspect" else [str(manifest)]
    for named in (exported, exported / "model.onnx"):
        assert cli.main([verb, str(named), *more]) == 1
        assert f"{named} is an exported model" in capsys.readouterr().err


def test_a_graph_that_was_changed_is_not_run(exported: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in exported.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    assert ExportedModel(copied, file="model.int8.onnx").transcribe(sound()).text
    graph = bytearray((copied / "model.onnx").read_bytes())
    graph[-100] ^= 1
    (copied / "model.onnx").write_bytes(graph)
    with pytest.raises(CheckpointError, match="SHA-256"):
        ExportedModel(copied)
    with pytest.raises(ConfigError, match=r"has no other\.onnx"):
        ExportedModel(copied, file="other.onnx")
    (copied / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        ExportedModel(copied)
    with pytest.raises(FormatError, match="is not an exported model"):
        ExportedModel(tmp_path)


def test_comparing_finds_what_differs() -> None:
    bundle = speaking()
    outputs, _ = plan_outputs(bundle.alphabet)  # type: ignore[arg-type]
    scores = network_scores(bundle, outputs)
    batches = [(2, 49), (1, 50), (2, 500)]
    assert compare(scores, scores, batches).max_error == 0.0

    def off(samples: np.ndarray) -> torch.Tensor:
        found = scores(samples).clone()
        if found.shape[1] > 10:
            found[1, 3, 2] += 0.25
        return found

    found = compare(scores, off, batches)
    assert (found.max_error, found.at) == (pytest.approx(0.25), (2, 500))
    assert found.batches == tuple(batches)
    with pytest.raises(CheckpointError, match="other frames"):
        compare(scores, lambda samples: scores(samples)[:, 1:], batches)
    with pytest.raises(CheckpointError, match="not finite"):
        compare(scores, lambda samples: scores(samples) * torch.nan, batches)
