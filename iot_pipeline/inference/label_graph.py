"""Label scoring as one graph of fixed tokens, for compilers: body, head rows and names in a single pass without cache.

All deeper prefixes of the label tree stand behind each prompt at once; each attends to the prompt and to its own
beginning alone. Padding comes last.

    tokens     p p p x y z -       names: x y ..., z ...     p: prompt, -: padding
    positions  0 1 2 3 4 3
    y reads    1 1 1 1 1 0 0
"""

from functools import partial
from typing import Any

import numpy as np

from iot_pipeline.inference.scoring import STOP, Prefix, Tree, onward
from iot_pipeline.models.last_layer import fits, layer_at_places


class Layout:
    """Places of a label tree's prefixes behind a prompt, and of their tokens in a graph's output."""

    def __init__(self, tree: Tree) -> None:
        self.prefixes: list[Prefix] = sorted(
            (prefix for prefix in tree if prefix), key=lambda prefix: (len(prefix), prefix)
        )
        self.tokens = [prefix[-1] for prefix in self.prefixes]
        self.depths = [len(prefix) - 1 for prefix in self.prefixes]
        self.reads = np.array([[own[: len(other)] == other for other in self.prefixes] for own in self.prefixes], bool)
        self.onward: list[tuple[Prefix, list[int]]] = [
            (prefix, onward(tree[prefix])) for prefix in [(), *self.prefixes]
        ]
        self.root_normalised = STOP in tree[()]

    def rows(self, ids: list[list[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids, int64 [rows, width], and the lengths of the prompts, int64 [rows]."""
        whole = [row + self.tokens for row in ids]
        width = max(map(len, whole))
        return np.array([row + [pad] * (width - len(row)) for row in whole]), np.array([len(row) for row in ids])

    def split(self, logs: np.ndarray) -> dict[Prefix, np.ndarray]:
        """Split a graph's output [rows, tokens of all prefixes] by prefix, as float64."""
        ends = np.cumsum([len(tokens) for _, tokens in self.onward])[:-1]
        parts = np.split(logs.astype(np.float64), ends, axis=1)
        return {prefix: part for (prefix, _), part in zip(self.onward, parts, strict=True)}


def label_graph(model: Any, layout: Layout) -> Any:
    """Return a torch module: (token ids [rows, width], lengths of prompts [rows]) -> (logs, states).

    logs: of `layout.onward` in turn, float32 [rows, tokens]. states: what the head reads at the label, [rows, hidden].
    `model`: a merged transformers model on the CPU.
    """
    import torch

    body, head = getattr(model, model.base_model_prefix), model.get_output_embeddings()
    short = not layout.prefixes and fits(body)  # then the last layer computes one position

    class LabelGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, head
            root = torch.tensor(layout.onward[0][1])
            self.rows = torch.nn.Parameter(head.weight[root].detach().clone(), requires_grad=False)
            self.bias = None if head.bias is None else torch.nn.Parameter(head.bias[root].detach(), requires_grad=False)

        def forward(self, ids: Any, lengths: Any) -> Any:
            mask, positions = _mask(layout, ids, lengths)
            places = lengths[:, None] - 1 + torch.arange(1 + len(layout.prefixes))
            hidden = self._read(ids, mask, positions, places)
            logs = [torch.nn.functional.linear(hidden[:, 0], self.rows, self.bias)]
            if layout.root_normalised:
                logs = [logs[0] - self.head(hidden[:, 0]).logsumexp(-1, keepdim=True)]
            for place, (_, tokens) in enumerate(layout.onward[1:], 1):
                whole = self.head(hidden[:, place])
                logs.append(whole[:, torch.tensor(tokens)] - whole.logsumexp(-1, keepdim=True))
            return torch.cat(logs, dim=1), hidden[:, 0]

        def _read(self, ids: Any, mask: Any, positions: Any, places: Any) -> Any:
            call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
            if not short:
                read = self.body(**call).last_hidden_state
                return read.gather(1, places[:, :, None].expand(-1, -1, read.shape[-1]))
            last = self.body.layers[-1]
            last.forward = partial(layer_at_places, last, places)
            try:
                return self.body(**call).last_hidden_state
            finally:
                del last.forward

    return LabelGraph().eval()


def _mask(layout: Layout, ids: Any, lengths: Any) -> tuple[Any, Any]:
    """Return what each position reads, bool [rows or 1, 1, width, width], and positions [rows or 1, width]."""
    import torch

    place = torch.arange(ids.shape[1])
    before = place[None, :] <= place[:, None]
    if not layout.prefixes:
        return before[None, None], place[None]
    node = place[None, :] - lengths[:, None]  # 0 is the first prefix behind the prompt
    known = node.clamp(0, len(layout.prefixes) - 1)
    behind = node >= 0
    reads = torch.from_numpy(layout.reads)[known[:, :, None], known[:, None, :]]
    inside = behind[:, :, None] & behind[:, None, :] & reads
    mask = before[None] & (~behind[:, None, :] | inside)
    positions = torch.where(behind, lengths[:, None] + torch.tensor(layout.depths)[known], place[None])
    return mask[:, None], positions
