#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "quadrat/base/bf16.h"
#include "quadrat/gpu/element.h"

namespace quadrat::gpu {

inline std::string order_name(cuda_on_cpu::Order order) {
  switch (order) {
    case cuda_on_cpu::Order::kForward:
      return "forward";
    case cuda_on_cpu::Order::kBackward:
      return "backward";
    default:
      return "shuffled";
  }
}

/// Memory of a kernel's, of either type and not a byte longer than it says.
class Values {
 public:
  Values(Element element, std::size_t count, float value = 0) : element_(element) {
    if (element == Element::kBf16) {
      half_.assign(count, bf16::narrow(value));
    } else {
      full_.assign(count, value);
    }
  }

  /// Normally distributed, of mean `mean`.
  static Values random(Element element, std::size_t count, unsigned seed, float mean = 0) {
    Values values(element, count);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(mean);
    for (std::size_t i = 0; i < count; ++i) values.set(i, normal(random));
    return values;
  }

  std::size_t size() const { return element_ == Element::kBf16 ? half_.size() : full_.size(); }
  float at(std::size_t i) const {
    return element_ == Element::kBf16 ? bf16::widen(half_.at(i)) : full_.at(i);
  }
  void set(std::size_t i, float value) {
    if (element_ == Element::kBf16) {
      half_.at(i) = bf16::narrow(value);
    } else {
      full_.at(i) = value;
    }
  }
  /// What storing a value here makes of it.
  float stored(float value) const {
    return element_ == Element::kBf16 ? bf16::widen(bf16::narrow(value)) : value;
  }

  void* data() {
    return element_ == Element::kBf16 ? static_cast<void*>(half_.data()) : full_.data();
  }
  const void* data() const { return const_cast<Values*>(this)->data(); }

 private:
  Element element_;
  std::vector<std::uint16_t> half_;
  std::vector<float> full_;
};

}  // namespace quadrat::gpu
