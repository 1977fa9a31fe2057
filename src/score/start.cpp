#include "start.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

namespace quadrat::score {

void Start::broadcast(const mpi::Communicator& ranks) {
  nlohmann::json small;
  Bytes numbers(todo.size() * sizeof(std::uint64_t));
  if (!todo.empty()) std::memcpy(numbers.data(), todo.data(), numbers.size());
  if (ranks.is_root()) {
    small = {{"precision", to_string(engine.precision)},
             {"look_px", engine.look.side_px},
             {"look_threshold", engine.look.threshold},
             {"batch", batch},
             {"amx", amx},
             {"fingerprint", fingerprint},
             {"model_crc32", model_crc32}};
  }
  small = nlohmann::json::parse(ranks.broadcast(small.dump()));
  engine.precision = parse_precision(small["precision"].get<std::string>());
  engine.look = {small["look_px"], small["look_threshold"]};
  batch = small["batch"];
  amx = small["amx"];
  fingerprint = small["fingerprint"];
  model_crc32 = small["model_crc32"];
  numbers = ranks.broadcast(std::move(numbers));
  todo.resize(numbers.size() / sizeof(std::uint64_t));
  if (!todo.empty()) std::memcpy(todo.data(), numbers.data(), numbers.size());
  Calibration& calibration = engine.calibration;
  calibration =
      deserialize_calibration(ranks.broadcast(ranks.is_root() ? serialize(calibration) : Bytes()));
  const Bytes listed = ranks.broadcast(ranks.is_root() ? catalog.serialize() : Bytes());
  if (!ranks.is_root()) catalog = Catalog::deserialize(listed);
  units = Units(catalog.tiles.size(), static_cast<std::size_t>(batch));
}

}  // namespace quadrat::score
