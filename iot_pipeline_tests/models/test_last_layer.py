"""The last layer at chosen places gives what the whole layer gives there, forward and backward."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.models import last_layer
from iot_pipeline.models.last_layer import chosen_places, hidden_at
from iot_pipeline_tests.tiny_model import make_base


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Decoder of a tiny Qwen2."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(make_base(tmp_path_factory.mktemp("last") / "base")).model


masks = st.integers(1, 4).flatmap(
    lambda rows: st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=rows, max_size=rows)
)


@settings(max_examples=30, deadline=None)
@given(masks)
def test_states_and_gradients_are_those_of_the_whole_layer(body: Any, mask: list[list[bool]]) -> None:
    import torch

    chosen = torch.tensor(mask)
    ids = torch.randint(5, 50, chosen.shape, generator=torch.Generator().manual_seed(3))

    def states(whole: bool) -> tuple[Any, Any]:
        body.zero_grad()
        found = body(input_ids=ids).last_hidden_state[chosen] if whole else hidden_at(body, ids, chosen)
        found.square().sum().backward()
        # Without a chosen place there is no gradient in one of the two ways, and zeros in the other.
        grads = [torch.zeros(1) if part.grad is None else part.grad.flatten() for part in body.parameters()]
        return found.detach(), grads

    (whole, expected), (part, found) = states(True), states(False)
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)
    if chosen.any():
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=1e-3, rtol=1e-3)


def test_only_chosen_places_reach_the_last_layers_mlp(body: Any) -> None:
    import torch

    seen: list[Any] = []
    hook = body.layers[-1].mlp.register_forward_hook(lambda _layer, given, _made: seen.append(given[0].shape))
    chosen = torch.zeros((3, 20), dtype=torch.bool)
    chosen[0, 4] = chosen[1, 19] = chosen[2, 0] = chosen[2, 7] = True
    hidden_at(body, torch.full((3, 20), 7), chosen)
    hook.remove()
    assert [tuple(shape[:2]) for shape in seen] == [(3, 2)]
    assert "forward" not in vars(body.layers[-1])


def test_places_come_in_order_and_rows_without_one_are_padded() -> None:
    import torch

    places, real = chosen_places(torch.tensor([[False, True, False, True], [False, False, True, False], [False] * 4]))
    assert real.tolist() == [[True, True], [True, False], [False, False]]
    assert places[0].tolist() == [1, 3] and places[1][0] == 2


@pytest.mark.parametrize("why", ["many layers", "a window", "checkpointing"])
def test_other_models_compute_the_whole_layer(body: Any, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert last_layer.fits(body) and not last_layer.fits(SimpleNamespace(layers=[torch.nn.Linear(2, 2)]))
    if why == "many layers":
        monkeypatch.setattr(last_layer, "MOST_LAYERS", len(body.layers) - 1)
    elif why == "a window":
        monkeypatch.setattr(body.layers[-1].self_attn, "sliding_window", 4)
    else:
        monkeypatch.setattr(body, "gradient_checkpointing", True, raising=False)
    assert not last_layer.fits(body)
