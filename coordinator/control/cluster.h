#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/control/core.h"
#include "coordinator/engine.h"

namespace skein {

class Loop;

struct ClusterConfig {
  CoreConfig core;
  double lease_seconds = 2;
};

// What the outside hears about replicas. Called on the loop thread.
struct ClusterEvents {
  std::function<void(const ReplicaReady&)> ready;
  std::function<void(const ReplicaLost&)> lost;
  std::function<void(const std::string& reason)> failed;  // the server cannot come up: stop() and say why
};

// Drives the Core with a real socket, an agent process and a clock; the Engine that the API talks to. Owns its agent,
// which owns the replicas: nothing outlives this process by more than the lease. Loop thread only.
class Cluster : public Engine {
 public:
  // Starts the agent, which launches every replica.
  static Result<std::unique_ptr<Cluster>> start(Loop& loop, ClusterConfig config, ClusterEvents events);
  ~Cluster() override;

  Result<uint64_t> submit(GenerationRequest request, OnFrame on_frame) override;
  void cancel(uint64_t id) override;
  EngineHealth health() const override;
  std::string metrics() const override;
  void set_metrics(std::function<std::string()> render);

  const Core& core() const;
  // Admits nothing new. `done` is called once when no request is left, or after `seconds`.
  void drain(double seconds, std::function<void()> done);
  // Ends replicas and agent; `done` is called when they are gone.
  void stop(std::function<void()> done);

 private:
  struct State;
  explicit Cluster(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
