"""The API as its users reach it: the `openai` package, unchanged, against a tiny model with recorded answers."""

import openai
import pytest

from skein_server import MODEL, expected

ORACLE = expected(MODEL)["prompts"]
GREEDY = {"temperature": 0, "max_tokens": 16}
IDS = {"ignore_eos": True, "return_token_ids": True}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def complete(client, prompt, extra=None, **fields):
    return client.completions.create(model=MODEL, prompt=prompt, extra_body=IDS | (extra or {}), **GREEDY | fields)


def tokens_of(choice):
    return choice.model_extra["token_ids"]


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize("record", ORACLE, ids=lambda record: f"{len(record['tokens'])} tokens")
def test_greedy_tokens_are_those_of_transformers(client, record):
    answer = complete(client, record["tokens"], logprobs=0)
    assert tokens_of(answer.choices[0]) == record["greedy"]["tokens"]
    assert answer.choices[0].logprobs.token_logprobs == pytest.approx(record["greedy"]["logprobs"], abs=1e-3)
    assert answer.usage.prompt_tokens == len(record["tokens"])
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_many_prompts_in_one_request(client):
    answer = complete(client, [record["tokens"] for record in ORACLE])
    assert [choice.index for choice in answer.choices] == list(range(len(ORACLE)))
    assert [tokens_of(choice) for choice in answer.choices] == [record["greedy"]["tokens"] for record in ORACLE]


def test_text_and_its_token_ids_give_the_same(client, server):
    text = "the quick brown fox, 42 times; naïve 東京 🙂"
    ids = server.post("/tokenize", {"model": MODEL, "prompt": text}).json["tokens"]
    assert server.post("/detokenize", {"model": MODEL, "tokens": ids}).json["prompt"] == text
    by_text, by_ids, by_list = complete(client, text), complete(client, ids), complete(client, [text])
    assert by_text.choices[0].text == by_ids.choices[0].text == by_list.choices[0].text
    assert by_text.usage.prompt_tokens == len(ids)


def test_echo_with_logprobs(client):
    record = ORACLE[2]
    answer = complete(client, record["tokens"], echo=True, logprobs=5, extra={"return_tokens_as_token_ids": True})
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == [f"token_id:{token}" for token in record["tokens"] + record["greedy"]["tokens"]]
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1:7] == pytest.approx(record["logprobs"], abs=1e-3)
    for position, ids, values in zip(record["top_positions"], record["top_ids"], record["top_logprobs"]):
        top = logprobs.top_logprobs[position + 1]
        assert {f"token_id:{token}" for token in ids} <= top.keys()
        assert [top[f"token_id:{token}"] for token in ids] == pytest.approx(values, abs=1e-3)


def test_echo_alone(client):
    answer = complete(client, "geese fly", echo=True, max_tokens=0)
    assert answer.choices[0].text == "geese fly"
    assert answer.usage.completion_tokens == 0


@pytest.mark.parametrize("record", ORACLE[1:], ids=lambda record: f"{len(record['tokens'])} tokens")
def test_prompt_logprobs(client, record):
    answer = complete(client, record["tokens"], max_tokens=1, extra={"prompt_logprobs": 1})
    found = answer.choices[0].model_extra["prompt_logprobs"]
    assert found[0] is None
    own = [entry[str(token)] for entry, token in zip(found[1:], record["tokens"][1:])]
    assert [entry["logprob"] for entry in own] == pytest.approx(record["logprobs"], abs=1e-3)
    assert all((entry["rank"] == 1) == (len(other) == 1) for entry, other in zip(own, found[1:]))


def test_n_choices_of_a_seed(client):
    fields = {"n": 3, "seed": 11, "temperature": 1.0}
    first, again = complete(client, "a flock", **fields), complete(client, "a flock", **fields)
    three = [tokens_of(choice) for choice in first.choices]
    assert three == [tokens_of(choice) for choice in again.choices]
    assert len({tuple(tokens) for tokens in three}) == 3
    assert tokens_of(complete(client, "a flock", seed=11, temperature=1.0).choices[0]) == three[0]
    assert tokens_of(complete(client, "a flock", seed=999, temperature=1.0).choices[0]) != three[0]


def test_n_greedy_choices_are_equal(client):
    record = ORACLE[3]
    answer = complete(client, record["tokens"], n=4)
    assert [tokens_of(choice) for choice in answer.choices] == 4 * [record["greedy"]["tokens"]]


def test_stop_string(client):
    whole = complete(client, "geese").choices[0].text
    stop = whole[len(whole) // 2:][:2]
    answer = complete(client, "geese", stop=["never in there", stop]).choices[0]
    assert answer.text == whole[:whole.index(stop)]
    assert answer.finish_reason == "stop" and answer.model_extra["stop_reason"] == stop
    included = complete(client, "geese", stop=stop, extra={"include_stop_str_in_output": True}).choices[0]
    assert included.text == whole[:whole.index(stop) + len(stop)]


def test_stop_token_ids_and_min_tokens(client):
    record = ORACLE[4]
    greedy = record["greedy"]["tokens"]
    fifth = greedy.index(greedy[4])  # where it comes first
    stopped = complete(client, record["tokens"], extra={"stop_token_ids": [greedy[4]]}).choices[0]
    assert stopped.finish_reason == "stop" and stopped.model_extra["stop_reason"] == greedy[4]
    assert tokens_of(stopped)[:fifth] == greedy[:fifth] and len(tokens_of(stopped)) <= fifth + 1
    longer = complete(client, record["tokens"], extra={"stop_token_ids": [greedy[4]], "min_tokens": 12}).choices[0]
    assert len(tokens_of(longer)) >= 12 and greedy[4] not in tokens_of(longer)[:12]


def test_end_of_sequence_and_ignore_eos(client):
    end = {"2": 100}  # bias makes the end-of-sequence token certain
    stopped = complete(client, "geese", logit_bias=end, extra={"ignore_eos": False}).choices[0]
    assert stopped.finish_reason == "stop" and stopped.model_extra["stop_reason"] is None and stopped.text == ""
    going_on = complete(client, "geese", logit_bias=end).choices[0]
    assert going_on.finish_reason == "length" and tokens_of(going_on) == 16 * [2]
    assert set(tokens_of(complete(client, "geese", logit_bias={"77": 100}).choices[0])) == {77}


def test_penalties_change_the_answer(client):
    plain = tokens_of(complete(client, "geese", max_tokens=64).choices[0])
    for fields, extra in [({"frequency_penalty": 2.0}, {}), ({"presence_penalty": 2.0}, {}),
                          ({}, {"repetition_penalty": 1.8})]:
        penalised = tokens_of(complete(client, "geese", max_tokens=64, extra=extra, **fields).choices[0])
        assert len(set(penalised)) > len(set(plain))


def test_truncating_samplers_at_their_ends_are_greedy(client):
    record = ORACLE[2]
    for fields, extra in [({"top_p": 1e-6}, {}), ({}, {"top_k": 1}), ({}, {"min_p": 1.0})]:
        answer = complete(client, record["tokens"], temperature=1.0, extra=extra, **fields)
        assert tokens_of(answer.choices[0]) == record["greedy"]["tokens"]


@pytest.mark.parametrize("fields", [{}, {"seed": 5, "temperature": 0.9}, {"stop": "e"}, {"n": 2, "seed": 1, "temperature": 1}],
                         ids=["greedy", "sampled", "stop string", "two choices"])
def test_streamed_equals_whole(client, fields):
    fields = {"max_tokens": 100} | fields
    whole = complete(client, "東京 geese", logprobs=2, **fields)
    text, ids, reasons, logprobs = {}, {}, {}, {}
    usage = None
    stream = complete(client, "東京 geese", stream=True, logprobs=2, stream_options={"include_usage": True}, **fields)
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in reasons, "something came behind the end"
            text[choice.index] = text.get(choice.index, "") + choice.text
            ids.setdefault(choice.index, []).extend(tokens_of(choice))
            logprobs.setdefault(choice.index, []).extend(choice.logprobs.token_logprobs if choice.logprobs else [])
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    for choice in whole.choices:
        assert text[choice.index] == choice.text
        assert ids[choice.index] == tokens_of(choice)
        assert logprobs[choice.index] == choice.logprobs.token_logprobs
        assert reasons[choice.index] == choice.finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens


MESSAGES = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Why a V?"}]


def test_chat_equals_its_rendered_prompt(client, server):
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body=IDS, **GREEDY)
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES) + "<|im_start|>assistant\n"
    rendered = server.post("/tokenize", {"model": MODEL, "messages": MESSAGES}).json["tokens"]
    assert answer.usage.prompt_tokens == len(rendered)
    assert server.post("/detokenize", {"model": MODEL, "tokens": rendered}).json["prompt"] == text
    assert answer.choices[0].message.content == complete(client, rendered).choices[0].text
    assert answer.choices[0].message.role == "assistant"


def test_chat_content_as_parts(client):
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]
    ask = {"model": MODEL, "extra_body": IDS, **GREEDY}
    whole, by_parts = (client.chat.completions.create(messages=m, **ask) for m in (MESSAGES, parts))
    assert whole.choices[0].message.content == by_parts.choices[0].message.content


def test_chat_streamed_equals_whole(client):
    ask = {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 64, "seed": 3, "logprobs": True,
           "top_logprobs": 2, "extra_body": IDS}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask))
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(delta.delta.content or "" for delta in deltas) == whole.choices[0].message.content
    logprobs = [entry.logprob for delta in deltas if delta.logprobs for entry in delta.logprobs.content]
    assert logprobs == [entry.logprob for entry in whole.choices[0].logprobs.content]
    assert all(len(entry.top_logprobs) == 2 for entry in whole.choices[0].logprobs.content)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 64


def test_errors_are_the_packages_own(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="x")
    assert missing.value.body["code"] == "model_not_found" and missing.value.body["param"] == "model"
    with pytest.raises(openai.BadRequestError) as wrong:
        complete(client, "x", temperature=-1)
    assert wrong.value.body["param"] == "temperature"
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, response_format={"type": "json_object"})
    assert unsupported.value.body["param"] == "response_format"
