"""The page, read back as a browser would: whole, closed to the outside, and true to its numbers."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.learn_folder import make_learn_folder, write_json, write_rows

from unheard.report import examples, html
from unheard.report.facts import read_facts

VOID = {"meta", "link", "br", "hr"}
HOSTILE = "\"'><script>alert(1)</script><img src=//evil.example/x onerror=a>\u202e]]></style>\x00"
ADDRESS = "https://evil.example/"


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails where tags do not match."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


def check_closed(page: Page) -> None:
    """Nothing on the page runs, loads or leads anywhere."""
    names = {name for name, _ in page.elements}
    assert not names & {"script", "iframe", "object", "embed", "img", "form", "base", "input"}
    keys = {key for _, attrs in page.elements for key in attrs}
    assert not [key for key in keys if key.startswith("on")]
    assert not keys & {"style", "srcset", "action", "xlink:href", "formaction", "ping"}
    assert all(re.fullmatch(r"#[a-z]+|data:,", href) for href in page.attributes("href"))
    assert all(
        re.fullmatch(r"data:audio/(mpeg|ogg|wav);base64,[A-Za-z0-9+/=]+", src)
        for src in page.attributes("src")
    )
    assert "url(" not in page.style
    assert "@import" not in page.style
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a) or ""
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0c\x0e-\x1f]", page.source)


def page_of(folder: Path) -> Page:
    path = html.write_report(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    check_closed(page)
    return page


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_learn_folder(tmp_path_factory.mktemp("report") / "kiswahili")


def test_the_summary_says_what_was_given_and_what_came_out(whole: Path):
    text = page_of(whole).text
    result = json.loads((whole / "evaluation/result.json").read_text())["error_rate"]
    cer = result["cer"]
    expected = (
        r"With \d+ minutes of transcripts and 2\.\d hours of recordings to listen to, this "
        rf"recogniser makes {100 * cer['value']:.0f} character errors in 100 \(95 % interval "
        rf"{100 * cer['low']:.0f} to {100 * cer['high']:.0f}\) on \d minutes of 6 speakers it "
        r"never heard\."
    )
    assert re.search(expected, text)
    assert f"{100 * result['wer']['value']:.1f} %" in text


def test_every_part_is_there(whole: Path):
    page = page_of(whole)
    for expected in (
        "kiswahili",
        "Pre-training removed",
        "leave out what could not be read: 1 held-out recording.",
        "By speaker",
        "Transcribe more recordings",
        "unheard transcribe kiswahili/model RECORDINGS",
        "Contrastive loss",
        "guessing 4.62",
        "all codes 640",
        "CTC loss",
        "Error rates on validation",
        "characters, scratch",
        "Blank ratio",
        "Gradient norm",
        "What it wrote as it learnt",
        "missing audio",
        "repeated text",
        "unheard learn 'my recordings/' --out kiswahili",
        "0123abc",
        "fine-tuning 23 minutes",
    ):
        assert expected in page.text, expected
    names = [name for name, _ in page.elements]
    assert names.count("audio") == 16
    assert names.count("h1") == 1
    assert names.count("section") == 7
    assert {f"#{section}" for section in page.attributes("id")} == {
        href for href in page.attributes("href") if href != "data:,"
    }


def test_the_page_is_small_and_the_same_each_time(whole: Path):
    first = html.write_report(whole).read_bytes()
    assert html.write_report(whole).read_bytes() == first
    assert len(first) < 1_000_000
    assert str(whole.parent).encode() not in first


def test_right_to_left_text_is_isolated(tmp_path: Path):
    page = page_of(make_learn_folder(tmp_path / "farsi", language="fa", audio=False))
    speech = [attrs for name, attrs in page.elements if name == "bdi"]
    assert len(speech) > 50
    assert all(attrs["dir"] == "auto" for attrs in speech)
    assert any(attrs.get("lang") == "fa" for attrs in speech)
    assert "می\u200cکنند" in page.text


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"pretraining": False}, "None: this run learnt from its transcripts alone."),
        ({"evaluation": False}, "no held-out recordings have been evaluated"),
        ({"scratch": False}, "cannot say what pre-training was worth"),
        ({"audio": False}, "14 could not be read"),
    ],
)
def test_missing_parts_are_left_out_and_named(tmp_path: Path, missing: dict, said: str):
    assert said in page_of(make_learn_folder(tmp_path / "out", utterances=20, **missing)).text


def test_an_empty_folder_makes_a_page(tmp_path: Path):
    text = page_of(tmp_path).text
    assert "It was not tested" in text
    for said in ("No manifests", "No record of the command", "No record of fine-tuning"):
        assert said in text


def test_a_started_model_is_named(tmp_path: Path):
    folder = make_learn_folder(tmp_path / "out", pretraining=False, scratch=False, audio=False)
    write_json(folder / "learn.json", {"request": {"start": "some/pretrained-model"}})
    text = page_of(folder).text
    assert "and the pre-trained model some/pretrained-model, this recogniser" in text
    assert "None here: this run started from the model some/pretrained-model." in text


def poison(value: object) -> object:
    """Replace every text of JSON data, keys aside, by hostile text."""
    if isinstance(value, str):
        return value if value in ("train", "valid") else f"{value}{HOSTILE}{ADDRESS}"
    if isinstance(value, list):
        return [poison(item) for item in value]
    if isinstance(value, dict):
        return {key: poison(item) for key, item in value.items()}
    return value


def test_hostile_text_stays_text(tmp_path: Path):
    folder = make_learn_folder(tmp_path / "<b>out", utterances=20, audio=False)
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        if path.suffix == ".json":
            data = poison(json.loads(path.read_text()))
            if isinstance(data, dict):
                data[HOSTILE] = {HOSTILE: HOSTILE}
            for inner in ("request", "stages", "facts"):
                if isinstance(data, dict) and isinstance(data.get(inner), dict):
                    data[inner][HOSTILE] = {HOSTILE: [HOSTILE]}
            write_json(path, data)
        else:
            rows = [poison(json.loads(line)) for line in path.read_text().splitlines()]
            write_rows(path, [row for row in rows if isinstance(row, dict)])
    page = page_of(folder)
    assert "<script>alert(1)</script>" in page.text  # shown, as text
    assert "⟦U+202E⟧" in page.text
    assert "<b>out" in page.text


@pytest.mark.parametrize(
    "text", ["\ud800", "\u202e" * 50, "'\"<>&", "\x00\x1f\x9b", "a\r\nb\u2028"]
)
def test_odd_text_can_be_written(tmp_path: Path, text: str):
    row = {"id": text, "audio": text, "reference": text, "hypothesis": text + "a"}
    write_rows(tmp_path / "evaluation/utterances.jsonl", [row])
    write_rows(tmp_path / "data/train.jsonl", [{"text": text, "speaker": text}])
    page_of(tmp_path)


def test_what_the_watch_called_is_shown(tmp_path: Path):
    folder = make_learn_folder(tmp_path / "run", audio=False)
    rows = [
        {"severity": "note", "step": 120, "message": "It writes nothing yet.", "advice": "Wait."},
        {"severity": "error", "step": 950, "message": "It writes nothing <b>.", "advice": "Stop."},
        {"severity": "warning", "step": None, "message": None},
    ]
    write_rows(folder / "finetune" / "health.jsonl", rows)
    page = Page(html.render(read_facts(folder)))
    told = " ".join(page.texts)
    assert "It writes nothing <b>. Stop." in told
    assert "950" in told
    assert "Fine-tuning went wrong" in told
    assert "nothing yet" not in told, "notes are for the live line"


def test_units_in_use_are_drawn_where_they_were_counted(tmp_path: Path):
    folder = make_learn_folder(tmp_path / "run", audio=False)
    assert "Units in use" not in html.render(read_facts(folder))
    rows = [
        {"kind": "train", "step": k, "masked": 4.0, "predicted_perplexity": k, "unit_perplexity": 9}
        for k in (1, 2, 3)
    ]
    write_rows(folder / "pretrain" / "metrics.jsonl", rows)
    assert "Units in use" in html.render(read_facts(folder))


def test_advice_shows_its_letters(tmp_path: Path):
    rows = [{"text": "habari za asubuhi " * 30 + "qat\u0301", "num_samples": 1, "sample_rate": 1}]
    write_rows(tmp_path / "data/train.jsonl", rows)
    page = page_of(tmp_path)
    assert "Look at the rarest characters." in page.text
    assert '<span class="letter"><bdi dir="auto" class="speech">q</bdi></span>' in page.source
    assert "◌\u0301" in page.text


def test_examples_are_worst_and_typical_and_never_both(whole: Path):
    utterances = read_facts(whole).utterances
    worst, typical = examples.choose_examples(utterances)
    rates = sorted(u.cer for u in utterances)
    assert [u.cer for u in worst] == rates[::-1][: len(worst)]
    assert not {u.id for u in worst} & {u.id for u in typical}
    assert rates[20] <= typical[0].cer <= typical[-1].cer <= rates[40]
    for few in range(4):
        worst, typical = examples.choose_examples(utterances[:few])
        assert len(worst) + len(typical) == few
