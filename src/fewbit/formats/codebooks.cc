#include "fewbit/formats/codebooks.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/options.h"

namespace fewbit {
namespace {

// Quantiles of the normal distribution, as QLoRA's authors publish them.
constexpr std::array<float, 16> kNf4 = {-1.0f,
                                        -0.6961928009986877f,
                                        -0.5250730514526367f,
                                        -0.39491748809814453f,
                                        -0.28444138169288635f,
                                        -0.18477343022823334f,
                                        -0.09105003625154495f,
                                        0.0f,
                                        0.07958029955625534f,
                                        0.16093020141124725f,
                                        0.24611230194568634f,
                                        0.33791524171829224f,
                                        0.44070982933044434f,
                                        0.5626170039176941f,
                                        0.7229568362236023f,
                                        1.0f};

// Bit 3 is the sign, then two bits of exponent and one of mantissa; magnitudes divided by 12.
constexpr std::array<float, 16> kFp4 = {
    0.0f,  0.0625f / 12,  8.0f / 12,  12.0f / 12,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
    -0.0f, -0.0625f / 12, -8.0f / 12, -12.0f / 12, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};

constexpr std::array<float, 16> kAf4 = {-1.0f,        -0.69441008f, -0.51243739f, -0.3736951f,
                                        -0.25607552f, -0.14982478f, -0.04934812f, 0.0f,
                                        0.04273164f,  0.12934483f,  0.21961274f,  0.31675666f,
                                        0.42563882f,  0.55496234f,  0.72424863f,  1.0f};

// Positive half of the dynamic map below 1: for i = 0..6 the midpoints of 2^i + 1 equally spaced
// values in [0.1, 1], times 10^(i - 6). Stored, because files hold indices into exactly these
// floats and computing them again differs in last bits.
constexpr std::array<float, 127> kDynamicMagnitudes = {
    5.5000004e-07f, 3.2500002e-06f, 7.75e-06f,      2.1249998e-05f, 4.375e-05f,     6.625e-05f,
    8.875e-05f,     1.5625001e-04f, 2.6875004e-04f, 3.8125002e-04f, 4.9375003e-04f, 6.062501e-04f,
    7.1875006e-04f, 8.3125e-04f,    9.437501e-04f,  0.0012812499f,  0.00184375f,    0.00240625f,
    0.00296875f,    0.0035312497f,  0.00409375f,    0.0046562497f,  0.0052187503f,  0.00578125f,
    0.00634375f,    0.00690625f,    0.00746875f,    0.00803125f,    0.00859375f,    0.009156249f,
    0.00971875f,    0.01140625f,    0.01421875f,    0.01703125f,    0.01984375f,    0.02265625f,
    0.02546875f,    0.028281247f,   0.03109375f,    0.033906247f,   0.036718752f,   0.03953125f,
    0.042343747f,   0.04515625f,    0.04796875f,    0.05078125f,    0.05359375f,    0.05640625f,
    0.059218753f,   0.062031247f,   0.06484375f,    0.067656256f,   0.070468746f,   0.07328125f,
    0.07609375f,    0.07890625f,    0.08171874f,    0.08453125f,    0.08734375f,    0.09015625f,
    0.092968754f,   0.095781244f,   0.09859375f,    0.107031256f,   0.12109375f,    0.13515624f,
    0.14921875f,    0.16328125f,    0.17734374f,    0.19140625f,    0.20546874f,    0.21953125f,
    0.23359376f,    0.24765626f,    0.26171875f,    0.27578127f,    0.28984374f,    0.30390626f,
    0.31796873f,    0.33203125f,    0.3460937f,     0.36015624f,    0.37421876f,    0.38828123f,
    0.40234375f,    0.4164062f,     0.43046874f,    0.44453126f,    0.45859373f,    0.47265625f,
    0.48671877f,    0.50078124f,    0.51484376f,    0.5289062f,     0.54296875f,    0.5570313f,
    0.5710938f,     0.58515626f,    0.5992187f,     0.61328125f,    0.6273438f,     0.64140624f,
    0.65546876f,    0.6695313f,     0.68359375f,    0.6976563f,     0.7117188f,     0.72578126f,
    0.7398438f,     0.75390625f,    0.7679688f,     0.78203124f,    0.7960937f,     0.8101562f,
    0.82421875f,    0.8382812f,     0.85234374f,    0.8664062f,     0.8804687f,     0.89453125f,
    0.9085938f,     0.92265624f,    0.9367187f,     0.9507812f,     0.96484375f,    0.9789062f,
    0.99296874f};

std::array<float, 256> make_dynamic_map() {
  std::array<float, 256> map{};
  size_t next = 0;
  for (size_t i = kDynamicMagnitudes.size(); i-- > 0;) map[next++] = -kDynamicMagnitudes[i];
  map[next++] = 0;
  for (const float magnitude : kDynamicMagnitudes) map[next++] = magnitude;
  map[next] = 1;
  return map;
}

}  // namespace

std::span<const std::string> codebook_names() {
  static const std::vector<std::string> names = {"nf4", "fp4", "af4"};
  return names;
}

std::span<const float> named_codebook(std::string_view name) {
  if (name == "nf4") return kNf4;
  if (name == "fp4") return kFp4;
  if (name == "af4") return kAf4;
  fail("codebook '{}' is not known; known: {}", name, join_choices(codebook_names()));
}

std::span<const float> dynamic_map() {
  static const std::array<float, 256> map = make_dynamic_map();
  return map;
}

CodebookSearch::CodebookSearch(std::span<const float> levels) : codes_(levels.size()) {
  std::iota(codes_.begin(), codes_.end(), uint8_t{0});
  std::stable_sort(codes_.begin(), codes_.end(),
                   [&](uint8_t a, uint8_t b) { return levels[a] < levels[b]; });
  for (size_t i = 0; i + 1 < codes_.size(); ++i) {
    midpoints_.push_back((levels[codes_[i]] + levels[codes_[i + 1]]) / 2);
  }
}

uint8_t CodebookSearch::nearest(float value) const {
  const auto position = std::lower_bound(midpoints_.begin(), midpoints_.end(), value);
  return codes_[static_cast<size_t>(position - midpoints_.begin())];
}

}  // namespace fewbit
