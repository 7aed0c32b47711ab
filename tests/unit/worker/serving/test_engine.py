"""What the loop promises whatever rows it is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from worker.serving.errors import GenerationFailed, InvalidRequest, NotReady, QueueFull
from worker.serving.loading import Served
from worker.serving.lora import Adapter, Delta
from worker.serving.rows import FinishReason, Row
from worker.serving.sampling import Sampler, SamplingPlan
from worker.serving.schedule import Schedule
from worker.serving.text import AnswerText

Ask = Callable[..., list[Any]]


def _prompts(count: int, *, common: int = 20, longest: int = 30) -> list[list[int]]:
    """Prompts with a common beginning and ends of different length."""
    generator = torch.Generator().manual_seed(11)

    def draw(length: int) -> list[int]:
        tokens: list[int] = torch.randint(3, 250, (length,), generator=generator).tolist()
        return tokens

    start = draw(common)
    return [start + draw(1 + at % longest) for at in range(count)]


@torch.inference_mode()
def _greedy(model: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        token = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        if token in (0, 2):
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def test_batched_answers_equal_each_prompt_alone(
    served: Served, ask: Ask, reference: LlamaForCausalLM
) -> None:
    """Twenty prompts at once get, token for token, what transformers answers to each alone."""
    prompts = _prompts(20)
    answers = ask(served.engine, prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert [choice.token for choice in answer.tokens] == _greedy(reference, prompt, 12)


def test_log_probabilities_do_not_depend_on_the_batch(served: Served, ask: Ask) -> None:
    prompts = _prompts(12)
    together = ask(served.engine, prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = ask(served.engine, [prompt])
        assert [choice.token for choice in alone.tokens] == [choice.token for choice in answer.tokens]
        assert [choice.logprob for choice in alone.tokens] == pytest.approx(
            [choice.logprob for choice in answer.tokens], abs=1e-4
        )


def test_a_common_beginning_is_computed_once(served: Served, ask: Ask) -> None:
    prompts = _prompts(6, common=24)
    answers = ask(served.engine, prompts)
    assert [answer.last.cached_tokens for answer in answers] == [0, 24, 24, 24, 24, 24]


@pytest.mark.parametrize(
    "settings", [{"step_tokens": 16}, {"max_rows": 3}, {"max_rows": 64, "step_tokens": 4096}]
)
def test_answers_do_not_depend_on_how_steps_are_cut(
    served: Served, start: Callable[..., Served], ask: Ask, settings: dict[str, int]
) -> None:
    prompts = _prompts(10)
    other = start(**settings)
    wanted = [answer.text for answer in ask(served.engine, prompts)]
    assert [answer.text for answer in ask(other.engine, prompts)] == wanted


def test_rows_that_run_out_of_memory_wait_and_still_answer_the_same(
    served: Served, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for about two answers, eight rows push each other out and all come to their end."""
    prompts = _prompts(8, common=8, longest=60)
    plain = ask(served.engine, prompts, max_new_tokens=60)
    pool, schedule = served.engine._pool, served.engine._schedule
    assert pool.allocate(pool.available - 26) is not None
    pushed_out = []
    preempt = Schedule._preempt

    def counted(schedule: Schedule, row: Row) -> None:
        pushed_out.append(row)
        preempt(schedule, row)

    monkeypatch.setattr(Schedule, "_preempt", counted)
    crowded = ask(served.engine, prompts, max_new_tokens=60)
    assert pushed_out
    assert not schedule.running
    assert [answer.text for answer in crowded] == [answer.text for answer in plain]


def test_a_seed_gives_the_same_text_alone_and_in_company(served: Served, ask: Ask) -> None:
    plan = SamplingPlan(temperature=1.0, top_p=0.9, seed=7)
    prompts = _prompts(5)
    (alone,) = ask(served.engine, prompts[:1], plan=plan)
    company = ask(served.engine, prompts, plan=plan)
    assert alone.text == company[0].text


def test_the_end_reason_is_length_at_the_limit(served: Served, ask: Ask) -> None:
    (answer,) = ask(served.engine, _prompts(1), max_new_tokens=2)
    assert answer.last.finish_reason is FinishReason.length
    assert answer.last.generated_tokens == 2


def test_an_adapter_whose_output_is_not_a_number_fails_alone(served: Served, ask: Ask) -> None:
    """Its rows get an error; rows beside it and after it, in the memory it used, are as they would be."""
    decoder = served.engine.decoder
    huge = torch.full((decoder.shape.hidden, 1), 1e30)
    deltas = [{"o": Delta(down=huge, up=huge.T * 1e8)} for _ in range(decoder.shape.layers)]
    bad = Adapter(name="bad", digest="bad", deltas=deltas)
    prompts = _prompts(6)
    wanted = [answer.text for answer in ask(served.engine, prompts)]
    served.engine._pool.forget_all()
    mixed = ask(served.engine, prompts, adapters=[None, bad, None, bad, None, bad])
    assert [type(answer.error) for answer in mixed[1::2]] == [GenerationFailed] * 3
    assert [answer.text for answer in mixed[::2]] == wanted[::2]
    served.engine._pool.forget_all()
    assert [answer.text for answer in ask(served.engine, prompts)] == wanted


def test_a_full_queue_takes_all_of_a_request_or_none(
    start: Callable[..., Served], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start(max_rows=1, max_waiting=4)
    with pytest.raises(InvalidRequest):
        ask(served.engine, _prompts(5))
    going = threading.Event()
    step = type(served.engine.decoder).step
    monkeypatch.setattr(
        type(served.engine.decoder), "step", lambda *inputs: step(*inputs) if going.wait(30) else None
    )
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, served.engine, _prompts(3))
        while not served.engine._schedule.running:
            time.sleep(0.01)
        with pytest.raises(QueueFull):
            ask(served.engine, _prompts(3))
        second = pool.submit(ask, served.engine, _prompts(2))
        going.set()
        assert (len(first.result()), len(second.result())) == (3, 2)


def test_beginnings_are_not_shared_across_salts(served: Served, ask: Ask) -> None:
    """What one caller has asked can't be noticed by another who asks with a salt of its own."""
    prompts = _prompts(1, common=24)
    cached = [
        ask(served.engine, prompts, cache_salt=salt)[0].last.cached_tokens for salt in ("a", "b", "a", "")
    ]
    assert cached == [0, 0, 24, 0]


def test_a_cancelled_row_leaves_and_the_others_go_on(served: Served, ask: Ask) -> None:
    engine = served.engine
    started = threading.Event()
    heard: list[object] = []

    def sink(news: object) -> None:
        heard.append(news)
        started.set()

    row = Row(
        prompt_tokens=4,
        tokens=[5, 6, 7, 8],
        max_new_tokens=200,
        adapter=None,
        sampler=Sampler(SamplingPlan(temperature=1.0, seed=1, logit_bias={0: -100, 2: -100}), index=0),
        answer=AnswerText(served.vocabulary, ()),
        sink=sink,
    )
    engine.submit([row])
    assert started.wait(30)
    engine.cancel([row])
    ask(engine, _prompts(3))
    assert row not in engine._schedule.running
    assert len(heard) < 200


def test_a_step_that_fails_loses_its_rows_and_not_the_server(
    served: Served, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("worker.serving.engine.build_inputs", lambda *_: 1 / 0)
        (answer,) = ask(served.engine, _prompts(1))
    assert isinstance(answer.error, GenerationFailed)
    assert ask(served.engine, _prompts(1))[0].error is None


def test_a_stopped_engine_takes_no_more(served: Served, ask: Ask) -> None:
    served.engine.stop()
    with pytest.raises(NotReady):
        ask(served.engine, _prompts(1))


def test_an_adapter_changes_the_answer(served: Served, ask: Ask, put_adapter: Callable[..., Path]) -> None:
    put_adapter("one", 1)
    served.adapters.register("one", "one")
    prompts = _prompts(2)
    plain, tuned = ask(served.engine, [prompts[0]] * 2, adapters=[None, served.adapters.load("one")])
    assert plain.text != tuned.text
