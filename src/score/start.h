#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine.h"
#include "quadrat/base/files.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/score/units.h"
#include "quadrat/tiles/catalog.h"

namespace quadrat::score {

/// What all ranks need to know before they start; made on rank 0.
struct Start {
  Catalog catalog;
  Engine engine;
  std::string device = "cpu";  ///< or cuda: alike on all ranks without being sent
  int decoding_threads = 1;    ///< this rank's
  bool amx = false;            ///< whether convolutions of bf16 and int8 use AMX
  std::int64_t batch = 0;
  Units units;
  std::vector<std::uint64_t> todo;  ///< units
  std::uint64_t fingerprint = 0;
  std::uint32_t model_crc32 = 0;
  std::uint32_t catalog_crc32 = 0;  ///< on rank 0
  std::string cut_crc32;            ///< likewise

  /// Collective.
  void broadcast(const mpi::Communicator& ranks);
};

}  // namespace quadrat::score
