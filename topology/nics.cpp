#include "topology/nics.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <set>

namespace skein {
namespace {

constexpr int kEthernet = 1;  // ARPHRD_ETHER in /sys/class/net/*/type

int numa_at(const Sysfs& sysfs, const std::string& device) {
  return static_cast<int>(std::clamp<int64_t>(sysfs.integer(device + "/numa_node").value_or(-1), -1, 255));
}

// "400 Gb/sec (4X NDR)"
double port_rate(const std::string& text) {
  double gbit = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), gbit);
  return error == std::errc() ? gbit * 1e9 / 8 : 0;
}

// How many bridges and root complexes two devices' paths share: the more, the nearer.
int shared_steps(const std::string& a, const std::string& b) {
  int steps = 0;
  for (size_t begin = 0;;) {
    const size_t end = std::min(a.find('/', begin), a.size());
    if (b.compare(0, end, a, 0, end) != 0 || (b.size() > end && b[end] != '/')) return steps;
    ++steps;
    if (end == a.size()) return steps;
    begin = end + 1;
  }
}

bool is_up(const Sysfs& sysfs, const std::string& name) {
  const std::string state = sysfs.text("class/net/" + name + "/operstate");
  return state == "up" || (state == "unknown" && sysfs.integer("class/net/" + name + "/carrier") == 1);
}

class Finder {
 public:
  Finder(const Sysfs& sysfs, const std::vector<std::string>& pci) : sysfs_(sysfs) {
    for (const std::string& address : pci) {
      devices_.push_back(address.empty() ? "" : sysfs.target("bus/pci/devices/" + address));
    }
  }

  std::vector<Nic> find() {
    for (const std::string& name : sysfs_.names("class/infiniband")) add_ports(name);
    std::vector<std::string> virtual_names;
    for (const std::string& name : sysfs_.names("class/net")) {
      const std::string device = sysfs_.target("class/net/" + name + "/device");
      if (device.empty()) virtual_names.push_back(name);
      else if (!rdma_devices_.contains(device)) add_interface(name, device);
    }
    if (nics_.empty()) {
      for (const std::string& name : virtual_names) {
        if (is_up(sysfs_, name) && joins_hosts(name)) add_interface(name, "");
      }
    }
    return std::move(nics_);
  }

 private:
  void add_ports(const std::string& name) {
    const std::string device = sysfs_.target("class/infiniband/" + name + "/device");
    if (!device.empty()) rdma_devices_.insert(device);
    const std::vector<std::string> ports = sysfs_.names("class/infiniband/" + name + "/ports");
    for (const std::string& port : ports) {
      const std::string folder = "class/infiniband/" + name + "/ports/" + port + "/";
      Nic nic;
      nic.name = ports.size() == 1 ? name : name + ":" + port;
      nic.network = sysfs_.text(folder + "link_layer") == "Ethernet" ? NetworkKind::kRoce : NetworkKind::kInfiniBand;
      nic.bytes_per_s = port_rate(sysfs_.text(folder + "rate"));
      nic.up = sysfs_.text(folder + "state").ends_with("ACTIVE") && nic.bytes_per_s > 0;  // "4: ACTIVE"
      place(device, &nic);
      nics_.push_back(std::move(nic));
    }
  }

  // Not the loopback, nor what only joins interfaces of this machine.
  bool joins_hosts(const std::string& name) const {
    const std::string folder = "class/net/" + name + "/";
    return sysfs_.integer(folder + "type") == kEthernet && !sysfs_.has(folder + "bridge") &&
           !sysfs_.has(folder + "tun_flags");
  }

  void add_interface(const std::string& name, const std::string& device) {
    if (sysfs_.integer("class/net/" + name + "/type") != kEthernet) return;
    Nic nic = interface_nic(sysfs_, name);
    place(device, &nic);
    nics_.push_back(std::move(nic));
  }

  // Nearest are the devices behind the same bridge, else those of the same socket.
  void place(const std::string& device, Nic* nic) const {
    if (device.empty()) return;
    nic->numa = numa_at(sysfs_, device);
    int best = 0;
    for (size_t i = 0; i < devices_.size(); ++i) {
      if (devices_[i].empty()) continue;
      const int steps = shared_steps(devices_[i], device);
      const bool same_socket = nic->numa >= 0 && numa_at(sysfs_, devices_[i]) == nic->numa;
      const int nearness = steps > kRootSteps ? steps : same_socket ? 1 : 0;
      if (nearness == 0 || nearness < best) continue;
      if (nearness > best) nic->devices.clear();
      best = nearness;
      nic->devices.push_back(static_cast<int>(i));
    }
  }

  static constexpr int kRootSteps = 2;  // "devices/pci0000:00": all devices of a host bridge share it
  const Sysfs& sysfs_;
  std::vector<std::string> devices_;  // where the devices are below the root; empty: not there
  std::set<std::string> rdma_devices_;
  std::vector<Nic> nics_;
};

}  // namespace

std::vector<Nic> discover_nics(const Sysfs& sysfs, const std::vector<std::string>& pci) {
  return Finder(sysfs, pci).find();
}

Nic interface_nic(const Sysfs& sysfs, const std::string& name) {
  Nic nic;
  nic.name = name;
  const int64_t mbit = sysfs.integer("class/net/" + name + "/speed").value_or(-1);
  nic.up = is_up(sysfs, name);
  nic.rate_assumed = nic.up && mbit <= 0;  // those of virtual machines; 10 Gb/s is what clouds give at least
  nic.bytes_per_s = (mbit > 0 ? static_cast<double>(mbit) : nic.up ? 10'000 : 0) * 1e6 / 8;
  return nic;
}

int numa_of(const Sysfs& sysfs, const std::string& pci) {
  return pci.empty() ? -1 : numa_at(sysfs, "bus/pci/devices/" + pci);
}

}  // namespace skein
