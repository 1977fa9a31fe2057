#pragma once

#include <hdf5.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/record/run_record.h"

/// What the record room needs of HDF5, checked. Private to the room.
namespace quadrat::hdf5 {

/// What went wrong, without the file's name: the room's public functions add that and what they
/// were doing.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// "`action`: HDF5's own reason, innermost first", and the error stack emptied.
[[noreturn]] void fail(std::string_view action);

/// HDF5 keeps its error stack to itself while this lives, and prints as before afterwards. One a
/// thread.
class QuietErrors {
 public:
  QuietErrors();
  ~QuietErrors();
  QuietErrors(const QuietErrors&) = delete;
  QuietErrors& operator=(const QuietErrors&) = delete;

 private:
  H5E_auto2_t print_ = nullptr;
  void* data_ = nullptr;
};

/// An identifier that is given back. Closing never matters here: files are written through memory
/// (see FileInMemory).
template <herr_t (*Close)(hid_t)>
class Handle {
 public:
  Handle() = default;
  /// @throws Failure where `id` says that the call that made it failed
  Handle(hid_t id, std::string_view action) : id_(id) {
    if (id < 0) fail(action);
  }
  ~Handle() {
    if (id_ >= 0) Close(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  operator hid_t() const {
    return id_;
  }  // NOLINT(google-explicit-constructor): it stands for the id in every call

 private:
  hid_t id_ = -1;
};

using File = Handle<H5Fclose>;
using Group = Handle<H5Gclose>;
using Dataset = Handle<H5Dclose>;
using Type = Handle<H5Tclose>;
using Space = Handle<H5Sclose>;
using Attribute = Handle<H5Aclose>;
using Properties = Handle<H5Pclose>;

/// @throws Failure where `status` is negative
void check(herr_t status, std::string_view action);

/// A new file that lives in memory until it is taken: HDF5 cannot lose its way on a full disk, and
/// the disk sees one long write. HDF5 1.8 and later read it.
class FileInMemory {
 public:
  FileInMemory();
  hid_t id() const { return file_; }
  /// Its bytes, for as long as this lives and nothing more is written.
  std::span<const std::byte> image();

 private:
  File file_;
};

/// Opens without locks, which network file systems may lack and which files replaced whole do not
/// need.
/// @throws IoError, InputError for what is no file, Failure for what is no HDF5
class FileOnDisk {
 public:
  explicit FileOnDisk(const Path& path);
  hid_t id() const { return file_; }
  std::uint64_t size_bytes() const { return size_bytes_; }

 private:
  File file_;
  std::uint64_t size_bytes_ = 0;
};

/// Attributes. Text is stored with a fixed length, numbers as f8, i8 or u8.
void write_attribute(hid_t object, const std::string& name, std::string_view text);
void write_attribute(hid_t object, const std::string& name, double value);
void write_attribute(hid_t object, const std::string& name, std::int64_t value);
void write_attribute(hid_t object, const std::string& name, std::uint64_t value);

/// The attribute as text: numbers in their shortest form. @throws Failure where it is missing or no
/// single value.
std::string read_attribute(hid_t object, const std::string& name);
Setting read_setting(hid_t object, const std::string& name);

/// One attribute a setting, of its type.
void write_settings(hid_t parent, const char* name, const Settings& settings,
                    std::string_view description);
Settings read_settings(hid_t parent, const char* name);

enum class ColumnType { kText, kU16, kU32, kI64, kF32, kF64 };

struct Column {
  std::string name;
  ColumnType type;
  std::size_t size_bytes =
      0;                ///< of text: at least 1; when read, the file's. Else what the type needs.
  std::string meaning;  ///< with its unit; written as an attribute named as the column
};

/// Rows of fixed size, packed: a compound type's layout in memory and in the file.
class Layout {
 public:
  explicit Layout(std::vector<Column> columns);

  const std::vector<Column>& columns() const { return columns_; }
  std::size_t row_bytes() const { return row_bytes_; }

  void put(std::byte* row, std::size_t column, std::string_view text) const;
  template <typename T>
  void put(std::byte* row, std::size_t column, T value) const {
    static_assert(std::is_arithmetic_v<T>);
    std::copy_n(reinterpret_cast<const std::byte*>(&value), sizeof(T), row + offsets_[column]);
  }
  std::string text(const std::byte* row, std::size_t column) const;
  template <typename T>
  T get(const std::byte* row, std::size_t column) const {
    T value;
    std::copy_n(row + offsets_[column], sizeof(T), reinterpret_cast<std::byte*>(&value));
    return value;
  }

 private:
  std::vector<Column> columns_;
  std::vector<std::size_t> offsets_;
  std::size_t row_bytes_ = 0;
};

/// A chunked one-dimensional table that can grow. `fill(i, row)` writes row i; rows are zeroed
/// before.
void write_table(hid_t parent, const char* name, const Layout& layout, std::uint64_t rows,
                 std::string_view description,
                 const std::function<void(std::uint64_t i, std::byte* row)>& fill);

struct TableReader {
  std::function<void(std::uint64_t rows)> begin;
  std::function<void(std::uint64_t i, const Layout& layout, const std::byte* row)> row;
};

/// Reads the named columns, whatever their order and width in the file, and leaves out others.
/// @throws Failure naming the part: missing, not a table, a column missing, more rows than the file
/// can hold
void read_table(const FileOnDisk& file, const std::string& path, std::vector<Column> columns,
                const TableReader& reader);
/// The names of the table's columns, in order.
std::vector<std::string> table_columns(const FileOnDisk& file, const std::string& path);

void write_strings(hid_t parent, const char* name, const std::vector<std::string>& values,
                   std::string_view description);
std::vector<std::string> read_strings(const FileOnDisk& file, const std::string& path);

/// [side, side] i8.
void write_matrix(hid_t parent, const char* name, const std::vector<std::int64_t>& values,
                  std::size_t side, std::string_view description);
std::vector<std::int64_t> read_matrix(const FileOnDisk& file, const std::string& path,
                                      std::size_t side);

/// [rows, columns] f4.
void write_floats(hid_t parent, const char* name, std::span<const float> values,
                  std::uint64_t columns, std::string_view description);
/// Rows [first, last). @throws Failure where there are fewer, or other columns
std::vector<float> read_float_rows(const FileOnDisk& file, const std::string& path,
                                   std::uint64_t columns, std::uint64_t first, std::uint64_t last);

Group create_group(hid_t parent, const char* name);
/// Whether `path` leads through hard links to something in this very file.
bool has(hid_t file, const std::string& path);
Dataset open_attributes_of(hid_t file, const std::string& path);

}  // namespace quadrat::hdf5
