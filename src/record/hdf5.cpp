#include "hdf5.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <libdeflate.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::hdf5 {

namespace {

constexpr std::size_t kBlockBytes = std::size_t{4} << 20;  ///< rows in memory at a time
constexpr std::size_t kChunkBytes = std::size_t{128}
                                    << 10;  ///< good for deflate, small for one glance
constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{256} << 20;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 16;
constexpr std::size_t kMaxAttributeBytes = std::size_t{16} << 20;
/// Deflate packs at best about 1032 to 1: a file that claims more than this holds nothing but
/// claims.
constexpr std::uint64_t kMaxExpansion = 1100;

/// What is opened here is closed here, and records reach the disk by writes of our own. Of a
/// damaged file HDF5 1.10 cannot close all, and would say so when the program exits.
[[maybe_unused]] const herr_t kNothingAtExit = H5dont_atexit();

struct Reasons {
  std::vector<std::string> texts;
};

herr_t collect(unsigned, const H5E_error2_t* error, void* data) {
  auto& reasons = *static_cast<Reasons*>(data);
  if (error->desc != nullptr && *error->desc != '\0') reasons.texts.emplace_back(error->desc);
  return 0;
}

std::uint64_t width_of(ColumnType type) {
  switch (type) {
    case ColumnType::kText:
      return 0;
    case ColumnType::kU16:
      return 2;
    case ColumnType::kU32:
      return 4;
    case ColumnType::kF32:
      return 4;
    case ColumnType::kI64:
      return 8;
    case ColumnType::kF64:
      return 8;
  }
  return 0;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

Type text_type(std::size_t size_bytes, bool ascii) {
  Type type(H5Tcopy(H5T_C_S1), "make a text type");
  check(H5Tset_size(type, std::max<std::size_t>(size_bytes, 1)), "make a text type");
  check(H5Tset_strpad(type, H5T_STR_NULLPAD), "make a text type");
  check(H5Tset_cset(type, ascii ? H5T_CSET_ASCII : H5T_CSET_UTF8), "make a text type");
  return type;
}

/// In the file and in memory: both are little-endian, on the one processor there is.
Type type_of(const Column& column) {
  switch (column.type) {
    case ColumnType::kText:
      return text_type(column.size_bytes, false);
    case ColumnType::kU16:
      return {H5Tcopy(H5T_STD_U16LE), "copy a type"};
    case ColumnType::kU32:
      return {H5Tcopy(H5T_STD_U32LE), "copy a type"};
    case ColumnType::kI64:
      return {H5Tcopy(H5T_STD_I64LE), "copy a type"};
    case ColumnType::kF32:
      return {H5Tcopy(H5T_IEEE_F32LE), "copy a type"};
    case ColumnType::kF64:
      return {H5Tcopy(H5T_IEEE_F64LE), "copy a type"};
  }
  return {};
}

/// A chunked, growing dataset's properties. Small tables are not worth compressing.
Properties table_properties(std::uint64_t rows, std::size_t row_bytes) {
  Properties properties(H5Pcreate(H5P_DATASET_CREATE), "make dataset properties");
  const hsize_t fitting =
      std::max<std::size_t>(kChunkBytes / std::max<std::size_t>(row_bytes, 1), 1);
  const hsize_t chunk = std::clamp<hsize_t>(rows, 1, fitting);
  check(H5Pset_chunk(properties, 1, &chunk), "set the chunk size");
  if (rows * row_bytes > kChunkBytes / 8) {
    check(H5Pset_shuffle(properties), "set the shuffle filter");
    check(H5Pset_deflate(properties, 1), "set the deflate filter");
  }
  return properties;
}

Dataset open_dataset(const FileOnDisk& file, const std::string& path) {
  if (!has(file.id(), path)) throw Failure(fmt::format("it has no '{}'", path));
  Dataset dataset(H5Dopen2(file.id(), path.c_str(), H5P_DEFAULT), fmt::format("open '{}'", path));
  const Properties properties(H5Dget_create_plist(dataset), "get a dataset's properties");
  // What lies in other files is none of a record's business.
  if (H5Pget_layout(properties) == H5D_VIRTUAL || H5Pget_external_count(properties) != 0) {
    throw Failure(fmt::format("'{}' lies in another file", path));
  }
  return dataset;
}

/// The extent, once it is known that the file can hold it.
std::vector<std::uint64_t> extent(const FileOnDisk& file, const Dataset& dataset,
                                  const std::string& path, int dimensions) {
  const Space space(H5Dget_space(dataset), fmt::format("get the extent of '{}'", path));
  if (H5Sget_simple_extent_ndims(space) != dimensions) {
    throw Failure(fmt::format("'{}' has {} dimensions instead of {}", path,
                              H5Sget_simple_extent_ndims(space), dimensions));
  }
  std::vector<hsize_t> sizes(static_cast<std::size_t>(dimensions));
  check(H5Sget_simple_extent_dims(space, sizes.data(), nullptr),
        fmt::format("get the extent of '{}'", path));
  const Type type(H5Dget_type(dataset), fmt::format("get the type of '{}'", path));
  long double bytes = static_cast<long double>(H5Tget_size(type));
  for (const hsize_t size : sizes) bytes *= static_cast<long double>(size);
  if (bytes > static_cast<long double>(file.size_bytes()) * kMaxExpansion) {
    throw Failure(fmt::format("'{}' claims {}, more than a file of {} can hold", path,
                              format_bytes(static_cast<double>(bytes)),
                              format_bytes(static_cast<double>(file.size_bytes()))));
  }
  return {sizes.begin(), sizes.end()};
}

/// Checks that every compressed chunk unpacks to a whole chunk. HDF5 1.10 does not: it reads on
/// past the end of a shorter one, out of its own memory.
void check_chunks(const FileOnDisk& file, const Dataset& dataset, const std::string& path,
                  const std::vector<hsize_t>& sizes) {
  const Properties properties(H5Dget_create_plist(dataset), "get a dataset's properties");
  const int filters = H5Pget_nfilters(properties);
  if (H5Pget_layout(properties) != H5D_CHUNKED || filters <= 0) return;
  unsigned deflate_bit = 0;
  unsigned checksum_bit = 0;
  for (unsigned i = 0; i < static_cast<unsigned>(filters); ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter =
        H5Pget_filter2(properties, i, &flags, &values, nullptr, 0, nullptr, nullptr);
    if (filter == H5Z_FILTER_DEFLATE && deflate_bit == 0 && checksum_bit == 0) {
      deflate_bit = 1U << i;
    } else if (filter == H5Z_FILTER_FLETCHER32 && checksum_bit == 0) {
      checksum_bit = 1U << i;
    } else if (filter != H5Z_FILTER_SHUFFLE || deflate_bit != 0 || checksum_bit != 0) {
      throw Failure(
          fmt::format("'{}' is packed by something other than shuffle and deflate", path));
    }
  }
  std::vector<hsize_t> sides(sizes.size());
  const Type type(H5Dget_type(dataset), "get a dataset's type");
  if (H5Pget_chunk(properties, static_cast<int>(sides.size()), sides.data()) !=
      static_cast<int>(sides.size())) {
    fail("get the chunks' size");
  }
  hsize_t chunk_bytes = H5Tget_size(type);
  hsize_t chunks = 1;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    chunk_bytes *= std::min<hsize_t>(sides[i], kMaxChunkBytes + 1);
    chunks *= (sizes[i] + sides[i] - 1) / sides[i];
  }
  if (chunk_bytes > kMaxChunkBytes) {
    throw Failure(
        fmt::format("'{}' has chunks of {}", path, format_bytes(static_cast<double>(chunk_bytes))));
  }
  const std::unique_ptr<libdeflate_decompressor, decltype(&libdeflate_free_decompressor)> unpacker(
      libdeflate_alloc_decompressor(), &libdeflate_free_decompressor);
  if (!unpacker) throw std::bad_alloc();
  constexpr std::uint64_t kChecksumBytes = 4;
  std::vector<std::byte> packed;
  std::vector<std::byte> whole(chunk_bytes);
  std::vector<hsize_t> first(sizes.size());
  for (hsize_t number = 0; number < chunks; ++number) {
    hsize_t rest = number;
    for (std::size_t i = sizes.size(); i-- > 0;) {
      const hsize_t across = (sizes[i] + sides[i] - 1) / sides[i];
      first[i] = rest % across * sides[i];
      rest /= across;
    }
    const std::string chunk = fmt::format("'{}' from row {} on", path, first[0]);
    hsize_t packed_bytes = 0;
    if (H5Dget_chunk_storage_size(dataset, first.data(), &packed_bytes) < 0) fail("find " + chunk);
    if (packed_bytes == 0) throw Failure(chunk + " is missing");
    if (packed_bytes > file.size_bytes()) throw Failure(chunk + " claims more than the file has");
    packed.resize(packed_bytes);
    std::uint32_t skipped = 0;
    check(H5Dread_chunk(dataset, H5P_DEFAULT, first.data(), &skipped, packed.data()),
          "read " + chunk);
    if (checksum_bit != 0 && (skipped & checksum_bit) == 0)
      packed_bytes -= std::min<hsize_t>(packed_bytes, kChecksumBytes);
    const bool is_whole =
        deflate_bit != 0 && (skipped & deflate_bit) == 0
            ? libdeflate_zlib_decompress(unpacker.get(), packed.data(), packed_bytes, whole.data(),
                                         whole.size(), nullptr) == LIBDEFLATE_SUCCESS
            : packed_bytes == chunk_bytes;
    if (!is_whole) throw Failure(chunk + " is damaged");
  }
}

Type table_type(const Dataset& dataset, const std::string& path) {
  Type type(H5Dget_type(dataset), fmt::format("get the type of '{}'", path));
  if (H5Tget_class(type) != H5T_COMPOUND) throw Failure(fmt::format("'{}' is no table", path));
  return type;
}

std::string member_name(hid_t type, unsigned i) {
  char* name = H5Tget_member_name(type, i);
  if (name == nullptr) fail("read a column's name");
  std::string text = name;
  H5free_memory(name);
  return text;
}

std::string fixed_text(const char* bytes, std::size_t size_bytes) {
  return {bytes, ::strnlen(bytes, size_bytes)};
}

void write_attribute(hid_t object, const std::string& name, hid_t type, const void* value) {
  const Space space(H5Screate(H5S_SCALAR), "make a scalar");
  // A setting given twice is as the last one says.
  if (H5Aexists(object, name.c_str()) > 0)
    check(H5Adelete(object, name.c_str()), "replace an attribute");
  const Attribute attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                            fmt::format("create attribute '{}'", name));
  check(H5Awrite(attribute, type, value), fmt::format("write attribute '{}'", name));
}

template <typename T>
T number_in(const Setting& setting) {
  T number{};
  if (!parse_number(setting.value, number))
    throw Failure(fmt::format("{} is '{}'", setting.name, printable(setting.value)));
  return number;
}

Setting attribute_setting(const Attribute& attribute, const std::string& name) {
  const std::string action = fmt::format("read attribute '{}'", printable(name));
  const Space space(H5Aget_space(attribute), action);
  const Type type(H5Aget_type(attribute), action);
  if (H5Sget_simple_extent_type(space) == H5S_NULL) return {name, ""};
  if (H5Sget_simple_extent_npoints(space) != 1) {
    throw Failure(fmt::format("attribute '{}' is not a single value", printable(name)));
  }
  const H5T_class_t kind = H5Tget_class(type);
  if (kind == H5T_STRING) {
    if (H5Tis_variable_str(type) > 0) {
      char* text = nullptr;
      const Type wanted(H5Tcopy(type), action);
      check(H5Aread(attribute, wanted, static_cast<void*>(&text)), action);
      const std::string copy = text == nullptr ? "" : text;
      H5free_memory(text);
      return {name, copy};
    }
    const std::size_t size_bytes = H5Tget_size(type);
    if (size_bytes > kMaxAttributeBytes) {
      throw Failure(fmt::format("attribute '{}' claims {}", printable(name),
                                format_bytes(static_cast<double>(size_bytes))));
    }
    std::vector<char> text(size_bytes);
    check(H5Aread(attribute, type, text.data()), action);
    return {name, fixed_text(text.data(), text.size())};
  }
  if (kind == H5T_INTEGER) {
    if (H5Tget_sign(type) == H5T_SGN_NONE) {
      std::uint64_t value = 0;
      check(H5Aread(attribute, H5T_NATIVE_UINT64, &value), action);
      return {name, value};
    }
    std::int64_t value = 0;
    check(H5Aread(attribute, H5T_NATIVE_INT64, &value), action);
    return {name, value};
  }
  if (kind == H5T_FLOAT) {
    double value = 0;
    check(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value), action);
    return {name, value};
  }
  throw Failure(fmt::format("attribute '{}' is neither text nor a number", printable(name)));
}

}  // namespace

void fail(std::string_view action) {
  Reasons reasons;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &reasons);
  H5Eclear2(H5E_DEFAULT);
  std::string text = fmt::format("could not {}", action);
  // Innermost is nearest to the cause; what the outer calls add is mostly that they failed too.
  constexpr std::size_t kShown = 3;
  for (std::size_t i = 0; i < std::min(kShown, reasons.texts.size()); ++i) {
    text += fmt::format("{}{}", i == 0 ? ": " : ", ", printable(reasons.texts[i], 200));
  }
  throw Failure(text + (reasons.texts.empty() ? "" : " (HDF5)"));
}

void check(herr_t status, std::string_view action) {
  if (status < 0) fail(action);
}

QuietErrors::QuietErrors() {
  H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

QuietErrors::~QuietErrors() { H5Eset_auto2(H5E_DEFAULT, print_, data_); }

FileInMemory::FileInMemory() {
  const Properties access(H5Pcreate(H5P_FILE_ACCESS), "make file properties");
  constexpr std::size_t kGrowth = std::size_t{1} << 20;
  check(H5Pset_fapl_core(access, kGrowth, false), "choose memory");
  // Attributes over 64 kB and in the order of writing need HDF5 1.8's format; nothing newer is
  // asked of readers.
  check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), "choose the format");
  file_ =
      File(H5Fcreate("record.h5", H5F_ACC_TRUNC, H5P_DEFAULT, access), "create a file in memory");
}

std::span<const std::byte> FileInMemory::image() {
  check(H5Fflush(file_, H5F_SCOPE_GLOBAL), "finish the file");
  const ssize_t size_bytes = H5Fget_file_image(file_, nullptr, 0);
  if (size_bytes < 0) fail("get the file's size");
  // Not H5Fget_file_image for the bytes themselves: HDF5 1.10 clears a flag where an older format
  // had it, and so spoils the checksum of the superblock.
  void* memory = nullptr;
  check(H5Fget_vfd_handle(file_, H5P_DEFAULT, &memory), "get the file");
  const auto* first = *static_cast<const std::byte* const*>(memory);
  return {first, static_cast<std::size_t>(size_bytes)};
}

FileOnDisk::FileOnDisk(const Path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || ::access(path.c_str(), R_OK) != 0) {
    throw IoError::from_errno("read", path.native());
  }
  if (!S_ISREG(status.st_mode))
    throw InputError("read", path.native(), "it is not a regular file", "name a file");
  size_bytes_ = static_cast<std::uint64_t>(status.st_size);
  if (size_bytes_ == 0) throw Failure("it is empty");
  const Properties access(H5Pcreate(H5P_FILE_ACCESS), "make file properties");
  check(H5Pset_file_locking(access, false, true), "do without locks");
  if (H5Fis_hdf5(path.c_str()) == 0) {
    H5Eclear2(H5E_DEFAULT);
    throw Failure("it is no HDF5 file");
  }
  file_ = File(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), "open it");
}

void write_attribute(hid_t object, const std::string& name, std::string_view text) {
  const Type type = text_type(text.size(), is_ascii(text));
  // HDF5 reads at least the one byte that a text type has.
  const std::string bytes = text.empty() ? std::string(1, '\0') : std::string(text);
  write_attribute(object, name, static_cast<hid_t>(type), bytes.data());
}

void write_attribute(hid_t object, const std::string& name, double value) {
  write_attribute(object, name, H5T_IEEE_F64LE, &value);
}

void write_attribute(hid_t object, const std::string& name, std::int64_t value) {
  write_attribute(object, name, H5T_STD_I64LE, &value);
}

void write_attribute(hid_t object, const std::string& name, std::uint64_t value) {
  write_attribute(object, name, H5T_STD_U64LE, &value);
}

std::string read_attribute(hid_t object, const std::string& name) {
  return read_setting(object, name).value;
}

Setting read_setting(hid_t object, const std::string& name) {
  if (H5Aexists(object, name.c_str()) <= 0)
    throw Failure(fmt::format("it has no attribute '{}'", name));
  const Attribute attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT),
                            fmt::format("open attribute '{}'", name));
  return attribute_setting(attribute, name);
}

Group create_group(hid_t parent, const char* name) {
  const Properties properties(H5Pcreate(H5P_GROUP_CREATE), "make group properties");
  check(H5Pset_attr_creation_order(properties, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED),
        "keep the attributes' order");
  return {H5Gcreate2(parent, name, H5P_DEFAULT, properties, H5P_DEFAULT),
          fmt::format("create group '{}'", name)};
}

void write_settings(hid_t parent, const char* name, const Settings& settings,
                    std::string_view description) {
  const Group group = create_group(parent, name);
  for (const Setting& setting : settings) {
    switch (setting.type) {
      case Setting::Type::kText:
        write_attribute(group, setting.name, std::string_view(setting.value));
        break;
      case Setting::Type::kInteger:
        write_attribute(group, setting.name, number_in<std::int64_t>(setting));
        break;
      case Setting::Type::kReal:
        write_attribute(group, setting.name, number_in<double>(setting));
        break;
    }
  }
  check(H5Oset_comment(group, std::string(description).c_str()), "write a comment");
}

Settings read_settings(hid_t parent, const char* name) {
  if (!has(parent, name)) throw Failure(fmt::format("it has no '{}'", name));
  const Group group(H5Gopen2(parent, name, H5P_DEFAULT), fmt::format("open '{}'", name));
  struct Walk {
    Settings settings;
    std::string failure;
  } walk;
  const auto visit = [](hid_t object, const char* key, const H5A_info_t*, void* data) -> herr_t {
    auto& to = *static_cast<Walk*>(data);
    // Exceptions must not cross HDF5's C code.
    try {
      to.settings.push_back(read_setting(object, key));
      return 0;
    } catch (const std::exception& error) {
      to.failure = error.what();
      return -1;
    }
  };
  const Properties properties(H5Gget_create_plist(group), "get a group's properties");
  unsigned order = 0;
  check(H5Pget_attr_creation_order(properties, &order), "get the attributes' order");
  const H5_index_t index =
      (order & H5P_CRT_ORDER_TRACKED) != 0 ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;
  const herr_t status = H5Aiterate2(group, index, H5_ITER_INC, nullptr, visit, &walk);
  if (!walk.failure.empty()) throw Failure(fmt::format("'/{}': {}", name, walk.failure));
  check(status, fmt::format("read '/{}'", name));
  return walk.settings;
}

Layout::Layout(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (Column& column : columns_) {
    if (column.type != ColumnType::kText) column.size_bytes = width_of(column.type);
    column.size_bytes = std::max<std::size_t>(column.size_bytes, 1);
    offsets_.push_back(row_bytes_);
    row_bytes_ += column.size_bytes;
  }
}

void Layout::put(std::byte* row, std::size_t column, std::string_view text) const {
  const std::size_t size_bytes = std::min(text.size(), columns_[column].size_bytes);
  std::memcpy(row + offsets_[column], text.data(), size_bytes);
}

std::string Layout::text(const std::byte* row, std::size_t column) const {
  return fixed_text(reinterpret_cast<const char*>(row) + offsets_[column],
                    columns_[column].size_bytes);
}

void write_table(hid_t parent, const char* name, const Layout& layout, std::uint64_t rows,
                 std::string_view description,
                 const std::function<void(std::uint64_t, std::byte*)>& fill) {
  const std::string action = fmt::format("write table '{}'", name);
  const Type type(H5Tcreate(H5T_COMPOUND, layout.row_bytes()), action);
  std::size_t offset = 0;
  for (const Column& column : layout.columns()) {
    check(H5Tinsert(type, column.name.c_str(), offset, type_of(column)), action);
    offset += column.size_bytes;
  }
  const hsize_t size = rows;
  const hsize_t unlimited = H5S_UNLIMITED;
  const Space space(H5Screate_simple(1, &size, &unlimited), action);
  const Properties properties = table_properties(rows, layout.row_bytes());
  const Dataset dataset(H5Dcreate2(parent, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
                        action);
  const std::uint64_t block = std::max<std::uint64_t>(kBlockBytes / layout.row_bytes(), 1);
  std::vector<std::byte> buffer;
  for (std::uint64_t first = 0; first < rows; first += block) {
    const hsize_t start = first;
    const hsize_t count = std::min(block, rows - first);
    buffer.assign(count * layout.row_bytes(), std::byte{0});
    for (hsize_t i = 0; i < count; ++i) fill(first + i, buffer.data() + i * layout.row_bytes());
    check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), action);
    const Space block_space(H5Screate_simple(1, &count, nullptr), action);
    check(H5Dwrite(dataset, type, block_space, space, H5P_DEFAULT, buffer.data()), action);
  }
  write_attribute(dataset, "description", description);
  for (const Column& column : layout.columns()) {
    if (!column.meaning.empty())
      write_attribute(dataset, column.name, std::string_view(column.meaning));
  }
}

void read_table(const FileOnDisk& file, const std::string& path, std::vector<Column> columns,
                const TableReader& reader) {
  const std::string action = fmt::format("read table '{}'", path);
  const Dataset dataset = open_dataset(file, path);
  const Type in_file = table_type(dataset, path);
  const std::uint64_t rows = extent(file, dataset, path, 1)[0];
  for (Column& column : columns) {
    const int index = H5Tget_member_index(in_file, column.name.c_str());
    if (index < 0) {
      H5Eclear2(H5E_DEFAULT);
      throw Failure(fmt::format("'{}' has no column '{}'", path, printable(column.name)));
    }
    const Type member(H5Tget_member_type(in_file, static_cast<unsigned>(index)), action);
    const H5T_class_t kind = H5Tget_class(member);
    const bool fits = column.type == ColumnType::kText
                          ? kind == H5T_STRING && H5Tis_variable_str(member) == 0
                          : kind == H5T_INTEGER || kind == H5T_FLOAT;
    if (!fits) {
      throw Failure(
          fmt::format("'{}' has a column '{}' that is no {}", path, printable(column.name),
                      column.type == ColumnType::kText ? "text of fixed length" : "number"));
    }
    if (column.type == ColumnType::kText) {
      column.size_bytes = H5Tget_size(member);
      if (column.size_bytes > kMaxTextBytes) {
        throw Failure(fmt::format("'{}' has a column '{}' of {} a row", path,
                                  printable(column.name),
                                  format_bytes(static_cast<double>(column.size_bytes))));
      }
    }
  }
  const Layout layout(std::move(columns));
  const Type in_memory(H5Tcreate(H5T_COMPOUND, layout.row_bytes()), action);
  std::size_t offset = 0;
  for (const Column& column : layout.columns()) {
    const char* name = column.name.c_str();
    if (column.type == ColumnType::kText) {
      // HDF5 converts widths but not character sets: take the file's.
      const Type member(
          H5Tget_member_type(in_file, static_cast<unsigned>(H5Tget_member_index(in_file, name))),
          action);
      check(H5Tinsert(in_memory, name, offset, member), action);
    } else {
      check(H5Tinsert(in_memory, name, offset, type_of(column)), action);
    }
    offset += column.size_bytes;
  }
  check_chunks(file, dataset, path, {rows});
  reader.begin(rows);
  const Space space(H5Dget_space(dataset), action);
  const std::uint64_t block = std::max<std::uint64_t>(kBlockBytes / layout.row_bytes(), 1);
  std::vector<std::byte> buffer;
  for (std::uint64_t first = 0; first < rows; first += block) {
    const hsize_t start = first;
    const hsize_t count = std::min(block, rows - first);
    buffer.resize(count * layout.row_bytes());
    check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), action);
    const Space block_space(H5Screate_simple(1, &count, nullptr), action);
    check(H5Dread(dataset, in_memory, block_space, space, H5P_DEFAULT, buffer.data()), action);
    for (hsize_t i = 0; i < count; ++i)
      reader.row(first + i, layout, buffer.data() + i * layout.row_bytes());
  }
}

std::vector<std::string> table_columns(const FileOnDisk& file, const std::string& path) {
  const Dataset dataset = open_dataset(file, path);
  const Type type = table_type(dataset, path);
  std::vector<std::string> names;
  const int count = H5Tget_nmembers(type);
  for (int i = 0; i < count; ++i) names.push_back(member_name(type, static_cast<unsigned>(i)));
  return names;
}

void write_strings(hid_t parent, const char* name, const std::vector<std::string>& values,
                   std::string_view description) {
  const std::string action = fmt::format("write '{}'", name);
  std::size_t width = 1;
  for (const std::string& value : values) width = std::max(width, value.size());
  std::string bytes;
  for (const std::string& value : values) {
    bytes += value;
    bytes.resize(bytes.size() + width - value.size());
  }
  const Type type = text_type(width, is_ascii(bytes));
  const hsize_t size = values.size();
  const Space space(H5Screate_simple(1, &size, nullptr), action);
  const Dataset dataset(
      H5Dcreate2(parent, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), action);
  if (!values.empty())
    check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), action);
  write_attribute(dataset, "description", description);
}

std::vector<std::string> read_strings(const FileOnDisk& file, const std::string& path) {
  const std::string action = fmt::format("read '{}'", path);
  const Dataset dataset = open_dataset(file, path);
  const Type type(H5Dget_type(dataset), action);
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0) {
    throw Failure(fmt::format("'{}' holds no text of fixed length", path));
  }
  const std::uint64_t count = extent(file, dataset, path, 1)[0];
  check_chunks(file, dataset, path, {count});
  const std::size_t width = H5Tget_size(type);
  std::vector<char> bytes(count * width);
  if (count > 0) check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), action);
  std::vector<std::string> values;
  for (std::uint64_t i = 0; i < count; ++i)
    values.push_back(fixed_text(bytes.data() + i * width, width));
  return values;
}

void write_matrix(hid_t parent, const char* name, const std::vector<std::int64_t>& values,
                  std::size_t side, std::string_view description) {
  const std::string action = fmt::format("write '{}'", name);
  const hsize_t sizes[2] = {side, side};
  const Space space(H5Screate_simple(2, sizes, nullptr), action);
  const Dataset dataset(
      H5Dcreate2(parent, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      action);
  if (side > 0)
    check(H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
          action);
  write_attribute(dataset, "description", description);
}

std::vector<std::int64_t> read_matrix(const FileOnDisk& file, const std::string& path,
                                      std::size_t side) {
  const std::string action = fmt::format("read '{}'", path);
  const Dataset dataset = open_dataset(file, path);
  const std::vector<std::uint64_t> sizes = extent(file, dataset, path, 2);
  if (sizes[0] != side || sizes[1] != side) {
    throw Failure(
        fmt::format("'{}' is {}x{}, but there are {} classes", path, sizes[0], sizes[1], side));
  }
  check_chunks(file, dataset, path, {side, side});
  std::vector<std::int64_t> values(side * side);
  if (side > 0)
    check(H5Dread(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), action);
  return values;
}

void write_floats(hid_t parent, const char* name, std::span<const float> values,
                  std::uint64_t columns, std::string_view description) {
  const std::string action = fmt::format("write '{}'", name);
  const hsize_t sizes[2] = {values.size() / columns, columns};
  const Space space(H5Screate_simple(2, sizes, nullptr), action);
  const Dataset dataset(
      H5Dcreate2(parent, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      action);
  if (!values.empty())
    check(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
          action);
  write_attribute(dataset, "description", description);
}

std::vector<float> read_float_rows(const FileOnDisk& file, const std::string& path,
                                   std::uint64_t columns, std::uint64_t first, std::uint64_t last) {
  const std::string action = fmt::format("read '{}'", path);
  const Dataset dataset = open_dataset(file, path);
  const std::vector<std::uint64_t> sizes = extent(file, dataset, path, 2);
  if (sizes[0] < last || sizes[1] != columns) {
    throw Failure(fmt::format("'{}' is {}x{}, but {} rows of {} are needed", path, sizes[0],
                              sizes[1], last, columns));
  }
  check_chunks(file, dataset, path, {sizes[0], sizes[1]});
  std::vector<float> values((last - first) * columns);
  if (values.empty()) return values;
  const hsize_t start[2] = {first, 0};
  const hsize_t count[2] = {last - first, columns};
  const Space from(H5Dget_space(dataset), action);
  check(H5Sselect_hyperslab(from, H5S_SELECT_SET, start, nullptr, count, nullptr), action);
  const Space to(H5Screate_simple(2, count, nullptr), action);
  check(H5Dread(dataset, H5T_NATIVE_FLOAT, to, from, H5P_DEFAULT, values.data()), action);
  return values;
}

bool has(hid_t file, const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    H5L_info_t link;
    if (H5Lget_info(file, part.c_str(), &link, H5P_DEFAULT) < 0) {
      H5Eclear2(H5E_DEFAULT);
      return false;
    }
    if (link.type != H5L_TYPE_HARD) return false;
    if (end == std::string::npos) return true;
  }
}

Dataset open_attributes_of(hid_t file, const std::string& path) {
  if (!has(file, path)) throw Failure(fmt::format("it has no '{}'", path));
  return {H5Dopen2(file, path.c_str(), H5P_DEFAULT), fmt::format("open '{}'", path)};
}

}  // namespace quadrat::hdf5
