#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>

// Since GCC 13 on by default: a fake stack for each of a block's 1,024 threads takes minutes.
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }
#endif

namespace cuda_on_cpu {

namespace {

constexpr std::size_t kStackBytes = std::size_t{128} << 10;
constexpr unsigned kMostThreads = 1024, kMostGridY = 65535;
constexpr std::size_t kSharedBytes = std::size_t{48} << 10;  // unless more is asked for
constexpr std::size_t kMostSharedBytes = std::size_t{163}
                                         << 10;  // the least of compute capability 8.0 and up
constexpr int kProcessors = 3;                   // few, so that blocks take several rows each

/// A thread of the running block, on a stack of its own.
struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t context{};
  uint3 index;
  bool is_done = false;
};

Order thread_order = Order::kForward;
int launched = 0;
std::map<const void*, std::size_t> allowed;  // bytes of shared memory, by kernel
std::vector<Fiber> fibers;
ucontext_t scheduler;
Fiber* running = nullptr;
const std::function<void()>* body = nullptr;
std::unique_ptr<char[]> shared;

/// The address sanitizer has to be told of a change of stacks.
void enter(Fiber& fiber) {
  running = &fiber;
  threadIdx = fiber.index;
#if defined(__SANITIZE_ADDRESS__)
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(&mine, fiber.stack.get(), kStackBytes);
  swapcontext(&scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#else
  swapcontext(&scheduler, &fiber.context);
#endif
}

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
std::size_t scheduler_bytes = 0;
#endif

void leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(fiber.is_done ? nullptr : &mine, scheduler_stack, scheduler_bytes);
  swapcontext(&fiber.context, &scheduler);
  __sanitizer_finish_switch_fiber(mine, &scheduler_stack, &scheduler_bytes);
#else
  swapcontext(&fiber.context, &scheduler);
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
#endif
  try {
    (*body)();
  } catch (...) {
    std::terminate();  // kernels throw nothing
  }
  running->is_done = true;
  leave(*running);
}

void begin(Fiber& fiber, unsigned i) {
  fiber.is_done = false;
  fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.context, fiber_main, 0);
}

void run_block(const std::vector<unsigned>& order) {
  for (const unsigned i : order) begin(fibers[i], i);
  for (std::size_t done = 0; done < order.size();) {
    done = 0;
    for (const unsigned i : order) {
      enter(fibers[i]);
      done += fibers[i].is_done ? 1 : 0;
    }
    if (done != 0 && done != order.size()) {
      std::fputs("a barrier that only some threads came to\n", stderr);
      std::abort();
    }
  }
}

}  // namespace

void set_order(Order order) { thread_order = order; }

int launches() { return launched; }

void* shared_memory() { return shared.get(); }

cudaError_t allow_shared_bytes(const void* kernel, int bytes) {
  if (static_cast<std::size_t>(bytes) > kMostSharedBytes) return cudaErrorInvalidValue;
  allowed[kernel] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel,
                const std::function<void()>& thread) {
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  if (threads == 0 || threads > kMostThreads || gridDim.x == 0 || gridDim.y == 0 ||
      gridDim.y > kMostGridY || gridDim.z != 1)
    return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > std::max(kSharedBytes, allowed[kernel]))
    return cudaErrorInvalidValue;
  ++launched;
  body = &thread;
  if (fibers.size() < threads) fibers.resize(threads);
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0U);
  if (thread_order == Order::kBackward) std::reverse(order.begin(), order.end());
  if (thread_order == Order::kShuffled) std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
      shared.reset(new char[config.dynamicSmemBytes]);
      std::memset(shared.get(), 0xFF, config.dynamicSmemBytes);  // as float32 no numbers
      run_block(order);
    }
  }
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

void __syncthreads() { cuda_on_cpu::leave(*cuda_on_cpu::running); }

float __uint_as_float(unsigned bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    default:
      return "cudaErrorInvalidConfiguration";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    default:
      return "invalid configuration argument";
  }
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr /*attribute*/, int /*device*/) {
  *value = cuda_on_cpu::kProcessors;
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t /*stream*/) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
