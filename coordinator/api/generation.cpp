#include "coordinator/api/generation.h"

#include <ctime>
#include <utility>

#include "base/log.h"

namespace skein {
namespace {

constexpr int kClientGone = 499;

HttpError submit_error(const Status& status) {
  switch (status.code()) {
    case Code::kInvalidArgument:
    case Code::kUnsupported:
      return {.status = 400, .message = status.message()};
    case Code::kResourceExhausted:
      return {.status = 429, .message = status.message(), .code = "queue_full"};
    case Code::kUnavailable:
      return {.status = 503, .message = status.message(), .code = "unavailable"};
    case Code::kOk:
    case Code::kNotFound:
    case Code::kCorrupt:
    case Code::kDeadlineExceeded:
    case Code::kInternal:
      break;
  }
  return {.status = 500, .message = status.message()};
}

}  // namespace

Generation::Generation(const GenerationContext& context, std::shared_ptr<ResponseWriter> writer,
                       std::string id, std::string path)
    : context_(context), writer_(std::move(writer)), id_(std::move(id)), path_(std::move(path)) {}

void Generation::watch_client() {
  // Weak: the writer would otherwise keep the request, and the request the writer.
  writer_->on_closed([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self || self->over_) return;
    self->cancel_all();
    self->finish(kClientGone, "abort");
  });
  writer_->on_ready([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self && !self->over_) self->send_held();
  });
}

void Generation::refuse(const HttpError& error) {
  if (over_) return;
  writer_->respond(error_response(error));
  finish(error.status, "error");
}

void Generation::start(PreparedRequest request) {
  if (over_) return;
  request_ = std::move(request);
  json_ = std::make_unique<AnswerJson>(context_.model, request_, id_, std::time(nullptr));
  prompts_.resize(request_.prompts.size());
  choices_.reserve(prompts_.size() * static_cast<size_t>(request_.choices));
  for (const Prompt& prompt : request_.prompts) {
    for (int32_t c = 0; c < request_.choices; ++c) {
      choices_.push_back({.choice = Choice(context_.model, request_, prompt)});
    }
  }
  text_open_ = static_cast<int64_t>(choices_.size());
  for (size_t p = 0; p < prompts_.size(); ++p) {
    if (!submit(p)) return;
  }
  if (request_.answer.stream) writer_->start(200, "text/event-stream; charset=utf-8");
}

bool Generation::submit(size_t p) {
  GenerationRequest request{.tokens = request_.prompts[p].tokens,
                            .prompt_tokens = static_cast<int32_t>(request_.prompts[p].tokens.size()),
                            .choices = request_.choices,
                            .sampling = request_.sampling,
                            .cache_salt = request_.cache_salt};
  request.sampling.max_tokens = request_.prompts[p].max_tokens;
  auto on_frame = [self = shared_from_this(), p](const TokenFrame& frame) {
    // cancel() may destroy this closure while it runs.
    const std::shared_ptr<Generation> alive = self;
    alive->on_frame(p, frame);
  };
  Result<uint64_t> id = context_.engine.submit(std::move(request), std::move(on_frame));
  if (!id.ok()) {
    cancel_all();
    refuse(submit_error(id.status()));
    return false;
  }
  PromptState& prompt = prompts_[p];
  prompt.id = *id;
  prompt.submitted = true;
  prompt.engine_open = prompt.text_open = request_.choices;
  return true;
}

void Generation::on_frame(size_t p, const TokenFrame& frame) {
  if (over_ || frame.choice < 0 || frame.choice >= request_.choices) return;
  PromptState& prompt = prompts_[p];
  if (frame.finish == FinishReason::kError || frame.finish == FinishReason::kCancelled) {
    prompt.engine_open = 0;
    const bool error = frame.finish == FinishReason::kError;
    return fail({.status = error ? 500 : 503,
                 .message = !frame.error.empty() ? frame.error
                            : error              ? "The model failed to generate."
                                                 : "The server cancelled the request."});
  }
  if (!frame.prompt_logprobs.empty()) prompt.logprobs = frame.prompt_logprobs;
  if (frame.cached_tokens > 0) prompt.cached_tokens = frame.cached_tokens;
  const size_t index = p * static_cast<size_t>(request_.choices) + static_cast<size_t>(frame.choice);
  ChoiceState& state = choices_[index];
  if (frame.finish != FinishReason::kNone && !std::exchange(state.engine_done, true)) {
    --prompt.engine_open;
  }
  if (!state.choice.finished()) on_choice_frame(p, state, index, frame);
}

void Generation::on_choice_frame(size_t p, ChoiceState& state, size_t index, const TokenFrame& frame) {
  PromptState& prompt = prompts_[p];
  observe(prompt, state, frame);
  hold(index, state, state.choice.accept(frame, prompt.logprobs));
  if (request_.answer.stream) {
    if (writer_->ready() || held_bytes_ > context_.limits.held_bytes_max) send_held();
  } else if (held_bytes_ > context_.limits.answer_bytes_max) {
    return fail({.message = "The answer is over the limit of " +
                            std::to_string(context_.limits.answer_bytes_max) +
                            " bytes; stream it, or ask for fewer tokens or log-probabilities.",
                 .param = "max_tokens"});
  }
  if (!state.choice.finished()) return;
  context_.observer.choice_finished(frame.finish == FinishReason::kLength ? "length" : "stop");
  // Stop strings end a choice before the engine does; it has no way to end one choice of several.
  if (--prompt.text_open == 0 && prompt.engine_open > 0) {
    prompt.engine_open = 0;
    context_.engine.cancel(prompt.id);
  }
  if (--text_open_ == 0) complete();
}

void Generation::observe(PromptState& prompt, ChoiceState& state, const TokenFrame& frame) {
  const auto tokens = static_cast<int64_t>(frame.tokens.size());
  if (tokens == 0) return;
  const Clock::time_point now = Clock::now();
  if (!std::exchange(prompt.started, true)) {
    const double seconds = seconds_since_start();
    if (ttft_s_ < 0) ttft_s_ = seconds;
    const size_t p = static_cast<size_t>(&prompt - prompts_.data());
    context_.observer.first_token(seconds, static_cast<int64_t>(request_.prompts[p].tokens.size()));
  }
  context_.observer.tokens_generated(tokens);
  if (state.last != Clock::time_point{}) {
    const double seconds = std::chrono::duration<double>(now - state.last).count();
    context_.observer.inter_token(seconds / static_cast<double>(tokens), tokens);
  }
  state.last = now;
}

void Generation::hold(size_t index, ChoiceState& state, ChoiceDelta delta) {
  held_bytes_ += delta.bytes();
  if (request_.answer.stream && !std::exchange(state.holds, true)) holding_.push_back(index);
  state.held.append(std::move(delta));
}

// One event for each choice, however many frames it came in.
void Generation::send_held() {
  for (const size_t index : std::exchange(holding_, {})) {
    ChoiceState& state = choices_[index];
    state.holds = false;
    send(index, state, std::exchange(state.held, {}));
  }
  held_bytes_ = 0;
}

void Generation::send(size_t index, ChoiceState& state, const ChoiceDelta& delta) {
  const AnswerOptions& answer = request_.answer;
  const bool shows_tokens = !delta.entries.empty() || (answer.return_token_ids && !delta.tokens.empty());
  const bool first = !state.sent;
  if (answer.chat && first && (!delta.tokens.empty() || !delta.finish_reason.empty())) {
    state.sent = true;
    write_event(json_->role_chunk(index, choice_usage(index)));
  }
  if (delta.text.empty() && delta.finish_reason.empty() && !shows_tokens) return;
  state.sent = true;
  write_event(json_->chunk(index, delta, first, choice_usage(index)));
}

void Generation::write_event(const std::string& json) { writer_->write("data: " + json + "\n\n"); }

void Generation::complete() {
  if (request_.answer.stream) {
    send_held();
    if (request_.answer.include_usage) write_event(json_->usage_chunk(usage()));
    writer_->write("data: [DONE]\n\n");
    writer_->end();
  } else {
    std::vector<ChoiceDelta> choices;
    for (ChoiceState& state : choices_) choices.push_back(std::move(state.held));
    std::vector<std::vector<TokenLogprob>> logprobs;
    for (PromptState& prompt : prompts_) logprobs.push_back(std::move(prompt.logprobs));
    writer_->respond({.body = json_->whole(choices, logprobs, usage())});
  }
  finish(200, {});
}

void Generation::fail(const HttpError& error) {
  cancel_all();
  if (!request_.answer.stream) return refuse(error);
  send_held();
  write_event(error_json(error));
  writer_->end();
  finish(error.status, "error");
}

void Generation::cancel_all() {
  for (PromptState& prompt : prompts_) {
    if (!prompt.submitted || std::exchange(prompt.engine_open, 0) == 0) continue;
    context_.engine.cancel(prompt.id);
  }
}

// `reason`: why the choices that are still open end; empty when there are none.
void Generation::finish(int status, std::string_view reason) {
  over_ = true;
  abandoned_->store(true, std::memory_order_relaxed);
  for (const ChoiceState& state : choices_) {
    if (!state.choice.finished()) context_.observer.choice_finished(reason);
  }
  const Usage used = usage();
  const RequestSummary summary{.status = status,
                               .prompt_tokens = used.prompt_tokens,
                               .generation_tokens = used.completion_tokens,
                               .cached_tokens = used.cached_tokens,
                               .choices = static_cast<int32_t>(choices_.size()),
                               .ttft_s = ttft_s_,
                               .e2e_s = seconds_since_start()};
  context_.observer.request_finished(summary);
  log_end(status, summary, reason);
}

void Generation::log_end(int status, const RequestSummary& summary, std::string_view reason) const {
  const auto ms = [](double seconds) {
    return seconds < 0 ? Json() : Json(static_cast<int64_t>(seconds * 1000 + 0.5));
  };
  Json::Object fields = {{"id", id_},
                         {"path", path_},
                         {"status", status},
                         {"stream", request_.answer.stream},
                         {"choices", summary.choices},
                         {"prompt_tokens", summary.prompt_tokens},
                         {"cached_tokens", summary.cached_tokens},
                         {"completion_tokens", summary.generation_tokens},
                         {"ttft_ms", ms(summary.ttft_s)},
                         {"e2e_ms", ms(summary.e2e_s)}};
  if (!reason.empty()) fields.emplace_back("ended_by", reason);
  log_info("request", std::move(fields));
}

Usage Generation::usage() const {
  Usage usage;
  for (const Prompt& prompt : request_.prompts) {
    usage.prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
  }
  for (const PromptState& prompt : prompts_) usage.cached_tokens += prompt.cached_tokens;
  for (const ChoiceState& state : choices_) usage.completion_tokens += state.choice.generated();
  return usage;
}

Usage Generation::choice_usage(size_t index) const {
  if (!request_.answer.continuous_usage) return {};
  const size_t p = index / static_cast<size_t>(request_.choices);
  return {.prompt_tokens = static_cast<int64_t>(request_.prompts[p].tokens.size()),
          .completion_tokens = choices_[index].choice.generated(),
          .cached_tokens = prompts_[p].cached_tokens};
}

double Generation::seconds_since_start() const {
  return std::chrono::duration<double>(Clock::now() - arrived_).count();
}

}  // namespace skein
