#pragma once

#include <torch/torch.h>

#include <string>

namespace quadrat {

/// What went wrong: LibTorch's errors go on with pages of addresses.
inline std::string first_line(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  return text.substr(0, text.find('\n'));
}

}  // namespace quadrat
