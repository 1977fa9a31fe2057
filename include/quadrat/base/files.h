#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quadrat {

using Path = std::filesystem::path;
using Bytes = std::vector<std::byte>;

/// The whole file. Short reads and EINTR are handled; directories, devices and files over
/// `max_bytes` refused.
/// @throws IoError where the file cannot be opened or read, InputError where it is not a file or
/// too large.
Bytes read_file(const Path& path, std::uint64_t max_bytes = std::uint64_t{1} << 32);

/// As read_file, into a buffer that is reused between calls; only its size changes when it is large
/// enough.
void read_file_into(const Path& path, Bytes& buffer,
                    std::uint64_t max_bytes = std::uint64_t{1} << 32);

/// Where what is to become `path` is written meanwhile: beside it, .NAME.tmp.HOST.PID.
Path temporary_beside(const Path& path);

/// Gives what was written to `temporary` its name: fsynced, renamed, and the folder fsynced, so
/// that at every instant `path` is either whole and old or whole and new. `temporary` is removed
/// when anything throws. @throws IoError
void put_in_place(const Path& temporary, const Path& path);

/// Replaces `path` by what `write` leaves in the temporary file it is given (temporary_beside),
/// which is then put in place, or removed when anything throws.
/// @throws IoError; whatever `write` throws.
void replace_file(const Path& path, const std::function<void(const Path& temporary)>& write);

/// replace_file with given content.
void write_file(const Path& path, std::string_view content);
void write_file(const Path& path, std::span<const std::byte> content);
void write_file(const Path& path, const std::vector<std::span<const std::byte>>& pieces);

/// Writes all of `bytes`, however often the system takes a part only.
/// @param action what a failure says was to be done, e.g. "write tile"
/// @param path named by it
/// @throws IoError
void write_all(int descriptor, std::span<const std::byte> bytes, std::string_view action,
               const Path& path);

/// What was written to the file or folder goes to its disk.
/// @param path named by a failure
/// @throws IoError
void flush(int descriptor, const Path& path);

/// The names in a folder go to its disk: that of a file is not there with the file's own fsync.
/// @throws IoError
void flush_folder(const Path& folder);

/// Of the machine this runs on, at most HOST_NAME_MAX characters; "host" where it has none.
std::string host_name();

/// Creates the folder and its parents. @throws IoError, also where something that is no folder is
/// in the way.
void make_folder(const Path& path);

/// Removes the temporary files that killed processes left in `folder` (temporary_beside), older
/// than `age_s` seconds. Never throws: leftovers are harmless.
void remove_stale_temporaries(const Path& folder, double age_s = 0) noexcept;

}  // namespace quadrat
