#include "quadrat/weights/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "quadrat/base/text.h"

namespace quadrat {

namespace {

struct Marker {
  std::string_view tensor;
  std::vector<std::int64_t> shape;  ///< -1: any
};

bool has(const WeightsFile& weights, const Marker& marker) {
  const StoredTensor* tensor = weights.find(marker.tensor);
  return tensor != nullptr &&
         std::equal(tensor->shape.begin(), tensor->shape.end(), marker.shape.begin(),
                    marker.shape.end(),
                    [](std::int64_t a, std::int64_t b) { return a == b || b < 0; });
}

double from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  double value = 0;
  if (exponent == 0x1f) {
    value = fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(fraction, -24);
  } else {
    value = std::ldexp(fraction + 0x400, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

double value_at(DType dtype, const std::byte* at) {
  switch (dtype) {
    case DType::kF64:
      return load<double>(at);
    case DType::kF32:
      return load<float>(at);
    case DType::kF16:
      return from_half(load<std::uint16_t>(at));
    case DType::kBF16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(at)) << 16);
    case DType::kI64:
      return static_cast<double>(load<std::int64_t>(at));
    case DType::kI32:
      return load<std::int32_t>(at);
    case DType::kI16:
      return load<std::int16_t>(at);
    case DType::kI8:
      return load<std::int8_t>(at);
    case DType::kU8:
    case DType::kBool:
      return load<std::uint8_t>(at);
  }
  return 0;
}

std::string shape_text(const StoredTensor& tensor) {
  return tensor.shape.empty() ? "scalar" : fmt::format("{}", fmt::join(tensor.shape, "x"));
}

using Row = std::array<std::string, 6>;

Row table_row(const StoredTensor& tensor) {
  const ValueSummary values = summarise(tensor);
  const auto number = [&](double value) {
    return tensor.data.empty() ? std::string("-") : fmt::format("{:.4g}", value);
  };
  std::string name = printable(tensor.name, 120);
  Row row = {name,
             std::string(to_string(tensor.dtype)),
             shape_text(tensor),
             number(values.min),
             number(values.max),
             number(values.mean)};
  if (values.not_finite > 0) row[5] += fmt::format("  {} not finite", values.not_finite);
  return row;
}

}  // namespace

std::optional<ArchitectureGuess> guess_architecture(const WeightsFile& weights) {
  const Marker resnet_last{"fc.weight", {-1, 512}};
  if (has(weights, {"conv1.weight", {64, 3, 7, 7}}) && has(weights, resnet_last) &&
      has(weights, {"layer4.1.conv2.weight", {512, 512, 3, 3}}) &&
      weights.find("layer4.2.conv1.weight") == nullptr &&
      weights.find("layer3.2.conv1.weight") == nullptr) {
    return ArchitectureGuess{"resnet18", weights.find(resnet_last.tensor)->shape[0]};
  }
  const Marker alexnet_last{"classifier.6.weight", {-1, 4096}};
  if (has(weights, {"features.0.weight", {64, 3, 11, 11}}) && has(weights, alexnet_last) &&
      has(weights, {"features.10.weight", {256, 256, 3, 3}})) {
    return ArchitectureGuess{"alexnet", weights.find(alexnet_last.tensor)->shape[0]};
  }
  return std::nullopt;
}

ValueSummary summarise(const StoredTensor& tensor) {
  const std::size_t width = bytes_per_element(tensor.dtype);
  ValueSummary summary;
  double sum = 0;
  std::int64_t finite = 0;
  for (std::size_t at = 0; at + width <= tensor.data.size(); at += width) {
    const double value = value_at(tensor.dtype, tensor.data.data() + at);
    if (!std::isfinite(value)) {
      ++summary.not_finite;
      continue;
    }
    summary.min = finite == 0 ? value : std::min(summary.min, value);
    summary.max = finite == 0 ? value : std::max(summary.max, value);
    sum += value;
    ++finite;
  }
  if (finite > 0) summary.mean = sum / static_cast<double>(finite);
  return summary;
}

std::string describe(const WeightsFile& weights, const Path& path) {
  const auto guess = guess_architecture(weights);
  std::int64_t elements = 0;
  double bytes = 0;
  for (const StoredTensor& tensor : weights.tensors) {
    elements += tensor.elements();
    bytes += static_cast<double>(tensor.data.size());
  }
  std::string text = fmt::format("{}\n", path.string());
  const StoredTensor* forest = weights.find("forest.roots");
  const auto architecture = weights.metadata.find("architecture");
  std::string network = "neither alexnet nor resnet18";
  if (guess) {
    network = fmt::format("{}, {} classes", guess->name, guess->classes);
  } else if (forest != nullptr && architecture != weights.metadata.end()) {
    network = fmt::format("{} without its last layer, under a random forest of {} trees",
                          printable(architecture->second), forest->elements());
  }
  text += fmt::format("  network   {}\n", network);
  text += fmt::format("  tensors   {}, {} values, {}\n", weights.tensors.size(), elements,
                      format_bytes(bytes));
  for (const auto& [key, value] : weights.metadata) {
    text += fmt::format("  metadata  {}: {}\n", printable(key), printable(value, 400));
  }

  std::vector<Row> rows = {{"tensor", "type", "shape", "min", "max", "mean"}};
  for (const StoredTensor& tensor : weights.tensors) rows.push_back(table_row(tensor));
  std::array<std::size_t, 6> widths{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < 5; ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  text += '\n';
  for (const Row& row : rows) {
    text += fmt::format("  {:<{}}  {:<{}}  {:<{}}  {:>{}}  {:>{}}  {}\n", row[0], widths[0], row[1],
                        widths[1], row[2], widths[2], row[3], widths[3], row[4], widths[4], row[5]);
  }
  return text;
}

}  // namespace quadrat
