#include "quadrat/base/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <utility>

#include "quadrat/base/error.h"

namespace quadrat {

namespace fs = std::filesystem;

namespace {

class File {
 public:
  /// @param known_as what messages name it by, where that is not `path`
  File(const Path& path, int flags, const char* action, const Path& known_as = {})
      : path_(known_as.empty() ? path : known_as) {
    do fd_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) throw IoError::from_errno(action, path_.native());
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int get() const { return fd_; }

  void sync() { flush(fd_, path_); }

  /// NFS reports a full server or quota only here.
  void close() {
    if (::close(std::exchange(fd_, -1)) != 0) throw IoError::from_errno("write", path_.native());
  }

 private:
  Path path_;
  int fd_ = -1;
};

Path folder_of(const Path& path) { return path.has_parent_path() ? path.parent_path() : Path("."); }

constexpr std::string_view kTemporaryMark = ".tmp.";

}  // namespace

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return "host";
  return name;
}

void read_file_into(const Path& path, Bytes& buffer, std::uint64_t max_bytes) {
  // A pipe that nobody writes to would be waited for.
  File file(path, O_RDONLY | O_NONBLOCK, "read");
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw IoError::from_errno("read", path.native());
  if (!S_ISREG(status.st_mode)) {
    throw InputError("read", path.native(), "it is not a regular file", "name a file");
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > max_bytes) {
    throw InputError("read", path.native(),
                     fmt::format("it has {} bytes, at most {} are allowed", size, max_bytes));
  }
  buffer.resize(size);
  std::size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t n = ::read(file.get(), buffer.data() + done, buffer.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError::from_errno("read", path.native());
    if (n == 0) {
      throw InputError("read", path.native(),
                       fmt::format("it ended after {} of {} bytes", done, buffer.size()),
                       "is something still writing it?");
    }
    done += static_cast<std::size_t>(n);
  }
}

Bytes read_file(const Path& path, std::uint64_t max_bytes) {
  Bytes buffer;
  read_file_into(path, buffer, max_bytes);
  return buffer;
}

Path temporary_beside(const Path& path) {
  return folder_of(path) / fmt::format(".{}{}{}.{}", path.filename().native(), kTemporaryMark,
                                       host_name(), ::getpid());
}

void put_in_place(const Path& temporary, const Path& path) {
  try {
    File file(temporary, O_RDONLY, "flush");
    file.sync();
    file.close();
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      throw IoError::from_errno("replace", path.native());
    }
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  flush_folder(folder_of(path));
}

void replace_file(const Path& path, const std::function<void(const Path&)>& write) {
  const Path temporary = temporary_beside(path);
  try {
    write(temporary);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  put_in_place(temporary, path);
}

void flush_folder(const Path& folder) { File(folder, O_RDONLY | O_DIRECTORY, "flush").sync(); }

void flush(int descriptor, const Path& path) {
  int failed = 0;
  do failed = ::fsync(descriptor);
  while (failed != 0 && errno == EINTR);
  // A folder on some network file systems cannot be fsynced, and says so with EINVAL.
  if (failed != 0 && errno != EINVAL) throw IoError::from_errno("flush", path.native());
}

void write_all(int descriptor, std::span<const std::byte> bytes, std::string_view action,
               const Path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError::from_errno(action, path.native());
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void write_file(const Path& path, const std::vector<std::span<const std::byte>>& pieces) {
  replace_file(path, [&](const Path& temporary) {
    File file(temporary, O_WRONLY | O_CREAT | O_TRUNC, "write", path);
    for (const auto piece : pieces) write_all(file.get(), piece, "write", path);
    file.close();
  });
}

void write_file(const Path& path, std::span<const std::byte> content) {
  write_file(path, std::vector{content});
}

void write_file(const Path& path, std::string_view content) {
  write_file(path, std::as_bytes(std::span(content)));
}

void make_folder(const Path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error && fs::is_directory(path, error)) return;
  std::error_code ignored;
  if (!error || (fs::exists(path, ignored) && !fs::is_directory(path, ignored))) {
    throw InputError("create folder", path.native(), "a file of that name is in the way");
  }
  errno = error.value();
  throw IoError::from_errno("create folder", path.native());
}

void remove_stale_temporaries(const Path& folder, double age_s) noexcept {
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with('.') || name.find(kTemporaryMark) == std::string::npos) continue;
    std::error_code ignored;
    const auto written = fs::last_write_time(it->path(), ignored);
    if (ignored) continue;
    if (std::chrono::duration<double>(now - written).count() >= age_s) {
      fs::remove(it->path(), ignored);
    }
  }
}

}  // namespace quadrat
