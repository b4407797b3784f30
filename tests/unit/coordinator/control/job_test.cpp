#include "coordinator/control/job.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

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
  job.errors.fd = ends[0];
  job.read_errors(1 << 16);
  EXPECT_EQ(job.errors.fd, -1);
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

TEST(JobReason, IsHowTheLastEssayBegins) {
  const std::string dashes = std::string(74, '-') + "\n";
  EXPECT_EQ(reason_of("starting\n" + dashes + "An old matter.\n" + dashes + dashes +
                      "An ORTE daemon has unexpectedly failed after launch and before\n"
                      "communicating back to mpirun.\n\n  Node: b\n\nPlease check the network.\n" + dashes +
                      "[a:12] 1 more process has sent help message help-x.txt / y\n"
                      "[a:12] Set MCA parameter \"orte_base_help_aggregate\" to 0 to see all help / error messages\n"),
            "mpirun ended with status 1: An ORTE daemon has unexpectedly failed after launch and before "
            "communicating back to mpirun.");
  EXPECT_EQ(reason_of(dashes + "Essay.\n" + dashes + "killed\n"), "mpirun ended with status 1: killed");
}

TEST(JobErrors, ThatNeverEndKeepNobodyBusy) {
  Job job;
  job.errors.fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  job.read_errors(3);
  EXPECT_GE(job.errors.fd, 0);
  close(job.errors.fd);
}

TEST(JobErrors, AreCutInLinesWhateverPiecesTheyComeIn) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  LineReader lines{.fd = ends[0], .line_bytes_max = 5};
  const auto say = [&](std::string_view text) {
    ASSERT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  };
  say("ab");
  EXPECT_EQ(lines.next(), std::nullopt);
  say("cde\n\n1234567\nend");
  for (const char* line : {"abcde", "", "12345", "67"}) EXPECT_EQ(lines.next(), line);
  EXPECT_EQ(lines.next(), std::nullopt);
  close(ends[1]);
  EXPECT_EQ(lines.next(), "end");
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_EQ(lines.fd, -1);
}

TEST(PrivateFile, IsThereAsAWholeOrNotAtAll) {
  auto folder = make_private_folder();
  ASSERT_TRUE(folder.ok());
  const std::string path = *folder + "/spec.json";
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 5, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);  // as a full disk: the first write is cut short, the next one fails
  const Status full = write_private_file(path, "0123456789");
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(full.message(), "cannot write " + path + ": File too large");
  EXPECT_TRUE(write_private_file(path, "0123456789").ok()) << "nothing is left of the first";
  EXPECT_FALSE(write_private_file(path, "x").ok()) << "never over another";
  std::filesystem::remove_all(*folder);
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
