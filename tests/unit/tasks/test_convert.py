"""What `convert` writes, checks, says and refuses."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_models import tiny_alphabet, tiny_ctc, tiny_masked_units, tiny_pretraining

import unheard
from unheard import cli
from unheard.errors import (
    CheckpointError,
    ConfigError,
    FormatError,
    LanguageError,
    UnheardError,
)
from unheard.interop import load
from unheard.interop.bundle import ModelBundle
from unheard.tasks import convert as verb

TYPES = ["float64", "float32", "bfloat16", "float16"]


def save(bundle: ModelBundle, folder: Path, **options: Any) -> Path:
    unheard.save_model(bundle, folder, **options)
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def same_weights(one: ModelBundle, other: ModelBundle) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("kind", ["group", "layer"])
@pytest.mark.parametrize("make", [tiny_ctc, tiny_pretraining])
def test_there_and_back_again(make: Any, kind: Any, tmp_path: Path) -> None:
    bundle = make(kind)
    source = save(bundle, tmp_path / "source")
    there = unheard.convert(source, tmp_path / "there", to="huggingface")
    back = unheard.convert(tmp_path / "there", tmp_path / "back", to="native")
    again = unheard.load_model(tmp_path / "back")
    assert same_weights(again, bundle)
    assert again.alphabet == bundle.alphabet
    assert again.input_spec.normalize == bundle.input_spec.normalize
    weights = bundle.model.state_dict()
    for done in (there, back):
        assert done.tensors == len(weights)
        assert done.parameters == sum(weight.numel() for weight in weights.values())
        assert done.dtype == "float32"
    assert (there.source_format, there.format) == ("unheard", "huggingface")
    assert (back.source_format, back.format) == ("transformers", "native")
    assert set(back.files) == {"config.json", "hashes.json", "model.safetensors"}
    folder = tmp_path / "back"
    assert back.size_bytes == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("to", ["native", "huggingface", "fairseq"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_type_of_the_numbers_is_kept(to: Any, kind: str, tmp_path: Path) -> None:
    bundle = tiny_ctc()
    bundle.model.to(getattr(torch, kind))
    source = save(bundle, tmp_path / "source")
    done = unheard.convert(source, tmp_path / "target", to=to)
    assert done.dtype == kind
    assert not [warning for warning in done.warnings if "rounded" in warning]
    assert set(unheard.inspect(tmp_path / "target").dtypes) == {kind}
    found = unheard.load_model(tmp_path / "target", dtype=getattr(torch, kind))
    # The tiny alphabet has the symbols of fairseq in fairseq's order, under other names.
    assert same_weights(found, bundle)


@pytest.mark.parametrize("kind", TYPES)
def test_another_type_can_be_asked_for(kind: Any, tmp_path: Path) -> None:
    bundle = tiny_ctc()
    source = save(bundle, tmp_path / "source")
    done = unheard.convert(source, tmp_path / "target", to="native", dtype=kind)
    assert set(unheard.inspect(tmp_path / "target").dtypes) == {kind}
    narrower = kind in ("bfloat16", "float16")
    rounded = f"weights were rounded from float32 to {kind}"
    assert (rounded in done.warnings) == narrower
    bundle.model.to(getattr(torch, kind))
    found = unheard.load_model(tmp_path / "target", dtype=getattr(torch, kind))
    assert same_weights(found, bundle)


def test_numbers_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    bundle = tiny_ctc()
    with torch.no_grad():
        bundle.model.head.bias[1] = 70_000
    source = save(bundle, tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"65504.*head\.bias.*bfloat16"):
        unheard.convert(source, tmp_path / "target", to="native", dtype="float16")
    assert names_in(tmp_path) == ["source"]


def test_what_the_target_does_not_say_is_a_warning_by_name(tmp_path: Path) -> None:
    bundle = tiny_ctc()
    encoder = replace(bundle.encoder_config, feature_grad_scale=0.1)
    bundle.model.config = replace(bundle.model.config, encoder=encoder)
    source = save(bundle, tmp_path / "source")
    done = unheard.convert(source, tmp_path / "target", to="huggingface")
    said = "\n".join(done.warnings)
    assert "not kept in the target: encoder.feature_grad_scale 0.1 (read back: 1.0)" in said
    assert "not kept in the target: normalize_epsilon 1e-05 (read back: 1e-07)" in said
    assert unheard.convert(source, tmp_path / "native", to="native").warnings == ()


def test_what_the_target_cannot_express_is_an_error(tmp_path: Path) -> None:
    source = save(tiny_masked_units(), tmp_path / "source")
    with pytest.raises(UnheardError, match="fairseq"):
        unheard.convert(source, tmp_path / "target", to="fairseq")
    assert names_in(tmp_path) == ["source"]


def test_a_head_that_the_target_does_not_know_is_named(tmp_path: Path) -> None:
    source = save(tiny_masked_units(), tmp_path / "source")
    done = unheard.convert(source, tmp_path / "target", to="huggingface")
    said = "\n".join(done.warnings)
    assert "the head of the MaskedUnitConfig: the encoder is left" in said
    assert "no place for the weights head.weight, head.bias" in said
    assert unheard.inspect(tmp_path / "target").network == "encoder"


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_through_fairseq_the_same_text_is_written(kind: Any, tmp_path: Path) -> None:
    tokens = ("<blank>", "ñ", "b", "|", "a")  # none of fairseq's four, and in another order
    alphabet = replace(
        tiny_alphabet(), tokens=tokens, blank="<blank>", unknown=None, special=(), case="keep"
    )
    bundle = tiny_ctc(kind)
    config = replace(bundle.model.config, vocab=len(tokens))
    torch.manual_seed(3)
    model = type(bundle.model)(config).eval()
    with torch.no_grad():
        model.head.weight.normal_()
    bundle = replace(bundle, model=model, alphabet=alphabet)
    source = save(bundle, tmp_path / "source")
    done = unheard.convert(source, tmp_path / "fairseq", to="fairseq")
    assert set(done.files) == {"checkpoint.pt", "dict.ltr.txt"}
    assert any("5 before, 8 after" in warning for warning in done.warnings)
    unheard.convert(tmp_path / "fairseq", tmp_path / "native", to="native")
    samples = torch.randn(9_000) * 0.1
    expected = unheard.transcribe(bundle, samples)
    assert len(set(expected.text)) >= 3
    for folder in ("fairseq", "native"):
        found = unheard.transcribe(tmp_path / folder, samples)
        assert found.text == expected.text
        assert [one.start_seconds for one in found.words] == [
            one.start_seconds for one in expected.words
        ]


FAIRSEQ = Path(__file__).parents[2] / "assets" / "fairseq"


@pytest.mark.parametrize("name", ["mms_stacked.pt", "mms_table.pt"])
def test_languages_of_fairseq_go_to_transformers(name: str, tmp_path: Path) -> None:
    source = FAIRSEQ / name
    with pytest.raises(LanguageError, match="swh"):
        unheard.convert(source, tmp_path / "hf", to="huggingface")
    done = unheard.convert(source, tmp_path / "hf", to="huggingface", adapter="swh")
    assert done.adapter == "swh"
    samples = torch.randn(8_000) * 0.1
    languages = unheard.inspect(source).adapters
    assert unheard.inspect(tmp_path / "hf").adapters == languages
    for language in languages:
        there = unheard.load_model(source, adapter=language)
        here = unheard.load_model(tmp_path / "hf", adapter=language)
        assert here.input_spec != there.input_spec, "transformers has an epsilon of its own"
        here = replace(here, input_spec=there.input_spec)
        expected = unheard.emissions(there, samples).log_probs
        assert (unheard.emissions(here, samples).log_probs - expected).abs().max() <= 1e-5
        assert unheard.transcribe(tmp_path / "hf", samples, adapter=language).language == language
    # Folders with languages are models too, and may be replaced.
    native = unheard.convert(source, tmp_path / "hf", to="native", adapter="swh")
    others = sorted(set(languages) - {"swh"})
    lost = f"not kept in the target: languages ({len(others)}): {', '.join(others)}"
    assert lost in native.warnings
    assert unheard.load_model(tmp_path / "hf").provenance["language"] == "swh"


def _break_weights(folder: Path) -> None:
    other = tiny_ctc(seed=1)
    unheard.save_model(replace(other, provenance={"licence": "CC0-1.0"}), folder)


def _break_alphabet(folder: Path) -> None:
    bundle = tiny_ctc()
    tokens = tuple("c" if token == "b" else token for token in tiny_alphabet().tokens)
    unheard.save_model(replace(bundle, alphabet=replace(tiny_alphabet(), tokens=tokens)), folder)


def _break_config(folder: Path) -> None:
    bundle = tiny_ctc()
    encoder = replace(bundle.encoder_config, heads=2)
    bundle.model.config = replace(bundle.model.config, encoder=encoder)
    unheard.save_model(bundle, folder)


def _break_input(folder: Path) -> None:
    bundle = tiny_ctc()
    spec = replace(bundle.input_spec, normalize=not bundle.input_spec.normalize)
    unheard.save_model(replace(bundle, input_spec=spec), folder)


def _break_kind(folder: Path) -> None:
    unheard.save_model(tiny_pretraining(), folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_break_weights, "not what was read.*encoder"),
        (_break_alphabet, "symbols of the alphabet .lost: b; further: c"),
        (_break_config, "encoder.heads 4"),
        (_break_input, "normalize False"),
        (_break_kind, "PretrainingConfig"),
    ],
)
def test_a_writer_that_errs_is_caught(
    wrong: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    old = save(tiny_ctc(seed=9), tmp_path / "target")
    before = (old / "model.safetensors").read_bytes()

    def write(bundle: ModelBundle, folder: Path, *, format: str) -> None:
        wrong(folder)

    monkeypatch.setattr(verb, "save_model", write)
    with pytest.raises(UnheardError, match=message):
        unheard.convert(source, old, to="native")
    assert (old / "model.safetensors").read_bytes() == before, "the old model is still there"
    assert names_in(tmp_path) == ["source", "target"]


def test_an_older_model_is_replaced(tmp_path: Path) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    target = save(tiny_pretraining(), tmp_path / "target", format="huggingface")
    unheard.convert(source, target, to="native")
    assert same_weights(unheard.load_model(target), tiny_ctc())
    assert names_in(tmp_path) == ["source", "target"]


def test_what_is_not_a_model_is_never_overwritten(tmp_path: Path) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.tex").write_text("years of work")
    card = save(tiny_ctc(), tmp_path / "card")
    (card / "README.md").write_text("my notes")
    repository = save(tiny_ctc(), tmp_path / "repository")
    (repository / ".git").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    file = tmp_path / "file"
    file.write_text("a file")
    for target, named in (
        (thesis, "thesis.tex"),
        (card, "README.md"),
        (repository, ".git"),
        (broken, "config.json"),
        (file, "is a file"),
    ):
        with pytest.raises(FormatError, match=named):
            unheard.convert(source, target, to="native")
    assert (thesis / "thesis.tex").read_text() == "years of work"
    assert (card / "README.md").read_text() == "my notes"
    assert file.read_text() == "a file"


@pytest.mark.parametrize("target", ["model", "model/inside", "."])
def test_the_source_is_never_overwritten(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    source = save(tiny_ctc(), work / "model")
    monkeypatch.chdir(work)
    with pytest.raises(ConfigError, match="source"):
        unheard.convert("model", target, to="native")
    assert same_weights(unheard.load_model(source), tiny_ctc())


def test_a_link_to_the_source_is_the_source(tmp_path: Path) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    link = tmp_path / "link"
    link.symlink_to(source, target_is_directory=True)
    with pytest.raises(ConfigError, match="source"):
        unheard.convert(source, link, to="native")


def test_the_result_says_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    target = tmp_path / "target"
    words = ["convert", str(source), str(target), "--to", "huggingface"]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert "6,080 parameters in 49 tensors, float32; read back and equal" in shown.out
    assert "vocab.json" in shown.out
    assert "warning: not kept in the target: normalize_epsilon 1e-05" in shown.out
    assert shown.err == ""
    assert cli.main([*words, "--dtype", "bfloat16", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["dtype"] == "bfloat16"
    assert data["tensors"] == 49
    assert data["warnings"][0] == "weights were rounded from float32 to bfloat16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s", "t"], "--to"),
        (["s", "t", "--to", "onnx"], "'onnx'"),
        (["s", "t", "--to", "native", "--dtype", "int8"], "'int8'"),
        (["s", "--to", "native"], "TARGET"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_format_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    with pytest.raises(ConfigError, match="'onnx'"):
        unheard.convert(source, tmp_path / "target", to="onnx")  # type: ignore[arg-type]


def test_a_damaged_source_leaves_nothing(tmp_path: Path) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    weights = source / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        unheard.convert(source, tmp_path / "target", to="huggingface")
    assert names_in(tmp_path) == ["source"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("stage", ["reading", "writing", "checking"])
def test_ctrl_c_leaves_nothing_half_written(stage: str, tmp_path: Path) -> None:
    source = save(tiny_ctc(), tmp_path / "source")
    old = save(tiny_ctc(seed=5), tmp_path / "target")
    # Stops in the middle of a stage until the interrupt comes.
    program = (
        "import contextlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from unheard import cli\n"
        "from unheard.tasks import convert\n"
        "@contextlib.contextmanager\n"
        "def stage(name, size):\n"
        f"    if name == {stage!r}:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    yield lambda done: None\n"
        "convert._stage = stage\n"
        f"sys.exit(cli.main(['convert', {str(source)!r}, {str(old)!r}, '--to', 'huggingface']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate()
    assert process.returncode == 130
    assert "Stopped." in complaint
    assert "Traceback" not in complaint
    assert names_in(tmp_path) == ["source", "target"]
    assert same_weights(unheard.load_model(old), tiny_ctc(seed=5))


def test_mixed_types_become_one_without_loss(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = save(tiny_ctc(), tmp_path / "source", format="huggingface")
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].half()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    done = unheard.convert(source, tmp_path / "target", to="native")
    assert done.dtype == "float32"
    assert "weights stored as float16 and float32 are all float32 now, exactly" in done.warnings
    found = unheard.load_model(tmp_path / "target").model.state_dict()
    assert torch.equal(found["head.weight"], weights["lm_head.weight"].float())


def test_weights_drawn_afresh_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = save(tiny_ctc(), tmp_path / "source", format="huggingface")
    weights = load_file(source / "model.safetensors")
    del weights["wav2vec2.masked_spec_embed"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    (source / "config.json").write_text(json.dumps(config))
    done = unheard.convert(source, tmp_path / "target", to="native")
    assert any("drawn afresh" in one and "mask_embedding" in one for one in done.warnings)


def test_reading_happens_once_through_every_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    source = save(tiny_ctc(), tmp_path / "source")
    done: dict[str, list[int]] = {}

    @contextlib.contextmanager
    def stage(name: str, size_bytes: int):
        done[name] = []
        yield done[name].append  # from several threads
        assert sum(done[name]) in (0, size_bytes)

    monkeypatch.setattr(verb, "_stage", stage)
    unheard.convert(source, tmp_path / "target", to="native")
    size = load.open_model(source).store.tensors
    total = sum(verb.tensor_bytes(tensor) for tensor in size.values())
    found = {name: sum(counts) for name, counts in done.items()}
    assert found == {"reading": total, "writing": 0, "checking": total}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_large_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, shown in ((10**6, False), (10**9, True)):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with verb._stage("reading", size) as advance:
            advance(size // 2)
        assert ("reading" in stream.getvalue()) == shown


def test_logs_name_the_stages_of_large_models(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        for size in (10**6, 10**9):
            with verb._stage("writing", size) as advance:
                advance(size)
    assert caplog.messages == ["writing 1.00 GB"]
