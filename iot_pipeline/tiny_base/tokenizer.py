"""Tokeniser of the tiny base: byte-level BPE whose tokens can be whole values, names and percentile marks."""

from collections.abc import Iterable, Sequence
from typing import Any

from iot_pipeline.models.tokenizer import END_OF_TURN, START_OF_TURN

# Qwen2.5's turns without its default system sentence, which would cost 20 tokens a row for nothing.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# BPE never merges across these borders, so that a line's name, value or percentile can become one token.
PIECES = (
    r"\n?[A-Za-z_][\w.]*:|\n[A-Za-z_][\w.]*"
    r"| ?-?(?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"
    r"| ?[A-Za-z_][\w]*(?:\.[a-z]+)?| ?[^\s\w]+|\s+"
)


def build_tokenizer(texts: Iterable[str], words: Sequence[str], vocabulary: int) -> Any:
    """Train a tokeniser (PreTrainedTokenizerFast) of `vocabulary` tokens on `texts`; `words` always become tokens.

    Every byte is a token, so any text is decoded exactly as it was encoded.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", START_OF_TURN, END_OF_TURN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Repeated 200 times, a word wins its merges against any value.
    insisted = [" ".join([word] * 200) for word in words]
    core.train_from_iterator([*texts, *insisted], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token=END_OF_TURN,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1_000_000,
        clean_up_tokenization_spaces=False,
    )
