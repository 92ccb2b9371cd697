"""Copying circuit of the tiny base: attention weights that find a value by its name before any training."""

from collections import defaultdict
from typing import Any

# Tokens of one word (`orig_pkts`, `\norig_pkts:`) start with this cosine, so that a name finds its line.
LIKENESS = 0.97
NEAR = 0.02  # radians a token: slower rotary pairs tell what a token is, faster ones how far back it stands
SHARP = 6.0  # bias of the heads that read a fixed number of tokens back: 0.9 of their weight on one token
TOLD = 0.2  # what such a head writes: twice as much as the token's own embedding there
OWN = 3.0  # which is therefore read three times as strongly
COPIED = 0.6


def start_alike(table: Any, words: list[str]) -> None:
    """Move the embeddings `table` [tokens, hidden] of tokens that are one word, whatever surrounds it, together."""
    alike = defaultdict(list)
    for token, word in enumerate(words):
        body = word.strip().rstrip(":")
        if body[:1].isalpha():
            alike[body].append(token)
    for first, *others in alike.values():
        for token in others:
            table[token] = LIKENESS * table[first] + (1 - LIKENESS**2) ** 0.5 * table[token]


def start_copying(model: Any, seed: int) -> None:
    """Set the attention of the first two layers of a Qwen2 so that it copies values by their names.

        flow    \\norig_pkts:  _1  .99  7  _p43          answer   _orig_pkts  _1  .99
        layer 0 head h writes beside each token what stands h + 1 tokens back
        layer 1 head 0 looks for a token that follows the word just read; another for one that follows the last tokens
                       just read; both write the token they find

    The last head of layer 0, the heads of layer 1 in between and all later layers start at random. Training is free to
    change everything. A model of one layer or fewer than four heads has no room for the circuit and stays as it is.
    """
    import torch

    config, draw = model.config, torch.Generator().manual_seed(seed)
    if len(model.model.layers) == 1 or config.num_attention_heads < 4:
        return
    hidden, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    size, per_group = hidden // heads, heads // groups

    def rotation(width: int) -> Any:
        return torch.linalg.qr(torch.randn(width, width, generator=draw))[0]

    def of(number: int) -> slice:
        return slice(number * size, (number + 1) * size)

    pairs = config.rope_parameters["rope_theta"] ** (-2 * torch.arange(size // 2) / size)
    fast, slow = (pairs > NEAR).float() * SHARP, (pairs <= NEAR).float().repeat(2)[:, None]
    parts = rotation(hidden).split(size)  # of the hidden state: one that tokens are known by, one for each head's notes
    known, notes = parts[0], parts[1:]
    with torch.no_grad():
        first = model.model.layers[0]
        attention = first.self_attn
        for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.o_proj.weight[:, of(heads - 1)]):
            weight.mul_(0.3)
        first.mlp.down_proj.weight.mul_(0.2)
        for group in range(groups):
            attention.k_proj.bias[of(group)] = torch.cat([fast, torch.zeros_like(fast)])
            attention.v_proj.weight[of(group)] = known
        for head, note in enumerate(notes):
            back = pairs * (head + 1)
            attention.q_proj.bias[of(head)] = torch.cat([fast * back.cos(), -fast * back.sin()])
            attention.o_proj.weight[:, of(head)] = note.T * TOLD
        second = model.model.layers[1]
        attention = second.self_attn
        second.mlp.down_proj.weight.mul_(0.3)
        for group in range(groups):
            mixed = rotation(size)
            query, key = known * OWN * 1.5, notes[0] * 1.5
            if group:  # the tokens before the last one count, too
                turns = [torch.eye(size), *(rotation(size) for _ in notes[1:])]
                read = (known * OWN, *notes)
                query = sum(turn @ part for turn, part in zip(turns, read, strict=False))
                key = sum(turn @ note for turn, note in zip(turns, notes, strict=True))
            found = rotation(hidden)[:size]
            head = group * per_group
            attention.q_proj.weight[of(head)] = mixed @ query * slow
            attention.k_proj.weight[of(group)] = mixed @ key * slow
            attention.v_proj.weight[of(group)] = found
            attention.o_proj.weight[:, of(head)] = found.T * COPIED
