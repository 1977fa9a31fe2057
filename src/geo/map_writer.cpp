#include "quadrat/geo/map_writer.h"

#include <cpl_vsi.h>
#include <fmt/format.h>
#include <ogrsf_frmts.h>

#include <atomic>
#include <cassert>

#include "gdal.h"
#include "quadrat/base/error.h"

namespace quadrat::geo {

namespace {

std::string xml_text(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        // XML 1.0 has no way to write other control characters.
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\t') escaped += c;
    }
  }
  return escaped;
}

/// A file of GDAL's own memory, gone with the object.
class MemoryFile {
 public:
  explicit MemoryFile(const std::string& extension) {
    static std::atomic<int> number{0};
    name_ = fmt::format("/vsimem/quadrat_{}{}", ++number, extension);
  }
  ~MemoryFile() { VSIUnlink(name_.c_str()); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::string& name() const { return name_; }
  std::span<const std::byte> bytes() const {
    vsi_l_offset size = 0;
    const GByte* first = VSIGetMemFileBuffer(name_.c_str(), &size, FALSE);
    return {reinterpret_cast<const std::byte*>(first), static_cast<std::size_t>(size)};
  }

 private:
  std::string name_;
};

/// What QGIS reads from a GeoPackage's layer_styles table: one colour a class, no outline.
std::string qgis_style(const PolygonLayer& layer) {
  std::string categories;
  std::string symbols;
  for (std::size_t i = 0; i < layer.styles.size(); ++i) {
    const auto& [value, rgb] = layer.styles[i];
    categories += fmt::format(R"(<category symbol="{}" value="{}" label="{}" render="true"/>)", i,
                              xml_text(value), xml_text(value));
    symbols += fmt::format(
        R"(<symbol type="fill" name="{}" alpha="1" clip_to_extent="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0">)"
        R"(<prop k="color" v="{},{},{},255"/><prop k="outline_style" v="no"/><prop k="style" v="solid"/></layer></symbol>)",
        i, rgb[0], rgb[1], rgb[2]);
  }
  return fmt::format(
      R"(<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'><qgis version="3.22.0" styleCategories="Symbology">)"
      R"(<renderer-v2 type="categorizedSymbol" attr="{}" symbollevels="0" enableorderby="0" forceraster="0">)"
      R"(<categories>{}</categories><symbols>{}</symbols></renderer-v2></qgis>)",
      xml_text(layer.style_field), categories, symbols);
}

class GeoPackage {
 public:
  GeoPackage(const Path& path, const std::string& file) : path_(path) {
    start_gdal();
    CPLErrorReset();
    GDALDriver* driver = GetGDALDriverManager()->GetDriverByName("GPKG");
    if (driver != nullptr)
      dataset_.reset(driver->Create(file.c_str(), 0, 0, 0, GDT_Unknown, nullptr));
    if (!dataset_) fail();
  }

  [[noreturn]] void fail() const {
    throw IoError("write GeoPackage", path_.native(), gdal_message("GDAL's GPKG driver refused"));
  }
  void check(bool fine) const {
    if (!fine) fail();
  }
  GDALDataset& operator*() { return *dataset_; }
  GDALDataset* operator->() { return dataset_.get(); }

  void close() {
    CPLErrorReset();
    dataset_.reset();
    check(CPLGetLastErrorType() < CE_Failure);
  }

 private:
  Path path_;
  GDALDatasetUniquePtr dataset_;
};

OGRFieldType field_type(PolygonLayer::FieldType type) {
  switch (type) {
    case PolygonLayer::FieldType::kText:
      return OFTString;
    case PolygonLayer::FieldType::kInteger:
      return OFTInteger64;
    case PolygonLayer::FieldType::kReal:
      return OFTReal;
  }
  return OFTString;
}

void write_style(GeoPackage& package, const PolygonLayer& layer) {
  OGRLayer* table = package->CreateLayer("layer_styles", nullptr, wkbNone, nullptr);
  package.check(table != nullptr);
  for (const char* name :
       {"f_table_catalog", "f_table_schema", "f_table_name", "f_geometry_column", "styleName",
        "styleQML", "styleSLD", "description", "owner", "ui", "update_time"}) {
    OGRFieldDefn field(name, OFTString);
    package.check(table->CreateField(&field) == OGRERR_NONE);
  }
  OGRFieldDefn is_default("useAsDefault", OFTInteger);
  is_default.SetSubType(OFSTBoolean);
  package.check(table->CreateField(&is_default) == OGRERR_NONE);
  OGRFeature style(table->GetLayerDefn());
  style.SetField("f_table_catalog", "");
  style.SetField("f_table_schema", "");
  style.SetField("f_table_name", layer.name.c_str());
  style.SetField("f_geometry_column", "geom");
  style.SetField("styleName", layer.name.c_str());
  style.SetField("styleQML", qgis_style(layer).c_str());
  style.SetField("styleSLD", "");
  style.SetField("description", layer.description.c_str());
  style.SetField("owner", "");
  style.SetField("useAsDefault", 1);
  package.check(table->CreateFeature(&style) == OGRERR_NONE);
}

}  // namespace

void write_geopackage(const Path& path, const PolygonLayer& layer) {
  start_gdal();
  const MemoryFile file(".gpkg");
  GeoPackage package(path, file.name());
  const OGRSpatialReference crs = parse_crs(layer.crs);
  CPLStringList options;
  options.SetNameValue("GEOMETRY_NAME", "geom");
  options.SetNameValue("DESCRIPTION", layer.description.c_str());
  package.check(package->StartTransaction(TRUE) == OGRERR_NONE);
  OGRLayer* table = package->CreateLayer(layer.name.c_str(), const_cast<OGRSpatialReference*>(&crs),
                                         wkbPolygon, options.List());
  package.check(table != nullptr);
  for (const PolygonLayer::Field& field : layer.fields) {
    OGRFieldDefn definition(field.name.c_str(), field_type(field.type));
    package.check(table->CreateField(&definition) == OGRERR_NONE);
  }
  std::array<Point, 4> corners;
  std::vector<PolygonLayer::Value> values;
  OGRFeature feature(table->GetLayerDefn());
  for (std::uint64_t i = 0; i < layer.count; ++i) {
    values.assign(layer.fields.size(), std::monostate{});
    layer.fill(i, corners, values);
    feature.SetFID(OGRNullFID);
    for (std::size_t f = 0; f < values.size(); ++f) {
      const int index = static_cast<int>(f);
      if (const auto* text = std::get_if<std::string>(&values[f])) {
        feature.SetField(index, text->c_str());
      } else if (const auto* integer = std::get_if<std::int64_t>(&values[f])) {
        feature.SetField(index, static_cast<GIntBig>(*integer));
      } else if (const auto* real = std::get_if<double>(&values[f])) {
        feature.SetField(index, *real);
      } else {
        feature.SetFieldNull(index);
      }
    }
    OGRLinearRing ring;
    for (const Point& corner : corners) ring.addPoint(corner.x, corner.y);
    ring.closeRings();
    OGRPolygon polygon;
    polygon.addRing(&ring);
    feature.SetGeometry(&polygon);
    package.check(table->CreateFeature(&feature) == OGRERR_NONE);
  }
  if (!layer.style_field.empty()) write_style(package, layer);
  package.check(package->CommitTransaction() == OGRERR_NONE);
  package.close();
  write_file(path, file.bytes());
}

void write_category_names(const Path& raster, const std::vector<std::string>& names) {
  std::string text = "<PAMDataset>\n  <PAMRasterBand band=\"1\">\n    <CategoryNames>\n";
  for (const std::string& name : names)
    text += fmt::format("      <Category>{}</Category>\n", xml_text(name));
  text += "    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n";
  Path path = raster;
  path += ".aux.xml";
  write_file(path, text);
}

}  // namespace quadrat::geo
