"""What a training says about its speed: operations, peaks, the parts of its time."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from iot_pipeline.training.metrics import Clock, count_parameters, mfu
from iot_pipeline.training.model import lora_config
from iot_pipeline.training.reporter import describe_progress


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GH200 480GB", 989e12),
    ],
)
def test_a_card_has_its_own_peak(name: str, peak: float) -> None:
    assert mfu(peak / 2, name) == 0.5


def test_a_card_of_unknown_peak_has_no_mfu() -> None:
    assert mfu(1e12, "cpu") is None and mfu(1e12, "NVIDIA L400") is None


def test_parts_of_the_time_are_apart() -> None:
    clock = Clock(SimpleNamespace(type="cpu"))
    with clock.part("train"), clock.computing():
        time.sleep(0.02)
    with clock.part("validation"):
        time.sleep(0.01)
    clock.collect()
    assert clock.seconds["train"] >= clock.computed >= 0.02
    assert clock.seconds["validation"] >= 0.01 and clock.seconds["checkpoint"] == 0.0


def test_progress_in_words_has_speed_mfu_memory_and_time_left() -> None:
    line = {
        "step": 3,
        "steps": 9,
        "loss": 1.5,
        "tokens_per_second": 1234.5,
        "mfu": 0.314,
        "memory_gib": 2.0,
        "learning_rate": 2e-4,
        "seconds_left": 7.0,
    }
    assert describe_progress(line) == (
        "step 3 of 9, loss 1.5000, 1,234 tokens/s, MFU 31.4%, 2.0 GiB, learning rate 2.00e-04, 7 s left"
    )
    assert describe_progress({"step": 1, "steps": 2, "loss": 0.5}) == "step 1 of 2, loss 0.5000"


def test_four_bit_weights_count_as_the_weights_they_stand_for() -> None:
    pytest.importorskip("bitsandbytes")
    import torch
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(64, 128, bias=False, quant_type="nf4")
    layer.load_state_dict({"weight": torch.randn(128, 64)})
    layer.to("cpu")  # packs them
    assert sum(parameter.numel() for parameter in layer.parameters()) == 64 * 128 // 2
    assert count_parameters(layer.parameters()) == 64 * 128


def test_qwen_1_5b_with_r_16_on_attention_trains_4358144_of_1548072448() -> None:
    import torch
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = get_peft_model(
            Qwen2ForCausalLM(config), lora_config(16, 32, 0.0, ["q_proj", "k_proj", "v_proj", "o_proj"])
        )
    assert count_parameters(p for p in model.parameters() if p.requires_grad) == 4_358_144
    assert count_parameters(model.parameters()) == 1_548_072_448
