#include "quadrat/geo/raster.h"

#include <fmt/format.h>
#include <gdal_utils.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <utility>

#include "gdal.h"
#include "quadrat/base/error.h"

namespace quadrat::geo {

namespace {

/// How far a pixel's side may be from a metre and still count as one: 7 m over a county of 70 km,
/// and corners are computed from the true size anyway.
constexpr double kMetreTolerance = 1e-4;

/// How far a projection's metre may be from one on the ground: Albers' of the contiguous United
/// States is off by 1.3 % at its edges; Web Mercator's is three quarters of one at 42 degrees.
constexpr double kGroundTolerance = 0.015;

struct CloseDataset {
  void operator()(GDALDataset* dataset) const { GDALClose(GDALDataset::ToHandle(dataset)); }
};
using Dataset = std::unique_ptr<GDALDataset, CloseDataset>;

std::string wkt_of(const OGRSpatialReference& crs) {
  char* text = nullptr;
  crs.exportToWkt(&text);
  const std::string wkt = text == nullptr ? "" : text;
  CPLFree(text);
  return wkt;
}

/// Metres on the ground between two places that lie near each other, on the WGS 84 ellipsoid by its
/// radii of curvature. @param a, b longitude and latitude
double ground_distance_m(Point a, Point b) {
  constexpr double kRadian = 3.14159265358979323846 / 180;
  constexpr double kEquatorM = 6378137;
  constexpr double kEccentricity2 = 0.00669437999014;
  const double latitude = 0.5 * (a.y + b.y) * kRadian;
  const double w = 1 - kEccentricity2 * std::sin(latitude) * std::sin(latitude);
  const double north = kEquatorM * (1 - kEccentricity2) / (w * std::sqrt(w)) * (b.y - a.y);
  const double east = kEquatorM / std::sqrt(w) * std::cos(latitude) * (b.x - a.x);
  return std::hypot(north, east) * kRadian;
}

/// Where imagery is: the middle of what its pixels or its control points cover, in its own system.
Point centre_of(GDALDataset& dataset, const PixelToMap& pixel_to_map) {
  const int count = dataset.GetGCPCount();
  if (count == 0)
    return pixel_to_map.at(0.5 * dataset.GetRasterXSize(), 0.5 * dataset.GetRasterYSize());
  const GDAL_GCP* points = dataset.GetGCPs();
  Point centre;
  for (int i = 0; i < count; ++i) {
    centre.x += points[i].dfGCPX / count;
    centre.y += points[i].dfGCPY / count;
  }
  return centre;
}

}  // namespace

Point PixelToMap::at(double column, double row) const {
  return {k[0] + column * k[1] + row * k[2], k[3] + column * k[4] + row * k[5]};
}

Point PixelToMap::inverse(Point map) const {
  const double determinant = k[1] * k[5] - k[2] * k[4];
  const double x = map.x - k[0];
  const double y = map.y - k[3];
  return {(x * k[5] - y * k[2]) / determinant, (y * k[1] - x * k[4]) / determinant};
}

struct Projector::State {
  std::unique_ptr<OGRCoordinateTransformation> transformation;
};

Projector::Projector(const std::string& from, const std::string& to)
    : state_(std::make_unique<State>()) {
  const OGRSpatialReference source = parse_crs(from);
  const OGRSpatialReference target = parse_crs(to);
  CPLErrorReset();
  state_->transformation.reset(OGRCreateCoordinateTransformation(&source, &target));
  if (!state_->transformation) {
    throw InputError("take coordinates from one system to another", "",
                     gdal_message("there is no known way"),
                     "check the rasters' coordinate systems");
  }
}

Projector::~Projector() = default;
Projector::Projector(Projector&&) noexcept = default;
Projector& Projector::operator=(Projector&&) noexcept = default;

void Projector::transform(std::span<Point> points) const {
  if (points.empty()) return;
  std::vector<double> x(points.size());
  std::vector<double> y(points.size());
  std::vector<int> done(points.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    x[i] = points[i].x;
    y[i] = points[i].y;
  }
  state_->transformation->Transform(static_cast<int>(points.size()), x.data(), y.data(), nullptr,
                                    done.data());
  for (std::size_t i = 0; i < points.size(); ++i) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    points[i] = done[i] != 0 && std::isfinite(x[i]) && std::isfinite(y[i]) ? Point{x[i], y[i]}
                                                                           : Point{nan, nan};
  }
}

struct Raster::State {
  Path path;
  Dataset source;  // what `dataset` is made from, where it is resampled
  Dataset dataset;
  PixelToMap pixel_to_map;
  std::string crs_wkt;
  std::array<int, 3> rgb_bands{1, 2, 3};
  bool has_mask = false;  // alpha or a mask band
  std::array<int, 3> rgb_nodata{-1, -1, -1};
  std::vector<std::uint8_t> mask;

  void describe();
  void find_rgb();
};

/// Transform and coordinate system of `dataset`.
void Raster::State::describe() {
  const OGRSpatialReference* crs = dataset->GetSpatialRef();
  if (dataset->GetGeoTransform(pixel_to_map.k.data()) != CE_None || crs == nullptr) {
    throw InputError(
        "use raster", path.native(),
        crs == nullptr ? "it has no coordinate system" : "it does not say where its pixels lie",
        "georeference it, e.g. with gdal_translate -a_srs and -a_ullr");
  }
  const auto& k = pixel_to_map.k;
  if (!(std::abs(k[1] * k[5] - k[2] * k[4]) > 0)) {
    throw InputError("use raster", path.native(), "its pixels have no area on the map",
                     "georeference it anew");
  }
  crs_wkt = wkt_of(*crs);
}

void Raster::State::find_rgb() {
  const int count = dataset->GetRasterCount();
  if (count < 3) {
    throw InputError("use image", path.native(),
                     fmt::format("it has {} band{}, red, green and blue are wanted", count,
                                 count == 1 ? "" : "s"),
                     "expand a palette with gdal_translate -expand rgb");
  }
  std::array<int, 3> found{};
  for (int band = count; band >= 1; --band) {
    const GDALColorInterp meaning = dataset->GetRasterBand(band)->GetColorInterpretation();
    if (meaning >= GCI_RedBand && meaning <= GCI_BlueBand)
      found[static_cast<std::size_t>(meaning - GCI_RedBand)] = band;
  }
  if (found[0] != 0 && found[1] != 0 && found[2] != 0) rgb_bands = found;
  for (std::size_t i = 0; i < 3; ++i) {
    GDALRasterBand* band = dataset->GetRasterBand(rgb_bands[i]);
    if (band->GetRasterDataType() != GDT_Byte) {
      throw InputError("use image", path.native(),
                       fmt::format("its band {} is {}, 8 bits are wanted", rgb_bands[i],
                                   GDALGetDataTypeName(band->GetRasterDataType())),
                       "scale it with gdal_translate -ot Byte -scale");
    }
    int has = 0;
    const double value = band->GetNoDataValue(&has);
    if (has != 0 && value >= 0 && value <= 255) rgb_nodata[i] = static_cast<int>(value);
  }
  has_mask =
      (dataset->GetRasterBand(rgb_bands[0])->GetMaskFlags() & (GMF_PER_DATASET | GMF_ALPHA)) != 0;
}

Raster::Raster(const Path& path) : state_(std::make_unique<State>()) {
  start_gdal();
  state_->path = path;
  CPLErrorReset();
  state_->dataset.reset(
      GDALDataset::Open(path.c_str(), GDAL_OF_RASTER | GDAL_OF_READONLY | GDAL_OF_VERBOSE_ERROR));
  if (!state_->dataset) {
    throw InputError("open raster", path.native(), gdal_message("it is none that GDAL knows"),
                     "check the path, and the file with gdalinfo");
  }
  write_no_sidecar(*state_->dataset);
  if (state_->dataset->GetGCPCount() == 0) {
    state_->describe();
  } else if (state_->dataset->GetGCPSpatialRef() == nullptr) {
    throw InputError("use raster", path.native(), "it has no coordinate system", "georeference it");
  }
}

Raster::Raster(std::unique_ptr<State> state) : state_(std::move(state)) {}
Raster::~Raster() = default;
Raster::Raster(Raster&&) noexcept = default;
Raster& Raster::operator=(Raster&&) noexcept = default;

Raster Raster::open_imagery(const Path& path) {
  Raster raster(path);
  State& state = *raster.state_;
  const bool by_control_points = state.dataset->GetGCPCount() > 0;
  const OGRSpatialReference* crs =
      by_control_points ? state.dataset->GetGCPSpatialRef() : state.dataset->GetSpatialRef();
  const Point centre = centre_of(*state.dataset, state.pixel_to_map);
  constexpr double kStep = 100;
  std::array<Point, 3> places{centre, {centre.x + kStep, centre.y}, {centre.x, centre.y + kStep}};
  Projector(wkt_of(*crs), kLonLat).transform(places);
  if (!std::isfinite(places[0].x)) {
    throw InputError("use image", path.native(), "its centre has no longitude and latitude",
                     "check its coordinate system");
  }
  const auto is_a_metre = [&](Point step) {
    return std::abs(ground_distance_m(places[0], step) / kStep - 1) < kGroundTolerance;
  };
  const bool in_metres = crs->IsProjected() != 0 && std::abs(crs->GetLinearUnits() - 1) < 1e-9 &&
                         is_a_metre(places[1]) && is_a_metre(places[2]);
  const auto& k = state.pixel_to_map.k;
  const bool is_metre_grid = !by_control_points && in_metres && k[2] == 0 && k[4] == 0 &&
                             std::abs(k[1] - 1) <= kMetreTolerance &&
                             std::abs(k[5] + 1) <= kMetreTolerance;
  state.find_rgb();
  if (is_metre_grid) return raster;

  std::string target = state.crs_wkt;
  if (!in_metres || by_control_points) {
    // The UTM zone of the centre, which suits anything the size of a county.
    const int zone = std::clamp(static_cast<int>(std::floor((places[0].x + 180) / 6)) + 1, 1, 60);
    target = fmt::format("EPSG:{}", (places[0].y >= 0 ? 32600 : 32700) + zone);
  }

  CPLStringList arguments;
  for (const char* argument : {"-of", "VRT", "-r", "bilinear", "-tr", "1", "1", "-t_srs"}) {
    arguments.AddString(argument);
  }
  arguments.AddString(target.c_str());
  // A tenth of a pixel, not the default eighth of a source pixel: what lies between is
  // interpolated.
  arguments.AddString("-et");
  arguments.AddString("0.1");
  GDALWarpAppOptions* options = GDALWarpAppOptionsNew(arguments.List(), nullptr);
  GDALDatasetH source = GDALDataset::ToHandle(state.dataset.get());
  CPLErrorReset();
  int failed = 0;
  Dataset warped(GDALDataset::FromHandle(GDALWarp("", nullptr, 1, &source, options, &failed)));
  GDALWarpAppOptionsFree(options);
  if (!warped) {
    throw InputError("resample image", path.native(),
                     gdal_message("it cannot be brought to one metre a pixel"),
                     "check its georeference with gdalinfo");
  }
  state.source = std::exchange(state.dataset, std::move(warped));
  state.describe();
  state.find_rgb();
  return raster;
}

const Path& Raster::path() const { return state_->path; }
std::int64_t Raster::width_px() const { return state_->dataset->GetRasterXSize(); }
std::int64_t Raster::height_px() const { return state_->dataset->GetRasterYSize(); }
int Raster::bands() const { return state_->dataset->GetRasterCount(); }
const PixelToMap& Raster::pixel_to_map() const { return state_->pixel_to_map; }
const std::string& Raster::crs_wkt() const { return state_->crs_wkt; }
bool Raster::is_resampled() const { return state_->source != nullptr; }

bool Raster::outgrows_cache() const {
  GDALDataset& file = is_resampled() ? *state_->source : *state_->dataset;
  int width = 0;
  int height = 0;
  file.GetRasterBand(1)->GetBlockSize(&width, &height);
  const GIntBig row_bytes = GIntBig{file.GetRasterXSize()} * height * file.GetRasterCount();
  return width < file.GetRasterXSize() && row_bytes > GDALGetCacheMax64();
}

namespace {

InputError read_error(const Path& path, const Window& window) {
  return {"read raster", path.native(),
          fmt::format("rows {} to {} cannot be read; {}", window.row,
                      window.row + window.height_px - 1, gdal_message("the file may be cut short")),
          "fetch the file again"};
}

}  // namespace

void Raster::read_rgb(const Window& window, std::span<std::uint8_t> rgb) {
  State& state = *state_;
  const auto pixels = static_cast<std::size_t>(window.width_px * window.height_px);
  assert(rgb.size() == 3 * pixels);
  const auto x = static_cast<int>(window.column);
  const auto y = static_cast<int>(window.row);
  const auto width = static_cast<int>(window.width_px);
  const auto height = static_cast<int>(window.height_px);
  CPLErrorReset();
  if (state.dataset->RasterIO(GF_Read, x, y, width, height, rgb.data(), width, height, GDT_Byte, 3,
                              state.rgb_bands.data(), 3, GSpacing{3} * width, 1,
                              nullptr) != CE_None) {
    throw read_error(state.path, window);
  }
  if (state.has_mask) {
    state.mask.resize(pixels);
    GDALRasterBand* mask = state.dataset->GetRasterBand(state.rgb_bands[0])->GetMaskBand();
    if (mask->RasterIO(GF_Read, x, y, width, height, state.mask.data(), width, height, GDT_Byte, 0,
                       0, nullptr) != CE_None) {
      throw read_error(state.path, window);
    }
    for (std::size_t i = 0; i < pixels; ++i) {
      if (state.mask[i] == 0) std::fill_n(rgb.data() + 3 * i, 3, std::uint8_t{0});
    }
  }
  const auto& missing = state.rgb_nodata;
  if (missing[0] >= 0 && missing[1] >= 0 && missing[2] >= 0 &&
      missing[0] + missing[1] + missing[2] > 0) {
    for (std::size_t i = 0; i < pixels; ++i) {
      std::uint8_t* pixel = rgb.data() + 3 * i;
      if (pixel[0] == missing[0] && pixel[1] == missing[1] && pixel[2] == missing[2]) {
        std::fill_n(pixel, 3, std::uint8_t{0});
      }
    }
  }
}

void Raster::read_band(int band, const Window& window, std::span<std::int32_t> values) {
  State& state = *state_;
  assert(values.size() == static_cast<std::size_t>(window.width_px * window.height_px));
  CPLErrorReset();
  if (state.dataset->GetRasterBand(band)->RasterIO(
          GF_Read, static_cast<int>(window.column), static_cast<int>(window.row),
          static_cast<int>(window.width_px), static_cast<int>(window.height_px), values.data(),
          static_cast<int>(window.width_px), static_cast<int>(window.height_px), GDT_Int32, 0, 0,
          nullptr) != CE_None) {
    throw read_error(state.path, window);
  }
}

std::int32_t Raster::nodata(int band, std::int32_t otherwise) const {
  int has = 0;
  const double value = state_->dataset->GetRasterBand(band)->GetNoDataValue(&has);
  if (has == 0 || std::isnan(value)) return otherwise;
  // As GDAL does with pixels that int32 does not hold.
  using Limits = std::numeric_limits<std::int32_t>;
  return static_cast<std::int32_t>(std::clamp<double>(value, Limits::min(), Limits::max()));
}

struct RasterWriter::State {
  Path path;
  Path temporary;
  RasterLayout layout;
  Dataset dataset;
  std::int64_t rows_written = 0;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  /// What was not closed is not left behind.
  ~State() {
    if (!dataset) return;
    dataset.reset();
    ::unlink(temporary.c_str());
  }

  IoError error() const {
    return {"write raster", path.native(), gdal_message("it cannot be written"),
            "check the folder's permissions and free space"};
  }
};

RasterWriter::RasterWriter(const Path& path, const RasterLayout& layout)
    : state_(std::make_unique<State>()) {
  start_gdal();
  State& state = *state_;
  state.path = path;
  state.layout = layout;
  state.temporary = temporary_beside(path);

  CPLStringList options;
  options.SetNameValue("TILED", "YES");
  options.SetNameValue("INTERLEAVE", "PIXEL");
  options.SetNameValue("BIGTIFF", "IF_SAFER");
  if (layout.bands == 3)
    options.SetNameValue("PHOTOMETRIC", layout.compression == "jpeg" ? "YCBCR" : "RGB");
  if (layout.compression != "none") {
    std::string name = layout.compression;
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return static_cast<char>(std::toupper(c)); });
    options.SetNameValue("COMPRESS", name.c_str());
  }
  CPLErrorReset();
  GDALDriver* driver = GetGDALDriverManager()->GetDriverByName("GTiff");
  state.dataset.reset(driver->Create(state.temporary.c_str(), static_cast<int>(layout.width_px),
                                     static_cast<int>(layout.height_px), layout.bands, GDT_Byte,
                                     options.List()));
  if (!state.dataset) throw state.error();
  write_no_sidecar(*state.dataset);
  std::array<double, 6> k = layout.pixel_to_map.k;
  const OGRSpatialReference crs = parse_crs(layout.crs);
  if (state.dataset->SetGeoTransform(k.data()) != CE_None ||
      state.dataset->SetSpatialRef(&crs) != CE_None) {
    throw state.error();
  }
  if (layout.nodata >= 0) {
    for (int i = 1; i <= layout.bands; ++i)
      state.dataset->GetRasterBand(i)->SetNoDataValue(layout.nodata);
  }
  if (!layout.palette.empty()) {
    GDALColorTable table;
    for (std::size_t i = 0; i < layout.palette.size(); ++i) {
      const auto& c = layout.palette[i];
      const GDALColorEntry entry{c[0], c[1], c[2], c[3]};
      table.SetColorEntry(static_cast<int>(i), &entry);
    }
    state.dataset->GetRasterBand(1)->SetColorTable(&table);
  }
}

RasterWriter::~RasterWriter() = default;

void RasterWriter::write_rows(std::int64_t rows, std::span<const std::uint8_t> pixels) {
  State& state = *state_;
  const RasterLayout& layout = state.layout;
  assert(pixels.size() == static_cast<std::size_t>(rows * layout.width_px * layout.bands));
  const auto width = static_cast<int>(layout.width_px);
  CPLErrorReset();
  // RasterIO takes a void* for both directions; it does not write through it here.
  if (state.dataset->RasterIO(GF_Write, 0, static_cast<int>(state.rows_written), width,
                              static_cast<int>(rows), const_cast<std::uint8_t*>(pixels.data()),
                              width, static_cast<int>(rows), GDT_Byte, layout.bands, nullptr,
                              layout.bands, GSpacing{layout.bands} * width, 1,
                              nullptr) != CE_None) {
    throw state.error();
  }
  state.rows_written += rows;
}

void RasterWriter::close() {
  State& state = *state_;
  assert(state.rows_written == state.layout.height_px);
  // GDAL 3.6 reports what it could not write only as a message, when the last blocks leave its
  // cache.
  CPLErrorReset();
  state.dataset->FlushCache(false);
  const bool flushed = CPLGetLastErrorType() < CE_Failure;
  if (flushed) state.dataset.reset();
  if (!flushed || CPLGetLastErrorType() >= CE_Failure) {
    const IoError error = state.error();
    state.dataset.reset();
    ::unlink(state.temporary.c_str());
    throw error;
  }
  put_in_place(state.temporary, state.path);
}

}  // namespace quadrat::geo
