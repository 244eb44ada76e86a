// Tables that the codes of ggml's IQ types point into: groups of magnitudes, or of trits for IQ1.
//
// They are constants of the file format, which its authors found by a search; no formula gives
// them. Source: ggml-common.h of ggml, (c) 2023-2026 The ggml authors, MIT licence.
#pragma once

#include <array>
#include <cstdint>

namespace fewbit::ggml_blocks {

const std::array<std::array<uint8_t, 8>, 256>& iq2xxs_grid();
const std::array<std::array<uint8_t, 8>, 512>& iq2xs_grid();
const std::array<std::array<uint8_t, 8>, 1024>& iq2s_grid();
const std::array<std::array<uint8_t, 4>, 256>& iq3xxs_grid();
const std::array<std::array<uint8_t, 4>, 512>& iq3s_grid();
// Also of IQ1_M.
const std::array<std::array<int8_t, 8>, 2048>& iq1s_grid();

}  // namespace fewbit::ggml_blocks
