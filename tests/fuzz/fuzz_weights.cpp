// Any bytes as a weights file: refused with an InputError or read, and what was read can be written
// and read again.
#include <libdeflate.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/weights/describe.h"
#include "quadrat/weights/weights_file.h"

namespace {

using namespace quadrat;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "fuzz_weights: %s\n", what);
  std::abort();
}

void compare(const WeightsFile& a, const WeightsFile& b) {
  if (a.tensors.size() != b.tensors.size()) fail("other tensors");
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    const StoredTensor& x = a.tensors[i];
    const StoredTensor& y = b.tensors[i];
    if (x.name != y.name || x.dtype != y.dtype || x.shape != y.shape || x.data != y.data)
      fail("another tensor");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  WeightsFile weights;
  try {
    weights = parse_weights(std::as_bytes(std::span(data, size)));
  } catch (const InputError&) {
    return 0;
  }
  std::size_t bytes = 0;
  for (const StoredTensor& tensor : weights.tensors) bytes += tensor.data.size();
  if (bytes > 4 * size + (1 << 20)) fail("it unfolds");
  describe(weights, "fuzz");
  Bytes again;
  try {
    again = to_safetensors(weights);
  } catch (const InputError&) {
    return 0;  // a pickle's names need not be UTF-8
  }
  compare(parse_weights(again), weights);
  compare(parse_weights(to_torch_zip(weights)), weights);
  return 0;
}

/// Makes the checksum of every stored zip entry right, so that changes reach the pickle.
void repair(std::vector<std::uint8_t>& input) {
  const auto number = [&](std::size_t at, int width) {
    std::uint64_t value = 0;
    for (int i = width - 1; i >= 0; --i)
      value = (value << 8) | input[at + static_cast<std::size_t>(i)];
    return value;
  };
  if (input.size() < 22 || number(0, 4) != 0x04034b50) return;
  for (std::size_t at = 0; at + 46 <= input.size(); ++at) {
    if (number(at, 4) != 0x02014b50) continue;
    const std::uint64_t header = number(at + 42, 4);
    const std::uint64_t bytes = number(at + 20, 4);
    if (header + 30 > input.size()) continue;
    const std::uint64_t from = header + 30 + number(header + 26, 2) + number(header + 28, 2);
    if (from > input.size() || bytes > input.size() - from) continue;
    const std::uint32_t crc = libdeflate_crc32(0, input.data() + from, bytes);
    for (std::size_t i = 0; i < 4; ++i)
      input[at + 16 + i] = static_cast<std::uint8_t>(crc >> (8 * i));
  }
}
