#pragma once

#include <string>
#include <string_view>

namespace skein {

struct SvgBox {
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;
  double middle() const { return x + width / 2; }
  double bottom() const { return y + height; }
  double right() const { return x + width; }
};

struct SvgText {
  double size = 12;
  const char* color = "#1f2933";
  const char* anchor = "start";  // start, middle, end
  bool bold = false;
};

// A drawing that grows as things are put on it. Units are pixels. Single-owner.
class Svg {
 public:
  void box(const SvgBox& box, const char* fill, const char* stroke = "none", double radius = 6, bool dashed = false);
  void line(double x1, double y1, double x2, double y2, const char* color, double width = 1.5);
  void text(double x, double y, std::string_view text, const SvgText& style = {});  // y: of the base line
  // The document, as large as what is on it and a margin.
  std::string document(std::string_view title) const;

 private:
  void reach(double x, double y);
  std::string body_;
  double width_ = 0;
  double height_ = 0;
};

}  // namespace skein
