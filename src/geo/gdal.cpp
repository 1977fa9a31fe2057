#include "gdal.h"

#include <gdal_pam.h>

#include <algorithm>
#include <mutex>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::geo {

void start_gdal() {
  static std::once_flag once;
  std::call_once(once, [] {
    GDALAllRegister();
    CPLSetErrorHandler(CPLQuietErrorHandler);
    // Blocks kept in memory: a row of 1024 x 1024 blocks of an image 60,000 pixels wide, not 5 % of
    // a big node for each rank. Wider images are cut in parts of their width.
    if (CPLGetConfigOption("GDAL_CACHEMAX", nullptr) == nullptr) {
      GDALSetCacheMax64(GIntBig{192} << 20);
    }
  });
}

std::string gdal_message(const char* otherwise) {
  std::string message = CPLGetLastErrorMsg();
  if (message.empty()) return otherwise;
  std::replace(message.begin(), message.end(), '\n', ' ');
  return "GDAL says: " + printable(message, 400);
}

void write_no_sidecar(GDALDataset& dataset) {
  if (auto* with_sidecar = dynamic_cast<GDALPamDataset*>(&dataset))
    with_sidecar->SetPamFlags(with_sidecar->GetPamFlags() | GPF_NOSAVE);
}

OGRSpatialReference parse_crs(const std::string& text) {
  start_gdal();
  OGRSpatialReference crs;
  CPLErrorReset();
  if (crs.SetFromUserInput(text.c_str()) != OGRERR_NONE) {
    throw InputError("use coordinate system", printable(text), gdal_message("it is not known"),
                     "name one as EPSG:26918 or in WKT");
  }
  crs.SetAxisMappingStrategy(OAMS_TRADITIONAL_GIS_ORDER);
  return crs;
}

}  // namespace quadrat::geo
