#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "comm/messages.h"
#include "coordinator/control/core.h"
#include "coordinator/engine.h"

namespace skein {

class Loop;

// Where agents of several nodes find this coordinator.
struct ListenConfig {
  std::string endpoint;  // "tcp://10.0.0.1:7300": one address, never *
  ListenKeys keys;
  double orphan_seconds = 600;  // that replicas live on without a coordinator
};

struct ClusterConfig {
  CoreConfig core;
  double lease_seconds = 2;            // of this machine's agent and its replicas
  std::optional<ListenConfig> listen;  // none: this machine alone, with an agent of its own
};

// What the outside hears about replicas. Called on the loop thread.
struct ClusterEvents {
  std::function<void(const ReplicaReady&)> ready;
  std::function<void(const ReplicaLost&)> lost;
  std::function<void(const std::string& reason)> failed;  // the server cannot come up: stop() and say why
};

// Drives the Core with a real socket, agents and a clock; the Engine that the API talks to. On one machine it owns its
// agent, which owns the replicas: nothing outlives this process by more than the lease. In a cluster agents come to it,
// and their replicas wait for the next coordinator. Loop thread only.
class ReplicaEngine : public Engine {
 public:
  // Starts the agent, or listens for agents; they launch every replica.
  static Result<std::unique_ptr<ReplicaEngine>> start(Loop& loop, ClusterConfig config, ClusterEvents events);
  ~ReplicaEngine() override;

  Result<uint64_t> submit(GenerationRequest request, OnFrame on_frame) override;
  void cancel(uint64_t id) override;
  EngineHealth health() const override;
  std::string metrics() const override;
  std::string nodes() const override;
  void set_metrics(std::function<std::string()> render);

  const Core& core() const;
  // Admits nothing new. `done` is called once when no request is left, or after `seconds`.
  void drain(double seconds, std::function<void()> done);
  // Ends replicas and agent; `done` is called when they are gone.
  void stop(std::function<void()> done);

 private:
  struct State;
  explicit ReplicaEngine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
