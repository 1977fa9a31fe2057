// Decodes PNGs for tests/image/test_against_pillow.py: for each path on standard input one line on
// standard output, "WIDTH HEIGHT" and the pixels written to PATH_OUT.N, or "refused: why".
#include <fstream>
#include <iostream>
#include <string>

#include "quadrat/base/error.h"
#include "quadrat/image/png.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: png_to_rgb OUTPUT_PREFIX < paths\n";
    return 1;
  }
  std::string path;
  for (int n = 0; std::getline(std::cin, path); ++n) {
    try {
      const quadrat::Image image = quadrat::decode_png(quadrat::read_file(path));
      quadrat::write_file(std::string(argv[1]).append(".").append(std::to_string(n)),
                          std::as_bytes(std::span(image.rgb)));
      std::cout << image.width_px << ' ' << image.height_px << '\n';
    } catch (const quadrat::Error& error) {
      std::cout << "refused: " << error.what() << '\n';
    }
  }
}
