"""Parts of reading and writing fairseq's checkpoints, one by one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unheard.audio.signal import InputSpec
from unheard.errors import AlphabetError, ConfigError, FormatError
from unheard.interop import storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.fairseq import dictionary, keymap, reader, writer
from unheard.interop.fairseq.literals import read_numbers, read_triples, write_triples
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    EncoderOnlyConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.encoder_only import EncoderOnlyModel
from unheard.models.pretraining import PretrainingModel
from unheard.text.alphabet import Alphabet

CONVS = tuple(ConvLayer(channels=8, kernel=kernel, stride=2) for kernel in (4, 3))

ENCODER = EncoderConfig(
    conv_layers=CONVS, dim=16, ffn_dim=12, layers=1, heads=2, positional_kernel=4,
    positional_groups=2,
)  # fmt: skip

ALPHABET = Alphabet(
    tokens=("<s>", "<pad>", "</s>", "<unk>", "|", "A", "É"),
    blank="<s>",
    word_boundary="|",
    unknown="<unk>",
    special=("<pad>", "</s>"),
    case="upper",
)


def make_bundle(encoder: EncoderConfig = ENCODER, alphabet: Alphabet | None = None) -> ModelBundle:
    """A random small model: a recogniser if there is an alphabet."""
    torch.manual_seed(0)
    model: CtcModel | PretrainingModel
    if alphabet is None:
        quantizer = QuantizerConfig(groups=2, entries=3, dim=4)
        model = PretrainingModel(PretrainingConfig(encoder=encoder, quantizer=quantizer))
    else:
        model = CtcModel(CtcConfig(encoder=encoder, vocab=len(alphabet)))
    return ModelBundle(model=model.eval(), alphabet=alphabet, input_spec=InputSpec())


def write(folder: Path, bundle: ModelBundle, changes: dict[str, object]) -> Path:
    """Write a model and change options: "model.x", "task.x", "w2v.x" for the pre-trained one."""
    file = writer.save(bundle, folder / "model") / writer.CHECKPOINT_FILE
    checkpoint: dict[str, Any] = torch.load(file, weights_only=True)
    for name, value in changes.items():
        part, _, option = name.partition(".")
        cfg = checkpoint["cfg"]
        options = cfg["model"]["w2v_args"]["model"] if part == "w2v" else cfg[part]
        if value is None:
            options.pop(option, None)
        else:
            options[option] = value
    torch.save(checkpoint, file)
    return file


class TestLiterals:
    @pytest.mark.parametrize(
        "text",
        [
            "[(512, 10, 5)] + [(512, 3, 2)] * 2 + [(512,2,2)]",
            "[(512,10,5),(512,3,2)]+[(512,3,2)]+1*[(512,2,2)]",
            "([(512, 10, 5)] + [(512, 3, 2), (512, 3, 2)]) + [(512, 2, 2)] * 1",
        ],
    )
    def test_lists_sums_and_repetitions(self, text: str) -> None:
        layers = ((512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 2, 2))
        assert read_triples(text, what="x") == layers
        assert read_triples([list(layer) for layer in layers], what="x") == layers

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('os').system('true')",
            "[(512, 10, 5)] * 10**9",
            "[(512, 10, 5)] * 101",
            "[(1, 1, 1)] * 99 * 99",
            "[(512, 10)]",
            "[(512, 10, 5.0)]",
            "[(512, True, 5)]",
            "[]",
            "(512, 10, 5)",
            "[x for x in [(512, 10, 5)]]",
            "[(512, 10, 5)] - [(512, 10, 5)]",
            "[(512, 10, 5)] + 3",
            "[(" + "(" * 500,
            "-" * 1900 + "1",
            "[(512, 10, 5)] + " * 200 + "[(512, 10, 5)]",
            "",
            None,
            512,
        ],
    )
    def test_anything_else_is_refused(self, text: object) -> None:
        with pytest.raises(ConfigError, match="conv"):
            read_triples(text, what="conv")

    def test_numbers(self) -> None:
        assert read_numbers("(2.0, 0.5, 1)", count=3, what="x") == (2.0, 0.5, 1.0)
        assert read_numbers([2, 0.5], count=2, what="x") == (2.0, 0.5)
        for odd in ("(2.0, 0.5)", "f(1)", "2", None):
            with pytest.raises(ConfigError):
                read_numbers(odd, count=3, what="x")

    def test_written_as_read(self) -> None:
        layers = ((512, 10, 5), (512, 3, 2))
        assert write_triples(layers) == "[(512, 10, 5), (512, 3, 2)]"
        assert read_triples(write_triples(layers), what="x") == layers


class TestKeymap:
    @pytest.mark.parametrize("conv_norm", ["group", "layer"])
    def test_every_weight_has_one_name(self, conv_norm: Any) -> None:
        encoder = replace(
            ENCODER, conv_norm=conv_norm, conv_bias=True, norm_first=True, adapter_dim=3
        )
        for config in (CtcConfig(encoder=encoder, vocab=4), PretrainingConfig(encoder=encoder)):
            names = list(storage.build(config, source="test").state_dict())
            ctc = isinstance(config, CtcConfig)
            theirs = [keymap.fairseq_name(name, conv_norm=conv_norm, ctc=ctc) for name in names]
            assert len(set(theirs)) == len(names)
            assert all(name.startswith("w2v_encoder.") for name in theirs) == ctc
            assert ("feature_extractor.conv_layers.0.2.1.weight" in "".join(theirs)) == (
                conv_norm == "layer"
            )


class TestDictionary:
    def test_text(self, tmp_path: Path) -> None:
        path = tmp_path / "dict.ltr.txt"
        path.write_bytes("| 9\r\né 5\n\nmadeupword0000 0\n".encode())
        alphabet = dictionary.read_text(path)
        assert alphabet.tokens == ("<s>", "<pad>", "</s>", "<unk>", "|", "é", "madeupword0000")
        assert alphabet.special == ("<pad>", "</s>", "madeupword0000")
        assert (alphabet.blank, alphabet.unknown, alphabet.case) == ("<s>", "<unk>", "lower")
        assert alphabet.encode("É madeupword0000")[:2] == [5, 4]

    @pytest.mark.parametrize(
        ("content", "error", "told"),
        [
            (b"a\n", FormatError, "line 1"),
            (b"a 1\nb x\n", FormatError, "line 2"),
            (b"\xff 1\n", FormatError, "UTF-8"),
            (b"a 1\na 2\n", AlphabetError, "'a' again"),
            (b"<pad> 1\n", AlphabetError, "'<pad>' again"),
            (b"a 1\na 2 #fairseq:overwrite\n", AlphabetError, "line 2"),
        ],
    )
    def test_odd_files_are_refused(
        self, tmp_path: Path, content: bytes, error: type[Exception], told: str
    ) -> None:
        path = tmp_path / "dict.ltr.txt"
        path.write_bytes(content)
        with pytest.raises(error, match=told):
            dictionary.read_text(path)

    @pytest.mark.parametrize("symbols", [None, "<s>", ["<pad>", "<s>"], [1, 2], []])
    def test_odd_pickled_ones_are_refused(self, symbols: object) -> None:
        with pytest.raises(AlphabetError):
            dictionary.read_pickled({"symbols": symbols}, source="x")

    def test_order_of_fairseq_is_kept(self) -> None:
        outputs = dictionary.arrange(ALPHABET)
        assert outputs.tokens == ("|", "A", "É")
        assert outputs.rows == tuple(range(7))

    def test_order_of_transformers_is_kept(self) -> None:
        tokens = ("<pad>", "<s>", "</s>", "<unk>", "|", "a")
        alphabet = Alphabet(
            tokens=tokens, blank="<pad>", word_boundary="|", unknown="<unk>",
            special=("<s>", "</s>"),
        )  # fmt: skip
        assert dictionary.arrange(alphabet).rows == tuple(range(6))

    def test_other_alphabets_are_put_in_order(self) -> None:
        alphabet = Alphabet(tokens=("b", " ", "<b>", "a"), blank="<b>", word_boundary=" ")
        outputs = dictionary.arrange(alphabet)
        assert outputs.tokens == ("b", "|", "a")
        assert outputs.rows == (2, None, None, None, 0, 1, 3)

    @pytest.mark.parametrize(
        "alphabet",
        [
            Alphabet(tokens=("<b>", "<unk>"), blank="<b>"),
            Alphabet(tokens=("<b>", " ", "|"), blank="<b>", word_boundary=" "),
            Alphabet(tokens=("<b>", "\n"), blank="<b>"),
        ],
    )
    def test_tokens_that_no_line_can_hold_are_refused(self, alphabet: Alphabet) -> None:
        with pytest.raises(AlphabetError, match="fairseq"):
            dictionary.arrange(alphabet)


class TestReader:
    @pytest.mark.parametrize(
        ("change", "value"),
        [
            ("model.activation_fn", "relu"),
            ("model.quantize_input", True),
            ("model.pos_conv_depth", 5),
            ("model.conv_pos_batch_norm", True),
            ("model.crop_seq_to_multiple", 2),
            ("model.target_glu", True),
            ("model.quantizer_depth", 2),
            ("model.quantize_targets", False),
            ("model.quantize_targets", None),
            ("model.layer_type", "conformer"),
            ("model.layer_type", "trf_adp"),
        ],
    )
    def test_options_of_pretraining_are_refused_by_name(
        self, tmp_path: Path, change: str, value: object
    ) -> None:
        file = write(tmp_path, make_bundle(), {change: value})
        with pytest.raises(FormatError, match=change.partition(".")[2]):
            reader.open_model(file)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"model.blank_weight": 2.0}, "blank_weight"),
            ({"w2v.activation_fn": "gelu_accurate"}, "activation_fn"),
            ({"model.layer_type": "conformer"}, "layer_type"),
            ({"model._name": "wav2vec_seq2seq"}, "sequence-to-sequence"),
            ({"model._name": "hubert_ctc"}, "HuBERT"),
            ({"model._name": "new_thing"}, "new_thing"),
            ({"w2v._name": "data2vec_multi"}, "data2vec"),
            ({"model.layer_type": "trf_adp", "model.adp_act_fn": "gelu"}, "adp_act_fn"),
            ({"model.layer_type": "trf_adp", "model.adp_trf_idx": "0:0"}, "adp_trf_idx"),
        ],
    )
    def test_options_of_recognisers_are_refused_by_name(
        self, tmp_path: Path, changes: dict[str, object], told: str
    ) -> None:
        file = write(tmp_path, make_bundle(alphabet=ALPHABET), changes)
        with pytest.raises(FormatError, match=told):
            reader.open_model(file)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"w2v.encoder_layers": 0}, "encoder_layers"),
            ({"w2v.encoder_layers": "1"}, "encoder_layers"),
            ({"w2v.conv_feature_layers": "eval('1')"}, "conv_feature_layers"),
            ({"w2v.encoder_attention_heads": 3}, "heads"),
            ({"model.dropout": 1.5}, "dropout"),
            ({"model.w2v_args": None}, "w2v_args"),
            ({"task.labels": "../../etc/x"}, "labels"),
            ({"task.normalize": False}, "normalize"),
        ],
    )
    def test_settings_that_are_not_valid(
        self, tmp_path: Path, changes: dict[str, object], told: str
    ) -> None:
        file = write(tmp_path, make_bundle(alphabet=ALPHABET), changes)
        with pytest.raises(ConfigError, match=told):
            reader.open_model(file)

    def test_references_between_options_are_followed(self, tmp_path: Path) -> None:
        changes = {"task.normalize": None, "model.normalize": "${common.fp16}"}
        bundle = replace(make_bundle(alphabet=ALPHABET), input_spec=InputSpec(normalize=False))
        reading = reader.open_model(write(tmp_path, bundle, changes))
        assert not reading.input_spec.normalize
        changes = {"task.normalize": None, "model.normalize": "${model.normalize}"}
        reading = reader.open_model(write(tmp_path, bundle, changes))
        assert not reading.input_spec.normalize

    def test_a_fine_tuned_model_has_the_dropout_of_fine_tuning(self, tmp_path: Path) -> None:
        changes: dict[str, object] = {
            "model.dropout": 0.25, "w2v.dropout": 0.5, "model.layerdrop": 0.125,
            "w2v.encoder_layerdrop": 0.75, "model.apply_mask": False, "model.mask_prob": 0.5,
        }  # fmt: skip
        config = reader.open_model(write(tmp_path, make_bundle(alphabet=ALPHABET), changes)).config
        assert isinstance(config, CtcConfig)
        assert (config.encoder.dropout, config.encoder.layer_drop) == (0.25, 0.125)
        assert config.masking.time_probability == 0

    def test_training_options_are_mentioned(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        reader.open_model(write(tmp_path, make_bundle(), {"model.mask_selection": "uniform"}))
        assert "mask_selection = 'uniform'" in caplog.text

    def test_a_folder_stands_for_its_checkpoint(self, tmp_path: Path) -> None:
        folder = writer.save(make_bundle(), tmp_path / "model")
        assert reader.open_model(folder).architecture == "wav2vec2"
        (folder / writer.CHECKPOINT_FILE).rename(folder / "other.pt")
        assert reader.open_model(folder).architecture == "wav2vec2"
        (folder / "other.pt").rename(folder / "other.txt")
        with pytest.raises(FormatError, match="none"):
            reader.open_model(folder)

    @pytest.mark.parametrize("content", [{"model": {}}, {"cfg": {"model": {}}}, [1], {}])
    def test_other_pickles_are_refused(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(FormatError):
            reader.open_model(tmp_path / "x.pt")


class TestProjection:
    """fairseq has no projection where there are as many channels as the Transformer is wide."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_left_out_and_put_back(self, tmp_path: Path, dtype: torch.dtype) -> None:
        bundle = make_bundle(replace(ENCODER, dim=8), ALPHABET)
        nn.init.eye_(bundle.model.encoder.projection.weight)
        nn.init.zeros_(bundle.model.encoder.projection.bias)
        bundle.model.to(dtype)
        folder = writer.save(bundle, tmp_path / "model")
        stored = torch.load(folder / writer.CHECKPOINT_FILE, weights_only=True)["model"]
        assert not any("post_extract_proj" in name for name in stored)
        again = storage.load(reader.open_model(folder), dtype=dtype)
        state = again.model.state_dict()
        for name, weight in bundle.model.state_dict().items():
            assert torch.equal(state[name], weight), name
        assert again.dtype == dtype

    def test_the_identity_changes_nothing(self) -> None:
        for dtype in (torch.float32, torch.float64):
            frames = torch.randn(3, 40, 64, dtype=dtype, generator=torch.Generator().manual_seed(1))
            eye, zero = torch.eye(64, dtype=dtype), torch.zeros(64, dtype=dtype)
            assert torch.equal(nn.functional.linear(frames, eye, zero), frames)

    def test_a_projection_that_fairseq_cannot_have_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="projection"):
            writer.save(make_bundle(replace(ENCODER, dim=8)), tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_a_missing_one_elsewhere_is_an_error(self, tmp_path: Path) -> None:
        file = write(tmp_path, make_bundle(), {})
        checkpoint = torch.load(file, weights_only=True)
        del checkpoint["model"]["post_extract_proj.weight"]
        torch.save(checkpoint, file)
        with pytest.raises(Exception, match=r"post_extract_proj\.weight"):
            storage.load(reader.open_model(file))


class TestWriter:
    def test_outputs_are_put_into_fairseqs_order(self, tmp_path: Path) -> None:
        alphabet = Alphabet(tokens=("b", " ", "<b>"), blank="<b>", word_boundary=" ")
        bundle = make_bundle(alphabet=alphabet)
        folder = writer.save(bundle, tmp_path / "model")
        assert (folder / "dict.ltr.txt").read_text() == "b 1\n| 1\n"
        again = storage.load(reader.open_model(folder))
        assert again.alphabet is not None
        assert again.alphabet.tokens == ("<s>", "<pad>", "</s>", "<unk>", "b", "|")
        samples = torch.randn(1, 400)
        with torch.no_grad():
            ours = bundle.model(samples).logits.log_softmax(-1)
            theirs = again.model(samples).logits.log_softmax(-1)
        assert torch.allclose(theirs[..., [0, 4, 5]], ours[..., [2, 0, 1]], rtol=0, atol=1e-6)
        assert (theirs[..., 1:4] < -1000).all()

    def test_networks_that_fairseq_lacks_are_refused(self, tmp_path: Path) -> None:
        model = EncoderOnlyModel(EncoderOnlyConfig(encoder=ENCODER))
        bundle = ModelBundle(model=model, alphabet=None, input_spec=InputSpec())
        with pytest.raises(FormatError, match="EncoderOnlyConfig"):
            writer.save(bundle, tmp_path / "model")
        with pytest.raises(FormatError, match="norm_epsilon"):
            writer.save(make_bundle(replace(ENCODER, norm_epsilon=1e-6)), tmp_path / "model")

    def test_nothing_else_is_replaced(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        writer.save(make_bundle(alphabet=ALPHABET), folder)
        writer.save(make_bundle(), folder)
        assert not (folder / "dict.ltr.txt").exists()
        (folder / "thesis.txt").write_text("mine")
        with pytest.raises(FormatError, match="not a model folder"):
            writer.save(make_bundle(), folder)
        assert (folder / "thesis.txt").read_text() == "mine"

    def test_a_tensor_takes_no_more_room_than_its_own(self, tmp_path: Path) -> None:
        bundle = make_bundle()
        large = torch.zeros(1_000_000)
        bundle.model.encoder.mask_embedding = nn.Parameter(large[:16])
        folder = writer.save(bundle, tmp_path / "model")
        assert (folder / writer.CHECKPOINT_FILE).stat().st_size < 100_000
