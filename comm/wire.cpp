#include "comm/wire.h"

#include <algorithm>

#include "base/probe.h"
#include "comm/wire.pb.h"

namespace skein {
namespace {

void to_wire(const TokenLogprob& from, wire::Logprob* to) {
  to->set_token(from.token);
  to->set_logprob(from.logprob);
  to->set_rank(from.rank);
  for (const auto& [token, logprob] : from.top) {
    to->add_top_tokens(token);
    to->add_top_logprobs(logprob);
  }
}

TokenLogprob from_wire(const wire::Logprob& from) {
  TokenLogprob to{.token = from.token(), .logprob = from.logprob(), .rank = from.rank(), .top = {}};
  for (int i = 0; i < from.top_tokens_size(); ++i) {
    to.top.emplace_back(from.top_tokens(i), from.top_logprobs(i));
  }
  return to;
}

bool consistent(const wire::Logprob& logprob) {
  return logprob.top_tokens_size() == logprob.top_logprobs_size();
}

void fill(const RegisterReplica& from, wire::Frame* frame) {
  auto* to = frame->mutable_register_replica();
  to->set_replica(from.replica);
  to->set_launch(from.launch);
  to->set_build(from.build);
  to->set_numerics_id(from.numerics_id);
  to->set_ranks(from.ranks);
  to->set_slots(from.slots);
  to->set_kv_tokens(from.kv_tokens);
  to->set_context_max(from.context_max);
  to->set_load_seconds(from.load_seconds);
  to->set_transport(from.transport);
  to->set_samples(from.samples);
  to->mutable_rank_bytes()->Add(from.rank_bytes.begin(), from.rank_bytes.end());
}

Result<Frame> read(const wire::RegisterReplica& from) {
  const bool told = from.rank_bytes_size() != 0;
  if (from.ranks() > kReplicaRanksMax || (told && from.rank_bytes_size() != static_cast<int>(from.ranks()))) {
    return corrupt("a replica of " + std::to_string(from.ranks()) + " ranks says what " +
                   std::to_string(from.rank_bytes_size()) + " hold");
  }
  const auto too_much = [](uint64_t bytes) { return bytes > kDeviceBytesMax; };
  if (from.kv_tokens() > kReplicaTokensMax || std::ranges::any_of(from.rank_bytes(), too_much)) {
    return corrupt("a replica says that it holds more than any device can");
  }
  if (from.samples().size() > kProbeBytesMax) {
    return corrupt("a probe has samples of " + std::to_string(from.samples().size()) + " bytes, which is over the limit");
  }
  return Frame(RegisterReplica{.replica = from.replica(),
                               .launch = from.launch(),
                               .build = from.build(),
                               .numerics_id = from.numerics_id(),
                               .ranks = from.ranks(),
                               .slots = from.slots(),
                               .kv_tokens = from.kv_tokens(),
                               .context_max = from.context_max(),
                               .load_seconds = from.load_seconds(),
                               .transport = from.transport(),
                               .samples = from.samples(),
                               .rank_bytes = {from.rank_bytes().begin(), from.rank_bytes().end()}});
}

void to_wire(const StepWork& from, wire::StepWork* to) {
  to->set_steps(from.steps);
  to->set_seconds(from.seconds);
  to->set_lanes(from.lanes);
  to->set_decodes(from.decodes);
  to->set_decode_keys(from.decode_keys);
  to->set_prompt_tokens(from.prompt_tokens);
  to->set_prompt_keys(from.prompt_keys);
  to->set_prompt_rows(from.prompt_rows);
}

StepWork from_wire(const wire::StepWork& from) {
  return {.steps = from.steps(),
          .seconds = from.seconds(),
          .lanes = from.lanes(),
          .decodes = from.decodes(),
          .decode_keys = from.decode_keys(),
          .prompt_tokens = from.prompt_tokens(),
          .prompt_keys = from.prompt_keys(),
          .prompt_rows = from.prompt_rows()};
}

void fill(const ReplicaStatus& from, wire::Frame* frame) {
  auto* to = frame->mutable_replica_status();
  to->set_launch(from.launch);
  to->set_running(from.running);
  to->set_waiting(from.waiting);
  to->set_preemptions(from.preemptions);
  to->set_prefix_queries(from.prefix_queries);
  to->set_prefix_hits(from.prefix_hits);
  to->set_kv_usage(from.kv_usage);
  to->set_steps(from.steps);
  to->set_starved_seconds(from.starved_seconds);
  to_wire(from.decode_work, to->mutable_decode_work());
  to_wire(from.prefill_work, to->mutable_prefill_work());
}

Result<Frame> read(const wire::ReplicaStatus& from) {
  return Frame(ReplicaStatus{.launch = from.launch(),
                             .running = from.running(),
                             .waiting = from.waiting(),
                             .preemptions = from.preemptions(),
                             .prefix_queries = from.prefix_queries(),
                             .prefix_hits = from.prefix_hits(),
                             .kv_usage = from.kv_usage(),
                             .steps = from.steps(),
                             .starved_seconds = from.starved_seconds(),
                             .decode_work = from_wire(from.decode_work()),
                             .prefill_work = from_wire(from.prefill_work())});
}

void fill(const TokenFrame& from, wire::Frame* frame) {
  auto* to = frame->mutable_tokens();
  to->set_request(from.request);
  to->set_epoch(from.epoch);
  to->set_choice(from.choice);
  to->set_first_index(from.first_index);
  to->mutable_tokens()->Add(from.tokens.begin(), from.tokens.end());
  for (const TokenLogprob& logprob : from.logprobs) to_wire(logprob, to->add_logprobs());
  for (const TokenLogprob& logprob : from.prompt_logprobs) {
    to_wire(logprob, to->add_prompt_logprobs());
  }
  to->set_cached_tokens(from.cached_tokens);
  to->set_finish(static_cast<uint32_t>(from.finish));
  to->set_error(from.error);
}

Result<Frame> read(const wire::Tokens& from) {
  if (from.finish() > static_cast<uint32_t>(FinishReason::kError)) {
    return corrupt("a token frame has the unknown finish reason " + std::to_string(from.finish()));
  }
  if (from.logprobs_size() != 0 && from.logprobs_size() != from.tokens_size()) {
    return corrupt("a token frame has " + std::to_string(from.tokens_size()) + " tokens but " +
                   std::to_string(from.logprobs_size()) + " log-probabilities");
  }
  TokenFrame to{.request = from.request(),
                .epoch = from.epoch(),
                .choice = from.choice(),
                .first_index = from.first_index(),
                .tokens = {from.tokens().begin(), from.tokens().end()},
                .logprobs = {},
                .prompt_logprobs = {},
                .cached_tokens = from.cached_tokens(),
                .finish = static_cast<FinishReason>(from.finish()),
                .error = from.error()};
  for (const auto& logprob : from.logprobs()) {
    if (!consistent(logprob)) return corrupt("a log-probability list has no token for each value");
    to.logprobs.push_back(from_wire(logprob));
  }
  for (const auto& logprob : from.prompt_logprobs()) {
    if (!consistent(logprob)) return corrupt("a log-probability list has no token for each value");
    to.prompt_logprobs.push_back(from_wire(logprob));
  }
  return Frame(std::move(to));
}

void fill(const SamplingParams& from, wire::Sampling* to) {
  to->set_temperature(from.temperature);
  to->set_top_p(from.top_p);
  to->set_min_p(from.min_p);
  to->set_top_k(from.top_k);
  to->set_presence_penalty(from.presence_penalty);
  to->set_frequency_penalty(from.frequency_penalty);
  to->set_repetition_penalty(from.repetition_penalty);
  to->set_seed(from.seed);
  to->set_max_tokens(from.max_tokens);
  to->set_min_tokens(from.min_tokens);
  to->set_top_logprobs(from.top_logprobs);
  to->set_prompt_logprobs(from.prompt_logprobs);
  to->mutable_stop_tokens()->Add(from.stop_tokens.begin(), from.stop_tokens.end());
  for (const auto& [token, value] : from.logit_bias) {
    to->add_bias_tokens(token);
    to->add_bias_values(value);
  }
}

SamplingParams from_wire(const wire::Sampling& from) {
  SamplingParams to{.temperature = from.temperature(),
                    .top_p = from.top_p(),
                    .min_p = from.min_p(),
                    .top_k = from.top_k(),
                    .presence_penalty = from.presence_penalty(),
                    .frequency_penalty = from.frequency_penalty(),
                    .repetition_penalty = from.repetition_penalty(),
                    .seed = from.seed(),
                    .max_tokens = from.max_tokens(),
                    .min_tokens = from.min_tokens(),
                    .top_logprobs = from.top_logprobs(),
                    .prompt_logprobs = from.prompt_logprobs(),
                    .stop_tokens = {from.stop_tokens().begin(), from.stop_tokens().end()},
                    .logit_bias = {}};
  for (int i = 0; i < from.bias_tokens_size(); ++i) {
    to.logit_bias.emplace_back(from.bias_tokens(i), from.bias_values(i));
  }
  return to;
}

void fill(const GenerationRequest& from, wire::Frame* frame) {
  auto* to = frame->mutable_request();
  to->set_id(from.id);
  to->set_epoch(from.epoch);
  to->mutable_tokens()->Add(from.tokens.begin(), from.tokens.end());
  to->set_prompt_tokens(from.prompt_tokens);
  to->set_choices(from.choices);
  fill(from.sampling, to->mutable_sampling());
  to->set_cache_salt(from.cache_salt);
}

Result<Frame> read(const wire::Request& from) {
  if (from.prompt_tokens() < 1 || from.prompt_tokens() > from.tokens_size()) {
    return corrupt("a request frame counts " + std::to_string(from.prompt_tokens()) +
                   " prompt tokens among " + std::to_string(from.tokens_size()));
  }
  if (from.sampling().bias_tokens_size() != from.sampling().bias_values_size()) {
    return corrupt("a request frame has not one logit bias for each biased token");
  }
  return Frame(GenerationRequest{.id = from.id(),
                                 .epoch = from.epoch(),
                                 .tokens = {from.tokens().begin(), from.tokens().end()},
                                 .prompt_tokens = from.prompt_tokens(),
                                 .choices = from.choices(),
                                 .sampling = from_wire(from.sampling()),
                                 .cache_salt = from.cache_salt()});
}

void fill(const CancelRequest& from, wire::Frame* frame) {
  frame->mutable_cancel()->set_request(from.request);
  frame->mutable_cancel()->set_epoch(from.epoch);
}

void fill(const Lease&, wire::Frame* frame) { frame->mutable_lease(); }
void fill(const Stop&, wire::Frame* frame) { frame->mutable_stop(); }

void fill(const AgentJob& from, wire::AgentJob* to) {
  to->set_launch(from.launch);
  to->set_replica(from.replica);
  to->set_identity(from.identity);
}

AgentJob from_wire(const wire::AgentJob& from) {
  return {.launch = from.launch(), .replica = from.replica(), .identity = from.identity()};
}

void fill(const RegisterAgent& from, wire::Frame* frame) {
  auto* to = frame->mutable_register_agent();
  to->set_node(from.node);
  to->set_build(from.build);
  to->set_instance(from.instance);
  to->set_address(from.address);
  to->set_network(from.network);
  to->set_topology(from.topology);
  for (const AgentJob& job : from.jobs) fill(job, to->add_jobs());
}

Result<Frame> read(const wire::RegisterAgent& from) {
  RegisterAgent to{.node = from.node(),
                   .build = from.build(),
                   .instance = from.instance(),
                   .address = from.address(),
                   .network = from.network(),
                   .topology = from.topology(),
                   .jobs = {}};
  for (const auto& job : from.jobs()) to.jobs.push_back(from_wire(job));
  return Frame(std::move(to));
}

void fill(const Introduce& from, wire::Frame* frame) { frame->mutable_introduce()->set_instance(from.instance); }
void fill(const RefuseAgent& from, wire::Frame* frame) { frame->mutable_refuse_agent()->set_reason(from.reason); }

void fill(const AgentStatus& from, wire::Frame* frame) {
  auto* to = frame->mutable_agent_status();
  to->mutable_launches()->Add(from.launches.begin(), from.launches.end());
  to->set_memory_free(from.memory_free);
  to->mutable_gpu_memory_free()->Add(from.gpu_memory_free.begin(), from.gpu_memory_free.end());
  to->mutable_held()->Add(from.held.begin(), from.held.end());
  to->set_driver_silent_s(from.driver_silent_s);
}

template <typename List>
bool are_devices(const List& devices) {
  return devices.size() <= static_cast<int>(kNodeDevicesMax) &&
         std::ranges::all_of(devices, [](uint32_t device) { return device < kNodeDevicesMax; });
}

Result<Frame> read(const wire::AgentStatus& from) {
  if (!are_devices(from.held()) || from.gpu_memory_free_size() > static_cast<int>(kNodeDevicesMax)) {
    return corrupt("an agent's status names devices that no node has");
  }
  return Frame(AgentStatus{.launches = {from.launches().begin(), from.launches().end()},
                           .memory_free = from.memory_free(),
                           .gpu_memory_free = {from.gpu_memory_free().begin(), from.gpu_memory_free().end()},
                           .held = {from.held().begin(), from.held().end()},
                           .driver_silent_s = from.driver_silent_s()});
}

void fill(const Launch& from, wire::Frame* frame) {
  auto* to = frame->mutable_launch();
  to->set_launch(from.launch);
  to->set_ranks(from.ranks);
  to->set_spec(from.spec);
  to->set_replica(from.replica);
  to->set_identity(from.identity);
  for (const LaunchNode& node : from.nodes) {
    auto* added = to->add_nodes();
    added->set_node(node.node);
    added->set_address(node.address);
    added->set_ranks(node.ranks);
  }
}

Result<Frame> read(const wire::Launch& from) {
  Launch to{.launch = from.launch(),
            .ranks = from.ranks(),
            .spec = from.spec(),
            .replica = from.replica(),
            .identity = from.identity(),
            .nodes = {}};
  uint64_t placed = 0;
  for (const auto& node : from.nodes()) {
    to.nodes.push_back({.node = node.node(), .address = node.address(), .ranks = node.ranks()});
    placed += node.ranks();
  }
  if (!to.nodes.empty() && placed != to.ranks) {
    return corrupt("a launch frame places " + std::to_string(placed) + " of " + std::to_string(to.ranks) + " ranks");
  }
  return Frame(std::move(to));
}

void fill(const StartDaemon& from, wire::Frame* frame) {
  fill(from.job, frame->mutable_start_daemon()->mutable_job());
  frame->mutable_start_daemon()->set_node(from.node);
  frame->mutable_start_daemon()->set_command(from.command);
  auto* share = frame->mutable_start_daemon()->mutable_share();
  share->mutable_devices()->Add(from.share.devices.begin(), from.share.devices.end());
  share->set_gpus(from.share.gpus);
  share->mutable_device_bytes()->Add(from.share.device_bytes.begin(), from.share.device_bytes.end());
}

Result<Frame> read(const wire::StartDaemon& from) {
  const auto& share = from.share();
  if (!are_devices(share.devices())) return corrupt("a launch names devices that no node has");
  const auto& bytes = share.device_bytes();
  const auto too_much = [](uint64_t device) { return device > kDeviceBytesMax; };
  if ((!bytes.empty() && bytes.size() != share.devices_size()) || std::ranges::any_of(bytes, too_much)) {
    return corrupt("a launch has no memory for each of its devices");
  }
  return Frame(StartDaemon{.job = from_wire(from.job()),
                           .node = from.node(),
                           .command = from.command(),
                           .share = {.devices = {share.devices().begin(), share.devices().end()},
                                     .gpus = share.gpus(),
                                     .device_bytes = {bytes.begin(), bytes.end()}}});
}

void fill(const DaemonStarted& from, wire::Frame* frame) {
  frame->mutable_daemon_started()->set_launch(from.launch);
  frame->mutable_daemon_started()->set_node(from.node);
  frame->mutable_daemon_started()->set_error(from.error);
}

void fill(const LaunchReady& from, wire::Frame* frame) { frame->mutable_launch_ready()->set_launch(from.launch); }

void fill(const EndLaunch& from, wire::Frame* frame) {
  frame->mutable_end_launch()->set_launch(from.launch);
}

void fill(const LaunchEnded& from, wire::Frame* frame) {
  frame->mutable_launch_ended()->set_launch(from.launch);
  frame->mutable_launch_ended()->set_exit_status(from.exit_status);
  frame->mutable_launch_ended()->set_reason(from.reason);
}

}  // namespace

std::string encode_frame(const Frame& frame, const Envelope& envelope) {
  wire::Frame message;
  message.set_version(envelope.version);
  message.set_sender(envelope.sender);
  message.set_number(envelope.number);
  std::visit([&](const auto& body) { fill(body, &message); }, frame);
  return message.SerializeAsString();
}

Result<Frame> decode_frame(std::string_view bytes, Envelope* envelope) {
  if (bytes.size() > kFrameBytesMax) {
    return corrupt("a frame of " + std::to_string(bytes.size()) + " bytes is over the limit");
  }
  wire::Frame message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return corrupt("a message is no frame");
  }
  if (message.sender().size() > kSenderBytesMax) return corrupt("a frame's sender has a name that is too long");
  if (envelope != nullptr) {
    *envelope = {.version = message.version(), .sender = message.sender(), .number = message.number()};
  }
  if (message.version() != kWireVersion) {
    return unsupported("wire version " + std::to_string(message.version()) + " meets a Skein that speaks " +
                       std::to_string(kWireVersion) + ": run the same Skein everywhere");
  }
  switch (message.body_case()) {
    case wire::Frame::kRegisterReplica: return read(message.register_replica());
    case wire::Frame::kReplicaStatus: return read(message.replica_status());
    case wire::Frame::kTokens: return read(message.tokens());
    case wire::Frame::kRequest: return read(message.request());
    case wire::Frame::kCancel:
      return Frame(CancelRequest{message.cancel().request(), message.cancel().epoch()});
    case wire::Frame::kLease: return Frame(Lease{});
    case wire::Frame::kStop: return Frame(Stop{});
    case wire::Frame::kRegisterAgent: return read(message.register_agent());
    case wire::Frame::kLaunch: return read(message.launch());
    case wire::Frame::kIntroduce: return Frame(Introduce{message.introduce().instance()});
    case wire::Frame::kRefuseAgent: return Frame(RefuseAgent{message.refuse_agent().reason()});
    case wire::Frame::kAgentStatus: return read(message.agent_status());
    case wire::Frame::kStartDaemon: return read(message.start_daemon());
    case wire::Frame::kDaemonStarted:
      return Frame(DaemonStarted{message.daemon_started().launch(), message.daemon_started().node(),
                                 message.daemon_started().error()});
    case wire::Frame::kLaunchReady: return Frame(LaunchReady{message.launch_ready().launch()});
    case wire::Frame::kEndLaunch: return Frame(EndLaunch{message.end_launch().launch()});
    case wire::Frame::kLaunchEnded:
      return Frame(LaunchEnded{message.launch_ended().launch(), message.launch_ended().exit_status(),
                               message.launch_ended().reason()});
    case wire::Frame::BODY_NOT_SET: return corrupt("a frame has no body that this build knows");
  }
  return corrupt("a frame has no body that this build knows");
}

}  // namespace skein
