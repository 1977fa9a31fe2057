#pragma once

// Only for the .cpp files of this room: GDAL's headers stay out of public ones.

#include <cpl_error.h>
#include <cpl_string.h>
#include <gdal_priv.h>
#include <ogr_spatialref.h>

#include <memory>
#include <string>

namespace quadrat::geo {

/// Registers GDAL's drivers on the first call; its messages go into our errors instead of onto
/// stderr.
void start_gdal();

/// What GDAL said last, for an error's finding, as one line; `otherwise` where it said nothing.
std::string gdal_message(const char* otherwise);

/// What GDAL would put into an .aux.xml beside the file stays unwritten: other people's folders are
/// not ours to write in, and what is beside our own files we write ourselves. What such a sidecar
/// says is read all the same: georeference and nodata may be nowhere else.
void write_no_sidecar(GDALDataset& dataset);

/// @throws InputError where the text names no coordinate system
OGRSpatialReference parse_crs(const std::string& text);

}  // namespace quadrat::geo
