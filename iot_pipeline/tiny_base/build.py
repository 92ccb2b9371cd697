"""Build of the tiny Qwen2 base: its tokeniser, a short pre-training on flows without labels, its copy accuracy."""

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.flows.categories import VALUE
from iot_pipeline.flows.serialise import NUMBER
from iot_pipeline.models.cpu_products import use_onednn
from iot_pipeline.models.tokenizer import END_OF_TURN, encode, literal, pad_id, prompt_text
from iot_pipeline.sft.tensors import IGNORED
from iot_pipeline.tiny_base.pretraining_tasks import ANSWER_WORDS, Curriculum, Flows, Writer, groups, parse
from iot_pipeline.tiny_base.tokenizer import build_tokenizer
from iot_pipeline.training.data import causal_loss, padded
from iot_pipeline.training.distributed import Machine
from iot_pipeline.training.reporter import Reporter

ROWS = 32  # of one pass that measures copy accuracy
MIXED = 200  # flows that pre-training does not read, for measuring copy accuracy
# Values of KEY_INDICATORS: the first item follows the heading, each later one a `;`.
_CITED = re.compile(rf"(?:KEY_INDICATORS:|;) [^\s;]+ ({NUMBER}|{VALUE})(?= \(|;|$)", re.MULTILINE)


@dataclass(frozen=True)
class BaseRecipe:
    """Shape of the tiny Qwen2 and its pre-training: `steps` optimiser steps of `rows` tasks each."""

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 384
    steps: int = 450
    rows: int = 28
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.01
    flow_weight: float = 0.3
    group_sizes: tuple[int, ...] = (6, 12, 12, 24, 24, 48, 48, 96)
    pool: int = 30_000


def build_tiny_base(
    texts: Sequence[str],
    classes: Sequence[str],
    features: Sequence[str],
    out: Path,
    writer: Writer,
    seed: int,
    recipe: BaseRecipe,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train tokeniser and tiny Qwen2 on flow texts without labels.

    Args:
        texts: Flow texts of the train pool.
        classes: Class names only: they enter the vocabulary and, drawn at random, the form of answers.
        features: Feature names of the flows.
        out: Model folder to write.
        writer: Writes answers true to a flow's values.
        seed: Seed of weights and draws.
        recipe: Shape and pre-training recipe.
        machine: With several processes each computes its share of every step, and rank 0 writes.
        reporter: Receives progress.

    Returns:
        Facts of the build. losses: mean token loss of each tenth of the steps. values_copied: share of the values cited
        in true answers about unread flows that the model copies exactly; None if there are too few flows to mix unread
        ones from. seconds: wall clock.

    Raises:
        UserError: The texts are not flow texts of `features`.
    """
    import torch

    use_onednn()
    machine = machine or Machine(0, 1, torch.device("cpu"), False, torch.get_num_threads(), "cpu")
    reporter = reporter or Reporter(None, out, first=False)
    started = time.perf_counter()
    random = np.random.default_rng([seed, 1])
    flows, unread = _pool(texts, features, recipe, seed, random)
    curriculum = Curriculum(flows, groups(flows, recipe.group_sizes, seed), classes, writer)
    samples = [curriculum.write(text, random) for text in flows.texts[:2000]]
    words = [*ANSWER_WORDS, *(f" {name}" for name in classes), *(f" {name}" for name in features)]
    tokenizer = build_tokenizer([*flows.texts, *samples], words, recipe.vocabulary)
    lengths = [len(ids) for ids in encode(tokenizer, [literal(tokenizer, text) for text in flows.texts[:5000]])]
    reporter.line(
        f"tokenizer: {len(tokenizer)} tokens, {np.mean(lengths):.0f} a flow; {len(flows.texts)} distinct flows"
    )

    model = new_model(tokenizer, recipe, seed)
    losses, tokens = _pretrain(model, tokenizer, curriculum, recipe, seed, machine, reporter)
    answered = [(text, curriculum.write(text, random)) for text in unread.texts]
    model.eval()
    copied, values = measure_copying(model, tokenizer, answered)
    names = encode(tokenizer, [literal(tokenizer, f" {name}") for name in classes])
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "distinct_flows": len(flows.texts),
        "steps": recipe.steps,
        "tokens": tokens,
        "losses": losses,
        "prompt_tokens_mean": round(float(np.mean(lengths)), 2),
        "prompt_tokens_max": max(lengths),
        "single_token_classes": sum(len(ids) == 1 for ids in names),
        "values_copied": round(copied / values, 4) if values else None,
        "seconds": round(time.perf_counter() - started, 2),
    }
    if machine.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        (out / "README.md").write_text(_card(report, recipe, seed))
    return report


def _pool(
    texts: Sequence[str], features: Sequence[str], recipe: BaseRecipe, seed: int, random: np.random.Generator
) -> tuple[Flows, Flows]:
    """Return the flows to read (at most the recipe's pool) and unread flows for measuring copy accuracy.

    The unread flows combine lines of different flows. Holding out 200 real ones cost 0.008 accuracy on RT-IoT2022, and
    measuring must not change what is measured.
    """
    distinct = sorted(set(texts))
    if len(distinct) > recipe.pool:
        distinct = [distinct[place] for place in np.sort(random.permutation(len(distinct))[: recipe.pool])]
    mixer = np.random.default_rng([seed, 3])
    columns = list(zip(*(text.split("\n") for text in distinct), strict=False))
    mixed = ["\n".join(column[mixer.integers(len(column))] for column in columns) for _ in range(MIXED)]
    try:
        return parse(distinct, features), parse(sorted(set(mixed) - set(distinct)), features)
    except ValueError as error:
        raise UserError(f"tiny base: {error}") from error


def new_model(tokenizer: Any, recipe: BaseRecipe, seed: int) -> Any:
    """Create a Qwen2 of the recipe's shape with random weights; embeddings of numbers start from `number_features`."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_theta": 10_000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END_OF_TURN),
        pad_token_id=pad_id(tokenizer),
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", trust_remote_code=False)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        scale = float(table.std())
        for token, place in sorted(tokenizer.get_vocab().items()):
            features = number_features(tokenizer.convert_tokens_to_string([token]))
            if features is not None:
                table[place, : len(features)] = torch.tensor(features) * scale * 1.4
    return model


def number_features(text: str) -> list[float] | None:
    """Return sine waves of a number or percentile, so that near numbers start with near embeddings; else None."""
    body = text.strip()
    if body[:1] == "p" and body[1:].isdigit():
        position, kind = int(body[1:]) / 100.0, 1.0
    else:
        try:
            number = float(body)
        except ValueError:
            return None
        if not math.isfinite(number):
            return None
        # asinh spreads both z-scores and byte counts over the unit interval.
        position, kind = 0.5 + math.asinh(number * 4) / 24.0, -1.0
    waves = [wave(position * math.pi * turns) for turns in (1, 2, 4, 8, 16, 32) for wave in (math.sin, math.cos)]
    return [kind, *waves, *(kind * value for value in waves)]


def _pretrain(
    model: Any,
    tokenizer: Any,
    curriculum: Curriculum,
    recipe: BaseRecipe,
    seed: int,
    machine: Machine,
    reporter: Reporter,
) -> tuple[list[float], int]:
    """Pre-train the model; return (mean loss of each tenth of the steps, tokens read by all processes)."""
    import torch

    random = np.random.default_rng([seed, 2])
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    order: list[int] = []
    history: list[float] = []
    tokens = 0
    started = last = time.perf_counter()
    model.train()
    for step in range(recipe.steps):
        while len(order) < recipe.rows:
            order.extend(random.permutation(len(curriculum.flows.texts)).tolist())
        rows, order = order[: recipe.rows], order[recipe.rows :]
        drawn = [(row, np.random.default_rng([seed, 3, step, place])) for place, row in enumerate(rows)]
        tasks = [curriculum.task(row, rng) for row, rng in drawn[machine.rank :: machine.world]]
        ids, weights = _encode_tasks(tokenizer, tasks, recipe.flow_weight)
        rate = recipe.learning_rate * _schedule(step, recipe.steps, recipe.warmup)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = torch.from_numpy(padded(ids, pad_id(tokenizer)))
        weight = torch.from_numpy(padded(weights, 0.0, np.float32))
        total = causal_loss(model, batch, batch.masked_fill(weight == 0, IGNORED), weight)
        total.backward()
        sums = torch.stack([total.detach(), weight[:, 1:].sum(), torch.tensor(float(sum(map(len, ids))))])
        machine.sum_gradients(parameters, sums)
        loss, weight_total, read = sums.tolist()
        for parameter in parameters:
            parameter.grad.div_(weight_total)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        history.append(loss / weight_total)
        tokens += int(read)
        now = time.perf_counter()
        if now - last > 5 or step + 1 == recipe.steps:
            last = now
            reporter.progress(
                step=step + 1,
                steps=recipe.steps,
                loss=round(float(np.mean(history[-20:])), 5),
                tokens_per_second=round(tokens / (now - started), 1),
                learning_rate=rate,
                seconds_left=round((now - started) / (step + 1) * (recipe.steps - step - 1), 1),
            )
    return [round(float(np.mean(part)), 4) for part in np.array_split(history, 10) if len(part)], tokens


def _encode_tasks(
    tokenizer: Any, tasks: Sequence[tuple[str, str]], flow_weight: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Encode (text, answer) tasks: token ids, and weights of their loss, each one array a task."""
    ids, weights = [], []
    prompts = encode(tokenizer, [prompt_text(tokenizer, text) for text, _ in tasks])
    answers = encode(tokenizer, [literal(tokenizer, answer) + END_OF_TURN for _, answer in tasks])
    for before, after in zip(prompts, answers, strict=True):
        ids.append(np.array([*before, *after]))
        weights.append(np.array([flow_weight] * len(before) + [1.0] * len(after), dtype=np.float32))
    return ids, weights


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _card(report: dict[str, Any], recipe: BaseRecipe, seed: int) -> str:
    return (
        "# Tiny Qwen2 base of iot_pipeline\n\n"
        f"A Qwen2 of {report['parameters']:,} parameters with its own tokenizer ({report['vocabulary']} tokens), made "
        "for demonstrations and tests. It was pre-trained on flow texts of the train pool WITHOUT their labels: the "
        "text itself, values to fill in, k-means groups of the flows to name, and answers true to the flow's values "
        "whose class name was drawn at random. It has never seen which flow belongs to which class, and it knows no "
        "language beyond that; it is no substitute for a real language model.\n\n"
        f"Seed {seed}; {report['distinct_flows']} distinct flows; {report['steps']} steps; {report['tokens']:,} "
        f"tokens; mean loss by tenth of the run: {', '.join(f'{loss:.2f}' for loss in report['losses'])}.\n\n"
        f"Recipe: `{json.dumps(asdict(recipe), sort_keys=True)}`\n"
    )


def cited_values(answer: str) -> list[tuple[int, int]]:
    """Return the character spans (start, end) of the KEY_INDICATORS values in an answer."""
    start = max(answer.find("KEY_INDICATORS:"), 0)
    return [match.span(1) for match in _CITED.finditer(answer, start)]


def measure_copying(model: Any, tokenizer: Any, answered: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Count copied values in true answers, `answered`: (flow text, answer), and all values cited there.

    A value is copied if each of its tokens is the model's likeliest. The model sees the true answer up to
    each token, so one slip does not spoil the rest.
    """
    import torch

    ids, places = [], []
    for flow, answer in answered:
        (before,) = encode(tokenizer, [prompt_text(tokenizer, flow)])
        read = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        ids.append(np.array([*before, *read["input_ids"]]))
        offsets = list(enumerate(read["offset_mapping"], start=len(before)))
        places.append(
            [
                [token for token, (left, right) in offsets if left < end and right > start]
                for start, end in cited_values(answer)
            ]
        )
    values = copied = 0
    with torch.inference_mode():
        for first in range(0, len(ids), ROWS):
            rows = torch.from_numpy(padded(ids[first : first + ROWS], pad_id(tokenizer)))
            guessed = model(input_ids=rows, use_cache=False).logits.argmax(dim=-1)
            right = (guessed[:, :-1] == rows[:, 1:]).tolist()
            for row, spans in zip(right, places[first : first + ROWS], strict=True):
                values += len(spans)
                copied += sum(all(row[token - 1] for token in span) for span in spans)
    return copied, values
