"""The simulator: definitions of the features hold, the published shape and counts, same seed same bytes."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.quality.profile import flow_profile
from iot_pipeline.simulator.classes import FARM_FLOW
from iot_pipeline.simulator.packets import Conversation, Draw, Packet, class_features, measure, shares
from iot_pipeline.simulator.simulate import DECIMALS, LABEL, class_rows, generator, simulate_farm_flow

SPEC, EIGHT = load_spec("farm_flow"), load_spec("farm_flow_8")


def test_a_lone_syn_has_no_duration_and_no_rates() -> None:
    found = measure(Conversation(1.0, (Packet(True, 20),)), 1, generator(1, 1))
    assert set(found) == set(SPEC.feature_names)
    nonzero = {name: float(value[0]) for name, value in found.items() if value[0] != 0}
    assert nonzero == {
        "orig_pkts": 1.0,
        "orig_ip_bytes": 40.0,
        "fwd_header_size_tot": 20.0,
        "fwd_header_size_min": 20.0,
        "fwd_header_size_max": 20.0,
        "pkts_difference": 1.0,
    }


def test_features_follow_their_definitions() -> None:
    fixed = (
        Packet(True, 40),
        Packet(False, 32, gap=Draw(100, 100)),
        Packet(True, 20, Draw(10, 10), Draw(300, 300)),
        Packet(True, 20, Draw(30, 30), Draw(600, 600)),
    )
    found = {name: float(value[0]) for name, value in measure(Conversation(1.0, fixed), 1, generator(1, 1)).items()}
    assert found["orig_ip_bytes"] == 40 + 20 + 20 + 40 + 3 * 20
    assert found["resp_ip_bytes"] == 52
    assert (found["flow_iat.tot"], found["fwd_iat.tot"], found["bwd_iat.tot"]) == (1000, 1000, 0)
    assert (found["fwd_iat.avg"], found["flow_iat.avg"]) == (500, pytest.approx(1000 / 3))
    assert (found["fwd_pkts_per_sec"], found["flow_pkts_per_sec"]) == (pytest.approx(3000), pytest.approx(4000))
    assert found["down_up_ratio"] == pytest.approx(1 / 3)
    assert (found["fwd_header_size_tot"], found["fwd_header_size_min"], found["fwd_header_size_max"]) == (80, 20, 40)
    assert (found["pkts_difference"], found["data_pkts_difference"]) == (2, 2)
    assert found["flow_pkts_payload.avg"] == 10


def assert_identities(flow: pd.DataFrame, half: dict[str, float]) -> None:
    """What the definitions say of features in raw units, each known to `half` a step (0: exactly)."""
    tiny = 1e-9

    def same(left: pd.Series, right: pd.Series, slack: pd.Series | float) -> None:
        assert ((left - right).abs() <= slack + tiny * (1 + right.abs())).all()

    counts = {side: flow[f"{side}_pkts"].round() for side in ("orig", "resp")}
    both = counts["orig"] + counts["resp"]
    for side, count in counts.items():
        same(flow[f"{side}_pkts"], count, half[f"{side}_pkts"])
    duration, moved = flow["flow_iat.tot"], half["flow_iat.tot"]
    for way, packets in (("fwd", counts["orig"]), ("bwd", counts["resp"]), ("flow", both)):
        total, mean = f"{way}_pkts_payload.tot", f"{way}_pkts_payload.avg"
        same(flow[mean] * packets.clip(lower=1), flow[total], half[mean] * packets + half[total])
        total, mean = f"{way}_iat.tot", f"{way}_iat.avg"
        gaps = (packets - 1).clip(lower=1)
        same(flow[mean] * gaps, flow[total], half[mean] * gaps + half[total])
        assert (flow[total] <= duration + half[total] + moved + tiny).all()
        rate = flow[name := f"{way}_pkts_per_sec"]
        slack = (rate * moved + (duration + moved) * half[name]) / 1e6
        same(rate * duration / 1e6, packets * (duration > moved), slack)
    for kind in ("pkts_payload.tot", "pkts_per_sec"):
        names = [f"{way}_{kind}" for way in ("fwd", "bwd", "flow")]
        same(flow[names[0]] + flow[names[1]], flow[names[2]], sum(half[name] for name in names))
    same(flow["pkts_difference"], counts["orig"] - counts["resp"], half["pkts_difference"])
    assert (flow["data_pkts_difference"].abs() <= both + half["data_pkts_difference"]).all()
    same(flow["down_up_ratio"] * counts["orig"], counts["resp"], half["down_up_ratio"] * counts["orig"])
    for way, side in (("fwd", "orig"), ("bwd", "resp")):
        size, payload, headers = f"{side}_ip_bytes", f"{way}_pkts_payload.tot", f"{way}_header_size_tot"
        slack = half[size] + half[payload] + half[headers]
        same(flow[size], flow[payload] + flow[headers] + 20 * counts[side], slack)
        low, high = f"{way}_header_size_min", f"{way}_header_size_max"
        assert (flow[low] <= flow[high] + half[low] + half[high] + tiny).all()
        assert (flow[headers] >= flow[high] - half[headers] - half[high] - tiny).all()
        assert (flow[headers] <= (flow[high] + half[high]) * counts[side] + half[headers] + tiny).all()
    alone = both == 1
    for name in ("flow_pkts_per_sec", "flow_iat.tot"):
        assert (flow.loc[alone, name].abs() <= half[name] + tiny).all()


@pytest.mark.parametrize("name", list(FARM_FLOW))
def test_identities_hold_in_every_class(name: str) -> None:
    values = class_features(FARM_FLOW[name], 4000, generator(3, 3), SPEC.feature_names)
    assert_identities(pd.DataFrame(values, columns=SPEC.feature_names), dict.fromkeys(SPEC.feature_names, 0.0))


def test_shares_of_each_class_sum_to_one() -> None:
    assert {name: round(sum(kind.share for kind in kinds), 9) for name, kinds in FARM_FLOW.items()} == dict.fromkeys(
        EIGHT.classes, 1.0
    )
    assert shares([0.5, 0.25, 0.25], 7) == [4, 2, 1] or sum(shares([0.5, 0.25, 0.25], 7)) == 7


def test_class_counts_at_any_size() -> None:
    assert class_rows(SPEC, 347_685) == SPEC.facts["class_rows"]
    assert class_rows(EIGHT, 405_296) == EIGHT.facts["class_rows"]
    assert class_rows(SPEC, 7) == dict.fromkeys(SPEC.classes, 1)
    assert sum(class_rows(SPEC, 12_345).values()) == 12_345
    with pytest.raises(UserError, match="at least 7"):
        class_rows(SPEC, 6)


def test_the_published_shape_and_the_same_bytes(tmp_path: Path) -> None:
    report = simulate_farm_flow(tmp_path / "a.parquet", rows=5_000)
    values = pd.read_parquet(tmp_path / "a.parquet").to_numpy("<f8").tobytes()
    # Of the values, not of the file: the writer of Parquet puts its own version into that.
    assert hashlib.sha256(values).hexdigest() == "69929532cc79ba2bdac36f7f7bd8add96591bfc79a244cfc038672075ce9a38e"
    simulate_farm_flow(tmp_path / "b.parquet", rows=5_000)
    simulate_farm_flow(tmp_path / "c.parquet", rows=5_000, seed=43)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (tmp_path / "a.parquet").read_bytes() != (tmp_path / "c.parquet").read_bytes()
    assert report.label == LABEL and "SIMULATED" in LABEL
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table.columns.tolist() == report.columns == [*SPEC.feature_names, "is_attack", "traffic"]
    assert ((table.traffic > 0) == (table.is_attack == 1)).all()
    rates = table[[name for name in table if name.endswith("per_sec")]]
    assert rates.min(axis=None) >= 0 and rates.max(axis=None) <= 1
    assert (table[SPEC.feature_names].round(6) == table[SPEC.feature_names]).all(axis=None)


def test_the_lone_syn_is_the_same_flow_under_four_labels(tmp_path: Path) -> None:
    simulate_farm_flow(tmp_path / "a.parquet", rows=5_000)
    table = pd.read_parquet(tmp_path / "a.parquet")
    labels = table.groupby(SPEC.feature_names).traffic.unique()
    lone = max(labels, key=len)
    assert sorted(SPEC.label_of(code) for code in lone) == ["HTTP_Flood", "MQTT_Flood", "Port_Scanning", "TCP_Flood"]


def test_the_edition_of_eight_classes(tmp_path: Path) -> None:
    report = simulate_farm_flow(tmp_path / "eight.parquet", edition="farm_flow_8")
    assert report.rows_by_class == EIGHT.facts["class_rows"] and report.rows == 405_296
    table = pd.read_parquet(tmp_path / "eight.parquet")
    assert table.traffic.value_counts().to_dict() == {0: 2_019} | dict.fromkeys((1, 2, 3, 4, 5, 6, 7), 57_611)
    bots = table[table.traffic == 2]
    for name, (_, median, _) in EIGHT.facts["quartiles"]["BotNet_DDOS"].items():
        assert bots[name].median() == pytest.approx(median, abs=6e-5), name
    # The SYN that nobody answers is the bots' too, and they do more than that.
    sizes = bots.groupby(SPEC.feature_names).size()
    assert sizes.max() == pytest.approx(0.62 * 57_611, abs=1)
    lone = (table[SPEC.feature_names] == list(sizes.idxmax())).all(axis=1)
    assert {SPEC.label_of(code) or "" for code in table.traffic[lone].unique()} == {
        "BotNet_DDOS", "HTTP_Flood", "MQTT_Flood", "Port_Scanning", "TCP_Flood"
    }  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table at its published size."""
    path = tmp_path_factory.mktemp("full") / "full.parquet"
    simulate_farm_flow(path)
    return pd.read_parquet(path)


def test_full_size_has_the_same_values_on_every_machine(full: pd.DataFrame) -> None:
    # Whole steps of the last published digit: what a last bit of a double would change is no difference.
    steps = np.rint(full.to_numpy() * 10**DECIMALS).astype("<i8")
    assert steps.shape == (347_685, 31)
    digest = hashlib.sha256(steps.tobytes()).hexdigest()
    assert digest == "f8a8dcae19662f28b1db452f5c4beb79763469e6ef8fe35a4ecda08f589e6236"


def test_identities_hold_in_the_published_table_too(full: pd.DataFrame) -> None:
    scales = {feature.name: feature.scale for feature in SPEC.features if feature.scale is not None}
    raw = pd.DataFrame({name: scale.to_raw(full[name]) for name, scale in scales.items()})
    half = {name: 0.51 * 10**-DECIMALS * scale.width for name, scale in scales.items()}
    assert_identities(raw, half)


def test_the_profile_recovers_the_seven_published_scales(full: pd.DataFrame, tmp_path: Path) -> None:
    known = SPEC.facts["recovered_scales"]
    spec = SPEC.model_copy(update={"features": [feature for feature in SPEC.features if feature.name in known]})
    labels = full["traffic"].map({float(code): name for code, name in SPEC.labels.items()})
    full[[*known]].assign(label=labels).to_parquet(tmp_path / "flows.parquet")
    scales = flow_profile(tmp_path / "flows.parquet", spec)[0]["scales"]
    # A grid knows its step in raw units (1 packet, 1 byte, 4 bytes of header) and the least raw value by their nature.
    steps = {"fwd_header_size_max": (4, 8), "bwd_header_size_max": (4, 0), "orig_pkts": (1, 1), "resp_pkts": (1, 0),
             "orig_ip_bytes": (1, 28), "resp_ip_bytes": (1, 0), "pkts_difference": (1, -2)}  # fmt: skip
    assert set(scales) == set(steps) == set(known)
    for name, (unit, least) in steps.items():
        found = scales[name]["recovered"]
        assert scales[name]["agrees"] and found["share_on_grid"] == 1.0, name
        assert unit * found["std_in_steps"] == pytest.approx(known[name]["std"], rel=1e-4), name
        mean = least + unit * found["mean_in_steps_if_minimum_is_0"]
        assert mean == pytest.approx(known[name]["mean"], abs=1e-4 * known[name]["std"]), name


def test_full_size_has_the_published_duplicates(full: pd.DataFrame) -> None:
    table = full
    facts = SPEC.facts["duplicates"]
    assert table.duplicated(SPEC.feature_names).mean() == pytest.approx(facts["share"], abs=0.0025)
    for code, rows in table.groupby("traffic"):
        name = SPEC.label_of(code)
        assert rows.duplicated(SPEC.feature_names).mean() == pytest.approx(facts["by_class"][name], abs=0.015), name


def quantum(feature: str) -> float:
    """The smallest step of a feature, raw units; of a rate, the last digit that is published."""
    if feature.endswith("header_size_max"):
        return 4.0
    scale = SPEC.features[SPEC.feature_names.index(feature)].scale
    assert scale is not None
    return 1e-4 * scale.width if feature.endswith("per_sec") else 1.0


def test_full_size_has_the_published_quartiles_within_one_quantum(full: pd.DataFrame) -> None:
    off = {}
    for name, features in SPEC.facts["quartiles"].items():
        code = next(code for code, label in SPEC.labels.items() if label == name)
        rows = full[full.traffic == code]
        for feature, published in features.items() if len(rows) else ():
            scale = SPEC.features[SPEC.feature_names.index(feature)].scale
            assert scale is not None
            for share, value in zip((0.25, 0.5, 0.75), published, strict=True):
                # 0.6 of the last published digit: values are rounded on both sides.
                away = 0.0 if value is None else abs(rows[feature].quantile(share) - value) - 0.6e-4
                if away * scale.width > quantum(feature):
                    off[name, feature, share] = round(away * scale.width, 1)
    # An answer of one packet has its header and 20 bytes: with 40 bytes of header, which are published, it cannot have
    # the 52 bytes that are published too. The simulator stands between: 36 and 56.
    assert off == {("Arp_Spoofing", "resp_ip_bytes", 0.75): 4.0}
