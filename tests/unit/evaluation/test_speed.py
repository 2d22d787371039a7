"""How fast encoders are: latencies and throughputs that take turns, and texts no longer than a model takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distillkit.evaluation import speed
from tests.faults.harness import make_bert
from tests.parity.models import tiny_model


def test_latency_takes_no_longer_than_promised_when_a_model_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.setattr(speed, "_seconds", lambda call: taken.append(0.5) or 0.5)
    found = speed.latency({"model": make_bert()})["model"]
    assert speed.BLOCKS < found["rounds"] < speed.ROUNDS
    assert sum(taken[speed.WARM_UP :]) == speed.SECONDS_PER_MODEL


def test_summary_is_of_the_order_statistics_when_times_are_known() -> None:
    found = speed._summary([*[10.0] * 90, *[12.0] * 10])
    assert found["median"] == 10 and found["p95"] == 12 and found["spread"] == pytest.approx(0.2)


@pytest.mark.parametrize(("model_type", "tokens"), [("bert", 40), ("roberta", 39), ("modernbert", 40), ("albert", 40)])
def test_text_is_as_long_as_the_model_takes_when_it_has_few_positions(model_type: str, tokens: int) -> None:
    call, found = speed.encoder_call(tiny_model(model_type), 3, 384)
    assert found == tokens and call().shape == (3, tokens, 32)
    assert speed.encoder_call(tiny_model(model_type), 3, 8)[1] == 8


def test_latency_is_of_one_length_for_all_when_a_model_has_few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_seconds", lambda call: 0.001 * call().shape[1])
    models = {"short": make_bert(), "long": make_bert(max_position_embeddings=512)}
    found = speed.latency(models, rounds=10)
    assert [each["length"] for each in found.values()] == [64, 64]
    assert [each["median"] for each in found.values()] == [64, 64], "one of them read more than it says"


def test_throughput_is_in_texts_a_second_at_each_length_when_positions_allow_it() -> None:
    models = {"short": make_bert(), "long": make_bert(max_position_embeddings=512, num_hidden_layers=1)}
    found = speed.throughput(models, batch=4)
    assert {name: [*each["throughput"]] for name, each in found.items()} == {
        "short": ["32", "64"], "long": ["32", "128", "384"],
    }  # fmt: skip
    rates = found["long"]["throughput"]
    assert rates["32"] > rates["128"] > rates["384"] > 0
    shape = {"throughput_batch": 4, "throughput_threads": torch.get_num_threads()}
    assert all(each.items() >= shape.items() for each in found.values())


def test_throughput_gives_slow_models_fewer_turns_when_they_take_them_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"quick": 0.01, "slow": 0.5, "slowest": 60.0}
    order: list[str] = []

    def seconds(call: Callable[[], Any]) -> float:
        order.append(call())
        return costs[order[-1]] * (100 if Counter(order)[order[-1]] % 5 == 0 else 1)  # a hiccup now and then

    monkeypatch.setattr(speed, "_seconds", seconds)
    monkeypatch.setattr(speed, "encoder_call", lambda name, batch, length: (lambda: name, length))
    found = speed.throughput({name: name for name in costs}, lengths=[32], batch=16)  # type: ignore[dict-item]
    fewest, most = speed.BATCH_ROUNDS
    fitting = int(speed.SECONDS_PER_LENGTH / costs["slow"])
    assert fewest < fitting < most
    assert Counter(order[2 * len(costs) :]) == {"quick": most, "slow": fitting, "slowest": fewest}
    assert order[2 * len(costs) :][:7] == ["quick", "slow", "slowest"] * 2 + ["quick"]
    assert {name: each["throughput"]["32"] for name, each in found.items()} == pytest.approx(
        {name: 16 / cost for name, cost in costs.items()}
    )
