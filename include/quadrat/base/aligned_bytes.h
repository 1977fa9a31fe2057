#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace quadrat {

/// Memory from a boundary of cache lines on; grows without keeping what it held.
class AlignedBytes {
 public:
  static constexpr std::size_t kAlignment = 64;

  std::byte* get() const { return bytes_.get(); }
  void grow(std::size_t size) {
    if (size <= size_) return;
    bytes_.reset();
    size_ = 0;
    const std::size_t whole = (size + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, whole)));
    if (!bytes_) throw std::bad_alloc();
    size_ = whole;
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte[], Free> bytes_;
  std::size_t size_ = 0;
};

}  // namespace quadrat
