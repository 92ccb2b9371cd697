"""An export is whole or not there, is refused where it answers otherwise, and its card says what was measured."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer  # noqa: TID253

from iot_pipeline.errors import UserError
from iot_pipeline.export import llama_cpp, run
from iot_pipeline.export.as_llama import other_tokens, readable
from iot_pipeline.export.compare import Sample, sample_of
from iot_pipeline.export.folder import new_folder
from iot_pipeline.export.formats import About, chosen_quantisation, write
from iot_pipeline.export.modelfile import modelfile, turn
from iot_pipeline.export.run import Job, export
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.atomic import sha256_file
from iot_pipeline.models.tokenizer import encode, load_tokenizer, prompt_text
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.models.families import FAMILIES, make_tokenizer
from iot_pipeline_tests.models.families import make_base as make_family
from iot_pipeline_tests.tiny_model import CLASSES, flow_texts, label_of, make_base

pytestmark = pytest.mark.usefixtures("collections_of_the_test_alone")
HOSTILE = "TINY <script>alert(1)</script>\x1b[31m [a](javascript:1)"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("export") / "base")


@pytest.fixture(autouse=True)
def without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "installed", lambda: None)


def sample(explained: int) -> Sample:
    texts = flow_texts(24, seed=4)
    groups = [f"{place:02}" for place in range(len(texts))]
    labels = [label_of(text) for text in texts]
    records = pd.DataFrame({"flow_group": groups, "label": labels, "rows": 1, "group_rows": 1, "row_id": range(24)})
    return sample_of(pd.DataFrame({"flow_group": groups, "text": texts}), records, 20, explained, 1)


def job(
    base: Path, out: Path, form: str = "gguf", quantisation: str = "f32", explained: int = 0, **changed: Any
) -> Job:
    spec = load_spec("farm_flow").model_copy(update={"classes": CLASSES})
    facts = {"stage": "10K", "track": "original", "base": "b|`c`", "dataset": "d", "licence": "MIT"}
    facts |= {"made_of": {"x[1|y]": "0123"}, "labels": [HOSTILE]}

    def load(device: str, dtype: str) -> Student:
        return Student.load(base, None, device="cpu", dtype=dtype)

    values: dict[str, Any] = {"force": False, "temperature": 1.5} | changed
    return Job(
        out, form, quantisation, sample=sample(explained), writer=FlowTextWriter(spec, "values"),
        settings=load_settings({"IOT_EXPLANATION_WORDS": "30"}), facts=facts, load=load, **values,
    )  # fmt: skip


@pytest.mark.parametrize(("form", "quantisation"), [("merged", "fp32"), ("ollama", "f32")])
def test_an_export_says_what_it_was_measured_to_be(form: str, quantisation: str, base: Path, tmp_path: Path) -> None:
    found = export(job(base, tmp_path / "out", form, quantisation, 2), lambda _: None)
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told == json.loads(json.dumps(found))
    compared = told["comparison"]
    assert compared["agreeing"] == compared["flows"] == 20 and compared["low"] < 1 and compared["explained"] == 2
    assert compared["exported"] == pytest.approx(compared["student"], abs=1e-5) and compared["most_apart"] < 1e-4
    for name, file in told["files"].items():
        assert sha256_file(tmp_path / "out" / name) == file["sha256"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "20 of 20: 100.00 %" in card and "divide the log-probabilities by the temperature 1.5" in card
    assert "<script" not in card.replace("\\<script", "") and "\x1b" not in card and "[a](java" not in card
    assert ("**Not measured**: the kernels of an engine" in card) == (form == "ollama")
    assert not list(tmp_path.glob(".*"))
    own, text = load_tokenizer(base), flow_texts(1)[0]
    again = AutoTokenizer.from_pretrained(tmp_path / "out" / ("tokenizer" if form == "ollama" else "."))
    turns = [{"role": "user", "content": text}]
    assert again.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == prompt_text(own, text)
    assert again(text, add_special_tokens=False)["input_ids"] == encode(own, [text])[0]


def test_too_few_equal_labels_are_refused_unless_forced_and_the_card_says_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Student.score_labels

    def turned(self: Student, *arguments: Any, **options: Any) -> np.ndarray:
        scores = kept(self, *arguments, **options)
        if type(self) is not Student:  # the exported one
            scores[0] = scores[0][::-1] if scores[0].argmax() != 1 else np.roll(scores[0], 1)
        return scores

    monkeypatch.setattr(Student, "score_labels", turned)
    with pytest.raises(UserError, match=r"kept for 19 of 20 test flows \(95.00%\), fewer than 99.9%.*--force"):
        export(job(base, tmp_path / "out", temperature=None), lambda _: None)
    assert not list(tmp_path.iterdir())
    found = export(job(base, tmp_path / "out", temperature=None, force=True), lambda _: None)
    assert found["forced"] and found["comparison"]["agreeing"] == 19
    card = (tmp_path / "out" / "README.md").read_text()
    assert "> FORCED: its labels agree" in card and "as scored: the student was not evaluated" in card


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    out, staging = tmp_path / "out", tmp_path / ".out.staging"
    (staging / "inner").mkdir(parents=True)
    (staging / "inner" / "half").write_text("of a killed try")
    with pytest.raises(ZeroDivisionError):
        with new_folder(out) as folder:
            assert not list(folder.iterdir())
            (folder / "x").write_text("")
            1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    with new_folder(out) as folder:
        (folder / "x").write_text("")
        handle = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        with pytest.raises(UserError, match="being written by another process"), new_folder(out):
            pass
    assert [path.name for path in out.iterdir()] == ["x"]
    with pytest.raises(UserError, match="already exists"), new_folder(out):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), new_folder(tmp_path / "file" / "out"):
        pass


@pytest.mark.parametrize(
    ("form", "quantisation", "message"),
    [("onnx", None, "one of merged, gguf"), ("gguf", "int8", "has bf16"), ("merged", "q8_0", "has fp32, bf16")],
)
def test_unknown_formats_and_types_are_named(form: str, quantisation: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen_quantisation(form, quantisation)
    assert chosen_quantisation("gguf", "FP16") == "f16" and chosen_quantisation("merged", None) == "fp32"


LINE = re.compile(
    r'(?P<name>FROM|TEMPLATE|PARAMETER \w+) (?:"""(?P<long>.*?)"""|(?P<short>[^\n"]+))\n|#[^\n]*\n', re.DOTALL
)


def parsed(text: str) -> dict[str, str]:
    """Parse a Modelfile as Ollama documents it; everything must be a command or a comment."""
    found, place = {}, 0
    while place < len(text):
        line = LINE.match(text, place)
        assert line is not None, text[place:]
        place = line.end()
        if line["name"]:
            found[line["name"]] = line["long"] if line["long"] is not None else line["short"]
    return found


@pytest.mark.parametrize("name", ["qwen2.5", "llama 3", "smollm2"])
def test_ollama_reads_the_prompts_of_training(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(FAMILIES[name], tmp_path)
    told = parsed(modelfile(tokenizer, "x.gguf", 512, 300, ["one\nFROM evil", HOSTILE]))
    assert told["FROM"] == "./x.gguf" and told["PARAMETER stop"] == FAMILIES[name].end
    assert told["PARAMETER temperature"] == "0" and told["PARAMETER num_ctx"] == "512"
    prompt = told["TEMPLATE"].partition("{{ .Response }}")[0].replace("{{ .Prompt }}", "orig_pkts: 1")
    assert prompt == prompt_text(tokenizer, "orig_pkts: 1")


def test_a_template_cannot_leave_its_place_in_a_modelfile(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(FAMILIES["smollm2"], tmp_path)
    plain = tokenizer.chat_template
    tokenizer.chat_template = "{{ '{{ .System }}' }}" + plain
    before, _ = turn(tokenizer)
    assert before.startswith("{{ .System }}")
    assert '{{ "{{" }} .System }}' in parsed(modelfile(tokenizer, "x.gguf", 1, 1, []))["TEMPLATE"]
    tokenizer.chat_template = '{{ \'"""\' }}' + plain
    with pytest.raises(UserError, match="cannot stand in a Modelfile"):
        modelfile(tokenizer, "x.gguf", 1, 1, [])


SERVER = """#!{python}
import http.server, json, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
assert sys.argv[sys.argv.index("--host") + 1] == "127.0.0.1"
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, told):
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(told).encode())
    def do_GET(self): self.answer({{"status": "ok"}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize": return self.answer({{"tokens": [1, 2, 3]}})
        assert body["n_predict"] == 1
        likely = {likely}[len(body["prompt"]) % 2]
        listed = [{{"id": likely, "logprob": -0.1}}, {{"id": 0, "logprob": -9}}]
        self.answer({{"completion_probabilities": [{{"top_logprobs": listed}}]}})
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def engine_on_the_path(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from iot_pipeline.inference.scoring import Labels

    labels = Labels.of(load_tokenizer(base), CLASSES)
    tokens = [token for token in labels.tree[()] if token >= 0]
    script = tmp_path / "bin" / "llama-server"
    script.parent.mkdir()
    script.write_text(SERVER.format(python=sys.executable, likely=repr([tokens[0], tokens[-1]])))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(llama_cpp, "installed", lambda: "llama-server")
    yield


def test_an_installed_engine_is_asked_too_and_can_refuse(engine_on_the_path: None, base: Path, tmp_path: Path) -> None:
    found = export(job(base, tmp_path / "out", force=True), lambda _: None)
    engine = found["engine"]
    assert engine["engine"] == "llama.cpp (llama-server)" and engine["flows"] == engine["other_tokens"] == 20
    assert found["forced"] == (engine["agreement"] < run.NEEDED)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Run in llama.cpp (llama-server) itself" in card and "Not measured" not in card


def test_a_qwen2_with_a_tokenizer_of_its_own_is_written_as_the_llama_that_computes_the_same(base: Path) -> None:
    student, texts = Student.load(base, None, "cpu", dtype="fp32"), flow_texts(6)
    wanted = student.score_labels(texts, CLASSES)
    assert other_tokens(student, texts) == 6, "transformers cuts by Qwen2's rules"
    assert readable(student, texts) == 0 and student.model.config.model_type == "llama"
    assert np.allclose(student.score_labels(texts, CLASSES), wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["qwen2.5", "llama 3"])
def test_a_base_that_others_read_aright_stays_what_it_is(name: str, tmp_path: Path) -> None:
    student = Student.load(make_family(FAMILIES[name], tmp_path), None, "cpu", dtype="fp32")
    before = student.model
    assert readable(student, flow_texts(4)) == 0 and student.model is before


# `importorskip` would import it with its telemetry.
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra `openvino` is not installed")
def test_openvino_answers_as_the_student(base: Path, tmp_path: Path) -> None:
    student = Student.load(base, None, "cpu", dtype="fp32")
    wanted = student.score_labels(flow_texts(5), CLASSES)
    said = student.explain(flow_texts(1), 12)
    about = About(CLASSES, "n", "d", "MIT", 100)
    other = write("openvino", student, tmp_path, "fp32", about, flow_texts(5)).load()
    assert np.allclose(other.score_labels(flow_texts(5), CLASSES), wanted, atol=1e-4)
    assert other.explain(flow_texts(1), 12) == said
    with pytest.raises(UserError, match="free answers only"):
        other.explain(flow_texts(1), 12, answers=["x"])


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
def test_llama_cpp_itself_agrees(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = export(job(base, tmp_path / "out"), lambda _: None)
    assert found["engine"]["agreeing"] == 20 and found["engine"]["other_tokens"] == 0
