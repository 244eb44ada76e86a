// Panels from the formats that files hold.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "fewbit/formats/code_planes.h"
#include "fewbit/io/ggml_types.h"
#include "fewbit/kernels/panel_matrix.h"

namespace fewbit {

// Whether pack_ggml knows the type: all block types but IQ1_S to IQ3_S.
bool has_panels(GgmlType type);
// `bytes` holds [rows, cols] in whole blocks. Every weight is represented exactly, in as many bits
// (MXFP4 and NVFP4: a little more). TQ1_0 is unpacked to two bits, or kept at five trits a byte if
// `dense_trits`. Error if the type has no panels. Panels in parallel.
PanelMatrix pack_ggml(GgmlType type, size_t rows, size_t cols, std::span<const std::byte> bytes,
                      bool dense_trits = false);

// Nothing if no panel layout fits: groups that are no multiple of 16 columns (32 at one bit),
// codebooks of more than 16 levels, blocks that cross rows. Levels of codebooks are rounded to
// 1 / 127 of the largest in products, not in decode().
std::optional<PanelMatrix> pack_plane(const CodePlane& plane);

}  // namespace fewbit
