#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <new>
#include <string>
#include <string_view>

#include "layout.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::png {

namespace {

/// Complaints about colour profiles and gamma that common software causes and that cannot change a
/// pixel here.
bool is_harmless(std::string_view warning) {
  return warning.starts_with("iCCP: known incorrect sRGB profile") ||
         warning.starts_with("iCCP: out-of-date sRGB profile") ||
         warning.starts_with("gAMA: gamma value does not match") ||
         warning.starts_with("cHRM: chromaticities do not match") ||
         warning.starts_with("cHRM: cHRM chunk does not match");
}

/// libpng reports errors by longjmp, which skips destructors: only the two small methods below call
/// what may jump, and neither holds anything that needs destroying.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> file) : rest_(file) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, &info_, nullptr);
      throw std::bad_alloc();
    }
  }
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  /// Everything before the pixels, and the conversion of any kind of pixel to 8-bit RGB.
  bool read_info(const PngLimits& limits) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_read_fn(png_, this, on_read);
    png_set_user_limits(png_, limits.max_side_px, limits.max_side_px);
    png_set_chunk_malloc_max(png_, static_cast<png_alloc_size_t>(limits.max_chunk_bytes));
    png_set_chunk_cache_max(png_, limits.max_chunks);
    // Of chunks that say nothing of colours the checksums are verified, and no more: texts could
    // each unpack to the limit, and libpng 1.6.48 takes a valid histogram to be out of place.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, 0);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER,
                                reinterpret_cast<png_const_bytep>(kColourless),
                                static_cast<int>(std::size(kColourless)));
    png_read_info(png_, info_);
    png_set_palette_to_rgb(png_);
    png_set_expand_gray_1_2_4_to_8(png_);
    png_set_strip_16(png_);
    png_set_strip_alpha(png_);
    png_set_gray_to_rgb(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  std::size_t row_bytes() const { return png_get_rowbytes(png_, info_); }

  bool read_pixels(std::uint8_t* rgb, std::size_t row_bytes, std::uint32_t height_px) {
    if (setjmp(png_jmpbuf(png_))) return false;
    for (int pass = 0; pass < passes_; ++pass) {
      for (std::uint32_t y = 0; y < height_px; ++y) {
        png_read_row(png_, rgb + y * row_bytes, nullptr);
      }
    }
    png_read_end(png_, nullptr);
    return true;
  }

  const char* message() const { return message_; }

 private:
  static void on_error(png_structp png, png_const_charp message) {
    auto* self = static_cast<Reader*>(png_get_error_ptr(png));
    std::snprintf(self->message_, sizeof self->message_, "%s", message);
    png_longjmp(png, 1);
  }

  /// libpng only warns of much that makes a file invalid: a wrong checksum, too much data, a chunk
  /// out of place.
  static void on_warning(png_structp png, png_const_charp message) {
    if (!is_harmless(message)) png_error(png, message);
  }

  static void on_read(png_structp png, png_bytep to, std::size_t bytes) {
    auto* self = static_cast<Reader*>(png_get_io_ptr(png));
    if (bytes > self->rest_.size()) png_error(png, "the file is cut short");
    std::memcpy(to, self->rest_.data(), bytes);
    self->rest_ = self->rest_.subspan(bytes);
  }

  std::span<const std::byte> rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  int passes_ = 0;
  char message_[256] = "";
};

[[noreturn]] void refuse(const Reader& reader) {
  throw InputError("decode PNG", "", "libpng: " + printable(reader.message(), 200));
}

}  // namespace

void decode_with_libpng(std::span<const std::byte> file, const PngLimits& limits,
                        const Layout& layout, std::span<std::uint8_t> rgb) {
  Reader reader(file);
  if (!reader.read_info(limits)) refuse(reader);
  if (reader.row_bytes() != std::size_t{layout.width_px} * 3) {
    throw InputError("decode PNG", "", "libpng does not convert its pixels to 8-bit RGB");
  }
  if (!reader.read_pixels(rgb.data(), reader.row_bytes(), layout.height_px)) refuse(reader);
}

}  // namespace quadrat::png
