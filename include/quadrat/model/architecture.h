#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace quadrat {

enum class Architecture { kAlexNet, kResNet18 };

/// Which layers fine-tuning changes; the sample's names.
enum class Retraining {
  kLastOnly,        ///< the last linear layer
  kFullyConnected,  ///< AlexNet's three linear layers
  kAll,
};

/// @throws UsageError naming the option and the choices
Architecture parse_architecture(std::string_view name);
Retraining parse_retraining(std::string_view name);
std::string_view to_string(Architecture architecture);
std::string_view to_string(Retraining retraining);

/// The sides the networks were made for, and what torchvision's weights were trained on.
inline constexpr std::uint32_t kTileSide_px = 224;
inline constexpr std::array<float, 3> kImageNetMean{0.485F, 0.456F, 0.406F};
inline constexpr std::array<float, 3> kImageNetStd{0.229F, 0.224F, 0.225F};

}  // namespace quadrat
