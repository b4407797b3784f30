// `skein chat`: a conversation with a server (--url) or with a model that it serves itself.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <future>
#include <iostream>
#include <thread>

#include "base/log.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/remote.h"
#include "coordinator/cli/server.h"
#include "coordinator/http/client.h"
#include "coordinator/http/loop.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

struct ChatConfig {
  ServeConfig serve;
  std::string url;
  std::string prompt;  // one question instead of a conversation
  std::string system;
  int64_t max_tokens = 512;
  double temperature = -1;  // below 0: the server's default
  bool stats = false;
};

// A server of our own in a thread, for `skein chat MODEL`.
class LocalServer {
 public:
  ~LocalServer() {
    if (!thread_.joinable()) return;
    loop_->post([this] { server_->shut_down(); });
    thread_.join();
    server_.reset();
  }

  Result<std::string> start(ServeConfig config) {
    config.port = 0;
    config.host = "127.0.0.1";
    config.drain_seconds = 0;
    Result<ServePlan> plan = make_serve_plan(config);
    if (!plan.ok()) return plan.status();
    plan_ = std::make_unique<ServePlan>(std::move(*plan));
    log_notes(*plan_);
    loop_ = std::make_unique<Loop>();
    std::promise<Result<std::string>> url;
    std::atomic<bool> told = false;
    const auto tell = [&](Result<std::string> result) {
      if (!told.exchange(true)) url.set_value(std::move(result));
    };
    ASSIGN_OR_RETURN(server_, Server::start(*loop_, *plan_,
                                            {.ready = [&](const std::string& at) { tell(at); },
                                             .note = [](const std::string&) {},
                                             .ended =
                                                 [&](const Status& status) {
                                                   if (!status.ok()) tell(status);
                                                   loop_->stop();
                                                 }}));
    thread_ = std::thread([this] { loop_->run(); });
    Result<std::string> result = url.get_future().get();
    if (!result.ok()) {
      thread_.join();
      server_.reset();
    }
    return result;
  }

 private:
  std::unique_ptr<ServePlan> plan_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

struct Answer {
  std::string text;
  int64_t tokens = 0;
  double ttft_s = 0;
  double total_s = 0;
};

class Conversation {
 public:
  Conversation(const ChatConfig& config, HttpTarget target, std::string model)
      : config_(config), target_(std::move(target)), model_(std::move(model)) {
    if (!config_.system.empty()) add("system", config_.system);
  }

  // Streams the answer to standard output.
  Result<Answer> ask(const std::string& question) {
    add("user", question);
    Json body = Json::object();
    body.set("model", model_);
    body.set("messages", messages_);
    body.set("stream", true);
    body.set("max_tokens", config_.max_tokens);
    Json options = Json::object();
    options.set("include_usage", true);
    body.set("stream_options", std::move(options));
    if (config_.temperature >= 0) body.set("temperature", config_.temperature);
    Answer answer;
    Status failure;
    const Clock::time_point start = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    RETURN_IF_ERROR(http_stream(target_, "/v1/chat/completions", body, [&](std::string_view data) {
      failure = take(data, &answer, elapsed());
      return failure.ok();
    }));
    answer.total_s = elapsed();
    std::printf("\n");
    if (!failure.ok()) return failure;
    add("assistant", answer.text);
    return answer;
  }

 private:
  void add(const char* role, const std::string& content) {
    Json message = Json::object();
    message.set("role", role);
    message.set("content", content);
    messages_.push_back(std::move(message));
  }

  static Status take(std::string_view data, Answer* answer, double seconds) {
    ASSIGN_OR_RETURN(const Json chunk, parse_json(data));
    if (const Json* error = chunk.find("error")) {
      const Json* message = error->find("message");
      return unavailable(message != nullptr && message->is_string() ? message->as_string() : "the server failed");
    }
    if (const Json* usage = chunk.find("usage"); usage != nullptr && usage->is_object()) {
      if (const Json* tokens = usage->find("completion_tokens"); tokens != nullptr && tokens->is_int()) {
        answer->tokens = tokens->as_int();
      }
    }
    const Json* choices = chunk.find("choices");
    if (choices == nullptr || !choices->is_array() || choices->as_array().empty()) return {};
    const Json* delta = choices->as_array()[0].find("delta");
    const Json* content = delta == nullptr ? nullptr : delta->find("content");
    if (content == nullptr || !content->is_string() || content->as_string().empty()) return {};
    if (answer->text.empty()) answer->ttft_s = seconds;
    answer->text += content->as_string();
    std::fputs(content->as_string().c_str(), stdout);
    std::fflush(stdout);
    return {};
  }

  const ChatConfig& config_;
  const HttpTarget target_;
  const std::string model_;
  Json messages_ = Json::array();
};

void print_stats(const Answer& answer) {
  const double decode_s = answer.total_s - answer.ttft_s;
  std::printf("[%lld tokens, TTFT %.0f ms, %.1f tokens/s]\n", static_cast<long long>(answer.tokens),
              answer.ttft_s * 1000, decode_s > 0 ? static_cast<double>(answer.tokens - 1) / decode_s : 0.0);
}

Status converse(const ChatConfig& config, const std::string& url) {
  ASSIGN_OR_RETURN(const HttpTarget target, remote_target(url, config.serve.api_key_file));
  ASSIGN_OR_RETURN(const std::string model, first_model(target));
  Conversation conversation(config, target, model);
  if (!config.prompt.empty()) {
    ASSIGN_OR_RETURN(const Answer answer, conversation.ask(config.prompt));
    if (config.stats) print_stats(answer);
    return {};
  }
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) std::printf("%s. An empty line or Ctrl-D ends.\n", model.c_str());
  std::string line;
  while (true) {
    if (terminal) std::printf("> "), std::fflush(stdout);
    if (!std::getline(std::cin, line) || line.empty()) return {};
    ASSIGN_OR_RETURN(const Answer answer, conversation.ask(line));
    if (config.stats) print_stats(answer);
  }
}

OptionTable options(ChatConfig* config) {
  OptionTable table;
  add_local_options(&table, &config->serve);
  table.add_text("chat-template", "F", "file with a Jinja chat template", &config->serve.chat_template);
  table.add_text("url", "URL", "of a server; without it the model is served here", &config->url);
  table.add_text("api-key-file", "F", "with url: file with the server's API key", &config->serve.api_key_file);
  table.add_text("prompt", "TEXT", "ask this and end", &config->prompt);
  table.add_text("system", "TEXT", "system message", &config->system);
  table.add_integer("max-tokens", "of an answer", 1, 1 << 20, &config->max_tokens);
  table.add_real("temperature", "0: always the likeliest token; default: the server's", 0, 2, &config->temperature);
  table.add_switch("stats", "print speed after each answer", &config->stats);
  return table;
}

// Refuses flags that nothing would heed.
Status check_flags(const ChatConfig& config) {
  const std::set<std::string>& flags = config.serve.flags;
  if (config.serve.model.empty() == config.url.empty()) {
    return invalid_argument("name either a model or a server: skein chat MODEL, or skein chat --url URL");
  }
  if (config.url.empty()) {
    if (!flags.contains("api-key-file")) return {};
    return invalid_argument("--api-key-file is for a server elsewhere: name it with --url, or leave the key out");
  }
  ServeConfig of_model;
  OptionTable local;
  add_local_options(&local, &of_model);
  for (const std::string& flag : flags) {
    if (local.find(flag) == nullptr && flag != "chat-template") continue;
    return invalid_argument("--" + flag + " is for a model that is served here, and --url names a server elsewhere: leave one "
                            "of them out");
  }
  return {};
}

}  // namespace

int chat_command(const Arguments& arguments) {
  ChatConfig config;
  const OptionTable table = options(&config);
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::printf("usage: skein chat MODEL [flags], or skein chat --url URL [flags]\n%s", table.help().c_str());
    return 0;
  }
  Status parsed = parse_local_config(arguments, table, &config.serve);
  if (parsed.ok()) parsed = check_flags(config);
  if (!parsed.ok()) return report(parsed);
  LocalServer local;
  if (config.url.empty()) {
    set_log_level(LogLevel::kWarning);  // the conversation has this terminal
    std::fprintf(stderr, "loading %s\n", config.serve.model.c_str());
    config.serve.api_key_file.clear();  // of a file for `skein serve`: this server is ours alone
    Result<std::string> url = local.start(config.serve);
    if (!url.ok()) return report(url.status());
    config.url = *url;
  }
  const Status status = converse(config, config.url);
  return status.ok() ? 0 : report(status);
}

}  // namespace skein
