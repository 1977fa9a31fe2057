#pragma once

#include <cstddef>
#include <functional>

namespace quadrat {

/// Calls work(index, worker) once for every index below `count`, on up to `threads` threads, of
/// which this one is worker 0. After an exception no further index is begun.
/// @param worker below min(count, threads): for what each thread has of its own
/// @throws of what was thrown, that of the least index
void for_each_index(std::size_t count, std::size_t threads,
                    const std::function<void(std::size_t index, std::size_t worker)>& work);

}  // namespace quadrat
