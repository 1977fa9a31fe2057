#include "quadrat/train/checkpoint.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "quadrat/base/error.h"
#include "quadrat/model/weights.h"
#include "quadrat/weights/weights_file.h"

namespace quadrat {

namespace {

constexpr const char* kFormat = "quadrat-checkpoint-1";
constexpr const char* kKept = "kept.probabilities";

std::string optimizer_name(std::size_t i) { return fmt::format("optimizer.{}", i); }

nlohmann::json to_json(const EpochRow& row) {
  return {row.epoch,           row.train_loss,       row.train_error,
          row.validation_loss, row.validation_error, row.learning_rate,
          row.seconds,         row.tiles_per_s};
}

EpochRow row_from(const nlohmann::json& json) {
  return {json.at(0), json.at(1), json.at(2), json.at(3),
          json.at(4), json.at(5), json.at(6), json.at(7)};
}

}  // namespace

void write_checkpoint(const Path& path, const Network& network, const Optimizer& optimizer,
                      const RunPosition& position) {
  ModelCard card;
  card.architecture = network.architecture();
  WeightsFile file = to_weights_file(network, card);
  const auto state = optimizer.state();
  for (std::size_t i = 0; i < state.size(); ++i)
    file.tensors.push_back(to_stored(optimizer_name(i), state[i]));
  StoredTensor kept;
  kept.name = kKept;
  kept.shape = {std::ssize(position.kept_probabilities)};
  const auto bytes = std::as_bytes(std::span(position.kept_probabilities));
  kept.data.assign(bytes.begin(), bytes.end());
  file.tensors.push_back(std::move(kept));

  nlohmann::json epochs = nlohmann::json::array();
  for (const EpochRow& row : position.epochs) epochs.push_back(to_json(row));
  const nlohmann::json json = {
      {"epoch", position.epoch},
      {"step", position.step},
      {"loss_sum", position.loss_sum},
      {"wrong", position.wrong},
      {"train_seconds", position.train_seconds},
      {"created", position.created},
      {"tiles_crc32", position.tiles_crc32},
      {"kept_epoch", position.kept_epoch},
      {"optimizer_steps", optimizer.steps()},
      {"epochs", epochs},
  };
  file.metadata["format"] = kFormat;
  file.metadata["position"] = json.dump();
  write_safetensors(path, file);
}

RunPosition parse_checkpoint(Bytes bytes, const Path& path, Network& network,
                             Optimizer& optimizer) {
  const auto wrong = [&](const std::string& finding) {
    return InputError("go on from", path.native(), finding,
                      "remove the run's folder to start it over");
  };
  WeightsFile file;
  try {
    file = parse_weights(std::move(bytes));
  } catch (const InputError& error) {
    throw wrong(error.what());
  }
  const auto format = file.metadata.find("format");
  if (format == file.metadata.end() || format->second != kFormat)
    throw wrong("it is not a quadrat checkpoint");

  RunPosition position;
  std::int64_t optimizer_steps = 0;
  try {
    const auto json = nlohmann::json::parse(file.metadata.at("position"));
    position.epoch = json.at("epoch");
    position.step = json.at("step");
    position.loss_sum = json.at("loss_sum");
    position.wrong = json.at("wrong");
    position.train_seconds = json.at("train_seconds");
    position.created = json.at("created");
    position.tiles_crc32 = json.value("tiles_crc32", 0U);
    position.kept_epoch = json.at("kept_epoch");
    optimizer_steps = json.at("optimizer_steps");
    for (const auto& row : json.at("epochs")) position.epochs.push_back(row_from(row));
  } catch (const std::exception&) {
    throw wrong("its metadata cannot be read");
  }
  const std::size_t done = position.epochs.size();
  if (position.epoch != done + 1 || position.kept_epoch > done ||
      (position.kept_epoch == 0) != (done == 0) || position.step < 0 || optimizer_steps < 0) {
    throw wrong(
        fmt::format("it is at epoch {}, step {}, after {} epochs of which it keeps number {}",
                    position.epoch, position.step, done, position.kept_epoch));
  }
  load_weights(network, file, path);
  std::vector<torch::Tensor> state;
  for (const torch::Tensor& mine : optimizer.state()) {
    const StoredTensor* stored = file.find(optimizer_name(state.size()));
    if (stored == nullptr || stored->shape != mine.sizes().vec())
      throw wrong("its optimizer state is of another network");
    state.push_back(to_tensor(*stored));
  }
  optimizer.restore(state, optimizer_steps);
  if (const StoredTensor* kept = file.find(kKept)) {
    if (kept->dtype != DType::kF32) throw wrong("its probabilities are not float32");
    position.kept_probabilities.resize(kept->data.size() / sizeof(float));
    std::memcpy(position.kept_probabilities.data(), kept->data.data(), kept->data.size());
  }
  return position;
}

}  // namespace quadrat
