#pragma once

#include <memory>
#include <string>
#include <vector>

#include "coordinator/api/observer.h"
#include "coordinator/cli/plan_accuracy.h"
#include "coordinator/cli/rank_memory.h"
#include "coordinator/control/core.h"
#include "coordinator/http/server.h"

namespace skein {

// Prometheus metrics: vLLM's names with its labels model_name and engine (the replica), so that dashboards made for it
// work, and skein_ ones for what it does not have. Loop thread only.
class ServerMetrics : public RequestObserver {
 public:
  explicit ServerMetrics(const std::string& model_name);
  ~ServerMetrics() override;

  void first_token(double seconds, int64_t prompt_tokens) override;
  void tokens_generated(int64_t tokens) override;
  void inter_token(double seconds_per_token, int64_t tokens) override;
  void choice_finished(std::string_view reason) override;
  void request_finished(const RequestSummary& summary) override;

  // The replicas were placed by the planner: say how right it was.
  void expect(PlanAccuracy accuracy);
  void replica_ready(uint32_t replica, double load_seconds);
  void ranks_hold(uint32_t replica, const std::vector<RankBytes>& ranks);
  void replica_lost(uint32_t replica);
  // The text exposition, with gauges as they are now.
  std::string render(const Core& core, const HttpCounters& http);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skein
