#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

// This machine's addresses, and the ranges that listeners take ports from. IPv4.

namespace skein {

struct Interface {
  std::string name;     // "eth0"
  std::string address;  // "10.0.0.7"
  int prefix = 32;      // bits of its network

  std::string network() const;  // "10.0.0.0/24"
};

// Interfaces that are up and have an address.
Result<std::vector<Interface>> list_interfaces();
// The first that `wanted` names: an interface, an address, or networks like "10.0.0.0/24", commas between them.
// kNotFound says which ones there are.
Result<Interface> find_interface(std::string_view wanted);
// The one that packets to `host` leave by. kNotFound: its name does not resolve, or nothing leads there.
Result<Interface> interface_towards(const std::string& host);

// Ports from `first` to `last`; both 0: any.
struct PortRange {
  int first = 0;
  int last = 0;
  bool operator==(const PortRange&) const = default;
};
// "7310-7809", or "0" for any.
Result<PortRange> parse_port_range(std::string_view text);
std::string to_string(const PortRange& range);

// A socket that listens on a free port of the range at `address`; the caller closes it.
struct Listening {
  int fd = -1;
  int port = 0;
};
Result<Listening> listen_at(const std::string& address, const PortRange& ports);

}  // namespace skein
