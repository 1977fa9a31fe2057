#include "quadrat/model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

/// As few digits as tell a float: 0.485, where its value as a double is 0.48500001430511475.
std::string json_of(const std::array<float, 3>& numbers) {
  return fmt::format("[{},{},{}]", numbers[0], numbers[1], numbers[2]);
}

torch::ScalarType torch_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return torch::kDouble;
    case DType::kF32:
      return torch::kFloat;
    case DType::kF16:
      return torch::kHalf;
    case DType::kBF16:
      return torch::kBFloat16;
    case DType::kI64:
      return torch::kLong;
    case DType::kI32:
      return torch::kInt;
    case DType::kI16:
      return torch::kShort;
    case DType::kI8:
      return torch::kChar;
    case DType::kU8:
      return torch::kByte;
    case DType::kBool:
      return torch::kBool;
  }
  return torch::kFloat;
}

DType stored_type(torch::ScalarType type) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64,
                            DType::kI32, DType::kI16, DType::kI8, DType::kU8, DType::kBool}) {
    if (torch_type(dtype) == type) return dtype;
  }
  TORCH_CHECK(false, "no safetensors type for ", toString(type));
}

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// Parameters and buffers, in registration order.
std::vector<std::pair<std::string, torch::Tensor>> state_of(const Network& network) {
  std::vector<std::pair<std::string, torch::Tensor>> state;
  for (const auto& item : network.named_parameters()) state.emplace_back(item.key(), item.value());
  for (const auto& item : network.named_buffers()) state.emplace_back(item.key(), item.value());
  return state;
}

std::array<float, 3> three_numbers(const nlohmann::json& list) {
  return {list.at(0).get<float>(), list.at(1).get<float>(), list.at(2).get<float>()};
}

}  // namespace

StoredTensor to_stored(const std::string& name, const torch::Tensor& tensor) {
  const auto whole = tensor.detach().cpu().contiguous();
  StoredTensor stored;
  stored.name = name;
  stored.dtype = stored_type(whole.scalar_type());
  stored.shape = whole.sizes().vec();
  const auto* bytes = static_cast<const std::byte*>(whole.const_data_ptr());
  stored.data.assign(bytes, bytes + whole.nbytes());
  return stored;
}

torch::Tensor to_tensor(const StoredTensor& stored) {
  auto tensor = torch::empty(stored.shape, torch_type(stored.dtype));
  TORCH_CHECK(tensor.nbytes() == stored.data.size(), "stored tensor ", stored.name,
              " has the wrong size");
  if (!stored.data.empty())
    std::memcpy(tensor.mutable_data_ptr(), stored.data.data(), stored.data.size());
  return tensor;
}

torch::Tensor to_tensor(StoredTensor&& stored) {
  if (stored.data.empty()) return to_tensor(std::as_const(stored));
  const auto data = std::make_shared<Bytes>(std::move(stored.data));
  const auto tensor = torch::from_blob(
      data->data(), stored.shape, [data](void*) {}, torch_type(stored.dtype));
  TORCH_CHECK(tensor.nbytes() == data->size(), "stored tensor ", stored.name,
              " has the wrong size");
  return tensor;
}

bool load_weights(Network& network, const WeightsFile& weights, const Path& path) {
  const torch::NoGradGuard no_gradients;
  const std::string architecture(to_string(network.architecture()));
  bool last_layer_loaded = true;
  for (auto& [name, target] : state_of(network)) {
    const StoredTensor* stored = weights.find(name);
    const bool last_layer = name.starts_with(network.last_layer_name() + ".");
    if (stored == nullptr) {
      // Files of before PyTorch 0.4.1 have no such counter, and nothing depends on it.
      if (name.ends_with(".num_batches_tracked")) continue;
      throw InputError("use weights", path.native(),
                       fmt::format("they have no '{}', which {} needs", name, architecture),
                       "name weights of the same network");
    }
    if (stored->shape != target.sizes().vec()) {
      const bool other_classes =
          last_layer && stored->shape.size() == static_cast<std::size_t>(target.dim()) &&
          std::equal(stored->shape.begin() + 1, stored->shape.end(), target.sizes().begin() + 1);
      if (other_classes) {
        last_layer_loaded = false;
        continue;
      }
      throw InputError(
          "use weights", path.native(),
          fmt::format("'{}' has shape {}, {} wants {}", name, shape_text(stored->shape),
                      architecture, shape_text(target.sizes())),
          "name weights of the same network");
    }
    target.copy_(to_tensor(*stored));
  }
  network.parameters_changed();
  return last_layer_loaded;
}

WeightsFile to_weights_file(const Network& network, const ModelCard& card, std::string_view under) {
  WeightsFile weights;
  for (const auto& [name, tensor] : state_of(network)) {
    if (name.starts_with(under)) weights.tensors.push_back(to_stored(name, tensor));
  }
  weights.metadata = {
      {"architecture", std::string(to_string(card.architecture))},
      {"classes", nlohmann::json(card.classes).dump()},
      {"mean", json_of(card.mean)},
      {"std", json_of(card.std)},
      {"tile_px", fmt::format("{}", card.tile_px)},
      {"retraining_type", std::string(to_string(card.retraining))},
  };
  if (!card.classifier.empty()) weights.metadata["classifier"] = card.classifier;
  return weights;
}

ModelCard read_model_card(const WeightsFile& weights, const Path& path) {
  const auto value = [&](const char* key) -> const std::string& {
    const auto it = weights.metadata.find(key);
    if (it == weights.metadata.end()) {
      throw InputError("use model", path.native(), fmt::format("its metadata has no '{}'", key),
                       "name a model that quadrat-finetune or quadrat-fit wrote");
    }
    return it->second;
  };
  ModelCard card;
  try {
    card.architecture = parse_architecture(value("architecture"));
    card.classes = nlohmann::json::parse(value("classes")).get<std::vector<std::string>>();
    card.mean = three_numbers(nlohmann::json::parse(value("mean")));
    card.std = three_numbers(nlohmann::json::parse(value("std")));
    card.tile_px = nlohmann::json::parse(value("tile_px")).get<std::uint32_t>();
    card.retraining = parse_retraining(value("retraining_type"));
    if (weights.metadata.contains("classifier")) card.classifier = value("classifier");
  } catch (const nlohmann::json::exception&) {
    throw InputError("use model", path.native(), "its metadata is not what quadrat writes",
                     "name a model that quadrat-finetune or quadrat-fit wrote");
  } catch (const UsageError& error) {
    throw InputError("use model", path.native(), error.what());
  }
  return card;
}

}  // namespace quadrat
