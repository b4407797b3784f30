"""What a user types: settings from flags and files, names of models, and the commands besides serve."""

import json
import os
import re
import shutil
import subprocess

import pytest

from skein_server import FIXTURES, MODEL, READY_S, Server, Skein, expected

TINY = FIXTURES / MODEL
RECORD = expected(MODEL)["prompts"][2]
GREEDY_TOKENS = RECORD["greedy"]["tokens"]


def run(*arguments, env=None, status=0):
    """What a command that ends by itself prints."""
    with Skein(*arguments, env=env) as skein:
        assert skein.wait(READY_S) == status, skein.err
        skein.assert_nothing_left()
        return skein.out


# ---- serve

def test_port_zero_is_printed_and_two_servers_differ():
    with Server(TINY) as one, Server(TINY) as two:
        assert one.port != two.port
        assert one.host == "127.0.0.1"
        two.stop()
        assert one.get("/readyz").status == 200
        one.stop()


def test_what_the_kv_cache_really_holds(server):
    ready = server.logs("replica ready")[0]
    assert ready["requests_of_full_length"] == ready["kv_tokens"] // ready["context_max"] > 0


def test_health_endpoints(server):
    assert [server.get(path).status for path in ("/health", "/livez", "/readyz")] == [200, 200, 200]
    assert server.get("/nothing-here").status == 404
    assert server.request("DELETE", "/v1/completions", None, {}).status == 405


def test_yaml_config_and_flags_that_win(tmp_path):
    config = tmp_path / "two.yaml"
    config.write_text(f"""# two shapes beside each other
model: {TINY}
port: 1  # the flag wins
dtype: float32
served_model_name: from-the-file
max_model_len: 512
allowed_origins: [http://localhost:3000]
replicas:
  - {{tensor_parallel_size: 2}}
  - {{tensor_parallel_size: 1, pipeline_parallel_size: 2, count: 1}}
""")
    with Server(TINY, "--config", config, "--served-model-name", "from-the-flag") as server:
        assert server.model == "from-the-flag"
        assert len(server.processes("rank")) == 4
        assert server.get("/v1/models").json["data"][0]["max_model_len"] == 512
        assert [server.tokens(RECORD["tokens"]) for _ in range(4)] == 4 * [GREEDY_TOKENS]
        server.stop()


def test_served_model_name():
    with Server(TINY, "--served-model-name", "swift") as server:
        assert server.complete("x", model="swift")["model"] == "swift"
        assert server.post("/v1/completions", {"model": MODEL, "prompt": "x"}).status == 404
        server.stop()


def test_api_key_file(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("first-key\nsecond-key\n")
    with Server(TINY, "--api-key-file", keys, "--host", "0.0.0.0") as server:
        server.host = "127.0.0.1"
        assert server.get("/v1/models").status == 401
        assert server.get("/v1/models", Authorization="Bearer third-key").status == 401
        for key in ("first-key", "second-key"):
            assert server.get("/v1/models", Authorization=f"Bearer {key}").status == 200
        assert [server.get(path).status for path in ("/livez", "/readyz", "/health")] == [200, 200, 200]
        assert "first-key" not in server.err + server.out
        answer = run("chat", "--url", f"http://127.0.0.1:{server.port}", "--api-key-file", keys, "--prompt", "hi",
                     "--max-tokens", "4")
        assert answer.strip()
        server.stop()


def test_insecure_serves_beyond_this_machine():
    with Server(TINY, "--host", "0.0.0.0", "--insecure") as server:
        server.host = "127.0.0.1"
        assert server.get("/v1/models").status == 200
        server.stop()


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_ipv6():
    with Server(TINY, "--host", "::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert server.get("/readyz").status == 200
        server.stop()


def test_chat_template_file(tmp_path):
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]")
    with Server(TINY, "--chat-template", template) as server:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        tokens = server.post("/tokenize", body).json["tokens"]
        assert server.post("/detokenize", {"tokens": tokens}).json["prompt"] == "[user] hello\n[assistant]"
        server.stop()


def test_a_model_without_template_or_tokenizer(tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(TINY, folder)
    (folder / "tokenizer_config.json").unlink()
    with Server(folder, "--dtype", "float32") as server:
        assert "--chat-template" in server.out
        reply = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
        assert reply.status == 400 and "template" in reply.error["message"]
        server.stop()
    (folder / "tokenizer.json").unlink()
    with Server(folder, "--dtype", "float32") as server:
        assert "token ids" in server.out
        answer = server.complete(RECORD["tokens"], logprobs=0)["choices"][0]
        assert answer["token_ids"] == GREEDY_TOKENS
        assert answer["logprobs"]["tokens"] == [f"token_id:{token}" for token in GREEDY_TOKENS]
        assert server.post("/v1/completions", {"prompt": "text"}).status == 400
        server.stop()


def test_dummy_weights_need_only_config(tmp_path):
    shutil.copy(TINY / "config.json", tmp_path)
    for flags in ([], ["--tensor-parallel-size", 2]):
        with Server(tmp_path, "--load-format", "dummy", *flags) as server:
            assert len(server.tokens([1, 2, 3])) == 16
            server.stop()


def test_sampling_defaults_of_generation_config(tmp_path):
    folder = tmp_path / "greedy"
    shutil.copytree(TINY, folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.0, "max_new_tokens": 5}))
    with Server(folder, "--dtype", "float32") as server:
        reply = server.post("/v1/completions", {"prompt": RECORD["tokens"], "max_tokens": 100, "ignore_eos": True,
                                                "return_token_ids": True})
        assert reply.json["choices"][0]["token_ids"] == GREEDY_TOKENS[:5]
        server.stop()


def test_context_is_lowered_to_what_fits():
    with Server(TINY, "--kv-cache-memory-bytes", 1 << 19) as server:
        lowered = re.search(r"^context +(\d+) tokens, lowered from the model's 2048", server.out, re.MULTILINE)
        context = int(lowered[1])
        assert 256 <= context < 2048
        assert server.get("/v1/models").json["data"][0]["max_model_len"] == context
        assert len(server.tokens([5] * (context - 16))) == 16
        reply = server.post("/v1/completions", {"prompt": [5] * context, "max_tokens": 1})
        assert reply.status == 400 and str(context) in reply.error["message"]
        server.assert_idle()
        server.stop()


def test_hub_name(tmp_path):
    snapshot = tmp_path / "models--flock--tiny/snapshots/abc123"
    shutil.copytree(TINY, snapshot)
    (tmp_path / "models--flock--tiny/refs").mkdir()
    (tmp_path / "models--flock--tiny/refs/main").write_text("abc123\n")
    with Server("flock/tiny", "--dtype", "float32", env={"HF_HUB_CACHE": str(tmp_path)}) as server:
        assert server.model == "flock/tiny"
        assert server.tokens(RECORD["tokens"]) == GREEDY_TOKENS
        server.stop()


def test_relative_path_and_trailing_slash():
    with Server(f"./{MODEL}/", cwd=FIXTURES) as server:
        assert server.model == MODEL
        server.stop()


# ---- the other commands

@pytest.mark.parametrize("command", [[], ["serve"], ["plan"], ["chat"], ["bench"]], ids=" ".join)
def test_help(command):
    out = run(*command, "--help")
    assert out.startswith("usage: skein")
    if command:
        assert "--tensor-parallel-size" in out


def test_unknown_command():
    with Skein("serv") as skein:
        assert skein.wait() == 2
        assert "did you mean serve?" in skein.err


def test_version():
    assert re.fullmatch(r"skein \S+\n", run("--version"))


def test_plan_names_every_rank_and_its_share():
    out = run("plan", TINY, "--tensor-parallel-size", 2, "--pipeline-parallel-size", 2)
    assert re.search(r"tensor parallel 2 x pipeline parallel 2: weights .*iB, KV cache \d+ tokens", out)
    ranks = re.findall(r"^  rank (\d)  layers (\d)-(\d), heads (\d)-(\d)", out, re.MULTILINE)
    assert [rank[0] for rank in ranks] == list("0123")
    assert {rank[1:] for rank in ranks} == {("0", "1", "0", "2"), ("0", "1", "3", "5"), ("2", "3", "0", "2"),
                                            ("2", "3", "3", "5")}


@pytest.mark.parametrize("command, on", [
    (["serve"], "log"), (["chat", "--prompt", "x", "--max-tokens", 2], "log"),
    (["bench", "offline", "--json", "--input-len", 8, "--output-len", 2, "--rounds", 1], "log"),
    (["bench", "offline", "--input-len", 8, "--output-len", 2, "--rounds", 1], "out"),
    (["plan"], "out"), (["plan", "--format", "json"], "out"), (["plan", "--format", "svg"], "log"),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else value)
def test_every_command_that_plans_says_what_may_not_be_expected(tmp_path, command, on):
    config, calibration = tmp_path / "config.yaml", tmp_path / "other.yaml"
    calibration.write_text("links:\n  - {link: NVLink, device: another GPU, ranks: 2, point_to_point_us: {x: [1, 2], y: [1, 2]}}\n")
    config.write_text(f"model: {TINY}\ndevice: cpu\ncluster: here\ncalibration: [{calibration}]\n")
    note = f"nothing in {calibration} was measured on a device of this cluster"
    if command == ["serve"]:
        with Server(TINY, "--config", config) as server:
            server.stop()
            assert note in server.out and note in server.err
        return
    with Skein(*command, "--config", config) as skein:
        assert skein.wait(READY_S) == 0, skein.err
        assert (skein.err if on == "log" else skein.out).count(note) == 1
        assert [line["event"].startswith("plan: ") for line in skein.logs() if note in line["event"]] == [True] * (on == "log")


def test_chat_with_a_server(server):
    answer = run("chat", "--url", server.url, "--prompt", "Why a V?", "--max-tokens", 24, "--temperature", 0, "--stats")
    text, _, stats = answer.removesuffix("\n").rpartition("\n")
    whole = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Why a V?"}],
                                                 "max_tokens": 24, "temperature": 0}).json
    assert text == whole["choices"][0]["message"]["content"]
    assert re.fullmatch(r"\[\d+ tokens, TTFT \d+ ms, [\d.]+ tokens/s\]", stats)


def test_chat_with_a_conversation_on_standard_input(server):
    with Skein("chat", "--url", server.url, "--max-tokens", 8, "--temperature", 0, stdin=subprocess.PIPE) as skein:
        skein.process.stdin.write(b"first\nsecond\n\n")
        skein.process.stdin.flush()
        assert skein.wait(READY_S) == 0
        first = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "first"}],
                                                     "max_tokens": 8, "temperature": 0}).json
        reply = first["choices"][0]["message"]["content"]
        messages = [{"role": "user", "content": "first"}, {"role": "assistant", "content": reply},
                    {"role": "user", "content": "second"}]
        second = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8, "temperature": 0}).json
        assert skein.out == reply + "\n" + second["choices"][0]["message"]["content"] + "\n"


def test_chat_with_a_model():
    assert run("chat", TINY, "--prompt", "Why a V?", "--max-tokens", 8).strip()


def test_chat_with_a_model_of_a_file(tmp_path):
    config = tmp_path / "config.yaml"
    template = tmp_path / "template.jinja"
    template.write_text("{{ raise_exception('this template') }}")
    config.write_text(f"model: {TINY}\nhost: 0.0.0.0\n")
    assert run("chat", "--config", config, "--prompt", "Why a V?", "--max-tokens", 8).strip()
    # The keys are of `skein serve`: nobody else comes to the server that this command starts.
    config.write_text(f"model: {TINY}\napi_key_file: {tmp_path}/nowhere\n")
    assert run("chat", "--config", config, "--prompt", "Why a V?", "--max-tokens", 8).strip()
    config.write_text(f"model: {TINY}\nchat_template: {template}\n")
    with Skein("chat", "--config", config, "--prompt", "Why a V?") as skein:
        assert skein.wait(READY_S) == 1
        assert "this template" in skein.messages()[-1]


def test_chat_with_a_server_that_is_not_there():
    with Skein("chat", "--url", "http://127.0.0.1:1", "--prompt", "x") as skein:
        assert skein.wait() == 1
        assert "127.0.0.1:1" in skein.messages()[0] and len(skein.messages()) == 1


def test_bench_offline():
    out = run("bench", "offline", TINY, "--json", "--input-len", 64, "--output-len", 16, "--num-prompts", 3, "--rounds", 2)
    result = json.loads(out)
    assert result["model"] == MODEL and result["num_prompts"] == 3
    assert result["prefill_tokens_per_second"] > 0 and result["decode_tokens_per_second"] > 0
    assert len(result["round_figures"]) == 2
    for figures in result["round_figures"]:
        assert figures["output_tokens"] == 3 * 16
        assert 0 < figures["steady_decode_seconds"] <= figures["decode_seconds"]
        assert figures["total_seconds"] == pytest.approx(figures["prefill_seconds"] + figures["decode_seconds"])
        assert figures["output_tokens_per_second"] == pytest.approx(3 * 16 / figures["total_seconds"])
        assert 0 < figures["output_tokens_per_second"] < figures["decode_tokens_per_second"]
    for name in ("prefill", "decode", "steady_decode", "output"):
        rates = [figures[f"{name}_tokens_per_second"] for figures in result["round_figures"]]
        assert result[f"{name}_tokens_per_second"] == pytest.approx(sum(rates) / 2)
    seconds = sum(figures["total_seconds"] for figures in result["round_figures"])
    # A device without a queue waits for every step.
    assert 0 < result["run"].pop("device_starved_share") < 1
    assert result["run"] == {"output_tokens": 2 * 3 * 16, "seconds": pytest.approx(seconds),
                             "output_tokens_per_second": pytest.approx(2 * 3 * 16 / seconds)}


def test_bench_offline_says_on_what_it_ran(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {TINY}\nport: 1\nmax_waiting_requests: 1\nmax_num_seqs: 3\nmax_num_batched_tokens: 48\n"
                      "kv_cache_dtype: float32\nreplicas:\n  - {tensor_parallel_size: 2}\n  - {tensor_parallel_size: 2}\n")
    result = json.loads(run("bench", "offline", "--config", config, "--json", "--device", "cpu", "--max-model-len", 96,
                            "--max-num-seqs", 2, "--input-len", 8, "--output-len", 4, "--num-prompts", 10, "--rounds", 1))
    assert result["build"] in run("--version")
    assert result["cores"] > 0 and result["kv_cache_tokens"] >= 96
    expected = {"device": "cpu", "gpus": [], "replicas": 2, "tensor_parallel_size": 2, "pipeline_parallel_size": 1,
                "dtype": "auto", "kv_cache_dtype": "float32", "deterministic": True, "prefix_caching": False,
                "max_num_seqs": 2, "max_num_batched_tokens": 48, "max_model_len": 96}
    assert {name: result[name] for name in expected} == expected


def test_bench_offline_of_one_token_has_no_decode_speed():
    flags = ("bench", "offline", TINY, "--input-len", 8, "--output-len", 1, "--num-prompts", 2, "--rounds", 1)
    result = json.loads(run(*flags, "--json"))
    for figures in (result, result["round_figures"][0]):
        assert figures["decode_tokens_per_second"] is None and figures["steady_decode_tokens_per_second"] is None
        assert figures["prefill_tokens_per_second"] > 0
    assert ": prefill " in (text := run(*flags)) and ", decode " not in text


def test_bench_offline_on_this_machine_as_it_is_planned(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {TINY}\ndevice: cpu\ncluster: here\ntensor_parallel_size: 1\ninput_len: 500\n")
    result = json.loads(run("bench", "offline", "--config", config, "--json", "--input-len", 8, "--output-len", 4,
                            "--rounds", 1))
    assert result["device"] == "cpu" and result["input_len"] == 8


def test_bench_offline_without_warm_up():
    result = json.loads(run("bench", "offline", TINY, "--json", "--input-len", 8, "--output-len", 4, "--rounds", 1,
                            "--warm-up=false"))
    assert len(result["round_figures"]) == 1 and result["run"]["output_tokens"] == 4
