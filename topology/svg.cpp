#include "topology/svg.h"

#include <algorithm>
#include <cstdio>

namespace skein {
namespace {

constexpr double kMargin = 20;
constexpr double kGlyphWidth = 0.56;  // of the size, about

std::string px(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return text;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

}  // namespace

void Svg::reach(double x, double y) {
  width_ = std::max(width_, x);
  height_ = std::max(height_, y);
}

void Svg::box(const SvgBox& box, const char* fill, const char* stroke, double radius, bool dashed) {
  reach(box.right(), box.bottom());
  body_ += "<rect x=\"" + px(box.x) + "\" y=\"" + px(box.y) + "\" width=\"" + px(box.width) + "\" height=\"" +
           px(box.height) + "\" rx=\"" + px(radius) + "\" fill=\"" + fill + "\" stroke=\"" + stroke + "\"" +
           (dashed ? " stroke-dasharray=\"4 3\"" : "") + "/>\n";
}

void Svg::line(double x1, double y1, double x2, double y2, const char* color, double width) {
  reach(std::max(x1, x2), std::max(y1, y2));
  body_ += "<line x1=\"" + px(x1) + "\" y1=\"" + px(y1) + "\" x2=\"" + px(x2) + "\" y2=\"" + px(y2) + "\" stroke=\"" +
           color + "\" stroke-width=\"" + px(width) + "\"/>\n";
}

void Svg::text(double x, double y, std::string_view text, const SvgText& style) {
  const double width = kGlyphWidth * style.size * static_cast<double>(text.size());
  if (std::string_view(style.anchor) == "start") reach(x + width, y);
  body_ += "<text x=\"" + px(x) + "\" y=\"" + px(y) + "\" font-size=\"" + px(style.size) + "\" fill=\"" + style.color +
           "\" text-anchor=\"" + style.anchor + "\"" + (style.bold ? " font-weight=\"600\"" : "") + ">" + escaped(text) +
           "</text>\n";
}

std::string Svg::document(std::string_view title) const {
  const std::string size = px(width_ + kMargin) + " " + px(height_ + kMargin);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + size + "\" width=\"" + px(width_ + kMargin) +
         "\" height=\"" + px(height_ + kMargin) + "\" font-family=\"Inter, 'DejaVu Sans', Helvetica, Arial, sans-serif\">\n" +
         "<title>" + escaped(title) + "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n" + body_ + "</svg>\n";
}

}  // namespace skein
