#include "coordinator/control/job.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

namespace skein {
namespace {

TEST(OrtedCommand, IsSplitAsMpirunQuotesIt) {
  const auto words =
      parse_orted_command(R"--( orted -mca ess "env" -mca orte_node_regex "a,[2:10].77.0.2@0(2)" -mca x "")--");
  ASSERT_TRUE(words.ok()) << words.status().message();
  EXPECT_EQ(*words, (std::vector<std::string>{"orted", "-mca", "ess", "env", "-mca", "orte_node_regex",
                                              "a,[2:10].77.0.2@0(2)", "-mca", "x", ""}));
}

TEST(OrtedCommand, NothingElseIsRun) {
  for (const char* command : {"", "sh -c orted", "/bin/orted2 x", "orted x; reboot", "orted $(reboot)", "orted `reboot`",
                              "orted \"x", "orted x > y", "orted x\nreboot"}) {
    EXPECT_FALSE(parse_orted_command(command).ok()) << command;
  }
  EXPECT_FALSE(parse_orted_command("orted " + std::string(1 << 20, 'x')).ok());
}

// Why a job ended that wrote that text and returned 1.
std::string reason_of(const std::string& text) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  EXPECT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  close(ends[1]);
  Job job;
  job.error_fd = ends[0];
  job.read_errors();
  EXPECT_EQ(job.error_fd, -1);
  return job.end_reason(1);
}

TEST(JobReason, IsWhatARankSaidFirst) {
  EXPECT_EQ(reason_of("essay\nskein-worker: no model\nskein-worker: and then\n"), "no model");
  EXPECT_EQ(reason_of("words\n-----\n"), "mpirun ended with status 1: words");
  EXPECT_EQ(reason_of(""), "mpirun ended with status 1");
}

TEST(JobReason, SaysWhatMpirunMeansByItsEssays) {
  EXPECT_NE(reason_of("ORTE has lost communication with a remote daemon.\n\n  Peer host: b\n").find("down?"),
            std::string::npos);
  EXPECT_NE(reason_of("WARNING: Open MPI failed to TCP connect to a peer MPI process.  This\n  Peer host: b\n")
                .find("firewalls"),
            std::string::npos);
}

std::string value_behind(const std::vector<std::string>& words, const std::string& key) {
  const auto found = std::ranges::find(words, key);
  return found == words.end() ? "" : *(found + 1);
}

TEST(MpirunArguments, NodesAreAddressesAndLaunchesHavePortsOfTheirOwn) {
  Launch launch{.launch = 7, .ranks = 3, .spec = {}};
  launch.nodes = {{.node = "a", .address = "10.0.0.1", .ranks = 2}, {.node = "b", .address = "10.0.0.2", .ranks = 1}};
  const MpirunOptions options{.worker = {"/opt/skein-worker", "/run/x/spec.json"},
                              .rsh = "/opt/skein rsh",
                              .folder = "/run/x",
                              .ports = {.first = 7310, .last = 7809},
                              .networks = "10.0.0.0/24"};
  const auto words = mpirun_arguments(launch, options);
  EXPECT_EQ(value_behind(words, "--host"), "10.0.0.1:2,10.0.0.2:1");
  EXPECT_EQ(value_behind(words, "oob_tcp_dynamic_ipv4_ports"), "7338-7341");
  EXPECT_EQ(value_behind(words, "btl_tcp_port_min_v4"), "7560");
  EXPECT_EQ(words.back(), "/run/x/spec.json");
  launch.launch = 8;
  EXPECT_EQ(value_behind(mpirun_arguments(launch, options), "oob_tcp_dynamic_ipv4_ports"), "7342-7345");
  launch.nodes.clear();
  EXPECT_EQ(value_behind(mpirun_arguments(launch, options), "btl"), "self,vader");
}

}  // namespace
}  // namespace skein
