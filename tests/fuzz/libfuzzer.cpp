// libFuzzer's own mutations, followed by the target's repair of checksums: without it hardly any
// input gets past them.
#include <cstddef>
#include <cstdint>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

void repair(std::vector<std::uint8_t>& input);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  const std::size_t changed = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 4 == 0) return changed;
  std::vector<std::uint8_t> input(data, data + changed);
  repair(input);
  for (std::size_t i = 0; i < changed; ++i) data[i] = input[i];
  return changed;
}
