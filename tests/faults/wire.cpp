// wire: joins network namespaces by links that are as slow as asked for, where the kernel has no
// netem. See kHelp.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr const char* kHelp =
    "wire: a switch between network namespaces, each behind a link with a delay and a rate.\n"
    "\n"
    "usage: wire DELAY_MS MBIT_PER_S NAMESPACE...\n"
    "\n"
    "Makes a tap device 'wire' in each namespace (ip netns add ...), to be given an address there, "
    "and passes frames between\n"
    "them until it is killed. A frame leaves its sender's link when the one before it has gone, at "
    "the rate given, and\n"
    "arrives the delay later. Says 'ready' when the devices are there.\n";

using Clock = std::chrono::steady_clock;
using Address = std::array<unsigned char, ETH_ALEN>;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

int open_tap(const std::string& name_space) {
  const int ours = ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  const int theirs = ::open(("/run/netns/" + name_space).c_str(), O_RDONLY | O_CLOEXEC);
  if (theirs < 0) fail("namespace " + name_space);
  if (::setns(theirs, CLONE_NEWNET) != 0) fail("enter " + name_space);
  const int tap = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0) fail("/dev/net/tun");
  ifreq request{};
  std::strncpy(request.ifr_name, "wire", IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (::ioctl(tap, TUNSETIFF, &request) != 0) fail("make a tap device in " + name_space);
  if (::setns(ours, CLONE_NEWNET) != 0) fail("come back");
  ::close(theirs);
  ::close(ours);
  return tap;
}

struct Frame {
  Clock::time_point due;
  std::size_t from = 0;
  std::vector<unsigned char> bytes;
};

class Wire {
 public:
  Wire(double delay_ms, double mbit_per_s, const std::vector<std::string>& namespaces)
      : delay_(std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double, std::milli>(delay_ms))),
        seconds_per_byte_(8 / (mbit_per_s * 1e6)),
        free_at_(namespaces.size()) {
    for (const auto& name : namespaces) taps_.push_back(open_tap(name));
    timer_ = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  }

  void run() {
    std::vector<pollfd> waits;
    for (const int tap : taps_) waits.push_back({tap, POLLIN, 0});
    waits.push_back({timer_, POLLIN, 0});
    for (;;) {
      set_timer();
      if (::poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) fail("poll");
      std::uint64_t ignored = 0;
      if (::read(timer_, &ignored, sizeof ignored) < 0 && errno != EAGAIN) fail("timer");
      for (std::size_t i = 0; i < taps_.size(); ++i) take(i);
      deliver();
    }
  }

 private:
  void take(std::size_t from) {
    std::array<unsigned char, 65536> buffer{};
    for (;;) {
      const ssize_t size = ::read(taps_[from], buffer.data(), buffer.size());
      if (size < static_cast<ssize_t>(sizeof(ether_header))) return;
      Address source{};
      std::memcpy(source.data(), buffer.data() + ETH_ALEN, ETH_ALEN);
      where_[source] = from;
      const auto now = Clock::now();
      const auto takes =
          std::chrono::duration<double>(static_cast<double>(size) * seconds_per_byte_);
      free_at_[from] =
          std::max(free_at_[from], now) + std::chrono::duration_cast<Clock::duration>(takes);
      queue_.emplace(free_at_[from] + delay_,
                     Frame{free_at_[from] + delay_, from, {buffer.begin(), buffer.begin() + size}});
    }
  }

  void deliver() {
    while (!queue_.empty() && queue_.begin()->first <= Clock::now()) {
      const Frame& frame = queue_.begin()->second;
      Address target{};
      std::memcpy(target.data(), frame.bytes.data(), ETH_ALEN);
      const auto known = where_.find(target);
      for (std::size_t i = 0; i < taps_.size(); ++i) {
        if (i == frame.from || (known != where_.end() && known->second != i)) continue;
        // A full device drops, as a switch does.
        if (::write(taps_[i], frame.bytes.data(), frame.bytes.size()) < 0 && errno != EAGAIN &&
            errno != EIO)
          fail("write");
      }
      queue_.erase(queue_.begin());
    }
  }

  void set_timer() {
    itimerspec at{};
    if (!queue_.empty()) {
      const auto left = std::max(queue_.begin()->first - Clock::now(), Clock::duration(1));
      const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
      at.it_value = {ns / 1'000'000'000, ns % 1'000'000'000};
    }
    ::timerfd_settime(timer_, 0, &at, nullptr);
  }

  Clock::duration delay_;
  double seconds_per_byte_;
  std::vector<Clock::time_point> free_at_;
  std::vector<int> taps_;
  int timer_ = -1;
  std::map<Address, std::size_t> where_;
  std::multimap<Clock::time_point, Frame> queue_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs(kHelp, argc == 2 && std::strcmp(argv[1], "--help") == 0 ? stdout : stderr);
    return argc == 2 ? 0 : 1;
  }
  try {
    Wire wire(std::strtod(argv[1], nullptr), std::strtod(argv[2], nullptr),
              {argv + 3, argv + argc});
    std::puts("ready");
    std::fflush(stdout);
    wire.run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "wire: cannot go on: %s\n", error.what());
    return 2;
  }
}
