#include "unit_scorer.h"

#include <algorithm>
#include <exception>
#include <span>
#include <utility>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/parallel.h"
#include "quadrat/image/png.h"
#include "quadrat/tiles/augment_arithmetic.h"
#include "quick_look.h"

namespace quadrat::score {

namespace {

constexpr std::uint32_t kViews = 8;

/// One of the symmetries of a square tile. @param from, to [side, side, 3]
void show(std::uint32_t symmetry, std::int64_t side, const std::uint8_t* from, std::uint8_t* to) {
  const augment::Walk walk = augment::walk_of(symmetry, side);
  for (std::int64_t y = 0; y < side; ++y) {
    for (std::int64_t x = 0; x < side; ++x, to += 3)
      std::copy_n(from + 3 * (walk.start + x * walk.column_step + y * walk.row_step), 3, to);
  }
}

void append(std::span<const float> rows, std::vector<float>& all) {
  all.insert(all.end(), rows.begin(), rows.end());
}

/// @param rows on the host
void append(const torch::Tensor& rows, std::vector<float>& all) {
  append({rows.const_data_ptr<float>(), static_cast<std::size_t>(rows.numel())}, all);
}

}  // namespace

UnitScorer::UnitScorer(Plan& plan, TileFeed& feed, Extras extras, FirstLook look)
    : plan_(plan),
      feed_(feed),
      extras_(extras),
      look_(look),
      buffers_(torch::empty({2, plan.batch() * plan.bytes_per_tile()},
                            torch::TensorOptions(torch::kByte).pinned_memory(plan.is_on_device()))),
      pixels_(buffer(false)),
      middles_(look.plan != nullptr
                   ? static_cast<std::size_t>(look.plan->batch() * look.plan->bytes_per_tile())
                   : 0),
      waiting_pixels_(look.plan != nullptr ? pixels_.size() : 0),
      view_(extras.all_views ? pixels_.size() : 0) {}

void UnitScorer::read_and_decode_on(int threads, const Catalog& catalog) {
  for (int i = 0; i < threads; ++i) workers_.push_back(std::make_unique<Worker>(catalog));
}

std::span<std::uint8_t> UnitScorer::buffer(bool second) const {
  const auto half = buffers_[second ? 1 : 0];
  return {half.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(half.numel())};
}

std::vector<float> UnitScorer::infer(std::span<const std::uint8_t> tiles,
                                     std::vector<float>& features) {
  const Plan::Result result = plan_.infer(tiles);
  if (extras_.features) append(result.features, features);
  std::vector<float> rows = probabilities(result.logits);
  if (!extras_.all_views) return rows;
  std::vector<double> sums(rows.begin(), rows.end());
  const auto bytes = static_cast<std::size_t>(plan_.bytes_per_tile());
  for (std::uint32_t view = 1; view < kViews; ++view) {
    for (std::size_t at = 0; at < tiles.size(); at += bytes) {
      show(view, plan_.card().tile_px, tiles.data() + at, view_.data() + at);
    }
    rows = probabilities(plan_.infer(std::span(view_).first(tiles.size())).logits);
    for (std::size_t i = 0; i < rows.size(); ++i) sums[i] += rows[i];
  }
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(sums[i] / kViews);
  return rows;
}

void UnitScorer::look_at(std::size_t first, std::size_t here,
                         const std::vector<std::size_t>& rejected, UnitResult& result) {
  const auto bytes = static_cast<std::size_t>(plan_.bytes_per_tile());
  const auto middle_bytes = static_cast<std::size_t>(look_.plan->bytes_per_tile());
  const auto classes = static_cast<std::ptrdiff_t>(plan_.card().classes.size());
  for (std::size_t i = 0; i < here; ++i) {
    copy_middle(pixels_.data() + i * bytes, plan_.card().tile_px, look_.plan->card().tile_px,
                middles_.data() + i * middle_bytes);
  }
  const std::vector<float> rows =
      probabilities(look_.plan->infer(std::span(middles_).first(here * middle_bytes)).logits);
  append(rows, result.probabilities);
  for (std::size_t i = 0; i < here; ++i) {
    const auto row = rows.begin() + static_cast<std::ptrdiff_t>(i) * classes;
    if (*std::max_element(row, row + classes) >= look_.threshold) continue;
    if (std::find(rejected.begin(), rejected.end(), i) != rejected.end()) continue;
    std::copy_n(pixels_.data() + i * bytes, bytes,
                waiting_pixels_.data() + waiting_.size() * bytes);
    waiting_.push_back(first + i);
    if (waiting_.size() == static_cast<std::size_t>(plan_.batch())) settle_waiting(result);
  }
}

void UnitScorer::settle_waiting(UnitResult& result) {
  if (waiting_.empty()) return;
  const auto bytes = static_cast<std::size_t>(plan_.bytes_per_tile());
  const std::size_t classes = plan_.card().classes.size();
  const std::vector<float> rows =
      probabilities(plan_.infer(std::span(waiting_pixels_).first(waiting_.size() * bytes)).logits);
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    std::copy_n(rows.data() + i * classes, classes,
                result.probabilities.data() + waiting_[i] * classes);
  }
  waiting_.clear();
}

Refusal UnitScorer::decode(const TileFeed::Item& item, std::span<std::uint8_t> pixels) const {
  if (!item.refusal.reason.empty()) return item.refusal;
  try {
    decode_png_tile(item.png, plan_.card().tile_px, pixels);
  } catch (const Error& error) {
    return {error.what(), false};
  }
  return {};
}

std::vector<Refusal> UnitScorer::decode_next(std::size_t tiles) {
  const auto bytes = static_cast<std::size_t>(plan_.bytes_per_tile());
  std::vector<Refusal> refusals(tiles);
  if (workers_.empty()) {
    for (std::size_t i = 0; i < tiles; ++i) {
      feed_.next(item_);
      refusals[i] = decode(item_, pixels_.subspan(i * bytes, bytes));
    }
    return refusals;
  }
  std::vector<std::size_t> wanted(tiles);
  for (std::size_t& tile : wanted) {
    feed_.next(item_);
    tile = item_.tile;
  }
  for_each_index(tiles, workers_.size(), [&](std::size_t i, std::size_t worker) {
    auto& [reader, item] = *workers_[worker];
    item.tile = wanted[i];
    item.read(reader);
    refusals[i] = decode(item, pixels_.subspan(i * bytes, bytes));
  });
  return refusals;
}

/// One tile that cannot be read may lie on a bad block. Of two in a row it is the storage that is
/// gone, and with it all that follow, which are not to blame.
void UnitScorer::stop_where_storage_is_gone(const Refusal& refusal) {
  if (!refusal.of_storage) {
    last_was_unread_ = false;
  } else if (std::exchange(last_was_unread_, true)) {
    throw IoError("go on reading tiles", "", refusal.reason,
                  "as was the tile before; once the storage is back, start the same command again");
  }
}

void UnitScorer::clear(std::size_t first, const std::vector<std::size_t>& rejected,
                       UnitResult& result) const {
  const std::size_t classes = plan_.card().classes.size();
  for (const std::size_t i : rejected)
    std::fill_n(result.probabilities.data() + (first + i) * classes, classes, 0.0F);
}

void UnitScorer::settle(const Started& started, UnitResult& result) const {
  append(probabilities(started.result.logits.cpu()), result.probabilities);
  if (extras_.features) append(started.result.features.cpu(), result.features);
  clear(started.first, started.rejected, result);
}

std::optional<UnitResult> UnitScorer::score(std::uint64_t unit, std::size_t tiles,
                                            const std::function<bool(std::size_t)>& between) {
  const auto start = Clock::now();
  const auto batch = static_cast<std::size_t>(plan_.batch());
  const auto bytes = static_cast<std::size_t>(plan_.bytes_per_tile());
  UnitResult result;
  result.unit = unit;
  result.probabilities.reserve(tiles * plan_.card().classes.size());
  // A GPU computes a batch while the next one is decoded.
  const bool overlaps = plan_.is_on_device() && !extras_.all_views && look_.plan == nullptr;
  std::optional<Started> started;
  bool uses_second = false;
  pixels_ = buffer(uses_second);
  for (std::size_t first = 0; first < tiles; first += batch) {
    const std::size_t here = std::min(batch, tiles - first);
    std::vector<std::size_t> rejected;
    std::vector<Refusal> refusals = decode_next(here);
    for (std::size_t i = 0; i < here; ++i) {
      const std::span<std::uint8_t> pixels(pixels_.data() + i * bytes, bytes);
      std::string& reason = refusals[i].reason;
      stop_where_storage_is_gone(refusals[i]);
      if (reason.empty()) continue;
      // It keeps its place, so that the other tiles' company is the same whatever happens to this
      // one.
      std::fill(pixels.begin(), pixels.end(), std::uint8_t{0});
      rejected.push_back(i);
      result.rejected.push_back({static_cast<std::uint32_t>(first + i), std::move(reason)});
    }
    if (overlaps) {
      Started next{plan_.start(pixels_.first(here * bytes)), first, std::move(rejected)};
      if (started) settle(*started, result);
      started = std::move(next);
      uses_second = !uses_second;
      pixels_ = buffer(uses_second);
    } else {
      if (look_.plan != nullptr) {
        look_at(first, here, rejected, result);
      } else {
        append(infer(pixels_.first(here * bytes), result.features), result.probabilities);
      }
      clear(first, rejected, result);
    }
    if (!between(here)) return std::nullopt;
  }
  if (started) settle(*started, result);
  settle_waiting(result);
  result.seconds = seconds_since(start);
  return result;
}

}  // namespace quadrat::score
