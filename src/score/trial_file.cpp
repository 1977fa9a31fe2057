#include <nlohmann/json.hpp>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "trial.h"

namespace quadrat::score {

namespace {

constexpr const char* kFileName = "score_trial.json";

CascadeTrial cascade_from(const nlohmann::json& json) {
  CascadeTrial trial;
  trial.precision = parse_precision(json.at("precision").get<std::string>());
  trial.most_cost = json.at("most_cost");
  trial.look = {json.at("side_px"), json.at("threshold")};
  trial.tiles = json.at("tiles");
  trial.settled = json.at("settled");
  trial.wrong = json.at("wrong");
  trial.wrong_whole = json.at("wrong_whole");
  trial.tiles_per_s = json.at("tiles_per_s");
  trial.tiles_per_s_whole = json.at("tiles_per_s_whole");
  return trial;
}

nlohmann::json to_json(const CascadeTrial& trial) {
  return {{"precision", to_string(trial.precision)},
          {"most_cost", trial.most_cost},
          {"side_px", trial.look.side_px},
          {"threshold", trial.look.threshold},
          {"tiles", trial.tiles},
          {"settled", trial.settled},
          {"wrong", trial.wrong},
          {"wrong_whole", trial.wrong_whole},
          {"tiles_per_s", trial.tiles_per_s},
          {"tiles_per_s_whole", trial.tiles_per_s_whole}};
}

}  // namespace

Trial read_trial(const Path& run_folder, std::uint32_t model_crc32, const std::string& cpu) {
  try {
    const Bytes bytes = read_file(run_folder / kFileName, std::uint64_t{1} << 20);
    const auto json =
        nlohmann::json::parse(reinterpret_cast<const char*>(bytes.data()),
                              reinterpret_cast<const char*>(bytes.data()) + bytes.size());
    if (json.at("schema") != "quadrat-score-trial" || json.at("model_crc32") != model_crc32 ||
        json.at("cpu") != cpu)
      return {};
    Trial trial;
    trial.model_crc32 = model_crc32;
    trial.cpu = cpu;
    trial.calibration.groups = json.at("calibration_groups");
    trial.calibrated_on = json.at("calibrated_on");
    for (const auto& range : json.at("ranges"))
      trial.calibration.layers.push_back({range.at(0), range.at(1)});
    trial.tiles = json.at("tiles");
    trial.validated_on = json.at("validated_on");
    for (const auto& outcome : json.at("outcomes")) {
      const Precision precision = parse_precision(outcome.at("precision").get<std::string>());
      trial.outcomes.push_back({precision, outcome.at("wrong"), outcome.at("tiles_per_s")});
    }
    if (json.contains("cascade")) trial.cascade = cascade_from(json.at("cascade"));
    return trial;
  } catch (const Error&) {
  } catch (const nlohmann::json::exception&) {
  }
  return {};
}

void write_trial(const Path& run_folder, const Trial& trial) {
  nlohmann::json json = {{"schema", "quadrat-score-trial"},
                         {"model_crc32", trial.model_crc32},
                         {"cpu", trial.cpu},
                         {"calibration_groups", trial.calibration.groups},
                         {"calibrated_on", trial.calibrated_on},
                         {"tiles", trial.tiles},
                         {"validated_on", trial.validated_on}};
  json["ranges"] = nlohmann::json::array();
  for (const Calibration::Range& range : trial.calibration.layers)
    json["ranges"].push_back({range.low, range.high});
  json["outcomes"] = nlohmann::json::array();
  for (const Trial::Outcome& outcome : trial.outcomes) {
    json["outcomes"].push_back({{"precision", to_string(outcome.precision)},
                                {"wrong", outcome.wrong},
                                {"tiles_per_s", outcome.tiles_per_s}});
  }
  if (trial.cascade.tiles > 0) json["cascade"] = to_json(trial.cascade);
  // A folder's name need not be UTF-8.
  const std::string text = json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
  try {
    write_file(run_folder / kFileName, text + "\n");
  } catch (const IoError& error) {
    log::warn("what was found out about the model is not kept: {}", error.what());
  }
}

}  // namespace quadrat::score
