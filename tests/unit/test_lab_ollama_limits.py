"""The simulated Ollama server's limits: context, queue, speed, memory, and the size of the log."""

import json
import threading
import time
from contextlib import ExitStack

import pytest

from provision.lab.simulated import ollama_api, ollama_errors, ollama_lab, ollama_runner, ollama_store
from tests.unit.test_lab_ollama import MODEL, ask, frames, load, pulled, server

__all__ = ["pulled", "server"]
OTHER = "deepseek-r1:7b"


def always() -> bool:
    """Return that the client is there."""
    return True


def knobs(**values: float) -> None:
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps({"tokens_per_second": 2000, "load_seconds": 0, **values}))


def chat(server, *texts: str, **more):
    messages = [{"role": "user", "content": text} for text in texts]
    status, _, text = ask(server, "POST", "/api/chat", {"model": MODEL, "messages": messages, "stream": False, **more})
    return status, json.loads(text)


# -- context


def test_a_prompt_longer_than_the_context_is_cut(pulled, monkeypatch):
    monkeypatch.setenv("OLLAMA_CONTEXT_LENGTH", "64")
    body = {"model": MODEL, "prompt": "word " * 3000, "options": {"num_predict": 1}}
    assert frames(pulled, "/api/generate", body)[-1]["prompt_eval_count"] == 64


def test_a_message_longer_than_the_context_is_refused_and_old_messages_are_dropped(pulled):
    options = {"num_ctx": 64, "num_predict": 1}
    status, answer = chat(pulled, "word " * 100, options=options)
    assert (status, json.loads(answer["error"])["error"]["type"]) == (400, "exceed_context_size_error")
    assert chat(pulled, "word " * 100, "word", options=options)[0] == 200
    assert chat(pulled, "word " * 100, "word", options=options, truncate=False)[0] == 400


# -- tokens


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (6, 6), (8, 8), (0, 22), (-1, 22)])
def test_the_limit_counts_the_tokens_of_thinking_and_zero_is_no_limit(pulled, limit, count):
    body = {"model": MODEL, "prompt": "1", "options": {"num_predict": limit}}
    *tokens, last = frames(pulled, "/api/generate", body)
    assert (len(tokens), last["eval_count"]) == (count, count)
    assert last["done_reason"] == ("length" if limit > 0 else "stop")
    assert "".join(token["response"] for token in tokens).startswith("This answer" if count > 7 else "")


def test_an_answer_of_generate_has_a_context_and_the_same_each_time(pulled):
    body = {"model": MODEL, "prompt": "1 2 3", "stream": False, "options": {"num_predict": 2}}
    one, two = (json.loads(ask(pulled, "POST", "/api/generate", body)[2])["context"] for _ in range(2))
    assert one == two
    assert len(one) == 5
    assert "context" not in json.loads(ask(pulled, "POST", "/api/generate", {**body, "raw": True})[2])


def test_an_answer_in_json_is_json(pulled):
    _, answer = chat(pulled, "1 2", format="json", think=False)
    assert json.loads(answer["message"]["content"])["simulated"].endswith("Words asked: 2.")
    _, answer = chat(pulled, "1 2", format={"type": "object"}, options={"num_predict": 7})
    assert answer["message"]["content"] == '{"simulated":"This'


# -- scheduler


def test_names_with_the_same_weights_share_a_place(pulled):
    ask(pulled, "POST", "/api/copy", {"source": MODEL, "destination": "mine"})
    for name in (MODEL, "mine"):
        load(pulled, model=name)
    (running,) = json.loads(ask(pulled, "GET", "/api/ps")[2])["models"]
    assert running["name"] == MODEL
    assert load(pulled, model="mine", keep_alive=0)["done_reason"] == "unload"
    assert json.loads(ask(pulled, "GET", "/api/ps")[2]) == {"models": []}


def test_names_are_found_in_any_case_of_letters(pulled):
    assert load(pulled, model="DeepSeek-R1:1.5B")["model"] == "DeepSeek-R1:1.5B"
    ask(pulled, "DELETE", "/api/delete", {"model": "DEEPSEEK-R1:1.5B"})
    assert json.loads(ask(pulled, "GET", "/api/tags")[2]) == {"models": []}


def test_a_preload_does_not_wait_for_a_slot(pulled):
    load(pulled)
    (loaded,) = ollama_api.Handler.scheduler.running()
    with loaded.slots.held(always):
        assert load(pulled)["done_reason"] == "load"


@pytest.mark.parametrize(("busy", "let_in"), [(False, 1), (True, 2)])
def test_the_queue_for_another_model_holds_one_more_than_its_number(pulled, monkeypatch, busy, let_in):
    """Behind a model that loads, the scheduler waits for the load; else the scheduler itself holds a request."""
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "1")
    monkeypatch.setenv("OLLAMA_MAX_LOADED_MODELS", "1")
    frames(pulled, "/api/pull", {"model": OTHER})
    scheduler, one, other = ollama_runner.Scheduler(), ollama_store.find(MODEL), ollama_store.find(OTHER)
    full, left, ended = threading.Semaphore(0), threading.Event(), []

    def use(model):
        try:
            with scheduler.use(model, None, None, lambda: model is other or not left.is_set()):
                ended.append("in")
        except ollama_errors.BusyError:
            ended.append("full")
            full.release()
        except ollama_errors.GoneError:
            ended.append("left")

    threads = [threading.Thread(target=use, args=(other,)) for _ in range(4)]
    with ExitStack() as stack:
        if busy:
            stack.enter_context(scheduler.use(one, None, None, always))
        else:
            knobs(load_seconds=1000)
            threads.append(threading.Thread(target=use, args=(one,)))
            threads[-1].start()
            while not any(pulled.usage.iterdir()):
                time.sleep(0.01)
        for thread in threads[:4]:
            thread.start()
        for _ in range(4 - let_in):
            full.acquire()
        left.set()
        knobs(load_seconds=0)
    for thread in threads:
        thread.join()
    assert (ended.count("full"), ended.count("in")) == (4 - let_in, let_in)


def test_an_answer_begins_when_its_request_has_a_slot(pulled, capfd):
    load(pulled)
    (loaded,) = ollama_api.Handler.scheduler.running()
    answers = ollama_api.Handler.answers.generate({"model": MODEL, "prompt": "1"}, lambda: False, chat=False)
    with loaded.slots.held(always), pytest.raises(ollama_errors.GoneError):
        next(answers)
    assert "generation begins" not in capfd.readouterr().err


# -- speed


def test_answers_at_once_share_the_speed_unless_a_knob_says_no(server):
    scheduler = ollama_runner.Scheduler()
    assert scheduler.slowness() == 1
    with scheduler.streaming(), scheduler.streaming():
        assert scheduler.slowness() == 2
        knobs(shared_speed=0)
        assert scheduler.slowness() == 1


def test_an_answer_beside_another_takes_at_least_twice_the_pauses(pulled):
    load(pulled)
    knobs(tokens_per_second=200)
    with ollama_api.Handler.scheduler.streaming():
        last = frames(pulled, "/api/generate", {"model": MODEL, "prompt": "1", "options": {"num_predict": 5}})[-1]
    assert last["eval_duration"] >= 5 * 2 * 10**9 // 200


# -- log


@pytest.mark.parametrize(("knob", "lines"), [({}, 24), ({"log_lines_per_request": 0}, 0)])
def test_a_request_writes_many_lines(pulled, capfd, knob, lines):
    load(pulled)
    knobs(**knob)
    capfd.readouterr()
    frames(pulled, "/api/generate", {"model": MODEL, "prompt": "a private question", "options": {"num_predict": 1}})
    log = capfd.readouterr().err
    assert sum(line.startswith("simulated: s") for line in log.splitlines()) == lines
    assert "private" not in log


@pytest.mark.parametrize(("cards", "said", "unsaid"), [(1, "offloaded 29/29", "CPU_"), (0, "CPU_Mapped", "offloaded")])
def test_a_load_logs_where_the_model_is(pulled, tmp_path, capfd, cards, said, unsaid):
    if not cards:
        (tmp_path / "container.json").unlink()
    capfd.readouterr()
    load(pulled)
    log = capfd.readouterr().err
    assert said in log
    assert unsaid not in log
    assert len(log.splitlines()) > 200
