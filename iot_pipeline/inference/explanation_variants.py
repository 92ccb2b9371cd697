"""Variants of writing explanations: the prior work's way and its optimisations, and ours, timed on this machine."""

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iot_pipeline.augmentation.answers import parse_answer
from iot_pipeline.inference.measuring import Row, Timed, not_run, one_by_one, peak_memory, timed, together
from iot_pipeline.inference.openvino_engine import EngineUnavailable, compiled_decoder
from iot_pipeline.inference.student import Student, left_padded
from iot_pipeline.models.tokenizer import end_of_turn, in_one_line

PRIOR, OURS = "prior work", "ours"
OPENVINO = "openvino-fp32"
PROBED = 8  # tokens by which the seconds of a variant are predicted
LOOKED_UP = 8  # tokens that prompt-lookup speculation guesses at once
PAGE = 32  # tokens of a page of the cache of continuous batching


class NotHere(Exception):
    """Reason why a variant cannot run on this machine."""


@dataclass(frozen=True)
class Way:
    """Way of writing: rows of a batch, token limit, end of turn respected or not, and what changes in the model.

    The prior work generated a fixed number of tokens and looked for the class in the text.
    """

    name: str
    group: str
    batch: int
    tokens: int
    stop: bool = False
    dtype: str = ""
    weights: str = ""
    attention: str = ""
    lookup: bool = False
    continuous: bool = False
    openvino: bool = False


def ways(reference: str, tokens: int, answer: int, batch: int, on_card: bool) -> list[Way]:
    """List the ways in order: the prior work's optimisations alone, then together, then ours.

    Args:
        reference: Data type of the reference.
        tokens: New tokens of the prior work's way; half of them is one of its optimisations.
        answer: Token limit of our answers.
        batch: Rows of a batch.
        on_card: True on a GPU.
    """
    half, title = tokens // 2, f"explanation, {reference}"
    many = f"batch {batch}, {half} tokens"
    kernel, changed = ("flash_attention_2", "flash attention") if on_card else ("eager", "eager attention, not sdpa")
    old = f"batch 1, {tokens} tokens"
    found = [
        Way(f"{title}, {old} (the old way)", PRIOR, 1, tokens),
        Way(f"{title}, batch 1, {half} tokens alone", PRIOR, 1, half),
        Way(f"explanation, int8, {old}, int8 alone", PRIOR, 1, tokens, weights="int8"),
        Way(f"{title}, {old}, {changed} alone", PRIOR, 1, tokens, attention=kernel),
        Way(f"{title}, batch {batch}, {tokens} tokens", PRIOR, batch, tokens),
        Way(f"{title}, {many}", PRIOR, batch, half),
        Way(f"explanation, bf16, {many}", PRIOR, batch, half, dtype="bf16"),
        Way(f"explanation, int8, {many}", PRIOR, batch, half, weights="int8"),
        Way(f"explanation, int4, {many}", PRIOR, batch, half, weights="int4"),
        Way(f"{title}, {many}, {changed}", PRIOR, batch, half, attention=kernel),
        Way(f"{title}, batch 1, stop at end of turn", OURS, 1, answer, stop=True),
        Way(f"{title}, batch {batch}, stop at end of turn", OURS, batch, answer, stop=True),
        Way(f"{title}, batch 1, prompt-lookup speculation", OURS, 1, answer, stop=True, lookup=True),
        Way(f"{title}, continuous batching", OURS, batch, answer, stop=True, continuous=True),
    ]
    if not on_card:
        stop = "stop at end of turn"
        found += [
            Way(f"explanation, {OPENVINO}, batch {rows}, {stop}", OURS, rows, answer, stop=True, openvino=True)
            for rows in (1, batch)
        ]
    return list({way.name: way for way in found}.values())  # bf16 may be the reference


@dataclass
class Writing:
    """Measuring of explanations: a student of the reference, its prompts and labels, and limits.

    most_seconds: predicted seconds above which a way is not run. alone: prompts that are explained one by one.
    threads: of the CPU.
    """

    student: Student
    other_dtype: Callable[[str], Student]
    prompts: Sequence[str]
    labels: Sequence[str]
    device: str
    alone: int
    most_seconds: float
    say: Callable[[str], None]
    threads: int | None = None

    def measure(self, given: Sequence[Way]) -> list[Row]:
        """Measure ways in turn; one that cannot run, or would take too long, is named with the reason."""
        rows, written = [], dict[str, list[list[int]]]()
        for way in given:
            try:
                row = self._measured(way, written)
            except NotHere as reason:
                row = not_run(way.name, way.group, str(reason))
            self.say(f"{way.name}: {row.get('flows_per_second', row['reason'])}{' a second' if row['run'] else ''}")
            rows.append(row)
        return rows

    def _measured(self, way: Way, written: dict[str, list[list[int]]]) -> Row:
        chosen = [place % len(self.prompts) for place in range(way.batch if way.batch > 1 else self.alone)]
        ids = self.student._prompts([self.prompts[place] for place in chosen])
        batches = [ids[first : first + way.batch] for first in range(0, len(ids), way.batch)]
        with self._model(way) as model, peak_memory(self.device) as peak:
            if self.device != "cpu":  # a card loads its kernels at the first call, which would count for each token
                self._written(model, way, batches[0], PROBED)
            probe = self._written(model, way, batches[0], PROBED)
            spent = probe.cpu if self.device == "cpu" else probe.seconds  # what else runs here counts for nothing
            predicted = spent / PROBED * way.tokens * len(batches)
            if predicted > self.most_seconds:
                each, limit = f"{predicted / len(ids):,.1f} s a flow", f"{self.most_seconds:.0f} s"
                raise NotHere(f"would take about {each}, {predicted:,.0f} s in all; the limit is {limit}")
            calls = [self._written(model, way, rows, way.tokens) for rows in batches]
        answers = [answer for call in calls for answer in call.value]
        written[way.name] = answers
        row = {"name": way.name, "group": way.group, "run": True, "reason": "", "device": self._device_name()}
        row |= together(len(ids), calls[0]) if way.batch > 1 else one_by_one(calls)
        return row | peak | self._judged(way, answers, chosen, calls, written)

    def _judged(
        self, way: Way, answers: list[list[int]], chosen: list[int], calls: list[Timed], written: dict[str, Any]
    ) -> Row:
        """Count tokens, ended answers, labels as scored, and for speculation equal answers."""
        end = end_of_turn(self.student.tokenizer)
        found: Row = {"new_tokens_per_second": round(sum(map(len, answers)) / sum(one.seconds for one in calls), 1)}
        ended = [answer[: answer.index(end)] if end in answer else answer for answer in answers]
        if way.stop:
            found["ended_share"] = round(sum(end in answer for answer in answers) / len(answers), 4)
        texts = self.student.tokenizer.batch_decode(ended, skip_special_tokens=True)
        same = [parse_answer(text).label == self.labels[place] for text, place in zip(texts, chosen, strict=True)]
        found["label_agreement"] = round(sum(same) / len(same), 6)
        if way.lookup or way.openvino:
            same_batch = f"batch {way.batch}, stop"
            plain = next((one for name, one in written.items() if same_batch in name and OPENVINO not in name), None)
            if plain is not None:
                found["equal_answers"] = round(sum(a == b for a, b in zip(answers, plain, strict=True)) / len(plain), 6)
        return found

    def _written(self, model: Any, way: Way, rows: list[list[int]], tokens: int) -> Timed:
        """Generate `tokens` new tokens (fewer after an end of turn, if the way stops there) for a batch of rows."""
        import torch

        if way.continuous:  # its thread changes tensors in place, which those of inference mode forbid
            with torch.no_grad():
                return timed(lambda: self._continuously(model, rows, tokens), self.device)
        with torch.inference_mode():
            return timed(lambda: self._generated(model, way, rows, tokens), self.device)

    def _generated(self, model: Any, way: Way, rows: list[list[int]], tokens: int) -> list[list[int]]:
        ids, mask = left_padded(rows, self.student.pad)
        more = {"prompt_lookup_num_tokens": LOOKED_UP} if way.lookup else {}
        more |= {} if way.stop else {"min_new_tokens": tokens}
        try:
            made = model.generate(
                input_ids=ids.to(self.student.device),
                attention_mask=mask.to(self.student.device),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=end_of_turn(self.student.tokenizer),
                pad_token_id=self.student.pad,
                **more,
            )
        except ValueError as error:  # of Qwen3.5, whose state cannot go back to the last right token
            if not way.lookup:
                raise
            raise NotHere(f"transformers does not speculate with this base: {in_one_line(error)}") from error
        return self._cut(made[:, ids.shape[1] :].tolist())

    def _continuously(self, model: Any, rows: list[list[int]], tokens: int) -> list[list[int]]:
        """Generate by transformers' continuous batching; NotHere if it fails on this machine."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        end, pages = end_of_turn(self.student.tokenizer), (max(map(len, rows)) + tokens) // PAGE + 1
        config = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=self.student.pad
        )
        room = ContinuousBatchingConfig(page_size=PAGE, num_blocks=2 * len(rows) * pages, max_batch_tokens=2048)
        try:
            made = model.generate_batch(rows, generation_config=config, continuous_batching_config=room)
        except Exception as error:  # of its thread, whatever that is
            raise NotHere(f"continuous batching of transformers fails here: {in_one_line(error)}") from error
        wrong = [answer.error for answer in made.values() if answer.error]
        if len(made) != len(rows) or wrong:
            raise NotHere(f"continuous batching of transformers failed: {(wrong or ['requests without answer'])[0]}")
        found = sorted(made.items(), key=lambda one: int(one[0].rpartition("_")[2]))
        return [list(answer.generated_tokens) for _, answer in found]

    def _cut(self, answers: list[list[int]]) -> list[list[int]]:
        """Drop the padding behind an end of turn."""
        end = end_of_turn(self.student.tokenizer)
        return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]

    @contextlib.contextmanager
    def _model(self, way: Way) -> Iterator[Any]:
        """Yield the model of a way; what it changes is undone at the end, also of a way that would take too long."""
        if way.dtype and way.dtype != _dtype_of(self.student):
            other = self.other_dtype(way.dtype)
            try:
                yield other.model
            finally:
                other.close()
        elif way.openvino:
            try:
                decoder = compiled_decoder(self.student.model, self.threads)
            except EngineUnavailable as error:
                raise NotHere(str(error)) from error
            yield decoder
        elif way.weights:
            yield quantised(self.student, way.weights)
        elif way.attention:
            before = self.student.model.config._attn_implementation
            if before == way.attention:
                raise NotHere("the reference has it already")
            try:
                self.student.model.set_attn_implementation(way.attention)
            except (ImportError, ValueError) as error:
                raise NotHere(f"{way.attention} is not installed") from error
            try:
                yield self.student.model
            finally:
                self.student.model.set_attn_implementation(before)
        else:
            yield self.student.model

    def _device_name(self) -> str:
        return str(self.student.describe()["device"])


def _dtype_of(student: Student) -> str:
    return str(student.describe()["dtype"])


def quantised(student: Student, kind: str) -> Any:
    """Return the student's model with weights in int8 or int4; NotHere where no library here does it.

    On a CPU: torch's dynamic int8 of linear layers. On a GPU: bitsandbytes.
    """
    import torch

    if student.device.type == "cpu":
        if kind == "int4":
            raise NotHere("torch generates with int4 weights on GPUs only; labels are scored with them by OpenVINO")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it names its successor, a package of its own
            return torch.ao.quantization.quantize_dynamic(
                copy.deepcopy(student.model), {torch.nn.Linear}, dtype=torch.qint8
            )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise NotHere("bitsandbytes is not installed: pip install 'iot-pipeline[gpu]'") from error
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    told: dict[str, Any] = {"int8": {"load_in_8bit": True}, "int4": {"load_in_4bit": True}}[kind]
    with tempfile.TemporaryDirectory() as folder:
        student.save(Path(folder))
        config = BitsAndBytesConfig(**told, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map={"": student.device}, use_safetensors=True,
            trust_remote_code=False, dtype=torch.bfloat16,
        )  # fmt: skip
    return model.eval()


def openvino_writing(rows: Sequence[Row]) -> dict[str, Any]:
    """Return whether explanations are to be written by OpenVINO: with equal answers, and in fewer seconds.

    Seconds are of the processor; both ways write a batch of the same flows, freely.
    """
    named = {row["name"]: row for row in rows if row["run"] and row["name"].endswith("stop at end of turn")}
    batched = {name: row for name, row in named.items() if ", batch 1, " not in name}
    own = next((row for name, row in batched.items() if OPENVINO in name), None)
    reference = next((row for name, row in batched.items() if OPENVINO not in name), None)
    if own is None or reference is None:
        reasons = [row["reason"] for row in rows if not row["run"] and OPENVINO in row["name"]]
        return {"offered": False, "reason": (reasons or ["not measured"])[0]}
    times = round(reference["cpu_seconds_a_flow"] / own["cpu_seconds_a_flow"], 3)
    told = {"engine": OPENVINO, "times_reference": times, "equal_answers": own["equal_answers"], "flows": own["flows"]}
    if own["equal_answers"] < 1:
        return {"offered": False, **told, "reason": f"{own['equal_answers']:.2%} of its answers equal the reference's"}
    return {"offered": times > 1, **told} | ({} if times > 1 else {"reason": "not faster"})
