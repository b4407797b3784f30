#include "base/network.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

namespace skein {
namespace {

constexpr int kBacklog = 512;
constexpr int kPortsMin = 32;

std::string text_of(in_addr address) {
  char text[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, &address, text, sizeof text);
  return text;
}

in_addr masked(in_addr address, int prefix) {
  const uint32_t mask = prefix == 0 ? 0 : ~uint32_t{0} << (32 - prefix);
  return {htonl(ntohl(address.s_addr) & mask)};
}

bool whole_number(std::string_view text, int most, int* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size() && *number >= 0 && *number <= most;
}

// Whether one entry of a list names that interface.
bool names(std::string_view wanted, const Interface& interface) {
  if (wanted == interface.name || wanted == interface.address) return true;
  const size_t slash = wanted.find('/');
  int prefix = 0;
  if (slash == std::string_view::npos || !whole_number(wanted.substr(slash + 1), 32, &prefix)) return false;
  in_addr network{}, address{};
  if (inet_pton(AF_INET, std::string(wanted.substr(0, slash)).c_str(), &network) != 1) return false;
  inet_pton(AF_INET, interface.address.c_str(), &address);
  return masked(network, prefix).s_addr == masked(address, prefix).s_addr;
}

}  // namespace

std::string Interface::network() const {
  in_addr number{};
  inet_pton(AF_INET, address.c_str(), &number);
  return text_of(masked(number, prefix)) + "/" + std::to_string(prefix);
}

Result<std::vector<Interface>> list_interfaces() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return unavailable(std::string("cannot list network interfaces: ") + std::strerror(errno));
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(first, freeifaddrs);
  std::vector<Interface> found;
  for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    if ((entry->ifa_flags & IFF_UP) == 0) continue;
    const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    const auto* mask = reinterpret_cast<const sockaddr_in*>(entry->ifa_netmask);
    found.push_back({.name = entry->ifa_name,
                     .address = text_of(address->sin_addr),
                     .prefix = mask == nullptr ? 32 : std::popcount(mask->sin_addr.s_addr)});
  }
  return found;
}

Result<Interface> find_interface(std::string_view wanted) {
  ASSIGN_OR_RETURN(const std::vector<Interface> interfaces, list_interfaces());
  for (std::string_view rest = wanted; !rest.empty();) {
    const size_t comma = std::min(rest.find(','), rest.size());
    for (const Interface& interface : interfaces) {
      if (names(rest.substr(0, comma), interface)) return interface;
    }
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  std::string there;
  for (const Interface& interface : interfaces) {
    there += (there.empty() ? "" : ", ") + interface.name + " " + interface.address + "/" +
             std::to_string(interface.prefix);
  }
  return not_found("no network interface of this machine that is up is \"" + std::string(wanted) + "\"; it has " + there);
}

Result<Interface> interface_towards(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), "9", &hints, &found); error != 0) {
    return not_found("the host name \"" + host + "\" does not resolve (" + gai_strerror(error) +
                     "): write its address, or add it to DNS or /etc/hosts");
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_in own{};
  socklen_t size = sizeof own;
  // Of a datagram socket this sends nothing: it asks the routing table.
  const bool routed = connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                      getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0;
  const int error = errno;
  close(fd);
  if (!routed) return not_found("no route leads to " + host + ": " + std::strerror(error));
  return find_interface(text_of(own.sin_addr));
}

Result<PortRange> parse_port_range(std::string_view text) {
  if (text == "0") return PortRange{};
  PortRange range;
  const size_t dash = std::min(text.find('-'), text.size());
  if (dash == text.size() || !whole_number(text.substr(0, dash), 65535, &range.first) ||
      !whole_number(text.substr(dash + 1), 65535, &range.last) || range.first < 1 || range.last < range.first) {
    return invalid_argument("\"" + std::string(text) + "\" is no range of ports: write FIRST-LAST, as in 7310-7809, or 0");
  }
  if (range.last - range.first + 1 < kPortsMin) {
    return invalid_argument("the ports " + std::string(text) + " are too few: give " + std::to_string(kPortsMin) +
                            " at least, 10 for each replica of a node and 4 for each rank");
  }
  return range;
}

std::string to_string(const PortRange& range) {
  return range == PortRange{} ? "0" : std::to_string(range.first) + "-" + std::to_string(range.last);
}

Result<Listening> listen_at(const std::string& address, const PortRange& ports) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  if (inet_pton(AF_INET, address.c_str(), &where.sin_addr) != 1) {
    return invalid_argument("\"" + address + "\" is no IPv4 address");
  }
  int error = 0;
  for (int port = ports.first; port <= ports.last; ++port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    where.sin_port = htons(static_cast<uint16_t>(port));
    socklen_t size = sizeof where;
    if (bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0 && listen(fd, kBacklog) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&where), &size) == 0) {
      return Listening{.fd = fd, .port = ntohs(where.sin_port)};
    }
    error = errno;
    close(fd);
    if (error != EADDRINUSE) break;
  }
  return unavailable("cannot listen at " + address + ", ports " + to_string(ports) + ": " + std::strerror(error));
}

}  // namespace skein
