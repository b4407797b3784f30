#include "base/network.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace skein {
namespace {

TEST(Network, InterfacesAreNamedInThreeWays) {
  for (const char* wanted : {"lo", "127.0.0.1", "127.0.0.0/8", "absent0,127.0.0.0/8"}) {
    const auto found = find_interface(wanted);
    ASSERT_TRUE(found.ok()) << wanted << ": " << found.status().message();
    EXPECT_EQ(found->name, "lo") << wanted;
    EXPECT_EQ(found->network(), "127.0.0.0/8");
  }
  for (const char* wanted : {"", "absent0", "10.0.0.0/33", "10.0.0.0/x", "/8", "300.1.1.1/8"}) {
    EXPECT_FALSE(find_interface(wanted).ok()) << wanted;
  }
  EXPECT_EQ(interface_towards("127.0.0.1")->name, "lo");
}

TEST(Network, PortRanges) {
  EXPECT_EQ(parse_port_range("0").value(), PortRange{});
  EXPECT_EQ(parse_port_range("7310-7809").value(), (PortRange{7310, 7809}));
  EXPECT_EQ(to_string(PortRange{7310, 7809}), "7310-7809");
  for (const char* text : {"", "7310", "7310-", "-7809", "7809-7310", "1-70000", "x-y", "0-100", "7310-7320"}) {
    EXPECT_FALSE(parse_port_range(text).ok()) << text;
  }
}

TEST(Network, ListensOnTheFirstFreePort) {
  const auto any = listen_at("127.0.0.1", {});
  ASSERT_TRUE(any.ok()) << any.status().message();
  const auto taken = listen_at("127.0.0.1", {any->port, any->port});
  EXPECT_FALSE(taken.ok());
  close(any->fd);
  EXPECT_FALSE(listen_at("nowhere", {}).ok());
}

}  // namespace
}  // namespace skein
